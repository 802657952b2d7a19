"""Message and BasicProperties: a content, as the user sees it.

The link makes one Message of a method, a header and a body; no layer above wraps it again. All that a message has
beside its body and its delivery tag is an Envelope. Messages that differ in nothing else share one. The properties stay
encoded until somebody reads them, because most consumers need the body alone, and a broker passes the bytes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument, InvalidArgumentType, LocalError, ProtocolSyntaxError
from .codec import Method, property_codec

BASIC = 60
PROPERTIES_AT = 12  # offset in the payload of a header frame, after class (2), weight (2) and body size (8)


class BasicProperties:
    """The properties of a message (0-9-1 §1.8.2). Each is None by default: not present.

    content_type: str, a MIME type.
    content_encoding: str, a MIME content encoding.
    headers: dict of str to bool, int, float, Decimal, str, bytes, datetime, dict, list or None.
    delivery_mode: 1 transient, 2 persistent.
    priority: int, 0 to 9 (RabbitMQ: 0 to 255).
    correlation_id: str; a reply has that of its request.
    reply_to: str, the queue for replies.
    expiration: str, milliseconds until the message expires: "60000".
    message_id: str.
    timestamp: a datetime (a naive one counts as UTC), or an int: whole seconds since 1970. In a message that arrives it
    is an aware datetime in UTC.
    type: str, the name of the kind of message.
    user_id: str; must be the connection's own user.
    app_id: str, the name of the program.
    cluster_id: str, deprecated.

    A str has at most 255 bytes in UTF-8. Headers that are no dict raise InvalidArgumentType here. Any other wrong value
    raises InvalidArgument or InvalidArgumentType when the message is published.
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
        if headers is not None and not isinstance(headers, Mapping):
            raise InvalidArgumentType(
                f"headers takes a dict, as headers={{'name': 'value'}}, not {headers.__class__.__name__}"
            )
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

    @classmethod
    def from_dict(cls, properties: Mapping[str, Any]) -> BasicProperties:
        """The properties in a dict: names to values. InvalidArgument: a name is none of a message's properties; any
        other name can go into headers."""
        names = property_codec(BASIC).names
        unknown = properties.keys() - set(names)
        if unknown:
            raise InvalidArgument(
                f"properties has unknown names: {', '.join(sorted(map(str, unknown)))}. The properties of a message "
                f"are {', '.join(names)}; any other name can go into headers"
            )
        return cls(**properties)

    def as_dict(self) -> dict[str, Any]:
        """The properties that are present: names to values. `from_dict` takes it, and so does a publish."""
        return self._present()

    def _present(self) -> dict[str, Any]:
        values = ((name, getattr(self, name)) for name in property_codec(BASIC).names)
        return {name: value for name, value in values if value is not None}

    def encode(self) -> bytes:
        """Flags and values, as they stand in a content header. The result is cached until a property is set, unless
        there are headers: a dict may change without notice. InvalidArgument, InvalidArgumentType: a property cannot be
        encoded; the error names it."""
        encoded = self._encoded
        if encoded is None:
            encoded = property_codec(BASIC).encode(self._present())
            if self.headers is None:
                object.__setattr__(self, "_encoded", encoded)
        return encoded

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        object.__setattr__(self, "_encoded", None)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in property_codec(BASIC).names)

    def __repr__(self) -> str:
        return f"BasicProperties({', '.join(f'{name}={value!r}' for name, value in self._present().items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BasicProperties) and self._present() == other._present()

    __hash__ = None  # type: ignore[assignment]


NO_PROPERTIES = b"\0\0"


def encode_properties(properties: BasicProperties | Mapping[str, Any] | None) -> bytes:
    """Flags and values, as they stand in a content header. properties: BasicProperties, a dict of property names to
    values, or None for none. InvalidArgument, InvalidArgumentType: as of `BasicProperties.encode`."""
    if properties is None:
        return NO_PROPERTIES
    if isinstance(properties, Mapping):
        return BasicProperties.from_dict(properties).encode()
    if not isinstance(properties, BasicProperties):
        raise InvalidArgumentType(f"properties takes BasicProperties or a dict, not {type(properties).__name__}")
    return properties.encode()


class Envelope:
    """All that a message has beside its body and its delivery tag. Several messages may share one envelope.

    name: the method that the message arrived with, "basic.deliver". consumer_tag, redelivered, exchange, routing_key:
    its arguments. encoded: the properties, as they stand in a content header, flags first. details: all arguments of
    the method, if there are others than these and the delivery tag; else None."""

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

    def __reduce__(self) -> tuple[Any, ...]:
        e = self
        return Envelope, (e.name, e.consumer_tag, e.redelivered, e.exchange, e.routing_key, e.encoded, e.details)


