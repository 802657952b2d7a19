"""aiormq."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import aiormq

from ..styles import PREFETCH
from ..styles.coroutines import CoroutineClient


class Aiormq(CoroutineClient):
    async def connect(self, url: str, queue: str, confirms: bool) -> None:
        self.connection = await aiormq.connect(url)
        self.channel = await self.connection.channel(publisher_confirms=confirms)

    def publisher(self, queue: str, body: bytes) -> Callable[[], Awaitable[object]]:
        return partial(self.channel.basic_publish, body, routing_key=queue)

    async def declare(self, queue: str) -> int:
        return (await self.channel.queue_declare(queue, passive=True)).message_count or 0

    async def get(self, queue: str) -> object:
        return await self.channel.basic_get(queue)

    async def consume(self, queue: str, on_message: Callable[[Any], Coroutine[Any, Any, None]], no_ack: bool) -> None:
        if not no_ack:
            await self.channel.basic_qos(prefetch_count=PREFETCH)
        self._tag = (await self.channel.basic_consume(queue, on_message, no_ack=no_ack)).consumer_tag or ""

    def acknowledge(self, message: Any) -> Awaitable[object]:
        acked: Awaitable[object] = self.channel.basic_ack(message.delivery.delivery_tag)
        return acked

    async def cancel(self) -> None:
        await self.channel.basic_cancel(self._tag)

    async def close(self) -> None:
        await self.connection.close()
