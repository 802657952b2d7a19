"""Field types to bytes and back, in both dialects; limits, and what garbage gets."""

from __future__ import annotations

import math
import struct
import tracemalloc
from datetime import datetime, timedelta, timezone
from decimal import Context, Decimal, Inexact, localcontext
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cpspika.errors import InvalidArgument, InvalidArgumentType, InvalidTableError, ProtocolSyntaxError
from cpspika.spec import VERSIONS
from cpspika.wire import fields

UTC = timezone.utc
SCALARS = {
    "octet": (fields.decode_octet, fields.encode_octet, 8),
    "short": (fields.decode_short, fields.encode_short, 16),
    "long": (fields.decode_long, fields.encode_long, 32),
    "longlong": (fields.decode_longlong, fields.encode_longlong, 64),
}

# --- strategies -------------------------------------------------------------------------------------------------------

datetimes = st.datetimes(min_value=datetime(1, 1, 1), timezones=st.just(UTC)).map(lambda d: d.replace(microsecond=0))
decimals = st.builds(
    lambda digits, scale: Decimal(digits).scaleb(-scale), st.integers(-(2**31), 2**31 - 1), st.integers(0, 255)
)
short_texts = st.text(max_size=60).filter(lambda text: len(text.encode()) <= 255)
leaves = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | decimals
    | datetimes
    | st.text(max_size=40)
    | st.none()
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(short_texts, inner, max_size=4), max_leaves=12
)
tables = st.dictionaries(short_texts, values, max_size=6)


def through(table: dict[str, Any], dialect: str = "0-9-1") -> dict[str, Any]:
    encoded = fields.encode_table("headers", table, dialect)
    decoded, end = fields.decode_table(encoded, 0)
    assert end == len(encoded)
    return decoded


def on_the_wire(kind: bytes, payload: bytes) -> Any:
    """The value that a table's field of this type and these bytes gives."""
    body = b"\1k" + kind + payload
    decoded, end = fields.decode_table(struct.pack(">I", len(body)) + body, 0)
    assert end == len(body) + 4
    return decoded["k"]


