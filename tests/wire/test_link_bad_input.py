"""Bad input at the link: each mistake of the peer gets its code, as an event, after the good frames before it.

From then on the link is deaf, but it completes the close handshake where the framing is still intact.
"""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpspika import errors
from cpspika.errors import AMQPError
from cpspika.wire import frames
from cpspika.wire.codec import Codec, Method
from cpspika.wire.link import BODY_MAX, Link
from cpspika.wire.message import Message
from tests.support.linked import LIMITS, Pair, opened, plain

FRAME_MAX = LIMITS.frame_max
codec = Codec.of("0-9-1")


def method(number: int, name: str, **arguments: Any) -> bytes:
    """A method's frame, whether or not it may come."""
    return frames.frame(frames.METHOD, number, codec.encode(name, arguments))


def raw_method(number: int, class_index: int, method_index: int, arguments: bytes = b"") -> bytes:
    return frames.frame(frames.METHOD, number, struct.pack(">HH", class_index, method_index) + arguments)


def header(number: int, size: int, class_index: int = 60, rest: bytes = b"\0\0") -> bytes:
    return frames.frame(frames.HEADER, number, struct.pack(">HHQ", class_index, 0, size) + rest)


def body(number: int, octets: bytes) -> bytes:
    return frames.frame(frames.BODY, number, octets)


CLOSE_OK = method(0, "connection.close-ok")
PUBLISH = method(1, "basic.publish", exchange="x")
DECLARE = struct.pack(">H", 0) + b"\1q\0"  # queue.declare's arguments up to its table
GOOD = method(1, "tx.select") + PUBLISH + header(1, 5) + body(1, b"whole") + method(2, "tx.commit")


class Mistake(NamedTuple):
    """What a peer of that role sends, the code and class that it gets, and whether frames can be told apart after."""

    data: bytes
    code: int
    error: type[AMQPError]
    framed: bool = True
    role: str = "client"


