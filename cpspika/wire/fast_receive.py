"""The fast path in: contents and methods, each decoded in one step from the receive buffer.

Theory of operation
===================

`fast_send` explains the words: fast path, general path, template, placeholder, cache.

A link calls `FastReceiver.read` wherever a frame begins. Each call has one of three outcomes:

1. *The cache has a template.* A consumer's deliveries begin with the same bytes, up to the end of the consumer tag.
   Publishes with the same arguments have the whole method frame in common. These bytes are the key of the cache, and
   the `name` of the template. `read` then compares the bytes that repeat. As long as the messages match, it reads one
   after another, and returns them together.
2. *The cache has none.* If the frame is a method without a content, `_method` decodes it. If it begins a content,
   `_learn` checks the frames of the content one by one, decodes it, and caches a template made of it.
3. *The frames are not complete, or they are for the general path.* Nothing has changed then. The general path reads
   the same bytes, and judges them if they are malformed.

A consumer's deliveries may alternate between some routing keys. So a second cache, `_routes`, has the last template for
each consumer, redelivered flag, exchange and routing key; `_switch_template` looks there before a new one is made.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache

from ..errors import ProtocolSyntaxError
from .codec import Codec, Decoder, Method
from .fast_send import CACHE_SIZE, DELIVER, EMPTY, NO_LIMIT, PUBLISH, SMALL, ChannelState, around_size, layout, prefix
from .fields import decode_shortstr
from .frames import BODY, HEADER, METHOD
from .message import Envelope, Message

_BASIC_HEADER = b"\0\x3c\0\0"  # class and weight
_method_start = struct.Struct(">BHI4s").unpack_from  # type, channel, size, class and method
_size = struct.Struct(">Q").unpack_from


class _Template:
    """The bytes that are the same in several messages, in this order: `name`, the delivery tag, `middle`, the body
    size, `last`, the body size again, the body.

    name: the first bytes, by which the template is cached.
    placeholder: size in bytes of the delivery tag (0 for a publish).
    size: bytes between the name and the body.
    empty: all bytes after the delivery tag of a message without a body.
    unpack: reads (delivery tag, middle, body size, last, body size) from behind the name.
    number, channel: the channel's number and state. envelope: what the messages share, decoded."""

    __slots__ = ("channel", "empty", "envelope", "last", "middle", "name", "number", "placeholder", "size", "unpack")

    def __init__(
        self, name: bytes, number: int, channel: ChannelState, envelope: Envelope, middle: bytes, placeholder: int
    ):
        self.name = name
        self.number = number
        self.channel = channel
        self.envelope = envelope
        self.middle = middle
        self.last = around_size(number, envelope.encoded)[1]
        self.empty = EMPTY % (middle, envelope.encoded)
        self.placeholder = placeholder
        after_name = layout(None, len(middle), len(self.last), "Q" if placeholder else "0s")
        self.unpack = after_name.unpack_from
        self.size = after_name.size


Found = tuple[int, "list[Message] | Method", int]
"""Channel number; a method, or the messages that follow one another with the same name (`_Template.name`); offset of
the next frame."""