def longstr(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


# --- integers and strings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCALARS)
@given(data=st.data())
def test_an_integer_comes_back_from_the_middle_of_a_buffer(kind: str, data: st.DataObject) -> None:
    read, write, bits = SCALARS[kind]
    value = data.draw(st.integers(0, 2**bits - 1))
    encoded = write("n", value)
    assert len(encoded) == bits // 8
    assert read(b"ab" + encoded + b"c", 2) == (value, 2 + bits // 8)


@pytest.mark.parametrize("kind", SCALARS)
def test_an_integer_out_of_range_is_named_with_its_limits(kind: str) -> None:
    _, write, bits = SCALARS[kind]
    for wrong in (-1, 2**bits):
        with pytest.raises(InvalidArgument, match=f"^count={wrong} is not between 0 and {2**bits - 1}$"):
            write("count", wrong)


@pytest.mark.parametrize("kind", SCALARS)
@pytest.mark.parametrize("wrong", ["1", None, 1.0, b"1"], ids=repr)
def test_an_integer_of_another_type_is_a_type_error_that_names_it(kind: str, wrong: object) -> None:
    with pytest.raises(InvalidArgumentType, match=f"^count takes an int, not {type(wrong).__name__}$"):
        SCALARS[kind][1]("count", wrong)


@given(short_texts)
def test_a_shortstr_comes_back(text: str) -> None:
    encoded = fields.encode_shortstr("queue", text)
    assert fields.decode_shortstr(encoded + b"x", 0) == (text, len(encoded))


@given(st.binary(max_size=255))
def test_a_shortstr_of_any_bytes_goes_back_as_it_came(octets: bytes) -> None:
    text, _ = fields.decode_shortstr(bytes([len(octets)]) + octets, 0)
    assert fields.encode_shortstr("routing_key", text)[1:] == octets


def test_a_shortstr_takes_255_bytes_and_no_more() -> None:
    assert len(fields.encode_shortstr("queue", "q" * 255)) == 256
    for wrong, size in (("q" * 256, 256), ("é" * 128, 256), ("q" * 300, 300)):
        with pytest.raises(InvalidArgument, match=f"^queue is {size} bytes long; AMQP allows 255$"):
            fields.encode_shortstr("queue", wrong)


def test_a_str_that_utf_8_cannot_encode_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="queue"):
        fields.encode_shortstr("queue", "\ud800")


@pytest.mark.parametrize("write", [fields.encode_shortstr, fields.encode_longstr])
def test_a_string_of_another_type_is_a_type_error_that_names_it(write: fields.FieldEncoder) -> None:
    with pytest.raises(InvalidArgumentType, match=r"^queue takes a str, not int$"):
        write("queue", 5)


@given(st.binary())
def test_a_longstr_comes_back(octets: bytes) -> None:
    encoded = fields.encode_longstr("response", octets)
    assert fields.decode_longstr(encoded + b"x", 0) == (octets, len(encoded))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_every_kind_are_taken(kind: Any) -> None:
    assert fields.encode_longstr("response", kind(b"\0ab")) == b"\0\0\0\3\0ab"
    assert through({"k": kind(b"\0ab")}) == {"k": b"\0ab"}


# --- timestamps -------------------------------------------------------------------------------------------------------


@given(datetimes)
def test_a_timestamp_comes_back_aware_and_in_utc(moment: datetime) -> None:
    decoded, end = fields.decode_timestamp(fields.encode_timestamp("timestamp", moment), 0)
    assert (decoded, end) == (moment, 8)
    assert decoded.tzinfo is UTC


def test_a_naive_datetime_is_utc_and_another_zone_is_converted() -> None:
    noon = datetime(2024, 5, 17, 12, tzinfo=UTC)
    east = noon.astimezone(timezone(timedelta(hours=5, minutes=30)))
    seconds = struct.pack(">Q", int(noon.timestamp()))
    for moment in (noon, noon.replace(tzinfo=None), east, int(noon.timestamp())):
        assert fields.encode_timestamp("timestamp", moment) == seconds


def test_a_fraction_of_a_second_is_cut_off() -> None:
    assert fields.encode_timestamp("timestamp", datetime(1970, 1, 1, 0, 0, 1, 999_999)) == b"\0" * 7 + b"\1"


@pytest.mark.parametrize("moment", [datetime(1969, 12, 31, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)])
def test_a_datetime_before_1970_is_a_negative_number(moment: datetime) -> None:
    seconds = struct.pack(">q", (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1))
    assert fields.encode_timestamp("timestamp", moment) == seconds
    assert fields.decode_timestamp(seconds, 0) == (moment, 8)
    assert on_the_wire(b"T", seconds) == moment


@pytest.mark.parametrize("seconds", [2**63 - 1, 253402300800, -(2**63), -62135596801])
def test_a_timestamp_outside_the_years_1_to_9999_comes_as_the_number_that_it_is(seconds: int) -> None:
    octets = struct.pack(">q", seconds)
    assert fields.decode_timestamp(octets, 0) == (seconds, 8)
    assert on_the_wire(b"T", octets) == seconds


@given(st.binary(min_size=8, max_size=8))
def test_every_timestamp_in_a_table_is_written_again_as_it_came(octets: bytes) -> None:
    table = struct.pack(">I", 11) + b"\1tT" + octets
    assert fields.encode_table("headers", fields.decode_table(table, 0)[0]) == table


@pytest.mark.parametrize("seconds", [-(2**63), -1, 0, 2**63 - 1])
def test_seconds_come_back_to_the_ends_of_64_bits(seconds: int) -> None:
    octets = fields.encode_timestamp("timestamp", seconds)
    assert octets == struct.pack(">q", seconds)


@pytest.mark.parametrize("wrong", ["2024", b"1", 1.5, None])
def test_a_timestamp_of_another_type_is_a_type_error_that_names_it(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentType, match=f"^timestamp takes an int, not {type(wrong).__name__}$"):
        fields.encode_timestamp("timestamp", wrong)


@pytest.mark.parametrize("seconds", [2**64, -(2**63) - 1])
def test_a_timestamp_of_more_than_64_bits_is_refused(seconds: int) -> None:
    with pytest.raises(InvalidArgument, match="timestamp"):
        fields.encode_timestamp("timestamp", seconds)


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", VERSIONS)
@given(table=tables)
def test_a_table_comes_back_with_values_and_types(dialect: str, table: dict[str, Any]) -> None:
    decoded = through(table, dialect)
    assert decoded == table
    assert list(decoded) == list(table)
    assert _types(decoded) == _types(table)


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _types(item) for key, item in value.items()}
    return [_types(item) for item in value] if isinstance(value, list) else type(value)


