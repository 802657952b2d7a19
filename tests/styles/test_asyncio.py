"""asyncio: what its Futures, tasks and loops add to the operations, which the scenarios try in this style too.

Every test runs on the standard library's loop in debug mode, on one without add_reader, and on uvloop. At its end
nothing of it is left in the loop, whose exception handler has heard of nothing but what the test expects.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import cpspika
from cpspika import (
    ChannelClosed,
    ConcurrentUse,
    ConnectError,
    ConnectionClosed,
    ConnectionLost,
    ConsumerCancelled,
    InvalidArgumentType,
    LocalError,
    MessageNacked,
    NotFound,
)
from cpspika.adapters import asyncio_adapter
from cpspika.adapters.asyncio_adapter import AsyncioChannel, AsyncioReactor, connect
from cpspika.broker import Served, serve
from cpspika.styles import promises
from tests.support import ROOT
from tests.support.hiding import WithoutAddReader
from tests.support.scripted import SocketBroker, deliver_three, free_port
from tests.support.style_asyncio import on_uvloop

PATIENCE = 20.0


@pytest.fixture(scope="module")
def broker() -> Iterator[Served]:
    """One of our own: these tests stall it, and cut its links."""
    with serve() as running:
        yield running


def debugging() -> asyncio.AbstractEventLoop:
    return debug(asyncio.new_event_loop())


def debug(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    loop.set_debug(True)
    loop.slow_callback_duration = 10
    return loop


class Stage:
    """A loop for a test. `told`: what its exception handler was told, which the test has to take off."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.loop = loop
        self.told: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda loop, context: self.told.append(context))

    def run(self, main: Awaitable[Any]) -> Any:
        result = self.loop.run_until_complete(asyncio.wait_for(main, PATIENCE))
        gc.collect()
        self.loop.run_until_complete(asyncio.sleep(0))
        return result

    def take(self) -> dict[str, Any]:
        (context,) = self.told
        self.told.clear()
        return context

    def end(self) -> None:
        try:
            assert not self.told, self.told
            assert not asyncio.all_tasks(self.loop)
            if hasattr(self.loop, "_selector"):
                watched = [key.fd for key in self.loop._selector.get_map().values()]
                assert watched == [self.loop._ssock.fileno()], "a descriptor is left in the loop"
                assert all(handle.cancelled() for handle in self.loop._scheduled), self.loop._scheduled
                assert not self.loop._ready
        finally:
            self.loop.close()


def debugging_without_add_reader() -> asyncio.AbstractEventLoop:
    return debug(WithoutAddReader())


@pytest.fixture(
    params=[
        debugging,
        pytest.param(debugging_without_add_reader, marks=pytest.mark.slow),
        pytest.param(on_uvloop, marks=pytest.mark.slow),
    ],
    ids=["asyncio", "without-add_reader", "uvloop"],
)
def stage(request: Any) -> Iterator[Stage]:
    made = Stage(request.param())
    yield made
    made.end()


@asynccontextmanager
async def channel(broker: Served) -> AsyncIterator[AsyncioChannel]:
    async with connect(broker.url) as connection, connection.channel() as ch:
        yield ch


async def filled(ch: AsyncioChannel, *bodies: str) -> str:
    queue: str = (await ch.queue_declare(exclusive=True)).queue
    for body in bodies:
        await ch.basic_publish("", queue, body)
    return queue


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"what did not come: {what}"
        await asyncio.sleep(0.002)


async def counts(ch: AsyncioChannel, queue: str, messages: int, consumers: int) -> None:
    """Waits for a queue to have so many."""
    deadline = time.monotonic() + PATIENCE
    while (found := await ch.queue_declare(queue, passive=True))[1:] != (messages, consumers):
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.002)


def end_task_when_done(future: asyncio.Future[Any]) -> None:
    """Cancels the present task after the future has its result, and before the task is resumed with it."""
    task = asyncio.current_task()
    assert task is not None
    future.add_done_callback(lambda _: task.cancel())


# --- connections ------------------------------------------------------------------------------------------------------


def test_there_and_back(stage: Stage, broker: Served) -> None:
    ended: list[Any] = []

    async def main() -> None:
        connection = await connect(broker.url, on_close=lambda *args: ended.append(args))
        ch = await connection.channel()
        queue = await filled(ch, "x")
        message = await ch.basic_get(queue)
        assert message.channel is ch
        await message.ack()
        await connection.close()
        assert ended == [(connection, None)]

    stage.run(main())


