"""Encoders and decoders of the field types: integers, strings, timestamps and tables (0-9-1 §4.2.5).

Field tables have two dialects. 0-8 has five types of values (S, I, D, T, F). For 0-9-1 the specification and the
brokers disagree; brokers use RabbitMQ's types ("errata" in its documentation: `s` is a short integer, `l` a signed
64-bit integer, `x` a byte array). Both versions decode all types of both dialects. Each version encodes a value by a
type of its own dialect, if that has one for the value. Message headers are alike in both versions, with the types of
0-9-1.

Python to table: bool, int (32 bits if it fits, else 64), float, Decimal, str, bytes, datetime (whole seconds), dict,
list or tuple, None. Table to Python: a longstr that is valid UTF-8 becomes str, any other becomes bytes; a timestamp
becomes an aware datetime in UTC, or `Seconds`.

A decoder is `decode(data, at) -> (value, offset of the next field)`. Whatever the bytes are, it raises
ProtocolSyntaxError or nothing, and allocates memory only for bytes that have arrived. An encoder is
`encode(name, value) -> bytes`, where `name` is what an error message calls the value.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from math import isfinite
from typing import Any

from ..errors import InvalidArgument, InvalidArgumentType, InvalidTableError, ProtocolSyntaxError
from ..parameters import to_octets

FieldDecoder = Callable[[bytes, int], "tuple[Any, int]"]
FieldEncoder = Callable[[str, Any], bytes]

MAX_DEPTH = 100  # tables inside tables; without a limit a peer could exhaust the stack
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

# --- decoding ---------------------------------------------------------------------------------------------------------


def _number(code: str) -> FieldDecoder:
    """The decoder of a number, by its format in `struct`."""
    layout = struct.Struct(">" + code)
    unpack, size = layout.unpack_from, layout.size

    def decode(data: bytes, at: int) -> tuple[Any, int]:
        try:
            return unpack(data, at)[0], at + size
        except struct.error:
            raise _truncated(data, at, size) from None

    return decode


decode_octet, decode_short, decode_long, decode_longlong = (_number(code) for code in "BHIQ")
_long = struct.Struct(">I")
_unpack_long, _pack_long = _long.unpack_from, _long.pack


def _truncated(data: bytes, at: int, wanted: int) -> ProtocolSyntaxError:
    return ProtocolSyntaxError(f"a field of {wanted} bytes at offset {at} goes past the end of the data, {len(data)}")


def _slice(data: bytes, at: int, size: int) -> bytes:
    end = at + size
    if end > len(data):
        raise _truncated(data, at, size)
    return data[at:end]


def decode_longstr(data: bytes, at: int) -> tuple[bytes, int]:
    """A long string: up to 4 GiB, as bytes."""
    size, at = decode_long(data, at)
    return _slice(data, at, size), at + size


def decode_shortstr(data: bytes, at: int) -> tuple[str, int]:
    """A short string: up to 255 bytes, as str."""
    # Some publishers use other encodings in routing keys. With surrogateescape, bytes that are not UTF-8 are decoded to
    # a str that encodes to the same bytes.
    begin = at + 1
    try:
        end = begin + data[at]
    except IndexError:
        raise _truncated(data, at, 1) from None
    if end > len(data):
        raise _truncated(data, begin, end - begin)
    return data[begin:end].decode("utf-8", "surrogateescape"), end


class Seconds(int):
    """A timestamp outside the years 1 to 9999, as its number of seconds since 1970."""

    __slots__ = ()


def decode_timestamp(data: bytes, at: int) -> tuple[datetime | Seconds, int]:
    """An aware datetime in UTC; or, outside the years 1 to 9999, the number of seconds. Some programs send milliseconds
    in place of seconds, and one such message must not end every connection that receives it. The number is signed:
    clients write times before 1970 so (Java, Go), though the specification says nothing of them."""
    seconds, at = _decode_signed_longlong(data, at)
    try:
        return EPOCH + timedelta(seconds=seconds), at
    except OverflowError:
        return Seconds(seconds), at


def decode_table(data: bytes, at: int, depth: int = 0) -> tuple[dict[str, Any], int]:
    """A field table, as a dict. depth: the number of tables and arrays around this one."""
    end, at = _nested(data, at, depth)
    table: dict[str, Any] = {}
    while at < end:
        # The name and the commonest values are decoded here: calls would take most of the time. A name or a text that
        # claims to be longer than the table moves `at` past the end, and `_ended` or `_decode_value` raises.
        begin = at + 1
        at = begin + data[at]
        name = data[begin:at].decode("utf-8", "surrogateescape")
        kind = data[at : at + 1]
        if kind == b"S" and at + 5 <= end:
            begin = at + 5
            at = begin + _unpack_long(data, at + 1)[0]
            text = data[begin:at]
            try:
                table[name] = text.decode()
            except UnicodeDecodeError:
                table[name] = text
        elif kind == b"t" and at + 2 <= end:
            table[name] = data[at + 1] != 0
            at += 2
        elif kind == b"V":
            table[name] = None
            at += 1
        else:
            table[name], at = _decode_value(data, at, depth)
    return table, _ended(at, end)


def _decode_array(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    end, at = _nested(data, at, depth)
    values = []
    while at < end:
        value, at = _decode_value(data, at, depth)
        values.append(value)
    return values, _ended(at, end)


def _nested(data: bytes, at: int, depth: int) -> tuple[int, int]:
    """(end, offset of the first field) of a table or array."""
    size, at = decode_long(data, at)
    if at + size > len(data):
        raise InvalidTableError(f"a table of {size} bytes at offset {at} goes past the end of the data, {len(data)}")
    if depth > MAX_DEPTH:
        raise InvalidTableError(f"a table is nested deeper than {MAX_DEPTH}")
    return at + size, at


def _ended(at: int, end: int) -> int:
    if at != end:
        raise InvalidTableError(f"the last field of a table ends at offset {at}, the table at {end}")
    return at


def _decode_value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    kind = data[at : at + 1]
    decode = _DECODERS.get(kind)
    if decode is not None:
        return decode(data, at + 1)
    if kind == b"F":
        return decode_table(data, at + 1, depth + 1)
    if kind == b"A":
        return _decode_array(data, at + 1, depth + 1)
    raise InvalidTableError(f"a table field of unknown type {kind!r} at offset {at}")


def _decode_text(data: bytes, at: int) -> tuple[str | bytes, int]:
    raw, at = decode_longstr(data, at)
    try:
        return raw.decode(), at
    except UnicodeDecodeError:
        return raw, at


def _decode_bool(data: bytes, at: int) -> tuple[bool, int]:
    value, at = decode_octet(data, at)
    return value != 0, at


def _decode_decimal(data: bytes, at: int) -> tuple[Decimal, int]:
    scale, at = decode_octet(data, at)
    digits, at = _decode_signed_long(data, at)
    return Decimal((digits < 0, tuple(map(int, str(abs(digits)))), -scale)), at


def _decode_void(data: bytes, at: int) -> tuple[None, int]:
    return None, at


_decode_signed_long, _decode_signed_longlong = _number("i"), _number("q")

_DECODERS: dict[bytes, FieldDecoder] = {
    b"t": _decode_bool,
    b"b": _number("b"),
    b"B": decode_octet,
    b"s": _number("h"),
    b"u": decode_short,
    b"U": _number("h"),
    b"I": _decode_signed_long,
    b"i": decode_long,
    b"l": _number("q"),
    b"L": _number("q"),
    b"f": _number("f"),
    b"d": _number("d"),
    b"D": _decode_decimal,
    b"S": _decode_text,
    b"T": decode_timestamp,
    b"V": _decode_void,
    b"x": decode_longstr,
}

# --- encoding ---------------------------------------------------------------------------------------------------------


def _integer(code: str) -> FieldEncoder:
    """The encoder of an unsigned integer, by its format in `struct`."""
    layout = struct.Struct(">" + code)
    limit = 256**layout.size - 1

    def encode(name: str, value: Any) -> bytes:
        try:
            return layout.pack(value)
        except struct.error:
            if not isinstance(value, int):
                raise _wrong_type(name, "an int", value) from None
            raise InvalidArgument(f"{name}={value} is not between 0 and {limit}") from None

    return encode


encode_octet, encode_short, encode_long, encode_longlong = (_integer(code) for code in "BHIQ")


def _wrong_type(name: str, wanted: str, value: Any) -> InvalidArgumentType:
    return InvalidArgumentType(f"{name} takes {wanted}, not {type(value).__name__}")


def _octets(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        octets = to_octets(value)
        if octets is None:
            raise InvalidArgument(f"{name} has characters that UTF-8 cannot encode")
        return octets
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise _wrong_type(name, "a str", value)


def encode_shortstr(name: str, value: Any) -> bytes:
    """A str or bytes of at most 255 bytes, in UTF-8."""
    octets = value.encode() if value.__class__ is str and value.isascii() else _octets(name, value)
    if len(octets) > 255:
        raise InvalidArgument(f"{name} is {len(octets)} bytes long; AMQP allows 255")
    return b"%c%b" % (len(octets), octets)


def encode_longstr(name: str, value: Any) -> bytes:
    """A str (in UTF-8) or bytes."""
    octets = _octets(name, value)
    return _pack_long(len(octets)) + octets


def encode_timestamp(name: str, value: Any) -> bytes:
    """A datetime (a naive one counts as UTC), or an int: whole seconds since 1970, negative before."""
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
        value = (aware - EPOCH) // timedelta(seconds=1)
    if isinstance(value, int) and -(2**63) <= value < 0:
        return struct.pack(">q", value)
    return encode_longlong(name, value)


class EncodedTable(bytes):
    """A field table that is encoded already, its size included: `encode_table` returns it as it is."""

    __slots__ = ()


def encode_table(name: str, value: Any, dialect: str = "0-9-1", depth: int = 0) -> bytes:
    """A dict of str to values; None is an empty table. dialect: "0-9-1" or "0-8". depth: as of `decode_table`."""
    if value is None:
        return b"\0\0\0\0"
    if not isinstance(value, Mapping):
        if isinstance(value, EncodedTable):
            return value
        raise _wrong_type(name, "a dict", value)
    _check_depth(name, depth)
    parts = []
    for key, item in value.items():
        # As in `decode_table`, the commonest are encoded here.
        if key.__class__ is str and len(key) < 256 and key.isascii():
            parts.append(b"%c%b" % (len(key), key.encode()))
        else:
            parts.append(encode_shortstr(f"a key of {name}", key))
        if item.__class__ is str and item.isascii():
            parts.append(b"S%b%b" % (_pack_long(len(item)), item.encode()))
        elif item is None:
            parts.append(b"V")
        elif item.__class__ is bool:
            parts.append(b"t\1" if item else b"t\0")
        else:
            parts.append(_encode_value(f"{name}[{key!r}]", item, dialect, depth))
    return _sized(parts)


def _encode_array(name: str, values: Any, dialect: str, depth: int) -> bytes:
    _check_depth(name, depth)
    return _sized([_encode_value(f"{name}[{i}]", item, dialect, depth) for i, item in enumerate(values)])


def _check_depth(name: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidArgument(f"{name.partition('[')[0]} is nested deeper than {MAX_DEPTH} tables or lists")


def _sized(parts: list[bytes]) -> bytes:
    """The encoded fields of a table or array, after their size."""
    body = b"".join(parts)
    return _pack_long(len(body)) + body


def _encode_value(name: str, value: Any, dialect: str, depth: int) -> bytes:
    for kind, encode in _ENCODERS:
        if isinstance(value, kind):
            return encode(name, value, dialect)
    if isinstance(value, Mapping):
        return b"F" + encode_table(name, value, dialect, depth + 1)
    if isinstance(value, (list, tuple)):
        return b"A" + _encode_array(name, value, dialect, depth + 1)
    raise _wrong_type(name, "bool, int, float, Decimal, str, bytes, datetime, dict, list or None", value)


def _encode_int(name: str, value: int, dialect: str) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"I" + struct.pack(">i", value)
    if isinstance(value, Seconds):
        return b"T" + encode_timestamp(name, value)
    if -(2**63) <= value < 2**63:
        return b"l" + struct.pack(">q", value)
    raise InvalidArgument(f"{name}={value} does not fit in 64 bits")


def _encode_float(name: str, value: float, dialect: str) -> bytes:
    if not isfinite(value):
        raise InvalidArgument(
            f"{name}={value} is not a finite number; RabbitMQ cannot read it and closes the connection. Send None or "
            "a str in its place, or leave it out"
        )
    return b"d" + struct.pack(">d", value)


def _encode_decimal(name: str, value: Decimal, dialect: str) -> bytes:
    # Without decimal arithmetic, because the program's decimal context might round or raise.
    sign, digits, exponent = value.as_tuple()
    if isinstance(exponent, str):
        raise InvalidArgument(f"{name}={value} is not a finite number; AMQP has no other decimals")
    scale, padding = max(0, -exponent), max(0, exponent)
    unscaled = 2**31
    if len(digits) + padding <= 20:
        unscaled = int("".join(map(str, digits))) * 10**padding * (-1 if sign else 1)
    if scale > 255 or not -(2**31) <= unscaled < 2**31:
        raise InvalidArgument(
            f"{name}={value} does not fit AMQP's 32-bit decimal (a 32-bit integer, with 0 to 255 decimal places)"
        )
    return b"D" + struct.pack(">Bi", scale, unscaled)


_ENCODERS: tuple[tuple[Any, Callable[[str, Any, str], bytes]], ...] = (
    (str, lambda name, value, dialect: b"S" + encode_longstr(name, value)),
    (bool, lambda name, value, dialect: b"t\1" if value else b"t\0"),
    (int, _encode_int),
    (
        (bytes, bytearray, memoryview),
        lambda name, value, dialect: (b"S" if dialect == "0-8" else b"x") + encode_longstr(name, value),
    ),
    (float, _encode_float),
    (datetime, lambda name, value, dialect: b"T" + encode_timestamp(name, value)),
    (Decimal, _encode_decimal),
    (type(None), lambda name, value, dialect: b"V"),
)