@given(st.binary(max_size=30))
def test_bytes_keep_their_type_on_0_9_1(octets: bytes) -> None:
    decoded = through({"k": octets})["k"]
    assert decoded == octets
    assert type(decoded) is bytes


@given(st.binary(max_size=30))
def test_bytes_travel_as_a_longstr_on_0_8_and_come_back_as_text_where_they_are_utf_8(octets: bytes) -> None:
    decoded = through({"k": octets}, "0-8")["k"]
    assert decoded == octets if isinstance(decoded, bytes) else decoded.encode() == octets


def test_the_dialect_of_0_8_has_no_byte_array() -> None:
    assert fields.encode_table("t", {"k": b"v"}, "0-8") == b"\0\0\0\x08\1kS\0\0\0\1v"
    assert fields.encode_table("t", {"k": b"v"}, "0-9-1") == b"\0\0\0\x08\1kx\0\0\0\1v"


def test_the_dialect_reaches_nested_tables_and_lists() -> None:
    table = {"k": {"l": [b"v", {"m": b"w"}]}}
    assert b"x" not in fields.encode_table("t", table, "0-8")
    assert fields.encode_table("t", table, "0-9-1").count(b"x") == 2


@pytest.mark.parametrize(
    ("value", "kind", "payload"),
    [
        (True, b"t", b"\1"),
        (False, b"t", b"\0"),
        (0, b"I", bytes(4)),
        (2**31 - 1, b"I", b"\x7f\xff\xff\xff"),
        (-(2**31), b"I", b"\x80\0\0\0"),
        (2**31, b"l", b"\0\0\0\0\x80\0\0\0"),
        (-(2**31) - 1, b"l", b"\xff\xff\xff\xff\x7f\xff\xff\xff"),
        (2**63 - 1, b"l", b"\x7f" + b"\xff" * 7),
        (-(2**63), b"l", b"\x80" + bytes(7)),
        (1.5, b"d", struct.pack(">d", 1.5)),
        (Decimal("3.14"), b"D", b"\x02\0\0\x01\x3a"),
        (Decimal("-3"), b"D", b"\0\xff\xff\xff\xfd"),
        ("é", b"S", longstr("é".encode())),
        (datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC), b"T", struct.pack(">Q", 1_000_000_000)),
        ({"a": None}, b"F", longstr(b"\1aV")),
        ([1, "b"], b"A", longstr(b"I\0\0\0\1S" + longstr(b"b"))),
        ((), b"A", longstr(b"")),
        (None, b"V", b""),
    ],
    ids=repr,
)
def test_a_value_is_written_as_the_type_that_rabbitmq_reads(value: Any, kind: bytes, payload: bytes) -> None:
    assert fields.encode_table("t", {"k": value}) == longstr(b"\1k" + kind + payload)
    assert on_the_wire(kind, payload) == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize(
    ("kind", "payload", "value"),
    [
        (b"t", b"\x02", True),
        (b"b", b"\xfb", -5),
        (b"B", b"\xfb", 251),
        (b"s", b"\xff\xfe", -2),
        (b"u", b"\xff\xfe", 65534),
        (b"U", b"\xff\xfe", -2),
        (b"i", b"\xff\xff\xff\xfe", 2**32 - 2),
        (b"L", b"\xff" * 7 + b"\xfe", -2),
        (b"f", struct.pack(">f", 1.5), 1.5),
        (b"S", longstr(b"\xff\0"), b"\xff\0"),
        (b"x", longstr(b"text"), b"text"),
        (b"D", b"\xff\x80\0\0\0", Decimal(-(2**31)).scaleb(-255)),
    ],
    ids=repr,
)
def test_types_that_others_write_are_read(kind: bytes, payload: bytes, value: Any) -> None:
    decoded = on_the_wire(kind, payload)
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize("kind", ["f", "d"])
def test_nan_and_the_infinities_are_read(kind: str) -> None:
    """Another client may have written them."""
    assert math.isnan(on_the_wire(kind.encode(), struct.pack(f">{kind}", math.nan)))
    assert [on_the_wire(kind.encode(), struct.pack(f">{kind}", x)) for x in (math.inf, -math.inf)] == [
        math.inf,
        -math.inf,
    ]


