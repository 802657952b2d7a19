"""Values of field tables, as RabbitMQ names, compares and shows them.

RabbitMQ is written in Erlang, which has three kinds of equality that matter here. A headers exchange compares loosely:
1 equals 1.0, the strings "a" and b"a" are equal, and a timestamp equals its number of seconds. Bindings compare
exactly. Arguments of a declaration are equal if they are exactly equal, or loosely equal and of one class of types.

`loose` and `exact` turn a value into a key: values are equal where their keys are. In a key an atom of Erlang (true,
false, undefined) is a str, and a string is bytes, so the two cannot meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from ..wire.fields import EPOCH, Seconds

Key = Any  # hashable

# RabbitMQ's names of the types. A wire type that Python doesn't tell from another has the name of the most frequent.
_TYPES: dict[type, str] = {
    bool: "bool",
    float: "double",
    str: "longstr",
    bytes: "binary",
    Decimal: "decimal",
    datetime: "timestamp",
    Seconds: "timestamp",
    list: "array",
    dict: "table",
    type(None): "void",
}
_CLASSES = {"signedint": "int", "long": "int", "decimal": "int"}


def field_type(value: Any) -> str:
    """The type of a field's value, as RabbitMQ names it."""
    if type(value) is int:
        return "signedint" if -(2**31) <= value < 2**31 else "long"
    return _TYPES.get(type(value), type(value).__name__)


def loose(value: Any) -> Key:
    """The key of a value for a headers exchange (Erlang's ==)."""
    if value is None:
        return "undefined"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, datetime):
        return (value - EPOCH).days * 86400 + (value - EPOCH).seconds
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, list):
        return tuple((field_type(item), loose(item)) for item in value)
    if isinstance(value, Mapping):
        return tuple((name, field_type(item), loose(item)) for name, item in value.items())
    return value


def exact(value: Any) -> Key:
    """The key of a value where 1 and 1.0 differ (Erlang's =:=). Inside a list or table the types differ already."""
    return ("double", value) if isinstance(value, float) else loose(value)


def exact_table(table: Mapping[str, Any]) -> Key:
    """The key of a binding's arguments. Their order doesn't matter; that of a table inside does, as in RabbitMQ."""
    return tuple(sorted((name, field_type(value), exact(value)) for name, value in table.items()))


def equivalent(one: Any, other: Any) -> bool:
    """Whether two values of the same argument declare the same queue or exchange."""
    if exact(one) == exact(other):
        return True
    classes = [_CLASSES.get(name, name) for name in (field_type(one), field_type(other))]
    return classes[0] == classes[1] and bool(loose(one) == loose(other))


def shown(value: Any) -> str:
    """A value as RabbitMQ's error texts show it: a string as it is, anything else as a term of Erlang."""
    return (
        value if isinstance(value, str) else value.decode("utf-8", "replace") if type(value) is bytes else term(value)
    )


def term(value: Any) -> str:
    """A value as a term of Erlang."""
    if isinstance(value, (str, bytes)):
        return f'<<"{shown(value)}">>'
    if isinstance(value, list):
        return f"[{','.join(f'{{{field_type(item)},{term(item)}}}' for item in value)}]"
    if isinstance(value, Mapping):
        return f"[{','.join(f'{{{term(name)},{field_type(item)},{term(item)}}}' for name, item in value.items())}]"
    if isinstance(value, Decimal):
        return "{{{},{}}}".format(*_decimal(value))
    return str(loose(value))


def _decimal(value: Decimal) -> tuple[int, int]:
    """The scale and the digits, as they were sent."""
    sign, digits, exponent = value.as_tuple()
    number = int("".join(map(str, digits)))
    return -int(exponent), -number if sign else number


ABSENT = object()  # stands for an argument that isn't there; None is a value, of type void


def difference(received: Any, current: Any) -> str:
    """How RabbitMQ tells that an argument differs from that of the existing queue or exchange. ABSENT: no argument."""

    def typed(value: Any) -> str:
        return "none" if value is ABSENT else f"the value '{shown(value)}' of type '{field_type(value)}'"

    def plain(value: Any) -> str:
        return "none" if value is None else f"'{shown(value)}'"

    show = typed if received is ABSENT or current is ABSENT else plain
    return f"received {show(received)} but current is {show(current)}"
