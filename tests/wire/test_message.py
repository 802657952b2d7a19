"""BasicProperties and Message: what a content is to its reader."""

from __future__ import annotations

import copy
import pickle
import struct
from datetime import datetime, timedelta, timezone
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpspika import spec
from cpspika.errors import InvalidArgument, InvalidArgumentType, LocalError, ProtocolSyntaxError
from cpspika.wire.codec import Method, property_codec
from cpspika.wire.message import NO_PROPERTIES, BasicProperties, Envelope, Message, encode_properties

FULL = {
    "content_type": "text/plain",
    "content_encoding": "utf-8",
    "headers": {"a": 1, "b": ["c", None]},
    "delivery_mode": 2,
    "priority": 9,
    "correlation_id": "c-1",
    "reply_to": "amq.rabbitmq.reply-to",
    "expiration": "60000",
    "message_id": "m-1",
    "timestamp": datetime(2024, 5, 17, 12, tzinfo=timezone.utc),
    "type": "greeting",
    "user_id": "guest",
    "app_id": "tests",
    "cluster_id": "",
}


def header(properties: bytes = NO_PROPERTIES, size: int = 0) -> bytes:
    return struct.pack(">HHQ", 60, 0, size) + properties


def message(properties: bytes = NO_PROPERTIES, body: bytes = b"") -> Message:
    arguments = {"consumer_tag": "ct", "delivery_tag": 7, "redelivered": True, "exchange": "x", "routing_key": "k"}
    return Message.of(Method("basic.deliver", arguments), properties, body)


def test_the_properties_are_the_specifications() -> None:
    (basic,) = (row for row in spec.load("0-9-1") if row.name == "basic")
    assert list(FULL) == [name for name, _ in basic.properties]
    assert all(getattr(BasicProperties(), name) is None for name in FULL)


def test_properties_come_back() -> None:
    assert message(BasicProperties(**FULL).encode()).properties == BasicProperties(**FULL)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FULL)
def test_one_property_comes_back_alone(name: str) -> None:
    decoded = message(encode_properties({name: FULL[name]})).properties
    assert {other: getattr(decoded, other) for other in FULL} == {**dict.fromkeys(FULL), name: FULL[name]}


def test_a_dict_does_as_well_as_properties() -> None:
    assert encode_properties(FULL) == encode_properties(BasicProperties(**FULL))  # type: ignore[arg-type]
    assert encode_properties({}) == encode_properties(BasicProperties()) == encode_properties(None) == b"\0\0"


def test_properties_are_made_of_a_dict_and_into_one() -> None:
    assert BasicProperties.from_dict(FULL).as_dict() == FULL
    assert BasicProperties(priority=0).as_dict() == {"priority": 0}
    with pytest.raises(InvalidArgument, match="unknown names: colour"):
        BasicProperties.from_dict({"colour": "red"})


def test_a_property_that_basic_has_not_is_refused_and_named() -> None:
    wanted = r"^properties has unknown names: colour, persistent\. .* content_type, .*, cluster_id; "
    with pytest.raises(InvalidArgument, match=wanted):
        encode_properties({"persistent": True, "colour": "red"})


