"""The fast path out: a publish, a delivery and an acknowledgement, each encoded in one step.

Theory of operation
===================

A messaging program does little else than publish, deliver and acknowledge. So these three have a *fast path* beside
the *general path* (`Link.send` and `Link.send_content`, which encode any method by the tables of `spec` and `states`).
`tests/wire/test_fast_paths.py` holds both paths to the same bytes and the same events, on random input cut at every
byte.

*Template.* A content with one body frame is three frames: method, header, body. Most of their bytes are the same for
message after message: the method with its exchange and routing key, the properties, and the first bytes of the three
frames. Four fields differ: the delivery tag (a publish has none), the size of the body in the header frame, the same
size in the body frame, and the body itself. A *template* is the bytes that repeat, with a *placeholder* for the
delivery tag and for each of the sizes. To send a message, one `struct` call fills the placeholders in. To receive one,
one `struct` call reads the placeholders, and a comparison or two check the bytes that repeat. (The general path decodes
five arguments, looks up two state tables and makes an object for each frame.) Consumer tag, exchange, routing key and
properties are decoded once for a template; all its messages share them (`Envelope`).

*Sending* (this module). A channel (`FastSender`) and a consumer (`FastDeliverer`) keep the template of their last
message. Method frames cost most to encode, so the channels of a link share a cache of them, `publish_frames`.

*Receiving* (`fast_receive`). A link caches a template for each consumer (client), or for each method frame of a publish
(server). It reads as many messages as follow one another before anybody is called for the first.

*Cache.* A message whose repeating bytes differ from the last one's has a new template made for it. That costs little
more than to read the message by itself. Every cache is bounded and begins anew when full, however many channels and
routing keys there are.

*Which path.* A fast path handles only an open channel, and a body of one frame or none. All else, however small the
difference, it leaves to the general path, before anything has changed. The general path then encodes or decodes it, or
raises the error.

*Methods.* A method that has no content and leaves its channel open (an acknowledgement, a reply) is decoded in the
receive buffer, without a copy of its payload. A basic.ack to be sent is 21 bytes, of which only the channel number, the
delivery tag and one bit differ.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

from .fields import encode_shortstr
from .frames import BODY, HEADER, METHOD
from .message import Envelope

BASIC = 60
CACHE_SIZE = 4096  # entries of a cache; a full cache begins anew
SMALL = 16384  # bytes; up to this size, copying a body into one piece is cheaper than passing it on by itself

DELIVER = b"\0\x3c\0\x3c"  # class and method index
PUBLISH = b"\0\x3c\0\x28"
_ACK = b"\0\x3c\0\x50"
prefix = struct.Struct(">BHI")
_header_start = struct.Struct(">BHIHH").pack  # type, channel, size, class, weight
EMPTY = b"%b\0\0\0\0\0\0\0\0%b\xce"  # a message without a body: the bytes before the body size of 0, the properties


class ChannelState(Protocol):
    """The state of a channel: its rows in the tables CHANNEL and CONTENT of `states`."""

    state: str
    content: str


@lru_cache(CACHE_SIZE)
def layout(first: int | None, middle: int | None, last: int, tag: str = "Q") -> struct.Struct:
    """The layout of a template, in order: `first` bytes that repeat, the placeholder of the delivery tag, `middle`
    bytes that repeat, the body size (8 bytes), `last` bytes that repeat, the body size again (4 bytes).

    first, middle, last: sizes in bytes. first=None leaves the first bytes out. middle=None leaves out the placeholder
    and the bytes after it. tag: format of the placeholder; "0s" is a placeholder of 0 bytes, for a publish that is read
    by the same code as a delivery."""
    parts = [f"{first}s"] if first is not None else []
    parts += [f"{tag}{middle}s"] if middle is not None else []
    return struct.Struct(f">{''.join(parts)}Q{last}sI")


def around_size(number: int, encoded: bytes) -> tuple[bytes, bytes]:
    """The bytes before and after the body size in a header frame on channel `number`. Before: the first bytes of the
    frame. After: the properties (`encoded`), the frame end, and the first 3 bytes of the body frame (type, channel)."""
    before = _header_start(HEADER, number, 12 + len(encoded), BASIC, 0)
    return before, b"%b\xce%b" % (encoded, prefix.pack(BODY, number, 0)[:3])


class GeneralPath(Protocol):
    """The part of the link that a fast path calls. `publish_frames`: a cache of method frames, by channel number,
    exchange and routing key."""

    frame_max: int
    publish_frames: dict[Any, bytes]

    def send_content(
        self, number: int, name: str, arguments: dict[str, Any], properties: bytes, body: bytes
    ) -> Pieces: ...
    def send(self, number: int, name: str, arguments: dict[str, Any]) -> bytes: ...


class FastSender:
    """The fast path of the publishes and acks of one channel of a client."""

    __slots__ = (
        "_ack",
        "_empty",
        "_encoded",
        "_exchange",
        "_filled",
        "_first",
        "_general_path",
        "_key",
        "_last",
        "_limit",
        "_number",
        "_pack",
        "_size",
        "channel",
    )

    def __init__(self, number: int, channel: ChannelState, general_path: GeneralPath):
        self.channel = channel
        self._number = number
        self._general_path = general_path
        self._limit = (general_path.frame_max or NO_LIMIT) - _OVERHEAD
        self._ack = prefix.pack(METHOD, number, 13) + _ACK
        # The key of the last template.
        self._exchange = self._key = self._encoded = _NONE
        # The last template: how to fill it in, its repeating bytes, and all bytes of a message without a body.
        self._pack: Callable[..., bytes]
        self._first = self._last = self._empty = b""
        # The template, filled in for a body of `_size` bytes.
        self._filled = b""
        self._size = -1

    def publish(self, exchange: str, routing_key: str, encoded: bytes, body: bytes) -> Pieces:
        """The frames of a basic.publish without flags, as pieces to be written in order.

        encoded: the properties, as they stand in a content header. Errors as of `Link.send_content`: the general path
        raises them."""
        size = len(body)
        if size > self._limit or self.channel.state != "open":
            return self._by_general_path(exchange, routing_key, encoded, body)
        # `is not`: a program mostly passes the same objects, and to compare strings costs more than all that follows.
        if (
            routing_key is not self._key or exchange is not self._exchange or encoded is not self._encoded
        ) and not self._use_template(exchange, routing_key, encoded):
            return self._by_general_path(exchange, routing_key, encoded, body)
        if size != self._size:
            if not size:
                return [self._empty]
            self._size, self._filled = size, self._pack(self._first, size, self._last, size)
        if size <= SMALL:
            return [b"%b%b\xce" % (self._filled, body)]
        return [self._filled, body, b"\xce"]

    def _use_template(self, exchange: str, routing_key: str, encoded: bytes) -> bool:
        """Makes the template of these arguments the current one. False if the fast path has none for them."""
        if len(encoded) > self._limit:
            return False
        frames, key = self._general_path.publish_frames, (self._number, exchange, routing_key)
        try:
            method = frames.get(key)
        except TypeError:
            return False  # an argument that is not hashable is not a str; the general path raises the error
        if method is None:
            arguments = {"exchange": exchange, "routing_key": routing_key}
            method = self._general_path.send(self._number, "basic.publish", arguments)
            if len(frames) >= CACHE_SIZE:
                frames.clear()
            frames[key] = method
        before, self._last = around_size(self._number, encoded)
        self._first = method + before
        self._pack = layout(len(self._first), None, len(self._last)).pack
        self._empty = EMPTY % (self._first, encoded)
        self._exchange, self._key, self._encoded, self._size = exchange, routing_key, encoded, -1
        return True

    def _by_general_path(self, exchange: str, routing_key: str, encoded: bytes, body: bytes) -> Pieces:
        arguments = {"exchange": exchange, "routing_key": routing_key}
        return self._general_path.send_content(self._number, "basic.publish", arguments, encoded, body)

    def ack(self, delivery_tag: int, multiple: bool) -> bytes:
        """The frame of a basic.ack. Errors as of `Link.send`."""
        if self.channel.state == "open":
            try:
                return _ack(self._ack, delivery_tag, 0x1CE if multiple else 0xCE)
            except struct.error:
                pass  # not a 64-bit number; the general path raises the error
        return self._general_path.send(self._number, "basic.ack", {"delivery_tag": delivery_tag, "multiple": multiple})


Pieces = list[bytes] | list[bytes | memoryview]
_NONE: Any = object()  # equals no argument
NO_LIMIT = 2**31  # bytes, for a frame_max of 0
_OVERHEAD = 32  # bytes; more than a frame of a content needs beside its body or its properties
_ack = struct.Struct(">11sQH").pack


class FastDeliverer:
    """The fast path of the deliveries to one consumer of a broker."""

    __slots__ = (
        "_empty",
        "_envelope",
        "_first",
        "_general_path",
        "_last",
        "_limit",
        "_middle",
        "_number",
        "_pack",
        "_redelivered",
        "_tag",
        "channel",
    )

    def __init__(self, number: int, channel: ChannelState, general_path: GeneralPath, consumer_tag: str):
        self.channel = channel
        self._number = number
        self._general_path = general_path
        self._limit = (general_path.frame_max or NO_LIMIT) - _OVERHEAD
        self._tag = consumer_tag
        # The key of the last template.
        self._envelope: Envelope | None = None
        self._redelivered = False
        # The last template, as in `FastSender`; `_middle` is between the delivery tag and the body size.
        self._pack: Callable[..., bytes]
        self._first = self._middle = self._last = self._empty = b""

    def deliver(self, delivery_tag: int, redelivered: bool, envelope: Envelope, body: bytes) -> Pieces:
        """The frames of a basic.deliver, as pieces to be written in order.

        envelope: exchange, routing key and properties, as of the publish."""
        size = len(body)
        if size > self._limit or self.channel.state != "open" or len(envelope.encoded) > self._limit:
            arguments = {
                "consumer_tag": self._tag,
                "delivery_tag": delivery_tag,
                "redelivered": redelivered,
                "exchange": envelope.exchange,
                "routing_key": envelope.routing_key,
            }
            return self._general_path.send_content(self._number, "basic.deliver", arguments, envelope.encoded, body)
        if envelope is not self._envelope or redelivered is not self._redelivered:
            self._use_template(envelope, redelivered)
        if not size:
            return [b"%b%b%b" % (self._first, delivery_tag.to_bytes(8, "big"), self._empty)]
        filled = self._pack(self._first, delivery_tag, self._middle, size, self._last, size)
        if size <= SMALL:
            return [b"%b%b\xce" % (filled, body)]
        return [filled, body, b"\xce"]

    def _use_template(self, envelope: Envelope, redelivered: bool) -> None:
        """Makes the template of these arguments the current one."""
        tag, exchange = encode_shortstr("", self._tag), encode_shortstr("", envelope.exchange)
        route = exchange + encode_shortstr("", envelope.routing_key)
        before, self._last = around_size(self._number, envelope.encoded)
        self._first = prefix.pack(METHOD, self._number, 13 + len(tag) + len(route)) + DELIVER + tag
        self._middle = b"%c%b\xce%b" % (redelivered, route, before)
        self._pack = layout(len(self._first), len(self._middle), len(self._last)).pack
        self._empty = EMPTY % (self._middle, envelope.encoded)
        self._envelope, self._redelivered = envelope, redelivered
