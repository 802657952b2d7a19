"""A SelectReactor that one thread turns, and that other threads may be inside of while it waits.

Who is inside holds the mutex: the turning thread while it works, and another for the moment in which it asks the core
for something. So what an operation finds wrong with its arguments raises in the thread that called, with that thread's
own frames, and nothing is handed from thread to thread but the news that there is something to do. That is told once
for each of the turning thread's naps: a thread that asks for a thousand things wakes it once.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable
from threading import RLock, get_ident
from typing import Any, TypeVar

from ..reactor import make_calls
from .select_reactor import SelectReactor

T = TypeVar("T")
ELSEWHERE = -1  # no thread's number: whoever comes in without the mutex is told so by the core


class SharedReactor(SelectReactor):
    """`over`: nobody turns it any more, and what an operation leaves to be called is for `run_ready`."""

    def __init__(self) -> None:
        super().__init__()
        self._mutex = RLock()
        self._waits = 0
        self._wait = 0  # the number of the nap that is on, or 0
        self._woken_from = 0
        self.over = False

    def run(self) -> None:
        """Turns until nothing is left that could call back; then, or when an exception leaves it, it is `over`."""
        with self._mutex:
            try:
                super().run()
            finally:
                self.over = True

    def _select(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        me, self.thread = self.thread, ELSEWHERE
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

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is inside already: it turns the reactor, or was interrupted there."""
        return self.thread == get_ident()

    def inside(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Makes a call while no other thread is inside; the turning thread then sees to what came of it."""
        with self._mutex:
            outer, self.thread = self.thread, get_ident()
            try:
                returned = call(*args, **kwargs)
            finally:
                self.thread = outer
                wait = self._wait
        # Behind the mutex: who wakes up wants it at once. What is noted is the nap, so that a thread which is late to
        # note it (or is interrupted before) cannot make the next nap one that nobody is woken from.
        if wait and wait != self._woken_from:
            self._wake()
            self._woken_from = wait
        return returned

    def run_ready(self) -> None:
        """Once it is over: makes the calls that wait."""
        while self._ready:
            make_calls(self._ready, self.call)

    def forked(self) -> None:
        self._mutex = RLock()  # the one there was may be held by a thread that stayed behind in the parent
        self._wait = 0
        self.over = True
        super().forked()
