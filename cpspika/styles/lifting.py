"""How a facade gets its methods and attributes: lifted from the core, not written again.

`lift` makes a class from a core class (Connection or Channel):

- a method for every operation, under the same name, with the same arguments but on_done. Its docstring is the core's,
  in the words of the style (`wording`);
- a method for every function that takes a handler, and for every other public function (`abort`);
- a read-only property for every public attribute (`is_open`).

The methods of operations are written out and compiled (`written`), each with its own parameters. A style says how it
performs an operation in methods of its own:

- `_perform(operation, args)` runs an operation: a function of the core class, which takes all of its arguments in their
  order, and `on_done`;
- `_perform_oneway(operation, args)` runs an operation that the broker doesn't answer (`continuations.oneway`);
- `_callback(function, no_ack)` makes a user's callback into one that the core may call;
- `_watched(function, no_ack)` puts hooks around a consumer's callback (`Facade` has one that does for most styles);
- `_setup(function)` does so for `on_ready` of a channel, which may go on after it has returned;
- `_register(registration, handler)` passes a handler to the core (`Facade` has one that does for most styles);
- `_forward(function, args, kwargs)` calls another function of the core (`Facade` has one that does for most styles).

Type checkers cannot see such a class. `python -m cpspika.styles.stubs` therefore writes its stub, and a test compares
the two.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from .wording import Wording, worded
from .written import Body, written

if sys.version_info >= (3, 14):
    import annotationlib


def operations(core: type) -> dict[str, Any]:
    """The functions of a core class, inherited ones included, that are marked as operations."""
    return {name: member for name, member in _public(core).items() if hasattr(member, "__operation__")}


def registrations(core: type) -> dict[str, Any]:
    """The functions of a core class, inherited ones included, that are marked as taking a handler."""
    return {name: member for name, member in _public(core).items() if hasattr(member, "__registration__")}


def other_methods(core: type) -> dict[str, Any]:
    """The other public functions of a core class."""
    marked = {**operations(core), **registrations(core)}
    return {name: member for name, member in _public(core).items() if callable(member) and name not in marked}


def attributes(core: type) -> dict[str, str]:
    """The public attributes of a core class, inherited ones included, and their types as text: those that a class body
    annotates, and properties."""
    annotated = {name: text for cls in reversed(core.__mro__) for name, text in _annotations(cls).items()}
    found = {name: as_text(text) for name, text in annotated.items() if not name.startswith("_")}
    for name, member in _public(core).items():
        if isinstance(member, property):
            found[name] = as_text(_annotations(member.fget)["return"])
    return found


def _public(core: type) -> dict[str, Any]:
    members = {name: member for cls in reversed(core.__mro__) for name, member in vars(cls).items()}
    return {name: member for name, member in members.items() if not name.startswith("_")}


def as_text(annotation: Any) -> str:
    """An annotation as it stands in the source. Lifting reads annotations as text. Before Python 3.14 they are text
    only in a module with `from __future__ import annotations`."""
    if not isinstance(annotation, str):
        raise TypeError(f"annotation {annotation!r} is not text; its module lacks: from __future__ import annotations")
    return annotation


def written_signature(function: Callable[..., Any]) -> inspect.Signature:
    """A function's signature with its annotations as text: those of Python 3.14, which are evaluated late, as well."""
    if sys.version_info >= (3, 14):
        return inspect.signature(function, annotation_format=annotationlib.Format.STRING)
    return inspect.signature(function)


def _annotations(thing: Any) -> dict[str, Any]:
    """The annotations of a class or function, as `written_signature` has them."""
    if sys.version_info >= (3, 14):
        return annotationlib.get_annotations(thing, format=annotationlib.Format.STRING)
    return inspect.get_annotations(thing)


_RESULT = re.compile(r"OnDone\[(.*)\] \| None")


