"""A queue: messages that are ready, consumers that take turns, and the limits that its arguments set.

No bytes and no sockets: a consumer is whoever fulfils `Taker`, time is a `Clock`, and what becomes of a message that
dies here (rejected, expired, pushed out) is told to `on_dead`.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from ..wire.message import Message
from .refusal import precondition_failed


class QueueConsumer(Protocol):
    """A consumer, seen from its queue."""

    priority: int
    no_ack: bool
    exclusive: bool

    def wants(self) -> bool:
        """Whether it takes one more now: its prefetch has room, and its link does."""

    def deliver(self, entry: Entry) -> None: ...
    def cancelled(self) -> None:
        """The queue is gone."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """What a reactor offers."""

    def time(self) -> float: ...
    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer: ...


class MemoryGauge:
    """What all messages of a broker weigh, in bytes: body, header, and an allowance for the objects that hold them."""

    __slots__ = ("bytes", "mark", "on_light")

    def __init__(self) -> None:
        self.bytes = 0
        self.mark = 0  # at so many bytes or fewer `on_light` is called, once
        self.on_light: Callable[[], object] | None = None

    def add(self, weight: int) -> None:
        self.bytes += weight

    def subtract(self, weight: int) -> None:
        self.bytes -= weight
        if self.on_light is not None and self.bytes <= self.mark:
            call, self.on_light = self.on_light, None
            call()


ALLOWANCE = 500


class Entry:
    """A message's stay in one queue. `position`: its place in the order of arrival, which it keeps when it is requeued;
    `expires`: on the clock, or None."""

    __slots__ = ("expires", "message", "position", "queue", "redelivered")

    def __init__(self, message: Message, queue: Queue, position: int, expires: float | None):
        self.message = message
        self.queue = queue
        self.position = position
        self.expires = expires
        self.redelivered = False

    @property
    def size(self) -> int:
        return len(self.message.body)

    @property
    def weight(self) -> int:
        return len(self.message.body) + len(self.message.envelope.encoded) + ALLOWANCE


class _Ready:
    """The ready entries in order: by priority, the highest first, and by position."""

    def __init__(self, levels: int):
        self._levels: list[deque[Entry]] = [deque() for _ in range(levels)]
        self._top = self._levels[0]
        self._flat = levels == 1

    def __len__(self) -> int:
        return len(self._top) if self._flat else sum(map(len, self._levels))

    def __iter__(self) -> Iterator[Entry]:
        for level in reversed(self._levels):
            yield from list(level)

    def _level(self, entry: Entry) -> deque[Entry]:
        if self._flat:
            return self._top
        priority = entry.message.properties.priority or 0
        return self._levels[min(priority, len(self._levels) - 1)]

    def append(self, entry: Entry) -> None:
        self._level(entry).append(entry)

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Requeues, each at its old place."""
        for entry in sorted(entries, key=_position, reverse=True):
            level = self._level(entry)
            if not level or entry.position < level[0].position:
                level.appendleft(entry)
            else:
                level.insert(bisect(level, entry.position, key=_position), entry)

    def head(self) -> Entry | None:
        for level in reversed(self._levels):
            if level:
                return level[0]
        return None

    def pop(self) -> Entry:
        for level in reversed(self._levels):
            if level:
                return level.popleft()
        raise IndexError("pop from an empty queue")

    def clear(self) -> None:
        for level in self._levels:
            level.clear()


def _position(entry: Entry) -> int:
    return entry.position


class _Rotation:
    """Consumers taking turns, those of the highest priority first. One that wants nothing now is parked, so that a
    turn costs the same however many are busy; `unpark` brings it back."""

    def __init__(self) -> None:
        self._turns: dict[int, deque[QueueConsumer]] = {}
        self._parked: dict[QueueConsumer, None] = {}
        self.all: list[QueueConsumer] = []

    def add(self, consumer: QueueConsumer) -> None:
        self.all.append(consumer)
        self._enter(consumer)

    def _enter(self, consumer: QueueConsumer) -> None:
        turns = self._turns.get(consumer.priority)
        if turns is None:
            turns = self._turns[consumer.priority] = deque()
            self._turns = dict(sorted(self._turns.items(), reverse=True))
        turns.append(consumer)

    def remove(self, consumer: QueueConsumer) -> None:
        self.all.remove(consumer)
        if consumer in self._parked:
            del self._parked[consumer]
        else:
            self._turns[consumer.priority].remove(consumer)

    def unpark(self, consumer: QueueConsumer) -> None:
        if consumer in self._parked:
            del self._parked[consumer]
            self._enter(consumer)

    def next(self) -> QueueConsumer | None:
        for turns in self._turns.values():
            while turns:
                consumer = turns[0]
                if consumer.wants():
                    turns.rotate(-1)
                    return consumer
                self._parked[turns.popleft()] = None
        return None


