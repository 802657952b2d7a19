"""The publish lane: the bytes of one publish, made to be fast.

A publish on the general road costs an encoder step for each of its five arguments, three frames, and a walk through the
state table; a program that publishes a million messages pays for that a million times, and nearly always for the same
bytes. What comes before the body depends on exchange, routing key, flags and properties alone. So the method's frame is
kept, already made, for each exchange and routing key of a channel; the properties keep their own bytes (see `message`);
and what differs, two lengths and the body, is put between in one formatting. A small message leaves as one piece of
bytes, which costs the transport less than four.

The lane takes only what it can take as it is: an open channel, a body that fits one frame. Anything else goes by the
general road, `Link.send_content`, and `tests/test_lanes.py` holds the two to the same bytes on random input.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from .frames import BODY, HEADER

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
