"""The fast paths give the same bytes and events as the general path, whatever goes through them, cut anywhere."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from cpspika import BasicProperties, errors
from cpspika.wire import fast_send
from cpspika.wire.fast_receive import FastReceiver
from cpspika.wire.frames import HEARTBEAT_FRAME
from cpspika.wire.link import Link
from cpspika.wire.message import Envelope, Message, encode_properties
from tests.support.linked import Pair, opened, plain
from tests.support.scripted import body_frame, content, frame, header_frame, method_frame

VERSIONS = st.sampled_from(["0-9-1", "0-8"])
keys = st.text(max_size=40)
properties = st.builds(
    BasicProperties,
    content_type=st.none() | st.text(max_size=20),
    headers=st.none() | st.dictionaries(st.text(max_size=8), st.integers(-5, 5) | st.text(max_size=8), max_size=3),
    delivery_mode=st.none() | st.sampled_from([1, 2]),
)
sizes = st.sampled_from([0, 1, 2, 100, 8100, 8150, 8152, 8153, 8160, 8161, 8184, 8185, 16384, 16385, 20000])
# Few of each, so that messages are often alike in a part, as in life.
contents = st.tuples(keys, keys, properties, sizes)
traffic = st.lists(contents, min_size=1, max_size=3).flatmap(
    lambda few: st.lists(st.sampled_from(few), min_size=1, max_size=8)
)
Contents = list[tuple[str, str, BasicProperties, int]]


# --- out --------------------------------------------------------------------------------------------------------------


@given(traffic, VERSIONS)
def test_a_publish_has_the_same_bytes_by_fast_and_general_path(publishes: Contents, version: str) -> None:
    link = opened(version).client
    fast = link.fast_sender(1)
    for exchange, routing_key, given_properties, size in publishes:
        encoded, body = encode_properties(given_properties), bytes(size)
        arguments = {"exchange": exchange, "routing_key": routing_key}
        quick = b"".join(fast.publish(exchange, routing_key, encoded, body))
        assert quick == b"".join(link.send_content(1, "basic.publish", arguments, encoded, body))


def _same_object_pool() -> tuple[list[str], list[str], list[bytes]]:
    """Exchanges, keys and properties. The general path refuses the last key and the last properties: too long."""
    encoded = [encode_properties({"content_type": "a"}), encode_properties({"content_type": "b"})]
    return ["", "x"], ["k", "another", "k" * 256], [*encoded, encode_properties({"headers": {"h": "x" * 9000}})]


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 4), min_size=2, max_size=10))
def test_a_publish_that_shares_some_objects_with_the_one_before_has_its_own_bytes(
    picks: list[tuple[int, int, int, int]],
) -> None:
    """A template is kept while exchange, key and properties are the same objects. Each may change alone."""
    link = opened().client
    fast = link.fast_sender(1)
    exchanges, routing_keys, encodeds = _same_object_pool()
    for one, two, three, size in picks:
        exchange, key, encoded = exchanges[one % 2], routing_keys[two % 3], encodeds[three % 3]
        body, arguments = bytes(size * 3), {"exchange": exchange, "routing_key": key}

        def by_general_path() -> Any:
            return link.send_content(1, "basic.publish", arguments, encoded, body)  # noqa: B023

        assert _bytes_or_error(lambda: fast.publish(exchange, key, encoded, body)) == _bytes_or_error(by_general_path)  # noqa: B023


def _bytes_or_error(call: Callable[[], Any]) -> Any:
    try:
        return b"".join(call())
    except errors.LocalError as error:
        return type(error), error.text


@given(traffic, VERSIONS, st.lists(st.booleans(), min_size=8, max_size=8))
def test_a_delivery_has_the_same_bytes_by_fast_and_general_path(
    deliveries: Contents, version: str, again: list[bool]
) -> None:
    link = opened(version).server
    fast = link.fast_deliverer(1, "ctag")
    for tag, ((exchange, routing_key, given_properties, size), redelivered) in enumerate(
        zip(deliveries, again, strict=False)
    ):
        encoded, body = encode_properties(given_properties), bytes(size)
        envelope = Envelope("basic.publish", exchange=exchange, routing_key=routing_key, encoded=encoded)
        details = _delivery("ctag", tag, redelivered, exchange, routing_key)
        by_general_path = b"".join(link.send_content(1, "basic.deliver", details, encoded, body))
        for _ in range(2):
            assert b"".join(fast.deliver(tag, redelivered, envelope, body)) == by_general_path


def _delivery(consumer_tag: str, tag: int, redelivered: bool, exchange: str, routing_key: str) -> dict[str, Any]:
    return {
        "consumer_tag": consumer_tag,
        "delivery_tag": tag,
        "redelivered": redelivered,
        "exchange": exchange,
        "routing_key": routing_key,
    }


@given(st.integers(0, 2**64 - 1), st.booleans())
def test_an_ack_has_the_same_bytes_by_fast_and_general_path(tag: int, multiple: bool) -> None:
    link = opened().client
    assert link.fast_sender(1).ack(tag, multiple) == link.send(
        1, "basic.ack", {"delivery_tag": tag, "multiple": multiple}
    )


@pytest.mark.parametrize("tag", [-1, 2**64, "1", None])
def test_an_ack_of_no_tag_is_refused(tag: Any) -> None:
    with pytest.raises((errors.InvalidArgument, errors.InvalidArgumentType)):
        opened().client.fast_sender(1).ack(tag, False)


def test_a_body_beyond_what_is_copied_is_handed_on_as_it_is() -> None:
    pair = opened()
    pair.client.frame_max = pair.server.frame_max = 131072
    body = bytes(fast_send.SMALL + 1)
    assert any(chunk is body for chunk in pair.client.fast_sender(1).publish("", "q", b"\0\0", body))
    consumer = pair.server.fast_deliverer(1, "ctag")
    assert any(chunk is body for chunk in consumer.deliver(1, False, Envelope("basic.publish"), body))


@pytest.mark.slow
def test_what_is_kept_does_not_grow_without_end_however_many_channels_and_properties() -> None:
    pair = opened(channels=3)
    ways, server = [pair.client.fast_sender(number) for number in (1, 2, 3)], pair.server
    for number in range(3 * fast_send.CACHE_SIZE):
        encoded = encode_properties({"message_id": str(number)})
        server.receive(b"".join(ways[number % 3].publish("", f"q{number}", encoded, b"x")))
    assert len(pair.client.publish_frames) <= fast_send.CACHE_SIZE
    assert len(server._fast_receiver._templates) <= fast_send.CACHE_SIZE


@pytest.mark.slow
@pytest.mark.parametrize("role", ["client", "server"])
def test_what_is_kept_does_not_grow_without_end_however_large_the_properties(role: str) -> None:
    sender, fast, _ = _sender_and_receivers("0-9-1", role)
    large = BasicProperties(headers={"h": "x" * 8000})
    tracemalloc.start()
    try:
        for number in range(1000):
            assert fast.receive(_stream(sender, [("x", f"k{number}", large, 1)], [1]))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 6_000_000


def test_a_channel_that_is_not_open_is_refused_by_the_fast_path_too() -> None:
    pair = opened()
    fast = pair.client.fast_sender(1)
    fast.publish("", "q", b"\0\0", b"x")
    pair.client.send(1, "channel.close", {})
    with pytest.raises(errors.LocalError):
        fast.publish("", "q", b"\0\0", b"x")
    with pytest.raises(errors.LocalError):
        fast.ack(1, False)


def test_a_mistake_leaves_nothing_in_the_cache() -> None:
    link = opened().client
    fast = link.fast_sender(1)
    for _ in range(2):
        with pytest.raises(errors.InvalidArgument):
            fast.publish("", "k" * 256, b"\0\0", b"x")
        with pytest.raises(errors.InvalidArgumentType):
            fast.publish("", 5, b"\0\0", b"x")  # type: ignore[arg-type]
        with pytest.raises(errors.InvalidArgumentType):
            fast.publish("", [], b"\0\0", b"x")  # type: ignore[arg-type]
    assert not link.publish_frames


# --- in ---------------------------------------------------------------------------------------------------------------


class _Off(FastReceiver):
    """A fast path that leaves everything to the general path."""

    __slots__ = ()

    def read(self, buffer: bytes, at: int, end: int) -> None:
        return None


def _general_path_only(link: Link) -> Link:
    assert _Off.read is not FastReceiver.read  # else a new name there would make these tests compare a path with itself
    assert hasattr(FastReceiver, "read")
    link._fast_receiver.__class__ = _Off
    return link


def _sender_and_receivers(version: str, role: str) -> tuple[Link, Link, Link]:
    """Who sends to a link of the role; and two of these: with a fast, and with the general alone."""
    quick, by_general_path = opened(version, channels=2), opened(version, channels=2)
    ends: Callable[[Pair], Link] = (lambda pair: pair.client) if role == "client" else (lambda pair: pair.server)
    return (
        quick.other(ends(quick)),
        ends(quick),
        _general_path_only(ends(by_general_path)),
    )


def _stream(sender: Link, contents: Contents, channels: list[int], consumers: int = 2) -> bytes:
    """These contents as deliveries, or as publishes, by the general."""
    parts = []
    for tag, ((exchange, key, given_properties, size), number) in enumerate(zip(contents, channels, strict=False)):
        arguments: dict[str, Any] = {"exchange": exchange, "routing_key": key, "mandatory": size == 100}
        if sender.role == "server":
            arguments = _delivery(f"c{tag % consumers}", tag, size == 1, exchange, key)
        name = "basic.deliver" if sender.role == "server" else "basic.publish"
        parts += sender.send_content(number, name, arguments, encode_properties(given_properties), bytes(size))
    return b"".join(parts)


@pytest.mark.parametrize("role", ["client", "server"])
@given(traffic, VERSIONS, st.lists(st.sampled_from([1, 2]), min_size=8, max_size=8), st.data())
def test_contents_are_the_same_events_by_fast_and_general_path_cut_anywhere(
    role: str, contents: Contents, version: str, channels: list[int], data: st.DataObject
) -> None:
    sender, fast, general = _sender_and_receivers(version, role)
    stream = _stream(sender, contents, channels)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    quick = [event for piece in pieces for event in fast.receive(piece)]
    assert [_told(event) for event in quick] == [_told(event) for event in general.receive(stream)]
    assert len(quick) == len(contents)


def _told(event: tuple[int, Message]) -> tuple[Any, ...]:
    number, m = event
    details = {name: m.details.get(name) for name in ("mandatory", "immediate", "ticket")}
    route = m.consumer_tag, m.delivery_tag, m.redelivered, m.exchange, m.routing_key
    return number, m.name, *route, m.encoded, m.body, details


@pytest.mark.parametrize("role", ["client", "server"])
@given(st.integers(0, 400), st.integers(0, 255), st.sampled_from([1, 60]))
def test_a_broken_content_is_judged_the_same_by_fast_and_general_path(
    role: str, place: int, octet: int, size: int
) -> None:
    sender, fast, general = _sender_and_receivers("0-9-1", role)
    stream = bytearray(_stream(sender, [("x", "key", BasicProperties(), size)] * 3, [1, 1, 1]))
    stream[place % len(stream)] = octet
    quick, by_general_path = fast.receive(bytes(stream)), general.receive(bytes(stream))
    assert [_judged(event) for event in quick] == [_judged(event) for event in by_general_path]
    assert fast.take_answers() == general.take_answers()


def _judged(event: tuple[int, Any]) -> Any:
    return _told(event) if isinstance(event[1], Message) else plain([event])


def _own(role: str, number: int, size: int) -> bytes:
    """A content that the link of this role takes, alike but for its body."""
    if role == "client":
        return content(number, "basic.deliver", bytes(size), consumer_tag="c", delivery_tag=size, routing_key="key")
    return content(number, "basic.publish", bytes(size), routing_key="key")


def _pieces_of_a_stream(role: str) -> st.SearchStrategy[bytes]:
    numbers = st.sampled_from([1, 1, 2, 0])
    owns = st.builds(_own, st.just(role), st.sampled_from([1, 1, 2]), st.sampled_from([0, 1, 60, 8184, 8185, 8193]))
    # Without header and body, without its body, or with another end.
    begun = st.builds(lambda number, lacks: _own(role, number, 60)[:-lacks], numbers, st.sampled_from([22 + 68, 68]))
    begun |= st.builds(lambda whole: whole[:-1] + b"\0", owns)
    replies = ["queue.purge-ok", "channel.close-ok"] if role == "client" else ["queue.purge", "channel.open"]
    names = st.sampled_from(["basic.ack", "basic.ack", "channel.flow", "channel.close", "tx.select-ok", *replies])
    weighted = st.builds(lambda whole: whole.replace(b"\0\x3c\0\0", b"\0\x3c\0\1"), owns)
    return (
        st.lists(owns, min_size=1, max_size=4).map(b"".join)
        | st.builds(method_frame, numbers, names)
        | st.builds(body_frame, numbers, st.just(b""))
        | st.sampled_from([HEARTBEAT_FRAME, header_frame(1, 0), header_frame(1, 2**63), frame(1, 1, b"\0\x3c\0\x50")])
        | begun
        | weighted
    )


@pytest.mark.slow
@pytest.mark.parametrize("role", ["client", "server"])
@settings(max_examples=150)
@given(data=st.data(), version=VERSIONS)
def test_any_frames_are_the_same_events_and_answers_by_fast_and_general_path_though_we_close_a_channel_amid_them(
    role: str, data: st.DataObject, version: str
) -> None:
    _, fast, general = _sender_and_receivers(version, role)
    for link in (fast, general):
        link.receive(_own(role, 1, 60) + _own(role, 2, 60))
    stream = bytearray(b"".join(data.draw(st.lists(_pieces_of_a_stream(role), min_size=1, max_size=6))))
    if data.draw(st.booleans()):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    closing = data.draw(st.none() | st.integers(0, len(cuts)))
    for turn, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(stream)], strict=True)):
        if turn == closing and all(
            1 in link._channels and link._channels[1].state == "open" for link in (fast, general)
        ):
            assert fast.send(1, "channel.close", {}) == general.send(1, "channel.close", {})
        piece = bytes(stream[begin:end])
        quick, by_general_path = fast.receive(piece), general.receive(piece)
        assert [_judged(event) for event in quick] == [_judged(event) for event in by_general_path]
        assert fast.take_answers() == general.take_answers()
    assert fast.state == general.state


@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("size", [0, 2, 99])
def test_messages_that_came_alike_one_after_another_are_one_run(role: str, size: int) -> None:
    sender, fast, _ = _sender_and_receivers("0-9-1", role)
    other = 60 if size == 0 else 0  # whether it has a body makes no difference
    contents = [("x", "key", BasicProperties(), size), ("x", "key", BasicProperties(), other)] * 3
    stream = _stream(sender, contents, [1] * 6, consumers=1)
    _, rest = list(fast.runs(stream))
    assert [len(message.body) for message in rest[1]] == [other, size, other, size, other]


def test_a_consumers_deliveries_are_one_run_though_their_keys_alternate() -> None:
    pair = opened()
    contents = [("x", f"k{n % 2}", BasicProperties(), 60) for n in range(8)]
    stream = _stream(pair.server, contents, [1] * 8, consumers=1)
    assert [len(run) for _, run in pair.client.runs(stream)] == [1, 1, 6]


@pytest.mark.parametrize("sizes", list(itertools.product([0, 60], repeat=3)), ids=str)
@pytest.mark.parametrize("numbers", [(1, 1, 1), (1, 2, 1), (1, 1, 2)], ids=str)
def test_messages_that_differ_in_consumer_or_channel_alone_are_not_one_run(
    sizes: tuple[int, ...], numbers: tuple[int, ...]
) -> None:
    """Two consumers' tags have the same length. Each message goes to its own, after a message without a body too."""
    pair = opened(channels=2)
    contents = [("x", "k", BasicProperties(), size) for size in sizes * 4]
    stream = _stream(pair.server, contents, [*numbers * 4])
    found = [(number, message) for number, run in pair.client.runs(stream) for message in run]
    assert [number for number, _ in found] == [*numbers * 4]
    assert [message.consumer_tag for _, message in found] == [f"c{tag % 2}" for tag in range(12)]
    assert [message.delivery_tag for _, message in found] == [*range(12)]
    assert [len(message.body) for _, message in found] == [*sizes * 4]


def test_messages_that_came_alike_share_their_envelope() -> None:
    pair = opened()
    one = ("x", "key", BasicProperties(delivery_mode=2), 60)
    other = ("x", "key", BasicProperties(delivery_mode=1), 60)
    first, second, third = (m for _, m in pair.server.receive(_stream(pair.client, [one, one, other], [1, 1, 1])))
    assert first.envelope is second.envelope
    assert third.properties.delivery_mode == 1
    first.properties.delivery_mode = 7
    assert second.properties.delivery_mode == 2


@pytest.mark.parametrize("role", ["client", "server"])
def test_a_content_whose_body_is_arriving_is_waited_for_and_read_in_one_piece(role: str) -> None:
    sender, fast, _ = _sender_and_receivers("0-9-1", role)
    contents = [("x", "key", BasicProperties(), 60)] * 3
    stream = _stream(sender, contents, [1] * 3, consumers=1)
    cut = len(stream) - 30
    first, second = (list(fast.runs(piece)) for piece in (stream[:cut], stream[cut:]))
    assert [len(run) for _, run in first] == [1, 1]
    assert [len(run) for _, run in second] == [1]  # a run: it came by the fast
