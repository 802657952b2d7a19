"""The time that operations wait for a link: `operation_timeout` of the options.

An operation that waits longer fails, and is not sent. One that waits for something other than a link is on its way, and
gets the time again.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import Any

from ..errors import AMQPError, DeliveryUnknown, OperationTimeout
from ..interrupts import repeatable
from .losses import Ends, calls_of, note_decided
from .operations import WAITING, Close, Open, Operation, Publish
from .roles import Recoverer


class Deadlines:
    """The deadlines of the operations of one connection."""

    __slots__ = ("_connection", "_expiring")

    def __init__(self, connection: Recoverer):
        self._connection = connection
        self._expiring: deque[tuple[float, Operation]] = deque()

    def __len__(self) -> int:
        return len(self._expiring)

    def start(self, operation: Operation) -> None:
        """An operation waits from now on."""
        connection = self._connection
        seconds = connection.options.operation_timeout
        if seconds is None or isinstance(operation, Close):
            return
        operation.deadline = connection.reactor.time() + seconds
        self._expiring.append((operation.deadline, operation))
        if len(self._expiring) == 1:
            connection._timers.start("expire", seconds, self._expire)

    def renew(self) -> None:
        """Operations that wait have waited for the link that was lost: their time begins anew, so that they end in
        order."""
        # Each once, and in its place: publishes that nobody confirms share the order of the operation before them.
        waiting = sorted(dict.fromkeys(operation for _, operation in self._expiring if operation.state is WAITING))
        self._expiring.clear()
        for operation in waiting:
            self.start(operation)

    def tidy(self) -> None:
        """Forgets operations that wait no more."""
        self._expiring = deque(each for each in self._expiring if each[1].state is WAITING)

    @repeatable
    def _expire(self) -> None:
        """Tells the operations whose time is over. Nothing is taken out of the queue before it is told."""
        connection, expiring = self._connection, self._expiring
        now = connection.reactor.time()
        seconds = connection.options.operation_timeout
        assert seconds is not None
        due = list(takewhile(lambda each: each[0] <= now, expiring))
        late: Ends = []
        for deadline, operation in due:
            if operation.state is not WAITING or operation.deadline != deadline:
                continue
            if self._is_on_its_way(operation):
                self.start(operation)
                continue
            error: AMQPError = OperationTimeout(f"no link for {seconds:g} s: it was not sent")
            if isinstance(operation, Publish) and operation.times:
                error = DeliveryUnknown(f"no link for {seconds:g} s; an earlier copy may have reached the broker")
            late.append((operation, error))
        connection._in_turn([calls_of(late)])
        note_decided(late)
        for _ in due:
            expiring.popleft()
        if expiring:
            connection._timers.start("expire", max(0.0, expiring[0][0] - now), self._expire)

    def _is_on_its_way(self, operation: Operation) -> bool:
        """Whether an operation waits for something other than a link."""
        if isinstance(operation, Open):
            return operation.channel._opening is not None
        single: Any = self._connection._single
        return operation.channel._flowing and (not single or single.alone is not None)
