"""The lanes give the same bytes as the general road, whatever goes down them."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from linked import opened, plain

from cpspika import BasicProperties, errors, lanes
from cpspika.message import Message, encode_properties

keys = st.text(max_size=40)
properties = st.builds(
    BasicProperties,
    content_type=st.none() | st.text(max_size=20),
    headers=st.none() | st.dictionaries(st.text(max_size=8), st.integers(-5, 5) | st.text(max_size=8), max_size=3),
    delivery_mode=st.none() | st.sampled_from([1, 2]),
)
sizes = st.sampled_from([0, 1, 100, 8100, 8150, 8152, 8153, 8160, 8161, 8184, 8185, 16384, 16385, 20000])


@given(st.lists(st.tuples(keys, keys, properties, sizes), min_size=1, max_size=4), st.sampled_from(["0-9-1", "0-8"]))
def test_a_publish_has_the_same_bytes_by_lane_and_road(publishes: list[tuple], version: str) -> None:  # type: ignore[type-arg]
    link = opened(version).client
    for exchange, routing_key, given_properties, size in publishes * 2:
        encoded, body = encode_properties(given_properties), bytes(size)
        arguments = {"exchange": exchange, "routing_key": routing_key}
        lane = b"".join(link.send_publish(1, exchange, routing_key, encoded, body))
        assert lane == b"".join(link.send_content(1, "basic.publish", arguments, encoded, body))


def test_a_body_beyond_what_is_copied_is_handed_on_as_it_is() -> None:
    pair = opened()
    pair.client.frame_max = 131072
    body = bytes(lanes.SMALL + 1)
    assert any(chunk is body for chunk in pair.client.send_publish(1, "", "q", b"\0\0", body))


def test_the_book_of_method_frames_does_not_grow_without_end() -> None:
    link = opened().client
    for number in range(3 * lanes.KEPT):
        link.send_publish(1, "", f"q{number}", b"\0\0", b"")
    assert len(link._lane._methods) <= lanes.KEPT


def test_a_channel_that_is_not_open_is_refused_by_the_lane_too() -> None:
    pair = opened()
    pair.client.send_publish(1, "", "q", b"\0\0", b"x")
    pair.client.send(1, "channel.close", {})
    with pytest.raises(errors.LocalError):
        pair.client.send_publish(1, "", "q", b"\0\0", b"x")
    with pytest.raises(errors.LocalError):
        pair.client.send_publish(2, "", "q", b"\0\0", b"x")


def test_a_mistake_leaves_nothing_in_the_book() -> None:
    link = opened().client
    for _ in range(2):
        with pytest.raises(errors.InvalidArgument):
            link.send_publish(1, "", "k" * 256, b"\0\0", b"x")
        with pytest.raises(errors.InvalidArgumentType):
            link.send_publish(1, "", 5, b"\0\0", b"x")  # type: ignore[arg-type]


class NoLane:
    """Leaves everything to the road."""

    limit = 0

    def take(self, buffer: bytes, at: int) -> None:
        return None


@given(
    st.lists(st.tuples(keys, keys, keys, properties, sizes, st.booleans()), min_size=1, max_size=4),
    st.sampled_from(["0-9-1", "0-8"]),
    st.data(),
)
def test_deliveries_are_the_same_events_by_lane_and_road_cut_anywhere(
    deliveries: list[tuple],  # type: ignore[type-arg]
    version: str,
    data: st.DataObject,
) -> None:
    by_lane, by_road = opened(version), opened(version)
    by_road.client._deliveries = NoLane()  # type: ignore[assignment]
    stream = b""
    for tag, (consumer, exchange, key, given_properties, size, redelivered) in enumerate(deliveries * 2):
        arguments = {
            "consumer_tag": consumer,
            "delivery_tag": tag,
            "redelivered": redelivered,
            "exchange": exchange,
            "routing_key": key,
        }
        encoded = encode_properties(given_properties)
        stream += b"".join(by_lane.server.send_content(1, "basic.deliver", arguments, encoded, bytes(size)))
    cut = data.draw(st.integers(0, len(stream)))
    lane = by_lane.client.receive(stream[:cut]) + by_lane.client.receive(stream[cut:])
    road = by_road.client.receive(stream)
    assert [_told(event) for event in lane] == [_told(event) for event in road]
    assert len(lane) == 2 * len(deliveries)


def _told(event: tuple[int, Message]) -> tuple:  # type: ignore[type-arg]
    number, m = event
    return number, m.name, m.consumer_tag, m.delivery_tag, m.redelivered, m.exchange, m.routing_key, m.header, m.body


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_broken_delivery_is_judged_the_same_by_lane_and_road(place: int, octet: int) -> None:
    by_lane, by_road = opened(), opened()
    by_road.client._deliveries = NoLane()  # type: ignore[assignment]
    arguments = {"consumer_tag": "c", "delivery_tag": 1, "exchange": "x", "routing_key": "key"}
    one = b"".join(by_lane.server.send_content(1, "basic.deliver", arguments, b"\0\0", bytes(60)))
    stream = bytearray(one * 3)
    stream[place % len(stream)] = octet
    lane, road = (pair.client.receive(bytes(stream)) for pair in (by_lane, by_road))
    assert [_judged(event) for event in lane] == [_judged(event) for event in road]
    assert by_lane.client.take_answers() == by_road.client.take_answers()


def _judged(event: tuple[int, Any]) -> Any:
    return _told(event) if isinstance(event[1], Message) else plain([event])


@given(st.integers(0, 2**64 - 1), st.booleans())
def test_an_ack_has_the_same_bytes_by_lane_and_road(tag: int, multiple: bool) -> None:
    link = opened().client
    assert link.send_ack(1, tag, multiple) == link.send(1, "basic.ack", {"delivery_tag": tag, "multiple": multiple})


@pytest.mark.parametrize("tag", [-1, 2**64, "1", None])
def test_an_ack_of_no_tag_is_refused(tag: Any) -> None:
    with pytest.raises((errors.InvalidArgument, errors.InvalidArgumentType)):
        opened().client.send_ack(1, tag, False)
