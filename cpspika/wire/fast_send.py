"""The lanes: publish, deliver and acknowledge, made to be fast.

Nearly all that a messaging program does is these three, so each has a road of its own beside the general one, and
`tests/wire/test_fast_paths.py` holds lane and road to the same bytes and the same events on random input, cut at every
byte.

The idea is a *form*. A content of one body frame, publish or delivery, consists of bytes that are the same for message
after message (the method with its exchange and routing key, the properties, the heads of three frames), and of four
things that are not: the delivery tag, the size of the body, which stands there twice, and the body itself. So those
bytes are kept, as a form with blanks. To send a message is to fill the form in; to receive one is to lay the form over
the bytes and see that all that is printed on it matches. Either is one call of `struct` and a comparison or two, where
the general road decodes five arguments, walks through two state tables and makes an object for each frame. What a form
says (tag, exchange, routing key, properties) was decoded once, and its messages share it.

Out, a channel and a consumer keep the form of their last message; the method frames, which cost most to make, are kept
in a book that the channels of a link share. In (`receive_lane`), a link keeps a form for each consumer, or for each
method frame of a publish, and reads as many messages as came one after another before anybody is told of the first. A
message that differs from the last in its printed part has a new form made for it, which costs little more than reading
it by itself. No book grows beyond a bound, however many channels and keys there are. The lanes take only what they can
take as it is: an open channel, a body of one frame or none. Anything else, and whatever looks different in any way, is
left as it is for the road, to read and to judge.

*Methods.* What has no content and leaves its channel open (an acknowledgement, a reply) is decoded where it lies. A
basic.ack on its way out is 21 bytes, of which the channel, the tag and a bit differ.
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
CACHE_SIZE = 4096  # entries of a book; past that it begins anew
SMALL = 16384  # bytes up to which copying a body into one piece is cheaper than handing it on by itself

DELIVER = b"\0\x3c\0\x3c"  # class and method
PUBLISH = b"\0\x3c\0\x28"
_ACK = b"\0\x3c\0\x50"
prefix = struct.Struct(">BHI")
_header_head = struct.Struct(">BHIHH").pack  # type, channel, size, class, weight
EMPTY = b"%b\0\0\0\0\0\0\0\0%b\xce"  # what is before the size, which is none, and the properties


class ChannelState(Protocol):
    """A channel's place in the state tables of its link."""

    state: str
    content: str


@lru_cache(CACHE_SIZE)
def layout(first: int | None, middle: int | None, last: int, tag: str = "Q") -> struct.Struct:
    """A form's layout: printed bytes, a delivery tag, printed bytes, the body's size, printed bytes, and the size
    again. Without `middle` there is no tag; without `first` nothing before the tag; with a `tag` of "0s" it is empty,
    but has its place."""
    parts = [f"{first}s"] if first is not None else []
    parts += [f"{tag}{middle}s"] if middle is not None else []
    return struct.Struct(f">{''.join(parts)}Q{last}sI")


def heads(number: int, encoded: bytes) -> tuple[bytes, bytes]:
    """What is printed before the body's size and after it: the heads of the header frame and of the body frame, and
    the properties between."""
    before = _header_head(HEADER, number, 12 + len(encoded), BASIC, 0)
    return before, b"%b\xce%b" % (encoded, prefix.pack(BODY, number, 0)[:3])


class GeneralPath(Protocol):
    """The link: what the lane leaves to it. `publish_frames`: method frames by channel, exchange and routing key."""

    frame_max: int
    publish_frames: dict[Any, bytes]

    def send_content(
        self, number: int, name: str, arguments: dict[str, Any], properties: bytes, body: bytes
    ) -> Pieces: ...
    def send(self, number: int, name: str, arguments: dict[str, Any]) -> bytes: ...