def test_properties_of_a_foreign_type_are_refused() -> None:
    with pytest.raises(InvalidArgumentType, match=r"^properties takes BasicProperties or a dict, not str$"):
        encode_properties("text/plain")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "wrong", "error"),
    [
        ("content_type", "t" * 256, InvalidArgument),
        ("content_type", 5, InvalidArgumentType),
        ("delivery_mode", 256, InvalidArgument),
        ("delivery_mode", "2", InvalidArgumentType),
        ("expiration", 60000, InvalidArgumentType),
        ("headers", [("a", 1)], InvalidArgumentType),
        ("headers", {"a": object()}, InvalidArgumentType),
        ("timestamp", 2**64, InvalidArgument),
        ("timestamp", "now", InvalidArgumentType),
    ],
)
def test_a_property_that_cannot_be_sent_is_named(name: str, wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        encode_properties({name: wrong})


@pytest.mark.parametrize("name", FULL)
def test_a_property_that_is_set_later_counts(name: str) -> None:
    properties = BasicProperties()
    before = properties.encode()
    setattr(properties, name, FULL[name])
    assert properties.encode() == encode_properties({name: FULL[name]}) != before
    setattr(properties, name, None)
    assert properties.encode() == before


def test_headers_that_change_inside_count() -> None:
    properties = BasicProperties(headers={"n": 1})
    before = properties.encode()
    assert properties.headers is not None
    properties.headers["n"] = 2  # type: ignore[index]
    assert properties.encode() == encode_properties({"headers": {"n": 2}}) != before


def test_a_misspelt_property_is_an_error() -> None:
    with pytest.raises(AttributeError):
        BasicProperties().contenttype = "text/plain"  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        BasicProperties(contenttype="text/plain")  # type: ignore[call-arg]


def test_a_timestamp_of_the_user_may_be_naive_or_of_any_zone_or_seconds() -> None:
    noon = FULL["timestamp"]
    assert isinstance(noon, datetime)
    east = noon.astimezone(timezone(timedelta(hours=2)))
    for moment in (noon, noon.replace(tzinfo=None), east, int(noon.timestamp())):
        assert message(encode_properties({"timestamp": moment})).properties.timestamp == noon


def test_properties_show_what_is_there() -> None:
    assert repr(BasicProperties(content_type="text/plain", priority=0)) == (
        "BasicProperties(content_type='text/plain', priority=0)"
    )


def test_properties_are_equal_if_each_is() -> None:
    assert BasicProperties(priority=1) == BasicProperties.from_dict({"priority": 1})
    assert BasicProperties(priority=1) != BasicProperties(priority=2)
    assert BasicProperties(priority=1) != BasicProperties()
    assert BasicProperties() != NO_PROPERTIES


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_delivery_has_what_the_method_said() -> None:
    got = message(body=b"hello")
    assert (got.name, got.body, got.consumer_tag, got.delivery_tag) == ("basic.deliver", b"hello", "ct", 7)
    assert (got.redelivered, got.exchange, got.routing_key) == (True, "x", "k")
    assert (got.message_count, got.reply_code, got.reply_text) == (None, None, None)
    assert got.properties == BasicProperties()
    assert got.encoded == NO_PROPERTIES
    assert got.details["consumer_tag"] == "ct"


def test_a_message_tells_its_details_whichever_way_it_was_decoded() -> None:
    fast = Message(Envelope("basic.deliver", "ct", True, "x", "k"), 7, b"")
    assert fast.details == message().details
    assert (fast.message_count, fast.reply_code, fast.reply_text) == (None, None, None)


def test_a_method_says_nothing_of_what_it_has_no_argument_for() -> None:
    """basic.return has neither a delivery tag nor a consumer; the method of a test may have nothing at all."""
    for bare in (Message.of(Method("basic.return", {}), NO_PROPERTIES, b""), Message(Envelope("basic.return"), 0, b"")):
        assert (bare.delivery_tag, bare.consumer_tag, bare.redelivered) == (0, None, False)
        assert (bare.exchange, bare.routing_key, bare.encoded) == ("", "", NO_PROPERTIES)


def test_properties_that_are_replaced_are_those_of_this_message_alone() -> None:
    one = message(encode_properties({"priority": 1}))
    other = Message(one.envelope, 8, b"")
    assert one.properties.priority == 1
    one.replace_properties(BasicProperties(priority=2))
    assert (one.properties.priority, other.properties.priority) == (2, 1)
    assert one.encoded == encode_properties({"priority": 2})
    assert (one.name, one.consumer_tag, one.redelivered, one.exchange, one.routing_key) == (
        other.name,
        other.consumer_tag,
        other.redelivered,
        other.exchange,
        other.routing_key,
    )
    assert one.details == other.details


def test_a_malformed_header_is_an_error_for_a_message_of_no_channel_too() -> None:
    with pytest.raises(ProtocolSyntaxError):
        message(b"\x80\x00\xff").properties  # noqa: B018


def test_a_message_that_was_got_knows_what_is_left() -> None:
    got = Message.of(Method("basic.get-ok", {"delivery_tag": 1, "message_count": 12}), header(), b"")
    assert (got.message_count, got.consumer_tag) == (12, None)


def test_a_returned_message_knows_why() -> None:
    arguments = {"reply_code": 312, "reply_text": "NO_ROUTE", "exchange": "x", "routing_key": "k"}
    got = Message.of(Method("basic.return", arguments), header(), b"")
    assert (got.reply_code, got.reply_text) == (312, "NO_ROUTE")


def test_properties_are_decoded_once_and_only_when_asked_for() -> None:
    broken = message(b"\x80\x00\xff")
    assert broken.body == b""
    whole = message(encode_properties({"priority": 1}))
    assert whole.properties is whole.properties


@given(st.binary(min_size=2, max_size=60))
def test_any_header_gives_properties_or_a_syntax_error_that_its_channel_hears(garbage: bytes) -> None:
    got = message(garbage)
    got.channel = Mock()
    try:
        properties = got.properties
    except ProtocolSyntaxError as error:
        got.channel._malformed.assert_called_once_with(error)
    else:
        assert property_codec(60).decode(garbage, 0) == {
            name: getattr(properties, name) for name in FULL if getattr(properties, name) is not None
        }
        got.channel._malformed.assert_not_called()


def test_a_message_answers_on_its_channel() -> None:
    got = message()
    got.channel = Mock()
    got.ack()
    got.ack(multiple=True)
    got.nack()
    got.nack(requeue=False)
    got.reject()
    got.reject(requeue=False)
    got.ack(on_done=print)
    assert [(name, args, kwargs) for name, args, kwargs in got.channel.method_calls] == [
        ("basic_ack", (7,), {}),
        ("basic_ack", (7,), {"multiple": True}),
        ("basic_nack", (7,), {"requeue": True}),
        ("basic_nack", (7,), {"requeue": False}),
        ("basic_reject", (7,), {"requeue": True}),
        ("basic_reject", (7,), {"requeue": False}),
        ("basic_ack", (7,), {"multiple": False, "on_done": print}),
    ]


@pytest.mark.parametrize("answer", ["ack", "nack", "reject"])
def test_a_message_of_no_channel_cannot_answer(answer: str) -> None:
    with pytest.raises(LocalError, match=r"^a message that arrived with basic\.deliver has no channel"):
        getattr(message(), answer)()


def test_a_message_shows_the_beginning_of_its_body_and_its_route() -> None:
    assert repr(message(body=b"a" * 33)) == (
        f"Message({b'a' * 32!r}..., exchange='x', routing_key='k', delivery_tag=7)"
    )
    assert repr(message(body=b"a" * 32)).startswith(f"Message({b'a' * 32!r}, exchange=")


# --- values that are wrong, copies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["x", b"x", [("a", 1)], 1], ids=repr)
def test_headers_that_are_no_dict_are_refused_where_they_are_given(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentType, match=r"^headers takes a dict, as headers=\{'name': 'value'\}, not "):
        BasicProperties(headers=wrong)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_message_pickles_and_leaves_its_channel_behind(protocol: int) -> None:
    original = message(BasicProperties(headers={"a": [1, None]}, priority=3).encode(), b"body")
    original.channel = lambda: "cannot be pickled"
    twin = pickle.loads(pickle.dumps(original, protocol))
    for name in (
        "body",
        "delivery_tag",
        "properties",
        "exchange",
        "routing_key",
        "consumer_tag",
        "redelivered",
        "name",
    ):
        assert getattr(twin, name) == getattr(original, name)
    assert twin.details == original.details
    assert twin.channel is None
    with pytest.raises(LocalError, match="no channel"):
        twin.ack()


def test_a_message_pickles_with_what_was_changed_in_its_properties() -> None:
    original = message(BasicProperties(headers={}).encode())
    original.properties.headers["seen"] = 1  # type: ignore[index]
    assert pickle.loads(pickle.dumps(original)).properties.headers == {"seen": 1}


def test_a_copy_of_a_message_has_its_channel() -> None:
    original = message(body=b"body")
    original.channel = Mock()
    copy.copy(original).ack()
    original.channel.basic_ack.assert_called_once_with(7)
