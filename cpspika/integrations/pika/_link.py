"""The connection below pika's names: a ThreadedConnection whose callbacks don't run on workers.

Its reactor has a thread of its own, so heartbeats go on while a callback of the program works. What arrives is put
into queues by that thread, and this integration calls the program in the program's own thread.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from threading import Lock
from typing import Any

from ...adapters.shared_reactor import SLEEP_ON
from ...client.channel import Channel
from ...client.continuations import Request
from ...connecting import Target
from ...errors import AMQPError
from ...registry import Registry
from ...threads import ThreadedConnection


class Bell:
    """Wakes the thread that waits for something to happen. One ring is remembered."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()

    def ring(self) -> None:
        if self._lock.locked():
            try:
                self._lock.release()
            except RuntimeError:
                pass  # another thread has just rung it

    def wait(self, timeout: float | None) -> bool:
        """False: it was not rung within `timeout` seconds."""
        return self._lock.acquire(timeout=-1 if timeout is None else timeout)


class Link(ThreadedConnection):
    """stray(error): called in the reactor's thread with an error that answers no call."""

    def __init__(self, target: Target, stray: Callable[[BaseException], object]):
        self._stray = stray
        super().__init__(target)
        _links.add(self)

    def _report(self, error: BaseException) -> None:
        self._stray(error)

    def inside(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Makes a call of the core while no other thread is inside it."""
        return self._reactor.inside(call, *args, **kwargs)

    def send_now(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As `inside`; and what the call wrote goes to the kernel in this thread. The reactor's thread stays asleep if
        nothing is left for it."""
        reactor, returned = self._reactor, None

        def call_and_flush() -> Any:
            nonlocal returned
            returned = call(*args, **kwargs)
            self.core._flush()
            # A transport that has written has also queued its own flush, which finds nothing to do.
            flushing = getattr(self.core._backlog.transport, "_flushing", False)
            return SLEEP_ON if flushing and len(reactor._ready) == 1 and not self.core._backlog.size else None

        reactor.inside(call_and_flush)
        return returned

    def ask(self, start: Callable[[Any], object], give_back: Callable[[Any], object] | None = None) -> Any:
        """Calls start(on_done) inside, and waits for the answer: returns the result or raises the error."""
        return self._ask(self.send_now, start, give_back)

    def wait_written(self, core: Channel) -> None:
        """Waits until the kernel has what the channel has sent."""

        def start(on_done: Any) -> None:
            if self.core._backlog.size:
                core._sender.when_written(Request("basic.publish", on_done))
            else:
                on_done(None, None)

        self.ask(start)

    @property
    def backlog(self) -> int:
        """The number of bytes that the kernel has not accepted."""
        return self.core._backlog.size

    def read_now(self) -> None:
        """Handles what the kernel has received and the reactor's thread has not read yet."""
        self.inside(self._read)

    def _read(self) -> None:
        transport: Any = self.core._backlog.transport
        if hasattr(transport, "on_readable"):
            self._reactor.call(transport.on_readable)

    def finish(self, timeout: float) -> None:
        """Waits until the threads of a closed connection have ended."""
        try:
            self.join(timeout)
        except AMQPError:
            pass  # the connection's own error, which its call raises


def _nothing() -> None:
    pass


_links: Registry[Link] = Registry()


@atexit.register
def _at_exit() -> None:
    """A program may end without closing its connection: what it has acknowledged before goes out."""
    for link in _links:
        if link.core.is_open:
            link.send_now(_nothing)
