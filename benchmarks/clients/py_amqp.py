"""py-amqp, the client of Celery and kombu."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp

from ..styles import PREFETCH
from ..styles.synchronous import SyncClient


class PyAmqp(SyncClient):
    def connect(self, url: str) -> None:
        parts = urlsplit(url)
        self.connection = amqp.Connection(
            f"{parts.hostname}:{parts.port}",
            parts.username,
            parts.password,
            virtual_host=unquote(parts.path[1:]) or "/",
        )
        self.connection.connect()
        self.channel = self.connection.channel()

    def publisher(self, queue: str, body: bytes) -> Callable[[], object]:
        publish = self.channel.basic_publish
        return lambda: publish(amqp.Message(body), "", queue)

    def confirming(self, queue: str, body: bytes) -> Callable[[], object]:
        publish = self.channel.basic_publish_confirm
        return lambda: publish(amqp.Message(body), "", queue)

    def declare(self, queue: str) -> int:
        count: int = self.channel.queue_declare(queue, passive=True).message_count
        return count

    def get(self, queue: str) -> object:
        return self.channel.basic_get(queue)

    def consume(self, queue: str, on_message: Callable[..., object], no_ack: bool) -> None:
        if not no_ack:
            self.channel.basic_qos(0, PREFETCH, False)
        self._tag = self.channel.basic_consume(queue, no_ack=no_ack, callback=on_message)

    @staticmethod
    def acknowledge(message: Any) -> None:
        message.channel.basic_ack(message.delivery_tag)

    def serve(self, done: Callable[[], bool]) -> None:
        drain = partial(self.connection.drain_events, timeout=60)
        while not done():
            drain()

    def cancel(self) -> None:
        self.channel.basic_cancel(self._tag)

    def close(self) -> None:
        self.connection.close()
