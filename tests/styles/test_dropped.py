"""A synchronous connection that the program drops without close: closed when nobody has it any more, with the warning
that files and sockets give. And what keeps one alive."""

from __future__ import annotations

import contextlib
import gc
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cpspika
from cpspika import AsyncoreConnection, BlockingConnection, SelectConnection
from cpspika.adapters import SelectReactor
from tests.support.scripted import DEADLINE, SocketBroker

KINDS = [SelectConnection, AsyncoreConnection, BlockingConnection]


@pytest.fixture
def broker() -> Iterator[SocketBroker]:
    with SocketBroker() as served:
        yield served


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, broker: SocketBroker) -> Callable[..., Any]:
    return lambda **options: request.param(f"{broker.url}?heartbeat=1", timeout=20, **options)


def wait_for_hang_up(broker: SocketBroker) -> None:
    end = time.monotonic() + DEADLINE
    while not broker.peers[0].hung_up:
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