class FastReceiver:
    """The fast path of all that one link receives: deliveries (client), publishes (server), and methods without a
    content (both).

    channels: the link's channel states, by channel number.
    peer: the sender, "C" (client) or "S" (server), as in `spec`."""

    __slots__ = ("_cached_bytes", "_channels", "_codec", "_limit", "_methods", "_peer", "_routes", "_templates")

    def __init__(self, channels: Mapping[int, ChannelState], peer: str):
        self._limit = 0
        self._channels = channels
        self._peer = peer
        self._codec: Codec
        self._templates: dict[bytes, _Template] = {}
        self._routes: dict[bytes, _Template] = {}
        self._cached_bytes = 0  # bytes of the templates that were made since the caches began anew
        self._methods: dict[bytes, Decoder | Callable[..., None]] = {}

    def set_codec(self, codec: Codec) -> None:
        """Sets the codec of the connection's version; called before the first `read`."""
        self._codec = codec

    def set_limit(self, frame_max: int) -> None:
        """Sets the size in bytes of the largest frame that the peer may send; 0: no limit."""
        self._limit = (frame_max or NO_LIMIT) - 8

    def read(self, buffer: bytes, at: int, end: int) -> Found | int | None:
        """Decodes the methods or messages that begin at offset `at`. `end`: the size of the buffer.

        Returns `Found`; or the size in bytes of a message whose body is still arriving, if it is worth waiting for; or
        None: the general path reads what is there."""
        if end - at < _PUBLISH_MIN:
            return self.method(buffer, at, end)
        # The name of a delivery ends with its consumer tag; the name of a publish is its whole method frame.
        name_end = at + (
            12 + buffer[at + 11] if self._peer == "S" else 8 + int.from_bytes(buffer[at + 3 : at + 7], "big")
        )
        template = self._templates.get(buffer[at:name_end])
        if template is None:
            return self.method(buffer, at, end) or self._learn(buffer, at, end, name_end)
        messages: list[Message] = []
        name, limit = template.name, self._limit
        # Each turn of the outer loop has one template; each turn of the inner loop reads one message.
        while template.channel.state == "open" and template.channel.content == "none":
            unpack, middle, last, envelope = template.unpack, template.middle, template.last, template.envelope
            while True:
                begin = name_end + template.size
                if begin <= end:
                    tag, middle_bytes, size, last_bytes, frame_size = unpack(buffer, name_end)
                    stop = begin + size
                    if middle_bytes == middle and 0 < size == frame_size <= limit and last_bytes == last:
                        if stop >= end:
                            return (template.number, messages, at) if messages else _wait(stop + 1 - at)
                        if buffer[stop] != 0xCE:
                            break
                        messages.append(Message(envelope, tag or 0, buffer[begin:stop]))
                        at = stop + 1
                        name_end = at + len(name)
                        if buffer[at:name_end] != name:
                            return template.number, messages, at
                        continue
                # The message has no body, or doesn't match.
                if not buffer.startswith(template.empty, name_end + template.placeholder):
                    break
                messages.append(
                    Message(envelope, int.from_bytes(buffer[name_end : name_end + template.placeholder], "big"), b"")
                )
                at = name_end + template.placeholder + len(template.empty)
                name_end = at + len(name)
                if buffer[at:name_end] != name:
                    return template.number, messages, at
            other = self._switch_template(buffer, at, name_end, template)
            if other is None:
                break
            template = other
        return (template.number, messages, at) if messages else self._learn(buffer, at, end, name_end)

    def _switch_template(self, buffer: bytes, at: int, name_end: int, template: _Template) -> _Template | None:
        """For a delivery that doesn't match the last one of its consumer: makes the template of an earlier one with the
        same exchange and routing key the current one, and returns it. None: the cache has no other."""
        method_end = at + 7 + int.from_bytes(buffer[at + 3 : at + 7], "big")
        other = self._routes.get(template.name + buffer[name_end + 8 : method_end])
        if other is None or other is template:
            return None
        self._templates[template.name] = other
        return other

    def method(self, buffer: bytes, at: int, end: int) -> tuple[int, Method, int] | None:
        """Decodes a method that has no content and leaves its channel open. None: the frame is not such a method, is
        not complete, or is for the general path to judge."""
        if end - at < 12:
            return None
        kind, number, size, index = _method_start(buffer, at)
        stop = at + 7 + size
        if kind != METHOD or stop >= end or buffer[stop] != 0xCE or size > self._limit:
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
        """The decoder of the method with this class and method index; `_decode_none` for one that the fast path leaves
        to the general path."""
        row = self._codec.by_index.get((int.from_bytes(index[:2], "big"), int.from_bytes(index[2:], "big")))
        if row is None:
            return _decode_none
        from_peer = row.sender in (self._peer, "B")
        plain = from_peer and not row.content and not row.name.startswith(("connection.", "channel."))
        self._methods[index] = decoder = self._codec.decoder(row.name) if plain else _decode_none
        return decoder

    def _learn(self, buffer: bytes, at: int, end: int, name_end: int) -> Found | None:
        """Decodes a message that matches no cached template, and caches a template made of it, by the bytes up to
        `name_end`. None: the frames are not complete, or are for the general path."""
        delivers = self._peer == "S"
        if buffer[at] != METHOD or buffer[at + 7 : at + 11] != (DELIVER if delivers else PUBLISH):
            return None
        _, number, size = prefix.unpack_from(buffer, at)
        method_end = at + 7 + size
        header = method_end + 8  # offset of the header frame's payload
        if header + 14 > end or name_end > method_end + 1 or buffer[method_end] != 0xCE:
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
        if max(size, header_size, body_size) > self._limit:
            return None
        encoded = buffer[header + 12 : header_end]
        tag, begin = (_size(buffer, name_end)[0], name_end + 8) if delivers else (0, name_end)
        if delivers:
            envelope = _delivered(buffer[at + 11 : name_end], buffer[begin:method_end], encoded)
        else:
            envelope = _published(buffer[at + 11 : method_end], encoded)
        if envelope is None:
            return None
        name, middle = buffer[at:name_end], buffer[begin : header + 4]
        self._cache(name, _Template(name, number, channel, envelope, middle, begin - name_end))
        if delivers:
            self._routes[name + buffer[begin:method_end]] = self._templates[name]
        return number, [Message(envelope, tag, buffer[body : after - 1])], after

    def _cache(self, name: bytes, template: _Template) -> None:
        # The caches are bounded in bytes too: the properties in a template may be as large as a frame.
        if len(self._templates) + len(self._routes) >= CACHE_SIZE or self._cached_bytes >= _CACHE_BYTES:
            self._templates.clear()
            self._routes.clear()
            self._cached_bytes = 0
        self._cached_bytes += template.size
        self._templates[name] = template


