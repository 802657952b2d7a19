"""A SelectReactor that one thread runs, while other threads call the core too.

Theory of operation
===================

One thread, the *reactor thread*, runs the reactor. A mutex protects the core. The reactor thread holds the mutex while
it makes calls, and releases it while it waits for sockets. Another thread calls the core by `inside`, which acquires
the mutex for the time of that call.

So an operation checks its arguments in the thread that calls it, and an exception has that thread's own stack. Nothing
is passed from thread to thread, except that the reactor thread must wake up because there is something to do.

Each wait of the reactor thread has a number. A thread wakes the reactor thread only if nobody has woken it from this
wait yet. So a thread that makes a thousand calls during one wait wakes it once.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable
from threading import RLock, get_ident
from typing import Any, TypeVar

from ..errors import LocalError
from ..interrupts import release
from ..reactor import make_calls
from .select_reactor import SelectReactor

T = TypeVar("T")
SLEEP_ON: Any = object()  # what a call returns that has left nothing to the reactor thread
NO_THREAD = -1  # not the number of any thread, so the core refuses a thread that doesn't hold the mutex


class SharedReactor(SelectReactor):
    """A SelectReactor for several threads.

    over: True once no thread runs the reactor any more. The calls that an operation queues then are made by
    `run_ready`."""

    def __init__(self) -> None:
        super().__init__()
        self._mutex = RLock()
        self._waits = 0  # number of waits so far
        self._wait = 0  # number of the current wait; 0: the reactor thread doesn't wait
        self._woken_from = 0  # number of the last wait that a thread ended
        self.over = False

    def run(self) -> None:
        """As of `Reactor`. After it, however it ends, the reactor is `over`."""
        with self._mutex:
            try:
                super().run()
            finally:
                self.over = True

    def _select(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        me, self.thread = self.thread, NO_THREAD
        if timeout != 0:
            self._waits += 1
            self._wait = self._waits
        self._mutex.release()
        try:
            return super()._select(timeout)
        finally:
            self._mutex.acquire()
            self._wait = 0
            self.thread = me

    def fileno(self) -> int:
        """LocalError: a thread turns this reactor."""
        raise LocalError("a thread of its own turns this connection's reactor; a foreign loop has nothing to watch")

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is inside the reactor already: it runs the reactor, or a signal handler has
        interrupted it there."""
        return self.thread == get_ident()

    def inside(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Makes a call while no other thread is inside, and returns its result. Wakes the reactor thread, which then
        makes the calls that this one queued; not if the result is SLEEP_ON."""
        mutex, me = self._mutex, get_ident()
        if self.thread == me:
            return call(*args, **kwargs)  # this thread runs the reactor, or a signal handler interrupted it inside
        try:
            mutex.acquire()  # not by `with`: see `interrupts`
            outer, self.thread = self.thread, me
            returned = call(*args, **kwargs)
        except BaseException:
            if self.thread == me:
                self.thread = outer
            release(mutex)
            self._wake()  # before the exception, calls may have been queued
            raise
        self.thread = outer
        wait = self._wait
        mutex.release()
        # After the mutex is released, because the reactor thread needs it as soon as it wakes up. `_woken_from` is the
        # number of a wait, not a flag: a thread that sets it late, or is interrupted before, must not prevent the
        # others from ending the next wait.
        if wait and wait != self._woken_from and returned is not SLEEP_ON:
            self._wake()
            self._woken_from = wait
        return returned

    def run_ready(self) -> None:
        """Makes the calls that wait. For a reactor that is over."""
        while self._ready:
            make_calls(self._ready, self.call)

    def forked(self) -> None:
        self._mutex = RLock()  # a thread that exists only in the parent may hold the old mutex
        self._wait = 0
        self.over = True
        super().forked()
