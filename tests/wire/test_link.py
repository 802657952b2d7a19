"""Two links that talk: every method and content through both ends, tuning of bodies, liveness, and closing.

In h11's manner each thing is pushed through whole, byte by byte, and with the beginning of the next behind it.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpspika import spec
from cpspika.errors import HeartbeatTimeout, InvalidArgument, InvalidArgumentType, LocalError, ProtocolSyntaxError
from cpspika.wire import frames
from cpspika.wire.codec import Method
from cpspika.wire.link import SILENT_TICKS, Link
from cpspika.wire.message import NO_PROPERTIES, Message, encode_properties
from cpspika.wire.states import CONNECTION
from tests.support.linked import LIMITS, bare, opened, plain

SAMPLES: dict[str, Any] = {
    "bit": True,
    "octet": 200,
    "short": 50_000,
    "long": 3_000_000_000,
    "longlong": 2**63,
    "shortstr": "grüße",
    "longstr": b"\0\xce\xff",
    "table": {"a": 1, "b": {"c": [None, "d"]}},
}
ROWS = [
    (version, row, sender)
    for version in spec.VERSIONS
    for one in spec.load(version)
    for row in one.methods
    for sender in {"C": ["client"], "S": ["server"], "B": ["client", "server"]}[row.sender]
]
every_row = pytest.mark.parametrize(
    ("version", "row", "sender"), ROWS, ids=[f"{version} {row.name} of the {sender}" for version, row, sender in ROWS]
)


def ends(version: str, row: spec.Method, role: str) -> tuple[Link, Link, int]:
    """A sender of that role and a receiver, in states where the method may pass, and its channel."""
    client, server = bare("client", version), bare("server", version)
    sender, receiver = (client, server) if role == "client" else (server, client)
    if row.name.startswith("connection."):
        for link, direction in ((sender, ">"), (receiver, "<")):
            link.state = next(
                state for state, rows in CONNECTION.items() if row.name in rows or direction + row.name in rows
            )
        return sender, receiver, 0
    client.state = server.state = "open"
    if row.name != "channel.open":
        server.receive(client.send(7, "channel.open", {}))
    if row.name not in ("channel.open", "channel.open-ok"):
        client.receive(server.send(7, "channel.open-ok", {}))
    if row.name == "channel.close-ok":
        sender.receive(receiver.send(7, "channel.close", {}))
        sender.take_answers()
        # The link answered by itself; to send it again here, the sender must still be asked to close.
        sender._channels[7] = type(next(iter(receiver._channels.values())))()
        sender._channels[7].state = "asked to close"
    return sender, receiver, 7


def said(sender: Link, row: spec.Method, number: int) -> bytes:
    arguments = {argument.name: SAMPLES[argument.type] for argument in row.arguments}
    if row.content:
        return b"".join(sender.send_content(number, row.name, arguments, NO_PROPERTIES, b"body\xce"))
    return sender.send(number, row.name, arguments)


def check(row: spec.Method, number: int, events: list[tuple[int, Any]]) -> None:
    ((channel, event),) = events
    arguments = {argument.name: SAMPLES[argument.type] for argument in row.arguments}
    assert channel == number
    if row.content:
        assert isinstance(event, Message)
        assert (event.name, event.details, event.body) == (row.name, arguments, b"body\xce")
    else:
        assert event == Method(row.name, arguments)


@every_row
def test_a_method_arrives_whole(version: str, row: spec.Method, sender: str) -> None:
    one, other, number = ends(version, row, sender)
    check(row, number, other.receive(said(one, row, number)))


@every_row
def test_a_method_arrives_byte_by_byte(version: str, row: spec.Method, sender: str) -> None:
    one, other, number = ends(version, row, sender)
    data = said(one, row, number)
    pieces = [other.receive(data[at : at + 1]) for at in range(len(data))]
    assert not any(pieces[:-1])
    check(row, number, pieces[-1])


@every_row
def test_a_method_arrives_with_the_beginning_of_the_next_behind_it(version: str, row: spec.Method, sender: str) -> None:
    for cut in range(1, len(frames.HEARTBEAT_FRAME)):
        one, other, number = ends(version, row, sender)
        check(row, number, other.receive(said(one, row, number) + frames.HEARTBEAT_FRAME[:cut]))
        assert other.receive(frames.HEARTBEAT_FRAME[cut:]) == []


# --- contents ---------------------------------------------------------------------------------------------------------


def publish(link: Link, body: bytes, number: int = 1, **properties: Any) -> bytes:
    arguments = {"exchange": "x", "routing_key": "k"}
    chunks = link.send_content(number, "basic.publish", arguments, encode_properties(properties), body)
    return b"".join(chunks)


@pytest.mark.slow
def test_a_content_cut_at_every_byte_is_the_same_message() -> None:
    body = bytes(range(256)) * 40  # more than one frame of 8192
    pair = opened()
    stream = publish(pair.client, body, content_type="text/plain")
    for cut in range(len(stream) + 1):
        first, second = pair.server.receive(stream[:cut]), pair.server.receive(stream[cut:])
        ((number, message),) = first + second
        assert (number, message.body, message.exchange, message.routing_key) == (1, body, "x", "k")
        assert message.properties.content_type == "text/plain"


@pytest.mark.parametrize("frame_max", [4096, 8192, 131072])
@pytest.mark.parametrize("frames_of_body", [0, 1, 2, 3])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_body_is_cut_by_frame_max_at_exact_multiples_too(frame_max: int, frames_of_body: int, more: int) -> None:
    size = max(0, frames_of_body * (frame_max - 8) + more)
    pair = opened(frame_max=frame_max, limits=LIMITS._replace(frame_max=frame_max))
    stream = publish(pair.client, bytes(size))
    sizes = frame_sizes(stream)
    assert max(sizes) <= frame_max
    assert len(sizes) - 2 == -(-size // (frame_max - 8))
    ((_, message),) = pair.server.receive(stream)
    assert message.body == bytes(size)


def frame_sizes(stream: bytes) -> list[int]:
    sizes, at = [], 0
    while at < len(stream):
        sizes.append(struct.unpack_from(">I", stream, at + 3)[0] + 8)
        at += sizes[-1]
    return sizes


def test_an_empty_body_is_a_message_with_its_header() -> None:
    pair = opened()
    ((_, message),) = pair.server.receive(publish(pair.client, b"", priority=3))
    assert (message.body, message.properties.priority) == (b"", 3)


def test_contents_of_different_channels_may_mix() -> None:
    pair = opened(channels=2)
    one, two = (publish(pair.client, bytes([number]) * 20_000, number) for number in (1, 2))
    mixed, ats = b"", [0, 0]
    for _ in range(5):
        for place, stream in enumerate((one, two)):
            size = struct.unpack_from(">I", stream, ats[place] + 3)[0] + 8
            mixed += stream[ats[place] : ats[place] + size]
            ats[place] += size
    assert ats == [len(one), len(two)]
    events = pair.server.receive(mixed)
    assert [(number, message.body) for number, message in events] == [(1, b"\1" * 20_000), (2, b"\2" * 20_000)]


def test_methods_of_other_channels_and_heartbeats_may_come_amid_a_content() -> None:
    pair = opened(channels=2)
    stream = publish(pair.client, bytes(20_000))
    at = len(stream) - frame_sizes(stream)[-1]
    between = frames.HEARTBEAT_FRAME + pair.client.send(2, "tx.select", {})
    events = pair.server.receive(stream[:at] + between + stream[at:])
    assert [(number, event.name) for number, event in events] == [(2, "tx.select"), (1, "basic.publish")]


def test_a_message_passed_on_has_the_same_header_bytes() -> None:
    pair = opened()
    properties = encode_properties({"headers": {"a": 1}})
    pair.carry(pair.client, publish(pair.client, b"hello", headers={"a": 1}))
    ((_, message),) = pair.heard["server"]
    assert message.encoded == properties


some_method = st.sampled_from(
    [
        ("queue.declare", {"queue": "q", "arguments": {"x": [1, "two"]}}),
        ("basic.ack", {"delivery_tag": 2**64 - 1, "multiple": True}),
        ("tx.select", {}),
        ("basic.qos", {"prefetch_count": 65535}),
    ]
)
conversations = st.lists(st.tuples(st.integers(1, 3), some_method | st.binary(max_size=300)), min_size=1, max_size=8)


@settings(max_examples=40)
@given(conversation=conversations, data=st.data())
def test_any_cut_of_a_stream_gives_the_same_events(conversation: list[Any], data: st.DataObject) -> None:
    pair, same = opened(channels=3), opened(channels=3)
    stream = b""
    for number, what in conversation:
        if isinstance(what, bytes):
            stream += publish(pair.client, what, number)
        else:
            stream += pair.client.send(number, *what) + frames.HEARTBEAT_FRAME
    whole = pair.server.receive(stream)
    assert len(whole) == len(conversation)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert plain([event for piece in pieces for event in same.server.receive(piece)]) == plain(whole)


# --- sending ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("channel.open", {"out_of_band": 5}, InvalidArgumentType),
        ("channel.open", {"out_of_band": "x" * 256}, InvalidArgument),
        ("channel.open", {"colour": "red"}, InvalidArgument),
        ("queue.declare", {}, LocalError),
        ("channel.close-ok", {}, LocalError),
    ],
)
def test_what_cannot_be_sent_changes_nothing(name: str, arguments: dict[str, Any], error: type[Exception]) -> None:
    pair = opened(channels=0)
    with pytest.raises(error):
        pair.client.send(1, name, arguments)
    assert pair.client.take_answers() == b""
    assert pair.say(pair.client, 1, "channel.open") == [(1, Method("channel.open", {"out_of_band": ""}))]


def test_a_method_or_header_over_frame_max_is_refused_before_anything_is_sent() -> None:
    pair = opened()
    with pytest.raises(InvalidArgument, match=r"queue\.declare takes \d+ bytes; a frame of this connection takes 8192"):
        pair.client.send(1, "queue.declare", {"arguments": {"x": "y" * 9000}})
    with pytest.raises(InvalidArgument, match=r"the header of basic\.publish takes \d+ bytes"):
        publish(pair.client, b"body", headers={"x": "y" * 9000})
    assert pair.say(pair.client, 1, "tx.select") == [(1, Method("tx.select", {}))]


def test_the_largest_method_that_frame_max_allows_arrives() -> None:
    pair = opened()
    room = 8192 - 8 - len(pair.client.codec.encode("queue.declare", {"arguments": {"x": ""}}))
    ((_, method),) = pair.say(pair.client, 1, "queue.declare", arguments={"x": "y" * room})
    assert method.arguments["arguments"] == {"x": "y" * room}
    with pytest.raises(InvalidArgument):
        pair.client.send(1, "queue.declare", {"arguments": {"x": "y" * (room + 1)}})


@pytest.mark.parametrize("name", ["queue.declare", "channel.close", "channel.open-ok"])
def test_a_method_on_a_channel_that_is_not_open_is_a_local_error(name: str) -> None:
    with pytest.raises(LocalError, match=rf"{name} cannot be sent now: channel 9 is closed"):
        opened().client.send(9, name, {})


# --- liveness ---------------------------------------------------------------------------------------------------------


def test_a_heartbeat_is_due_when_nothing_else_was_sent() -> None:
    link = opened().client
    assert link.tick(1000) == b""
    assert link.tick(1000) == frames.HEARTBEAT_FRAME
    assert link.tick(1008) == frames.HEARTBEAT_FRAME  # the heartbeat itself took 8 bytes, and is no traffic
    link.receive(frames.HEARTBEAT_FRAME)
    assert link.tick(1017) == b""
    assert link.tick(1017) == frames.HEARTBEAT_FRAME


def test_a_silent_peer_is_given_up_after_two_intervals_and_not_before() -> None:
    link = opened().client
    link.tick(0)  # what came before it still counts
    for _ in range(SILENT_TICKS - 1):
        link.tick(0)
    with pytest.raises(HeartbeatTimeout, match="two heartbeat intervals"):
        link.tick(0)
    assert SILENT_TICKS == 4  # of half an interval each


def test_any_byte_is_a_sign_of_life() -> None:
    link = opened().client
    link.tick(0)
    for at in range(len(frames.HEARTBEAT_FRAME)):
        for _ in range(SILENT_TICKS - 1):
            link.tick(0)
        link.receive(frames.HEARTBEAT_FRAME[at : at + 1])
        link.tick(0)


def test_a_heartbeat_is_no_event_and_has_no_answer() -> None:
    pair = opened()
    assert pair.server.receive(frames.HEARTBEAT_FRAME * 3) == []
    assert pair.server.take_answers() == b""


# --- closing ----------------------------------------------------------------------------------------------------------

GOODBYE = {"reply_code": 200, "reply_text": "bye", "class_id": 0, "method_id": 0}


@pytest.mark.parametrize("version", spec.VERSIONS)
@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("number", [0, 1])
def test_either_end_closes_connection_and_channel(version: str, role: str, number: int) -> None:
    pair = opened(version)
    what = "channel" if number else "connection"
    sender = getattr(pair, role)
    assert pair.say(sender, number, f"{what}.close", **GOODBYE) == [(number, Method(f"{what}.close", GOODBYE))]
    assert pair.heard[role] == [(number, Method(f"{what}.close-ok", {}))]
    expected = "open" if number else "closed"
    assert (pair.client.state, pair.server.state) == (expected, expected)


@pytest.mark.parametrize("version", spec.VERSIONS)
@pytest.mark.parametrize("number", [0, 1])
def test_closes_that_cross_end_in_two_close_oks(version: str, number: int) -> None:
    pair = opened(version)
    what = "channel" if number else "connection"
    mine, yours = (link.send(number, f"{what}.close", GOODBYE) for link in (pair.client, pair.server))
    pair.carry(pair.client, mine)
    pair.carry(pair.server, yours)
    pair.talk()
    both = [(number, Method(f"{what}.close", GOODBYE)), (number, Method(f"{what}.close-ok", {}))]
    assert pair.heard == {"client": both, "server": both}
    if number:
        assert pair.open_channel().heard["server"][-1] == (1, Method("channel.open", {"out_of_band": ""}))
    else:
        assert (pair.client.state, pair.server.state) == ("closed", "closed")


def test_a_channel_closed_by_one_end_leaves_the_others_and_may_be_opened_again() -> None:
    pair = opened(channels=2)
    pair.say(pair.server, 1, "channel.close", **GOODBYE)
    assert pair.say(pair.client, 2, "tx.select") == [(2, Method("tx.select", {}))]
    with pytest.raises(LocalError):
        pair.client.send(1, "tx.select", {})
    pair.open_channel(1)
    assert pair.say(pair.client, 1, "tx.select") == [(1, Method("tx.select", {}))]


@pytest.mark.parametrize("number", [0, 1])
def test_replies_on_their_way_still_come_while_closing(number: int) -> None:
    pair = opened()
    reply = pair.server.send(1, "tx.select-ok", {})
    closing = pair.client.send(number, "channel.close" if number else "connection.close", GOODBYE)
    pair.carry(pair.server, reply)
    pair.carry(pair.client, closing)
    pair.talk()
    assert [event.name.partition(".")[2] for _, event in pair.heard["client"]] == ["select-ok", "close-ok"]


@pytest.mark.parametrize("number", [0, 1])
def test_nothing_may_be_sent_after_a_close(number: int) -> None:
    pair = opened()
    pair.client.send(number, "channel.close" if number else "connection.close", GOODBYE)
    with pytest.raises(LocalError, match="cannot be sent now"):
        pair.client.send(number, "tx.select" if number else "connection.update-secret", {})


def test_the_state_before_a_close_is_kept_for_the_errors_that_tell_of_it() -> None:
    pair = opened()
    pair.say(pair.server, 0, "connection.close", **GOODBYE)
    assert pair.client.before_close == "open"


def test_the_channels_above_can_report_a_fault() -> None:
    """A reply that nobody asked for shows above the link."""
    pair = opened()
    pair.client.fault(ProtocolSyntaxError("é" * 300, code=503))
    pair.talk()
    ((_, close),) = [event for event in pair.heard["server"] if event[1].name == "connection.close"]
    assert (close.reply_code, close.reply_text) == (503, "é" * 127)
    assert pair.client.state == "closed"
