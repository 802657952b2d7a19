"""aio-pika."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aio_pika

from ..styles import PREFETCH
from ..styles.coroutines import CoroutineClient


class AioPika(CoroutineClient):
    async def connect(self, url: str, queue: str, confirms: bool) -> None:
        self.connection = await aio_pika.connect(url)
        self.channel = await self.connection.channel(publisher_confirms=confirms)
        self.queue = await self.channel.get_queue(queue, ensure=False)

    def publisher(self, queue: str, body: bytes) -> Callable[[], Awaitable[object]]:
        publish = self.channel.default_exchange.publish
        return lambda: publish(aio_pika.Message(body), queue)

    async def declare(self, queue: str) -> int:
        declared = await self.channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0

    async def get(self, queue: str) -> object:
        return await self.queue.get(fail=False)

    async def consume(self, queue: str, on_message: Callable[[Any], Coroutine[Any, Any, None]], no_ack: bool) -> None:
        if not no_ack:
            await self.channel.set_qos(prefetch_count=PREFETCH)
        self._tag = await self.queue.consume(on_message, no_ack=no_ack)

    def acknowledge(self, message: Any) -> Awaitable[object]:
        acked: Awaitable[object] = message.ack()
        return acked

    async def cancel(self) -> None:
        await self.queue.cancel(self._tag)

    async def close(self) -> None:
        await self.connection.close()
