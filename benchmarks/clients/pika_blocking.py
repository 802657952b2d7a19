"""pika's BlockingConnection, and cpspika's face of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from ..styles import PREFETCH
from ..styles.synchronous import SyncClient


class PikaBlocking(SyncClient):
    library = "pika"

    def connect(self, url: str) -> None:
        pika = import_module(self.library)
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()

    def publisher(self, queue: str, body: bytes) -> Callable[[], object]:
        return partial(self.channel.basic_publish, "", queue, body)

    def confirming(self, queue: str, body: bytes) -> Callable[[], object]:
        self.channel.confirm_delivery()
        return self.publisher(queue, body)

    def declare(self, queue: str) -> int:
        count: int = self.channel.queue_declare(queue, passive=True).method.message_count
        return count

    def get(self, queue: str) -> object:
        return self.channel.basic_get(queue)

    def consume(self, queue: str, on_message: Callable[..., object], no_ack: bool) -> None:
        if not no_ack:
            self.channel.basic_qos(prefetch_count=PREFETCH)
        self._tag = self.channel.basic_consume(queue, on_message, auto_ack=no_ack)

    @staticmethod
    def acknowledge(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)

    def serve(self, done: Callable[[], bool]) -> None:
        while not done():
            self.connection.process_data_events(time_limit=1)

    def cancel(self) -> None:
        self.channel.basic_cancel(self._tag)

    def close(self) -> None:
        self.connection.close()


class Face(PikaBlocking):
    library = "cpspika.integrations.pika"
