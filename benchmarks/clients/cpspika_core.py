"""cpspika in continuation-passing style."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import cpspika
from cpspika.adapters import AsyncoreReactor, SelectReactor

from ..styles import PREFETCH
from ..styles.callbacks import CallbackClient, Then


def _tell(then: Callable[[Any], object]) -> Callable[[Any, Any], None]:
    """An on_done that passes the result to `then`, and raises an error."""

    def on_done(err: Any, result: Any) -> None:
        if err:
            raise err
        then(result)

    return on_done


class _Core(CallbackClient):
    acknowledge = staticmethod(cpspika.Message.ack)

    def __init__(self, reactor: Any):
        self.reactor = reactor
        self._tags: dict[Any, str] = {}
        self._waiting: Then | None = None

    def connect(self, url: str, channels: int, then: Then) -> None:
        def connected(connection: Any) -> None:
            self.connection = connection
            self.channels = [connection.channel() for _ in range(channels - 1)]
            self.channels.append(connection.channel(on_done=_tell(lambda _: then())))
            self.channels[0].add_writable_handler(self._writable)

        cpspika.connect(url, reactor=self.reactor, on_done=_tell(connected))

    def run(self) -> None:
        self.reactor.run()

    def end(self) -> None:
        self.connection.close()

    def soon(self, then: Then) -> None:
        if self.channels[0].writable:
            self.reactor.call_soon(then)
        else:
            self._waiting = then

    def from_thread(self, then: Then) -> None:
        self.reactor.call_soon_threadsafe(then)

    def _writable(self, _: Any) -> None:
        then, self._waiting = self._waiting, None
        if then is not None:
            then()

    def publisher(self, channel: Any, queue: str, body: bytes) -> Callable[[], object]:
        return partial(channel.basic_publish, "", queue, body)

    def confirming(self, channel: Any, queue: str, body: bytes, settled: Callable[..., object]) -> Callable[[], object]:
        def on_done(err: Any, result: Any) -> None:
            if err:
                raise err
            settled()

        channel.confirm_select()
        return partial(channel.basic_publish, "", queue, body, on_done=on_done)

    def declare(self, channel: Any, queue: str, then: Callable[[int], object]) -> None:
        channel.queue_declare(queue, passive=True, on_done=_tell(lambda ok: then(ok.message_count)))

    def get(self, channel: Any, queue: str, then: Callable[[Any], object]) -> None:
        channel.basic_get(queue, on_done=_tell(then))

    def consume(
        self, channel: Any, queue: str, on_message: Callable[..., object], no_ack: bool, then: Then = lambda: None
    ) -> None:
        def started(tag: str) -> None:
            self._tags[channel] = tag
            then()

        if not no_ack:
            channel.basic_qos(PREFETCH)
        channel.basic_consume(queue, on_message, no_ack=no_ack, on_done=_tell(started))

    def cancel(self, channel: Any, then: Then) -> None:
        channel.basic_cancel(self._tags[channel], on_done=_tell(lambda _: then()))


class OnSelect(_Core):
    def __init__(self) -> None:
        super().__init__(SelectReactor())


class OnAsyncio(_Core):
    """Callbacks on asyncio's loop, to compare the asyncio style with."""

    def __init__(self) -> None:
        import asyncio  # here, since the other clients need not load it

        from cpspika.adapters import asyncio_adapter

        self._loop = asyncio.new_event_loop()
        super().__init__(asyncio_adapter.AsyncioReactor(self._loop))

    def run(self) -> None:
        self._ended = self._loop.create_future()
        self._loop.run_until_complete(self._ended)

    def end(self) -> None:
        self.connection.close(on_done=lambda err, _: self._ended.set_result(None))


class OnAsyncore(_Core):
    def __init__(self) -> None:
        super().__init__(AsyncoreReactor())