class FastSender:
    """A channel's way out: the publishes and acks of a client."""

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
        "_most",
        "_number",
        "_pack",
        "_size",
        "channel",
    )

    def __init__(self, number: int, channel: ChannelState, road: GeneralPath):
        self.channel = channel
        self._number = number
        self._general_path = road
        self._most = (road.frame_max or NO_LIMIT) - _ROOM
        self._ack = prefix.pack(METHOD, number, 13) + _ACK
        # The last form: what it is known by, its printed parts, the whole of a message without a body, and what it is
        # filled with up to the body.
        self._exchange = self._key = self._encoded = _NONE
        self._pack: Callable[..., bytes]
        self._first = self._last = self._empty = self._filled = b""
        self._size = -1

    def publish(self, exchange: str, routing_key: str, encoded: bytes, body: bytes) -> Pieces:
        """The pieces of a publish without flags. `encoded`: its properties, as they stand in a header. What cannot be
        sent is refused by the road."""
        size = len(body)
        if size > self._most or self.channel.state != "open":
            return self._by_general_path(exchange, routing_key, encoded, body)
        # The same objects, mostly: a comparison of strings would cost more than all that follows.
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
        """Has another form before it; False where there is none."""
        if len(encoded) > self._most:
            return False
        frames, wanted = self._general_path.publish_frames, (self._number, exchange, routing_key)
        try:
            method = frames.get(wanted)
        except TypeError:
            return False  # no str at all; the road says so in better words
        if method is None:
            arguments = {"exchange": exchange, "routing_key": routing_key}
            method = self._general_path.send(self._number, "basic.publish", arguments)
            if len(frames) >= CACHE_SIZE:
                frames.clear()
            frames[wanted] = method
        before, self._last = heads(self._number, encoded)
        self._first = method + before
        self._pack = layout(len(self._first), None, len(self._last)).pack
        self._empty = EMPTY % (self._first, encoded)
        self._exchange, self._key, self._encoded, self._size = exchange, routing_key, encoded, -1
        return True

    def _by_general_path(self, exchange: str, routing_key: str, encoded: bytes, body: bytes) -> Pieces:
        arguments = {"exchange": exchange, "routing_key": routing_key}
        return self._general_path.send_content(self._number, "basic.publish", arguments, encoded, body)

    def ack(self, delivery_tag: int, multiple: bool) -> bytes:
        """The frame of a basic.ack."""
        if self.channel.state == "open":
            try:
                return _ack(self._ack, delivery_tag, 0x1CE if multiple else 0xCE)
            except struct.error:
                pass  # no tag at all; the road says so in better words
        return self._general_path.send(self._number, "basic.ack", {"delivery_tag": delivery_tag, "multiple": multiple})


Pieces = list[bytes] | list[bytes | memoryview]
_NONE: Any = object()
NO_LIMIT = 2**31
_ROOM = 32  # what a frame of a content needs beside its body or properties, generously
_ack = struct.Struct(">11sQH").pack


class FastDeliverer:
    """A consumer's deliveries, on their way out of the broker."""

    __slots__ = (
        "_empty",
        "_envelope",
        "_first",
        "_general_path",
        "_last",
        "_middle",
        "_most",
        "_number",
        "_pack",
        "_redelivered",
        "_tag",
        "channel",
    )

    def __init__(self, number: int, channel: ChannelState, road: GeneralPath, consumer_tag: str):
        self.channel = channel
        self._number = number
        self._general_path = road
        self._most = (road.frame_max or NO_LIMIT) - _ROOM
        self._tag = consumer_tag
        # Of the last form.
        self._envelope: Envelope | None = None
        self._redelivered = False
        self._pack: Callable[..., bytes]
        self._first = self._middle = self._last = self._empty = b""

    def deliver(self, delivery_tag: int, redelivered: bool, envelope: Envelope, body: bytes) -> Pieces:
        """The pieces of a basic.deliver. `envelope`: as of the publish."""
        size = len(body)
        if size > self._most or self.channel.state != "open" or len(envelope.encoded) > self._most:
            details = {
                "consumer_tag": self._tag,
                "delivery_tag": delivery_tag,
                "redelivered": redelivered,
                "exchange": envelope.exchange,
                "routing_key": envelope.routing_key,
            }
            return self._general_path.send_content(self._number, "basic.deliver", details, envelope.encoded, body)
        if envelope is not self._envelope or redelivered is not self._redelivered:
            self._use_template(envelope, redelivered)
        if not size:
            return [b"%b%b%b" % (self._first, delivery_tag.to_bytes(8, "big"), self._empty)]
        head = self._pack(self._first, delivery_tag, self._middle, size, self._last, size)
        if size <= SMALL:
            return [b"%b%b\xce" % (head, body)]
        return [head, body, b"\xce"]

    def _use_template(self, envelope: Envelope, redelivered: bool) -> None:
        tag, exchange = encode_shortstr("", self._tag), encode_shortstr("", envelope.exchange)
        route = exchange + encode_shortstr("", envelope.routing_key)
        before, self._last = heads(self._number, envelope.encoded)
        self._first = prefix.pack(METHOD, self._number, 13 + len(tag) + len(route)) + DELIVER + tag
        self._middle = b"%c%b\xce%b" % (redelivered, route, before)
        self._pack = layout(len(self._first), len(self._middle), len(self._last)).pack
        self._empty = EMPTY % (self._middle, envelope.encoded)
        self._envelope, self._redelivered = envelope, redelivered
