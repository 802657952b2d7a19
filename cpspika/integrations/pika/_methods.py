"""The methods of AMQP 0-9-1 under pika's names, made from the library's own table.

A class of the protocol has its methods as attributes: `Basic.Deliver`, `Queue.DeclareOk`. A method takes its arguments
in the protocol's order, and each has a default. Type checkers read the stub; `python -m tests.support.pika_stub` writes
it, and a test compares the two.
"""

from __future__ import annotations

from typing import Any

from ... import spec as table
from . import amqp_object

MODULE = f"{__package__}.spec"  # where programs find these
_DEFAULTS = {"bit": "False", "shortstr": "''", "longstr": "b''", "table": "None"}  # others are numbers
_NAMES = {"global": "global_qos", "no_wait": "nowait"}

methods: dict[int, Any] = {}
"""The class of each method by its INDEX: class number << 16 | method number."""


def _camel(name: str) -> str:
    return name.title().replace("-", "")


def _method(row: table.Method) -> Any:
    arguments = [(_NAMES.get(argument.name, argument.name), argument.type) for argument in row.arguments]
    shown = ", ".join(f"{name}={_DEFAULTS.get(kind, '0')}" for name, kind in arguments)
    body = "; ".join(f"self.{name} = {name}" for name, _ in arguments) or "pass"
    made: dict[str, Any] = {}
    # Compiled from the table, so that a method has a signature of its own, and one call makes it.
    exec(f"def __init__(self, {shown}): {body}", made)
    class_name, name = map(_camel, row.name.split("."))
    members = {
        "__init__": made["__init__"],
        "__doc__": f"{row.name} (AMQP 0-9-1).",
        "__module__": MODULE,
        "__qualname__": f"{class_name}.{name}",
        "NAME": f"{class_name}.{name}",
        "INDEX": row.class_index << 16 | row.method_index,
        "synchronous": bool(row.replies),
    }
    method = methods[row.class_index << 16 | row.method_index] = type(name, (amqp_object.Method,), members)
    return method


def _class(row: table.Class) -> Any:
    name = _camel(row.name)
    members = {_camel(method.name.partition(".")[2]): _method(method) for method in row.methods}
    extra = {"NAME": name, "INDEX": row.class_index, "__module__": MODULE, "__doc__": f"The class {row.name}."}
    return type(name, (amqp_object.Class,), {**members, **extra})


_classes = {row.name: _class(row) for row in table.load("0-9-1")}
Access = _classes["access"]
Basic = _classes["basic"]
Channel = _classes["channel"]
Confirm = _classes["confirm"]
Connection = _classes["connection"]
Exchange = _classes["exchange"]
Queue = _classes["queue"]
Tx = _classes["tx"]
