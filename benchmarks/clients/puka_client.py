"""puka: its promises are numbers, and the program runs the loop. It opens the channels itself."""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import puka

from ..styles import PREFETCH
from ..styles.callbacks import CallbackClient, Then


def _checked(then: Callable[[Any], object]) -> Callable[[Any, Any], None]:
    def callback(_: int, result: Any) -> None:
        if result.is_error:
            raise result.exception
        then(result)

    return callback


class Puka(CallbackClient):
    def __init__(self) -> None:
        self.channels = [None]
        self._soon: deque[Then] = deque()
        self._ended = False

    def connect(self, url: str, channels: int, then: Then) -> None:
        self.client = puka.Client(url)
        self.client.connect(callback=_checked(lambda _: then()))

    def run(self) -> None:
        client = self.client
        while not self._ended:
            while self._soon and not client.needs_write():
                self._soon.popleft()()
            readable, writable, _ = select.select([client], [client] if client.needs_write() else [], [])
            if readable:
                client.on_read()
            if writable:
                client.on_write()
            client.run_any_callbacks()

    def end(self) -> None:
        self._ended = True

    def soon(self, then: Then) -> None:
        self._soon.append(then)

    def publisher(self, channel: Any, queue: str, body: bytes) -> Callable[[], object]:
        raise NotImplementedError

    def confirming(self, channel: Any, queue: str, body: bytes, settled: Callable[..., object]) -> Callable[[], object]:
        callback = _checked(lambda _: settled())
        return partial(self.client.basic_publish, "", queue, body=body, callback=callback)

    def declare(self, channel: Any, queue: str, then: Callable[[int], object]) -> None:
        callback = _checked(lambda result: then(result["message_count"]))
        self.client.queue_declare(queue, passive=True, callback=callback)

    def get(self, channel: Any, queue: str, then: Callable[[Any], object]) -> None:
        self.client.basic_get(queue, callback=_checked(then))

    def consume(
        self, channel: Any, queue: str, on_message: Callable[..., object], no_ack: bool, then: Then = lambda: None
    ) -> None:
        prefetch = 0 if no_ack else PREFETCH
        self._consumer = self.client.basic_consume(queue, prefetch, no_ack=no_ack, callback=on_message)
        self.soon(then)  # puka calls back only for messages

    def acknowledge(self, _: int, result: Any) -> None:
        self.client.basic_ack(result)

    def cancel(self, channel: Any, then: Then) -> None:
        self.client.basic_cancel(self._consumer, callback=_checked(lambda _: then()))
