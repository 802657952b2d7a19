"""The methods, properties and constants of AMQP 0-9-1 under pika's names, made from the library's own table.

A class of the protocol has its methods as attributes: `Basic.Deliver`, `Queue.DeclareOk`. A method takes its arguments
in the protocol's order, and each has a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ... import spec as table
from ...wire.codec import property_codec
from ...wire.message import BASIC, NO_PROPERTIES
from ...wire.message import BasicProperties as CoreProperties
from . import amqp_object
from .delivery_mode import DeliveryMode
from .exchange_type import ExchangeType

__all__ = [
    "Access",
    "Basic",
    "BasicProperties",
    "Channel",
    "Confirm",
    "Connection",
    "DeliveryMode",
    "Exchange",
    "ExchangeType",
    "Queue",
    "Tx",
]

PROTOCOL_VERSION = (0, 9, 1)
PORT = 5672

FRAME_METHOD = 1
FRAME_HEADER = 2
FRAME_BODY = 3
FRAME_HEARTBEAT = 8
FRAME_HEADER_SIZE = 7
FRAME_END_SIZE = 1
FRAME_END = 206
FRAME_MIN_SIZE = 4096
FRAME_MAX_SIZE = 131072

TRANSIENT_DELIVERY_MODE = DeliveryMode.Transient.value
PERSISTENT_DELIVERY_MODE = DeliveryMode.Persistent.value

REPLY_SUCCESS = 200
CONTENT_TOO_LARGE = 311
NO_ROUTE = 312
NO_CONSUMERS = 313
CONNECTION_FORCED = 320
INVALID_PATH = 402
ACCESS_REFUSED = 403
NOT_FOUND = 404
RESOURCE_LOCKED = 405
PRECONDITION_FAILED = 406
FRAME_ERROR = 501
SYNTAX_ERROR = 502
COMMAND_INVALID = 503
CHANNEL_ERROR = 504
UNEXPECTED_FRAME = 505
RESOURCE_ERROR = 506
NOT_ALLOWED = 530
NOT_IMPLEMENTED = 540
INTERNAL_ERROR = 541

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
        "__module__": __name__,
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
    extra = {"NAME": name, "INDEX": row.class_index, "__module__": __name__, "__doc__": f"The class {row.name}."}
    return type(name, (amqp_object.Class,), {**members, **extra})


_classes = {row.name: _class(row) for row in table.load("0-9-1")}
Access: Any = _classes["access"]
Basic: Any = _classes["basic"]
Channel: Any = _classes["channel"]
Confirm: Any = _classes["confirm"]
Connection: Any = _classes["connection"]
Exchange: Any = _classes["exchange"]
Queue: Any = _classes["queue"]
Tx: Any = _classes["tx"]


class BasicProperties(CoreProperties, amqp_object.Properties):
    """The properties of a message. As in pika, a timestamp is a number of seconds, and nothing is checked before the
    message is published.

    Those of a message that arrived are decoded when one of them is first read."""

    NAME = "BasicProperties"
    INDEX = BASIC

    _arrived: bytes | None = None

    def __init__(
        self,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Mapping[str, Any] | None = None,
        delivery_mode: int | DeliveryMode | None = None,
        priority: int | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        expiration: str | None = None,
        message_id: str | None = None,
        timestamp: datetime | int | None = None,
        type: str | None = None,
        user_id: str | None = None,
        app_id: str | None = None,
        cluster_id: str | None = None,
    ):
        super().__init__(
            content_type,
            content_encoding,
            headers,
            delivery_mode.value if isinstance(delivery_mode, DeliveryMode) else delivery_mode,
            priority,
            correlation_id,
            reply_to,
            expiration,
            message_id,
            timestamp,
            type,
            user_id,
            app_id,
            cluster_id,
        )

    @classmethod
    def arrived(cls, encoded: bytes) -> BasicProperties:
        """The properties of a message that arrived. encoded: as in its content header."""
        properties = cls.__new__(cls)
        object.__setattr__(properties, "_arrived", encoded)
        return properties

    def _decode(self) -> None:
        """Sets what the program has not set meanwhile."""
        present = property_codec(BASIC).decode(self._arrived or NO_PROPERTIES, 0)
        object.__setattr__(self, "_arrived", None)
        timestamp = present.get("timestamp")
        if isinstance(timestamp, datetime):
            present["timestamp"] = int(timestamp.timestamp())
        for name in ("_encoded", *property_codec(BASIC).names):
            try:
                object.__getattribute__(self, name)
            except AttributeError:
                object.__setattr__(self, name, present.get(name))

    def __getattr__(self, name: str) -> Any:
        # Called for a slot without a value: the properties arrived and are not decoded yet.
        if name.startswith("__") or self._arrived is None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}", name=name, obj=self)
        self._decode()
        return getattr(self, name)

    def __repr__(self) -> str:
        shown = sorted(f"{name}={value}" for name, value in self._present().items())
        return f"<BasicProperties({shown})>" if shown else "<BasicProperties>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CoreProperties) and self._present() == other._present()

    __hash__ = None  # type: ignore[assignment]
