"""The single file of a connection: operations that go out one at a time, over all its channels.

Links that end again and again may end because of one operation. So those that were in flight go out here, each when the
one before it is settled: the operation that ends a link is then found alone.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from .operations import IN_FLIGHT, OVER, WAITING, Operation
from .roles import Owner


class SingleFile:
    """`alone`: the operation that is in flight, or None. in_turn(calls): makes calls, behind those that wait. A channel
    counts its operations here (`_singles`); until there are none, what is asked of it later waits."""

    __slots__ = ("_in_turn", "_waiting", "alone")

    def __init__(self, in_turn: Callable[[Iterable[Any]], None]):
        self._in_turn = in_turn
        self._waiting: deque[Operation] = deque()
        self.alone: Operation | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, operations: list[Operation], started: Callable[[Operation], object]) -> None:
        """Has operations wait here. One that does so already is not added again. started(operation): it waits."""
        present = set(self._waiting)
        for operation in operations:
            operation.state = WAITING
            started(operation)
        added = [operation for operation in operations if operation not in present]
        self._waiting = deque(sorted([*self._waiting, *added], key=lambda each: each.order))
        here = Counter(operation.channel for operation in self._waiting)
        if self.alone is not None:
            here[self.alone.channel] += 1
        for channel, count in here.items():
            channel._singles = count

    def of(self, channel: Owner) -> list[Operation]:
        """The operations of a channel that wait here."""
        if not channel._singles:
            return []
        return [each for each in self._waiting if each.channel is channel and each.state not in OVER]

    def forget(self, channel: Owner) -> None:
        """Removes the operations of a channel that has ended."""
        if channel._singles:
            self._waiting = deque(each for each in self._waiting if each.channel is not channel)
            channel._singles = 0

    def settled(self, operation: Operation) -> None:
        """An operation is settled. If it was alone in flight, the next one follows."""
        if operation is self.alone:
            self.alone = None
            self._leaves(operation)
            self._in_turn([self.send_next])

    def was_lost(self, operation: Operation) -> None:
        """The link or the channel ended while the operation was alone in flight."""
        self.alone = None
        operation.ends += 1
        operation.channel._singles -= 1

    def send_next(self) -> None:
        """Sends the next operation, if none is in flight."""
        while self.alone is None and self._waiting:
            operation = self._waiting[0]
            channel = operation.channel
            if operation.state in OVER or channel._ended:
                self._waiting.popleft()
                self._leaves(operation)
                continue
            if not channel._flowing or channel._opening is None or not channel._opening.is_open:
                return  # its channel is being restored, and calls again
            operation.state = IN_FLIGHT  # before it is taken: nobody looks for one that waits
            self._waiting.popleft()
            self.alone = operation
            if not channel._send_waiting(operation):
                self.alone = None
                self._leaves(operation)

    def _leaves(self, operation: Operation) -> None:
        channel = operation.channel
        channel._singles -= 1
        if not channel._singles:
            self._in_turn([channel._flush])
