"""Threads that make calls. Each call has a key: calls of one key run one after another, others beside each other."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable

from ..errors import InvalidArgument

Call = Callable[[], object]


class Workers:
    """At most `bound` daemon threads, named `name` 1, 2..., each started when there is work for it.

    on_error(error): called with an exception of a call.
    """

    def __init__(self, bound: int, name: str, on_error: Callable[[BaseException], object]):
        if not isinstance(bound, int) or bound < 1:
            raise InvalidArgument(f"workers is a number of threads, 1 or more; not {bound!r}")
        self._bound = bound
        self._name = name
        self._on_error = on_error
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._calls: dict[Hashable, deque[Call]] = {}  # by key; the keys are due, or at work
        self._due: deque[Hashable] = deque()
        self._threads: set[threading.Thread] = set()
        self._started = 0
        self._idle = 0  # threads that will look at `_due` before they wait
        self._finished = False

    def put(self, key: Hashable, call: Call) -> None:
        """Has a call made, behind all others of its key."""
        with self._lock:
            calls = self._calls.get(key)
            if calls is not None:
                calls.append(call)
                return
            self._calls[key] = deque((call,))
            self._due.append(key)
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
        except RuntimeError:  # the system allows no more threads
            self._threads.discard(thread)
            self._idle -= 1
            if not self._threads:
                raise

    def _work(self) -> None:
        changed, due, calls_of = self._changed, self._due, self._calls
        with changed:
            while True:
                while not due:
                    if self._finished:
                        self._idle -= 1
                        self._threads.discard(threading.current_thread())
                        return
                    changed.wait()
                key = due.popleft()
                self._idle -= 1
                calls = calls_of[key]
                changed.release()
                try:
                    # No other thread takes calls of a key that is at work. While no other key is due, this one goes on.
                    self._make(calls.popleft())
                    while calls and not due:
                        self._make(calls.popleft())
                finally:
                    changed.acquire()
                self._idle += 1
                if calls:
                    due.append(key)  # behind the keys that have waited
                else:
                    del calls_of[key]

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
        """Waits until all threads but the calling one have ended. False: that took longer than `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            threads = self._threads - {threading.current_thread()}
        for thread in threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def forked(self) -> None:
        """Begins anew in the child of a fork, which has none of the threads."""
        self._begin()
