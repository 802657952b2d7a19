"""The part of recovery that a program chooses and sees: the options of `recovery=`, its events, and the result of a
publish that was sent again."""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

from ..errors import AMQPError, InvalidArgument, InvalidArgumentType


class Recovery:
    """The options of a connection that recovers: `connect(target, recovery=Recovery(...))`; True stands for Recovery().

    backoff: (base, cap) in seconds. Before try n, from 0 on, it waits uniform(0, min(cap, base * 2**n)). Two tries are
    never more than `cap` apart.
    operation_timeout: seconds. An operation that waits without a link fails after this time; None: never.
    give_up_after: seconds without a link after which the connection ends; None: never.
    publishes: "resend" sends a publish again that was not confirmed when the link was lost; "unknown" fails it with
    DeliveryUnknown, as without recovery.
    buffer: bytes. While the messages of the connection that wait or are unconfirmed exceed this, `writable` is False.
    buffer_limit: bytes. While there is no link and they exceed this, a publish fails with BufferFull; a single message
    never does.
    mark_resent: name of a header that is added to a message that is sent again, with the number of earlier copies;
    None adds none.
    queue_prefix: names of queues that the program leaves to the broker ("") begin with it.
    initial: retry the first connection too. The connection is not open until then.
    dice: source of the jitter and of names; None for one of its own.

    InvalidArgument, InvalidArgumentType: an option is out of range; the error names it.
    """

    def __init__(
        self,
        backoff: tuple[float, float] = (0.1, 30.0),
        operation_timeout: float | None = 30.0,
        give_up_after: float | None = None,
        publishes: str = "resend",
        buffer: int = 16 * 2**20,
        buffer_limit: int = 64 * 2**20,
        mark_resent: str | None = None,
        queue_prefix: str = "cpspika.gen-",
        initial: bool = False,
        dice: Random | None = None,
    ):
        self.backoff = backoff
        self.operation_timeout = operation_timeout
        self.give_up_after = give_up_after
        self.publishes = publishes
        self.buffer = buffer
        self.buffer_limit = buffer_limit
        self.mark_resent = mark_resent
        self.queue_prefix = queue_prefix
        self.initial = initial
        self.dice = dice
        self._check()

    def __repr__(self) -> str:
        return f"Recovery({', '.join(f'{name}={value!r}' for name, value in vars(self).items() if name != 'dice')})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recovery) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def _check(self) -> None:
        backoff = self.backoff
        if not isinstance(backoff, tuple) or len(backoff) != 2 or not all(_is_number(each) for each in backoff):
            raise InvalidArgumentType(f"backoff takes two numbers of seconds, (base, cap), not {backoff!r}")
        if not 0 < backoff[0] <= backoff[1]:
            raise InvalidArgument(f"backoff takes 0 < base <= cap, not {backoff!r}")
        for name in ("operation_timeout", "give_up_after"):
            seconds = getattr(self, name)
            if seconds is not None and not _is_number(seconds):
                raise InvalidArgumentType(f"{name} takes seconds or None, not {seconds!r}")
            if seconds is not None and seconds <= 0:
                raise InvalidArgument(f"{name} takes more than 0 seconds, or None for no limit, not {seconds!r}")
        if self.publishes not in ("resend", "unknown"):
            raise InvalidArgument(f"publishes takes 'resend' or 'unknown', not {self.publishes!r}")
        for name in ("buffer", "buffer_limit"):
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool):
                raise InvalidArgumentType(f"{name} takes a number of bytes, not {size!r}")
        if not 0 < self.buffer <= self.buffer_limit:
            raise InvalidArgument(f"0 < buffer <= buffer_limit, not {self.buffer} and {self.buffer_limit}")
        if self.mark_resent is not None and not isinstance(self.mark_resent, str):
            raise InvalidArgumentType(f"mark_resent takes the name of a header or None, not {self.mark_resent!r}")
        if len((self.mark_resent or "").encode("utf-8", "surrogatepass")) > 255:
            raise InvalidArgument(f"mark_resent is longer than the 255 bytes of a header's name: {self.mark_resent!r}")
        if not isinstance(self.queue_prefix, str):
            raise InvalidArgumentType(f"queue_prefix takes a str, not {self.queue_prefix!r}")
        if self.queue_prefix.startswith("amq."):
            raise InvalidArgument("queue_prefix must not begin with 'amq.', which the broker keeps to itself")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def options_of(recovery: Recovery | bool | None) -> Recovery | None:
    """The options that an argument `recovery=` means; None: no recovery. InvalidArgumentType: it means nothing."""
    if recovery is None or recovery is False:
        return None
    if recovery is True:
        return Recovery()
    if isinstance(recovery, Recovery):
        return recovery
    raise InvalidArgumentType(f"recovery takes True, a Recovery or None, not {type(recovery).__name__}")


class RecoveryEvent(NamedTuple):
    """Something that recovery did or met; handlers of `add_recovery_handler` get it.

    kind: "lost", the link was lost, or with `channel` the channel alone; "retrying", the next try follows in `delay`
    seconds; "restored", all is as it was, but for what an event before has told; "entity_failed", the exchange, queue
    or binding `entity` could not be declared again; "consumer_failed", the consumer `consumer_tag` could not be started
    again; "channel_failed", the channel could not be opened again, and has ended; "gave_up", the connection ends.
    error: the reason; None for "retrying" before the first error and for "restored".
    attempt: number of the try, from 1 on, since the link was lost.
    delay: seconds until the try.
    resent: number of publishes that were sent again.
    stale: number of acks, nacks and rejects of deliveries from before the loss, since the event before. They were not
    sent.
    channel: the channel, in the program's style; None: the whole connection.
    entity: ("exchange", name), ("queue", name) or ("binding", source, destination, routing key).
    """

    kind: str
    error: AMQPError | None = None
    attempt: int = 0
    delay: float = 0.0
    resent: int = 0
    stale: int = 0
    channel: Any = None
    entity: tuple[str, ...] | None = None
    consumer_tag: str | None = None


class Resent:
    """The result of a publish that was confirmed after it had been sent more than once. It is true, as True is.

    times: how many copies more may exist."""

    __slots__ = ("times",)

    def __init__(self, times: int):
        self.times = times

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return other.times == self.times if isinstance(other, Resent) else other is True

    def __hash__(self) -> int:
        return hash(True)

    def __repr__(self) -> str:
        return f"Resent(times={self.times})"