class _SingleActive(_Rotation):
    """Of several consumers the first alone is served, until it goes (x-single-active-consumer)."""

    def next(self) -> QueueConsumer | None:
        return self.all[0] if self.all and self.all[0].wants() else None

    def _enter(self, consumer: QueueConsumer) -> None:
        self._turns.setdefault(consumer.priority, deque()).append(consumer)


# name: least value
_NUMBERS = {
    "x-message-ttl": 0,
    "x-expires": 1,
    "x-max-length": 0,
    "x-max-length-bytes": 0,
    "x-max-priority": 0,
}
_TEXTS = ("x-dead-letter-exchange", "x-dead-letter-routing-key", "x-overflow", "x-queue-mode", "x-queue-type")
_OVERFLOWS = ("drop-head", "reject-publish", "reject-publish-dlx")
_MODES = ("default", "lazy")
MAX_PRIORITY = 255
_TYPES = {bool: "bool", int: "signedint", str: "longstr", list: "array", dict: "table"}


def field_type(value: Any) -> str:
    """The type of a field's value, as RabbitMQ names it."""
    return _TYPES.get(type(value), type(value).__name__)


def check_arguments(arguments: Mapping[str, Any], what: str) -> None:
    """Refuses what RabbitMQ refuses of a queue's arguments; those that nobody knows are kept and ignored, as there."""
    for name, value in arguments.items():
        why = _objection(name, value)
        if why is not None:
            raise precondition_failed(f"invalid arg '{name}' for {what}: {why}")
    if "x-dead-letter-routing-key" in arguments and "x-dead-letter-exchange" not in arguments:
        raise precondition_failed(f"invalid arg 'x-dead-letter-routing-key' for {what}: routing_key_but_no_dlx_defined")


def _objection(name: str, value: Any) -> str | None:
    """Why a queue cannot have an argument, in RabbitMQ's words, or None."""
    if name in _NUMBERS:
        return _objection_to_number(name, value)
    if name == "x-single-active-consumer":
        return None if isinstance(value, bool) else f"{{unacceptable_type,{field_type(value)}}}"
    if name in _TEXTS:
        return _objection_to_text(name, value)
    return None


def _objection_to_number(name: str, value: Any) -> str | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return f'"expected integer, got {field_type(value)}"'
    if value < _NUMBERS[name]:
        return "{value_zero,0}" if value == 0 else f"{{value_negative,{value}}}"
    if name == "x-max-priority" and value > MAX_PRIORITY:
        return f"{{max_value_exceeded,{value}}}"
    return None


def _objection_to_text(name: str, value: Any) -> str | None:
    if not isinstance(value, str):
        return f"{{unacceptable_type,{field_type(value)}}}"
    if name == "x-overflow" and value not in _OVERFLOWS:
        return "invalid_overflow"
    if name == "x-queue-mode" and value not in _MODES:
        return f"\"unsupported queue mode '{value}'\""
    if name == "x-queue-type" and value in ("quorum", "stream"):
        return f"this broker has classic queues alone; '{value}' promises copies on disk and on other nodes"
    if name == "x-queue-type" and value != "classic":
        return f"\"unsupported queue type '{value}'\""
    return None


