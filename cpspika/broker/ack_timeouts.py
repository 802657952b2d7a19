"""The time that a client may hold a delivery without settling it (RabbitMQ's consumer timeout).

A channel has one timer, and no delivery has a time of its own. The timer runs while deliveries are unsettled. Each tick
notes the time and the next delivery tag; so a later tick knows which deliveries are older than a limit. A delivery is
found up to a tenth of its limit late.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from ..wire.delivery_tags import Window
from .queues import Clock, Timer

CONSUMER_TIMEOUT = 1800.0  # seconds, RabbitMQ's default
SHORTEST, LONGEST = 0.05, 60.0  # seconds between two ticks
ROUNDING = 1e-6  # seconds; the sum of ten tenths may be less than the whole
SCAN_RATE = 100_000  # deliveries that are looked at in a second, at most

Expired = list[tuple[int, Any, float]]  # tag, delivery, and its limit in seconds


class AckTimeouts:
    """Finds the deliveries of one channel that are held too long.

    window: the unsettled deliveries. limit_of: the limit of a delivery in seconds; None for no limit. on_expired:
    called with the deliveries that are older than their limits, in the order of their tags.

    `running`: the timer runs. If it doesn't, the channel calls `start` after a delivery.
    """

    __slots__ = (
        "_clock",
        "_interval",
        "_limit_of",
        "_marks",
        "_on_expired",
        "_shortest",
        "_timer",
        "_window",
        "running",
    )

    def __init__(
        self,
        clock: Clock,
        window: Window[Any],
        limit_of: Callable[[Any], float | None],
        on_expired: Callable[[Expired], object],
    ):
        self._clock = clock
        self._window = window
        self._limit_of = limit_of
        self._on_expired = on_expired
        self._timer: Timer | None = None
        self._interval = LONGEST
        self._shortest = float("inf")  # limit of the deliveries so far, in seconds
        self._marks: list[tuple[float, int]] = []  # each delivery with a lower tag was made by this time
        self.running = False

    def expect(self, limit: float | None) -> None:
        """Tells that deliveries with this limit will come."""
        if limit is not None and limit < self._shortest:
            self._shortest = limit
            self._interval = min(max(limit / 10, SHORTEST), LONGEST)
            if self._timer is not None:
                self._schedule(self._interval)

    def start(self) -> None:
        """Starts the timer, if it doesn't run and deliveries have a limit."""
        if not self.running and self._shortest != float("inf"):
            self.running = True
            self._marks = []
            self._clock.call_soon(self._mark)  # behind the other deliveries of this turn
            self._schedule(self._interval)

    def stop(self) -> None:
        """Stops the timer."""
        self.running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_later(seconds, self._tick)

    def _mark(self) -> None:
        self._marks.append((self._clock.time(), self._window.next_tag))

    def _tick(self) -> None:
        self._timer = None
        if not len(self._window):
            self.running = False
            return
        now = self._clock.time()
        self._mark()
        oldest, _ = next(iter(self._window))
        self._marks = [mark for mark in self._marks if mark[1] > oldest]
        expired: Expired = []
        looked_at = 0
        known: dict[float, int] = {}
        end = self._older_than(now - self._shortest)
        for tag, delivery in self._window:
            if tag >= end:
                break
            looked_at += 1
            limit = self._limit_of(delivery)
            if limit is None:
                continue
            if limit not in known:
                known[limit] = self._older_than(now - limit)
            if tag < known[limit]:
                expired.append((tag, delivery, limit))
        self._schedule(self._interval + looked_at / SCAN_RATE)
        if expired:
            self._on_expired(expired)

    def _older_than(self, time: float) -> int:
        """The tag below which all deliveries were made by a time, as far as the marks know."""
        index = bisect_right(self._marks, time + ROUNDING, key=lambda mark: mark[0])
        return self._marks[index - 1][1] if index else 0
