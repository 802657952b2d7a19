"""Operations that are cancelled at a random moment, again and again: at the end each message is acknowledged or in the
queue, and no channel or consumer is left."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from cpspika.adapters import asyncio_adapter

ROUNDS = 60
MESSAGES = 20


async def use(connection: Any, channel: Any, queue: str, acked: list[int], which: int) -> None:
    """One use of the connection, to be cancelled at any of its awaits."""
    if which == 0:
        message = await channel.basic_get(queue)
        if message is not None:
            message.reject()
    elif which == 1:
        async with channel.consume(queue) as messages:
            (await anext(messages)).reject()
    elif which == 2:
        (await connection.channel()).close()
    elif which == 3:
        tag = await channel.basic_consume(queue, lambda message: message.reject())
        channel.basic_cancel(tag)
    else:
        message = await channel.basic_get(queue)
        if message is not None:
            message.ack()
            acked.append(1)


async def settled(watch: Any, connection: Any, queue: str, count: int, sleep: Any) -> None:
    for _ in range(500):
        ok = await watch.queue_declare(queue, passive=True)
        if ok == (queue, count, 0) and len(connection.core._channels) == 2:
            return
        await sleep(0.01)
    raise AssertionError(f"left: {ok}, expected {count} messages; {len(connection.core._channels)} channels")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_asyncio(broker: Any, seed: int) -> None:
    async def main() -> None:
        chance, acked = random.Random(seed), []  # type: ignore[var-annotated]
        async with asyncio_adapter.connect(broker.url()) as connection:
            watch, channel = await connection.channel(), await connection.channel()
            queue = (await watch.queue_declare(exclusive=True)).queue
            for number in range(MESSAGES):
                await watch.basic_publish("", queue, str(number))
            for _ in range(ROUNDS):
                task = asyncio.ensure_future(use(connection, channel, queue, acked, chance.randrange(5)))
                for _ in range(chance.randrange(8)):
                    await asyncio.sleep(chance.choice((0, 0, 0.0003)))
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await settled(watch, connection, queue, MESSAGES - len(acked), asyncio.sleep)

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_trio(broker: Any, seed: int) -> None:
    trio = pytest.importorskip("trio")
    from cpspika.adapters import trio_adapter

    async def main() -> None:
        chance, acked = random.Random(seed), []  # type: ignore[var-annotated]
        async with trio_adapter.connect(broker.url()) as connection:
            watch, channel = await connection.channel(), await connection.channel()
            queue = (await watch.queue_declare(exclusive=True)).queue
            for number in range(MESSAGES):
                await watch.basic_publish("", queue, str(number))
            for _ in range(ROUNDS):
                with trio.move_on_after(chance.choice((0, 0.0002, 0.0005, 0.001, 0.003))):
                    await use(connection, channel, queue, acked, chance.randrange(5))
            await settled(watch, connection, queue, MESSAGES - len(acked), trio.sleep)

    trio.run(main)
