"""Frames: bytes to frames and back, the protocol header, and a body cut by frame_max (0-9-1 §2.3.5, §4.2).

A frame is type (1 byte), channel (2), size (4), the payload, and an end mark of 0xCE. The peer that sends the size
is not trusted. So the size is compared with frame_max before the reader waits for the payload, and no memory is
allocated because of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from ..errors import InvalidFrameError, InvalidProtocolHeader, ProtocolVersionMismatch
from ..parameters import Remedy
from ..spec import CONSTANTS

METHOD = CONSTANTS["frame-method"]
HEADER = CONSTANTS["frame-header"]
BODY = CONSTANTS["frame-body"]
HEARTBEAT = CONSTANTS["frame-heartbeat"]
END = b"\xce"
OVERHEAD = 8  # bytes of a frame without its payload
PART = 16384  # bytes; a larger payload of a body frame is passed on in parts, before it is complete

_KNOWN = frozenset((METHOD, HEADER, BODY, HEARTBEAT))
_NAMES = {value: name.removeprefix("frame-") for name, value in CONSTANTS.items() if 1 <= value <= 8}
_prefix = struct.Struct(">BHI")

HEARTBEAT_FRAME = _prefix.pack(HEARTBEAT, 0, 0) + END

# §4.2.2; 0-8 has the older layout, whose second byte after "AMQP" is the instance of the protocol.
PROTOCOL_HEADERS = {"0-9-1": b"AMQP\0\0\x09\x01", "0-8": b"AMQP\x01\x01\x08\x00"}
HEADER_SIZE = 8  # bytes
# The version that a protocol header asks for. The added ones were sent by old clients; RabbitMQ accepts them too.
_ASKED_FOR_BY = {header: version for version, header in PROTOCOL_HEADERS.items()}
_ASKED_FOR_BY |= {b"AMQP\x01\x01\x09\x01": "0-8", b"AMQP\x01\x01\x00\x09": "0-9-1"}


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """A frame of type `kind`."""
    return b"%b%b\xce" % (_prefix.pack(kind, channel, len(payload)), payload)


def body(channel: int, octets: bytes, frame_max: int) -> Iterator[bytes | memoryview]:
    """The body frames of one content, as chunks to be written in order. The body (`octets`) is not copied.

    frame_max: bytes of the largest frame; 0: no limit."""
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
    """Collects bytes until frames are complete.

    limit: bytes of the largest frame that the peer may send; 0: no limit.
    in_parts: the payload of a large body frame is returned in parts, as it arrives. So it is joined only once, with the
    rest of the body. The last part is returned when the frame end has arrived.
    left: bytes of this payload that are still to come; 0: no body frame is read in parts now.
    parts: the bytes that were kept, as they came."""

    __slots__ = ("_channel", "_have", "_in_parts", "_need", "left", "limit", "parts")

    def __init__(self, limit: int, in_parts: bool = False):
        self.limit = limit
        self._in_parts = in_parts
        self.parts: list[bytes] = []
        self._have = 0
        self._need = 0
        self._channel = 0  # of the body frame that is read in parts
        self.left = 0

    def feed(self, data: bytes) -> bytes:
        """The bytes that were kept, followed by `data`; b"" as long as the frame that they begin is not complete. So a
        large frame that arrives in small pieces is joined once, not with each piece."""
        if not self.parts:
            return data
        self.parts.append(data)
        self._have += len(data)
        if self._have < self._need:
            return b""
        joined = b"".join(self.parts)
        self.parts.clear()
        return joined

    def keep(self, buffer: bytes, at: int, need: int = 0) -> None:
        """Keeps the bytes from offset `at` for the next `feed`: the beginning of a frame, or of several frames with a
        total size of `need` bytes."""
        rest = buffer[at:]
        if not rest:
            return
        self.parts.append(rest)
        self._have = len(rest)
        if need or self.left:
            self._need = need
        elif len(rest) < _prefix.size:
            self._need = _prefix.size
        else:
            kind, _, size = _prefix.unpack_from(rest)
            self._need = OVERHEAD + (min(size, PART) if kind == BODY and self._in_parts else size)

    def next(self, buffer: bytes, at: int) -> tuple[int, int, Any, int] | None:
        """(type, channel, payload, offset of the next frame) of the frame at offset `at`; None: it is not complete. The
        payload is bytes; a part of one is a memoryview. InvalidFrameError: the frame is too large, of no known type, or
        doesn't end with 0xCE."""
        if self.left:
            return self._part(buffer, at)
        if len(buffer) - at < _prefix.size:
            return None
        kind, channel, size = _prefix.unpack_from(buffer, at)
        if kind not in _KNOWN:
            raise InvalidFrameError(
                f"a frame of unknown type {kind} ({_NAMES.get(kind, 'no such type')}) arrived on channel {channel}"
            )
        if self.limit and size + OVERHEAD > self.limit:
            raise InvalidFrameError(
                f"a frame of {size + OVERHEAD} bytes arrived on channel {channel}; frame_max is {self.limit}"
            )
        begin = at + _prefix.size
        end = begin + size
        if self._in_parts and kind == BODY and size > PART:
            self._channel, self.left = channel, size
            part = self._part(buffer, begin) if len(buffer) - begin >= PART else None
            if part is None:
                self.left = 0
            return part
        if len(buffer) <= end:
            return None
        self._check_end(kind, channel, buffer[end])
        return kind, channel, buffer[begin:end], end + 1

    def _part(self, buffer: bytes, at: int) -> tuple[int, int, Any, int] | None:
        """As `next`, with the part of the payload that has arrived. The last byte of the payload is returned only when
        the frame end has arrived."""
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

    def begun_frame(self) -> tuple[bytes, int]:
        """The bytes that were kept; and how many of the payload and end of a frame read in parts are still to come,
        those kept included."""
        if not self.left:
            return b"".join(self.parts), 0
        return b"", self.left + len(END) - sum(map(len, self.parts))

    @staticmethod
    def _check_end(kind: int, channel: int, octet: int) -> None:
        if octet != END[0]:
            raise InvalidFrameError(f"a {_NAMES[kind]} frame on channel {channel} ends with {octet:#04x}, not 0xce")