class Queue:
    """A queue of a virtual host.

    `messages`: what is ready, as a list; `consumer_count`; `unacknowledged`: delivered and not settled.
    """

    def __init__(
        self,
        name: str,
        vhost: str,
        clock: Clock,
        load: MemoryGauge,
        on_dead: Callable[[Entry, str], object],
        on_unused: Callable[[Queue], object],
        durable: bool = False,
        auto_delete: bool = False,
        owner: Any = None,
        arguments: Mapping[str, Any] | None = None,
    ):
        self.name = name
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner
        self.arguments = dict(arguments or {})
        self.unacknowledged = 0
        self.deleted = False
        self.bytes = 0
        self._what = f"queue '{name}' in vhost '{vhost}'"
        check_arguments(self.arguments, self._what)
        self._clock = clock
        self._load = load
        self._on_dead = on_dead
        self._on_unused = on_unused
        get = self.arguments.get
        self._ttl: int | None = get("x-message-ttl")
        self._max_length: int | None = get("x-max-length")
        self._max_bytes: int | None = get("x-max-length-bytes")
        self._rejects = get("x-overflow", "drop-head") != "drop-head"
        self._rejected_die = get("x-overflow") == "reject-publish-dlx"
        self._bounded = self._max_length is not None or self._max_bytes is not None
        self._plain = self._ttl is None and not self._bounded
        self._ready = _Ready(1 + int(get("x-max-priority") or 0))
        self.single_active = bool(get("x-single-active-consumer"))
        self._rotation = _SingleActive() if self.single_active else _Rotation()
        self._next_position = 0
        self._fresh: Entry | None = None
        self._expiry: tuple[float, Timer] | None = None
        self._idle: Timer | None = None
        self._used = False
        self.touch()

    def __repr__(self) -> str:
        counts = f"{len(self._ready)} ready, {self.unacknowledged} unacknowledged, {self.consumer_count} consumers"
        return f"<Queue {self.name!r}: {counts}>"

    def __len__(self) -> int:
        """How many messages are ready."""
        return len(self._ready)

    def __bool__(self) -> bool:
        return True

    @property
    def messages(self) -> list[Message]:
        return [entry.message for entry in list(self._ready)]

    @property
    def consumer_count(self) -> int:
        return len(self._rotation.all)

    @property
    def consumers(self) -> list[QueueConsumer]:
        return list(self._rotation.all)

    @property
    def described(self) -> str:
        return self._what

    # --- in -----------------------------------------------------------------------------------------------------------

    def push(self, message: Message, ttl: float | None) -> bool:
        """Takes a message, with its own time to live in milliseconds or None. False: it is full, and refuses."""
        if self._rejects and self._bounded and self._over(1, len(message.body)):
            if self._rejected_die:
                self._on_dead(self._entry(message, None), "maxlen")
            return False
        if self._plain and ttl is None and not self._ready:
            # It goes straight to a consumer that waits, if there is one: most of all messages do.
            consumer = self._rotation.next()
            if consumer is not None:
                self._next_position += 1
                entry = Entry(message, self, self._next_position, None)
                if not consumer.no_ack:
                    self._load.add(entry.weight)
                    self.unacknowledged += 1
                consumer.deliver(entry)
                return True
        entry = self._entry(message, ttl)
        self._ready.append(entry)
        self.bytes += entry.size
        self._load.add(entry.weight)
        self._fresh = entry  # one that lives for 0 ms may still go to a consumer that waits
        self.dispatch()
        self._fresh = None
        self._drop_excess()
        if self._ready and (ttl is not None or self._ttl is not None):
            self._expire()
        return True

    def _entry(self, message: Message, ttl: float | None) -> Entry:
        if self._ttl is not None:
            ttl = self._ttl if ttl is None else min(ttl, self._ttl)
        expires = None if ttl is None else self._clock.time() + ttl / 1000
        self._next_position += 1
        return Entry(message, self, self._next_position, expires)

    def _over(self, messages: int, octets: int) -> bool:
        """Whether it would be too long with so much more."""
        length, size = self._max_length, self._max_bytes
        return (length is not None and len(self._ready) + messages > length) or (
            size is not None and self.bytes + octets > size
        )

    def _drop_excess(self) -> None:
        if self._bounded and not self._rejects:
            while len(self._ready) and self._over(0, 0):
                self._die(self._take_head(), "maxlen")

    def requeue(self, entries: list[Entry]) -> None:
        """Takes entries back to their old places; they will be redelivered."""
        self.unacknowledged -= len(entries)
        if self.deleted:
            for entry in entries:
                self._load.subtract(entry.weight)
            return
        for entry in entries:
            entry.redelivered = True
            self.bytes += entry.size
        self._ready.put_back(entries)
        self._drop_excess()
        self.dispatch()
        self._expire()

    # --- out ----------------------------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Hands ready messages to the consumers that want them."""
        ready, rotation = self._ready, self._rotation
        while ready:
            consumer = rotation.next()
            if consumer is None:
                return
            entry = self._pop()
            if entry is None:
                return
            self._handed_out(entry, consumer.no_ack)
            consumer.deliver(entry)

    def get(self, no_ack: bool) -> Entry | None:
        self.touch()
        entry = self._pop()
        if entry is not None:
            self._handed_out(entry, no_ack)
        return entry

    def _handed_out(self, entry: Entry, no_ack: bool) -> None:
        if no_ack:
            self._load.subtract(entry.weight)
        else:
            self.unacknowledged += 1

    def _pop(self) -> Entry | None:
        """The first ready entry that hasn't expired."""
        while self._ready:
            entry = self._take_head()
            if entry.expires is None or entry is self._fresh or entry.expires > self._clock.time():
                return entry
            self._die(entry, "expired")
        return None

    def _take_head(self) -> Entry:
        entry = self._ready.pop()
        self.bytes -= entry.size
        return entry

    def settle(self, entry: Entry) -> None:
        """It was acknowledged."""
        self.unacknowledged -= 1
        self._load.subtract(entry.weight)

    def reject(self, entry: Entry) -> None:
        """It was refused, and not to be requeued."""
        self.unacknowledged -= 1
        if self.deleted:
            self._load.subtract(entry.weight)
        else:
            self._die(entry, "rejected")

    def _die(self, entry: Entry, reason: str) -> None:
        self._load.subtract(entry.weight)
        if "x-dead-letter-exchange" in self.arguments:
            self._on_dead(entry, reason)

    def purge(self) -> int:
        count = len(self._ready)
        weight = sum(entry.weight for entry in self._ready)
        self._ready.clear()
        self.bytes = 0
        self._load.subtract(weight)
        return count

    # --- time ---------------------------------------------------------------------------------------------------------

    def _expire(self) -> None:
        """Drops what has expired at the head (RabbitMQ looks no further), and comes back when the next one does."""
        now = self._clock.time()
        while (head := self._ready.head()) is not None and head.expires is not None and head.expires <= now:
            self._die(self._take_head(), "expired")
        if head is None or head.expires is None:
            return
        if self._expiry is None or self._expiry[0] > head.expires:
            self._cancel_expiry()
            self._expiry = head.expires, self._clock.call_later(head.expires - now, self._expiry_due)

    def _expiry_due(self) -> None:
        self._expiry = None
        if not self.deleted:
            self._expire()

    def _cancel_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry[1].cancel()
            self._expiry = None

    def touch(self) -> None:
        """It was used: x-expires counts from now."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        lease = self.arguments.get("x-expires")
        if lease is not None and not self._rotation.all:
            self._idle = self._clock.call_later(lease / 1000, self._unused)

    def _unused(self) -> None:
        if not self.deleted:
            self._on_unused(self)

    # --- consumers ----------------------------------------------------------------------------------------------------

    def add_consumer(self, consumer: QueueConsumer) -> None:
        self._rotation.add(consumer)
        self._used = True
        self.touch()

    def remove_consumer(self, consumer: QueueConsumer) -> None:
        self._rotation.remove(consumer)
        self.touch()
        if self.auto_delete and not self._rotation.all:
            self._on_unused(self)
        else:
            self.dispatch()

    def unpark(self, consumer: QueueConsumer) -> None:
        """A consumer may want messages again."""
        self._rotation.unpark(consumer)
        self.dispatch()

    def delete(self) -> int:
        """The queue is gone; returns how many messages went with it."""
        self.deleted = True
        self._cancel_expiry()
        if self._idle is not None:
            self._idle.cancel()
        takers, self._rotation.all = self._rotation.all, []
        for consumer in takers:
            consumer.cancelled()
        return self.purge()
