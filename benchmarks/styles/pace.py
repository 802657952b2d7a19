"""Messages at a fixed rate, and the time from when each was due to its delivery.

A message is due at its time even if the client is late: a client that stalls does not get fewer messages meanwhile, and
all that waited count. A thread wakes the client's loop when a message is due, since the timers of most loops are exact
to a millisecond only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter, sleep

from ..job import Job
from ..meter import Meter

PERCENTILES = (50.0, 99.0, 99.9)
LEAD = 0.01  # seconds until the first message is due


class Pace:
    """`wake`: called in a thread of its own when messages are due; it must have the loop call `take`. Messages of one
    channel and one queue arrive in the order in which they were published, so that a count tells which one it is."""

    def __init__(self, job: Job, meter: Meter, wake: Callable[[], object]):
        self._job, self._meter, self._wake = job, meter, wake
        self._total = job.warmup + job.count
        self._taken = self._arrived = 0
        self._latencies: list[float] = []

    def start(self) -> None:
        self._begin = perf_counter() + LEAD
        threading.Thread(target=self._tick, daemon=True).start()

    def _due(self, number: int) -> float:
        return self._begin + number / self._job.rate

    def _tick(self) -> None:
        number = 0
        while number < self._total:
            while (left := self._due(number) - perf_counter()) > 0:  # a sleep may end a moment too early
                sleep(left)
            number = self._passed() + 1  # before the wake: `take` comes later, and takes all of these
            self._wake()

    def _passed(self) -> int:
        """The number of the last message that is due."""
        return int((perf_counter() - self._begin) * self._job.rate)

    @property
    def all_taken(self) -> bool:
        return self._taken == self._total

    def take(self) -> int:
        """How many more messages are due: the caller publishes them now."""
        before, self._taken = self._taken, min(self._total, max(self._taken, self._passed() + 1))
        return self._taken - before

    def arrived(self) -> bool:
        """Notes the next message's arrival; returns whether it is the last one."""
        if self._arrived >= self._job.warmup:
            self._latencies.append(perf_counter() - self._due(self._arrived))
        self._arrived += 1
        if self._arrived == self._job.warmup:
            self._meter.start()
        if self._arrived < self._total:
            return False
        self._meter.stop()
        assert self._meter.result is not None
        self._meter.result.latencies = percentiles(self._latencies)
        return True


def percentiles(values: list[float]) -> dict[str, float]:
    """By "50", "99", "99.9": the value that so many percent do not exceed."""
    ordered = sorted(values)
    # Counted up to a whole value: of ten values, the tenth is the 99th percentile.
    return {f"{p:g}": ordered[min(len(ordered), -int(-len(ordered) * p // 100)) - 1] for p in PERCENTILES}
