"""The connection below pika's names: a ThreadedConnection whose callbacks don't run on workers.

Its reactor has a thread of its own, so heartbeats go on while a callback of the program works. What arrives is put
into queues by that thread, and this integration calls the program in the program's own thread.
"""

from __future__ import annotations

import atexit
import copy
import sys
from collections.abc import Callable
from functools import partial, wraps
from threading import get_ident
from typing import Any, TypeVar

from ...adapters.shared_reactor import SLEEP_ON
from ...client.channel import Channel
from ...client.continuations import Request
from ...errors import AMQPError
from ...registry import Registry
from ...styles.promises import close_abandoned
from ...threads import ThreadedConnection
from . import exceptions
from .connection import Parameters

F = TypeVar("F", bound=Callable[..., Any])


class Link(ThreadedConnection):
    """config: the parameters; `params`: the same, with what was agreed upon with the broker. stray(error): called in
    the reactor's thread with an error that answers no call."""

    def __init__(self, config: Parameters, stray: Callable[[BaseException], object]):
        self._stray = stray
        try:
            super().__init__(config.to_core())
        except AMQPError as error:
            # How far the handshake came, for `of_connecting`: the core ends with this call.
            link = getattr(getattr(self, "core", None), "_link", None)
            vars(error)["state"] = getattr(link, "state", "")
            raise
        self.params = copy.copy(config)
        # Past the checks of parameters: they do not concern what was agreed upon with the broker.
        vars(self.params).update({name: getattr(self.core, name) for name in ("heartbeat", "frame_max", "channel_max")})
        self._timers: set[Any] = set()
        self.inside(self.core.add_state_change_handler, lambda core, is_open: self._cancel_timers())
        _links.add(self)

    def later(self, seconds: float, call: Callable[[], object]) -> Any:
        """Has call() made in the reactor's thread after some seconds, unless the connection has ended. Returns the
        timer."""

        def start() -> Any:
            def due() -> None:
                self._timers.discard(timer)
                call()

            timer = self._reactor.call_later(seconds, due)
            self._timers.add(timer)
            return timer

        return self.inside(start)

    def cancel(self, timer: Any) -> None:
        """Drops the call of a timer."""
        self._timers.discard(timer)
        self.inside(timer.cancel)

    def _cancel_timers(self) -> None:
        # The reactor's thread ends with the connection, unless a timer is left.
        while self._timers:
            self._timers.pop().cancel()

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

    def drop(self) -> None:
        """Closes a connection that the program has dropped. In any thread, also where the garbage collector interrupts
        the core."""
        if not self.core._is_gone:
            self._reactor.call_soon_threadsafe(partial(close_abandoned, self.core))

    def close_at_the_end(self, reply_code: int, reply_text: str) -> None:
        """Closes the connection where the reactor's thread does not run any more: in this thread, without waiting."""
        reactor = self._reactor
        if not reactor._mutex.acquire(blocking=False):
            return  # the reactor's thread has stopped with it
        reactor.thread = get_ident()
        try:
            self.core.close(reply_code, reply_text)
            self.core._flush()
        except Exception:
            self.core.is_open = False  # the kernel closes the socket
        finally:
            reactor._mutex.release()


def at_the_end(is_finalizing: Callable[[], bool] = sys.is_finalizing) -> bool:
    """Whether the process ends and only this thread still runs: to wait for another would be for ever. As an argument,
    because the names of this module may be gone by then."""
    return is_finalizing()


def _refusing_at_the_end(method: F) -> F:
    ends, error = at_the_end, exceptions.ConnectionWrongStateError

    @wraps(method)
    def refusing(*args: Any, **kwargs: Any) -> Any:
        if ends():
            raise error("the connection has ended with the process")
        return method(*args, **kwargs)

    return refusing  # type: ignore[return-value]


def _nothing() -> None:
    pass


_links: Registry[Link] = Registry()


@atexit.register
def _at_exit() -> None:
    """A program may end without closing its connection: what it has acknowledged before goes out. Calls look only from
    here on whether they are the last of all, in a `__del__`; so before it costs them nothing."""
    for link in _links:
        if link.core.is_open:
            link.send_now(_nothing)
    for name in ("inside", "send_now", "ask"):
        setattr(Link, name, _refusing_at_the_end(getattr(Link, name)))
