"""The lanes: publish, deliver and acknowledge, made to be fast.

Nearly all that a messaging program does is these three, so each has a road of its own beside the general one, and
`tests/test_lanes.py` holds lane and road to the same bytes and the same events on random input, cut at every byte.

The idea is a *form*. A content of one body frame, publish or delivery, consists of bytes that are the same for message
after message (the method with its exchange and routing key, the properties, the heads of three frames), and of four
things that are not: the delivery tag, the size of the body, which stands there twice, and the body itself. So those
bytes are kept, as a form with blanks. To send a message is to fill the form in; to receive one is to lay the form over
the bytes and see that all that is printed on it matches. Either is one call of `struct` and a comparison or two, where
the general road decodes five arguments, walks through two state tables and makes an object for each frame. What a form
says (tag, exchange, routing key, properties) was decoded once, and its messages share it.

Out, a channel and a consumer keep the form of their last message; the method frames, which cost most to make, are kept
in a book that the channels of a link share. In, a link keeps a form for each consumer, or for each method frame of a
publish; it reads as many messages as came one after another, before anybody is told of the first. A message that
differs from the last in its printed part has a new form made for it, which costs little more than reading it by itself.
No book grows beyond a bound, however many channels and keys there are. The lanes take only what they can take as it is:
an open channel, a body of one frame or none. Anything else, and whatever looks different in any way, is left as it is
for the road, to read and to judge.

*Methods.* What has no content and leaves its channel open (an acknowledgement, a reply) is decoded where it lies. A
basic.ack on its way out is 21 bytes, of which the channel, the tag and a bit differ.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Protocol

from .codec import Codec, Decoder, Method
from .errors import ProtocolSyntaxError
from .fields import read_shortstr, write_shortstr
from .frames import BODY, HEADER, METHOD
from .message import Envelope, Message

BASIC = 60
KEPT = 4096  # entries of a book; past that it begins anew
SMALL = 16384  # bytes up to which copying a body into one piece is cheaper than handing it on by itself

DELIVER = b"\0\x3c\0\x3c"  # class and method
PUBLISH = b"\0\x3c\0\x28"
_ACK = b"\0\x3c\0\x50"
_BASIC_HEADER = b"\0\x3c\0\0"  # class and weight
_prefix = struct.Struct(">BHI")
_header_head = struct.Struct(">BHIHH").pack  # type, channel, size, class, weight
_EMPTY = b"%b\0\0\0\0\0\0\0\0%b\xce"  # what is before the size, which is none, and the properties
_method_head = struct.Struct(">BHI4s").unpack_from  # type, channel, size, class and method
_size = struct.Struct(">Q").unpack_from


class Place(Protocol):
    """A channel's place in the state tables of its link."""

    state: str
    content: str


@lru_cache(KEPT)
def _form(first: int | None, middle: int | None, last: int) -> struct.Struct:
    """A form's layout: printed bytes, a delivery tag, printed bytes, the body's size, printed bytes, and the size
    again. Without `middle` there is no tag; without `first` nothing before the tag."""
    parts = [f"{first}s"] if first is not None else []
    parts += [f"Q{middle}s"] if middle is not None else []
    return struct.Struct(f">{''.join(parts)}Q{last}sI")


def _heads(number: int, encoded: bytes) -> tuple[bytes, bytes]:
    """What is printed before the body's size and after it: the heads of the header frame and of the body frame, and
    the properties between."""
    before = _header_head(HEADER, number, 12 + len(encoded), BASIC, 0)
    return before, b"%b\xce%b" % (encoded, _prefix.pack(BODY, number, 0)[:3])


# --- out --------------------------------------------------------------------------------------------------------------


class Road(Protocol):
    """The link: what the lane leaves to it. `publish_frames`: method frames by channel, exchange and routing key."""

    frame_max: int
    publish_frames: dict[Any, bytes]

    def send_content(
        self, number: int, name: str, arguments: dict[str, Any], properties: bytes, body: bytes
    ) -> Pieces: ...
    def send(self, number: int, name: str, arguments: dict[str, Any]) -> bytes: ...


