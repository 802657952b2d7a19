"""The lanes: publish, deliver and acknowledge, made to be fast.

Nearly all that a messaging program does is these three, so each has a road of its own beside the general one, and
`tests/test_lanes.py` holds lane and road to the same bytes and the same events on random input, cut at every byte.

*Publish.* One on the general road costs an encoder step for each of its five arguments, three frames, and a walk
through the state table; and a program that publishes a million messages pays a million times for the same bytes.
What comes before the body depends on exchange, routing key, flags and properties alone. So the method's frame is
kept, already made, for each exchange and routing key of a channel; the properties keep their own bytes (see `message`);
and what differs, two lengths and the body, is put between in one formatting. A small message leaves as one piece of
bytes, which costs the transport less than four.

The lane takes only what it can take as it is: an open channel, a body that fits one frame. Anything else goes by
`Link.send_content`.

*Deliver.* The method, header and body of one small message mostly lie in the buffer together. They are read in one pass
over fixed places, without an object for each frame or a dict of arguments; the consumer's tag, and exchange and routing
key, which repeat from message to message, are looked up by their bytes. Whatever looks different in any way (a frame
that isn't whole, a body in pieces, a wrong end) is left as it is, for the road to read and to judge.

*Acknowledge.* A basic.ack is 21 bytes, of which the channel, the tag and a bit differ.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from .fields import read_shortstr
from .frames import BODY, HEADER, METHOD
from .message import Message

BASIC = 60
KEPT = 1000  # method frames kept, of all channels; past that the book begins anew
SMALL = 16384  # bytes up to which copying a body into one piece is cheaper than handing it on by itself

_header = struct.Struct(">BHIHHQ").pack  # type, channel, size, class, weight, body size
_body = struct.Struct(">BHI").pack
_HEADER_FIXED = 12  # class, weight and body size


class PublishLane:
    """The lane of one link. `method_frame(number, exchange, routing_key)` makes, by the road, what isn't kept."""

    __slots__ = ("_method_frame", "_methods")

    def __init__(self, method_frame: Callable[[int, str, str], bytes]):
        self._method_frame = method_frame
        self._methods: dict[Any, bytes] = {}

    def pack(self, number: int, exchange: str, routing_key: str, properties: bytes, body: bytes) -> list[bytes]:
        """The chunks of a publish without flags, whose body is of one frame at the most."""
        key = number, exchange, routing_key
        try:
            method = self._methods.get(key)
        except TypeError:  # no str at all; the road says so in better words
            method = None
        if method is None:
            if len(self._methods) >= KEPT:
                self._methods.clear()
            method = self._methods[key] = self._method_frame(number, exchange, routing_key)
        size = len(body)
        head = _header(HEADER, number, _HEADER_FIXED + len(properties), BASIC, 0, size)
        if not size:
            return [b"%b%b%b\xce" % (method, head, properties)]
        if size <= SMALL:
            return [b"%b%b%b\xce%b%b\xce" % (method, head, properties, _body(BODY, number, size), body)]
        return [b"%b%b%b\xce%b" % (method, head, properties, _body(BODY, number, size)), body, b"\xce"]


_ack = struct.Struct(">BHIHHQBB").pack  # type, channel, size, class, method, tag, multiple, end


def pack_ack(number: int, tag: int, multiple: bool) -> bytes:
    """The frame of a basic.ack. struct.error: the tag is none."""
    return _ack(METHOD, number, 13, BASIC, 80, tag, 1 if multiple else 0, 0xCE)


_prefix = struct.Struct(">BHI").unpack_from
_delivery = struct.Struct(">QB").unpack_from
_size = struct.Struct(">Q").unpack_from
DELIVER = b"\0\x3c\0\x3c"  # class and method
_BASIC_HEADER = b"\0\x3c\0\0"  # class and weight
_LEAST = 7 + 4 + 1 + 9 + 2 + 1 + 7 + 14 + 1  # bytes of a delivery with nothing in it


class DeliverLane:
    """The lane of one link. `limit`: the largest frame that is taken, 0 for any."""

    __slots__ = ("_routes", "_tags", "limit")

    def __init__(self) -> None:
        self.limit = 0
        self._tags: dict[bytes, str] = {}
        self._routes: dict[bytes, tuple[str, str]] = {}

    def take(self, buffer: bytes, at: int) -> tuple[int, Message, int] | None:
        """(channel, message, offset of what follows) where a whole delivery of at most one body frame begins here."""
        end = len(buffer)
        if end - at < _LEAST or buffer[at] != METHOD or buffer[at + 7 : at + 11] != DELIVER:
            return None
        _, number, size = _prefix(buffer, at)
        method_end = at + 7 + size
        header = method_end + 8  # the header frame's payload
        if header + 12 > end or buffer[method_end] != 0xCE:
            return None
        kind, channel, header_size = _prefix(buffer, method_end + 1)
        header_end = header + header_size
        if kind != HEADER or channel != number or header_size < 14 or buffer[header : header + 4] != _BASIC_HEADER:
            return None
        if header_end >= end or buffer[header_end] != 0xCE:
            return None
        (body_size,) = _size(buffer, header + 4)
        body, after = self._body(buffer, header_end + 1, number, body_size, end)
        if body is None or (self.limit and max(size, header_size, body_size) + 8 > self.limit):
            return None
        tag_end = at + 12 + buffer[at + 11]
        if tag_end + 11 > method_end:
            return None
        tag = self._tags.get(buffer[at + 11 : tag_end]) or self._new_tag(buffer[at + 11 : tag_end])
        route = buffer[tag_end + 9 : method_end]
        exchange, key = self._routes.get(route) or self._new_route(route)
        if exchange is None or key is None:
            return None
        delivery_tag, bits = _delivery(buffer, tag_end)
        message = Message(
            "basic.deliver", tag, delivery_tag, bits & 1 == 1, exchange, key, buffer[header:header_end], body
        )
        return number, message, after

    @staticmethod
    def _body(buffer: bytes, at: int, number: int, size: int, end: int) -> tuple[bytes | None, int]:
        if not size:
            return b"", at
        after = at + 8 + size
        if after > end or buffer[after - 1] != 0xCE or _prefix(buffer, at) != (BODY, number, size):
            return None, at
        return buffer[at + 7 : after - 1], after

    def _new_tag(self, octets: bytes) -> str:
        if len(self._tags) >= KEPT:
            self._tags.clear()
        tag = self._tags[octets] = read_shortstr(octets, 0)[0]
        return tag

    def _new_route(self, octets: bytes) -> tuple[str, str] | tuple[None, None]:
        """Exchange and routing key; nothing where these bytes are not exactly both."""
        if len(octets) < 2 or octets[0] + 2 > len(octets) or octets[0] + octets[octets[0] + 1] + 2 != len(octets):
            return None, None
        exchange, at = read_shortstr(octets, 0)
        if len(self._routes) >= KEPT:
            self._routes.clear()
        route = self._routes[octets] = exchange, read_shortstr(octets, at)[0]
        return route
