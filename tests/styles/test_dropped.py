"""A synchronous connection that the program drops without close: closed when nobody has it any more, with the warning
that files and sockets give. And what keeps one alive."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

import cpspika
from cpspika import AsyncoreConnection, BlockingConnection, SelectConnection
from cpspika.adapters import SelectReactor
from cpspika.broker import serve
from tests.support.scripted import SocketBroker
from tests.support.waiting import DEADLINE

KINDS = [SelectConnection, AsyncoreConnection, BlockingConnection]


@pytest.fixture
def broker() -> Iterator[SocketBroker]:
    with SocketBroker() as served:
        yield served


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, broker: SocketBroker) -> Callable[..., Any]:
    return lambda **options: request.param(f"{broker.url}?heartbeat=1", timeout=20, **options)


def wait_for_hang_up(broker: SocketBroker, number: int = 0) -> None:
    end = time.monotonic() + DEADLINE
    while not broker.peers[number].hung_up:
        assert time.monotonic() < end, "the connection is still open at the broker"
        time.sleep(0.001)


def test_a_dropped_connection_is_closed_with_a_warning(opened: Any, broker: SocketBroker) -> None:
    connection = opened()
    connection.channel().basic_publish("", "q", "x")
    with pytest.warns(ResourceWarning, match=r"unclosed <.*Connection of <Connection to 127\.0\.0\.1:.* open>>"):
        del connection  # at once, as a file: there is no cycle for the collector
    wait_for_hang_up(broker)
    assert [message.body for message in broker.peers[0].came("basic.publish")] == [b"x"]


def test_its_handlers_do_not_keep_it(opened: Any, broker: SocketBroker) -> None:
    told: list[Any] = []
    connection = opened(on_close=lambda *args: told.append(args))
    connection.add_state_change_handler(lambda *args: told.append(args))
    channel = connection.channel()
    channel.add_return_handler(told.append)
    channel.addStateChangeHandler(lambda *args: None)
    with pytest.warns(ResourceWarning):
        del connection, channel
    wait_for_hang_up(broker)
    assert told == []


@pytest.mark.parametrize("what", ["channel", "message", "iterator", "consumer"])
def test_what_keeps_a_connection_alive(opened: Any, broker: SocketBroker, what: str) -> None:
    connection = opened()
    channel = connection.channel()
    kept: list[Any] = []
    got: list[Any] = []
    if what == "channel":
        kept.append(channel)
    elif what == "message":
        broker.peers[0].when(
            "basic.get", lambda peer, number, get: peer.send_content(number, "basic.get-ok", b"x", delivery_tag=1)
        )
        kept.append(channel.basic_get("q"))
    elif what == "iterator":
        kept.append(channel.consume("q"))
    else:
        channel.basic_consume("q", got.append, consumer_tag="tag")
    reactor, seen = connection.reactor, weakref.ref(connection)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        del connection, channel
        gc.collect()
        alive = seen()
        assert alive is not None
        assert alive.is_open
        del alive
    if what == "consumer":
        broker.peers[0].deliver(1, b"hello", consumer_tag="tag", delivery_tag=1)
        end = time.monotonic() + DEADLINE
        while not got:
            assert time.monotonic() < end
            reactor.run_once(0.1)
        assert got[0].body == b"hello"
        assert got[0].channel.connection.is_open
        got[0].channel.basic_cancel("tag")
        kept.append(got.pop())
    with pytest.warns(ResourceWarning):
        kept.clear()
    wait_for_hang_up(broker)
    assert seen() is None


def test_the_others_on_the_reactor_hear_nothing_of_it(broker: SocketBroker) -> None:
    reactor = SelectReactor()
    first = SelectConnection(broker.url, timeout=20, reactor=reactor)
    with SelectConnection(broker.url, timeout=20, reactor=reactor) as second:
        channel = second.channel()
        with pytest.warns(ResourceWarning):
            del first
        wait_for_hang_up(broker)
        assert channel.queue_declare("q").queue == "q"
        reactor.run_once(0)


@pytest.mark.parametrize("closes", [False, True], ids=["dropped", "closed"])
def test_one_that_lingers_after_a_fault_of_the_brokers(opened: Any, broker: SocketBroker, closes: bool) -> None:
    """It has ended, so nobody is warned. Its link waits for the close-ok, and nobody turns the reactor for that."""
    connection = opened()
    channel = connection.channel()

    def err(peer: Any, number: int, declare: Any) -> None:
        peer.answering = False
        peer.send(number, "tx.select-ok")

    broker.peers[0].when("queue.declare", err)
    with pytest.raises(cpspika.ConnectionClosed):
        channel.queue_declare("q")
    assert not broker.peers[0].hung_up
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if closes:
            connection.close()
        else:
            del connection, channel
    wait_for_hang_up(broker)
    assert broker.peers[0].came("connection.close")[0].reply_code == 503


def test_a_closed_connection_warns_of_nothing(opened: Any, broker: SocketBroker) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for end in (lambda c: c.close(), lambda c: c.abort()):
            connection = opened()
            end(connection)
            with contextlib.suppress(cpspika.ConnectionClosed):  # an abort that nobody was told of
                connection.reactor.run_once(0)
            del connection
            gc.collect()


def test_in_callback_style_the_reactor_keeps_a_connection() -> None:
    """A consumer lives on though no variable refers to its connection."""
    reactor = SelectReactor()
    got: list[bytes] = []

    def begin() -> None:
        def opened(err: Any, connection: Any) -> None:
            channel = connection.channel()
            channel.queue_declare("kept", exclusive=True)
            channel.basic_consume("kept", lambda message: (got.append(message.body), connection.close()))
            channel.basic_publish("", "kept", "hello")

        cpspika.connect("embedded://", reactor=reactor, on_done=opened)

    begin()
    gc.collect()
    reactor.run()
    assert got == [b"hello"]
    reactor.close()


# --- with recovery ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=KINDS)
def recovering(request: pytest.FixtureRequest, broker: SocketBroker) -> Callable[..., Any]:
    """Each with a reactor that no other test uses, so that what is left in it is seen."""

    def make(target: str = broker.url, **options: Any) -> Any:
        options = {"recovery": True, "timeout": 20, **options}
        if request.param is SelectConnection:
            options["reactor"] = SelectReactor()
        return request.param(f"{target}?heartbeat=1", **options)

    return make


def assert_nothing_left(reactor: Any, threads: set[Any]) -> None:
    end = time.monotonic() + DEADLINE
    while reactor._has_work():
        assert time.monotonic() < end, (
            f"left in the reactor: {len(reactor._ready)} calls, a timer in {reactor.next_timer()} s, "
            f"{list(reactor.transports)}"
        )
        if reactor.next_timer() is not None and not reactor._ready:
            assert not reactor.next_timer(), f"a timer is left, due in {reactor.next_timer()} s"
        reactor.run_once(0)
    assert set(threading.enumerate()) <= threads


def test_a_dropped_connection_that_recovers_is_closed_too(recovering: Any, broker: SocketBroker) -> None:
    threads = set(threading.enumerate())
    told: list[Any] = []
    connection = recovering(on_close=lambda *args: told.append(args))
    connection.add_recovery_handler(lambda *args: told.append(args))
    channel = connection.channel()
    channel.queue_declare("q")
    channel.basic_qos(prefetch_count=1)
    channel.basic_publish("", "q", "x")
    confirming = connection.channel()
    confirming.confirm_select()
    reactor, core = connection.reactor, weakref.ref(connection.core)
    with pytest.warns(ResourceWarning, match=r"unclosed <.*Connection of <.*Connection to 127\.0\.0\.1:.* open>>"):
        del connection, channel, confirming
    wait_for_hang_up(broker)
    assert_nothing_left(reactor, threads)
    assert told == []
    assert len(broker.peers) == 1, "it connects no more"
    gc.collect()
    assert core() is None


def test_on_ready_does_not_keep_a_connection(recovering: Any, broker: SocketBroker) -> None:
    threads = set(threading.enumerate())
    seen: list[Any] = []
    connection = recovering()
    channel = connection.channel(on_ready=lambda channel: seen.append(channel.queue_declare("q").queue))
    assert seen == ["q"]
    reactor = connection.reactor
    with pytest.warns(ResourceWarning):
        del connection, channel
    wait_for_hang_up(broker)
    assert_nothing_left(reactor, threads)


def test_one_that_is_dropped_without_a_link_dials_no_more(recovering: Any) -> None:
    threads = set(threading.enumerate())
    events: list[str] = []
    with serve() as broker:
        connection = recovering(target=broker.url)
        channel = connection.channel()
        connection.add_recovery_handler(lambda _, event: events.append(event.kind))
    end = time.monotonic() + DEADLINE
    while "retrying" not in events:
        assert time.monotonic() < end, f"the loss was not noticed: {events}"
        connection.drain_events(0.05)
    channel.basic_publish("", "q", "it waits for a link")
    reactor = connection.reactor
    with pytest.warns(ResourceWarning):
        del connection, channel
    assert_nothing_left(reactor, threads)


@pytest.mark.parametrize("fault", [False, True], ids=["silence", "fault"])
def test_one_that_is_dropped_while_a_link_is_restored(fault: bool) -> None:
    """The timer that bounds the restoring goes too; and a link that lingers for its close-ok, after a fault of the
    broker's."""

    def err(peer: Any, number: int, qos: Any) -> None:
        peer.answering = False
        peer.send(number, "tx.select-ok")

    def script(peer: Any) -> None:
        peer.expect_header()
        peer.serve()
        if peer is broker.peers[0]:
            peer.wait(lambda: bool(peer.came("basic.qos")), None)
            peer.socket.shutdown(socket.SHUT_RDWR)
        elif fault:
            peer.when("basic.qos", err)
        else:
            peer.when("basic.qos", lambda *_: None)
        peer.expect_hang_up()

    threads = set(threading.enumerate())
    with SocketBroker(script) as broker:
        reactor = SelectReactor()
        dice, delays = Random(), iter([0.01])
        dice.uniform = lambda low, high: next(delays, 60.0)  # type: ignore[method-assign]  # no third link
        recovery = cpspika.Recovery(dice=dice)
        connection = SelectConnection(broker.url, timeout=20, reactor=reactor, recovery=recovery)
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1)
        sign = "connection.close" if fault else "basic.qos"
        end = time.monotonic() + DEADLINE
        while len(broker.peers) < 2 or not broker.peers[1].came(sign):
            assert time.monotonic() < end, f"it was not restored: {[peer.received for peer in broker.peers]}"
            connection.drain_events(0.005)
        assert reactor.next_timer() is not None
        with pytest.warns(ResourceWarning):
            del connection, channel
        wait_for_hang_up(broker, 1)
        assert_nothing_left(reactor, threads | set(broker._threads))


def test_the_others_on_the_reactor_hear_nothing_of_one_that_recovers() -> None:
    """Not even of a publish that waited, and that nobody confirms."""
    reactor = SelectReactor()
    with serve() as broker:
        first = SelectConnection(broker.url, timeout=20, reactor=reactor, recovery=True)
        lone = first.channel()
    with SelectConnection("embedded://", timeout=20, reactor=reactor) as second:
        channel = second.channel()
        end = time.monotonic() + DEADLINE
        while first.is_connected:
            assert time.monotonic() < end, "the loss was not noticed"
            reactor.run_once(0.05)
        lone.basic_publish("", "q", "it waits for a link")
        with pytest.warns(ResourceWarning):
            del first, lone
        assert channel.queue_declare("q", exclusive=True).queue == "q"
        reactor.run_once(0)
    reactor.close()