class SendLane:
    """A channel's way out: the publishes and acks of a client."""

    __slots__ = (
        "_ack",
        "_empty",
        "_encoded",
        "_exchange",
        "_filled",
        "_first",
        "_key",
        "_last",
        "_most",
        "_number",
        "_pack",
        "_road",
        "_size",
        "place",
    )

    def __init__(self, number: int, place: Place, road: Road):
        self.place = place
        self._number = number
        self._road = road
        self._most = (road.frame_max or _NO_LIMIT) - _ROOM
        self._ack = _prefix.pack(METHOD, number, 13) + _ACK
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
        if size > self._most or self.place.state != "open":
            return self._by_road(exchange, routing_key, encoded, body)
        # The same objects, mostly: a comparison of strings would cost more than all that follows.
        if (
            routing_key is not self._key or exchange is not self._exchange or encoded is not self._encoded
        ) and not self._turn_to(exchange, routing_key, encoded):
            return self._by_road(exchange, routing_key, encoded, body)
        if size != self._size:
            if not size:
                return [self._empty]
            self._size, self._filled = size, self._pack(self._first, size, self._last, size)
        if size <= SMALL:
            return [b"%b%b\xce" % (self._filled, body)]
        return [self._filled, body, b"\xce"]

    def _turn_to(self, exchange: str, routing_key: str, encoded: bytes) -> bool:
        """Has another form before it; False where there is none."""
        if len(encoded) > self._most:
            return False
        frames, wanted = self._road.publish_frames, (self._number, exchange, routing_key)
        try:
            method = frames.get(wanted)
        except TypeError:
            return False  # no str at all; the road says so in better words
        if method is None:
            arguments = {"exchange": exchange, "routing_key": routing_key}
            method = self._road.send(self._number, "basic.publish", arguments)
            if len(frames) >= KEPT:
                frames.clear()
            frames[wanted] = method
        before, self._last = _heads(self._number, encoded)
        self._first = method + before
        self._pack = _form(len(self._first), None, len(self._last)).pack
        self._empty = _EMPTY % (self._first, encoded)
        self._exchange, self._key, self._encoded, self._size = exchange, routing_key, encoded, -1
        return True

    def _by_road(self, exchange: str, routing_key: str, encoded: bytes, body: bytes) -> Pieces:
        arguments = {"exchange": exchange, "routing_key": routing_key}
        return self._road.send_content(self._number, "basic.publish", arguments, encoded, body)

    def ack(self, delivery_tag: int, multiple: bool) -> bytes:
        """The frame of a basic.ack."""
        if self.place.state == "open":
            try:
                return _ack(self._ack, delivery_tag, 0x1CE if multiple else 0xCE)
            except struct.error:
                pass  # no tag at all; the road says so in better words
        return self._road.send(self._number, "basic.ack", {"delivery_tag": delivery_tag, "multiple": multiple})


Pieces = list[bytes] | list[bytes | memoryview]
_NONE: Any = object()
_NO_LIMIT = 2**31
_ROOM = 32  # what a frame of a content needs beside its body or properties, generously
_ack = struct.Struct(">11sQH").pack


