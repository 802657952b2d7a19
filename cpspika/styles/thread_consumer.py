"""The iterator over a consumer's messages that threads may share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from ..client.channel import Channel
from ..errors import UnknownConsumerTag
from ..wire.message import Message
from .facade import Scope, end_reason


class ThreadConsumer(Scope):
    """The messages of a consumer, one after another; `ThreadedChannel.consume` makes them. A context manager that
    closes it."""

    def __init__(self, channel: Any, queue: str, patience: float | None, options: dict[str, Any]):
        self.channel = channel
        self.consumer_tag: str | None = None
        self._patience = patience
        # The channel holds what follows, and not this: so the iterator can go.
        arrived = self._arrived = _Arrived(options["no_ack"])
        self._forget = channel.connection._reactor.inside(channel.core.add_state_change_handler, arrived.on_state)
        consumer = {"on_message": arrived.queue.put, "on_cancel": arrived.on_cancel, **options}
        self.consumer_tag = channel._perform(Channel.basic_consume, (queue,), consumer)

    def __iter__(self) -> ThreadConsumer:
        return self

    def __next__(self) -> Message:
        arrived, core = self._arrived, self.channel.core
        self.channel.connection.check_may_wait("next")
        try:
            # Nothing more comes on a closed channel; and the child of a fork hears not even of its end.
            message = arrived.queue.get(core.is_open, self._patience)
        except Empty:
            message = None
            if core.is_open:
                self.close()
        if message is not None:
            return message
        arrived.queue.put(None)  # the other threads that iterate shall hear of it too
        if arrived.closed:
            raise StopIteration
        raise end_reason(core, self.consumer_tag, arrived.cancelled)

    def close(self) -> None:
        """Cancels the consumer, and gives back what came and wasn't handed out. Every thread's iteration ends."""
        core, arrived, inside = self.channel.core, self._arrived, self.channel.connection._reactor.inside
        running = inside(arrived.close)
        inside(self._forget)
        if running and core.is_open:
            with contextlib.suppress(UnknownConsumerTag):  # the broker was faster
                self.channel.basic_cancel(self.consumer_tag)
            inside(arrived.give_back, core)
        arrived.queue.put(None)

    def __del__(self) -> None:
        # Nobody waits for it, in a thread that may be any: the reactor's own carries it out.
        if self.consumer_tag is not None:
            core, reactor = self.channel.core, self.channel.connection._reactor
            reactor.call_soon_threadsafe(partial(self._arrived.leave, core, self.consumer_tag, self._forget))


class _Arrived:
    """What has come to a consumer; None is the end."""

    def __init__(self, no_ack: bool) -> None:
        self.queue: SimpleQueue[Message | None] = SimpleQueue()
        self.no_ack = no_ack
        self.closed = self.cancelled = False

    def on_cancel(self, tag: str) -> None:
        self.cancelled = True
        self.queue.put(None)

    def on_state(self, channel: Any, is_open: bool) -> None:
        self.queue.put(None)

    def close(self) -> bool:
        """Whether there is a consumer to be cancelled."""
        running = not (self.closed or self.cancelled)
        self.closed = True
        return running

    def leave(self, core: Channel, tag: str, forget: Callable[[], object]) -> None:
        forget()
        if self.close() and core.is_open:
            core.basic_cancel(tag, on_done=lambda err, _: None if err else self.give_back(core))

    def give_back(self, core: Channel) -> None:
        with contextlib.suppress(Empty):
            while True:
                message = self.queue.get_nowait()
                if message is not None and core.is_open and not self.no_ack:
                    core.basic_reject(message.delivery_tag, requeue=True)
