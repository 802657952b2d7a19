"""The fates of the operations that were in flight when a link or a channel ended.

The close of the broker may blame an operation by its method: that one gets the error. Each other one is told its end or
waits again, by its policy. An operation that ended several links alone is to blame, whatever the broker says.

An exception of a signal handler may come at any place here. So the decision takes nothing away, and may be made again.
It becomes a list of steps. Each step may be made again too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial
from itertools import repeat
from typing import Any

from ..client.continuations import Call, PendingCalls
from ..client.publisher import Content
from ..errors import AMQPError
from ..interrupts import repeatable
from .operations import DECIDED, Asked, Cancel, Close, Consume, Operation, Publish, Told, end_waiting
from .policies import AGAIN, DONE
from .roles import Owner, Recoverer

ENDS_ALONE = 3  # so many links or channels ended while an operation alone was in flight: it is to blame
End = tuple[Operation, Any]  # with its error, or DONE
Ends = list[End]
Fallen = list[tuple[Operation, AMQPError]]  # operations, and the errors that the core gave them


def in_order(fallen: Iterable[tuple[Operation, AMQPError]]) -> Fallen:
    """Sorted by the order of asking."""
    return sorted(fallen, key=lambda each: each[0].order)


def of_unwritten(lost: list[tuple[int, Owner, Content]], fallen: Fallen, err: AMQPError) -> list[Publish]:
    """Publishes of `lost`, which nobody confirms and which the kernel has not taken whole: (position, channel,
    content). Each gets the order of the operation of its channel that was sent before it, if that one has fallen too:
    it is to follow that one again. `fallen`: in order."""
    cause = err.__cause__
    if isinstance(cause, ConnectionAbortedError) and cause.__cause__ is not None:
        return []  # an exception came amid sending: nobody knows what went out, and twice would be wrong
    sent: dict[Owner, deque[Operation]] = {}
    for operation, _ in fallen:
        sent.setdefault(operation.channel, deque()).append(operation)
    orders: dict[Owner, int] = {}
    publishes = []
    for position, channel, content in lost:
        if not channel._ended:
            before = sent.get(channel)
            while before and before[0].position < position:
                orders[channel] = before.popleft().order
            publish = Publish(channel, None, content)
            publish.order = orders.get(channel, 0)
            publishes.append(publish)
    return publishes


def find_culprit(fallen: Fallen, blamed: str | None) -> Operation | None:
    """The operation that a close answers, if it is known: the oldest of its method, since replies come in order; of
    publishes, which are confirmed in any order, the only one."""
    if blamed is None:
        return None
    alike = [operation for operation, _ in fallen if operation.method == blamed]
    if blamed == "basic.publish":
        return alike[0] if len(alike) == 1 else None
    return alike[0] if alike else None


def sort_out(
    connection: Recoverer, fallen: Fallen, culprit: Operation | None, reason: AMQPError, single: bool
) -> list[Call]:
    """Decides what becomes of each operation; returns the steps to it. single: those that wait again go out in single
    file."""
    ends: Ends = []
    again: dict[Owner, list[Operation]] = {}
    in_file: list[Operation] = []
    file = connection._single
    alone = next((operation for operation, _ in fallen if operation is file.alone), None)
    if alone is not None:
        file.was_lost(alone)
    ahead: set[Owner] = set()  # channels where an operation before this one is asked again, and is answered first
    for operation, error in fallen:
        channel = operation.channel
        guilty = operation is culprit or operation.ends >= ENDS_ALONE
        verdict = _of_blamed(operation, reason) if guilty else _verdict(operation, error, again.get(channel))
        if isinstance(operation, Asked) and channel in ahead and not isinstance(operation, Told) and verdict != AGAIN:
            if isinstance(operation, Cancel) and operation.decided is None and verdict == DONE:
                channel._forget_consumer(operation.tag)  # now, or it would be started again on the next opening
            operation.decided, verdict = verdict, AGAIN
        if verdict == AGAIN:
            if isinstance(operation, Asked):
                ahead.add(channel)
            if single or operation is alone or operation.ends:
                in_file.append(operation)
            else:
                again.setdefault(channel, []).append(operation)
            continue
        ends.append((operation, verdict))
    tells = calls_of(ends)
    return [
        partial(note_decided, ends),
        *(partial(channel._put_back, operations) for channel, operations in again.items()),
        connection._deadlines.renew,
        partial(file.add, in_file, connection._deadlines.start),
        partial(connection._in_turn, [tells]),
    ]


def calls_of(ends: Ends) -> PendingCalls:
    """The calls that tell operations their ends: one iterator, so each is made once, however often it is queued."""
    return zip(repeat(_tell), ends, strict=False)


def note_decided(ends: Ends) -> None:
    for operation, _ in ends:
        operation.state = DECIDED


@repeatable
def _tell(end: End) -> None:
    operation, verdict = end
    if isinstance(verdict, AMQPError):
        end_waiting(operation, verdict)
    else:
        operation.channel._done_by_loss(operation)


def _verdict(operation: Operation, error: AMQPError, before: list[Operation] | None) -> AMQPError | str:
    if isinstance(operation, Cancel) and any(
        isinstance(other, Consume) and other.tag == operation.tag for other in before or ()
    ):
        return AGAIN
    if isinstance(operation, Close) and (before or operation.channel._singles or operation.channel._waiting):
        return AGAIN
    transaction = operation.channel._transaction
    if operation.method == "tx.commit" and transaction is not None:
        broken = transaction.refusal("tx.commit")
        if broken is not None:
            return broken
    return operation.verdict(error)


def _of_blamed(operation: Operation, reason: AMQPError) -> AMQPError:
    """The error of the operation for which a channel or link was closed."""
    if isinstance(operation, Publish) and operation.times:
        return operation.unknown_or(reason) if reason.code is None else reason
    return reason