class DeliverLane:
    """A consumer's deliveries, on their way out of the broker."""

    __slots__ = (
        "_empty",
        "_envelope",
        "_first",
        "_last",
        "_middle",
        "_most",
        "_number",
        "_pack",
        "_redelivered",
        "_road",
        "_tag",
        "place",
    )

    def __init__(self, number: int, place: Place, road: Road, consumer_tag: str):
        self.place = place
        self._number = number
        self._road = road
        self._most = (road.frame_max or _NO_LIMIT) - _ROOM
        self._tag = consumer_tag
        # Of the last form.
        self._envelope: Envelope | None = None
        self._redelivered = False
        self._pack: Callable[..., bytes]
        self._first = self._middle = self._last = self._empty = b""

    def deliver(self, delivery_tag: int, redelivered: bool, envelope: Envelope, body: bytes) -> Pieces:
        """The pieces of a basic.deliver. `envelope`: as of the publish."""
        size = len(body)
        if size > self._most or self.place.state != "open" or len(envelope.encoded) > self._most:
            details = {
                "consumer_tag": self._tag,
                "delivery_tag": delivery_tag,
                "redelivered": redelivered,
                "exchange": envelope.exchange,
                "routing_key": envelope.routing_key,
            }
            return self._road.send_content(self._number, "basic.deliver", details, envelope.encoded, body)
        if envelope is not self._envelope or redelivered is not self._redelivered:
            self._turn_to(envelope, redelivered)
        if not size:
            return [b"%b%b%b" % (self._first, delivery_tag.to_bytes(8, "big"), self._empty)]
        head = self._pack(self._first, delivery_tag, self._middle, size, self._last, size)
        if size <= SMALL:
            return [b"%b%b\xce" % (head, body)]
        return [head, body, b"\xce"]

    def _turn_to(self, envelope: Envelope, redelivered: bool) -> None:
        tag, exchange = write_shortstr("", self._tag), write_shortstr("", envelope.exchange)
        route = exchange + write_shortstr("", envelope.routing_key)
        before, self._last = _heads(self._number, envelope.encoded)
        self._first = _prefix.pack(METHOD, self._number, 13 + len(tag) + len(route)) + DELIVER + tag
        self._middle = b"%c%b\xce%b" % (redelivered, route, before)
        self._pack = _form(len(self._first), len(self._middle), len(self._last)).pack
        self._empty = _EMPTY % (self._middle, envelope.encoded)
        self._envelope, self._redelivered = envelope, redelivered


# --- in ---------------------------------------------------------------------------------------------------------------


class _Printed:
    """A form to lay over what arrives. `name`: the bytes that it is known by. `size`: bytes from there to the body.
    `empty`: what is printed there after the tag if there is no body."""

    __slots__ = ("empty", "envelope", "last", "middle", "name", "number", "place", "size", "unpack")

    def __init__(self, name: bytes, number: int, place: Place, envelope: Envelope, middle: bytes, tagged: bool):
        self.name = name
        self.number = number
        self.place = place
        self.envelope = envelope
        self.middle = middle
        self.last = _heads(number, envelope.encoded)[1]
        self.empty = _EMPTY % (middle, envelope.encoded)
        layout = _form(None, len(middle), len(self.last)) if tagged else _form(len(middle), None, len(self.last))
        self.unpack = layout.unpack_from
        self.size = layout.size


Found = tuple[int, "list[Message] | Method", int]
"""Channel, messages that came alike one after another, or a method, and the offset of what follows."""


