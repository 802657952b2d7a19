"""The lane inwards: contents and methods read where they lie, by the forms that `lanes` tells of."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache

from ..errors import ProtocolSyntaxError
from .codec import Codec, Decoder, Method
from .fast_send import DELIVER, EMPTY, KEPT, NO_LIMIT, PUBLISH, SMALL, Place, heads, layout, prefix
from .fields import read_shortstr
from .frames import BODY, HEADER, METHOD
from .message import Envelope, Message

_BASIC_HEADER = b"\0\x3c\0\0"  # class and weight
_method_head = struct.Struct(">BHI4s").unpack_from  # type, channel, size, class and method
_size = struct.Struct(">Q").unpack_from


class _Printed:
    """A form to lay over what arrives. `name`: the bytes that it is known by. `blank`: how many those of the delivery
    tag are that follows, none in a publish. `size`: bytes from the name to the body. `empty`: what is printed after the
    tag if there is no body."""

    __slots__ = ("blank", "empty", "envelope", "last", "middle", "name", "number", "place", "size", "unpack")

    def __init__(self, name: bytes, number: int, place: Place, envelope: Envelope, middle: bytes, blank: int):
        self.name = name
        self.number = number
        self.place = place
        self.envelope = envelope
        self.middle = middle
        self.last = heads(number, envelope.encoded)[1]
        self.empty = EMPTY % (middle, envelope.encoded)
        self.blank = blank
        form = layout(None, len(middle), len(self.last), "Q" if blank else "0s")
        self.unpack = form.unpack_from
        self.size = form.size


Found = tuple[int, "list[Message] | Method", int]
"""Channel; messages that came one after another, for one consumer or published alike, or a method; and the offset of
what follows."""


class ReceiveLane:
    """The lane of one link's contents, deliveries for a client and publishes for a server, and of methods without a
    content for either: `take(buffer, at, end)` gives what begins at `at`, where it is whole and a content has one body
    frame or none; of one whose body is still arriving, how many bytes it takes. `places`: the link's channels. `peer`:
    who sends, "C" or "S", as in `spec`."""

    __slots__ = ("_codec", "_forms", "_methods", "_most", "_peer", "_places", "_printed", "_routes")

    def __init__(self, places: Mapping[int, Place], peer: str):
        self._most = 0
        self._places = places
        self._peer = peer
        self._codec: Codec
        self._forms: dict[bytes, _Printed] = {}
        self._routes: dict[bytes, _Printed] = {}
        self._printed = 0  # bytes of the forms that were made since the books began anew
        self._methods: dict[bytes, Decoder | Callable[..., None]] = {}

    def speak(self, codec: Codec) -> None:
        """The version is known."""
        self._codec = codec

    def set_limit(self, frame_max: int) -> None:
        """The largest frame that is taken, in bytes; 0: any."""
        self._most = (frame_max or NO_LIMIT) - 8

    def take(self, buffer: bytes, at: int, end: int) -> Found | int | None:
        if end - at < _LEAST:
            return self._method(buffer, at, end)
        # It is known by what doesn't change while one consumer is served, all up to the end of its tag; or else by all
        # of its method frame.
        known = at + (12 + buffer[at + 11] if self._peer == "S" else 8 + int.from_bytes(buffer[at + 3 : at + 7], "big"))
        form = self._forms.get(buffer[at:known])
        if form is None:
            return self._method(buffer, at, end) or self._learn(buffer, at, end, known)
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
                        messages.append(Message(envelope, tag or 0, buffer[begin:stop]))
                        at = stop + 1
                        known = at + len(name)
                        if buffer[at:known] != name:
                            return form.number, messages, at
                        continue
                if not buffer.startswith(form.empty, known + form.blank):
                    break
                messages.append(Message(envelope, int.from_bytes(buffer[known : known + form.blank], "big"), b""))
                at = known + form.blank + len(form.empty)
                known = at + len(name)
                if buffer[at:known] != name:
                    return form.number, messages, at
            other = self._turn_over(buffer, at, known, form)
            if other is None:
                break
            form = other
        return (form.number, messages, at) if messages else self._learn(buffer, at, end, known)

    def _turn_over(self, buffer: bytes, at: int, known: int, form: _Printed) -> _Printed | None:
        """A delivery that isn't like the last of its consumer: has the form before it of an earlier one with the same
        exchange and routing key, if there was any."""
        method_end = at + 7 + int.from_bytes(buffer[at + 3 : at + 7], "big")
        other = self._routes.get(form.name + buffer[known + 8 : method_end])
        if other is None or other is form:
            return None
        self._forms[form.name] = other
        return other

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

    def _learn(self, buffer: bytes, at: int, end: int, known: int) -> Found | None:
        """Reads a message whose form isn't kept, and keeps that under the bytes up to `known`."""
        delivers = self._peer == "S"
        if buffer[at] != METHOD or buffer[at + 7 : at + 11] != (DELIVER if delivers else PUBLISH):
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
        tag, begin = (_size(buffer, known)[0], known + 8) if delivers else (0, known)
        if delivers:
            envelope = _delivered(buffer[at + 11 : known], buffer[begin:method_end], encoded)
        else:
            envelope = _published(buffer[at + 11 : method_end], encoded)
        if envelope is None:
            return None
        name, middle = buffer[at:known], buffer[begin : header + 4]
        self._keep(name, _Printed(name, number, place, envelope, middle, begin - known))
        if delivers:
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
_LEAST = 39  # bytes of a publish with nothing in it; a delivery has 46


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