MISTAKES = {
    # framing
    # A server takes 8 bytes more, as RabbitMQ does: some clients take frame_max for the payload's size.
    "a frame over frame_max": Mistake(body(1, bytes(FRAME_MAX + 1)), 501, errors.InvalidFrameError, False),
    "a frame of 4 GiB": Mistake(struct.pack(">BHI", 3, 1, 2**32 - 1), 501, errors.InvalidFrameError, False),
    "a wrong frame end": Mistake(method(1, "tx.select")[:-1] + b"\0", 501, errors.InvalidFrameError, False),
    "an unknown frame type": Mistake(frames.frame(9, 1, b""), 501, errors.InvalidFrameError, False),
    "a frame type of 0-8 alone": Mistake(frames.frame(4, 1, b""), 501, errors.InvalidFrameError, False),
    "a heartbeat on a channel": Mistake(frames.frame(8, 1, b""), 501, errors.InvalidFrameError),
    "a heartbeat with a payload": Mistake(frames.frame(8, 0, b"x"), 501, errors.InvalidFrameError),
    # methods
    "an unknown class": Mistake(raw_method(1, 61, 10), 540, errors.UnknownMethodError),
    "an unknown method": Mistake(raw_method(1, 60, 99), 540, errors.UnknownMethodError),
    "a class of 0-8 alone": Mistake(raw_method(1, 70, 10), 540, errors.UnknownMethodError),
    "an empty method frame": Mistake(frames.frame(1, 1, b""), 502, errors.ProtocolSyntaxError),
    "a method frame of 3 bytes": Mistake(frames.frame(1, 1, b"\0\x3c\0"), 502, errors.ProtocolSyntaxError),
    "arguments cut short": Mistake(raw_method(1, 60, 80, b"\0\0"), 502, errors.ProtocolSyntaxError),
    "bytes after the arguments": Mistake(raw_method(1, 90, 10, b"\0"), 502, errors.ProtocolSyntaxError),
    "a method without its bits": Mistake(raw_method(1, 60, 80, bytes(8)), 502, errors.ProtocolSyntaxError),
    "a shortstr that runs over": Mistake(raw_method(1, 50, 30, b"\0\0\xffq\0"), 502, errors.ProtocolSyntaxError),
    # tables
    "a truncated table": Mistake(raw_method(1, 50, 10, DECLARE + b"\0\0\0\x09\1k"), 502, errors.InvalidTableError),
    "a table of 4 GiB": Mistake(raw_method(1, 50, 10, DECLARE + b"\xff" * 4), 502, errors.InvalidTableError),
    "a value longer than its table": Mistake(
        raw_method(1, 50, 10, DECLARE + b"\0\0\0\3\1kI\0\0\0\0"), 502, errors.InvalidTableError
    ),
    "a longstr of 4 GiB in a table": Mistake(
        raw_method(1, 50, 10, DECLARE + b"\0\0\0\7\1kS\xff\xff\xff\xff"), 502, errors.ProtocolSyntaxError
    ),
    "a table field of no type": Mistake(
        raw_method(1, 50, 10, DECLARE + b"\0\0\0\3\1k?"), 502, errors.InvalidTableError
    ),
    # contents
    "a body longer than announced": Mistake(PUBLISH + header(1, 3) + body(1, b"four"), 501, errors.BodyTooLongError),
    "a body for an empty content": Mistake(PUBLISH + header(1, 0) + body(1, b"x"), 505, errors.UnexpectedFrameError),
    "a body shorter than announced": Mistake(
        PUBLISH + header(1, 5) + body(1, b"four") + method(1, "tx.select"), 505, errors.UnexpectedFrameError
    ),
    "a method where a header was due": Mistake(PUBLISH + method(1, "tx.select"), 505, errors.UnexpectedFrameError),
    "a second publish where a header was due": Mistake(PUBLISH + PUBLISH, 505, errors.UnexpectedFrameError),
    "a body where a header was due": Mistake(PUBLISH + body(1, b"x"), 505, errors.UnexpectedFrameError),
    "a second header": Mistake(PUBLISH + header(1, 5) + header(1, 5), 505, errors.UnexpectedFrameError),
    "a header out of nothing": Mistake(header(1, 5), 505, errors.UnexpectedFrameError),
    "a body out of nothing": Mistake(body(1, b"x"), 505, errors.UnexpectedFrameError),
    "a header of another class": Mistake(PUBLISH + header(1, 5, 90), 505, errors.UnexpectedFrameError),
    "a header cut short": Mistake(PUBLISH + frames.frame(2, 1, bytes(11)), 502, errors.ProtocolSyntaxError),
    # channels
    "a method on a channel not open": Mistake(method(9, "tx.select"), 504, errors.UnopenedChannelError),
    "a header on a channel not open": Mistake(header(9, 5), 504, errors.UnopenedChannelError),
    "a body on a channel not open": Mistake(body(9, b"x"), 504, errors.UnopenedChannelError),
    "a content on channel 0": Mistake(header(0, 5), 504, errors.UnopenedChannelError),
    "a channel opened twice": Mistake(method(1, "channel.open"), 504, errors.UnexpectedFrameError),
    "a close-ok to no close": Mistake(method(1, "channel.close-ok"), 503, errors.UnexpectedMethodError),
    "a method on a channel closed before": Mistake(
        method(1, "channel.close") + method(1, "tx.select"), 504, errors.UnopenedChannelError
    ),
    # out of turn, or of place
    "a channel's method on channel 0": Mistake(method(0, "tx.select"), 503, errors.UnexpectedMethodError),
    "a connection's method on a channel": Mistake(method(1, "connection.close"), 503, errors.UnexpectedMethodError),
    "connection.close-ok to no close": Mistake(method(0, "connection.close-ok"), 503, errors.UnexpectedMethodError),
    "connection.open again": Mistake(method(0, "connection.open"), 503, errors.UnexpectedMethodError),
    "a server's method from a client": Mistake(method(1, "basic.get-empty"), 503, errors.UnexpectedMethodError),
    "a server's content from a client": Mistake(method(1, "basic.deliver"), 503, errors.UnexpectedMethodError),
    "a client's method from a server": Mistake(
        method(1, "queue.declare"), 503, errors.UnexpectedMethodError, role="server"
    ),
    "a client's content from a server": Mistake(PUBLISH, 503, errors.UnexpectedMethodError, role="server"),
    "channel.open from a server": Mistake(method(9, "channel.open"), 503, errors.UnexpectedMethodError, role="server"),
    "channel.open-ok again": Mistake(method(1, "channel.open-ok"), 503, errors.UnexpectedMethodError, role="server"),
}
every_mistake = pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)


def scene(mistake: Mistake) -> tuple[Pair, Link, bytes, int]:
    """A pair, the end that hears the mistake, good frames that its peer may send before, and how many events they
    give."""
    pair = opened(channels=2)
    if mistake.role == "client":
        return pair, pair.server, GOOD, 3
    return pair, pair.client, method(1, "tx.select-ok") + method(2, "tx.commit-ok"), 2


def mistakes_of(events: list[tuple[int, Any]]) -> list[tuple[int, AMQPError]]:
    return [(number, event) for number, event in events if isinstance(event, AMQPError)]


@every_mistake
def test_a_mistake_is_an_event_with_its_code_after_the_good_frames(mistake: Mistake) -> None:
    _, link, good, count = scene(mistake)
    events = link.receive(good + mistake.data)
    assert not mistakes_of(events[:count])
    ((number, error),) = mistakes_of(events)
    assert events[-1] == (number, error)
    assert number == 0
    assert isinstance(error, mistake.error)
    assert error.code == mistake.code
    assert str(error).startswith(f"{mistake.code} ")


