"""Methods and content headers to bytes and back, for every row of both versions."""

from __future__ import annotations

import struct
import tracemalloc
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpspika import spec
from cpspika.errors import (
    InvalidArgument,
    InvalidArgumentType,
    NotInThisVersion,
    ProtocolSyntaxError,
    UnknownMethodError,
)
from cpspika.wire.codec import SECRETS, Codec, Method, property_codec

UTC = timezone.utc
ROWS = [(version, row) for version in spec.VERSIONS for one in spec.load(version) for row in one.methods]
every_row = pytest.mark.parametrize(("version", "row"), ROWS, ids=[f"{version} {row.name}" for version, row in ROWS])
CONTENT_CLASSES = {row.class_index: row for version in spec.VERSIONS for row in spec.load(version) if row.properties}
every_content_class = pytest.mark.parametrize("content_class", CONTENT_CLASSES.values(), ids=lambda row: row.name)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bit": st.booleans(),
    "octet": st.integers(0, 255),
    "short": st.integers(0, 2**16 - 1),
    "long": st.integers(0, 2**32 - 1),
    "longlong": st.integers(0, 2**64 - 1),
    "shortstr": st.text(max_size=60),
    "longstr": st.binary(max_size=60),
    "table": st.dictionaries(st.text(max_size=8), st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8), max_size=3),
    "timestamp": st.integers(0, 2**37).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
}
EMPTY = {"bit": False, "shortstr": "", "longstr": b"", "table": {}}


def arguments(row: spec.Method) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({argument.name: VALUES[argument.type] for argument in row.arguments})


@pytest.mark.slow
@every_row
@settings(max_examples=10)
@given(data=st.data())
def test_a_method_comes_back(version: str, row: spec.Method, data: st.DataObject) -> None:
    codec = Codec.of(version)
    given_ = data.draw(arguments(row))
    payload = codec.encode(row.name, given_)
    assert payload[:4] == struct.pack(">HH", row.class_index, row.method_index)
    assert codec.decode(payload) == Method(row.name, given_)


@every_row
def test_what_is_not_given_is_sent_empty(version: str, row: spec.Method) -> None:
    codec = Codec.of(version)
    decoded = codec.decode(codec.encode(row.name, {}))
    assert decoded.arguments == {argument.name: EMPTY.get(argument.type, 0) for argument in row.arguments}


@pytest.mark.slow
@every_row
@settings(max_examples=10)
@given(data=st.data())
def test_a_method_cut_short_or_followed_by_more_is_a_syntax_error(
    version: str, row: spec.Method, data: st.DataObject
) -> None:
    codec = Codec.of(version)
    payload = codec.encode(row.name, data.draw(arguments(row)))
    cut = data.draw(st.integers(0, len(payload) - 1))
    for wrong in (payload[:cut], payload + b"\0"):
        with pytest.raises(ProtocolSyntaxError) as caught:
            codec.decode(wrong)
        assert caught.value.code == 502
        assert len(wrong) < 4 or row.name in str(caught.value)


@every_row
def test_an_argument_that_a_method_has_not_is_refused_and_named(version: str, row: spec.Method) -> None:
    arguments = ", ".join(name for name, _ in row.arguments) or "none"
    wanted = f"^{row.name} of AMQP {version} has no argument colour, durible; its arguments are {arguments}$"
    with pytest.raises(InvalidArgument, match=wanted):
        Codec.of(version).encode(row.name, {"durible": True, "colour": 1})


@pytest.mark.parametrize("version", spec.VERSIONS)
@given(payload=st.binary(max_size=60))
def test_any_bytes_give_a_method_or_a_syntax_error(version: str, payload: bytes) -> None:
    try:
        method = Codec.of(version).decode(payload)
    except ProtocolSyntaxError:
        return
    assert method.name in Codec.of(version).by_name


@pytest.mark.parametrize("version", spec.VERSIONS)
@given(data=st.data(), garbage=st.binary(max_size=60))
def test_any_bytes_after_a_known_index_give_that_method_or_a_syntax_error(
    version: str, data: st.DataObject, garbage: bytes
) -> None:
    codec = Codec.of(version)
    row = data.draw(st.sampled_from(list(codec.by_name.values())))
    try:
        method = codec.decode(struct.pack(">HH", row.class_index, row.method_index) + garbage)
    except ProtocolSyntaxError as error:
        assert row.name in str(error)  # noqa: PT017 (no error is as right)
    else:
        assert method.name == row.name


