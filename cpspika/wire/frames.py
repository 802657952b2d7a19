"""Frames: bytes to frames and back, the protocol header, and a body cut by frame_max (0-9-1 §2.3.5, §4.2).

A frame is type (1 byte), channel (2), size (4), the payload, and an end mark of 0xCE. The size is a stranger's word: it
is held against frame_max before a byte is waited for, and nothing is set aside on its account.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from ..errors import InvalidFrameError, InvalidProtocolHeader, ProtocolVersionMismatch
from ..spec import CONSTANTS

METHOD = CONSTANTS["frame-method"]
HEADER = CONSTANTS["frame-header"]
BODY = CONSTANTS["frame-body"]
HEARTBEAT = CONSTANTS["frame-heartbeat"]
END = b"\xce"
OVERHEAD = 8
PART = 16384  # bytes of a body frame's payload that are worth handing on before the rest has come

_KNOWN = frozenset((METHOD, HEADER, BODY, HEARTBEAT))
_NAMES = {value: name.removeprefix("frame-") for name, value in CONSTANTS.items() if 1 <= value <= 8}
_prefix = struct.Struct(">BHI")

HEARTBEAT_FRAME = _prefix.pack(HEARTBEAT, 0, 0) + END

# §4.2.2; 0-8 has the older form, whose second byte is the instance of the protocol.
PROTOCOL_HEADERS = {"0-9-1": b"AMQP\0\0\x09\x01", "0-8": b"AMQP\x01\x01\x08\x00"}
HEADER_SIZE = 8
# What clients of old sent as well, and RabbitMQ takes.
_ASKED_FOR_BY = {header: version for version, header in PROTOCOL_HEADERS.items()}
_ASKED_FOR_BY |= {b"AMQP\x01\x01\x09\x01": "0-8", b"AMQP\x01\x01\x00\x09": "0-9-1"}


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return b"%b%b\xce" % (_prefix.pack(kind, channel, len(payload)), payload)


def body(channel: int, octets: bytes, frame_max: int) -> Iterator[bytes | memoryview]:
    """The body frames of one content, as chunks to be written in order; a large body is not copied."""
    limit = frame_max - OVERHEAD if frame_max else 0x7FFFFFFF
    if len(octets) <= limit:
        if octets:
            yield _prefix.pack(BODY, channel, len(octets))
            yield octets
            yield END
        return
    view = memoryview(octets)
    for start in range(0, len(octets), limit):
        piece = view[start : start + limit]
        yield _prefix.pack(BODY, channel, len(piece))
        yield piece
        yield END


class FrameReader:
    """Collects what arrives until frames are whole. `limit`: the largest frame that is taken, in bytes; 0: any.

    With `in_parts` the payload of a body frame that is large is handed on as it arrives, so that it isn't put together
    twice. The last part comes when the frame's end has been seen. `left`: bytes of it that are still to come."""

    __slots__ = ("_channel", "_have", "_in_parts", "_need", "_parts", "left", "limit")

    def __init__(self, limit: int, in_parts: bool = False):
        self.limit = limit
        self._in_parts = in_parts
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0
        self._channel = 0  # of the body frame that is under way...
        self.left = 0  # ...and how much of its payload is still to come

    def feed(self, data: bytes) -> bytes:
        """`data` with what was kept before it; empty while the frame that was begun isn't whole yet, so that a
        large one arriving in small pieces is put together once, not at each piece."""
        if not self._parts:
            return data
        self._parts.append(data)
        self._have += len(data)
        if self._have < self._need:
            return b""
        whole = b"".join(self._parts)
        self._parts.clear()
        return whole

    def keep(self, buffer: bytes, at: int, need: int = 0) -> None:
        """Keeps the beginning of a frame for the next `feed`, or of frames that take `need` bytes together."""
        rest = buffer[at:]
        if not rest:
            return
        self._parts.append(rest)
        self._have = len(rest)
        if need or self.left:
            self._need = need
        elif len(rest) < _prefix.size:
            self._need = _prefix.size
        else:
            kind, _, size = _prefix.unpack_from(rest)
            self._need = OVERHEAD + (min(size, PART) if kind == BODY and self._in_parts else size)

    def next(self, buffer: bytes, at: int) -> tuple[int, int, Any, int] | None:
        """(type, channel, payload, offset of what follows), or None where the frame isn't whole. The payload is bytes,
        a part of one a memoryview.
        InvalidFrameError: it is none that we may take."""
        if self.left:
            return self._part(buffer, at)
        if len(buffer) - at < _prefix.size:
            return None
        kind, channel, size = _prefix.unpack_from(buffer, at)
        if kind not in _KNOWN:
            raise InvalidFrameError(
                f"a frame of unknown type {kind} ({_NAMES.get(kind, 'no such type')}) on channel {channel}"
            )
        if self.limit and size + OVERHEAD > self.limit:
            raise InvalidFrameError(
                f"a frame of {size + OVERHEAD} bytes on channel {channel}; frame_max is {self.limit}"
            )
        begin = at + _prefix.size
        end = begin + size
        if self._in_parts and kind == BODY and size > PART:
            self._channel, self.left = channel, size
            found = self._part(buffer, begin) if len(buffer) - begin >= PART else None
            if found is None:
                self.left = 0
            return found
        if len(buffer) <= end:
            return None
        self._check_end(kind, channel, buffer[end])
        return kind, channel, buffer[begin:end], end + 1

    def _part(self, buffer: bytes, at: int) -> tuple[int, int, Any, int] | None:
        """What there is of the body frame's payload; its last byte only together with the frame's end."""
        have = len(buffer) - at
        if have > self.left:
            end = at + self.left
            self.left = 0
            self._check_end(BODY, self._channel, buffer[end])
            return BODY, self._channel, memoryview(buffer)[at:end], end + 1
        size = min(have, self.left - 1)
        if size <= 0:
            return None
        self.left -= size
        return BODY, self._channel, memoryview(buffer)[at : at + size], at + size

    @staticmethod
    def _check_end(kind: int, channel: int, octet: int) -> None:
        if octet != END[0]:
            raise InvalidFrameError(f"a {_NAMES[kind]} frame on channel {channel} ends with {octet:#04x}, not 0xce")


def version_of(header: bytes) -> str:
    """The version that a client's protocol header asks for."""
    version = _ASKED_FOR_BY.get(header)
    if version is not None:
        return version
    if header.startswith(b"AMQP"):
        raise ProtocolVersionMismatch(f"the peer speaks AMQP {_spoken(header)}; we speak 0-9-1 and 0-8")
    raise InvalidProtocolHeader(f"the peer does not speak AMQP: it began with {header!r}")


def mismatch(header: bytes, ours: str) -> ProtocolVersionMismatch | InvalidProtocolHeader:
    """What a server's refusal, a protocol header of its own, says to a client that asked for version `ours`."""
    if header.startswith(b"AMQP"):
        return ProtocolVersionMismatch(f"the broker wants AMQP {_spoken(header)}; we asked for {ours}")
    hint = "; it speaks TLS: use amqps://" if header.startswith(b"\x15\x03") else ""
    return InvalidProtocolHeader(f"the peer does not speak AMQP: it began with {header!r}{hint}")


def _spoken(header: bytes) -> str:
    versions = {octets: version for version, octets in PROTOCOL_HEADERS.items()}
    return versions.get(header) or "-".join(map(str, header[5:8])) + f" (header {header!r})"