class ReceiveLane:
    """The lane of one link's contents, deliveries for a client and publishes for a server, and of methods without a
    content for either: `take(buffer, at, end)` gives what begins at `at`, where it is whole and a content has one body
    frame or none. `places`: the link's channels. `peer`: who sends, "C" or "S", as in `spec`."""

    __slots__ = ("_codec", "_forms", "_methods", "_most", "_peer", "_places", "_routes", "take")

    def __init__(self, places: Mapping[int, Place], peer: str):
        self._most = 0
        self._places = places
        self._peer = peer
        self._codec: Codec
        self._forms: dict[bytes, _Printed] = {}
        self._routes: dict[bytes, _Printed] = {}
        self._methods: dict[bytes, Decoder | Callable[..., None]] = {}
        self.take: Callable[[bytes, int, int], Found | None] = self._deliveries if peer == "S" else self._publishes

    def speak(self, codec: Codec) -> None:
        """The version is known."""
        self._codec = codec

    def set_limit(self, frame_max: int) -> None:
        """The largest frame that is taken, in bytes; 0: any."""
        self._most = (frame_max or _NO_LIMIT) - 8

    def _deliveries(self, buffer: bytes, at: int, end: int) -> Found | None:
        if end - at < _LEAST_DELIVERY:
            return self._method(buffer, at, end)
        # It is known by what doesn't change while one consumer is served: all up to the end of its tag.
        known = at + 12 + buffer[at + 11]
        form = self._forms.get(buffer[at:known])
        if form is None:
            return self._method(buffer, at, end) or self._learn(buffer, at, end, known, DELIVER)
        messages: list[Message] = []
        name, most = form.name, self._most
        while form.place.state == "open" and form.place.content == "none":
            unpack, middle, last, envelope = form.unpack, form.middle, form.last, form.envelope
            while True:
                begin = known + form.size
                if begin <= end:
                    tag, printed, size, then, again = unpack(buffer, known)
                    stop = begin + size
                    if printed == middle and 0 < size == again <= most and then == last and stop < end:
                        if buffer[stop] != 0xCE:
                            break
                        messages.append(Message(envelope, tag, buffer[begin:stop]))
                        at = stop + 1
                        known = at + len(name)
                        if buffer[at:known] != name:
                            return form.number, messages, at
                        continue
                if not buffer.startswith(form.empty, known + 8):
                    break
                messages.append(Message(envelope, _size(buffer, known)[0], b""))
                at = known + 8 + len(form.empty)
                known = at + len(name)
                if buffer[at:known] != name:
                    return form.number, messages, at
            other = self._turn_over(buffer, at, known, form)
            if other is None:
                break
            form = other
        return (form.number, messages, at) if messages else self._learn(buffer, at, end, known, DELIVER)

    def _turn_over(self, buffer: bytes, at: int, known: int, form: _Printed) -> _Printed | None:
        """A delivery that isn't like the last of its consumer: has the form before it of an earlier one with the same
        exchange and routing key, if there was any."""
        method_end = at + 7 + int.from_bytes(buffer[at + 3 : at + 7], "big")
        other = self._routes.get(form.name + buffer[known + 8 : method_end])
        if other is None or other is form:
            return None
        self._forms[form.name] = other
        return other

    def _publishes(self, buffer: bytes, at: int, end: int) -> Found | None:
        if end - at < _LEAST_PUBLISH:
            return self._method(buffer, at, end)
        # It is known by all of its method frame.
        known = at + 8 + int.from_bytes(buffer[at + 3 : at + 7], "big")
        form = self._forms.get(buffer[at:known])
        if form is None:
            return self._method(buffer, at, end) or self._learn(buffer, at, end, known, PUBLISH)
        messages: list[Message] = []
        if form.place.state == "open" and form.place.content == "none":
            name, unpack, middle, last, empty = form.name, form.unpack, form.middle, form.last, form.empty
            envelope, most = form.envelope, self._most
            while buffer[at:known] == name:
                begin = known + form.size
                if begin <= end:
                    printed, size, then, again = unpack(buffer, known)
                    stop = begin + size
                    if 0 < size == again <= most and printed == middle and then == last and stop < end:
                        if buffer[stop] != 0xCE:
                            break
                        messages.append(Message(envelope, 0, buffer[begin:stop]))
                        at, known = stop + 1, stop + 1 + len(name)
                        continue
                if not buffer.startswith(empty, known):
                    break
                messages.append(Message(envelope, 0, b""))
                at = known + len(empty)
                known = at + len(name)
            if messages:
                return form.number, messages, at
        return self._learn(buffer, at, end, known, PUBLISH)

    def _method(self, buffer: bytes, at: int, end: int) -> Found | None:
        """A method that no content follows, and that leaves its channel open."""
        if end - at < 12:
            return None
        kind, number, size, index = _method_head(buffer, at)
        stop = at + 7 + size
        if kind != METHOD or stop >= end or buffer[stop] != 0xCE or size > self._most:
            return None
        place = self._places.get(number)
        if place is None or place.state != "open" or place.content != "none":
            return None
        decode = self._methods.get(index) or self._decoder(index)
        try:
            event = decode(buffer, at + 11, stop)
        except ProtocolSyntaxError:
            return None
        return (number, event, stop + 1) if event is not None else None

    def _decoder(self, index: bytes) -> Decoder | Callable[..., None]:
        """What reads the methods of this class and number; one that isn't the lane's gives None."""
        row = self._codec.by_index.get((int.from_bytes(index[:2], "big"), int.from_bytes(index[2:], "big")))
        if row is None:
            return _left
        theirs = row.sender in (self._peer, "B")
        plain = theirs and not row.content and not row.name.startswith(("connection.", "channel."))
        self._methods[index] = decoder = self._codec.decoder(row.name) if plain else _left
        return decoder

    def _learn(self, buffer: bytes, at: int, end: int, known: int, method: bytes) -> Found | None:
        """Reads a message whose form isn't kept, and keeps that under the bytes up to `known`."""
        if buffer[at] != METHOD or buffer[at + 7 : at + 11] != method:
            return None
        _, number, size = _prefix.unpack_from(buffer, at)
        method_end = at + 7 + size
        header = method_end + 8  # where the header frame's payload begins
        if header + 14 > end or known > method_end + 1 or buffer[method_end] != 0xCE:
            return None
        kind, channel, header_size = _prefix.unpack_from(buffer, method_end + 1)
        header_end = header + header_size
        body = header_end + 8
        if kind != HEADER or channel != number or header_size < 14 or buffer[header : header + 4] != _BASIC_HEADER:
            return None
        if header_end >= end or buffer[header_end] != 0xCE:
            return None
        (body_size,) = _size(buffer, header + 4)
        after = header_end + 1
        if body_size:
            after = body + body_size + 1
            if after > end or buffer[after - 1] != 0xCE:
                return None
            if _prefix.unpack_from(buffer, header_end + 1) != (BODY, number, body_size):
                return None
        place = self._places.get(number)
        if place is None or place.state != "open" or place.content != "none":
            return None
        if max(size, header_size, body_size) > self._most:
            return None
        encoded = buffer[header + 12 : header_end]
        tag, envelope = 0, None
        if method is DELIVER:
            tag, begin = _size(buffer, known)[0], known + 8
            envelope = _delivered(buffer[at + 11 : known], buffer[begin:method_end], encoded)
        else:
            begin = known
            envelope = _published(buffer[at + 11 : method_end], encoded)
        if envelope is None:
            return None
        name, middle = buffer[at:known], buffer[begin : header + 4]
        self._keep(name, _Printed(name, number, place, envelope, middle, method is DELIVER))
        if method is DELIVER:
            self._routes[name + buffer[begin:method_end]] = self._forms[name]
        return number, [Message(envelope, tag, buffer[body : after - 1])], after

    def _keep(self, name: bytes, form: _Printed) -> None:
        if len(self._forms) + len(self._routes) >= KEPT:
            self._forms.clear()
            self._routes.clear()
        self._forms[name] = form


