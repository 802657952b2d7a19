"""The lane inwards: contents and methods read where they lie, by the forms that `lanes` tells of."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache

from .codec import Codec, Decoder, Method
from .errors import ProtocolSyntaxError
from .fields import read_shortstr
from .frames import BODY, HEADER, METHOD
from .lanes import DELIVER, EMPTY, KEPT, NO_LIMIT, PUBLISH, SMALL, Place, heads, layout, prefix
from .message import Envelope, Message

_BASIC_HEADER = b"\0\x3c\0\0"  # class and weight
_method_head = struct.Struct(">BHI4s").unpack_from  # type, channel, size, class and method
_size = struct.Struct(">Q").unpack_from


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
        self.last = heads(number, envelope.encoded)[1]
        self.empty = EMPTY % (middle, envelope.encoded)
        form = layout(None, len(middle), len(self.last)) if tagged else layout(len(middle), None, len(self.last))
        self.unpack = form.unpack_from
        self.size = form.size


Found = tuple[int, "list[Message] | Method", int]
"""Channel, messages that came alike one after another, or a method, and the offset of what follows."""


class ReceiveLane:
    """The lane of one link's contents, deliveries for a client and publishes for a server, and of methods without a
    content for either: `take(buffer, at, end)` gives what begins at `at`, where it is whole and a content has one body
    frame or none; of one whose body is still arriving, how many bytes it takes. `places`: the link's channels. `peer`:
    who sends, "C" or "S", as in `spec`."""

    __slots__ = ("_codec", "_forms", "_methods", "_most", "_peer", "_places", "_printed", "_routes", "take")

    def __init__(self, places: Mapping[int, Place], peer: str):
        self._most = 0
        self._places = places
        self._peer = peer
        self._codec: Codec
        self._forms: dict[bytes, _Printed] = {}
        self._routes: dict[bytes, _Printed] = {}
        self._printed = 0  # bytes of the forms that were made since the books began anew
        self._methods: dict[bytes, Decoder | Callable[..., None]] = {}
        self.take: Callable[[bytes, int, int], Found | int | None] = (
            self._deliveries if peer == "S" else self._publishes
        )

    def speak(self, codec: Codec) -> None:
        """The version is known."""
        self._codec = codec

    def set_limit(self, frame_max: int) -> None:
        """The largest frame that is taken, in bytes; 0: any."""
        self._most = (frame_max or NO_LIMIT) - 8

    def _deliveries(self, buffer: bytes, at: int, end: int) -> Found | int | None:
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
                    if printed == middle and 0 < size == again <= most and then == last:
                        if stop >= end:
                            return (form.number, messages, at) if messages else _wait(stop + 1 - at)
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

    def _publishes(self, buffer: bytes, at: int, end: int) -> Found | int | None:
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
                    if printed == middle and 0 < size == again <= most and then == last:
                        if stop >= end:
                            return (form.number, messages, at) if messages else _wait(stop + 1 - at)
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
        _, number, size = prefix.unpack_from(buffer, at)
        method_end = at + 7 + size
        header = method_end + 8  # where the header frame's payload begins
        if header + 14 > end or known > method_end + 1 or buffer[method_end] != 0xCE:
            return None
        kind, channel, header_size = prefix.unpack_from(buffer, method_end + 1)
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
            if prefix.unpack_from(buffer, header_end + 1) != (BODY, number, body_size):
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
        # Properties may be as large as a frame, so it isn't enough to count the forms.
        if len(self._forms) + len(self._routes) >= KEPT or self._printed >= _KEPT_BYTES:
            self._forms.clear()
            self._routes.clear()
            self._printed = 0
        self._printed += form.size
        self._forms[name] = form


def _wait(size: int) -> int | None:
    """A content of this many bytes is worth waiting for, to be read in one piece; of a larger one the road takes the
    body as it comes."""
    return size if size <= SMALL else None


def _left(buffer: bytes, at: int, end: int) -> None:
    """Left to the road."""


_KEPT_BYTES = 2**20  # which a full book of common forms doesn't come near; what they take is some three times that
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