class Message:
    """A message that was delivered to a consumer, fetched by basic_get, or returned.

    body: bytes.
    delivery_tag: int; the number by which the channel acknowledges it. A returned message has 0: it needs no ack.
    channel: the channel that it arrived on. ack(), nack() and reject() go there.
    properties: its BasicProperties.

    A message pickles without its channel: the copy cannot be acknowledged or refused.
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
        """The message made of a method, encoded properties and a body."""
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
        """Replaces the properties. The message gets an envelope of its own, so others that shared it don't change."""
        e = self.envelope
        encoded = properties.encode()
        self.envelope = Envelope(e.name, e.consumer_tag, e.redelivered, e.exchange, e.routing_key, encoded, e.details)
        self._properties = None

    @property
    def name(self) -> str:
        """The method that the message arrived with: "basic.deliver", "basic.get-ok" or "basic.return"."""
        return self.envelope.name

    @property
    def consumer_tag(self) -> str | None:
        """The tag of the consumer that it was delivered to (0-9-1 §1.8.3.9); None if there is no consumer: after
        basic_get, or when it was returned."""
        return self.envelope.consumer_tag

    @property
    def redelivered(self) -> bool:
        """True: the message was delivered before, to this or another consumer, and not acknowledged (0-9-1
        §1.8.3.9)."""
        return self.envelope.redelivered

    @property
    def exchange(self) -> str:
        """The exchange that it was published to; "" is the default exchange."""
        return self.envelope.exchange

    @property
    def routing_key(self) -> str:
        """The routing key that it was published with. Bytes that are not UTF-8 are decoded by surrogateescape."""
        return self.envelope.routing_key

    @property
    def encoded(self) -> bytes:
        """The properties, encoded as in a content header: flags and values."""
        return self.envelope.encoded

    @property
    def properties(self) -> BasicProperties:
        """The properties, decoded when first read. ProtocolSyntaxError: the broker sent a malformed header; the
        connection is closed for it."""
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
        """The arguments of the method that the message arrived with, by name."""
        if self.envelope.details is not None:
            return self.envelope.details
        names = ("consumer_tag", "delivery_tag", "redelivered", "exchange", "routing_key")
        return {name: getattr(self, name) for name in names}

    @property
    def message_count(self) -> int | None:
        """After basic_get: the number of messages left in the queue (0-9-1 §1.8.3.11). Else None."""
        count: int | None = self._detail("message_count")
        return count

    @property
    def reply_code(self) -> int | None:
        """Of a returned message: the code of the reason, 312 for no route, 313 for no consumers (0-9-1 §1.8.3.8). Else
        None."""
        code: int | None = self._detail("reply_code")
        return code

    @property
    def reply_text(self) -> str | None:
        """Of a returned message: the reason in words, "NO_ROUTE". Else None."""
        text: str | None = self._detail("reply_text")
        return text

    def _detail(self, name: str) -> Any:
        return self.details.get(name)

    def ack(self, multiple: bool = False, **options: Any) -> Any:
        """Acknowledges the message: channel.basic_ack with its delivery_tag (0-9-1 §1.8.3.13).

        multiple: acknowledges all earlier messages of the channel too; False by default. Result and errors as of
        basic_ack. LocalError: the message has no channel."""
        channel = self.channel
        if channel is None or multiple or options:
            return self._channel().basic_ack(self.delivery_tag, multiple=multiple, **options)
        return channel.basic_ack(self.delivery_tag)

    def nack(self, requeue: bool = True, **options: Any) -> Any:
        """Refuses the message: channel.basic_nack with its delivery_tag (a RabbitMQ extension, on 0-9-1 alone).

        requeue: True (by default) puts it back into its queue; False drops or dead-letters it. Result and errors as of
        basic_nack; LocalError as of `ack`."""
        return self._channel().basic_nack(self.delivery_tag, requeue=requeue, **options)

    def reject(self, requeue: bool = True, **options: Any) -> Any:
        """Refuses the message: channel.basic_reject with its delivery_tag (0-9-1 §1.8.3.14; 0-8 has it too).

        requeue: as of `nack`. Result and errors as of basic_reject; LocalError as of `ack`."""
        return self._channel().basic_reject(self.delivery_tag, requeue=requeue, **options)

    def _channel(self) -> Any:
        if self.channel is None:
            raise LocalError(
                f"a message that arrived with {self.name} has no channel, so it cannot be acknowledged or refused"
            )
        return self.channel

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), self.envelope, self.delivery_tag, self.body, self._properties)

    def __copy__(self) -> Message:
        twin = type(self)(self.envelope, self.delivery_tag, self.body)
        twin.channel, twin._properties = self.channel, self._properties
        return twin

    def __repr__(self) -> str:
        shown = f"{self.body[:32]!r}{'...' if len(self.body) > 32 else ''}"
        route = f"exchange={self.exchange!r}, routing_key={self.routing_key!r}"
        return f"Message({shown}, {route}, delivery_tag={self.delivery_tag})"


def _unpickled(cls: Any, envelope: Envelope, delivery_tag: int, body: bytes, properties: BasicProperties | None) -> Any:
    message = cls(envelope, delivery_tag, body)
    message._properties = properties
    return message


if TYPE_CHECKING:
    Properties = BasicProperties | Mapping[str, Any]
