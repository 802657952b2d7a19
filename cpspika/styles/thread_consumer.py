"""The iterator over a consumer's messages that threads may share."""

from __future__ import annotations

from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any

from ..client.channel import Channel
from ..wire.message import Message
from .consumer import Arrived
from .facade import Scope


class ThreadConsumer(Scope):
    """The messages of a consumer, one after another; `ThreadedChannel.consume` makes them. Threads that iterate over
    the same one share the messages out. A context manager that closes it."""

    def __init__(self, channel: Any, queue: str, options: dict[str, Any], patience: float | None):
        self.channel = channel
        self._patience = patience
        core, connection = channel.core, channel.connection
        arrived = self._arrived = _Arrived(core, options)
        connection.reactor.inside(arrived.watch)

        try:
            # What this call doesn't return is given back by `close`, now or when the consumer starts.
            connection._wait("basic_consume", partial(arrived.start, queue, core))
        except BaseException:
            connection.reactor.inside(arrived.close)  # a consumer that starts later is cancelled
            raise

    @property
    def consumer_tag(self) -> str | None:
        return self._arrived.tag

    def __iter__(self) -> ThreadConsumer:
        return self

    def __next__(self) -> Message:
        arrived, core = self._arrived, self.channel.core
        self.channel.connection._check_may_wait("next")
        message: Message | None
        held: list[Message | None] = []
        try:
            while True:
                # Nothing more comes on a closed channel; and the child of a fork hears not even of its end. By one call
                # from the queue into the list: an exception of a signal handler cannot come between.
                held.extend(islice(iter(partial(arrived.queue.get, core.is_open, self._patience), held), 1))
                message = held[0]
                if message is None or not arrived.is_stale(message):
                    break
                held.clear()
        except Empty:
            message = None
            if core.is_open:
                self.close()
        except BaseException:
            if held and held[0] is not None:
                self.channel.connection._reactor.inside(arrived.refuse, held[0])
            raise
        if message is None and not arrived.closed:
            message = arrived.take()  # with no_ack, behind the end stand no more, but threads may have added it twice
        if message is not None:
            return message
        arrived.wake()  # the other threads that iterate must hear of the end too
        if arrived.closed:
            raise StopIteration
        raise arrived.end_reason()

    def close(self) -> None:
        """Cancels the consumer, and gives back messages that came and were not handed out. Every thread's iteration
        ends."""
        self.channel.connection._wait("basic_cancel", self._arrived.close)

    def __del__(self) -> None:
        # The garbage collector runs in any thread, and nobody waits: the reactor's own thread does the work.
        arrived = getattr(self, "_arrived", None)
        if arrived is not None and not arrived.closed:
            self.channel.connection.reactor.call_soon_threadsafe(arrived.close)


class _Arrived(Arrived):
    """In the queue, None is the end."""

    def __init__(self, core: Channel, options: dict[str, Any]):
        super().__init__(core, options)
        self.queue: SimpleQueue[Message | None] = SimpleQueue()
        self.on_message = self.queue.put

    def wake(self) -> None:
        self.queue.put(None)

    def take(self) -> Message | None:
        while not self.queue.empty():
            message = self.queue.get()
            if message is not None and not self.is_stale(message):
                return message
        return None
