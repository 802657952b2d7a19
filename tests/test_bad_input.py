"""Bad input, and what it gets: a broker that breaks the protocol, in every way that issue 2 names and some more.

Each is met at the client's door: an open connection with two channels and operations under way. The broker is told the
code that the specification gives, everybody who waits is told what was wrong, and the link ends.
"""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from scripted import (
    DELIVERY,
    Done,
    World,
    body_frame,
    content,
    frame,
    header_frame,
    method_frame,
    opened,
    said,
)

import cpspika
from cpspika.wire import frames

METHOD, HEADER, BODY, HEARTBEAT = frames.METHOD, frames.HEADER, frames.BODY, frames.HEARTBEAT


class Scene(World):
    """An open connection. Channel 1 confirms and consumes and waits for a request and a publish; channel 2 waits for a
    request; the connection waits for the answer to a new secret."""

    def __init__(self) -> None:
        super().__init__()
        self.peer.expect_open()
        self.got: list[Any] = []
        self.first, self.second = self.confirming(), self.channel()
        self.consume(self.first, self.got.append)
        self.waiting = {name: Done(name) for name in ("declare", "publish", "purge", "secret")}
        self.first.queue_declare("q", on_done=self.waiting["declare"])
        self.first.basic_publish(routing_key="q", body="m", on_done=self.waiting["publish"])
        self.second.queue_purge("q", on_done=self.waiting["purge"])
        self.connection.update_secret("s", on_done=self.waiting["secret"])
        for name in ("queue.declare", "basic.publish", "queue.purge", "connection.update-secret"):
            self.peer.expect(name)

    def all_were_told(self, *words: str) -> None:
        for name, done in self.waiting.items():
            assert isinstance(done.error, cpspika.AMQPError), name
            for word in words:
                assert word in said(done.error), f"{name} was told {said(done.error)!r}, without {word!r}"
        assert isinstance(self.waiting["publish"].error, cpspika.DeliveryUnknown)


def deliver(body: bytes = b"m", size: int | None = None, properties: bytes = b"\0\0", class_index: int = 60) -> bytes:
    """A delivery to the consumer, with lies."""
    head = header_frame(1, len(body) if size is None else size, properties, class_index)
    return method_frame(1, "basic.deliver", **DELIVERY) + head + (body_frame(1, body) if body else b"")


def a_table(octets: bytes) -> bytes:
    """Properties: headers, with a table of these octets (its length included)."""
    return struct.pack(">H", 0x2000) + octets


DELIVER = method_frame(1, "basic.deliver", **DELIVERY)
DECLARE_OK = method_frame(1, "queue.declare-ok", queue="q")

