"""Writes the methods of a facade out as source, and compiles it.

A method has its operation's own parameters, as if somebody had written it by hand for this style:

    def queue_bind(self, queue=MISSING, exchange=MISSING, routing_key='', arguments=None, *, timeout=None, **others):
        if others or queue is MISSING or exchange is MISSING:
            raise wrong_arguments('queue_bind', others, queue=queue, exchange=exchange)
        return self._perform(of_queue_bind, (queue, exchange, routing_key, arguments), timeout)

So Python itself puts the arguments in their places, at no cost, and a traceback shows these lines. The last line is the
style's. `others` and MISSING are there for the error: it names our argument where a program uses pika's.
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any

from ..client.hints import for_arguments, takes_no_on_done
from ..interrupts import WRITTEN
from ..parameters import check_timeout

CALLBACKS = frozenset(("on_message", "on_cancel", "handler"))
SETUP = "on_ready"
TIMEOUT = "timeout"

Body = Callable[[Callable[..., Any]], str]
"""body(operation): the last lines of its method. In them {operation} stands for the operation's function, {arguments}
for its arguments, and {together} for a tuple of these. `get_ident` is that of `threading`."""


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()


def wrong_arguments(name: str, others: Mapping[str, Any], **required: Any) -> TypeError:
    """The error of a call with arguments that the operation doesn't have, or without those that it needs."""
    if "on_done" in others:
        return takes_no_on_done(name)
    if others:
        text = f"{name}() got an unexpected keyword argument {next(iter(others))!r}"
    else:
        missing = " and ".join(repr(argument) for argument, value in required.items() if value is MISSING)
        text = f"{name}() lacks a required argument: {missing}"
    return for_arguments(TypeError(text), others)


def written(
    name: str, shown: Mapping[str, inspect.Signature], operations: Mapping[str, Callable[..., Any]], body: Body
) -> dict[str, Callable[..., Any]]:
    """The methods of a class, by name. name: of the class, with its module. shown: the signature of each method.
    operations: the function of the core that it stands for."""
    # Without the wrappers of `hinting`: these methods name pika's arguments by themselves.
    of = {method: inspect.unwrap(operation) for method, operation in operations.items()}
    parts = [_method(method, signature, body(operations[method])) for method, signature in shown.items()]
    scope: dict[str, Any] = {
        "MISSING": MISSING,
        "check_timeout": check_timeout,
        "get_ident": get_ident,
        "wrong_arguments": wrong_arguments,
        **{f"of_{method}": function for method, function in of.items()},
    }
    source, file = "\n".join(parts), f"{WRITTEN}{name}>"
    exec(compile(source, file, "exec", dont_inherit=True), scope)
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # what a traceback shows
    return {method: scope[method] for method in shown}


def _method(name: str, shown: inspect.Signature, body: str) -> str:
    """The source of one method."""
    parameters = list(shown.parameters.values())[1:]
    own = [each for each in parameters if each.kind is not each.KEYWORD_ONLY]
    required = [each.name for each in own if each.default is each.empty]
    written = ["self", *map(_parameter, own)]
    if len(own) < len(parameters):
        written += ["*", *map(_parameter, parameters[len(own) :])]
    lines = [f"def {name}({', '.join([*written, '**others'])}):"]
    lines.append(f"    if {' or '.join(['others', *(f'{each} is MISSING' for each in required)])}:")
    told = "".join(f", {each}={each}" for each in required)
    lines.append(f"        raise wrong_arguments({name!r}, others{told})")
    if any(each.name == TIMEOUT for each in parameters):
        lines += [f"    if {TIMEOUT} is not None:", f"        check_timeout({TIMEOUT!r}, {TIMEOUT})"]
    lines += [f"    {line}" for each in own for line in _made_callable(each.name, {each.name for each in own})]
    arguments = ", ".join(each.name for each in own)
    filled = body.format(operation=f"of_{name}", arguments=arguments, together=f"({arguments}{',' if own else ''})")
    return "\n".join([*lines, *(f"    {line}" for line in filled.splitlines()), ""])


def _parameter(parameter: inspect.Parameter) -> str:
    return f"{parameter.name}={'MISSING' if parameter.default is parameter.empty else repr(parameter.default)}"


def _made_callable(name: str, names: set[str]) -> list[str]:
    """The lines that make a user's callback into one that the core may call."""
    if name == SETUP:
        return [f"if callable({name}):", f"    {name} = self._setup({name})"]
    if name in CALLBACKS:
        no_ack = ", bool(no_ack)" if "no_ack" in names else ""
        made = [f"if callable({name}):", f"    {name} = self._callback({name}{no_ack})"]
        return [f"{name} = self._watched({name}{no_ack})", *made] if name == "on_message" else made
    return []
