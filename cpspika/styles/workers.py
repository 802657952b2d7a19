"""Threads that make calls: those of one lane one after another, those of different lanes beside each other."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable

from ..errors import InvalidArgument

Call = Callable[[], object]


class Workers:
    """At most `bound` threads, each started when there is something to do for it; daemons, called `name` 1, 2...

    on_error(error): a call raised.
    """

    def __init__(self, bound: int, name: str, on_error: Callable[[BaseException], object]):
        if not isinstance(bound, int) or bound < 1:
            raise InvalidArgument(f"workers is how many threads run callbacks, 1 or more; not {bound!r}")
        self._bound = bound
        self._name = name
        self._on_error = on_error
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._lanes: dict[Hashable, deque[Call]] = {}  # those that are due, or at work
        self._due: deque[Hashable] = deque()
        self._threads: set[threading.Thread] = set()
        self._started = 0
        self._idle = 0  # threads that will look at `_due` before they wait
        self._finished = False

    def put(self, lane: Hashable, call: Call) -> None:
        """Has a call made, behind all others of its lane."""
        with self._lock:
            calls = self._lanes.get(lane)
            if calls is not None:
                calls.append(call)
                return
            self._lanes[lane] = deque((call,))
            self._due.append(lane)
            if len(self._due) <= self._idle:
                self._changed.notify()
            elif len(self._threads) < self._bound:
                self._start()

    def _start(self) -> None:
        self._started += 1
        thread = threading.Thread(target=self._work, name=f"{self._name} {self._started}", daemon=True)
        self._threads.add(thread)
        self._idle += 1
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads to give
            self._threads.discard(thread)
            self._idle -= 1
            if not self._threads:
                raise

    def _work(self) -> None:
        changed, due, lanes = self._changed, self._due, self._lanes
        with changed:
            while True:
                while not due:
                    if self._finished:
                        self._idle -= 1
                        self._threads.discard(threading.current_thread())
                        return
                    changed.wait()
                lane = due.popleft()
                self._idle -= 1
                calls = lanes[lane]
                changed.release()
                try:
                    # Nobody else takes from a lane that is at work. While no other lane waits, it goes on with this.
                    self._make(calls.popleft())
                    while calls and not due:
                        self._make(calls.popleft())
                finally:
                    changed.acquire()
                self._idle += 1
                if calls:
                    due.append(lane)  # behind the lanes that have waited
                else:
                    del lanes[lane]

    def _make(self, call: Call) -> None:
        try:
            call()
        except BaseException as error:
            self._on_error(error)

    def finish(self) -> None:
        """The threads end when nothing is left to do."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def join(self, timeout: float | None = None) -> bool:
        """Waits until all threads have ended, but the calling one; False if that took longer than `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            threads = self._threads - {threading.current_thread()}
        for thread in threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def forked(self) -> None:
        """In the child of a fork, which has none of the threads."""
        self._begin()