@pytest.mark.parametrize(("version", "index"), [("0-9-1", (10, 99)), ("0-9-1", (70, 10)), ("0-8", (60, 120))])
def test_a_method_of_no_row_is_unknown_and_named_by_its_numbers(version: str, index: tuple[int, int]) -> None:
    with pytest.raises(UnknownMethodError, match=f"AMQP {version} has no method {index[1]} in class {index[0]}"):
        Codec.of(version).decode(struct.pack(">HH", *index))


@pytest.mark.parametrize(
    ("version", "name"),
    [("0-8", "confirm.select"), ("0-8", "basic.nack"), ("0-9-1", "file.open"), ("0-9-1", "no.such")],
)
def test_a_method_that_a_version_lacks_is_a_local_error(version: str, name: str) -> None:
    with pytest.raises(NotInThisVersion, match=f"^AMQP {version} has no {name}$"):
        Codec.of(version).encode(name, {})


def test_bits_share_octets_from_the_lowest_up() -> None:
    codec = Codec.of("0-9-1")
    for place, name in enumerate(["passive", "durable", "exclusive", "auto_delete", "no_wait"]):
        payload = codec.encode("queue.declare", {"queue": "q", name: True})
        assert payload == b"\0\x32\0\x0a\0\0\1q" + bytes([1 << place]) + bytes(4)


def test_the_unused_bits_of_an_octet_mean_nothing() -> None:
    codec = Codec.of("0-9-1")
    assert codec.decode(b"\0\x5a\0\x0a") == Method("tx.select", {})
    assert codec.decode(b"\0\x14\0\x14\xff") == Method("channel.flow", {"active": True})
    assert codec.decode(b"\0\x14\0\x14\xfe") == Method("channel.flow", {"active": False})


@pytest.mark.parametrize(
    ("argument", "wrong", "error"),
    [
        ("queue", "q" * 256, InvalidArgument),
        ("queue", 5, InvalidArgumentType),
        ("arguments", [], InvalidArgumentType),
        ("arguments", {"x": object()}, InvalidArgumentType),
        ("ticket", 65536, InvalidArgument),
        ("ticket", "1", InvalidArgumentType),
    ],
)
def test_an_argument_that_cannot_be_sent_is_named(argument: str, wrong: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=argument):
        Codec.of("0-9-1").encode("queue.declare", {argument: wrong})


def test_tables_are_written_in_the_dialect_of_the_version() -> None:
    old, new = (Codec.of(version).encode("queue.bind", {"arguments": {"k": b"v"}}) for version in ("0-8", "0-9-1"))
    assert old.endswith(b"\1kS\0\0\0\1v")
    assert new.endswith(b"\1kx\0\0\0\1v")


@pytest.mark.parametrize("name", ["connection.start-ok", "connection.secure-ok", "connection.update-secret"])
def test_a_claim_of_4_gib_in_a_method_allocates_nothing(name: str) -> None:
    codec = Codec.of("0-9-1")
    row = codec.row(name)
    payload = struct.pack(">HH", row.class_index, row.method_index) + b"\xff\xff\xff\xff" + bytes(20)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolSyntaxError):
            codec.decode(payload)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_a_method_shows_its_name_and_arguments() -> None:
    assert (
        repr(Method("basic.ack", {"delivery_tag": 5, "multiple": True})) == "basic.ack(delivery_tag=5, multiple=True)"
    )


@every_row
def test_no_secret_is_ever_shown(version: str, row: spec.Method) -> None:
    values = {argument.name: "hunter2" for argument in row.arguments if argument.name in SECRETS}
    assert "hunter2" not in repr(Method(row.name, values)) + str(Method(row.name, values))


def test_a_secret_is_shown_as_dots() -> None:
    assert repr(Method("connection.start-ok", {"response": b"x", "mechanism": "PLAIN"})) == (
        "connection.start-ok(response=..., mechanism='PLAIN')"
    )


