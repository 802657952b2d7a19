"""The backlog of a link: bytes that were written and that the kernel has not accepted yet.

A link is congested from the moment when its backlog reaches the high-water mark until it has fallen to the low-water
mark. The backlog also holds waiters: objects of a channel that wait until the bytes written before them have gone to
the kernel. Each waiter is stored with its position in the stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from ..reactor import Transport

T = TypeVar("T")


class Backlog(Generic[T]):
    """The backlog of one link.

    high, low: the water marks, in bytes.

    transport: the transport of the link, or None without one. congested: the backlog reached `high` bytes and has not
    yet fallen to `low`. stopped: the owner must not write, for a reason of its own. writable: neither congested nor
    stopped. waiting: the waiters, each with its position and its channel's number. While the backlog is congested or a
    waiter waits, the owner looks here each time when the kernel has accepted bytes."""

    __slots__ = ("_high", "_low", "congested", "stopped", "transport", "waiting", "writable")

    def __init__(self, high: int, low: int):
        self._high = high
        self._low = low
        self.transport: Transport | None = None
        self.congested = self.stopped = False
        self.writable = True
        self.waiting: deque[tuple[int, int, T]] = deque()  # position in the stream, channel number, waiter

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        """Passes chunks to the transport. Without a transport they are dropped."""
        transport = self.transport
        if transport is not None:
            transport.write(chunks)
            if transport.queued - transport.written >= self._high:
                self.congested = True
                self.writable = False

    def stop(self, stopped: bool) -> None:
        """Sets `stopped`."""
        self.stopped = stopped
        self.writable = not (stopped or self.congested)

    @property
    def size(self) -> int:
        """The size of the backlog in bytes."""
        return self.transport.queued - self.transport.written if self.transport is not None else 0

    def when_written(self, number: int, waiter: T) -> None:
        """Adds a waiter of channel `number`. It waits until all bytes written up to now have gone to the kernel."""
        self.waiting.append((self.transport.queued if self.transport is not None else 0, number, waiter))

    def take_written(self) -> list[T]:
        """Removes and returns the waiters whose bytes have gone to the kernel, in order."""
        waiting, taken = self.waiting, []
        while waiting and self.transport is not None and waiting[0][0] <= self.transport.written:
            taken.append(waiting[0][2])
            del waiting[0]
        return taken

    def unwritten(self, number: int) -> list[T]:
        """The waiters of channel `number` whose bytes have not gone to the kernel, in order."""
        return [waiter for _, owner, waiter in self.waiting if owner == number]

    def take_unwritten(self, number: int) -> list[T]:
        """Removes and returns these waiters."""
        taken = self.unwritten(number)
        if taken:
            self.waiting = deque(entry for entry in self.waiting if entry[1] != number)
        return taken

    def drained(self) -> bool:
        """Ends a congestion, if the backlog has fallen to the low-water mark. True if this call ended one."""
        if not self.congested or self.size > self._low:
            return False
        self.congested = False
        self.writable = not self.stopped
        return True
