"""A reactor that is a guest in somebody else's loop: what is the same in all of these, around two holes.

The loop is the program's, which runs and ends it. A guest keeps its calls and timers itself and makes its turns when
the loop lets it: when a socket that the loop watches for it is ready (`_watch`), when it asked to be woken (`_wake`),
and after `patience` seconds. All of a turn is made in one go, so that what it wrote goes out at once.
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
    """Drives any number of connections in the loop of the thread that makes it. A kind of it fills the holes, and has
    `turn` called after each `_wake`, and when `patience` is over.

    clock(): the loop's time, in seconds. from_thread(call): has the loop make a call, from any thread; RuntimeError: it
    has ended, so that nobody is left to care.
    """

    def __init__(self, clock: Callable[[], float], from_thread: Callable[[Call], object]) -> None:
        super().__init__()
        self.thread = get_ident()  # for good: whoever comes from another is refused
        self._clock = clock
        self._from_thread = from_thread
        self._turning = False
        self._watched: dict[tuple[int, bool], Call] = {}  # (socket, for writing): what ends it

    # --- the holes ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def _wake(self) -> None:
        """Has the loop call `turn` soon; called in its thread."""

    @abstractmethod
    def _watch(self, fd: int, write: bool, ready: Call) -> Call:
        """Has the loop call ready() whenever the socket is readable (or writable); returns what ends that."""

    # --- turns --------------------------------------------------------------------------------------------------------

    def turn(self, first: Call | None = None) -> None:
        """Makes a call, then those that wait and those that are due."""
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
        """Seconds until the next turn, if nothing wakes it before; inf: as long as that takes."""
        seconds = self._patience(inf)
        return inf if seconds is None else seconds

    def time(self) -> float:
        return self._clock()

    def run(self) -> None:
        """LocalError: the loop is not ours to run."""
        raise LocalError(f"{type(self).__name__} is a guest in a loop that the program runs; let that call back")

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
        pass  # the loop does

    # --- sockets ------------------------------------------------------------------------------------------------------

    def watch(self, fd: int, watched: Watched, read: bool, write: bool) -> None:
        self._want(fd, False, read, watched.on_readable)
        self._want(fd, True, write, watched.on_writable)

    def _want(self, fd: int, write: bool, wanted: bool, ready: Call) -> None:
        if not wanted:
            self._end(fd, write)
        elif (fd, write) not in self._watched:
            self._watched[fd, write] = self._watch(fd, write, partial(self._found, fd, write, ready))

    def _found(self, fd: int, write: bool, ready: Call) -> None:
        if (fd, write) in self._watched:  # some loops still tell what they had found before we ended it
            self.turn(ready)

    def _end(self, fd: int, write: bool) -> None:
        end = self._watched.pop((fd, write), None)
        if end is not None:
            end()

    def unwatch(self, fd: int) -> None:
        self._end(fd, False)
        self._end(fd, True)

    def unwatch_forked(self, fd: int) -> None:
        for write in (False, True):  # without `_end`: the loop watches for the parent
            self._watched.pop((fd, write), None)

    def _has_transports(self) -> bool:
        return bool(self._watched)
