"""A connection while it is open, and its end: heartbeats, blocked, closing."""

from __future__ import annotations

import time
from typing import Any

import pytest

import cpspika
from cpspika.adapters import SelectReactor
from cpspika.wire import frames
from tests.support.handshakes import Answering, say
from tests.support.scripted import (
    Done,
    SocketBroker,
    World,
    opened,
    run_until,
    said,
    using,
)

# --- heartbeats -------------------------------------------------------------------------------------------------------


def test_two_silent_intervals_end_the_connection() -> None:
    world = opened({"heartbeat": 10}, heartbeat=10)
    channel, pending = world.channel(), Done()
    channel.queue_declare("q", on_done=pending)
    world.settle()
    world.peer.silent()
    begin = world.reactor.time()
    world.reactor.advance(19)
    assert world.connection.is_open
    world.reactor.advance(6.1)
    assert not world.connection.is_open
    assert isinstance(world.closed[0], cpspika.HeartbeatTimeout)
    assert isinstance(world.closed[0], cpspika.ConnectionLost)
    assert "broker:5672" in str(world.closed[0])
    assert "10 s" in str(world.closed[0])
    assert isinstance(pending.error, cpspika.AMQPError)
    assert "heartbeat" in said(pending.error)
    assert world.reactor.time() - begin <= 25.2
    world.peer.expect_hang_up()


def test_anything_that_is_heard_keeps_the_connection() -> None:
    world = opened({"heartbeat": 10}, heartbeat=10)
    for i in range(20):
        world.reactor.advance(15)
        assert world.connection.is_open
        if i % 2:
            world.peer.heartbeat()
        else:
            world.peer.send_raw(b"\x08")  # the beginning of a frame is a sign of life as well
            world.settle()
            world.peer.send_raw(frames.HEARTBEAT_FRAME[1:])
        world.settle()
    assert world.connection.is_open


