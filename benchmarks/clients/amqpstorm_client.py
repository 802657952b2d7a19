"""amqpstorm."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from amqpstorm.uri_connection import UriConnection

from ..styles import PREFETCH
from ..styles.synchronous import SyncClient


class AmqpStorm(SyncClient):
    def connect(self, url: str) -> None:
        self.connection = UriConnection(url)
        self.channel = self.connection.channel()

    def publisher(self, queue: str, body: bytes) -> Callable[[], object]:
        return partial(self.channel.basic.publish, body, queue)

    def confirming(self, queue: str, body: bytes) -> Callable[[], object]:
        self.channel.confirm_deliveries()
        return self.publisher(queue, body)

    def declare(self, queue: str) -> int:
        count: int = self.channel.queue.declare(queue, passive=True)["message_count"]
        return count

    def get(self, queue: str) -> object:
        return self.channel.basic.get(queue)

    def consume(self, queue: str, on_message: Callable[..., object], no_ack: bool) -> None:
        if not no_ack:
            self.channel.basic.qos(PREFETCH)
        self._tag = self.channel.basic.consume(on_message, queue, no_ack=no_ack)

    @staticmethod
    def acknowledge(message: Any) -> None:
        message.ack()

    def serve(self, done: Callable[[], bool]) -> None:
        while not done():
            self.channel.process_data_events(auto_decode=False)

    def cancel(self) -> None:
        self.channel.basic.cancel(self._tag)

    def close(self) -> None:
        self.connection.close()
