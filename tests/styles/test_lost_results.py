"""A call that succeeded returns its result, and what a late reply brings is given back; stopping from outside."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cpspika
from cpspika import AsyncoreConnection, BlockingConnection, SelectConnection
from cpspika.adapters import asyncio_adapter
from tests.support.scripted import SocketBroker, deliver_three

KINDS = [SelectConnection, AsyncoreConnection, BlockingConnection]


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    def bark(*_: object) -> None:
        pytest.fail("it hangs")

    signal.signal(signal.SIGALRM, bark)
    signal.alarm(20)
    yield
    signal.alarm(0)


@pytest.fixture(params=KINDS)
def connection(request: pytest.FixtureRequest) -> Iterator[Any]:
    with request.param("embedded://", timeout=20) as opened:
        yield opened


def stray(connection: Any) -> None:
    def fail() -> None:
        raise KeyError("a stray")

    connection.reactor.call_soon(fail)


def test_a_call_returns_its_result_and_the_next_call_raises_the_stray(connection: Any) -> None:
    ch = connection.channel()
    queue = ch.queue_declare(exclusive=True).queue
    ch.basic_publish("", queue, "kept")
    stray(connection)
    message = ch.basic_get(queue)
    assert message.body == b"kept"
    with pytest.raises(KeyError, match="a stray"):
        message.ack()
    message.ack()
    assert ch.queue_declare(queue, passive=True).message_count == 0


def test_an_open_connection_is_handed_back_though_another_has_ended() -> None:
    reactor = cpspika.adapters.SelectReactor()
    first = SelectConnection("embedded://", reactor=reactor)
    stray(first)
    with SelectConnection("embedded://", reactor=reactor) as second:
        with pytest.raises(KeyError, match="a stray"):
            second.channel()
        assert second.channel().is_open
    first.close()


def test_close_closes_and_raises_the_stray(connection: Any) -> None:
    stray(connection)
    with pytest.raises(KeyError, match="a stray"):
        connection.close()
    assert not connection.is_open


def test_the_reactors_own_turn_raises_the_stray() -> None:
    reactor = cpspika.adapters.SelectReactor()
    with SelectConnection("embedded://", reactor=reactor) as connection:
        stray(connection)
        connection.channel()
        with pytest.raises(KeyError, match="a stray"):
            reactor.run_once(0)


@pytest.mark.parametrize("interrupt", [None, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("call", ["basic_get", "basic_consume", "consume", "channel"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_that_nobody_waits_for_is_given_back(kind: Any, call: str, interrupt: Any) -> None:
    """By a time-out (None), or by an exception of a signal handler."""
    with kind("embedded://", timeout=20) as connection:
        ch, watch = connection.channel(), connection.channel()
        queue = ch.queue_declare(exclusive=True).queue
        watch.basic_publish("", queue, "kept")
        asked = {
            "basic_get": lambda: ch.basic_get(queue),
            "basic_consume": lambda: ch.basic_consume(queue, lambda message: message.nack()),
            "consume": lambda: ch.consume(queue),
            "channel": connection.channel,
        }[call]
        if interrupt is None:
            connection.timeout = 0
            with pytest.raises(cpspika.OperationTimeout):
                # The first turn, which a call always gets, may bring the answer already.
                interrupted(connection, asked, None)
            connection.timeout = 20
        else:
            with pytest.raises(interrupt):
                interrupted(connection, asked, interrupt)
        for _ in range(10):
            watch.basic_qos()
            connection.drain_events(0)  # a message that came to a callback is the callback's
        assert watch.queue_declare(queue, passive=True) == (queue, 1, 0)
        assert len(connection.core._channels) == 2


def interrupted(connection: Any, asked: Callable[[], Any], interrupt: Any) -> None:
    spin = connection._spin

    def cut(*args: Any, **kwargs: Any) -> Any:
        connection._spin = spin
        if interrupt is None:
            return False
        raise interrupt

    connection._spin = cut
    asked()


@pytest.mark.parametrize("how", ["timer", "threadsafe", "thread", "signal", "close in a signal handler"])
def test_an_idle_start_consuming_is_stopped(connection: Any, how: str) -> None:
    ch = connection.channel()
    ch.basic_consume(ch.queue_declare(exclusive=True).queue, print)
    if how == "timer":
        connection.reactor.call_later(0.05, ch.stop_consuming)
    elif how == "threadsafe":
        timer = threading.Timer(0.05, lambda: connection.reactor.call_soon_threadsafe(ch.stop_consuming))
        timer.start()
    elif how == "thread":
        threading.Timer(0.05, ch.stop_consuming).start()
    else:
        stop = ch.stop_consuming if how == "signal" else connection.close
        before = signal.signal(signal.SIGUSR1, lambda *_: stop())
        main = threading.get_ident()
        threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGUSR1)).start()
    try:
        ch.start_consuming()
    finally:
        if "signal" in how:
            signal.signal(signal.SIGUSR1, before)
    assert connection.is_open == (how != "close in a signal handler")


def test_a_stop_that_comes_too_early_is_not_lost(connection: Any) -> None:
    ch = connection.channel()
    ch.basic_consume(ch.queue_declare(exclusive=True).queue, print)
    ch.stop_consuming()
    ch.start_consuming()
    connection.reactor.call_later(0.01, ch.stop_consuming)
    ch.start_consuming()


@pytest.mark.parametrize("no_ack", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_messages_of_a_channel_that_died(kind: Any, no_ack: bool) -> None:
    """With no_ack nobody else has them; else they are the broker's again."""
    expected = [b"0", b"1", b"2"] if no_ack else []
    with SocketBroker() as broker, kind(broker.url, timeout=20) as connection:
        iterated, called = connection.channel(), connection.channel()
        broker.peers[0].when("basic.consume", deliver_three)
        messages = iterated.consume("q", no_ack=no_ack)
        got: list[bytes] = []
        called.basic_consume("q", lambda message: got.append(message.body), no_ack=no_ack)
        iterated.queue_declare("q")
        called.queue_declare("q")  # behind these answers the messages are here
        iterated.close()
        called.close()
        handed_out: list[bytes] = []
        with pytest.raises(cpspika.ChannelClosed):
            handed_out.extend(message.body for message in messages)
        connection.drain_events(0)
        assert (handed_out, got) == (expected, expected)


