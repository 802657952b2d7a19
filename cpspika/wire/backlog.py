"""The backlog of a link: bytes that were written and that the kernel has not taken yet.

Above the high-water mark the link is congested, until the backlog has fallen to the low-water mark. Whoever wants to
know when its bytes have gone to the kernel is kept here with the position in the stream that it waits for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from ..reactor import Transport

T = TypeVar("T")


class Backlog(Generic[T]):
    """`transport`: where the bytes go, or None without a link. `congested`: the backlog reached `high` bytes and has
    not yet fallen to `low`. `stopped`: the owner has a reason of its own not to write. `writable`: neither of the two.
    """

    __slots__ = ("_high", "_low", "_unwritten", "congested", "stopped", "transport", "writable")

    def __init__(self, high: int, low: int):
        self._high = high
        self._low = low
        self.transport: Transport | None = None
        self.congested = self.stopped = False
        self.writable = True
        self._unwritten: deque[tuple[int, int, T]] = deque()  # position in the stream, channel number, who waits

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        """Gives chunks to the transport; without one they are dropped."""
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
        """Bytes."""
        return self.transport.queued - self.transport.written if self.transport is not None else 0

    @property
    def is_watched(self) -> bool:
        """Whether it matters to somebody that the kernel has taken bytes."""
        return self.congested or bool(self._unwritten)

    def when_written(self, number: int, waiter: T) -> None:
        """Keeps `waiter`, of a channel, until all that was written up to now has gone to the kernel."""
        self._unwritten.append((self.transport.queued if self.transport is not None else 0, number, waiter))

    def take_written(self) -> list[T]:
        """Removes and returns those whose bytes have gone to the kernel, in order."""
        unwritten, taken = self._unwritten, []
        while unwritten and self.transport is not None and unwritten[0][0] <= self.transport.written:
            taken.append(unwritten.popleft()[2])
        return taken

    def take_unwritten(self, number: int) -> list[T]:
        """Removes and returns those of one channel that still wait, in order."""
        taken = [waiter for _, owner, waiter in self._unwritten if owner == number]
        if taken:
            self._unwritten = deque(entry for entry in self._unwritten if entry[1] != number)
        return taken

    def drained(self) -> bool:
        """Ends a congestion if the backlog has fallen to the low-water mark. True if this call ended it."""
        if not self.congested or self.size > self._low:
            return False
        self.congested = False
        self.writable = not self.stopped
        return True
