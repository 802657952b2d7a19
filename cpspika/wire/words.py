"""Frames in words: the bytes of one direction of a link, told frame by frame. For tracing and logs, which look on.

Nothing is judged here, and nothing raises: bytes that are no frame are told as such, once. The content of a body is
never told, nor the value of an argument that holds a secret (`codec.SECRETS`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..errors import AMQPError
from . import frames
from .codec import Codec, property_codec
from .fast_send import prefix
from .message import BASIC, PROPERTIES_AT

_header = struct.Struct(">HHQ")
_KINDS = frozenset((frames.METHOD, frames.HEADER, frames.BODY, frames.HEARTBEAT))


class Told(NamedTuple):
    """A frame in words. is_method: of a method frame."""

    text: str
    is_method: bool


class FrameTeller:
    """Tells the frames of one direction. The bytes may be cut anywhere.

    version: of the protocol. begun: the beginning of a frame that came before; left: bytes of a body frame that are
    still to come, for one who looks on only from now."""

    def __init__(self, version: str, begun: bytes = b"", left: int = 0):
        self._codec = Codec.of(version)
        self._buffer = bytearray(begun)
        self._skip = left
        self._is_lost = False  # nobody knows where the next frame begins

    def tell(self, chunks: Iterable[bytes | memoryview]) -> Iterator[Told]:
        """The frames that these bytes complete. A body frame is told when it begins."""
        for chunk in chunks:
            skipped = min(self._skip, len(chunk)) if not self._buffer else 0
            self._skip -= skipped
            if not self._is_lost:
                self._buffer += chunk[skipped:]
                yield from self._frames()

    def _frames(self) -> Iterator[Told]:
        buffer = self._buffer
        while buffer:
            if self._skip:
                skipped = min(self._skip, len(buffer))
                del buffer[:skipped]
                self._skip -= skipped
                continue
            if buffer[: len(b"AMQP")] == b"AMQP"[: len(buffer)]:
                if len(buffer) < frames.HEADER_SIZE:
                    return
                yield Told(f"protocol header {bytes(buffer[: frames.HEADER_SIZE])!r}", False)
                del buffer[: frames.HEADER_SIZE]
                continue
            if len(buffer) < prefix.size:
                return
            kind, number, size = prefix.unpack_from(buffer)
            where = f"channel {number} " if number else ""
            end = prefix.size + size
            if kind == frames.BODY:
                yield Told(f"{where}body, {size} bytes", False)
                del buffer[: prefix.size]
                self._skip = size + 1
                continue
            if kind in _KINDS and len(buffer) <= end:
                return
            if kind not in _KINDS or buffer[end] != frames.END[0]:
                yield Told("bytes that are no frame; the rest is not told", False)
                self._is_lost = True
                buffer.clear()
                return
            payload = bytes(buffer[prefix.size : end])
            del buffer[: end + 1]
            yield Told(where + self._payload(kind, payload), kind == frames.METHOD)

    def _payload(self, kind: int, payload: bytes) -> str:
        try:
            if kind == frames.METHOD:
                return repr(self._codec.decode(payload))
            if kind == frames.HEADER:
                return _told_header(payload)
        except (AMQPError, struct.error):
            return f"a {'method' if kind == frames.METHOD else 'header'} that is malformed, {len(payload)} bytes"
        return "heartbeat"


def _told_header(payload: bytes) -> str:
    class_index, _, size = _header.unpack_from(payload)
    properties = property_codec(BASIC).decode(payload, PROPERTIES_AT) if class_index == BASIC else {}
    told = "".join(f", {name}={value!r}" for name, value in properties.items())
    return f"header of a body of {size} bytes{told}"
