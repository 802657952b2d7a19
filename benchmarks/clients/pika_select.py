"""pika's SelectConnection."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pika

from ..styles import PREFETCH
from ..styles.callbacks import CallbackClient, Then


class PikaSelect(CallbackClient):
    def __init__(self) -> None:
        self._tags: dict[Any, str] = {}

    def connect(self, url: str, channels: int, then: Then) -> None:
        self.channels: list[Any] = []

        def open_next(_: Any) -> None:
            self.connection.channel(on_open_callback=opened)

        def opened(channel: Any) -> None:
            self.channels.append(channel)
            if len(self.channels) == channels:
                then()
            else:
                open_next(None)

        self.connection = pika.SelectConnection(
            pika.URLParameters(url),
            on_open_callback=open_next,
            on_close_callback=lambda connection, reason: connection.ioloop.stop(),
        )

    def run(self) -> None:
        self.connection.ioloop.start()
        self.connection.ioloop.close()

    def end(self) -> None:
        self.connection.close()

    def soon(self, then: Then) -> None:
        self.connection.ioloop.call_later(0, then)

    def from_thread(self, then: Then) -> None:
        self.connection.ioloop.add_callback_threadsafe(then)

    def publisher(self, channel: Any, queue: str, body: bytes) -> Callable[[], object]:
        return partial(channel.basic_publish, "", queue, body)

    def confirming(self, channel: Any, queue: str, body: bytes, settled: Callable[..., object]) -> Callable[[], object]:
        last = 0

        def on_ack(frame: Any) -> None:
            nonlocal last
            if not isinstance(frame.method, pika.spec.Basic.Ack):
                raise RuntimeError(f"refused: {frame}")
            if frame.method.multiple:
                settled(frame.method.delivery_tag - last)
            else:
                settled()
            last = frame.method.delivery_tag

        channel.confirm_delivery(on_ack)
        return self.publisher(channel, queue, body)

    def declare(self, channel: Any, queue: str, then: Callable[[int], object]) -> None:
        channel.queue_declare(queue, passive=True, callback=lambda frame: then(frame.method.message_count))

    def get(self, channel: Any, queue: str, then: Callable[[Any], object]) -> None:
        # pika calls back only for a message; the method basic.get-empty says that the queue is empty.
        channel.add_callback(then, [pika.spec.Basic.GetEmpty])
        channel.basic_get(queue, lambda *_: None)

    def consume(
        self, channel: Any, queue: str, on_message: Callable[..., object], no_ack: bool, then: Then = lambda: None
    ) -> None:
        def start(_: Any = None) -> None:
            tag = channel.basic_consume(queue, on_message, auto_ack=no_ack, callback=lambda _: then())
            self._tags[channel] = tag

        if no_ack:
            start()
        else:
            channel.basic_qos(prefetch_count=PREFETCH, callback=start)

    @staticmethod
    def acknowledge(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)

    def cancel(self, channel: Any, then: Then) -> None:
        channel.basic_cancel(self._tags[channel], lambda _: then())
