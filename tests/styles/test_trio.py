"""trio's style: blocks that end, awaits that are cancelled, callbacks that raise, and nothing left behind."""

from __future__ import annotations

import socket
import subprocess
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import cpspika
from cpspika.broker import Served

trio = pytest.importorskip("trio")
trio_testing = pytest.importorskip("trio.testing")

from cpspika.adapters import MemoryReactor, trio_adapter  # noqa: E402

PATIENCE = 10.0


@pytest.fixture
def run() -> Callable[[Callable[[], Awaitable[Any]]], Any]:
    """Runs a test's main, within a deadline, and lets nothing be left open."""

    def in_time(main: Callable[[], Awaitable[Any]]) -> Any:
        async def bounded() -> Any:
            with trio.fail_after(PATIENCE):
                return await main()

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return trio.run(bounded)

    return in_time


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await trio.sleep(0.002)


def test_a_block_closes_its_connection_and_leaves_nothing(run: Any, embedded: Served) -> None:
    before = len(embedded.connections)

    async def main() -> Any:
        living = trio.lowlevel.current_statistics().tasks_living
        async with trio_adapter.connect(embedded.url) as connection:
            assert len(embedded.connections) == before + 1
            channel = await connection.channel()
        assert not connection.is_open
        assert not channel.is_open
        await until(lambda: len(embedded.connections) == before)
        assert trio.lowlevel.current_statistics().tasks_living == living
        return connection

    assert run(main).close_reason is None


def test_what_the_block_raises_comes_out_as_it_is(run: Any, embedded: Served) -> None:
    async def main() -> None:
        async with trio_adapter.connect(embedded.url) as connection:
            await (await connection.channel()).queue_declare("no-such-queue", passive=True)

    with pytest.raises(cpspika.NotFound):
        run(main)


def test_a_connection_refused_is_an_error_of_the_core(run: Any) -> None:
    async def main() -> None:
        async with trio_adapter.connect("amqp://127.0.0.1:1/"):
            raise AssertionError("there is nothing to connect to")

    with pytest.raises(cpspika.AMQPConnectionError, match="refused"):
        run(main)


def test_a_callback_that_raises_ends_the_block_and_closes_the_connection(run: Any, embedded: Served) -> None:
    before = len(embedded.connections)

    async def main() -> None:
        async with trio_adapter.connect(embedded.url) as connection:
            channel = await connection.channel()
            queue = (await channel.queue_declare(exclusive=True)).queue

            def on_message(message: Any) -> None:
                raise ZeroDivisionError("in a callback")

            await channel.basic_consume(queue, on_message)
            await channel.basic_publish(routing_key=queue, body="m")
            await trio.sleep_forever()

    with pytest.raises(ZeroDivisionError, match="in a callback"):
        run(main)
    run(lambda: until(lambda: len(embedded.connections) == before))


def test_a_callback_may_be_an_async_function(run: Any, embedded: Served) -> None:
    async def main() -> list[bytes]:
        got: list[bytes] = []
        async with trio_adapter.connect(embedded.url) as connection:
            channel = await connection.channel()
            queue = (await channel.queue_declare(exclusive=True)).queue

            async def on_message(message: Any) -> None:
                assert message.channel is channel
                assert (await channel.queue_declare(queue, passive=True)).consumer_count == 1
                got.append(message.body)
                await message.ack()

            await channel.basic_consume(queue, on_message)
            for body in ("a", "b"):
                await channel.basic_publish(routing_key=queue, body=body)
            await until(lambda: len(got) == 2)
        return got

    assert sorted(run(main)) == [b"a", b"b"]


def test_a_cancelled_get_puts_its_message_back(run: Any, embedded: Served) -> None:
    async def main() -> None:
        async with trio_adapter.connect(embedded.url) as connection:
            channel = await connection.channel()
            queue = (await channel.queue_declare(exclusive=True)).queue
            await channel.basic_publish(routing_key=queue, body="m")
            with trio.CancelScope() as scope:
                promise = channel.basic_get(queue)
                scope.cancel()
                await promise
            assert scope.cancelled_caught
            while (message := await channel.basic_get(queue)) is None:
                pass  # asked for before the answer to the other came
            assert (message.body, message.redelivered) == (b"m", True)

    run(main)