def test_connections_and_channels_are_context_managers_awaited_or_not(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async with connect(broker.url) as one, await connect("embedded://") as two:
            async with one.channel() as ch, await two.channel() as other:
                assert ch.is_open
                assert other.is_open
                assert repr(ch).startswith("<AsyncioChannel of <Channel 1")
            assert not ch.is_open
            assert not other.is_open
        assert not one.is_open
        assert not two.is_open
        with pytest.raises(ZeroDivisionError):
            async with connect(broker.url) as three:
                raise ZeroDivisionError
        assert not three.is_open
        with pytest.raises(NotFound):
            async with channel(broker) as ch:
                await ch.queue_declare("cpspika-nothing", passive=True)

    stage.run(main())


def test_errors_of_connecting(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        with pytest.raises(ConnectError, match="refused"):
            await connect(f"amqp://127.0.0.1:{free_port()}")
        with pytest.raises(cpspika.LoginError):
            await connect(broker.url, credentials=cpspika.PlainCredentials("guest", "wrong"))
        with pytest.raises(ConnectError):
            async with connect(f"amqp://127.0.0.1:{free_port()}"):
                pytest.fail("it is not entered")
        with pytest.raises(LocalError, match="heartbeet"):
            connect(broker.url, heartbeet=3)

    stage.run(main())


def test_a_name_is_looked_up(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async with connect(f"amqp://localhost:{broker.port}") as connection:
            assert connection.is_open

    stage.run(main())


def test_a_connection_that_is_given_up_hangs_up_at_once(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)

        async def main() -> socket.socket:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(connect(f"amqp://127.0.0.1:{silent.getsockname()[1]}"), 0.05)
            return silent.accept()[0]

        with stage.run(main()) as theirs:
            theirs.settimeout(PATIENCE)
            while theirs.recv(100):
                pass  # the protocol header, then the end


def test_a_connection_that_came_too_late_for_its_task_is_closed(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async def close_abandoned() -> None:
            future = connect(broker.url)
            end_task_when_done(future)
            await future

        with pytest.raises(asyncio.CancelledError):
            await asyncio.ensure_future(close_abandoned())
        await until(lambda: not broker.connections, "the end of the connection")

    stage.run(main())


def test_without_a_loop_the_error_says_so(broker: Served) -> None:
    with pytest.raises(LocalError, match=r"no asyncio loop is running here.*asyncio\.run"):
        connect(broker.url)


# --- awaits that are cancelled ----------------------------------------------------------------------------------------


@asynccontextmanager
async def stalled(broker: Served) -> AsyncIterator[None]:
    """The broker answers nothing, for the length of a block."""
    broker.stall()
    try:
        yield
    finally:
        broker.stall(False)


async def give_up_waiting_for(future: Awaitable[Any]) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(future, 0.01)


def test_the_message_of_a_cancelled_basic_get_goes_back(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async with channel(broker) as ch:
            queue = await filled(ch, "x")
            async with stalled(broker):
                await give_up_waiting_for(ch.basic_get(queue))
            message = await ch.basic_get(queue)
            while message is None:
                message = await ch.basic_get(queue)
            assert (message.body, message.redelivered) == (b"x", True)

    stage.run(main())


def test_a_message_that_came_too_late_for_its_task_goes_back(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async with channel(broker) as ch:
            queue = await filled(ch, "x")

            async def get() -> None:
                future = ch.basic_get(queue)
                end_task_when_done(future)
                await future

            with pytest.raises(asyncio.CancelledError):
                await asyncio.ensure_future(get())
            await counts(ch, queue, 1, 0)

    stage.run(main())


def test_a_cancelled_basic_consume_leaves_no_consumer(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async with channel(broker) as ch:
            queue = await filled(ch)
            async with stalled(broker):
                await give_up_waiting_for(ch.basic_consume(queue, print))
            await counts(ch, queue, 0, 0)

    stage.run(main())


def test_a_cancelled_channel_is_closed(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async with connect(broker.url) as connection:
            async with stalled(broker):
                await give_up_waiting_for(connection.channel())
            await until(lambda: not connection.core._channels, "the close of the channel")
            assert (await connection.channel()).number == 1

    stage.run(main())


@pytest.mark.parametrize(("cancelled", "got", "given"), [(1, ["m"], []), (2, [], ["m"])])
def test_tasks_that_await_the_same_result_are_cancelled_as_it_comes(
    stage: Stage, cancelled: int, got: list[str], given: list[str]
) -> None:
    async def main() -> None:
        took, gave = list[str](), list[str]()
        future: asyncio_adapter.Wanted[str] = asyncio_adapter.Wanted(gave.append, asyncio.get_running_loop())

        async def wait() -> None:
            took.append(await future)

        waiting = [asyncio.ensure_future(wait()), asyncio.ensure_future(wait())]
        await asyncio.sleep(0)
        future.settle(None, "m")
        for task in waiting[:cancelled]:
            task.cancel()
        await asyncio.wait(waiting)
        assert (took, gave) == (got, given)

    stage.run(main())


def test_the_reply_to_a_cancelled_call_is_not_anothers(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async with channel(broker) as ch:
            names = [f"cpspika-{id(stage)}-{n}" for n in range(5)]
            async with stalled(broker):
                asked = [ch.queue_declare(name, exclusive=True) for name in names]
                asked[1].cancel()
                await give_up_waiting_for(asked[3])
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert [getattr(result, "queue", None) for result in results] == [
                None if n in (1, 3) else name for n, name in enumerate(names)
            ]

    stage.run(main())


def test_cancelled_publishes_leave_the_confirms_in_order(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async with channel(broker) as ch:
            queue = await filled(ch)
            await ch.confirm_select()
            async with stalled(broker):
                fates = [ch.basic_publish("", queue, str(n)) for n in range(6)]
                fates[0].cancel()
                await give_up_waiting_for(fates[3])
                broker.nack_next(2)  # 0, which nobody waits for, and 1
            told = await asyncio.gather(*fates, return_exceptions=True)
            kinds = [type(fate) for fate in told]
            assert kinds == [asyncio.CancelledError, MessageNacked, bool, asyncio.CancelledError, bool, bool]
            assert await ch.basic_publish("", queue, "6") is True

    stage.run(main())


def test_a_cancelled_close_closes(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        connection = await connect(broker.url)
        async with stalled(broker):
            await give_up_waiting_for(connection.close())
        await until(lambda: connection.core._backlog.transport is None, "the close")

    stage.run(main())


# --- iterators --------------------------------------------------------------------------------------------------------


def test_messages_come_one_after_another(stage: Stage, broker: Served) -> None:
    async def main() -> list[str]:
        got: list[str] = []
        async with channel(broker) as ch:
            queue = await filled(ch, *"abcd")
            async with ch.consume(queue) as messages:
                async for message in messages:
                    got.append(message.body.decode())
                    await message.ack()
                    if len(got) == 4:
                        break
            assert (await ch.queue_declare(queue, passive=True)) == (queue, 0, 0)
            with pytest.raises(StopAsyncIteration):
                await anext(messages)
        return got

    assert stage.run(main()) == ["a", "b", "c", "d"]


def test_a_break_cancels_the_consumer_and_gives_back_the_rest(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async with channel(broker) as ch:
            queue = await filled(ch, *"abcdef")
            async for message in ch.consume(queue):
                message.ack()
                if message.body == b"b":
                    break
            await counts(ch, queue, 4, 0)
            assert (await ch.basic_get(queue)).body == b"c"

    stage.run(main())


@pytest.mark.parametrize(("no_ack", "rejected"), [(True, []), (False, [2, 3])])
def test_a_left_iterator_rejects_only_what_was_to_be_acknowledged(
    stage: Stage, no_ack: bool, rejected: list[int]
) -> None:
    async def main(broker: Any) -> None:
        async with channel(broker) as ch:
            peer = broker.peers[0]
            peer.when("basic.consume", deliver_three)
            async with ch.consume("q", no_ack=no_ack) as messages:
                assert (await anext(messages)).body == b"0"
                await ch.queue_declare("q")  # behind its answer the others are here, too
            await ch.queue_declare("q")
            assert [reject.delivery_tag for reject in peer.came("basic.nack")] == rejected

    with SocketBroker() as broker:
        stage.run(main(broker))


def test_a_time_out_of_the_iterator_loses_nothing(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async with channel(broker) as ch:
            queue = await filled(ch)
            async with ch.consume(queue) as messages:
                await give_up_waiting_for(anext(messages))
                async with stalled(broker):
                    await give_up_waiting_for(anext(messages))
                ch.basic_publish("", queue, "x")
                assert (await anext(messages)).body == b"x"

    stage.run(main())


def test_an_iterator_that_is_cancelled_in_its_beginning_begins_again(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async with channel(broker) as ch:
            queue = await filled(ch, "x")
            async with ch.consume(queue) as messages:
                async with stalled(broker):
                    await give_up_waiting_for(anext(messages))
                assert (await anext(messages)).body == b"x"
            await counts(ch, queue, 0, 0)  # x is unacknowledged

    stage.run(main())


def test_several_tasks_share_an_iterator(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async with channel(broker) as ch:
            queue = await filled(ch, *"abcdefgh")
            messages = ch.consume(queue)
            got: list[bytes] = []

            async def work() -> None:
                async for message in messages:
                    await asyncio.sleep(0)
                    got.append(message.body)
                    message.ack()

            workers = [asyncio.ensure_future(work()) for _ in range(3)]
            await until(lambda: len(got) == 8, "eight messages")
            await messages.aclose()
            await asyncio.gather(*workers)
            assert sorted(got) == [b"%c" % c for c in b"abcdefgh"]
            await counts(ch, queue, 0, 0)

    stage.run(main())


def test_an_iterator_raises_what_ends_it(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async with connect(broker.url) as connection:
            ch, other = await asyncio.gather(connection.channel(), connection.channel())
            queue = await filled(ch)
            waiting = asyncio.ensure_future(anext(ch.consume(queue)))
            await counts(other, queue, 0, 1)
            await other.queue_delete(queue)
            with pytest.raises(ConsumerCancelled):
                await waiting
            with pytest.raises(NotFound):
                await anext(ch.consume("cpspika-nothing"))
            waiting = asyncio.ensure_future(anext(other.consume(await filled(other))))
            await asyncio.sleep(0)
            broker.drop_links()
            with pytest.raises((ChannelClosed, ConnectionLost)):
                await waiting

    stage.run(main())


# --- callbacks --------------------------------------------------------------------------------------------------------


def test_a_callback_may_be_a_coroutine(stage: Stage, broker: Served) -> None:
    """Each message's in a task of its own, of which nobody but we hold a reference."""
    got: list[bytes] = []

    class Handler:
        async def __call__(self, message: Any) -> None:
            gc.collect()
            await asyncio.sleep(0.001)
            gc.collect()
            got.append(message.body)
            await message.ack()

    async def main() -> None:
        closed: list[Any] = []

        async def on_close(connection: Any, error: Any) -> None:
            await asyncio.sleep(0)
            closed.append((connection, error))

        connection = await connect(broker.url, on_close=on_close)
        ch = await connection.channel()
        queue = await filled(ch, *"abc")
        handler = Handler()
        await ch.basic_consume(queue, handler.__call__)
        await until(lambda: len(got) == 3, "three messages")
        await ch.basic_consume(queue, handler)
        await ch.basic_publish("", queue, "d")
        await until(lambda: len(got) == 4, "the fourth")
        await ch.basic_consume(await filled(ch, "e"), lambda message: handler(message))  # as a decorator makes it
        await until(lambda: len(got) == 5, "the fifth")
        await connection.close()
        await until(lambda: closed == [(connection, None)], "on_close")

    stage.run(main())
    assert sorted(got) == [b"a", b"b", b"c", b"d", b"e"]


def test_handlers_get_the_facades_and_may_be_coroutines(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        told: list[Any] = []

        async def later(*args: Any) -> None:
            await asyncio.sleep(0)
            told.append(args)

        async with connect(broker.url) as connection, connection.channel() as ch:
            ch.addFlowChangeHandler(lambda *args: told.append(args))
            ch.add_flow_change_handler(later)
            connection.add_blocked_handler(later)
            broker.flow(False)
            await until(lambda: len(told) == 3, "the flow")
            broker.flow(True)
            await until(lambda: len(told) == 5, "the flow")
            broker.block("full")
            await until(lambda: len(told) == 6, "the block")
            broker.unblock()
            await until(lambda: len(told) == 7, "its end")
            assert all(args[0] is ch for args in told[:5])
            assert [args[1] for args in told[:5]] == [True, False, False, True, True]
            assert told[5:] == [(connection, True, "full"), (connection, False, "")]

    stage.run(main())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_callbacks_exception_goes_to_the_loops_handler_and_leaves_the_connection_whole(
    stage: Stage, broker: Served, asynchronous: bool
) -> None:
    got: list[bytes] = []

    def on_message(message: Any) -> None:
        if message.body == b"b":
            raise KeyError("a mistake of the user's")
        got.append(message.body)

    async def on_message_async(message: Any) -> None:
        on_message(message)

    async def main() -> None:
        async with channel(broker) as ch:
            queue = await filled(ch, *"abc")
            await ch.basic_consume(queue, on_message_async if asynchronous else on_message, no_ack=True)
            await until(lambda: len(got) == 2, "two messages")
            assert isinstance(stage.take()["exception"], KeyError)
            ch.connection.reactor.on_error = errors.append
            await ch.basic_publish("", queue, "b")
            await until(lambda: errors, "the error, at on_error")
            assert (await ch.queue_declare(queue, passive=True)).queue == queue

    errors: list[BaseException] = []
    stage.run(main())
    assert [type(error) for error in errors] == [KeyError]


def test_a_callback_that_is_a_generator_is_an_error_that_says_so(stage: Stage, broker: Served) -> None:
    def on_message(message: Any) -> Any:
        yield message.ack()

    async def main() -> None:
        async with channel(broker) as ch:
            await ch.basic_consume(await filled(ch, "x"), on_message)
            await until(lambda: stage.told, "the error")
            error = stage.take()["exception"]
            assert isinstance(error, InvalidArgumentType)
            assert "coroutine function" in str(error)

    stage.run(main())


# --- promises that are ignored ----------------------------------------------------------------------------------------


def test_an_ignored_ack_says_nothing_when_the_link_is_lost(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        ended: list[Any] = []
        connection = await connect(broker.url, on_close=lambda connection, error: ended.append(error))
        ch = await connection.channel()
        queue = await filled(ch, "x", "y")
        message = await ch.basic_get(queue)
        broker.drop_links()
        message.ack()
        await until(lambda: ended, "the end")
        message.ack()
        ch.basic_reject(message.delivery_tag)
        with pytest.raises(ConnectionClosed):
            await message.nack()

    stage.run(main())


def test_an_ignored_error_of_another_operation_is_told_by_asyncio(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async with connect(broker.url) as connection:
            ch = await connection.channel()
            ch.queue_declare("cpspika-nothing", passive=True)
            await until(lambda: not ch.is_open, "the end of the channel")
            gc.collect()
            context = stage.take()
            assert context["message"] == "Future exception was never retrieved"
            assert isinstance(context["exception"], NotFound)
            ch.basic_publish("", "q", "lost")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            gc.collect()
            assert isinstance(stage.take()["exception"], ChannelClosed)

    stage.run(main())


# --- backpressure -----------------------------------------------------------------------------------------------------


def test_a_publisher_waits_while_the_broker_reads_nothing(stage: Stage, broker: Served) -> None:
    body = b"x" * 100_000

    async def main() -> None:
        async with channel(broker) as ch:
            queue = await filled(ch)

            async def publish() -> None:
                for _ in range(300):
                    await ch.basic_publish("", queue, body)

            async with stalled(broker):
                transport = ch.connection.core._backlog.transport
                publisher = asyncio.ensure_future(publish())
                stuck = "_stuck" if hasattr(transport, "_stuck") else "_full"
                await until(lambda: getattr(transport, stuck), "a kernel that takes no more")
                for _ in range(100):
                    await asyncio.sleep(0)
                assert not publisher.done()
                assert transport.queued - transport.written < 1_000_000
            await publisher
            await counts(ch, queue, 300, 0)
            await ch.queue_purge(queue)

    stage.run(main())


def test_a_publisher_waits_while_the_connection_is_blocked(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async with channel(broker) as ch:
            queue = await filled(ch)
            broker.block()
            await until(lambda: not ch.writable, "the block")
            publish = ch.basic_publish("", queue, "x")
            await ch.queue_declare(queue, passive=True)
            assert not publish.done()
            broker.unblock()
            assert await publish is True

    stage.run(main())


def test_a_publisher_of_small_messages_lets_the_others_have_their_turn(stage: Stage, broker: Served) -> None:
    async def main() -> None:
        async with channel(broker) as ch:
            queue = await filled(ch)
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0)
                    turns += 1

            counter = asyncio.ensure_future(count())
            for _ in range(20_000):
                await ch.basic_publish("", queue, b"x" * 50)
            counter.cancel()
            assert turns > 3
            await ch.queue_purge(queue)

    stage.run(main())


# --- threads ----------------------------------------------------------------------------------------------------------


def test_another_thread_inside_a_callback_is_an_error_that_says_so(stage: Stage, broker: Served) -> None:
    raised: list[Exception] = []

    async def main() -> None:
        async with channel(broker) as ch:
            queue = await filled(ch, "x")

            def intrude() -> None:
                try:
                    ch.basic_publish("", queue, "by another thread")
                except Exception as error:
                    raised.append(error)

            def on_message(message: Any) -> None:
                thread = threading.Thread(target=intrude)
                thread.start()
                thread.join()

            await ch.basic_consume(queue, on_message, no_ack=True)
            await until(lambda: raised, "the error")
            await counts(ch, queue, 0, 1)

    stage.run(main())
    assert isinstance(raised[0], ConcurrentUse)


def test_a_loop_that_was_closed_is_no_trouble_to_another_thread() -> None:
    """A name lookup that ends after the program did, or the embedded broker."""
    reactor = AsyncioReactor(asyncio.new_event_loop())
    reactor.loop.close()
    reactor.call_soon_threadsafe(print)
    asyncio.run(_leave_open())
    with cpspika.BlockingConnection("embedded://", timeout=PATIENCE) as other:
        other.channel().close()


async def _leave_open() -> None:
    connection = await connect("embedded://")
    await connection.channel()


def test_a_broker_lives_on_the_loop_beside_its_client(stage: Stage) -> None:
    async def main() -> None:
        broker = cpspika.broker.Broker(AsyncioReactor())
        port = broker.listen("127.0.0.1", 0).port
        async with connect(f"amqp://127.0.0.1:{port}") as connection, connection.channel() as ch:
            assert (await ch.basic_get(await filled(ch, "x"), no_ack=True)).body == b"x"
        broker.end()

    stage.run(main())


FORKS = """
import asyncio, os, sys
from cpspika.adapters.asyncio_adapter import connect

async def main():
    async with connect(sys.argv[1]) as connection, connection.channel() as ch:
        child = os.fork()
        if not child:
            os._exit(connection.is_open or connection.core._backlog.transport is not None)
        assert os.waitpid(child, 0)[1] == 0, "the child holds on to the connection"
        print((await ch.queue_declare(exclusive=True)).message_count)

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_leaves_the_connection_to_its_parent(broker: Served) -> None:
    command = [sys.executable, "-W", "error", "-c", FORKS, broker.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_what_the_adapter_offers_is_documented() -> None:
    assert all(getattr(asyncio_adapter, name).__doc__ for name in asyncio_adapter.__all__)


def test_a_cancelled_block_does_not_wait_long_for_a_broker_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promises, "GRACE", 0.05)

    connections: list[Any] = []

    async def work(broker: Served) -> None:
        async with asyncio_adapter.connect(broker.url) as connection:
            connections.append(connection)
            channel = await connection.channel()
            broker.stall()
            await asyncio.wait_for(channel.queue_declare("x"), 0.05)

    async def main(broker: Served) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(work(broker), 10)  # without the limit it takes 15 s

    with serve() as broker:
        asyncio.run(main(broker))
        assert not connections[0].is_open


def test_an_asynchronous_generator_function_is_no_callback() -> None:
    async def main() -> None:
        async def on_message(message: Any) -> Any:
            yield message

        async with asyncio_adapter.connect("embedded://") as connection, await connection.channel() as channel:
            with pytest.raises(cpspika.InvalidArgumentType, match="on_message is an asynchronous generator function"):
                await channel.basic_consume("q", on_message)

    asyncio.run(main())


def test_after_a_break_the_consumer_is_cancelled_before_what_is_asked_for_next() -> None:
    async def main() -> None:
        async with asyncio_adapter.connect("embedded://") as connection, await connection.channel() as channel:
            await channel.queue_declare("q", exclusive=True)
            for _ in range(2):
                channel.basic_publish("", "q", "x")
                async for message in channel.consume("q", exclusive=True):  # a second one beside it is refused
                    await message.ack()
                    break
            async for message in channel.consume("q", inactivity_timeout=0.01):
                await message.ack()
            assert await channel.queue_delete("q", if_unused=True, if_empty=True) == 0

    asyncio.run(main())