def test_a_consumer_whose_start_was_cancelled_leaves_nothing() -> None:
    async def main() -> None:
        async with asyncio_adapter.connect("embedded://") as connection, connection.channel() as channel:
            watch = await connection.channel()
            queue = (await channel.queue_declare(exclusive=True)).queue
            for number in range(20):
                await watch.basic_publish("", queue, str(number))
            messages = channel.consume(queue)
            first = asyncio.ensure_future(anext(messages))
            await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            deadline = asyncio.get_running_loop().time() + 10
            while (ok := await watch.queue_declare(queue, passive=True)) != (queue, 20, 0):
                assert asyncio.get_running_loop().time() < deadline, f"not given back: {ok}"
            async with messages:  # it may be asked again
                assert (await anext(messages)).body == b"0"

    asyncio.run(main())


def test_wait_closed_in_asyncio() -> None:
    async def main() -> None:
        connection = await asyncio_adapter.connect("embedded://")
        ended = connection.wait_closed()
        await connection.close()
        assert await ended is None
        assert await connection.wait_closed() is None
        lost = await asyncio_adapter.connect("embedded://")
        ended = lost.wait_closed()
        lost.abort()
        with pytest.raises(cpspika.ConnectionClosed, match="aborted"):
            await ended

    asyncio.run(main())


def test_a_call_from_the_wrong_thread_changes_nothing_in_debug_mode() -> None:
    async def main() -> None:
        async with asyncio_adapter.connect("embedded://") as connection, connection.channel() as channel:

            def publish() -> None:
                with pytest.raises(cpspika.ConcurrentUse):
                    channel.basic_publish("", queue, "from a thread")

            queue = (await channel.queue_declare(exclusive=True)).queue
            await asyncio.to_thread(publish)
            assert (await asyncio.wait_for(channel.queue_declare(queue, passive=True), 10)).message_count == 0

    asyncio.run(main(), debug=True)