@pytest.mark.parametrize(("cancelled", "got", "given"), [(1, ["m"], []), (2, [], ["m"])])
def test_tasks_that_await_the_same_result_are_cancelled_as_it_comes(
    run: Any, cancelled: int, got: list[str], given: list[str]
) -> None:
    async def main() -> tuple[list[str], list[str]]:
        took, gave = list[str](), list[str]()
        promise: trio_adapter.Promise[str] = trio_adapter.Promise(MemoryReactor(), gave.append)
        scopes = [trio.CancelScope(), trio.CancelScope()]

        async def wait(scope: trio.CancelScope) -> None:
            with scope:
                took.append(await promise)

        async with trio.open_nursery() as nursery:
            for scope in scopes:
                nursery.start_soon(wait, scope)
            await trio_testing.wait_all_tasks_blocked()
            for scope in scopes[:cancelled]:
                scope.cancel()
            promise.settle(None, "m")
        return took, gave

    assert run(main) == (got, given)


def test_a_time_out_in_an_iteration_loses_no_message(run: Any, embedded: Served) -> None:
    async def main() -> list[bytes]:
        got = []
        async with trio_adapter.connect(embedded.url) as connection:
            channel = await connection.channel()
            queue = (await channel.queue_declare(exclusive=True)).queue
            async with channel.consume(queue) as messages:
                with trio.move_on_after(0.01):
                    await anext(messages)
                for body in ("a", "b"):
                    await channel.basic_publish(routing_key=queue, body=body)
                for _ in range(2):
                    message = await anext(messages)
                    got.append(message.body)
                    await message.ack()
        return got

    assert run(main) == [b"a", b"b"]


def test_a_block_that_is_cancelled_closes_in_order(run: Any, embedded: Served) -> None:
    before = len(embedded.connections)

    async def main() -> Any:
        closed: list[Any] = []
        with trio.CancelScope() as scope:
            async with trio_adapter.connect(
                embedded.url, on_close=lambda connection, error: closed.append(error)
            ) as connection:
                await connection.channel()
                scope.cancel()
                await trio.sleep_forever()
        assert closed == [None]
        await until(lambda: len(embedded.connections) == before)

    run(main)


def test_a_publish_waits_while_the_channel_is_not_writable(run: Any) -> None:
    with cpspika.broker.serve() as broker:

        async def main() -> None:
            async with trio_adapter.connect(broker.url) as connection:
                channel = await connection.channel()
                await channel.queue_declare("q", exclusive=True)
                broker.block()
                await until(lambda: connection.is_blocked)
                with trio.move_on_after(0.05) as scope:
                    await channel.basic_publish(routing_key="q", body="m")
                assert scope.cancelled_caught
                broker.unblock()
                await channel.basic_publish(routing_key="q", body="m")
                assert (await channel.queue_declare("q", passive=True)).message_count == 2

        run(main)


@pytest.mark.slow
def test_heartbeats_keep_an_idle_block(run: Any, embedded: Served) -> None:
    async def main() -> None:
        async with trio_adapter.connect(embedded.url, heartbeat=1) as connection:
            said = connection.core._backlog.transport.queued
            await until(lambda: connection.core._backlog.transport.queued >= said + 16)  # two heartbeats
            assert connection.is_open

    run(main)


def test_without_trio_the_error_names_the_extra() -> None:
    script = "import sys; sys.modules['trio'] = None; import cpspika.adapters.trio_adapter"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "pip install 'cpspika[trio]'" in done.stderr.splitlines()[-1]


