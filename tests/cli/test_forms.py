"""`cli/forms`: a message as JSON and back, with the type of each value; and properties as options."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpspika import BasicProperties
from cpspika.cli.forms import (
    FormError,
    argument,
    from_form,
    from_value_form,
    header,
    to_form,
    value_form,
)
from cpspika.wire.codec import Method
from cpspika.wire.fields import Seconds, decode_table, encode_table
from cpspika.wire.message import Message

# --- values of tables -------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(
    lambda time: time.replace(microsecond=0, tzinfo=timezone.utc)
)
decimals = st.builds(
    lambda digits, scale: Decimal((digits < 0, tuple(map(int, str(abs(digits)))), -scale)),
    st.integers(-(2**31) + 1, 2**31 - 1),
    st.integers(0, 255),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
    st.binary(max_size=20),
    times,
    st.integers(2**40, 2**60).map(Seconds),
    decimals,
)
keys = st.one_of(texts, st.sampled_from(["$timestamp", "$decimal", "$bytes", "$table", "$float", "$other"]))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


def with_types(value: Any) -> Any:
    """The value with the type of each part: 1, 1.0 and True are equal, and Decimal("1.0") and Decimal("1.00")."""
    if isinstance(value, dict):
        return {name: with_types(item) for name, item in value.items()}
    if isinstance(value, list):
        return [with_types(item) for item in value]
    return type(value), value.as_tuple() if isinstance(value, Decimal) else value


@given(values)
def test_a_value_comes_back_with_its_type(value: Any) -> None:
    text = json.dumps(value_form(value), allow_nan=False)
    assert with_types(from_value_form(json.loads(text))) == with_types(value)


@given(st.dictionaries(texts, values, max_size=4))
def test_a_table_of_the_wire_comes_back_as_the_same_bytes(table: dict[str, Any]) -> None:
    arrived, _ = decode_table(encode_table("headers", table), 0)
    again = from_value_form(json.loads(json.dumps(value_form(arrived), allow_nan=False)))
    assert encode_table("headers", again) == encode_table("headers", arrived)


def test_numbers_that_are_none_are_told_apart() -> None:
    forms = [value_form(float(text)) for text in ("nan", "inf", "-inf")]
    assert forms == [{"$float": "nan"}, {"$float": "inf"}, {"$float": "-inf"}]
    assert [str(from_value_form(form)) for form in forms] == ["nan", "inf", "-inf"]


def test_seconds_of_a_year_that_python_has_are_a_time() -> None:
    assert from_value_form({"$timestamp": 86400}) == datetime(1970, 1, 2, tzinfo=timezone.utc)


# --- messages ---------------------------------------------------------------------------------------------------------


def message(properties: BasicProperties, body: bytes, routing_key: str = "k") -> Message:
    method = Method("basic.get-ok", {"redelivered": True, "exchange": "e", "routing_key": routing_key})
    return Message.of(method, properties.encode(), body)


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.builds(
        BasicProperties,
        content_type=st.none() | names,
        headers=st.none() | st.dictionaries(names, scalars, max_size=3),
        delivery_mode=st.none() | st.sampled_from([1, 2]),
        priority=st.none() | st.integers(0, 255),
        expiration=st.none() | names,
        timestamp=st.none() | times | st.integers(2**40, 2**60),
        user_id=st.none() | names,
    ),
    st.binary(max_size=40) | texts.map(str.encode),
)
def test_a_message_comes_back_as_the_same_bytes(properties: BasicProperties, body: bytes) -> None:
    line = json.dumps(to_form(message(properties, body), "q"), allow_nan=False)
    assert line.isascii()
    assert "\n" not in line
    stored = from_form(json.loads(line))
    assert stored.properties.encode() == properties.encode()
    assert (stored.queue, stored.exchange, stored.routing_key, stored.body) == ("q", "e", "k", body)


def test_a_routing_key_that_is_not_utf_8_comes_back() -> None:
    key = b"\xff".decode("utf-8", "surrogateescape")
    form = json.loads(json.dumps(to_form(message(BasicProperties(), b"", key))))
    assert from_form(form).routing_key == key


def test_the_form_is_the_one_in_the_docs() -> None:
    properties = BasicProperties(
        delivery_mode=2, headers={"id": 7}, timestamp=datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
    )
    assert to_form(message(properties, b"hello"), "tasks") == {
        "queue": "tasks",
        "exchange": "e",
        "routing_key": "k",
        "redelivered": True,
        "properties": {"headers": {"id": 7}, "delivery_mode": 2, "timestamp": "2026-01-31T12:00:00Z"},
        "body": "hello",
    }
    assert {**to_form(message(properties, b"\xff"))}["body_encoding"] == "base64"


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ([], "object"),
        ({}, "without 'body'"),
        ({"body": 5}, "not 5"),
        ({"body": "?", "body_encoding": "base64"}, "base64"),
        ({"body": "", "body_encoding": "rot13"}, "rot13"),
        ({"body": "\ud800"}, "UTF-8"),
        ({"body": "", "exchange": 1}, "'exchange'"),
        ({"body": "", "queue": 1}, "'queue'"),
        ({"body": "", "properties": 1}, "'properties'"),
        ({"body": "", "properties": {"colour": 1}}, "colour"),
        ({"body": "", "properties": {"headers": 1}}, "'headers'"),
        ({"body": "", "properties": {"timestamp": "today"}}, "today"),
        ({"body": "", "properties": {"headers": {"a": {"$decimal": "x"}}}}, "decimal"),
        ({"body": "", "properties": {"headers": {"a": {"$decimal": 1.5}}}}, "decimal"),
        ({"body": "", "properties": {"headers": {"a": {"$bytes": 1}}}}, "bytes"),
        ({"body": "", "properties": {"headers": {"a": {"$table": 1}}}}, "table"),
        ({"body": "", "properties": {"headers": {"a": {"$timestamp": True}}}}, "true"),
    ],
)
def test_another_form_is_an_error_that_says_where(form: Any, said: str) -> None:
    with pytest.raises(FormError, match=said):
        from_form(form)


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("a=b", ("a", "b")),
        ("a=1", ("a", "1")),
        ("a=", ("a", "")),
        ("a:=1", ("a", 1)),
        ("a=b=c:=d", ("a", "b=c:=d")),
        ('a:={"$decimal": "1.50"}', ("a", Decimal("1.50"))),
        ("a:=[1, null]", ("a", [1, None])),
    ],
)
def test_a_header_option(text: str, pair: tuple[str, Any]) -> None:
    assert header(text) == pair


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("x-max-length=10", ("x-max-length", 10)),
        ("x-max-length=-1", ("x-max-length", -1)),
        ("x=true", ("x", True)),
        ("x=007", ("x", "007")),
        ("x=1.5", ("x", "1.5")),
        ("x-queue-mode=lazy", ("x-queue-mode", "lazy")),
        ('x:="10"', ("x", "10")),
    ],
)
def test_an_argument_option_is_a_number_where_it_looks_so(text: str, pair: tuple[str, Any]) -> None:
    assert argument(text) == pair


def test_times_before_1970_come_back() -> None:
    time = datetime(1969, 12, 31, tzinfo=timezone.utc)
    assert from_value_form(value_form(time)) == time
    assert time + timedelta(days=1) == datetime(1970, 1, 1, tzinfo=timezone.utc)
