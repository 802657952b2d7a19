"""A loop of the program's own drives connections, by `fileno`, `next_timer` and `drain_events(0)`; `timeout=` of a
call."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest

import cpspika
from cpspika import AsyncoreConnection, BlockingConnection, SelectConnection
from cpspika.adapters import MemoryReactor, SelectReactor
from cpspika.threads import ThreadedConnection
from tests.support.scripted import SocketBroker, deliver_three
from tests.support.waiting import DEADLINE

KINDS = [SelectConnection, AsyncoreConnection, BlockingConnection]


def turn(connection: Any, ready: Callable[[], bool], drain: Callable[[], object]) -> int:
    """A foreign loop: waits by poll, and turns when the file is readable or a timer is due. Returns the turns."""
    poll, turns, end = select.poll(), 0, time.monotonic() + DEADLINE
    poll.register(connection.fileno(), select.POLLIN)
    while not ready():
        assert time.monotonic() < end, "the loop was not told"
        timer = connection.reactor.next_timer()
        patience = DEADLINE if timer is None else timer
        poll.poll(min(patience, DEADLINE) * 1000)
        drain()
        turns += 1
    return turns


def becomes_quiet(connection: Any) -> bool:
    """Whether the file stops being readable after a few turns, as a foreign loop that waits needs it."""
    for _ in range(5):
        if not select.select([connection.fileno()], [], [], 0)[0]:
            return True
        connection.drain_events(0)
    return False


@pytest.fixture(params=KINDS)
def connection(request: pytest.FixtureRequest, broker: Any) -> Iterator[Any]:
    with request.param(broker.url(heartbeat=0), timeout=20) as opened:
        yield opened


def test_a_foreign_loop_drives_consumers(connection: Any) -> None:
    ch = connection.channel()
    queue = ch.queue_declare(exclusive=True).queue
    got: list[bytes] = []

    def on_message(message: cpspika.Message) -> None:
        got.append(message.body)
        message.ack()
        if len(got) < 20:
            ch.basic_publish("", queue, str(len(got)))

    ch.basic_consume(queue, on_message)
    ch.basic_publish("", queue, "0")
    turns = turn(connection, lambda: len(got) == 20, lambda: connection.drain_events(0))
    assert [int(body) for body in got] == list(range(20))
    assert turns < 500, "the file is readable though nothing is to be done"


def test_a_callback_that_was_put_by_makes_the_file_readable(connection: Any) -> None:
    """It arrived during another call, so no socket has anything to read any more."""
    ch = connection.channel()
    queue = ch.queue_declare(exclusive=True).queue
    fd = connection.fileno()
    got: list[bytes] = []
    for number in range(3):
        ch.basic_consume(queue, lambda message: got.append(message.body), no_ack=True, consumer_tag=f"c{number}")
    assert becomes_quiet(connection)
    ch.basic_publish("", queue, "0")
    other = connection.channel()
    end = time.monotonic() + DEADLINE
    while not connection._inbox:
        assert time.monotonic() < end
        other.queue_declare(queue, passive=True)
    assert got == []
    assert select.select([fd], [], [], 0)[0]
    assert connection.reactor.next_timer() == 0
    assert connection.drain_events(0)
    assert got == [b"0"]
    assert becomes_quiet(connection)


def rests(connection: Any) -> bool:
    """Whether a loop that drains this connection alone comes to wait for something."""
    for _ in range(50):
        is_due = connection.reactor.next_timer() == 0
        if not is_due and not select.select([connection.fileno()], [], [], 0)[0]:
            return True
        connection.drain_events(0)
    return False


@pytest.mark.parametrize("kind", [SelectConnection, AsyncoreConnection])
def test_a_loop_rests_though_another_connection_of_its_reactor_has_callbacks_put_by(kind: Any, broker: Any) -> None:
    """Its turns cannot run them. They wait until that connection is drained, or the program runs the reactor."""
    ended: list[Any] = []
    with kind(broker.url(heartbeat=0), timeout=20) as connection:
        with kind(broker.url(heartbeat=0), timeout=20, on_close=lambda *told: ended.append(told)) as other:
            ch = other.channel()
            queue = ch.queue_declare(exclusive=True).queue
            got: list[Any] = []
            ch.basic_consume(queue, got.append, no_ack=True)
            ch.basic_publish("", queue, "hello")
            end = time.monotonic() + DEADLINE
            while not other.has_callbacks:
                assert time.monotonic() < end, "no message"
                ch.queue_declare(queue, passive=True)
            assert rests(connection)
            assert not got
            assert other.drain_events(0)
            assert [message.body for message in got] == [b"hello"]
        assert other.has_callbacks, "on_close"
        assert rests(connection)
        assert not ended
        end = time.monotonic() + DEADLINE
        while not ended:  # of a connection that nobody drains any more
            assert time.monotonic() < end, "on_close was not called in a turn of the reactor"
            connection.reactor.run_once(1)


def test_a_foreign_loop_drives_the_core(broker: Any) -> None:
    """Also for an operation that is asked for outside a turn, before or after `fileno`."""
    reactor = SelectReactor()
    opened: list[Any] = []
    connection = cpspika.connect(broker.url(), reactor=reactor, on_done=lambda err, it: opened.append(err or it))
    turn(connection, lambda: bool(opened), lambda: reactor.run_once(0))
    done: list[Any] = []
    channel = connection.channel()
    assert channel is not None
    channel.queue_declare(exclusive=True, on_done=lambda err, ok: done.append(err or ok))
    assert select.select([connection.fileno()], [], [], 0)[0], "bytes wait to be sent"
    turn(connection, lambda: bool(done), lambda: reactor.run_once(0))
    assert isinstance(done[0], cpspika.QueueDeclareOk)
    connection.close(on_done=lambda err, _: done.append(err))
    turn(connection, lambda: len(done) == 2, lambda: reactor.run_once(0))
    reactor.close()


@pytest.mark.parametrize("kind", [SelectConnection, AsyncoreConnection])
def test_a_foreign_loop_hears_of_a_connection_that_opens_later(kind: Any, broker: Any) -> None:
    with kind(broker.url(heartbeat=0), timeout=20) as first:
        fd = first.fileno()
        with kind(broker.url(heartbeat=0), timeout=20) as second:
            assert second.fileno() == fd
            ch = second.channel()
            queue = ch.queue_declare(exclusive=True).queue
            got: list[Any] = []
            ch.basic_consume(queue, got.append, no_ack=True)
            ch.basic_publish("", queue, "hello")
            turn(first, lambda: bool(got), lambda: second.drain_events(0))


def test_next_timer_is_the_time_until_the_reactor_has_something_to_do() -> None:
    reactor = SelectReactor()
    assert reactor.next_timer() is None
    timer = reactor.call_later(50, list)
    due = reactor.next_timer()
    assert due is not None
    assert 0 < due <= 50
    reactor.call_later(-1, list)
    assert reactor.next_timer() == 0
    reactor.run_once(0)
    assert reactor.next_timer() != 0
    timer.cancel()
    reactor.call_soon(list)
    assert reactor.next_timer() == 0
    reactor.close()


@pytest.mark.parametrize("kind", KINDS)
def test_without_epoll_and_kqueue_the_error_says_so(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selectors.DefaultSelector", __import__("selectors").SelectSelector)
    options = {"reactor": SelectReactor()} if kind is SelectConnection else {}
    with (
        kind("embedded://", timeout=20, **options) as connection,
        mock.patch.object(connection.reactor, "_poll_file", None, create=True),
        pytest.raises(cpspika.LocalError, match="neither epoll nor kqueue"),
    ):
        connection.fileno()


def test_a_reactor_that_a_thread_turns_has_no_file() -> None:
    with (
        ThreadedConnection("embedded://", timeout=20) as connection,
        pytest.raises(cpspika.LocalError, match="thread of its own"),
    ):
        connection.fileno()
    with pytest.raises(cpspika.LocalError, match="MemoryReactor"):
        cpspika.connect("amqp://broker", reactor=MemoryReactor()).fileno()


# --- timeout= of one call ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, ThreadedConnection])
def test_timeout_bounds_one_call(kind: Any) -> None:
    with SocketBroker() as broker, kind(broker.url, timeout=DEADLINE) as connection:
        ch = connection.channel(timeout=DEADLINE)
        peer = broker.peers[0]
        asked: list[Any] = []
        peer.when("queue.declare", lambda peer, number, method: asked.append(method))
        with pytest.raises(cpspika.OperationTimeout, match=r"no answer within 0\.05 s") as caught:
            ch.queue_declare("q", timeout=0.05)
        assert caught.value.method == "queue_declare"
        assert "in test_timeout_bounds_one_call" in caught.value.asked_at
        peer.when("basic.consume", lambda peer, number, method: asked.append(method))
        with pytest.raises(cpspika.OperationTimeout):
            ch.basic_consume("q", print, timeout=0.05)
        with pytest.raises(TypeError, match="timeuot"):
            ch.queue_purge("q", timeuot=1)
        connection.abort()


@pytest.mark.parametrize("kind", [*KINDS, ThreadedConnection])
def test_timeout_may_be_longer_than_the_connections(kind: Any) -> None:
    with SocketBroker() as broker, kind(broker.url, timeout=DEADLINE) as connection:
        ch = connection.channel()
        connection.timeout = 0.0
        assert ch.queue_declare("q", timeout=DEADLINE).queue == "q"
        assert ch.queue_declare("q", timeout=float("inf")).queue == "q"
        ch.basic_publish("", "q", "hello", timeout=DEADLINE)
        ch.basic_ack(1, timeout=DEADLINE)
        connection.close(timeout=DEADLINE)


def put_by(connection: Any, ch: Any, count: int) -> list[bytes]:
    """A consumer whose `count` messages have arrived and are put by; the list that they go to."""
    queue = ch.queue_declare(exclusive=True).queue
    got: list[bytes] = []
    for number in range(count):
        ch.basic_publish("", queue, str(number))
    ch.basic_consume(queue, lambda message: got.append(message.body), no_ack=True)
    end = time.monotonic() + DEADLINE
    while len(connection._inbox) < count:
        assert time.monotonic() < end, f"{len(connection._inbox)} of {count} messages arrived"
        connection.turn(0.05)
    return got


def test_a_turn_puts_callbacks_by(connection: Any) -> None:
    ch = connection.channel()
    assert not connection.has_callbacks
    got = put_by(connection, ch, 3)
    assert got == []
    assert connection.has_callbacks
    assert connection.drain_events(0)
    assert got == [b"0", b"1", b"2"]
    assert not connection.has_callbacks


def test_drain_events_runs_at_most_so_many_callbacks(connection: Any) -> None:
    got = put_by(connection, connection.channel(), 3)
    for done in range(1, 4):
        assert connection.drain_events(0, limit=1)
        assert len(got) == done
    assert not connection.drain_events(0, limit=1)


def test_a_turn_does_what_timers_ask_for(connection: Any) -> None:
    called: list[int] = []
    connection.reactor.call_later(0.0, lambda: called.append(1))
    end = time.monotonic() + DEADLINE
    while not called:
        assert time.monotonic() < end
        connection.turn(0.05)


def test_a_turn_of_another_thread_leaves_the_one_inside_alone(connection: Any) -> None:
    """That thread turns the reactor itself."""
    inside = threading.Event()
    connection.reactor.call_soon(inside.set)

    def drain() -> None:
        with suppress(cpspika.ConnectionClosed):
            connection.drain_events(DEADLINE)

    waiting = threading.Thread(target=drain)
    waiting.start()
    assert inside.wait(DEADLINE)
    for _ in range(3):
        connection.turn()
    connection.close()  # handed over
    waiting.join(DEADLINE)
    assert not waiting.is_alive()


@pytest.mark.parametrize("kind", KINDS)
def test_the_drain_in_which_the_connection_ended_raises_though_callbacks_ran(kind: Any) -> None:
    told: list[bool] = []
    with SocketBroker(lose_with_a_message) as broker:
        connection = kind(broker.url, timeout=DEADLINE)
        ch = connection.channel()
        connection.add_state_change_handler(lambda _, is_open: told.append(is_open))
        ch.basic_consume("q", lambda message: told.append(True), no_ack=True)
        drains = iter(lambda: connection.drain_events(DEADLINE), False)
        with pytest.raises(cpspika.ConnectionForced, match="so long"):
            list(drains)
        assert told[-1] is False
        with pytest.raises(cpspika.ConnectionForced, match="so long"):
            connection.turn()


def lose_with_a_message(peer: Any) -> None:
    peer.expect_header()
    peer.serve()

    def deliver(peer: Any, number: int, consume: Any) -> None:
        deliver_three(peer, number, consume)
        peer.send(0, "connection.close", reply_code=320, reply_text="so long")

    peer.when("basic.consume", deliver)
    peer.wait(lambda: peer.hung_up, None)


def test_a_close_of_the_programs_own_in_a_callback_is_no_error(connection: Any) -> None:
    ch = connection.channel()
    queue = ch.queue_declare(exclusive=True).queue
    ch.basic_consume(queue, lambda message: connection.close(), no_ack=True)
    ch.basic_publish("", queue, "x")
    assert connection.drain_events(DEADLINE)
    with pytest.raises(cpspika.ConnectionClosed):
        connection.drain_events(0)
