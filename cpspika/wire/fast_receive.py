"""The lane inwards: contents and methods read where they lie, by the forms that `lanes` tells of."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache

from ..errors import ProtocolSyntaxError
from .codec import Codec, Decoder, Method
from .fast_send import CACHE_SIZE, DELIVER, EMPTY, NO_LIMIT, PUBLISH, SMALL, ChannelState, heads, layout, prefix
from .fields import decode_shortstr
from .frames import BODY, HEADER, METHOD
from .message import Envelope, Message

_BASIC_HEADER = b"\0\x3c\0\0"  # class and weight
_method_head = struct.Struct(">BHI4s").unpack_from  # type, channel, size, class and method
_size = struct.Struct(">Q").unpack_from


class _Template:
    """A form to lay over what arrives. `name`: the bytes that it is known by. `blank`: how many those of the delivery
    tag are that follows, none in a publish. `size`: bytes from the name to the body. `empty`: what is printed after the
    tag if there is no body."""

    __slots__ = ("channel", "empty", "envelope", "last", "middle", "name", "number", "placeholder", "size", "unpack")

    def __init__(
        self, name: bytes, number: int, channel: ChannelState, envelope: Envelope, middle: bytes, placeholder: int
    ):
        self.name = name
        self.number = number
        self.channel = channel
        self.envelope = envelope
        self.middle = middle
        self.last = heads(number, envelope.encoded)[1]
        self.empty = EMPTY % (middle, envelope.encoded)
        self.placeholder = placeholder
        template = layout(None, len(middle), len(self.last), "Q" if placeholder else "0s")
        self.unpack = template.unpack_from
        self.size = template.size


Found = tuple[int, "list[Message] | Method", int]
"""Channel; messages that came one after another, for one consumer or published alike, or a method; and the offset of
what follows."""


class FastReceiver:
    """The lane of one link's contents, deliveries for a client and publishes for a server, and of methods without a
    content for either: `take(buffer, at, end)` gives what begins at `at`, where it is whole and a content has one body
    frame or none; of one whose body is still arriving, how many bytes it takes. `places`: the link's channels. `peer`:
    who sends, "C" or "S", as in `spec`."""

    __slots__ = ("_cached_bytes", "_channels", "_codec", "_methods", "_most", "_peer", "_routes", "_templates")

    def __init__(self, channels: Mapping[int, ChannelState], peer: str):
        self._most = 0
        self._channels = channels
        self._peer = peer
        self._codec: Codec
        self._templates: dict[bytes, _Template] = {}
        self._routes: dict[bytes, _Template] = {}
        self._cached_bytes = 0  # bytes of the forms that were made since the books began anew
        self._methods: dict[bytes, Decoder | Callable[..., None]] = {}

    def speak(self, codec: Codec) -> None:
        """The version is known."""
        self._codec = codec

    def set_limit(self, frame_max: int) -> None:
        """The largest frame that is taken, in bytes; 0: any."""
        self._most = (frame_max or NO_LIMIT) - 8

    def read(self, buffer: bytes, at: int, end: int) -> Found | int | None:
        if end - at < _LEAST:
            return self._method(buffer, at, end)
        # It is known by what doesn't change while one consumer is served, all up to the end of its tag; or else by all
        # of its method frame.
        known = at + (12 + buffer[at + 11] if self._peer == "S" else 8 + int.from_bytes(buffer[at + 3 : at + 7], "big"))
        template = self._templates.get(buffer[at:known])
        if template is None:
            return self._method(buffer, at, end) or self._learn(buffer, at, end, known)
        messages: list[Message] = []
        name, most = template.name, self._most
        while template.channel.state == "open" and template.channel.content == "none":
            unpack, middle, last, envelope = template.unpack, template.middle, template.last, template.envelope
            while True:
                begin = known + template.size
                if begin <= end:
                    tag, printed, size, then, again = unpack(buffer, known)
                    stop = begin + size
                    if printed == middle and 0 < size == again <= most and then == last:
                        if stop >= end:
                            return (template.number, messages, at) if messages else _wait(stop + 1 - at)
                        if buffer[stop] != 0xCE:
                            break
                        messages.append(Message(envelope, tag or 0, buffer[begin:stop]))
                        at = stop + 1
                        known = at + len(name)
                        if buffer[at:known] != name:
                            return template.number, messages, at
                        continue
                if not buffer.startswith(template.empty, known + template.placeholder):
                    break
                messages.append(
                    Message(envelope, int.from_bytes(buffer[known : known + template.placeholder], "big"), b"")
                )
                at = known + template.placeholder + len(template.empty)
                known = at + len(name)
                if buffer[at:known] != name:
                    return template.number, messages, at
            other = self._switch_template(buffer, at, known, template)
            if other is None:
                break
            template = other
        return (template.number, messages, at) if messages else self._learn(buffer, at, end, known)

    def _switch_template(self, buffer: bytes, at: int, known: int, template: _Template) -> _Template | None:
        """A delivery that isn't like the last of its consumer: has the form before it of an earlier one with the same
        exchange and routing key, if there was any."""
        method_end = at + 7 + int.from_bytes(buffer[at + 3 : at + 7], "big")
        other = self._routes.get(template.name + buffer[known + 8 : method_end])
        if other is None or other is template:
            return None
        self._templates[template.name] = other
        return other

    def _method(self, buffer: bytes, at: int, end: int) -> Found | None:
        """A method that no content follows, and that leaves its channel open."""
        if end - at < 12:
            return None
        kind, number, size, index = _method_head(buffer, at)
        stop = at + 7 + size
        if kind != METHOD or stop >= end or buffer[stop] != 0xCE or size > self._most:
            return None
        channel = self._channels.get(number)
        if channel is None or channel.state != "open" or channel.content != "none":
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
            return _leave
        theirs = row.sender in (self._peer, "B")
        plain = theirs and not row.content and not row.name.startswith(("connection.", "channel."))
        self._methods[index] = decoder = self._codec.decoder(row.name) if plain else _leave
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
        channel = self._channels.get(number)
        if channel is None or channel.state != "open" or channel.content != "none":
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
        self._cache(name, _Template(name, number, channel, envelope, middle, begin - known))
        if delivers:
            self._routes[name + buffer[begin:method_end]] = self._templates[name]
        return number, [Message(envelope, tag, buffer[body : after - 1])], after

    def _cache(self, name: bytes, template: _Template) -> None:
        # Properties may be as large as a frame, so it isn't enough to count the forms.
        if len(self._templates) + len(self._routes) >= CACHE_SIZE or self._cached_bytes >= _CACHE_BYTES:
            self._templates.clear()
            self._routes.clear()
            self._cached_bytes = 0
        self._cached_bytes += template.size
        self._templates[name] = template


def _wait(size: int) -> int | None:
    """A content of this many bytes is worth waiting for, to be read in one piece; of a larger one the road takes the
    body as it comes."""
    return size if size <= SMALL else None


def _leave(buffer: bytes, at: int, end: int) -> None:
    """Left to the road."""


_CACHE_BYTES = 2**20  # which a full book of common forms doesn't come near; what they take is some three times that
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


@lru_cache(CACHE_SIZE)
def _text(octets: bytes) -> str | None:
    """A short string that is exactly these bytes, or None."""
    try:
        text, end = decode_shortstr(octets, 0)
    except ProtocolSyntaxError:
        return None  # for the road to judge
    return text if end == len(octets) else None


@lru_cache(CACHE_SIZE)
def _route(octets: bytes) -> tuple[str, str] | None:
    """Exchange and routing key, where these bytes are exactly both."""
    cut = octets[0] + 1 if octets else 0
    exchange, key = _text(octets[:cut]), _text(octets[cut:])
    return None if exchange is None or key is None else (exchange, key)