@every_mistake
def test_the_peer_is_told_the_code_and_the_text(mistake: Mistake) -> None:
    pair, link, _, _ = scene(mistake)
    ((_, error),) = mistakes_of(link.receive(mistake.data))
    pair.talk()
    heard = [event for _, event in pair.heard[pair.other(link).role] if isinstance(event, Method)]
    closes = [event for event in heard if event.name == "connection.close"]
    assert [(close.reply_code, close.reply_text) for close in closes] == [(mistake.code, error.text[:255])]


@pytest.mark.slow
@every_mistake
def test_a_mistake_is_the_same_however_it_is_cut(mistake: Mistake) -> None:
    _, link, good, _ = scene(mistake)
    stream = good + mistake.data
    whole = plain(link.receive(stream))
    cuts = range(len(stream) + 1) if len(stream) < 1000 else [1, 7, 8, 100, len(stream) - 1]
    for cut in cuts:
        _, again, _, _ = scene(mistake)
        assert plain(again.receive(stream[:cut]) + again.receive(stream[cut:])) == whole


@every_mistake
def test_after_a_mistake_the_link_is_deaf_but_for_the_close_handshake(mistake: Mistake) -> None:
    _, link, good, _ = scene(mistake)
    link.receive(mistake.data)
    link.take_answers()
    again = b"" if mistake.data == CLOSE_OK else mistake.data
    assert link.receive(good + again + frames.HEARTBEAT_FRAME) == []
    assert link.take_answers() == b""
    events = link.receive(CLOSE_OK)
    if mistake.framed:
        assert events == [(0, Method("connection.close-ok", {}))]
        assert link.state == "closed"
    else:
        assert events == []


@every_mistake
def test_a_mistake_while_closing_says_nothing_more_and_the_close_completes(mistake: Mistake) -> None:
    _, link, _, _ = scene(mistake)
    link.send(0, "connection.close", {"reply_code": 200, "reply_text": "bye"})
    events = link.receive(mistake.data)
    assert "connection.close" not in method_names(link.take_answers())
    if mistake.framed:
        events += link.receive(CLOSE_OK)
        assert (0, Method("connection.close-ok", {})) in events
        assert link.state == "closed"


def method_names(data: bytes) -> list[str]:
    reader, at, names = frames.FrameReader(0), 0, []
    while found := reader.next(data, at):
        names.append(codec.decode(found[2]).name)
        at = found[3]
    return names


@every_mistake
def test_frames_after_a_close_are_nothing(mistake: Mistake) -> None:
    _, link, good, _ = scene(mistake)
    peer_closes = method(0, "connection.close", reply_code=200, reply_text="bye")
    ((_, close),) = link.receive(peer_closes)
    assert close.name == "connection.close"
    assert method_names(link.take_answers()) == ["connection.close-ok"]
    assert link.state == "closed"
    assert link.receive(good + mistake.data) == []
    assert link.take_answers() == b""


# --- a body that is too large for us: the channel alone is closed -----------------------------------------------------