def signature(operation: Callable[..., Any]) -> inspect.Signature:
    """An operation's signature as a facade has it: without on_done, and returning the result."""
    whole = written_signature(operation)
    result = _RESULT.fullmatch(as_text(whole.parameters["on_done"].annotation))
    if result is None:
        raise TypeError(f"on_done of {operation.__qualname__} is not annotated as OnDone[...] | None")
    parameters = [parameter for name, parameter in whole.parameters.items() if name != "on_done"]
    return whole.replace(parameters=parameters, return_annotation=result[1])


def timed(shown: inspect.Signature) -> inspect.Signature:
    """A signature with `timeout`, of a call that waits."""
    timeout = inspect.Parameter("timeout", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="float | None")
    return shown.replace(parameters=[*shown.parameters.values(), timeout])


def lift(core: type, module: str, wording: Wording, body: Body | None = None, waits: bool = False) -> type:
    """A class with the operations, handlers and attributes of `core`, in the module of that name.

    body: writes the last lines of an operation's method (`written`); by default the method calls `_perform` or
    `_perform_oneway`. waits: a call waits, so it takes `timeout`, which these two get last.
    """
    name = f"{core.__name__}Operations"
    members: dict[str, Any] = {"__doc__": f"The operations of {core.__name__}, lifted.", "__module__": module}
    for attribute in attributes(core):
        members[attribute] = _lifted_attribute(core, attribute)
    for method_name, method in other_methods(core).items():
        members[method_name] = _lifted_method(method)
    asked = operations(core)
    shown = {each: timed(signature(operation)) if waits else signature(operation) for each, operation in asked.items()}
    body = body or (_waiting if waits else _asking)
    for operation_name, method in written(f"{module}.{name}", shown, asked, body).items():
        members[operation_name] = _dressed(method, asked[operation_name], shown[operation_name])
        method.__doc__ = worded(asked[operation_name].__doc__, wording)
    for registration_name, registration in registrations(core).items():
        members[registration_name] = _lifted_registration(registration)
    return type(name, (), members)


def _asking(operation: Callable[..., Any]) -> str:
    """The body of an operation's method."""
    perform = "_perform_oneway" if getattr(operation, "__oneway__", False) else "_perform"
    return f"return self.{perform}({{operation}}, {{together}})"


def _waiting(operation: Callable[..., Any]) -> str:
    """The same in a style whose calls wait."""
    return _asking(operation)[:-1] + ", timeout)"


def _lifted_attribute(core: type, name: str) -> property:
    own = getattr(core, name, None)
    doc = own.__doc__ if isinstance(own, property) else attribute_doc(core, name)
    return property(attrgetter(f"core.{name}"), doc=doc or "")  # without a text of ours it would be attrgetter's own


def attribute_doc(core: type, name: str) -> str | None:
    """The sentence of a class's docstring that says what an attribute is, such as "`is_open`: operations may ..."."""
    sentences = re.split(r"(?<=\.)\s+", inspect.getdoc(core) or "")
    return next((" ".join(each.split()) for each in sentences if re.search(rf"`{name}`[^.]*: ", each)), None)


def _lifted_method(method: Callable[..., Any]) -> Callable[..., Any]:
    def lifted(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self._forward(method, args, kwargs)

    return _dressed(lifted, method, written_signature(method))


def _lifted_registration(registration: Callable[..., Any]) -> Callable[..., Any]:
    def lifted(self: Any, /, handler: Any) -> Any:
        return self._register(registration, handler)

    return _dressed(lifted, registration, written_signature(registration))


def _dressed(lifted: Any, original: Any, shown: inspect.Signature) -> Callable[..., Any]:
    """Gives a function the name and docstring of another, and a signature."""
    functools.update_wrapper(lifted, original)
    lifted.__signature__ = shown
    del lifted.__wrapped__
    lifted.__annotations__ = {name: parameter.annotation for name, parameter in shown.parameters.items()}
    lifted.__annotations__["return"] = shown.return_annotation
    dressed: Callable[..., Any] = lifted
    return dressed
