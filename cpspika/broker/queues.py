"""A queue: its ready messages, its consumers, and the limits that its arguments set.

This module handles no bytes and no sockets. Its consumers fulfil `QueueConsumer`; its time comes from a `Clock`. A
message that is rejected, expires or exceeds a limit goes to the callback `on_dead_letter`, if the queue has a
dead-letter exchange.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from typing import Any, Protocol

from ..wire.message import Message
from .queue_arguments import parse_arguments
from .rules import DEFAULT, Rules


class QueueConsumer(Protocol):
    """A consumer, seen from its queue."""

    priority: int  # x-priority; the highest is served first
    no_ack: bool
    exclusive: bool

    def wants(self) -> bool:
        """Whether the consumer can take a message now: its prefetch limit and its link's backlog permit one."""

    def deliver(self, entry: Entry) -> None: ...
    def cancelled(self) -> None:
        """Called when the queue has been deleted."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """The part of a reactor that a queue uses."""

    def time(self) -> float: ...
    def call_soon(self, call: Callable[[], object]) -> object: ...
    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer: ...


class MemoryGauge:
    """The memory that all messages of a broker take, estimated in bytes (see `Entry.memory`).

    `on_low` is called once when `bytes` falls to `low_mark` or below.
    """

    __slots__ = ("bytes", "low_mark", "on_low")

    def __init__(self) -> None:
        self.bytes = 0
        self.low_mark = 0
        self.on_low: Callable[[], object] | None = None

    def add(self, count: int) -> None:
        self.bytes += count

    def subtract(self, count: int) -> None:
        self.bytes -= count
        if self.on_low is not None and self.bytes <= self.low_mark:
            call, self.on_low = self.on_low, None
            call()


FEW = 16  # requeued entries that are inserted one by one
SLICE = 1000  # messages that are delivered, dropped or forgotten in one turn; others are served between the turns
MAX_EMPTY = 8  # priorities that a queue keeps although no consumer has them
ALLOWANCE = 500  # bytes for the objects that hold a message


def message_memory(message: Message) -> int:
    """Bytes of body and properties, and `ALLOWANCE`."""
    return len(message.body) + len(message.envelope.encoded) + ALLOWANCE


class Entry:
    """A message in one queue.

    `position`: its number in the order of arrival; a requeued message keeps it. `expires`: time on the clock, or None.
    `size`: bytes of the body. `memory`: bytes of body and properties, and `ALLOWANCE`.
    """

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
    def memory(self) -> int:
        return len(self.message.body) + len(self.message.envelope.encoded) + ALLOWANCE


class _Ready:
    """The ready entries in order: by priority, the highest first, then by position.

    levels: the number of priorities; 1 for a queue without priorities.
    """

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
        """Inserts requeued entries by their positions."""
        returned = sorted(entries, key=_position, reverse=True)
        if len(returned) > FEW and any(map(len, self._levels)):
            self._merge(returned)
            return
        for entry in returned:
            level = self._level(entry)
            if not level or entry.position < level[0].position:
                level.appendleft(entry)
            else:
                level.insert(bisect(level, entry.position, key=_position), entry)

    def _merge(self, returned: list[Entry]) -> None:
        """Inserts many entries, the last one first.

        The time is proportional to the entries that stand before the last of them, or behind the first of them: these
        are taken out meanwhile, whichever are fewer.
        """
        by_level: dict[int, list[Entry]] = {}
        for entry in returned:
            by_level.setdefault(id(self._level(entry)), []).append(entry)
        for level in self._levels:
            mine = by_level.get(id(level))
            if mine is None:
                continue
            before = bisect(level, mine[0].position, key=_position)
            behind = len(level) - bisect(level, mine[-1].position, key=_position)
            if before <= behind:
                taken = [level.popleft() for _ in range(before)]
                level.extendleft(sorted(mine + taken[::-1], key=_position, reverse=True))
            else:
                taken = [level.pop() for _ in range(behind)]
                level.extend(sorted(mine[::-1] + taken[::-1], key=_position))

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

    def take_all(self) -> list[deque[Entry]]:
        """Removes all entries; returns the levels that had them."""
        levels = self._levels
        self._levels = [deque() for _ in levels]
        self._top = self._levels[0]
        return levels


_position = attrgetter("position")


class _Rotation:
    """The consumers of a queue, served in turns, those of the highest priority first.

    A consumer that wants no message is paused: it leaves the turns until `resume`. So the next turn costs the same
    however many consumers are busy.
    """

    def __init__(self) -> None:
        self._turns: dict[int, deque[QueueConsumer]] = {}  # by priority; few of them are empty
        self._paused: dict[QueueConsumer, None] = {}
        self.all: list[QueueConsumer] = []

    def add(self, consumer: QueueConsumer) -> None:
        self.all.append(consumer)
        self._append(consumer)

    def _append(self, consumer: QueueConsumer) -> None:
        turns = self._turns.get(consumer.priority)
        if turns is None:
            turns = self._turns[consumer.priority] = deque()
            self._turns = dict(sorted(self._turns.items(), reverse=True))
        turns.append(consumer)

    def remove(self, consumer: QueueConsumer) -> None:
        self.all.remove(consumer)
        if consumer in self._paused:
            del self._paused[consumer]
        else:
            self._turns[consumer.priority].remove(consumer)
        self._drop_empty()

    def _drop_empty(self) -> None:
        """Forgets priorities without consumers in the turns, when there are many; `next` passes them each time."""
        if len(self._turns) > MAX_EMPTY:
            self._turns = {priority: turns for priority, turns in self._turns.items() if turns}

    def resume(self, consumer: QueueConsumer) -> None:
        if consumer in self._paused:
            del self._paused[consumer]
            self._append(consumer)

    def pass_on(self, consumer: QueueConsumer) -> None:
        """The consumer gets no messages for a while."""

    def next(self) -> QueueConsumer | None:
        """The consumer that gets the next message, None if no consumer wants one."""
        for turns in self._turns.values():
            while turns:
                consumer = turns[0]
                if consumer.wants():
                    turns.rotate(-1)
                    return consumer
                self._paused[turns.popleft()] = None
        self._drop_empty()
        return None


class _SingleActive(_Rotation):
    """One consumer alone is served, until it leaves (x-single-active-consumer).

    The first consumer is served first, whatever its priority. When it leaves, the next one is the first of those with
    the highest priority.
    """

    def __init__(self) -> None:
        super().__init__()
        self._active: QueueConsumer | None = None

    def add(self, consumer: QueueConsumer) -> None:
        self.all.append(consumer)
        if self._active is None:
            self._active = consumer

    def remove(self, consumer: QueueConsumer) -> None:
        self.all.remove(consumer)
        if consumer is self._active:
            self._active = max(self.all, key=lambda waiting: waiting.priority, default=None)

    def pass_on(self, consumer: QueueConsumer) -> None:
        if consumer is self._active:
            others = [other for other in self.all if other is not consumer]
            self._active = max(others, key=lambda waiting: waiting.priority, default=consumer)

    def resume(self, consumer: QueueConsumer) -> None:
        """A consumer is asked each time, so none is paused."""

    def next(self) -> QueueConsumer | None:
        return self._active if self._active is not None and self._active.wants() else None


class Queue:
    """A queue of a virtual host.

    Arguments:
        vhost: the name of the virtual host, for error messages.
        on_dead_letter: called with an entry and a reason ("rejected", "expired" or "maxlen").
        on_unused: called when an auto-delete queue loses its last consumer, and when the time of x-expires is over.
        owner: the session that alone may use an exclusive queue; None for a queue that isn't exclusive.
        arguments: those of queue.declare. Raises PreconditionFailed for one that RabbitMQ refuses.
        rules: what the broker answers otherwise.

    Attributes:
        limits: the arguments that the broker acts on.
        messages: the ready messages, in the order of their delivery; `len(queue)` is their number.
        unacknowledged: the number of messages that are delivered and not settled.
        consumers, consumer_count: the consumers, and their number.
        bytes: of the bodies of the ready messages.
    """

    def __init__(
        self,
        name: str,
        vhost: str,
        clock: Clock,
        memory: MemoryGauge,
        on_dead_letter: Callable[[Entry, str], object],
        on_unused: Callable[[Queue], object],
        durable: bool = False,
        auto_delete: bool = False,
        owner: Any = None,
        arguments: Mapping[str, Any] | None = None,
        rules: Rules = DEFAULT,
    ):
        self.name = name
        self.described = f"queue '{name}' in vhost '{vhost}'"
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner
        self.arguments = dict(arguments or {})
        self.unacknowledged = 0
        self.deleted = False
        self.bytes = 0
        self._clock = clock
        self._memory = memory
        self._on_dead_letter = on_dead_letter
        self._on_unused = on_unused
        self._rules = rules
        self.limits = limits = parse_arguments(self.arguments, self.described, rules.pretended, rules.like)
        self._ttl = limits.ttl
        self._rejects = limits.overflow != "drop-head"
        self._bounded = limits.max_length is not None or limits.max_bytes is not None
        self._plain = limits.ttl is None and not self._bounded
        self._ready = _Ready(1 + limits.max_priority)
        self._rotation = _SingleActive() if limits.single_active else _Rotation()
        self._next_position = 0
        self._arriving: Entry | None = None
        self._expiry: tuple[float, Timer] | None = None
        self._expiring = False  # goes on in a later turn
        self._held = 0  # see `hold`
        self._dispatching = False  # goes on in a later turn
        self._unused_timer: Timer | None = None
        self.touch()

    def __repr__(self) -> str:
        counts = f"{len(self._ready)} ready, {self.unacknowledged} unacknowledged, {self.consumer_count} consumers"
        return f"<Queue {self.name!r}: {counts}>"

    def __len__(self) -> int:
        """The number of ready messages."""
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

    # --- in -----------------------------------------------------------------------------------------------------------

    def push(self, message: Message, ttl: float | None) -> bool:
        """Adds a message at the end, or delivers it at once.

        ttl: the message's own time to live in milliseconds, or None. Returns False if the queue is full and refuses the
        message (x-overflow "reject-publish" or "reject-publish-dlx").
        """
        if self._rejects and self._bounded and self._exceeds_limits(1, len(message.body)):
            if self.limits.overflow == "reject-publish-dlx":
                self._on_dead_letter(self._entry(message, None), "maxlen")
            return False
        if self._plain and ttl is None and not self._ready and not self._held:
            # The fast path, which most messages take: a consumer waits, and the message goes straight to it.
            consumer = self._rotation.next()
            if consumer is not None:
                self._next_position += 1
                entry = Entry(message, self, self._next_position, None)
                if not consumer.no_ack:
                    self._memory.add(entry.memory)
                    self.unacknowledged += 1
                consumer.deliver(entry)
                return True
        entry = self._entry(message, ttl)
        self._ready.append(entry)
        self.bytes += entry.size
        self._memory.add(entry.memory)
        self._arriving = entry  # a message with a TTL of 0 ms may still go to a consumer that waits
        self.dispatch()
        self._arriving = None
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

    def _exceeds_limits(self, messages: int, octets: int) -> bool:
        """Whether the queue would be too long with so many messages and bytes more."""
        length, size = self.limits.max_length, self.limits.max_bytes
        return (length is not None and len(self._ready) + messages > length) or (
            size is not None and self.bytes + octets > size
        )

    def _drop_excess(self) -> None:
        if self._bounded and not self._rejects:
            while len(self._ready) and self._exceeds_limits(0, 0):
                self._drop(self._remove_head(), "maxlen")

    def requeue(self, entries: list[Entry], failed: bool = True) -> None:
        """Makes delivered entries ready again, at their old positions and marked as redelivered.

        failed: a consumer rejected them, or it ended before it settled them; a quorum queue may count this.
        """
        self.unacknowledged -= len(entries)
        if self.deleted:
            for entry in entries:
                self._memory.subtract(entry.memory)
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
        """Delivers ready messages to the consumers that want them."""
        ready, rotation = self._ready, self._rotation
        if self._held:
            return
        left = SLICE
        while ready:
            if not left:
                self._dispatch_later()
                return
            left -= 1
            consumer = rotation.next()
            if consumer is None:
                return
            entry = self._pop()
            if entry is None:
                if ready:
                    self._dispatch_later()
                return
            self._count_delivery(entry, consumer.no_ack)
            consumer.deliver(entry)

    def _dispatch_later(self) -> None:
        if not self._dispatching:
            self._dispatching = True
            self._clock.call_soon(self._dispatch_more)

    def _dispatch_more(self) -> None:
        self._dispatching = False
        if not self.deleted:
            self.dispatch()

    def hold(self, held: bool) -> None:
        """Stops deliveries while many messages return in slices, so that no later message overtakes them."""
        self._held += 1 if held else -1
        if not self._held and not self.deleted:
            self.dispatch()
            self._expire()

    def get(self, no_ack: bool) -> Entry | None:
        """basic.get: removes and returns the first ready entry, None if there is none."""
        self.touch()
        while self._ready:
            entry = self._pop()
            if entry is not None:
                self._count_delivery(entry, no_ack)
                return entry
        return None

    def shown(self, entry: Entry) -> Message:
        """The message of an entry as basic.get answers it."""
        return entry.message

    @property
    def has_expired(self) -> bool:
        """Whether the first ready message has expired. There may be many, which `get` would drop in one turn."""
        head = self._ready.head()
        return head is not None and head.expires is not None and head.expires <= self._clock.time()

    def drop_expired(self) -> Iterator[None]:
        """Drops the expired messages at the head, in slices."""
        dropped = 0
        while not self.deleted and self.has_expired:
            self._drop(self._remove_head(), "expired")
            dropped += 1
            if not dropped % SLICE:
                yield

    def _count_delivery(self, entry: Entry, no_ack: bool) -> None:
        if no_ack:
            self._memory.subtract(entry.memory)
        else:
            self.unacknowledged += 1

    def _pop(self) -> Entry | None:
        """Removes and returns the first ready entry that hasn't expired; drops the expired ones before it.

        The queue has ready entries. Returns None if all of them had expired, or when it has dropped `SLICE` of them.
        """
        left = SLICE
        while True:
            entry = self._remove_head()
            if entry.expires is None or entry is self._arriving or entry.expires > self._clock.time():
                return entry
            self._drop(entry, "expired")
            left -= 1
            if not (left and self._ready):
                return None

    def _remove_head(self) -> Entry:
        entry = self._ready.pop()
        self.bytes -= entry.size
        return entry

    def ack(self, entry: Entry) -> None:
        """The client has acknowledged a delivered entry."""
        self.unacknowledged -= 1
        self._memory.subtract(entry.memory)

    def reject(self, entry: Entry) -> None:
        """The client has rejected a delivered entry without requeueing."""
        self.unacknowledged -= 1
        if self.deleted:
            self._memory.subtract(entry.memory)
        else:
            self._drop(entry, "rejected")

    def _drop(self, entry: Entry, reason: str) -> None:
        """Gives up an entry; dead-letters it where the queue has a dead-letter exchange."""
        self._memory.subtract(entry.memory)
        if self.limits.dead_letter_exchange is not None:
            self._on_dead_letter(entry, reason)

    def purge(self) -> int:
        """Drops all ready messages without dead-lettering them; returns their number."""
        count = len(self._ready)
        self.bytes = 0
        self._free(self._ready.take_all())
        return count

    def _free(self, levels: list[deque[Entry]]) -> None:
        """Frees the memory of dropped messages, a slice in each turn."""
        left = SLICE
        memory = 0
        for level in levels:
            while level and left:
                memory += level.popleft().memory
                left -= 1
        self._memory.subtract(memory)
        if not left:
            self._clock.call_soon(partial(self._free, levels))

    # --- time ---------------------------------------------------------------------------------------------------------

    def _expire(self) -> None:
        """Drops the expired entries at the head, and sets a timer for the next one.

        An expired entry behind one that hasn't expired stays, as in RabbitMQ.
        """
        now = self._clock.time()
        left = SLICE
        while (head := self._ready.head()) is not None and head.expires is not None and head.expires <= now:
            if not left:
                if not self._expiring:
                    self._expiring = True
                    self._clock.call_soon(self._expire_more)
                return
            left -= 1
            self._drop(self._remove_head(), "expired")
        if head is None or head.expires is None:
            return
        if self._expiry is None or self._expiry[0] > head.expires:
            self._cancel_expiry()
            self._expiry = head.expires, self._clock.call_later(head.expires - now, self._expiry_due)

    def _expire_more(self) -> None:
        self._expiring = False
        if not self.deleted:
            self._expire()

    def _expiry_due(self) -> None:
        self._expiry = None
        if not self.deleted:
            self._expire()

    def _cancel_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry[1].cancel()
            self._expiry = None

    def touch(self) -> None:
        """The queue is being used: restarts the time of x-expires, which runs while there are no consumers."""
        if self._unused_timer is not None:
            self._unused_timer.cancel()
            self._unused_timer = None
        lifetime = self.limits.expires
        if lifetime is not None and not self._rotation.all:
            self._unused_timer = self._clock.call_later(lifetime / 1000, self._unused)

    def _unused(self) -> None:
        if not self.deleted:
            self._on_unused(self)

    # --- consumers ----------------------------------------------------------------------------------------------------

    def add_consumer(self, consumer: QueueConsumer) -> None:
        self._rotation.add(consumer)
        self.touch()

    def remove_consumer(self, consumer: QueueConsumer) -> None:
        self._rotation.remove(consumer)
        self.touch()
        if self.auto_delete and not self._rotation.all:
            self._on_unused(self)
        else:
            self.dispatch()

    def pass_on(self, consumer: QueueConsumer) -> None:
        """The consumer gets no messages for a while: another one becomes the single active consumer."""
        self._rotation.pass_on(consumer)

    def resume(self, consumer: QueueConsumer) -> None:
        """Has a paused consumer asked again whether it wants messages."""
        self._rotation.resume(consumer)
        self.dispatch()

    def delete(self) -> int:
        """Ends the queue: cancels its timers and consumers, and drops its messages.

        Returns the number of ready messages dropped. The virtual host forgets the queue before.
        """
        self.deleted = True
        self._cancel_expiry()
        if self._unused_timer is not None:
            self._unused_timer.cancel()
        consumers, self._rotation.all = self._rotation.all, []
        for consumer in consumers:
            consumer.cancelled()
        return self.purge()
