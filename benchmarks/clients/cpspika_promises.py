"""cpspika in two styles whose operations return promises: asyncio and tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from cpspika import tasks
from cpspika.adapters import asyncio_adapter

from ..job import Job, Measure
from ..styles import PREFETCH
from ..styles.coroutines import CoroutineClient


class _Promising(CoroutineClient):
    """The code that is the same in both styles. A consumer is `async for`, as their users write it."""

    connecting: Callable[[str], Awaitable[Any]]
    start: Callable[[Coroutine[Any, Any, None]], Any]

    async def connect(self, url: str, queue: str, confirms: bool) -> None:
        self.connection = await type(self).connecting(url)
        self.channel = await self.connection.channel()
        if confirms:
            await self.channel.confirm_select()

    def publisher(self, queue: str, body: bytes) -> Callable[[], Awaitable[object]]:
        return partial(self.channel.basic_publish, "", queue, body)

    async def declare(self, queue: str) -> int:
        count: int = (await self.channel.queue_declare(queue, passive=True)).message_count
        return count

    async def get(self, queue: str) -> object:
        return await self.channel.basic_get(queue)

    async def consume(self, queue: str, on_message: Callable[[Any], Coroutine[Any, Any, None]], no_ack: bool) -> None:
        if not no_ack:
            await self.channel.basic_qos(PREFETCH)
        self._messages = self.channel.consume(queue, no_ack=no_ack)
        self._consuming = type(self).start(self._iterate(on_message))

    async def _iterate(self, on_message: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        async for message in self._messages:
            await on_message(message)

    def acknowledge(self, message: Any) -> Awaitable[object]:
        acked: Awaitable[object] = message.ack()
        return acked

    async def cancel(self) -> None:
        self._consuming.cancel()
        await self._messages.aclose()

    async def close(self) -> None:
        await self.connection.close()


async def in_order(futures: Iterable[Awaitable[object]]) -> None:
    """Awaits futures whose operations are under way, as the guide advises. A peer's publish begins when it is awaited,
    so its publishes need tasks to be pipelined."""
    for future in futures:
        await future


class OnAsyncio(_Promising):
    connecting = staticmethod(asyncio_adapter.connect)
    start = staticmethod(asyncio.ensure_future)

    def together(self, promises: Iterable[Awaitable[object]]) -> Awaitable[object]:
        return in_order(list(promises))


class OnTasks(_Promising):
    connecting = staticmethod(tasks.connect)
    start = staticmethod(tasks.spawn)

    def perform(self, job: Job) -> Measure:
        return tasks.run(self._perform(job))

    def together(self, promises: Iterable[Awaitable[object]]) -> Awaitable[object]:
        return tasks.gather(*promises)

    def signal(self) -> tuple[Callable[[], object], Awaitable[object]]:
        promise: tasks.Promise[None] = tasks.Promise(tasks.current_reactor())
        return partial(promise.settle, None, None), promise
