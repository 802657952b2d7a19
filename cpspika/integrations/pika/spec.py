"""The methods, properties and constants of AMQP 0-9-1 under pika's names."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ...wire.codec import property_codec
from ...wire.message import BASIC, NO_PROPERTIES
from ...wire.message import BasicProperties as CoreProperties
from . import amqp_object
from ._methods import Access, Basic, Channel, Confirm, Connection, Exchange, Queue, Tx, methods
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
    "methods",
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

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        """All properties by name, as `vars` shows those of pika. To write there sets a property."""
        return _Vars(self)

    def __repr__(self) -> str:
        shown = sorted(f"{name}={value}" for name, value in self._present().items())
        return f"<BasicProperties({shown})>" if shown else "<BasicProperties>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CoreProperties) and self._present() == other._present()

    __hash__ = None  # type: ignore[assignment]


class _Vars(dict[str, Any]):
    """Properties by name. A write sets the property too."""

    def __init__(self, properties: BasicProperties):
        super().__init__((name, getattr(properties, name)) for name in property_codec(BASIC).names)
        self._properties = properties

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self._properties, name, value)
        super().__setitem__(name, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As of `dict`."""
        for name, value in dict(*args, **kwargs).items():
            self[name] = value
