"""What a content is to its reader: a Message, and the BasicProperties that go with it.

The link makes one Message of a method, a header and a body, and nobody wraps it again on its way to the user. What is
around the body is an Envelope, which all messages share that came alike. The properties stay as the bytes that came
until somebody asks for them: most consumers want the body alone, and a broker passes the bytes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument, InvalidArgumentType, LocalError, ProtocolSyntaxError
from .codec import Method, property_codec

BASIC = 60
PROPERTIES_AT = 12  # in a header's payload, after class (2), weight (2) and body size (8)


class BasicProperties:
    """The properties of a message (0-9-1 §1.8.2); None is "not present".

    delivery_mode: 1 transient, 2 persistent. priority: 0 to 9 (255 in RabbitMQ). expiration: milliseconds, as text.
    timestamp: a datetime (naive: UTC) or whole seconds since 1970; one that arrives is an aware datetime in UTC.
    headers: a field table; see `fields` for what it may hold. user_id must be the connection's own user.
    """

    __slots__ = (
        "_encoded",
        "app_id",
        "cluster_id",
        "content_encoding",
        "content_type",
        "correlation_id",
        "delivery_mode",
        "expiration",
        "headers",
        "message_id",
        "priority",
        "reply_to",
        "timestamp",
        "type",
        "user_id",
    )

    _encoded: bytes | None

    def __init__(
        self,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Mapping[str, Any] | None = None,
        delivery_mode: int | None = None,
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
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.headers = headers
        self.delivery_mode = delivery_mode
        self.priority = priority
        self.correlation_id = correlation_id
        self.reply_to = reply_to
        self.expiration = expiration
        self.message_id = message_id
        self.timestamp = timestamp
        self.type = type
        self.user_id = user_id
        self.app_id = app_id
        self.cluster_id = cluster_id

    def _present(self) -> dict[str, Any]:
        values = ((name, getattr(self, name)) for name in property_codec(BASIC).names)
        return {name: value for name, value in values if value is not None}

    def encode(self) -> bytes:
        """Flags and values, as they stand in a content header. Kept until a property is set, unless there are headers:
        a dict may change unseen."""
        encoded = self._encoded
        if encoded is None:
            encoded = property_codec(BASIC).encode(self._present())
            if self.headers is None:
                object.__setattr__(self, "_encoded", encoded)
        return encoded

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        object.__setattr__(self, "_encoded", None)

    def __repr__(self) -> str:
        return f"BasicProperties({', '.join(f'{name}={value!r}' for name, value in self._present().items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BasicProperties) and self._present() == other._present()

    __hash__ = None  # type: ignore[assignment]


NO_PROPERTIES = b"\0\0"


def encode_properties(properties: BasicProperties | Mapping[str, Any] | None) -> bytes:
    """Flags and values of a header; a plain dict does as well as BasicProperties."""
    if properties is None:
        return NO_PROPERTIES
    if isinstance(properties, Mapping):
        unknown = properties.keys() - set(property_codec(BASIC).names)
        if unknown:
            raise InvalidArgument(f"basic has no property {', '.join(sorted(map(str, unknown)))}")
        return BasicProperties(**properties).encode()
    if not isinstance(properties, BasicProperties):
        raise InvalidArgumentType(f"properties takes BasicProperties or a dict, not {type(properties).__name__}")
    return properties.encode()


class Envelope:
    """What a message has around its body; messages that came alike share one. `encoded`: the properties, as they stand
    in a content header, flags first. `details`: the arguments of the method that brought it, where they say more."""

    __slots__ = ("consumer_tag", "details", "encoded", "exchange", "name", "redelivered", "routing_key")

    def __init__(
        self,
        name: str,
        consumer_tag: str | None = None,
        redelivered: bool = False,
        exchange: str = "",
        routing_key: str = "",
        encoded: bytes = NO_PROPERTIES,
        details: Mapping[str, Any] | None = None,
    ):
        self.name = name
        self.consumer_tag = consumer_tag
        self.redelivered = redelivered
        self.exchange = exchange
        self.routing_key = routing_key
        self.encoded = encoded
        self.details = details


class Message:
    """A message: delivered, got, or returned.

    body: bytes. delivery_tag: what acknowledges it. redelivered: it was delivered before, to whomever. exchange and
    routing_key: as it was published. consumer_tag: whose it is, or None. channel: what it came on, and what ack(),
    nack() and reject() go to. message_count: of basic_get alone, how many the queue still had. reply_code and
    reply_text: of a returned one, why. `name` is the method that brought it.
    """

    __slots__ = ("_properties", "body", "channel", "delivery_tag", "envelope")

    channel: Any

    def __init__(self, envelope: Envelope, delivery_tag: int, body: bytes):
        self.envelope = envelope
        self.delivery_tag = delivery_tag
        self.body = body
        self.channel = None
        self._properties: BasicProperties | None = None

    @classmethod
    def of(cls, method: Method, encoded: bytes, body: bytes) -> Message:
        """The message that a method, a header's properties and a body make."""
        get = method.arguments.get
        envelope = Envelope(
            method.name,
            get("consumer_tag"),
            get("redelivered", False),
            get("exchange", ""),
            get("routing_key", ""),
            encoded,
            method.arguments,
        )
        return cls(envelope, get("delivery_tag", 0), body)

    def replace_properties(self, properties: BasicProperties) -> None:
        """Gives it other properties, in an envelope of its own."""
        e = self.envelope
        encoded = properties.encode()
        self.envelope = Envelope(e.name, e.consumer_tag, e.redelivered, e.exchange, e.routing_key, encoded, e.details)
        self._properties = None

    @property
    def name(self) -> str:
        return self.envelope.name

    @property
    def consumer_tag(self) -> str | None:
        return self.envelope.consumer_tag

    @property
    def redelivered(self) -> bool:
        return self.envelope.redelivered

    @property
    def exchange(self) -> str:
        return self.envelope.exchange

    @property
    def routing_key(self) -> str:
        return self.envelope.routing_key

    @property
    def encoded(self) -> bytes:
        """The properties as bytes."""
        return self.envelope.encoded

    @property
    def properties(self) -> BasicProperties:
        """Decoded when first asked for. ProtocolSyntaxError: the broker sent a malformed header, and the connection is
        closed for it."""
        if self._properties is None:
            try:
                values = property_codec(BASIC).decode(self.envelope.encoded, 0)
            except ProtocolSyntaxError as error:
                if self.channel is not None:
                    self.channel._malformed(error)
                raise
            self._properties = BasicProperties(**values)
        return self._properties

    @property
    def details(self) -> Mapping[str, Any]:
        """The arguments of the method that brought it."""
        if self.envelope.details is not None:
            return self.envelope.details
        names = ("consumer_tag", "delivery_tag", "redelivered", "exchange", "routing_key")
        return {name: getattr(self, name) for name in names}

    @property
    def message_count(self) -> int | None:
        count: int | None = self._detail("message_count")
        return count

    @property
    def reply_code(self) -> int | None:
        code: int | None = self._detail("reply_code")
        return code

    @property
    def reply_text(self) -> str | None:
        text: str | None = self._detail("reply_text")
        return text

    def _detail(self, name: str) -> Any:
        return self.details.get(name)

    def ack(self, multiple: bool = False, **options: Any) -> Any:
        """Acknowledges this message, with `multiple` all up to it: channel.basic_ack of its delivery_tag."""
        channel = self.channel
        if channel is None or multiple or options:
            return self._channel().basic_ack(self.delivery_tag, multiple=multiple, **options)
        return channel.basic_ack(self.delivery_tag)

    def nack(self, requeue: bool = True, **options: Any) -> Any:
        """Refuses this message; requeue=False drops or dead-letters it (a RabbitMQ extension, on 0-9-1)."""
        return self._channel().basic_nack(self.delivery_tag, requeue=requeue, **options)

    def reject(self, requeue: bool = True, **options: Any) -> Any:
        """Refuses this message, in the way that both versions have."""
        return self._channel().basic_reject(self.delivery_tag, requeue=requeue, **options)

    def _channel(self) -> Any:
        if self.channel is None:
            raise LocalError(f"a message of {self.name} came on no channel that could answer")
        return self.channel

    def __repr__(self) -> str:
        shown = f"{self.body[:32]!r}{'...' if len(self.body) > 32 else ''}"
        route = f"exchange={self.exchange!r}, routing_key={self.routing_key!r}"
        return f"Message({shown}, {route}, delivery_tag={self.delivery_tag})"


if TYPE_CHECKING:
    Properties = BasicProperties | Mapping[str, Any]
