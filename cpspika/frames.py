"""Frames: bytes to frames and back, the protocol header, and a body cut by frame_max (0-9-1 §2.3.5, §4.2).

A frame is type (1 byte), channel (2), size (4), the payload, and an end mark of 0xCE. The size is a stranger's word: it
is held against frame_max before a byte is waited for, and nothing is set aside on its account.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .errors import InvalidFrameError, InvalidProtocolHeader, ProtocolVersionMismatch
from .spec import CONSTANTS

METHOD = CONSTANTS["frame-method"]
HEADER = CONSTANTS["frame-header"]
BODY = CONSTANTS["frame-body"]
HEARTBEAT = CONSTANTS["frame-heartbeat"]
MIN_SIZE = CONSTANTS["frame-min-size"]
END = b"\xce"
OVERHEAD = 8

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
    """Collects what arrives until frames are whole. `limit`: the largest frame that is taken, in bytes; 0: any."""

    __slots__ = ("_have", "_need", "_parts", "limit")

    def __init__(self, limit: int):
        self.limit = limit
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0

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

    def keep(self, buffer: bytes, at: int) -> None:
        """Keeps the beginning of a frame for the next `feed`."""
        rest = buffer[at:]
        if rest:
            self._parts.append(rest)
            self._have = len(rest)
            self._need = OVERHEAD + _prefix.unpack_from(rest)[2] if len(rest) >= _prefix.size else _prefix.size

    def next(self, buffer: bytes, at: int) -> tuple[int, int, bytes, int] | None:
        """(type, channel, payload, offset of what follows), or None where the frame isn't whole.
        InvalidFrameError: it is none that we may take."""
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
        if len(buffer) <= end:
            return None
        if buffer[end] != END[0]:
            raise InvalidFrameError(
                f"a {_NAMES[kind]} frame on channel {channel} ends with {buffer[end]:#04x}, not 0xce"
            )
        return kind, channel, buffer[begin:end], end + 1


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