def test_heartbeats_are_sent_when_idle_and_not_when_busy() -> None:
    world = opened({"heartbeat": 10}, heartbeat=10)
    channel = world.channel()
    before = len(world.peer.raw)
    for _ in range(10):
        world.peer.heartbeat()
        world.reactor.advance(10)
    idle = bytes(world.peer.raw[before:])
    assert idle == frames.HEARTBEAT_FRAME * (len(idle) // 8)
    assert 10 <= len(idle) // 8 <= 20, "at least one in each interval"
    before = len(world.peer.raw)
    for _ in range(100):
        world.peer.heartbeat()
        channel.basic_ack(1)
        world.reactor.advance(1)
    assert frames.HEARTBEAT_FRAME not in world.peer.raw[before:]


def test_a_link_lost_while_nothing_turned_the_reactor_says_so() -> None:
    """The broker heard no heartbeat, and hung up: ECONNRESET alone would hide the reason."""
    world = opened({"heartbeat": 10}, heartbeat=10)
    world.reactor.advance(4)
    world.peer.cut(ConnectionResetError("reset by peer"))
    world.reactor._now += 25  # nobody turns it
    world.settle()
    (lost,) = world.closed
    assert isinstance(lost, cpspika.ConnectionLost)
    assert "nothing turned the reactor for 29 s, with a heartbeat of 10 s" in str(lost)
    assert "reset by peer" in str(lost)


def test_heartbeat_0_sends_none_and_never_gives_up() -> None:
    world = opened({"heartbeat": 10}, heartbeat=0)
    before = len(world.peer.raw)
    world.reactor.advance(100_000)
    assert len(world.peer.raw) == before
    assert world.connection.is_open


def test_the_servers_interval_is_taken_where_none_is_given() -> None:
    world = opened({"heartbeat": 4}, heartbeat=None)
    assert world.connection.heartbeat == 4
    world.peer.silent()
    world.reactor.advance(11)
    assert isinstance(world.closed[0], cpspika.HeartbeatTimeout)


def test_a_closed_connection_has_no_heartbeat_left() -> None:
    world = opened({"heartbeat": 4}, heartbeat=4)
    world.connection.close()
    world.settle()
    world.reactor.run()
    assert world.reactor.time() < 1, "the reactor has nothing to wait for"


def test_a_process_that_slept_finds_what_came_meanwhile() -> None:
    """Its clock leaps an hour; the broker's heartbeats are in the kernel, and are read before it despairs."""
    done, leap = Done(), [0.0]
    closed: list[Any] = []
    with SocketBroker(heartbeat=2) as broker, using(SelectReactor()) as reactor:
        reactor.time = lambda: time.monotonic() + leap[0]  # type: ignore[method-assign]
        connection = cpspika.connect(
            broker.url, reactor=reactor, on_done=done, on_close=lambda *args: closed.append(args[1])
        )
        run_until(reactor, lambda: not done.pending)
        assert connection.heartbeat == 2
        for _ in range(10):
            broker.peers[0].heartbeat()
            leap[0] += 3600
            for _ in range(5):
                reactor.run_once(0)
        assert connection.is_open, said(closed[0])


@pytest.mark.slow
def test_a_stopped_peer_on_a_real_socket_is_noticed() -> None:
    """It holds the socket open and says nothing: only heartbeats can tell."""
    closed: list[Any] = []
    stopped = SocketBroker(lambda peer: (peer.expect_open(), peer.wait(lambda: peer.hung_up, 8)), heartbeat=1)
    with stopped as broker, using(SelectReactor()) as reactor:
        cpspika.connect(broker.url, reactor=reactor, on_close=lambda connection, error: closed.append(error))
        begin = time.monotonic()
        run_until(reactor, lambda: bool(closed))
        assert isinstance(closed[0], cpspika.HeartbeatTimeout)
        assert 1.5 <= time.monotonic() - begin <= 6


# --- blocked ----------------------------------------------------------------------------------------------------------


def test_blocked_for_longer_than_its_timeout_ends_the_connection() -> None:
    world = opened(blocked_connection_timeout=30)
    channel, pending = world.channel(), Done()
    channel.queue_declare("q", on_done=pending)
    world.peer.send(0, "connection.blocked", reason="low on memory")
    world.reactor.advance(20)
    world.peer.send(0, "connection.blocked", reason="low on disk")  # a second reason begins nothing anew
    world.reactor.advance(9)
    assert world.connection.is_open
    world.reactor.advance(2)
    assert isinstance(world.closed[0], cpspika.BlockedConnectionTimeout)
    assert "30" in str(world.closed[0])
    assert isinstance(pending.error, cpspika.AMQPError)
    world.peer.expect_hang_up()


def test_unblocked_in_time_keeps_the_connection() -> None:
    world = opened(blocked_connection_timeout=30)
    for _ in range(3):
        world.peer.send(0, "connection.blocked", reason="r")
        world.reactor.advance(29)
        world.peer.send(0, "connection.unblocked")
        world.reactor.advance(29)
    assert world.connection.is_open


@pytest.mark.parametrize("first", ["drained", "unblocked"])
def test_a_connection_that_is_blocked_and_congested_is_writable_when_neither_is_left(first: str) -> None:
    world = opened()
    channel, calls = world.channel(), []
    channel.add_writable_handler(calls.append)
    world.peer.clog()
    while channel.basic_publish(body=b"x" * 50_000):
        pass
    world.peer.send(0, "connection.blocked", reason="low on memory")
    world.settle()
    ends = [world.peer.unclog, lambda: world.peer.send(0, "connection.unblocked")]
    for end in ends if first == "drained" else reversed(ends):
        assert not channel.writable
        assert not world.connection.writable
        assert channel.basic_publish(body="m") is False
        assert calls == []
        end()
        world.settle()
    assert calls == [channel]
    assert world.connection.writable
    assert channel.basic_publish(body="m") is True


# --- closing ----------------------------------------------------------------------------------------------------------


def test_close_says_goodbye_and_hangs_up() -> None:
    world = opened()
    channel, done = world.channel(), Done()
    world.connection.close(320, "maintenance", on_done=done)
    assert not world.connection.is_open
    assert not channel.is_open
    close = world.peer.expect("connection.close")
    assert (close.reply_code, close.reply_text) == (320, "maintenance")
    world.settle()
    assert done.result is None
    assert world.closed == [None]
    assert world.connection.close_reason is None
    world.peer.expect_hang_up()
    world.reactor.run()


@pytest.mark.parametrize("steps", [None, 0, 1, 3])
def test_close_while_connecting_ends_it(steps: int | None) -> None:
    world = World({"handshake": False}, credentials=Answering())
    done = Done("close")
    if steps is not None:
        world.peer.expect_header()
        say(world, steps)
    with done.not_inside(), world.connected.not_inside():
        world.connection.close(on_done=done)
    world.settle()
    assert done.result is None
    assert isinstance(world.connected.error, cpspika.ConnectionClosed)
    if steps is not None:
        world.peer.expect_hang_up()
    world.reactor.advance(60)
    assert len(world.closed) == 1


def test_a_close_that_is_not_answered_ends_after_a_time() -> None:
    world = opened(connection_timeout=6)
    channel, done, pending = world.channel(), Done("close"), Done("pending")
    world.peer.silent()
    channel.queue_declare("q", on_done=pending)
    world.connection.close(on_done=done)
    world.reactor.advance(5.9)
    assert done.pending
    world.reactor.advance(0.2)
    assert isinstance(done.error, cpspika.OperationTimeout)
    assert "broker:5672" in str(done.error)
    assert isinstance(pending.error, cpspika.ConnectionClosed)
    world.peer.expect_hang_up()
    world.reactor.run()


def test_several_closes_are_one_and_each_is_told() -> None:
    world = opened()
    done = [Done(i) for i in range(3)]
    for on_done in done:
        world.connection.close(on_done=on_done)
    world.settle()
    assert [on_done.result for on_done in done] == [None] * 3
    world.peer.expect("connection.close")
    world.peer.expect_nothing()
    late = Done()
    world.connection.close(on_done=late)
    world.settle()
    assert late.result is None
    assert len(world.closed) == 1


def test_abort_hangs_up_at_once_and_says_nothing() -> None:
    world = opened()
    world.connection.abort()
    world.settle()
    assert world.peer.hung_up
    world.peer.expect_nothing()
    assert isinstance(world.closed[0], cpspika.ConnectionClosed)


def test_an_operation_on_a_connection_that_could_not_be_opened_has_the_reason_as_its_cause() -> None:
    world = World({"handshake": False}, connection_timeout=7)
    world.reactor.advance(8)
    with pytest.raises(cpspika.ConnectionClosed, match="did not open a connection") as caught:
        world.connection.channel()
    assert caught.value.__cause__ is world.connection.close_reason
    assert isinstance(caught.value.__cause__, cpspika.ConnectTimeout)


@pytest.mark.parametrize("when", ["opening", "closing", "closed"])
def test_an_operation_on_a_connection_that_is_not_open_says_which(when: str) -> None:
    world = World() if when == "opening" else opened()
    if when != "opening":
        world.peer.answering = False
        world.connection.close()
    if when == "closed":
        world.settle()
        world.peer.answer()
        world.settle()
    done = Done()
    world.connection.channel(on_done=done)
    world.reactor.run_once(0)
    assert f"the connection is {'not open yet' if when == 'opening' else 'closed'}" in str(done.error)


@pytest.mark.parametrize("way", ["close", "abort"])
def test_closing_one_that_has_ended_by_a_fault_does_not_wait_for_the_brokers_answer(way: str) -> None:
    """It sends its own connection.close and hangs up, as perhaps nobody turns the reactor again."""
    world = opened()
    done = Done()
    world.peer.answering = False
    world.peer.send(0, "tx.select-ok")
    world.settle()
    assert isinstance(world.closed[0], cpspika.ConnectionClosed)
    assert not world.peer.hung_up, "the broker's close-ok is awaited"
    if way == "abort":
        world.connection.abort()
    else:
        with done.not_inside():
            world.connection.close(on_done=done)
    world.settle()
    assert way == "abort" or done.result is None
    assert world.peer.hung_up
    assert world.peer.expect("connection.close").reply_code == 503
    assert world.reactor.next_timer() is None
    assert len(world.closed) == 1


@pytest.mark.parametrize("after", ["hang up", "close-ok", "nothing"])
def test_closes_that_cross_end_once(after: str) -> None:
    world = opened()
    done = Done()
    world.peer.answering = False
    world.connection.close(on_done=done)
    world.peer.close_connection()
    world.settle()
    if after == "hang up":
        world.peer.hang_up()
    elif after == "close-ok":
        world.peer.answer()
    world.reactor.advance(60)
    assert not done.pending
    assert len(world.closed) == 1
    world.peer.expect("connection.close")
    world.peer.expect("connection.close-ok")


def test_a_broker_that_hangs_up_instead_of_close_ok_has_closed() -> None:
    world = opened()
    done = Done()
    world.peer.answering = False
    world.connection.close(on_done=done)
    world.peer.expect("connection.close")
    world.peer.hang_up()
    world.settle()
    assert done.result is None
    assert world.closed == [None]


def test_the_brokers_close_is_answered_and_tells_code_and_text() -> None:
    world = opened()
    channel = world.channel()
    states: list[Any] = []
    world.connection.add_state_change_handler(lambda connection, is_open: states.append((connection, is_open)))
    world.peer.close_connection(320, "CONNECTION_FORCED - shutdown")
    world.settle()
    world.peer.expect("connection.close-ok")
    world.peer.expect_hang_up()
    assert isinstance(world.closed[0], cpspika.ConnectionForced)
    assert isinstance(world.closed[0], cpspika.ConnectionClosed)
    assert world.connection.close_reason is world.closed[0]
    assert states == [(world.connection, False)]
    with pytest.raises(cpspika.ConnectionClosed, match="CONNECTION_FORCED"):
        world.connection.channel()
    with pytest.raises(cpspika.AMQPError, match="CONNECTION_FORCED"):
        channel.queue_declare("q")


def test_state_handlers_hear_of_the_opening_and_the_closing() -> None:
    world = World()
    states: list[Any] = []
    world.connection.add_state_change_handler(lambda connection, is_open: states.append((is_open, connection.is_open)))
    world.settle()
    world.connection.close()
    world.settle()
    assert states == [(True, True), (False, False)]


def test_a_connection_that_never_opened_tells_no_state_handler_of_a_closing() -> None:
    world = World({"handshake": False}, connection_timeout=1)
    states: list[Any] = []
    world.connection.add_state_change_handler(lambda connection, is_open: states.append(is_open))
    world.reactor.advance(2)
    assert world.connected.error
    assert states == []


def test_update_secret() -> None:
    world = opened()
    first, second = Done(), Done()
    world.connection.update_secret("new", "it was time", on_done=first)
    world.connection.update_secret(b"newer", on_done=second)
    asked = world.peer.expect("connection.update-secret")
    assert (asked.new_secret, asked.reason) == (b"new", "it was time")
    assert "new" not in repr(asked).replace("new_secret", "")
    world.peer.send(0, "connection.update-secret-ok")
    world.settle()
    assert first.result is None
    assert second.pending
    world.peer.close_connection(530, "NOT_ALLOWED - token expired")
    world.settle()
    assert "token expired" in said(second.error)
    assert second.error.method == "connection.update-secret"
