"""Names of pika that are missing here. They can be imported, and say at their use what to write instead."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any


def absent(name: str, instead: str) -> NotImplementedError:
    """The error of a part of pika that isn't here."""
    return NotImplementedError(f"cpspika.integrations.pika has no {name}; use {instead}")


def absent_class(name: str, instead: str, methods: Iterable[str] = ()) -> Any:
    """A class that a program may name, also as a base class or in annotations, but not call. methods: names that it
    has, for `MagicMock(spec=...)`."""

    def refuse(cls: type, *args: Any, **kwargs: Any) -> Any:
        raise absent(name, instead)

    members = {
        **dict.fromkeys(methods, refuse),
        "__new__": refuse,
        "__doc__": f"Not here; use {instead}.",
        "__module__": __name__.rpartition(".")[0],
        "create_connection": classmethod(refuse),
    }
    return type(name.rpartition(".")[2], (), members)


def refusal(module: str, instead: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module: to take something out of it that it does not have raises ImportError."""

    def refuse(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)  # Python itself asks
        raise ImportError(str(absent(f"{module}.{attribute}", instead)))

    return refuse


def absent_module(name: str, instead: str) -> ModuleType:
    """Makes an empty module that a program may import, and enters it into sys.modules."""
    module = ModuleType(f"{__name__.rpartition('.')[0]}.{name}", f"Not here; use {instead}.")
    module.__getattr__ = refusal(name, instead)  # type: ignore[method-assign]
    sys.modules[module.__name__] = module
    return module
