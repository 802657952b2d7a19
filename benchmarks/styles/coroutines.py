"""Libraries whose calls are awaited, on asyncio or on a loop of the library."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from ..job import Job, Measure
from ..meter import Meter
from . import make_body
from .pace import Pace

AT_ONCE = 500  # publishes together; the next so many begin before the confirms of these are awaited


class CoroutineClient(ABC):
    """A connection with one channel."""

    @abstractmethod
    async def connect(self, url: str, queue: str, confirms: bool) -> None: ...
    @abstractmethod
    def publisher(self, queue: str, body: bytes) -> Callable[[], Awaitable[object]]:
        """Returns a function that publishes one message; if the channel confirms, it is awaited until the confirm."""

    @abstractmethod
    async def declare(self, queue: str) -> int:
        """Declares the queue passively; returns its message count."""

    @abstractmethod
    async def get(self, queue: str) -> object:
        """Gets from the queue, which is empty."""

    @abstractmethod
    async def consume(
        self, queue: str, on_message: Callable[[Any], Coroutine[Any, Any, None]], no_ack: bool
    ) -> None: ...
    @abstractmethod
    def acknowledge(self, message: Any) -> Awaitable[object]: ...
    @abstractmethod
    async def cancel(self) -> None:
        """Ends the consumer."""

    @abstractmethod
    async def close(self) -> None: ...

    def together(self, promises: Iterable[Awaitable[object]]) -> Awaitable[object]:
        """Starts all of them; the returned awaitable ends when all have ended."""
        return asyncio.gather(*promises)

    def signal(self) -> tuple[Callable[[], object], Awaitable[object]]:
        """A function, and an awaitable that ends when the function is called."""
        done = asyncio.get_running_loop().create_future()
        return partial(done.set_result, None), done

    def perform(self, job: Job) -> Measure:
        return asyncio.run(self._perform(job))

    async def _perform(self, job: Job) -> Measure:
        await self.connect(job.url, job.queue, job.action == "confirm")
        meter = Meter(job)
        await _ACTIONS[job.action](self, job, meter)
        await self.close()
        assert meter.result is not None
        return meter.result


async def _publish(client: CoroutineClient, job: Job, meter: Meter) -> None:
    publish = client.publisher(job.queue, make_body(job.size))
    for _ in range(job.warmup):
        await publish()
    await client.declare(job.queue)
    meter.start()
    for _ in range(job.count):
        await publish()
    await client.declare(job.queue)
    meter.stop()


async def _confirm(client: CoroutineClient, job: Job, meter: Meter) -> None:
    publish = client.publisher(job.queue, make_body(job.size))
    await client.together(publish() for _ in range(job.warmup))
    meter.start()
    before = client.together([])
    for begin in range(0, job.count, AT_ONCE):
        confirms = client.together(publish() for _ in range(min(AT_ONCE, job.count - begin)))
        await before
        before = confirms
    await before
    await client.declare(job.queue)
    meter.stop()


async def _consume(client: CoroutineClient, job: Job, meter: Meter, acknowledge: bool = False) -> None:
    left = job.warmup + job.count
    finish, done = client.signal()

    async def on_message(message: Any) -> None:
        nonlocal left
        if acknowledge:
            await client.acknowledge(message)
        left -= 1
        if left == job.count:
            meter.start()
        elif not left:
            finish()

    if not job.warmup:
        meter.start()
    await client.consume(job.queue, on_message, not acknowledge)
    await done
    await client.cancel()
    meter.stop()


async def _consume_ack(client: CoroutineClient, job: Job, meter: Meter) -> None:
    await _consume(client, job, meter, acknowledge=True)


async def _repeat(call: Callable[[str], Awaitable[object]], job: Job, meter: Meter) -> None:
    for _ in range(job.warmup):
        await call(job.queue)
    meter.start()
    for _ in range(job.count):
        await call(job.queue)
    meter.stop()


async def _connect(client: CoroutineClient, job: Job, meter: Meter) -> None:
    """Begins and ends with an open connection."""

    async def rounds(count: int) -> None:
        for _ in range(count):
            await client.close()
            await client.connect(job.url, job.queue, False)

    await rounds(job.warmup)
    meter.start()
    await rounds(job.count)
    meter.stop()


async def _latency(client: CoroutineClient, job: Job, meter: Meter) -> None:
    loop, due = asyncio.get_running_loop(), asyncio.Event()
    pace = Pace(job, meter, partial(loop.call_soon_threadsafe, due.set))
    publish = client.publisher(job.queue, make_body(job.size))
    finish, done = client.signal()

    async def on_message(_: Any) -> None:
        if pace.arrived():
            finish()

    async def publish_due() -> None:
        while not pace.all_taken:
            await due.wait()
            due.clear()
            for _ in range(pace.take()):
                await publish()

    await client.consume(job.queue, on_message, True)
    pace.start()
    await publish_due()
    await done
    await client.cancel()


_ACTIONS: dict[str, Callable[[Any, Job, Meter], Awaitable[None]]] = {
    "publish": _publish,
    "confirm": _confirm,
    "consume": _consume,
    "consume_ack": _consume_ack,
    "declare": lambda client, job, meter: _repeat(client.declare, job, meter),
    "get": lambda client, job, meter: _repeat(client.get, job, meter),
    "connect": _connect,
    "latency": _latency,
}
