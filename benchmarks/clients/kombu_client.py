"""kombu, on the transport of cpspika and on py-amqp."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import kombu

from ..styles import PREFETCH
from ..styles.synchronous import SyncClient


class _Kombu(SyncClient):
    transport: str

    def connect(self, url: str) -> None:
        self.connection = kombu.Connection(url, transport=self.transport)
        self.channel = self.connection.channel()

    def publisher(self, queue: str, body: bytes) -> Callable[[], object]:
        producer = kombu.Producer(self.channel)
        return partial(producer.publish, body, routing_key=queue, delivery_mode="transient")

    def confirming(self, queue: str, body: bytes) -> Callable[[], object]:
        raise NotImplementedError

    def declare(self, queue: str) -> int:
        count: int = self.channel.queue_declare(queue, passive=True).message_count
        return count

    def get(self, queue: str) -> object:
        raise NotImplementedError

    def consume(self, queue: str, on_message: Callable[..., object], no_ack: bool) -> None:
        self._consumer = kombu.Consumer(
            self.channel,
            [kombu.Queue(queue)],
            no_ack=no_ack,
            auto_declare=False,
            callbacks=[on_message],
            prefetch_count=None if no_ack else PREFETCH,
        )
        self._consumer.consume()

    @staticmethod
    def acknowledge(body: Any, message: Any) -> None:
        message.ack()

    def serve(self, done: Callable[[], bool]) -> None:
        while not done():
            self.connection.drain_events(timeout=60)

    def cancel(self) -> None:
        self._consumer.cancel()

    def close(self) -> None:
        self.connection.release()


class OnCpspika(_Kombu):
    transport = "cpspika.integrations.kombu:Transport"


class OnPyAmqp(_Kombu):
    transport = "pyamqp"