def version_of(header: bytes) -> str:
    """The version that a client's protocol header asks for. ProtocolVersionMismatch: a version that we don't speak.
    InvalidProtocolHeader: the header is not AMQP's."""
    version = _ASKED_FOR_BY.get(header)
    if version is not None:
        return version
    if header.startswith(b"AMQP"):
        raise ProtocolVersionMismatch(f"the peer speaks AMQP {_version_in(header)}; we speak 0-9-1 and 0-8")
    raise InvalidProtocolHeader(f"the peer does not speak AMQP: its first bytes are {header!r}")


def mismatch(header: bytes, ours: str) -> ProtocolVersionMismatch | InvalidProtocolHeader:
    """The error for a client that asked for version `ours` and got `header`, a protocol header, in answer."""
    if header.startswith(b"AMQP"):
        remedy = "; RabbitMQ speaks no 0-8 since 4.0: write protocol='0-9-1'" if ours == "0-8" else ""
        return ProtocolVersionMismatch(
            f"the broker wants AMQP {_version_in(header)}; we asked for {ours} (parameter protocol){remedy}"
        )
    hint = f"; it speaks TLS: {Remedy.WITH_TLS}" if header.startswith(b"\x15\x03") else ""
    return InvalidProtocolHeader(f"the peer does not speak AMQP: its first bytes are {header!r}{hint}")


def _version_in(header: bytes) -> str:
    """The version in a protocol header, for an error message."""
    versions = {octets: version for version, octets in PROTOCOL_HEADERS.items()}
    return versions.get(header) or "-".join(map(str, header[5:8])) + f" (header {header!r})"