def test_a_connecting_that_is_cancelled_stops_dialling_and_leaves_nothing(run: Any) -> None:
    """To somebody who accepts, and then says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        async def main() -> None:
            living = trio.lowlevel.current_statistics().tasks_living
            with trio.move_on_after(0.05) as scope:
                async with trio_adapter.connect(f"amqp://127.0.0.1:{listener.getsockname()[1]}/"):
                    raise AssertionError("nobody answers")
            assert scope.cancelled_caught
            assert trio.lowlevel.current_statistics().tasks_living == living
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(PATIENCE)
                while accepted.recv(4096):
                    pass  # up to the end of the stream: it hung up

        run(main)


def test_callbacks_under_way_are_cancelled_when_the_block_ends(run: Any, embedded: Served) -> None:
    log: list[str] = []

    async def main() -> None:
        async with trio_adapter.connect(embedded.url) as connection:
            channel = await connection.channel()
            queue = (await channel.queue_declare(exclusive=True)).queue

            async def on_message(message: Any) -> None:
                log.append("begun")
                try:
                    await trio.sleep_forever()
                finally:
                    log.append("cancelled")

            await channel.basic_consume(queue, on_message)
            await channel.basic_publish(routing_key=queue, body="m")
            await until(lambda: log)

    run(main)
    assert log == ["begun", "cancelled"]


def test_two_exceptions_come_out_together(run: Any, embedded: Served) -> None:
    async def main() -> None:
        async with trio_adapter.connect(embedded.url) as connection:
            channel = await connection.channel()
            queue = (await channel.queue_declare(exclusive=True)).queue

            async def on_message(message: Any) -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    raise ZeroDivisionError

            await channel.basic_consume(queue, on_message)
            await channel.basic_publish(routing_key=queue, body="m")
            await channel.queue_declare(queue, passive=True)
            await trio.lowlevel.checkpoint()
            raise KeyError

    with pytest.raises(BaseException) as caught:  # noqa: PT011 (an ExceptionGroup, which Python 3.10 has no name for)
        run(main)
    assert {type(error) for error in caught.value.exceptions} == {KeyError, ZeroDivisionError}


def test_the_cause_of_an_error_is_kept(run: Any) -> None:
    async def main() -> None:
        async with trio_adapter.connect("amqp://127.0.0.1:1/"):
            pass

    with pytest.raises(cpspika.AMQPConnectionError) as caught:
        run(main)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_a_promise_that_two_await_is_given_up_by_the_last_of_them(run: Any, embedded: Served) -> None:
    async def main() -> list[Any]:
        got: list[Any] = []
        async with trio_adapter.connect(embedded.url) as connection:
            channel = await connection.channel()
            promise = channel.queue_declare(exclusive=True)

            async def first() -> None:
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await promise

            async def second() -> None:
                got.append((await promise).consumer_count)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(second)
                await trio.lowlevel.checkpoint()
                nursery.start_soon(first)
        return got

    assert run(main) == [0]


def test_whoever_awaits_outside_the_block_is_told_when_it_ends(run: Any) -> None:
    """The broker never answers, and the block is cancelled: nobody is left waiting."""
    with cpspika.broker.serve() as broker:

        async def main() -> None:
            promises: list[Any] = []
            told: list[Any] = []

            async def wait() -> None:
                try:
                    await promises[0]
                except cpspika.AMQPError as error:
                    told.append(error)

            async with trio.open_nursery() as nursery:
                with trio.CancelScope() as scope:
                    async with trio_adapter.connect(broker.url) as connection:
                        channel = await connection.channel()
                        await channel.queue_declare("q", exclusive=True)
                        await channel.basic_qos(prefetch_count=1)
                        broker.block()
                        await until(lambda: connection.is_blocked)
                        promises.append(channel.basic_publish(routing_key="q", body="held back"))
                        nursery.start_soon(wait)
                        await trio.lowlevel.checkpoint()
                        scope.cancel()
                        await trio.sleep_forever()
            assert len(told) == 1

        run(main)


def test_a_callback_of_the_last_moment_ends_nothing_of_trios(run: Any, embedded: Served) -> None:
    """on_close raises when the block is over: an exception of the block's, and no TrioInternalError."""

    async def main() -> None:
        def on_close(connection: Any, error: Any) -> None:
            raise ZeroDivisionError("at the end")

        async with trio_adapter.connect(embedded.url, on_close=on_close):
            pass

    with pytest.raises(ZeroDivisionError, match="at the end"):
        run(main)


def test_a_large_backlog_goes_out_before_the_block_ends(run: Any, embedded: Served) -> None:
    async def main() -> None:
        async with trio_adapter.connect(embedded.url) as connection:
            channel = await connection.channel()
            await channel.queue_declare("cpspika-trio-backlog", auto_delete=False)
            for _ in range(8):
                channel.basic_publish(routing_key="cpspika-trio-backlog", body=b"x" * 2**20)
        async with trio_adapter.connect(embedded.url) as connection:
            channel = await connection.channel()
            assert (await channel.queue_delete("cpspika-trio-backlog")) == 8

    run(main)


def test_what_is_asked_behind_the_block_fails_and_does_not_hang() -> None:
    async def main() -> None:
        async with trio_adapter.connect("embedded://") as connection:
            channel = await connection.channel()
        for ask in (channel.basic_get, channel.queue_declare):
            with pytest.raises(cpspika.ConnectionClosed), trio.fail_after(10):
                await ask("q")
        with trio.fail_after(10):
            assert await connection.wait_closed() is None
            await connection.close()

    trio.run(main)
