"""How a facade gets its methods: lifted from the operations of the core, not written again.

`lift` makes a class with a method for every operation of a core class, under the same name, with the same docstring and
the same arguments but on_done. What the style does with an operation it says once, in methods of its own:

- `_perform(operation, args, kwargs)` runs one (a function of the core class; give it `on_done`),
- `_perform_oneway(operation, args, kwargs)` runs one that the broker doesn't answer (see `continuations.oneway`),
- `_callback(function)` makes a user's callback into what the core may call,
- `_register(registration, handler)` has the core take a handler (`Facade` has one that does for most).

Type checkers cannot see such a class, so `python -m cpspika.styles.stubs` writes its stub, and a test
compares the two.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

CALLBACKS = frozenset(("on_message", "on_cancel", "handler"))


def operations(core: type) -> dict[str, Any]:
    """The functions of a core class, inherited ones included, that are marked as operations."""
    return _marked(core, "__operation__")


def oneways(core: type) -> dict[str, Any]:
    """The operations that the broker does not answer."""
    return _marked(core, "__oneway__")


def registrations(core: type) -> dict[str, Any]:
    """The functions of a core class, inherited ones included, that are marked as taking a handler."""
    return _marked(core, "__registration__")


def _marked(core: type, mark: str) -> dict[str, Any]:
    members = {name: member for cls in reversed(core.__mro__) for name, member in vars(cls).items()}
    return {name: member for name, member in members.items() if getattr(member, mark, False)}


_RESULT = re.compile(r"OnDone\[(.*)\] \| None")


def signature(operation: Callable[..., Any]) -> inspect.Signature:
    """An operation's signature as a facade has it: without on_done, and returning the result."""
    whole = inspect.signature(operation)
    result = _RESULT.fullmatch(whole.parameters["on_done"].annotation)
    if result is None:
        raise TypeError(f"on_done of {operation.__qualname__} is not annotated as OnDone[...] | None")
    parameters = [parameter for name, parameter in whole.parameters.items() if name != "on_done"]
    return whole.replace(parameters=parameters, return_annotation=result[1])


def lift(core: type, name: str, module: str) -> type:
    """A class `name` with the operations and registrations of `core`."""
    members: dict[str, Any] = {"__doc__": f"The operations of {core.__name__}, lifted.", "__module__": module}
    for operation_name, operation in operations(core).items():
        members[operation_name] = _lifted_operation(operation)
    for registration_name, registration in registrations(core).items():
        members[registration_name] = _lifted_registration(registration)
    return type(name, (), members)


def _lifted_operation(operation: Callable[..., Any]) -> Callable[..., Any]:
    shown = signature(operation)
    if getattr(operation, "__oneway__", False):

        def lifted(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            return self._perform_oneway(operation, args, kwargs)

    elif CALLBACKS.isdisjoint(shown.parameters):

        def lifted(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            return self._perform(operation, args, kwargs)

    else:

        def lifted(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            given = shown.bind(self, *args, **kwargs).arguments
            del given["self"]
            for name in CALLBACKS & given.keys():
                if callable(given[name]):
                    given[name] = self._callback(given[name])
            return self._perform(operation, (), given)

    return dressed(lifted, operation)


def _lifted_registration(registration: Callable[..., Any]) -> Callable[..., Any]:
    def lifted(self: Any, /, handler: Any) -> Any:
        return self._register(registration, handler)

    return _dressed(lifted, registration, inspect.signature(registration))


def dressed(lifted: Callable[..., Any], operation: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a function the name, docstring and signature of an operation as a facade has it."""
    return _dressed(lifted, operation, signature(operation))


def _dressed(lifted: Any, original: Any, shown: inspect.Signature) -> Callable[..., Any]:
    functools.update_wrapper(lifted, original)
    lifted.__signature__ = shown
    del lifted.__wrapped__
    lifted.__annotations__ = {name: parameter.annotation for name, parameter in shown.parameters.items()}
    lifted.__annotations__["return"] = shown.return_annotation
    dressed: Callable[..., Any] = lifted
    return dressed
