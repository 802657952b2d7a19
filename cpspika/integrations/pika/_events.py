"""What a connection's reactor thread hands to the program's threads, and the threads that wait for it.

The core refers to these objects, never to the BlockingConnection. So a connection that the program drops is freed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import Lock, get_ident, local
from typing import Any


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

    def wait_until(self, deadline: float | None) -> bool:
        """The same, up to a time of `time.monotonic`; None: without limit."""
        return self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))


class _Seen(local):
    """The last stir that a thread knows of."""

    stir: object = None


class Events:
    """Calls of the program that are ready, and the turn: one thread at a time makes calls. ring(): has that thread look
    for events."""

    def __init__(self) -> None:
        self.ready: deque[tuple[Any, Callable[[], object]]] = deque()  # (timer, call)
        self._last_stir: object = None
        self._seen = _Seen()  # for each thread, so that no thread misses what another has seen
        self._bell = Bell()
        self.ring = self._bell.ring
        self.wait_until = self._bell.wait_until
        # The thread that has the turn. A dict, because one call of C takes the turn: no signal handler comes between.
        self.turn: dict[str, int] = {}
        self._others: list[Bell] = []  # of the threads that wait for the turn

    def put(self, timer: Any, call: Callable[[], object]) -> None:
        """Adds a call. From any thread."""
        self.ready.append((timer, call))
        self.ring()

    def stir(self) -> None:
        """Ends the waits for events, though there may be none. From any thread."""
        self._last_stir = object()
        self.ring()
        self._ring_others()

    @property
    def stirred(self) -> bool:
        """Whether there was a stir since this thread called `calm`."""
        return self._seen.stir is not self._last_stir

    def calm(self) -> None:
        """This thread's wait ends."""
        self._seen.stir = self._last_stir

    def _ring_others(self) -> None:
        for bell in list(self._others):
            bell.ring()

    # --- the turn -----------------------------------------------------------------------------------------------------

    @property
    def turn_is_mine(self) -> bool:
        """Whether this thread has the turn: it is in a callback."""
        return self.turn.get("of") == get_ident()

    def wait_for_turn(self, me: int, deadline: float | None) -> bool:
        """Takes the turn when no other thread has it. False: another has it still, at the deadline or after a stir.
        me: this thread."""
        bell = Bell()
        try:
            self._others.append(bell)
            return self._wait_by(bell, me, deadline)
        finally:
            self._others.remove(bell)

    def _wait_by(self, bell: Bell, me: int, deadline: float | None) -> bool:
        while self.turn.setdefault("of", me) != me:
            if self.stirred or not bell.wait_until(deadline):
                self.calm()
                return False
        return True

    def give_turn(self, me: int) -> None:
        """Gives the turn to whoever takes it; does nothing if another thread has it. me: this thread."""
        if self.turn.get("of") == me:
            del self.turn["of"]
            if self._others:
                self._ring_others()