def _left(buffer: bytes, at: int, end: int) -> None:
    """Left to the road."""


_LEAST_DELIVERY = 46  # bytes with nothing in it
_LEAST_PUBLISH = 39


def _delivered(tag: bytes, rest: bytes, encoded: bytes) -> Envelope | None:
    """Of a delivery: its consumer's tag, and what follows the delivery tag."""
    route = _route(rest[1:])
    if route is None or _text(tag) is None:
        return None
    return Envelope("basic.deliver", _text(tag), rest[0] & 1 == 1, *route, encoded)


def _published(arguments: bytes, encoded: bytes) -> Envelope | None:
    """Of a publish: its arguments, from the ticket on."""
    route = _route(arguments[2:-1])
    if route is None:
        return None
    ticket, bits = int.from_bytes(arguments[:2], "big"), arguments[-1]
    details = {"ticket": ticket, "exchange": route[0], "routing_key": route[1]}
    return Envelope(
        "basic.publish",
        None,
        False,
        *route,
        encoded,
        {**details, "mandatory": bits & 1 == 1, "immediate": bits & 2 == 2},
    )


@lru_cache(KEPT)
def _text(octets: bytes) -> str | None:
    """A short string that is exactly these bytes, or None."""
    try:
        text, end = read_shortstr(octets, 0)
    except ProtocolSyntaxError:
        return None  # for the road to judge
    return text if end == len(octets) else None


@lru_cache(KEPT)
def _route(octets: bytes) -> tuple[str, str] | None:
    """Exchange and routing key, where these bytes are exactly both."""
    cut = octets[0] + 1 if octets else 0
    exchange, key = _text(octets[:cut]), _text(octets[cut:])
    return None if exchange is None or key is None else (exchange, key)