def test_methods_are_equal_by_name_and_arguments() -> None:
    assert Method("a.b", {"x": 1}) == Method("a.b", {"x": 1})
    assert Method("a.b", {"x": 1}) not in (Method("a.c", {"x": 1}), Method("a.b", {"x": 2}), "a.b", None)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda payload: payload + b"xy", "2 bytes follow its last argument"),
        (lambda payload: payload + b"x", "1 bytes follow its last argument"),
        (lambda payload: payload[:-1], "it ends before its last argument does"),
    ],
)
def test_the_error_of_a_malformed_method_says_what_is_wrong(change: Any, fault: str) -> None:
    codec = Codec.of("0-9-1")
    with pytest.raises(ProtocolSyntaxError) as caught:
        codec.decode(change(codec.encode("basic.ack", {"delivery_tag": 1})))
    assert caught.value.text == f"basic.ack is malformed: {fault}"


def test_the_error_of_a_malformed_argument_names_the_method() -> None:
    codec = Codec.of("0-9-1")
    with pytest.raises(ProtocolSyntaxError) as caught:
        codec.decode(codec.encode("queue.purge", {"queue": "abc"})[:8])
    assert caught.value.text == (
        "queue.purge is malformed: a field of 3 bytes at offset 7 goes past the end of the data, 8"
    )


def test_every_argument_that_carries_a_secret_is_known() -> None:
    carriers = {argument.name for _, row in ROWS for argument in row.arguments if argument.type == "longstr"}
    open_ones = {"mechanisms", "locales", "challenge", "channel_id", "string_2", "result", "string_result"}
    assert carriers - open_ones == SECRETS


def test_a_malformed_secret_is_not_shown_by_the_error() -> None:
    codec = Codec.of("0-9-1")
    payload = codec.encode("connection.secure-ok", {"response": b"hunter2"})
    for wrong in (payload[:-1], payload + b"x"):
        with pytest.raises(ProtocolSyntaxError) as caught:
            codec.decode(wrong)
        assert "hunter" not in repr(caught.value) + str(caught.value)


# --- content headers --------------------------------------------------------------------------------------------------


@every_content_class
@given(data=st.data())
def test_properties_come_back_whichever_are_there(content_class: spec.Class, data: st.DataObject) -> None:
    optional = {name: VALUES[kind] for name, kind in content_class.properties}
    values = data.draw(st.fixed_dictionaries({}, optional=optional))
    codec = property_codec(content_class.class_index)
    encoded = codec.encode(values)
    assert codec.decode(b"ab" + encoded, 2) == values
    assert bin(int.from_bytes(encoded[:2], "big")).count("1") == len(values)


@every_content_class
def test_the_first_property_has_the_highest_flag(content_class: spec.Class) -> None:
    codec = property_codec(content_class.class_index)
    for place, (name, kind) in enumerate(content_class.properties):
        value: Any = {"shortstr": "", "table": {}}.get(kind, 0)
        assert codec.encode({name: value})[:2] == struct.pack(">H", 1 << (15 - place))


@every_content_class
@given(garbage=st.binary(max_size=80))
def test_any_bytes_give_properties_or_a_syntax_error(content_class: spec.Class, garbage: bytes) -> None:
    codec = property_codec(content_class.class_index)
    try:
        found = codec.decode(garbage, 0)
    except ProtocolSyntaxError:
        return
    assert found.keys() <= set(codec.names)


@given(data=st.data())
def test_properties_cut_short_or_followed_by_more_are_a_syntax_error(data: st.DataObject) -> None:
    optional = {name: VALUES[kind] for name, kind in CONTENT_CLASSES[60].properties}
    codec = property_codec(60)
    encoded = codec.encode(data.draw(st.fixed_dictionaries({}, optional=optional)))
    cut = data.draw(st.integers(0, len(encoded) - 1))
    for wrong in (encoded[:cut], encoded + b"\0"):
        with pytest.raises(ProtocolSyntaxError):
            codec.decode(wrong, 0)


@pytest.mark.parametrize(("index", "flags"), [(60, 0x0001), (60, 0x0002), (60, 0xFFFF), (80, 0x0400)])
def test_the_value_of_a_flag_that_no_property_has_is_a_syntax_error(index: int, flags: int) -> None:
    with pytest.raises(ProtocolSyntaxError):
        property_codec(index).decode(struct.pack(">H", flags) + bytes(60), 0)


def test_flags_that_go_on_are_a_syntax_error() -> None:
    with pytest.raises(ProtocolSyntaxError, match="more property flags"):
        property_codec(60).decode(b"\0\1\0\0", 0)


def test_a_class_of_no_row_has_no_properties() -> None:
    with pytest.raises(UnknownMethodError, match="class 61"):
        property_codec(61)