def test_none_is_an_empty_table() -> None:
    assert fields.encode_table("arguments", None) == b"\0\0\0\0"
    assert fields.decode_table(b"\0\0\0\0", 0) == ({}, 4)


@pytest.mark.parametrize(
    "value",
    [2**63, -(2**63) - 1, Decimal("NaN"), Decimal("Infinity"), Decimal(2**31), Decimal("1E+400"), math.nan, -math.inf],
    ids=str,
)
def test_a_number_that_no_type_holds_or_no_broker_reads_is_refused_and_named(value: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"^headers\['k'\]\[1\]="):
        fields.encode_table("headers", {"k": [0, value]})


def _fits(value: Decimal) -> bool:
    """Whether 32 bits and a scale up to 255 hold a decimal as it stands, zeros at its end included."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    unscaled = (-1) ** sign * int("".join(map(str, digits))) * 10 ** min(max(exponent, 0), 12)
    return -exponent <= 255 and -(2**31) <= unscaled < 2**31


@given(st.decimals(allow_nan=False, allow_infinity=False) | decimals)
@example(Decimal("0.000010000000"))
@example(Decimal(-(2**31)).scaleb(-255))
@example(Decimal("1E-256"))
@example(Decimal("1E+999999"))
@example(Decimal("1E+9"))
@example(Decimal("-0.0"))
def test_a_decimal_that_fits_comes_back_exactly_and_another_is_refused(value: Decimal) -> None:
    if _fits(value):
        assert through({"k": value})["k"] == value
    else:
        with pytest.raises(InvalidArgument, match="32-bit decimal"):
            fields.encode_table("t", {"k": value})


@pytest.mark.parametrize("context", [Context(prec=3), Context(prec=3, traps=[Inexact])], ids=["rounding", "trapping"])
def test_a_decimal_is_exact_whatever_the_programs_decimal_context(context: Context) -> None:
    value = Decimal("1234.5678")
    with localcontext(context):
        assert through({"k": value})["k"] == value


@pytest.mark.parametrize("wrong", [object(), {1, 2}, 1j, range(3)], ids=lambda wrong: type(wrong).__name__)
def test_a_value_of_a_foreign_type_is_refused_and_named(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentType, match=rf"^headers\['a'\]\['b'\] takes .*, not {type(wrong).__name__}$"):
        fields.encode_table("headers", {"a": {"b": wrong}})


def test_a_table_of_another_type_is_refused_and_named() -> None:
    with pytest.raises(InvalidArgumentType, match=r"^arguments takes a dict, not list$"):
        fields.encode_table("arguments", [("a", 1)])


def test_a_key_must_be_a_str_of_255_bytes() -> None:
    assert through({"k" * 255: 1}) == {"k" * 255: 1}
    with pytest.raises(InvalidArgument, match="a key of headers is 256 bytes long"):
        fields.encode_table("headers", {"k" * 256: 1})
    with pytest.raises(InvalidArgumentType, match="a key of headers takes a str, not int"):
        fields.encode_table("headers", {1: 1})


@pytest.mark.parametrize("make", [lambda inner: {"k": inner}, lambda inner: [inner]], ids=["tables", "lists"])
def test_a_table_nests_to_the_limit_and_not_deeper(make: Any) -> None:
    def nested(depth: int) -> dict[str, Any]:
        value: Any = {"k": 1}
        for _ in range(depth - 1):
            value = make(value)
        return {"k": value}

    deepest = nested(fields.MAX_DEPTH)
    assert through(deepest) == deepest
    with pytest.raises(InvalidArgument, match=f"^headers is nested deeper than {fields.MAX_DEPTH} tables or lists$"):
        fields.encode_table("headers", nested(fields.MAX_DEPTH + 1))


def test_a_table_that_holds_itself_is_refused() -> None:
    table: dict[str, Any] = {}
    table["self"] = [table]
    with pytest.raises(InvalidArgument, match="nested deeper"):
        fields.encode_table("headers", table)


@pytest.mark.parametrize(("kind", "prefix"), [(b"F", b"\1k"), (b"A", b"")])
def test_deep_nesting_on_the_wire_is_a_table_error_and_not_a_recursion_error(kind: bytes, prefix: bytes) -> None:
    encoded = longstr(b"")
    for _ in range(3000):
        encoded = longstr(prefix + kind + encoded)
    with pytest.raises(InvalidTableError, match="nested deeper"):
        fields.decode_table(longstr(b"\1k" + kind + encoded), 0)


# --- garbage ----------------------------------------------------------------------------------------------------------

READERS: dict[str, fields.FieldDecoder] = {
    **{kind: read for kind, (read, _, _) in SCALARS.items()},
    "shortstr": fields.decode_shortstr,
    "longstr": fields.decode_longstr,
    "table": fields.decode_table,
    "timestamp": fields.decode_timestamp,
}


@pytest.mark.parametrize("kind", READERS)
@given(data=st.binary(max_size=80), at=st.integers(0, 4))
def test_any_bytes_give_a_value_or_a_syntax_error(kind: str, data: bytes, at: int) -> None:
    try:
        _, end = READERS[kind](data, at)
    except ProtocolSyntaxError:
        return
    assert at <= end <= len(data)


@given(st.lists(st.tuples(st.sampled_from(b"tbBsuUIilLfdDSTVxFA"), st.binary(max_size=20)), max_size=6))
def test_any_bytes_after_a_known_type_give_a_value_or_a_syntax_error(items: list[tuple[int, bytes]]) -> None:
    body = b"".join(b"\1k" + bytes([kind]) + payload for kind, payload in items)
    try:
        _, end = fields.decode_table(longstr(body), 0)
    except ProtocolSyntaxError:
        return
    assert end == len(body) + 4


@given(table=tables, data=st.data())
def test_a_table_cut_anywhere_is_a_syntax_error(table: dict[str, Any], data: st.DataObject) -> None:
    encoded = fields.encode_table("t", table)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(ProtocolSyntaxError):
        fields.decode_table(encoded[:cut], 0)


@pytest.mark.parametrize("off", [-3, -1, 1])
def test_a_table_whose_size_is_off_is_a_table_error(off: int) -> None:
    """A field that runs over the table's end must not be read from the bytes behind it."""
    body = b"\1aI\0\0\0\1\1bI\0\0\0\2"
    with pytest.raises(ProtocolSyntaxError):
        fields.decode_table(struct.pack(">I", len(body) + off) + body + b"\0", 0)


