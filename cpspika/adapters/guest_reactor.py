"""The base class of a reactor inside a foreign event loop (a *guest*).

The program runs and ends the loop. The guest has its own calls and timers, and makes a turn when the loop calls it:
when a socket that the loop watches for it is ready (`_watch`), after it asked for a call (`_wake`), and after
`patience` seconds. A whole turn is made in one call of the loop, so that all that it wrote is sent at once. A subclass
implements `_watch` and `_wake`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from threading import get_ident

from ..errors import LocalError
from ..reactor import Call, PlainReactor, Timer
from .sockets import Watched, WatchesSockets


class GuestReactor(WatchesSockets, PlainReactor):
    """Drives any number of connections in the loop of the thread that makes it. A subclass must have `turn` called by
    the loop after each `_wake`, and after `patience` seconds.

    clock: a function that returns the loop's time in seconds.
    from_thread: a function from_thread(call) by which any thread makes the loop call call(). Its RuntimeError means
    that the loop has ended; the call is dropped.
    """

    def __init__(self, clock: Callable[[], float], from_thread: Callable[[Call], object]) -> None:
        super().__init__()
        self.thread = get_ident()  # for good, so the core refuses calls from other threads
        self._clock = clock
        self._from_thread = from_thread
        self._turning = False
        self._watched: dict[tuple[int, bool], Call] = {}  # (socket, for writing): the call that ends the watch

    # --- for a subclass------------------------------------------------------------------------------------------------

    @abstractmethod
    def _wake(self) -> None:
        """Makes the loop call `turn` soon. It is called in the loop's thread."""

    @abstractmethod
    def _watch(self, fd: int, write: bool, ready: Call) -> Call:
        """Makes the loop call ready() whenever the socket is readable (or with `write`, writable). Returns the call
        that ends this."""

    # --- turns --------------------------------------------------------------------------------------------------------

    def turn(self, first: Call | None = None) -> None:
        """Makes one turn. first: a call to make before those that wait."""
        outer, self._turning = self._turning, True
        due = self._timers.next()
        try:
            if first is not None:
                self.call(first)
            self.run_once(0)
        finally:
            self._turning = outer
            if not outer and (self._ready or self._timers.next() != due):
                self._wake()

    def patience(self) -> float:
        """Seconds until the next turn, if nothing wakes the reactor before; inf: no limit."""
        seconds = self._patience(inf)
        return inf if seconds is None else seconds

    def time(self) -> float:
        return self._clock()

    def run(self) -> None:
        """LocalError: the program runs the loop, the reactor cannot."""
        raise LocalError(
            f"{type(self).__name__} lives in a loop that the program runs, so it has no run(); the loop makes the calls"
        )

    def call_soon(self, call: Call) -> None:
        super().call_soon(call)
        if not self._turning:
            self._wake()

    def call_later(self, seconds: float, call: Call) -> Timer:
        timer = super().call_later(seconds, call)
        if not self._turning:
            self._wake()
        return timer

    def call_soon_threadsafe(self, call: Call) -> None:
        self._ready.append(call)  # a deque's append is atomic
        with suppress(RuntimeError):
            self._from_thread(self._wake)

    def _poll(self, timeout: float | None) -> None:
        pass  # the loop waits for the sockets

    # --- sockets ------------------------------------------------------------------------------------------------------

    def watch(self, fd: int, watched: Watched, read: bool, write: bool) -> None:
        self._set_watch(fd, False, read, watched.on_readable)
        self._set_watch(fd, True, write, watched.on_writable)

    def _set_watch(self, fd: int, write: bool, wanted: bool, ready: Call) -> None:
        if not wanted:
            self._end(fd, write)
        elif (fd, write) not in self._watched:
            self._watched[fd, write] = self._watch(fd, write, partial(self._on_ready, fd, write, ready))

    def _on_ready(self, fd: int, write: bool, ready: Call) -> None:
        if (fd, write) in self._watched:  # some loops still make a call that they had queued before the watch ended
            self.turn(ready)

    def _end(self, fd: int, write: bool) -> None:
        end = self._watched.get((fd, write))
        if end is not None:
            end()
            del self._watched[fd, write]

    def unwatch(self, fd: int) -> None:
        self._end(fd, False)
        self._end(fd, True)

    def unwatch_forked(self, fd: int) -> None:
        for write in (False, True):  # without `_end`, which would end the watch of the parent's loop
            self._watched.pop((fd, write), None)

    def _has_transports(self) -> bool:
        return bool(self._watched)