# name: what comes, the code that the broker is told, a word of the reason, the class of the error
HARD: dict[str, tuple[bytes, int, str, type[Exception]]] = {
    # frames
    "a frame over frame_max": (frame(METHOD, 1, b"x" * 131072), 501, "frame_max", cpspika.InvalidFrameError),
    "a frame one byte over frame_max": (frame(BODY, 1, b"x" * (131072 - 7)), 501, "131073", cpspika.InvalidFrameError),
    "a frame of 4 GiB": (frame(METHOD, 1, b"", size=2**32 - 1), 501, "frame_max", cpspika.InvalidFrameError),
    "a wrong frame end": (frame(METHOD, 1, DECLARE_OK[7:-1], end=b"\xcd"), 501, "0xcd", cpspika.InvalidFrameError),
    "a frame size too small": (frame(METHOD, 1, b"12345", size=3), 501, "0xce", cpspika.InvalidFrameError),
    "a frame of unknown type": (frame(99, 1, b"x"), 501, "type 99", cpspika.InvalidFrameError),
    "a frame of type 0": (b"\0" * 16, 501, "type 0", cpspika.InvalidFrameError),
    "a protocol header": (b"AMQP\0\0\x09\x01", 501, "type 65", cpspika.InvalidFrameError),
    "a heartbeat with a payload": (frame(HEARTBEAT, 0, b"x"), 501, "heartbeat", cpspika.InvalidFrameError),
    "a heartbeat on a channel": (frame(HEARTBEAT, 1, b""), 501, "heartbeat", cpspika.InvalidFrameError),
    # methods
    "an unknown class": (frame(METHOD, 1, struct.pack(">HH", 999, 10)), 540, "999", cpspika.UnknownMethodError),
    "an unknown method": (frame(METHOD, 1, struct.pack(">HH", 50, 999)), 540, "999", cpspika.UnknownMethodError),
    "an unknown method on channel 0": (
        frame(METHOD, 0, struct.pack(">HH", 10, 999)),
        540,
        "999",
        cpspika.UnknownMethodError,
    ),
    "a method of 0-8 alone": (frame(METHOD, 1, struct.pack(">HH", 70, 11)), 540, "70", cpspika.UnknownMethodError),
    "an empty method frame": (frame(METHOD, 1, b""), 502, "0 bytes", cpspika.ProtocolSyntaxError),
    "a method frame of 3 bytes": (frame(METHOD, 1, b"\0\x32\0"), 502, "3 bytes", cpspika.ProtocolSyntaxError),
    "a method cut short": (
        frame(METHOD, 1, DECLARE_OK[7:-3]),
        502,
        "queue.declare-ok is malformed",
        cpspika.ProtocolSyntaxError,
    ),
    "a method with something behind": (
        frame(METHOD, 1, DECLARE_OK[7:-1] + b"more"),
        502,
        "4 bytes follow",
        cpspika.ProtocolSyntaxError,
    ),
    "a shortstr that runs past the end": (
        frame(METHOD, 1, struct.pack(">HH", 50, 11) + b"\xffq" + b"\0" * 8),
        502,
        "past the end",
        cpspika.ProtocolSyntaxError,
    ),
    "a longstr that runs past the end": (
        frame(METHOD, 1, struct.pack(">HH", 20, 11) + b"\xff\xff\xff\xffx"),
        502,
        "past the end",
        cpspika.ProtocolSyntaxError,
    ),
    "a method that clients send": (method_frame(1, "queue.declare", queue="q"), 503, "queue.declare", Exception),
    "a publish": (content(1, "basic.publish", b"m"), 503, "basic.publish", cpspika.UnexpectedMethodError),
    "a method of channels on channel 0": (method_frame(0, "queue.declare-ok", queue="q"), 503, "queue", Exception),
    "a method of connections on a channel": (method_frame(1, "connection.blocked"), 503, "connection", Exception),
    "another start": (
        method_frame(0, "connection.start", mechanisms="PLAIN", locales="en_US"),
        503,
        "connection.start",
        cpspika.UnexpectedMethodError,
    ),
    "another tune": (method_frame(0, "connection.tune"), 503, "connection.tune", cpspika.UnexpectedMethodError),
    "another open-ok": (method_frame(0, "connection.open-ok"), 503, "open-ok", cpspika.UnexpectedMethodError),
    # replies
    "a reply nobody asked for": (
        method_frame(2, "queue.declare-ok", queue="q"),
        503,
        "nobody asked",
        cpspika.UnexpectedMethodError,
    ),
    "a reply out of order": (method_frame(1, "exchange.declare-ok"), 503, "nobody asked", Exception),
    "a got message nobody asked for": (
        content(1, "basic.get-ok", b"m", delivery_tag=1),
        503,
        "basic.get-ok",
        cpspika.UnexpectedMethodError,
    ),
    "a close-ok nobody asked for": (method_frame(1, "channel.close-ok"), 503, "close-ok", Exception),
    "a connection close-ok nobody asked for": (method_frame(0, "connection.close-ok"), 503, "close-ok", Exception),
    "an open-ok for an open channel": (method_frame(1, "channel.open-ok"), 503, "open-ok", Exception),
    "a flow-ok nobody asked for": (method_frame(1, "channel.flow-ok"), 503, "flow-ok", Exception),
    "a delivery to no consumer": (
        content(1, "basic.deliver", b"m", **{**DELIVERY, "consumer_tag": "stranger"}),
        503,
        "stranger",
        cpspika.UnexpectedMethodError,
    ),
    # channels
    "a method on a channel not open": (
        method_frame(7, "queue.declare-ok", queue="q"),
        504,
        "channel 7",
        cpspika.UnopenedChannelError,
    ),
    "content on a channel not open": (
        content(7, "basic.deliver", b"m", **DELIVERY),
        504,
        "channel 7",
        cpspika.UnopenedChannelError,
    ),
    "a header on a channel not open": (header_frame(7, 1), 504, "channel 7", cpspika.UnopenedChannelError),
    "a body on a channel not open": (body_frame(7, b"m"), 504, "channel 7", cpspika.UnopenedChannelError),
    "a channel opened by the broker": (method_frame(7, "channel.open"), 503, "channel.open", Exception),
    "content on channel 0": (header_frame(0, 1), 504, "channel 0", Exception),
    # contents
    "a header without a method": (header_frame(1, 1), 505, "header", cpspika.UnexpectedFrameError),
    "a body without a header": (DELIVER + body_frame(1, b"m"), 505, "body", cpspika.UnexpectedFrameError),
    "a body without anything": (body_frame(1, b"m"), 505, "body", cpspika.UnexpectedFrameError),
    "a method instead of a header": (
        DELIVER + DECLARE_OK,
        505,
        "before the end of the content",
        cpspika.UnexpectedFrameError,
    ),
    "a header of another class": (deliver(class_index=50), 505, "class 50", cpspika.UnexpectedFrameError),
    "a header twice": (DELIVER + header_frame(1, 2) * 2, 505, "header", cpspika.UnexpectedFrameError),
    "a header cut short": (DELIVER + frame(HEADER, 1, b"\0\x3c\0\0"), 502, "header of 4", cpspika.ProtocolSyntaxError),
    "a body shorter than announced": (
        deliver(b"four", size=5) + DECLARE_OK,
        505,
        "before the end of the content",
        cpspika.UnexpectedFrameError,
    ),
    "a body shorter than announced, then another": (
        deliver(b"four", size=5) * 2,
        505,
        "before the end of the content",
        Exception,
    ),
    "more body after the whole of it": (deliver() + body_frame(1, b"m"), 505, "body", cpspika.UnexpectedFrameError),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("cut", ["whole", "byte by byte"])
def test_the_connection_closes_with_the_code_and_everybody_is_told(name: str, cut: str) -> None:
    data, code, word, kind = HARD[name]
    scene = Scene()
    if cut == "whole":
        scene.peer.send_raw(data)
    else:
        for i in range(min(len(data), 1000)):
            scene.peer.send_raw(data[i : i + 1] if i < 999 else data[i:])
            scene.settle()
    scene.settle()
    close = scene.peer.expect("connection.close", 0)
    assert close.reply_code == code
    assert word in close.reply_text
    scene.all_were_told(word)
    assert len(scene.closed) == 1
    assert isinstance(scene.closed[0], kind)
    assert scene.closed[0].code == code  # type: ignore[union-attr]
    assert scene.connection.close_reason is scene.closed[0]
    assert not scene.connection.is_open
    assert not scene.first.is_open
    scene.peer.expect_hang_up(within=6)
    scene.peer.expect_nothing()


@pytest.mark.parametrize("name", HARD)
def test_the_link_ends_though_the_broker_never_answers_the_close(name: str) -> None:
    scene = Scene()
    scene.peer.silent()
    scene.peer.send_raw(HARD[name][0])
    scene.settle()
    assert scene.closed, "everybody is told at once, not when the link has ended"
    before = scene.reactor.time()
    scene.peer.expect_hang_up(within=30)
    assert scene.reactor.time() - before <= 10
    scene.reactor.run()
    assert len(scene.closed) == 1


@pytest.mark.parametrize("name", HARD)
def test_what_came_before_the_mistake_counts_and_what_comes_after_does_not(name: str) -> None:
    scene = Scene()
    scene.peer.send_raw(DECLARE_OK + HARD[name][0] + method_frame(2, "queue.purge-ok", message_count=1))
    scene.settle()
    if name not in ("a reply out of order",):
        assert scene.waiting["declare"].result.queue == "q"
    assert isinstance(scene.waiting["purge"].error, cpspika.ChannelClosed)


def test_more_body_than_announced_in_one_frame() -> None:
    """0-9-1 gives 501 for a bad frame and 505 for a badly formatted content (§4.2.6); this is both."""
    scene = Scene()
    scene.peer.send_raw(deliver(b"four", size=3))
    scene.settle()
    close = scene.peer.expect("connection.close")
    assert close.reply_code in (501, 505)
    assert "1 bytes longer than the 3 bytes that its header announced" in close.reply_text
    scene.all_were_told("longer than the 3")
    assert isinstance(scene.closed[0], cpspika.BodyTooLongError)
    assert scene.got == []
    scene.peer.expect_hang_up(within=6)


# --- tables -----------------------------------------------------------------------------------------------------------

TABLES = {
    "longer than what holds it": b"\0\0\0\x20\x01aS\0\0\0\x01x",
    "of 4 GiB": b"\xff\xff\xff\xff",
    "with a value cut short": b"\0\0\0\x06\x01aS\0\0\0",
    "with a value longer than it": b"\0\0\0\x07\x01aS\0\0\0\x09" + b"x" * 9,
    "with a value of 4 GiB": b"\0\0\0\x07\x01aS\xff\xff\xff\xff",
    "with a name cut short": b"\0\0\0\x02\x09a",
    "with a name and no value": b"\0\0\0\x02\x01a",
    "with a value of unknown type": b"\0\0\0\x03\x01a?",
    "with a table in it that is longer": b"\0\0\0\x07\x01aF\0\0\0\x63",
    "with an array in it that is longer": b"\0\0\0\x07\x01aA\0\0\0\x63",
    "with 0 bytes too few for its length": b"\0\0",
    "shorter than its fields": b"\0\0\0\x05\x01aI\0\0\0\x01",
}


def nested(depth: int) -> bytes:
    table = b"\0\0\0\0"
    for _ in range(depth):
        table = struct.pack(">I", len(table) + 3) + b"\x01aF" + table
    return table


TABLES["nested 5000 deep"] = nested(5000)


@pytest.mark.parametrize("name", TABLES)
def test_a_malformed_table_in_a_header_shows_when_the_properties_are_read(name: str) -> None:
    """The body is whole, so it is delivered; who never asks for the properties never knows."""
    scene = Scene()
    scene.peer.send_raw(deliver(b"m", properties=a_table(TABLES[name])))
    scene.settle()
    assert [message.body for message in scene.got] == [b"m"]
    assert scene.connection.is_open
    with pytest.raises(cpspika.ProtocolSyntaxError):
        _ = scene.got[0].properties
    scene.settle()
    assert scene.peer.expect("connection.close").reply_code == 502
    scene.all_were_told()
    assert isinstance(scene.closed[0], cpspika.ProtocolSyntaxError)
    with pytest.raises(cpspika.ProtocolSyntaxError):
        _ = scene.got[0].properties
    scene.peer.expect_hang_up(within=6)


def test_a_timestamp_past_the_year_9999_harms_nobody() -> None:
    """Milliseconds that a publisher took for seconds are common, and no breach of the protocol."""
    scene = Scene()
    scene.peer.send_raw(deliver(properties=a_table(b"\0\0\0\x0b\x01aT" + (1_700_000_000_000).to_bytes(8, "big"))))
    scene.settle()
    assert scene.got[0].properties.headers == {"a": 1_700_000_000_000}
    assert scene.connection.is_open


def test_a_malformed_header_read_in_on_message_comes_out_of_run_and_closes() -> None:
    world = opened()
    channel = world.channel()
    pending = Done()
    world.consume(channel, lambda message: message.properties)
    channel.queue_declare("q", on_done=pending)
    world.settle()
    world.peer.send_raw(deliver(properties=b"\x80\0\x09no"))
    with pytest.raises(cpspika.ProtocolSyntaxError):
        world.reactor.run()
    world.settle()
    assert isinstance(pending.error, cpspika.ChannelClosed)
    assert len(world.closed) == 1
    world.peer.expect("queue.declare")
    assert world.peer.expect("connection.close").reply_code == 502


@pytest.mark.parametrize(
    "properties",
    [b"", b"\0", b"\0\1", b"\0\1\0\0", b"\x80\0", b"\x80\0\x05abc", b"\0\0more", b"\x00\x40\0\0", b"\xff\xff"],
)
def test_malformed_properties_raise_one_type_of_error(properties: bytes) -> None:
    scene = Scene()
    scene.peer.send_raw(deliver(properties=properties))
    try:
        scene.settle()
        if scene.got:
            _ = scene.got[0].properties
            raise AssertionError("the properties were read")
    except cpspika.ProtocolSyntaxError:
        pass
    scene.settle()
    assert scene.peer.expect("connection.close").reply_code == 502


@pytest.mark.parametrize("name", TABLES)
def test_a_malformed_table_in_a_method_closes_with_502(name: str) -> None:
    """connection.start is the only method with a table that a client gets: the handshake fails, and says why."""
    reactor_world = World({"handshake": False})
    peer = reactor_world.peer
    peer.expect_header()
    start = struct.pack(">HHBB", 10, 10, 0, 9) + TABLES[name] + b"\0\0\0\x05PLAIN\0\0\0\x05en_US"
    peer.send_raw(frame(METHOD, 0, start) if len(start) < 2**31 else b"")
    reactor_world.settle()
    error = reactor_world.connected.error
    assert isinstance(error, cpspika.AMQPError)
    assert "broker:5672" in said(error)
    assert "connection.start is malformed" in said(error)
    peer.expect_hang_up(within=6)


# --- sizes that lie ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 2**40, 2**31])
def test_an_enormous_body_size_closes_the_channel_with_311(size: int) -> None:
    scene = Scene()
    scene.peer.answering = False
    scene.peer.send_raw(DELIVER + header_frame(1, size))
    scene.settle()
    close = scene.peer.expect("channel.close", 1)
    assert close.reply_code == 311
    assert str(size) in close.reply_text
    for name in ("declare", "publish"):
        assert str(size) in said(scene.waiting[name].error)
    assert isinstance(scene.waiting["publish"].error, cpspika.DeliveryUnknown)
    assert scene.connection.is_open, "content-too-large is the channel's affair"
    assert scene.waiting["purge"].pending
    assert scene.got == []


def test_after_an_enormous_body_the_channel_ends_and_the_connection_lives() -> None:
    scene = Scene()
    scene.peer.send_raw(DELIVER + header_frame(1, 2**63))
    scene.settle()
    scene.peer.expect("channel.close", 1)  # its close-ok was sent by the peer's link
    scene.settle()
    scene.peer.expect_nothing()
    assert scene.connection.is_open, said(scene.connection.close_reason)
    scene.peer.send(2, "queue.purge-ok", message_count=4)
    done = Done()
    again = scene.connection.channel(on_done=done)
    scene.settle()
    assert scene.waiting["purge"].result == 4
    assert again is not None
    assert again.number == 1, "the number is free again"
    scene.peer.open_channel(1)
    scene.settle()
    assert done.result is again


def test_body_frames_that_follow_an_enormous_size_are_let_pass() -> None:
    scene = Scene()
    scene.peer.silent()
    scene.peer.send_raw(DELIVER + header_frame(1, 2**63) + body_frame(1, b"x" * 1000) * 3)
    scene.settle()
    scene.peer.expect("channel.close", 1)
    scene.peer.send_raw(body_frame(1, b"x" * 1000))
    scene.settle()
    scene.peer.expect_nothing()
    assert scene.connection.is_open


def peak_of(action: Any) -> int:
    """Bytes that were allocated at most while the action ran."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        action()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


LIES = {
    "a frame of 4 GiB": frame(METHOD, 1, b"", size=2**32 - 1),
    "a frame of 100 MiB": frame(BODY, 1, b"", size=100 * 2**20),
    "a body of 2^63": DELIVER + header_frame(1, 2**63),
    "a body of 2 GiB less one, of which a byte comes": DELIVER + header_frame(1, 2**31 - 1) + body_frame(1, b"x"),
    "a longstr of 4 GiB": HARD["a longstr that runs past the end"][0],
    "a header table of 4 GiB": deliver(properties=a_table(TABLES["of 4 GiB"])),
    "a header value of 4 GiB": deliver(properties=a_table(TABLES["with a value of 4 GiB"])),
}


@pytest.mark.parametrize("name", LIES)
def test_nothing_is_allocated_on_the_word_of_a_length_field(name: str) -> None:
    scene = Scene()
    scene.peer.send_raw(LIES[name])

    def come() -> None:
        scene.settle()
        for message in scene.got:
            try:
                _ = message.properties
            except cpspika.ProtocolSyntaxError:
                pass
        scene.settle()

    assert peak_of(come) < 512 * 1024


def test_no_limit_on_frames_is_no_reason_to_allocate_either() -> None:
    """frame_max 0 on both sides: a frame of 4 GiB is legal, and waits for its bytes."""
    world = opened({"frame_max": 0}, frame_max=0)
    channel = world.channel()
    world.peer.send_raw(frame(BODY, channel.number, b"x" * 100, size=2**32 - 1)[:-1])
    assert peak_of(world.settle) < 512 * 1024
    assert world.connection.is_open


# --- frames after close -----------------------------------------------------------------------------------------------

STRAYS = {
    "a delivery": content(1, "basic.deliver", b"m", **DELIVERY),
    "a reply": DECLARE_OK,
    "a heartbeat": frames.HEARTBEAT_FRAME,
    "a blocked": method_frame(0, "connection.blocked", reason="r"),
    "another close": method_frame(0, "connection.close", reply_code=541, reply_text="again"),
    "a bad frame": frame(METHOD, 1, b"", end=b"\0"),
    "an unknown method": HARD["an unknown class"][0],
}


@pytest.mark.parametrize("name", STRAYS)
def test_frames_after_the_brokers_close_are_nobodys(name: str) -> None:
    scene = Scene()
    scene.peer.close_connection(320, "CONNECTION_FORCED - bye")
    scene.peer.send_raw(STRAYS[name])
    scene.settle()
    scene.peer.send_raw(STRAYS[name])
    scene.settle()
    scene.peer.expect("connection.close-ok")
    scene.peer.expect_nothing()
    scene.all_were_told("CONNECTION_FORCED - bye")
    assert [error.code for error in scene.closed if error] == [320]
    assert scene.got == []
    scene.peer.expect_hang_up(within=6)


@pytest.mark.parametrize("name", STRAYS)
def test_frames_after_our_close_do_not_keep_it_from_closing(name: str) -> None:
    scene = Scene()
    done = Done("close")
    scene.peer.answering = False
    scene.connection.close(on_done=done)
    scene.peer.expect("connection.close")
    scene.peer.send_raw(STRAYS[name])
    scene.settle()
    scene.peer.answer()
    scene.settle()
    scene.peer.expect_hang_up(within=6)
    assert not done.pending
    assert all(not pending.pending for pending in scene.waiting.values())
    assert len(scene.closed) == 1


def test_content_on_a_channel_that_we_closed_is_dropped_until_close_ok() -> None:
    """It was under way; the broker takes it back."""
    scene = Scene()
    scene.peer.answering = False
    scene.first.close()
    scene.peer.expect("channel.close")
    for _ in range(3):
        scene.peer.send_raw(STRAYS["a delivery"])
    scene.settle()
    scene.peer.expect_nothing()
    assert scene.got == []
    scene.peer.answer()
    scene.settle()
    assert scene.connection.is_open
    scene.peer.send_raw(STRAYS["a delivery"])
    scene.settle()
    assert scene.peer.expect("connection.close").reply_code == 504


@pytest.mark.parametrize("name", ["a delivery", "a reply"])
def test_frames_on_a_channel_that_the_broker_closed_get_504(name: str) -> None:
    scene = Scene()
    scene.peer.close_channel(404, "NOT_FOUND")
    scene.peer.send_raw(STRAYS[name])
    scene.settle()
    scene.peer.expect("channel.close-ok")
    close = scene.peer.expect("connection.close")
    assert close.reply_code == 504
    assert "channel 1" in close.reply_text
    assert scene.got == []


def test_the_good_frames_before_a_bad_one_are_told_first() -> None:
    scene = Scene()
    scene.peer.send_raw(STRAYS["a delivery"] + DECLARE_OK + method_frame(1, "basic.ack", delivery_tag=1) + b"\x09" * 9)
    scene.settle()
    assert [message.body for message in scene.got] == [b"m"]
    assert scene.waiting["declare"].result.queue == "q"
    assert scene.waiting["publish"].result is True
    assert isinstance(scene.waiting["purge"].error, cpspika.ChannelClosed)


def test_a_second_mistake_changes_nothing() -> None:
    scene = Scene()
    scene.peer.send_raw(HARD["a reply nobody asked for"][0])
    scene.settle()
    for name in ("an unknown class", "a method on a channel not open", "a body without anything", "a frame of type 0"):
        scene.peer.send_raw(HARD[name][0])
        scene.settle()
    assert scene.peer.expect("connection.close").reply_code == 503
    scene.peer.expect_nothing()
    assert len(scene.closed) == 1


def test_a_mistake_of_the_broker_with_nobody_to_tell_comes_out_of_run() -> None:
    world = opened(on_close=None)
    world.peer.send_raw(HARD["a frame of unknown type"][0])
    with pytest.raises(cpspika.InvalidFrameError, match="type 99"):
        world.reactor.run()
    world.reactor.run()
    world.peer.expect("connection.close")


# --- anything at all --------------------------------------------------------------------------------------------------

GOOD = [
    DECLARE_OK,
    method_frame(2, "queue.purge-ok", message_count=1),
    content(1, "basic.deliver", b"some body", b"\x80\0\x01t", **DELIVERY),
    method_frame(1, "basic.ack", delivery_tag=1),
    method_frame(0, "connection.update-secret-ok"),
    method_frame(0, "connection.blocked", reason="r"),
    method_frame(1, "channel.flow", active=False),
    method_frame(2, "channel.close", reply_code=404, reply_text="NOT_FOUND"),
    method_frame(1, "basic.cancel", consumer_tag="c"),
    frames.HEARTBEAT_FRAME,
]


@settings(max_examples=100, deadline=None, database=None)
@given(
    pieces=st.lists(st.sampled_from(GOOD) | st.binary(max_size=40), min_size=1, max_size=8),
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3),
    cuts=st.lists(st.integers(0, 400), max_size=4),
)
def test_whatever_comes_nothing_but_our_errors_goes_out_and_everybody_is_told(
    pieces: list[bytes], flips: list[tuple[int, int]], cuts: list[int]
) -> None:
    data = bytearray(b"".join(pieces))
    for at, value in flips:
        if data:
            data[at % len(data)] = value
    scene = Scene()
    scene.reactor.on_error = lambda error: None if isinstance(error, cpspika.AMQPError) else strays.append(error)
    strays: list[BaseException] = []
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        scene.peer.send_raw(bytes(data[at:cut]))
        at = max(at, cut)
        scene.settle()
    for message in scene.got:
        try:
            _ = message.properties
        except cpspika.ProtocolSyntaxError:
            pass
    scene.connection.close()
    scene.reactor.advance(60)
    assert strays == []
    for name, done in scene.waiting.items():
        assert not done.pending, f"{name} was not told"
    assert len(scene.closed) == 1
    assert scene.peer.hung_up