@pytest.mark.parametrize("size", [BODY_MAX + 1, 2**63, 2**64 - 1])
def test_a_body_size_beyond_all_measure_closes_the_channel_and_allocates_nothing(size: int) -> None:
    pair = opened(channels=2)
    tracemalloc.start()
    try:
        events = pair.server.receive(PUBLISH + header(1, size) + body(1, b"some of it"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    ((number, error),) = events
    assert number == 1
    assert isinstance(error, errors.ContentTooLarge)
    assert isinstance(error, errors.ChannelClosed)
    assert str(size) in str(error)
    assert peak < 100_000
    assert method_names(pair.server.take_answers()) == ["channel.close"]
    assert pair.server.receive(method(2, "tx.select")) == [(2, Method("tx.select", {}))]


def test_a_channel_closed_for_its_body_ends_by_close_ok_and_opens_again() -> None:
    """The peer gives the content up when it hears of the close: it could not end it in a thousand years."""
    pair = opened(channels=2)
    pair.server.receive(PUBLISH + header(1, 2**63) + body(1, b"some of it"))
    pair.server.take_answers()
    assert pair.server.receive(method(1, "channel.close-ok")) == [(1, Method("channel.close-ok", {}))]
    assert pair.server.receive(method(1, "channel.open")) == [(1, Method("channel.open", {"out_of_band": ""}))]
    assert pair.server.state == "open"


@pytest.mark.parametrize("ours", [True, False])
def test_a_second_body_beyond_all_measure_on_a_channel_that_is_closing_is_let_pass(ours: bool) -> None:
    """Its close is under way, ours or for the first such body: there is no more to say, and what follows counts."""
    pair = opened(channels=2)
    if ours:
        pair.server.send(1, "channel.close", {})
    else:
        pair.server.receive(PUBLISH + header(1, 2**63))
        pair.server.take_answers()
    events = pair.server.receive(PUBLISH + header(1, 2**63) + body(1, b"some of it") + method(2, "tx.select"))
    assert events == [(2, Method("tx.select", {}))]
    assert pair.server.take_answers() == b""
    assert pair.server.receive(method(1, "channel.close-ok")) == [(1, Method("channel.close-ok", {}))]


def test_the_largest_body_that_we_take_allocates_only_what_came() -> None:
    pair = opened()
    tracemalloc.start()
    try:
        assert pair.server.receive(PUBLISH + header(1, BODY_MAX) + body(1, bytes(5000))) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000


def test_a_body_in_many_frames_is_put_together_once() -> None:
    pair = opened()
    size = 2_000_000
    pair.server.receive(PUBLISH + header(1, size))
    tracemalloc.start()
    try:
        for _ in range(0, size, 8000):
            events = pair.server.receive(body(1, bytes(8000)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    ((_, message),) = events
    assert message.body == bytes(size)
    assert peak < 2.5 * size


def test_a_malformed_header_costs_nobody_until_its_properties_are_asked_for() -> None:
    pair = opened()
    ((_, message),) = pair.server.receive(PUBLISH + header(1, 2, rest=b"\x80\0\xff") + body(1, b"ok"))
    assert isinstance(message, Message)
    assert message.body == b"ok"
    with pytest.raises(errors.ProtocolSyntaxError):
        message.properties  # noqa: B018


# --- any bytes --------------------------------------------------------------------------------------------------------

numbers = st.integers(0, 3)
known_methods = st.sampled_from(sorted(codec.by_name)).map(lambda name: codec.encode(name, {}))
half_right_methods = st.builds(
    lambda row, rest: struct.pack(">HH", row.class_index, row.method_index) + rest,
    st.sampled_from(list(codec.by_name.values())),
    st.binary(max_size=12),
)
headers = st.builds(
    lambda index, size, rest: struct.pack(">HHQ", index, 0, size) + rest,
    st.sampled_from([60, 60, 60, 90]),
    st.integers(0, 12) | st.just(2**63),
    st.just(b"\0\0") | st.binary(max_size=6),
)
some_frames = (
    st.builds(frames.frame, st.just(frames.METHOD), numbers, known_methods | half_right_methods)
    | st.builds(frames.frame, st.just(frames.HEADER), numbers, headers)
    | st.builds(frames.frame, st.just(frames.BODY), numbers, st.binary(max_size=12))
    | st.builds(lambda number: method(number, "basic.publish") + header(number, 2) + body(number, b"ok"), numbers)
    | st.builds(lambda number: method(number, "basic.deliver") + header(number, 2) + body(number, b"ok"), numbers)
    | st.just(frames.HEARTBEAT_FRAME)
    | st.binary(max_size=12)
)
roles = st.sampled_from(["client", "server"])


@settings(max_examples=80)
@given(garbage=st.binary(max_size=100), cut=st.integers(0, 200))
def test_any_bytes_never_raise_and_never_lose_what_came_before(garbage: bytes, cut: int) -> None:
    stream = GOOD + garbage
    good = plain(opened(channels=2).server.receive(GOOD))
    server = opened(channels=2).server
    events = plain(server.receive(stream[:cut]) + server.receive(stream[cut:]))
    assert events[: len(good)] == good
    server.receive(garbage)


@settings(max_examples=100)
@given(role=roles, parts=st.lists(some_frames, max_size=12), data=st.data())
def test_any_frames_never_raise_and_any_cut_gives_the_same_events(
    role: str, parts: list[bytes], data: st.DataObject
) -> None:
    whole, cut = (getattr(opened(channels=2), role) for _ in range(2))
    stream = b"".join(parts)
    events = plain(whole.receive(stream))
    places = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    assert plain([event for piece in pieces for event in cut.receive(piece)]) == events
    assert cut.take_answers() == whole.take_answers()
    assert cut.state == whole.state


@settings(max_examples=80)
@given(role=roles, parts=st.lists(some_frames, max_size=12))
def test_what_a_link_answers_is_well_formed_and_in_turn(role: str, parts: list[bytes]) -> None:
    """The other end of the same rules must be able to read all of it."""
    pair = opened(channels=2)
    link = getattr(pair, role)
    link.receive(b"".join(parts))
    for name in method_names(link.take_answers()):
        assert name in ("connection.close", "connection.close-ok", "channel.close", "channel.close-ok")
