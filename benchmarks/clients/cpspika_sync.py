"""cpspika's synchronous facade."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import cpspika

from ..styles import PREFETCH
from ..styles.synchronous import SyncClient


class _Facade(SyncClient):
    acknowledge = staticmethod(cpspika.Message.ack)
    kind: Callable[[str], Any]

    def connect(self, url: str) -> None:
        self.connection = type(self).kind(url)
        self.channel = self.connection.channel()

    def publisher(self, queue: str, body: bytes) -> Callable[[], object]:
        return partial(self.channel.basic_publish, "", queue, body)

    def confirming(self, queue: str, body: bytes) -> Callable[[], object]:
        self.channel.confirm_select()
        return self.publisher(queue, body)

    def pipelined(self) -> Any:
        return self.channel.pipelined()

    def declare(self, queue: str) -> int:
        count: int = self.channel.queue_declare(queue, passive=True).message_count
        return count

    def get(self, queue: str) -> object:
        return self.channel.basic_get(queue)

    def consume(self, queue: str, on_message: Callable[..., object], no_ack: bool) -> None:
        if not no_ack:
            self.channel.basic_qos(PREFETCH)
        self._tag = self.channel.basic_consume(queue, on_message, no_ack=no_ack)

    def serve(self, done: Callable[[], bool]) -> None:
        while not done():
            self.connection.drain_events()

    def cancel(self) -> None:
        self.channel.basic_cancel(self._tag)

    def close(self) -> None:
        self.connection.close()


class Blocking(_Facade):
    kind = cpspika.BlockingConnection


class Select(_Facade):
    kind = cpspika.SelectConnection
