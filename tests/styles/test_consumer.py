"""The iterator over a consumer's messages, in the styles that wait differently: how it ends, and what it gives back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import cpspika
from cpspika import tasks
from cpspika.adapters import asyncio_adapter
from cpspika.styles.consumer import Consuming
from cpspika.threads import ThreadedChannel, ThreadedConnection
from tests.support.unchanged import NOBODY

CALLS = [cpspika.BlockingConnection, cpspika.SelectConnection, ThreadedConnection]


@pytest.fixture(params=CALLS, ids=lambda cls: cls.__name__)
def channel(request: pytest.FixtureRequest) -> Iterator[Any]:
    with request.param("embedded://", timeout=10) as connection, connection.channel() as channel:
        yield channel


def filled(channel: Any, count: int) -> str:
    queue: str = channel.queue_declare().queue
    for number in range(count):
        channel.basic_publish("", queue, str(number))
    return queue


def ready(channel: Any, queue: str) -> tuple[int, int]:
    """Messages that are ready, and consumers. The connection's end would requeue messages too, so ask before it."""
    ok = channel.queue_declare(queue, passive=True)
    return ok.message_count, ok.consumer_count


def test_a_closed_iterator_gives_back_what_it_did_not_hand_out(channel: Any) -> None:
    queue = filled(channel, 5)
    messages = channel.consume(queue)
    next(messages).ack()
    messages.close()
    assert ready(channel, queue) == (4, 0)
    messages.close()  # once more changes nothing
    assert ready(channel, queue) == (4, 0)
    assert next(messages, None) is None


def test_no_ack_gives_nothing_back(channel: Any) -> None:
    queue = filled(channel, 5)
    messages = channel.consume(queue, no_ack=True)
    next(messages)
    messages.close()
    assert ready(channel, queue) == (0, 0)


def test_an_iterator_that_was_never_used_gives_everything_back(channel: Any) -> None:
    queue = filled(channel, 3)
    messages = channel.consume(queue)
    assert channel.has_consumers
    messages.close()
    assert ready(channel, queue) == (3, 0)


def test_inactivity_ends_it_and_cancels_the_consumer(channel: Any) -> None:
    queue = filled(channel, 2)
    bodies = []
    for message in channel.consume(queue, inactivity_timeout=0.05):
        bodies.append(message.body)
        message.ack()
    assert bodies == [b"0", b"1"]
    assert ready(channel, queue) == (0, 0)


def test_the_brokers_cancel_is_raised(channel: Any) -> None:
    queue = filled(channel, 0)
    messages = channel.consume(queue)
    channel.queue_delete(queue)
    with pytest.raises(cpspika.ConsumerCancelled):
        next(messages)


def test_a_program_may_cancel_the_consumer_itself() -> None:
    with ThreadedConnection("embedded://", timeout=10) as connection, connection.channel() as channel:
        queue = filled(channel, 2)
        messages = channel.consume(queue)
        next(messages).ack()
        channel.basic_cancel(messages.consumer_tag)
        messages.close()
        assert ready(channel, queue) == (1, 0)


def test_async_inactivity_ends_it_and_cancels_the_consumer() -> None:
    async def main() -> None:
        async with asyncio_adapter.connect("embedded://") as connection, connection.channel() as channel:
            queue = (await channel.queue_declare()).queue
            await channel.basic_publish("", queue, "one")
            bodies = []
            async for message in channel.consume(queue, inactivity_timeout=0.05):
                bodies.append(message.body)
                message.ack()
            assert bodies == [b"one"]
            ok = await channel.queue_declare(queue, passive=True)
            assert (ok.message_count, ok.consumer_count) == (0, 0)

    asyncio.run(asyncio.wait_for(main(), 10))


def test_async_messages_keep_it_going_past_the_inactivity_timeout() -> None:
    async def main() -> None:
        async with asyncio_adapter.connect("embedded://") as connection, connection.channel() as channel:
            queue = (await channel.queue_declare()).queue
            waiting = channel.consume(queue, inactivity_timeout=5)
            first = asyncio.ensure_future(anext(waiting))
            await channel.queue_declare(queue, passive=True)
            await channel.basic_publish("", queue, "one")
            assert (await first).body == b"one"
            await waiting.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(waiting)
            ok = await channel.queue_declare(queue, passive=True)
            assert ok.consumer_count == 0

    asyncio.run(asyncio.wait_for(main(), 10))


def test_the_options_are_written_once() -> None:
    for facade in (cpspika.SyncChannel, asyncio_adapter.AsyncioChannel, ThreadedChannel):
        assert facade.consume is Consuming.consume


def test_another_thread_cannot_end_an_iterator_half() -> None:
    """An aclose that is refused leaves the consumer as it was, and the next one cancels it (clause 5 of the law)."""

    def state(arrived: Any, channel: Any) -> Any:
        handlers = len(channel.core._handlers["state"])
        return arrived.closed, arrived.tag, list(arrived.messages), list(arrived.waiting), handlers

    async def main() -> None:
        async with await tasks.connect("embedded://") as connection, await connection.channel() as channel:
            queue = (await channel.queue_declare(exclusive=True)).queue
            await channel.basic_publish("", queue, "one")
            messages, reactor = channel.consume(queue), connection.reactor
            (await anext(messages)).ack()
            mine, reactor.thread = reactor.thread, NOBODY
            try:
                for call in (messages.aclose, messages.__anext__):
                    before = state(messages._arrived, channel)
                    with pytest.raises(cpspika.ConcurrentUse):
                        await call()
                    assert state(messages._arrived, channel) == before
                with pytest.raises(cpspika.ConcurrentUse):
                    connection.wait_closed()
            finally:
                reactor.thread = mine
            assert (await channel.queue_declare(queue, passive=True)).consumer_count == 1
            await messages.aclose()
            assert (await channel.queue_declare(queue, passive=True)).consumer_count == 0

    tasks.run(main())