def _wait(size: int) -> int | None:
    """The size of a content, if it is small enough to wait for and read in one piece. None for a larger content: the
    general path reads its body as it arrives."""
    return size if size <= SMALL else None


def _decode_none(buffer: bytes, at: int, end: int) -> None:
    """Decodes nothing: the method is for the general path."""


# Bytes of all templates. A full cache of common templates has far fewer. Its objects take about three times as much.
_CACHE_BYTES = 2**20
_PUBLISH_MIN = 39  # bytes of a publish with all fields empty; the smallest delivery has 46


def _delivered(tag: bytes, rest: bytes, encoded: bytes) -> Envelope | None:
    """The envelope of a delivery. None: a field is malformed.

    tag: the encoded consumer tag. rest: the arguments after the delivery tag. encoded: the properties."""
    route = _route(rest[1:])
    if route is None or _text(tag) is None:
        return None
    return Envelope("basic.deliver", _text(tag), rest[0] & 1 == 1, *route, encoded)


def _published(arguments: bytes, encoded: bytes) -> Envelope | None:
    """The envelope of a publish. None: a field is malformed.

    arguments: the encoded arguments, from the ticket on. encoded: the properties."""
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
    """The text of a short string that takes exactly these bytes, or None."""
    try:
        text, end = decode_shortstr(octets, 0)
    except ProtocolSyntaxError:
        return None  # the general path raises the error
    return text if end == len(octets) else None


@lru_cache(CACHE_SIZE)
def _route(octets: bytes) -> tuple[str, str] | None:
    """Exchange and routing key, if they take exactly these bytes; else None."""
    cut = octets[0] + 1 if octets else 0
    exchange, key = _text(octets[:cut]), _text(octets[cut:])
    return None if exchange is None or key is None else (exchange, key)