@pytest.mark.parametrize("size", [1, 2**32 - 1])
def test_a_table_that_claims_more_than_there_is_names_its_size(size: int) -> None:
    text = f"^502 a table of {size} bytes at offset 5 goes past the end of the data, 5$"
    with pytest.raises(InvalidTableError, match=text):
        fields.decode_table(b"x" + struct.pack(">I", size), 1)


def test_a_nested_table_may_not_run_over_the_end_of_its_parent() -> None:
    inner = b"\1aV\1bV\1cV"
    outer = b"\1kF" + longstr(inner)
    for cut in range(1, len(inner)):
        with pytest.raises(InvalidTableError):
            fields.decode_table(struct.pack(">I", len(outer) - cut) + outer, 0)


def test_a_field_of_unknown_type_is_a_table_error() -> None:
    for kind in set(range(256)) - set(b"tbBsuUIilLfdDSTVxFA"):
        with pytest.raises(InvalidTableError, match="unknown type"):
            on_the_wire(bytes([kind]), bytes(16))


@pytest.mark.parametrize(
    ("read", "claim"),
    [
        (fields.decode_longstr, b"\xff\xff\xff\xff"),
        (fields.decode_table, b"\xff\xff\xff\xff"),
        (fields.decode_table, b"\0\0\0\x08\1kS\xff\xff\xff\xff\0"),
        (fields.decode_table, b"\0\0\0\x08\1kx\xff\xff\xff\xff\0"),
        (fields.decode_table, b"\0\0\0\x08\1kA\xff\xff\xff\xff\0"),
        (fields.decode_table, b"\0\0\0\x08\1kF\xff\xff\xff\xff\0"),
    ],
    ids=["longstr", "table", "longstr in a table", "bytes in a table", "list in a table", "table in a table"],
)
def test_a_claim_of_4_gib_allocates_nothing(read: fields.FieldDecoder, claim: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolSyntaxError):
            read(claim, 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000
