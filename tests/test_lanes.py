"""The lanes give the same bytes as the general road, whatever goes down them."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from linked import opened

from cpspika import BasicProperties, errors, lanes
from cpspika.message import encode_properties

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
