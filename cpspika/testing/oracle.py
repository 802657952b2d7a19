"""The oracle of a simulated run: what programs were told, held against what the broker did.

`Oracle.call` makes every operation of a program, and checks that its `on_done` is called once, in order, and never
inside the call. `WatchedBroker` tells the oracle which publishes arrived, which it confirmed, what it delivered and
what was settled. A broken rule goes to `failures`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any

from ..broker.channel import ServerChannel
from ..broker.queues import Entry, Queue
from ..broker.server import Broker
from ..broker.session import Session
from ..errors import (
    AMQPError,
    ChannelClosed,
    ConnectionClosed,
    DeliveryUnknown,
    MessageNacked,
    MessageReturned,
    OperationTimeout,
    OutcomeUnknown,
)
from ..reactor import Transport
from ..recovery.options import Resent
from ..wire.message import Message
from .network import Network

AT_ONCE = ("tx.commit", "tx.rollback", "basic.recover", "basic.cancel")
"""The operations that recovery settles when the link is lost, as OutcomeUnknown too. Earlier operations may be asked
again."""

GONE = (ChannelClosed, ConnectionClosed, DeliveryUnknown)
MISTAKEN = "no such "  # begins the names of things that don't exist and that a program asks for
OF_MISTAKES = (MISTAKEN, "inequivalent")  # in what the broker says of a mistake
MOST_FAILURES = 20  # one mistake breaks many rules


class Stream:
    """The operations of one channel (or connection) of a program, in order. patience: the `operation_timeout` of a
    connection that recovers.

    fifo: those that wait for replies, which come in order. open: the number of all that wait. ended: the order of the
    last one that the channel's end settled."""

    def __init__(self, name: str, patience: float = 0.0):
        self.name = name
        self.patience = patience
        self.fifo: deque[Asked] = deque()
        self.open = 0
        self.ended = -1
        self.is_open = True
        self.publishes = 0
        self.last_arrived: Counter[int] = Counter()  # by wire: the index behind the last publish


class Asked:
    """An operation that a program asked for."""

    __slots__ = ("calls", "fifo", "inside", "kind", "mistaken", "order", "refused", "since", "stream", "then")

    def __init__(self, kind: str, stream: Stream, order: int, refused: bool, fifo: bool, then: Any):
        self.kind = kind
        self.stream = stream
        self.order = order
        self.refused = refused
        self.fifo = fifo
        self.then = then
        self.since = 0.0
        self.mistaken = False
        self.inside = True
        self.calls = 0

    def __repr__(self) -> str:
        return f"{self.kind} (operation {self.order} of {self.stream.name})"


class Sent:
    """A publish of a program, and what became of it.

    outcome: "confirmed", "refused", "returned", "unknown", "failed" (it wasn't sent), "committed", "rolled back",
    or None. place: (exchange, routing key, mandatory), as it was published. confirming: the broker confirms it.
    again: it may be sent again then. mark: the header of copies, "" for none. marks: of the copies that arrived. wire:
    over which the last one arrived. mistaken: there is no such exchange.
    acked, nacked, returned, arrived, delivered: by the broker, how often. handed: to handlers, how often. excused:
    it may be lost, since its queue was purged or deleted, or since the broker crashed and it wasn't persistent."""

    __slots__ = (
        "acked",
        "again",
        "arrived",
        "confirming",
        "delivered",
        "excused",
        "handed",
        "index",
        "mark",
        "marks",
        "mistaken",
        "nacked",
        "number",
        "outcome",
        "persistent",
        "place",
        "returned",
        "routed",
        "stream",
        "wire",
    )

    def __init__(self, number: int, stream: Stream, place: tuple[str, str, bool], persistent: bool, confirming: bool):
        self.number = number
        self.stream = stream
        self.place = place
        self.confirming = confirming
        self.mark = ""
        self.marks: set[int] = set()
        self.wire = -1
        self.again = True
        self.index = stream.publishes
        stream.publishes += 1
        self.persistent = persistent
        self.outcome: str | None = None
        self.arrived = self.acked = self.nacked = self.returned = self.delivered = self.handed = 0
        self.routed = self.mistaken = False
        self.excused = False

    def __repr__(self) -> str:
        return f"message {self.number} (publish {self.index} of {self.stream.name})"


class Oracle:
    """Notes what happens, and checks it.

    net: tells over which wire bytes arrive. recovery: the programs use `recovery`. trace: gets lines, if it is a list.
    """

    def __init__(self, net: Network, recovery: bool = False, trace: list[str] | None = None):
        self.net = net
        self.recovery = recovery
        self.trace = trace
        self.failures: list[str] = []
        self.sent: list[Sent] = []
        self.asked: dict[Asked, None] = {}  # not settled yet
        self.settled = 0
        self.crashes = 0
        self.deletions: set[str] = set()  # of queues, but for crashes
        self._order = 0
        # (wire, consumer tag or channel number of a get): what the broker delivered, and what handlers got of it.
        self._delivered: dict[tuple[int, Any], deque[tuple[int, bool]]] = {}
        self._first: dict[tuple[Stream, str, int], int] = {}  # the last publish delivered first, by queue and wire
        self._seen: set[tuple[int, str]] = set()  # messages that a queue has delivered
        self._wanted: Counter[tuple[int, int, str]] = Counter()  # (wire, message, outcome) that handlers asked for
        self.purges: Counter[str] = Counter()  # that programs asked for, by queue, less those that arrived
        self.gone = 0  # messages that the broker has given to a basic.get with no_ack, and that nobody was handed
        self._acked: dict[tuple[int, str], int] = {}  # (message, queue) that was acked, and the crashes until then

    def fail(self, text: str) -> None:
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(f"{self.net.reactor.time():.3f} s: {text}")
        self.note("FAILED", text)

    def note(self, *what: Any) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.net.reactor.time():9.3f}  " + " ".join(map(str, what)))

    # --- operations ---------------------------------------------------------------------------------------------------

    def call(
        self,
        kind: str,
        stream: Stream,
        is_open: bool,
        function: Callable[..., Any],
        *arguments: Any,
        then: Callable[[AMQPError | None, Any], object] | None = None,
        fifo: bool = True,
        mistaken: bool = False,
        **options: Any,
    ) -> AMQPError | None:
        """Calls an operation with an `on_done` that is watched.

        is_open: the channel is open, so the operation isn't refused. then(err, result): called by on_done. fifo: its
        reply comes in the order of the operations. mistaken: the broker will refuse it. Returns the error that the call
        raised.
        """
        self._order += 1
        asked = Asked(kind, stream, self._order, not is_open, fifo and is_open, then)
        asked.since, asked.mistaken = self.net.reactor.time(), mistaken
        if asked.fifo:
            stream.fifo.append(asked)
        stream.open += is_open
        self.asked[asked] = None
        try:
            function(*arguments, on_done=partial(self._done, asked), **options)
        except AMQPError as error:
            self.asked.pop(asked, None)
            stream.open -= is_open
            if asked.fifo:
                stream.fifo.remove(asked)
            self.note(stream.name, kind, "raised", repr(error))
            return error
        asked.inside = False
        return None

    def _done(self, asked: Asked, error: AMQPError | None, result: Any) -> None:
        asked.calls += 1
        self.settled += 1
        if self.trace is not None:
            self.note(asked.stream.name, asked.kind, asked.order, "->", repr(error) if error is not None else result)
        if asked.inside:
            self.fail(f"on_done was called inside the call: {asked}")
        if asked.calls > 1:
            self.fail(f"on_done was called {asked.calls} times: {asked}")
            return
        self.asked.pop(asked, None)
        if error is not None:
            self._check_error(asked, error, result)
        stream = asked.stream
        if not asked.refused:
            stream.open -= 1
            if asked.fifo:
                if stream.fifo and stream.fifo[0] is asked:
                    stream.fifo.popleft()
                elif self.recovery and (isinstance(error, OutcomeUnknown) or asked.kind in AT_ONCE):
                    stream.fifo.remove(asked)
                else:
                    self.fail(f"settled before {stream.fifo[0] if stream.fifo else 'nothing'}: {asked}")
                    if asked in stream.fifo:
                        stream.fifo.remove(asked)
            behind_setup = asked.kind == "channel.open" and not asked.fifo
            if isinstance(error, GONE) and not self.recovery and not behind_setup:
                if asked.order < stream.ended:
                    self.fail(f"the end settled a later operation before this: {asked}")
                stream.ended = asked.order
        if asked.then is not None:
            asked.then(error, result)

    def _check_error(self, asked: Asked, error: AMQPError, result: Any) -> None:
        if result is not None:
            self.fail(f"on_done got an error and a result: {asked}")
        if isinstance(error, OperationTimeout) and self.recovery:
            waited = self.net.reactor.time() - asked.since
            if waited < asked.stream.patience - 0.001:
                self.fail(f"it failed after {waited:.3f} s, and may wait {asked.stream.patience:g} s: {asked}")
            return
        # An operation that the end of its channel has cut off gets an error without a code, or one of these.
        blamed = error.code is not None and not isinstance(error, (DeliveryUnknown, OutcomeUnknown))
        if blamed and not asked.mistaken and any(words in error.text for words in OF_MISTAKES):
            self.fail(f"it was blamed for the mistake of another operation ({error!r}): {asked}")

    def ended(self, stream: Stream) -> None:
        """The handlers are told of the end of a channel or connection."""
        if stream.open:
            waiting = [asked for asked in self.asked if asked.stream is stream and not asked.refused]
            self.fail(f"{stream.name} has ended, and {waiting[0] if waiting else 'something'} still waits")

    # --- publishes ----------------------------------------------------------------------------------------------------

    def publish(
        self, stream: Stream, exchange: str, key: str, mandatory: bool, persistent: bool, confirming: bool
    ) -> Sent:
        sent = Sent(len(self.sent), stream, (exchange, key, mandatory), persistent, confirming)
        self.sent.append(sent)
        return sent

    def fate(self, sent: Sent, error: AMQPError | None, result: Any) -> None:
        """A confirmed publish was settled: what the program is told must be what the broker decided."""
        if error is None:
            sent.outcome = "confirmed"
            copies = result.times if isinstance(result, Resent) else 0
            if not result or sent.arrived > 1 + copies:
                self.fail(f"confirmed with {result!r}, and it arrived {sent.arrived} times: {sent}")
            if not sent.acked:
                self.fail(f"confirmed, and the broker didn't: {sent}")
            if sent.returned and not self.recovery:
                self.fail(f"confirmed, and the broker returned it: {sent}")
        elif isinstance(error, MessageReturned):
            sent.outcome = "returned"
            body = error.message.body if error.message is not None else b""
            if not sent.returned or number_of(body) != sent.number:
                self.fail(f"a return was given to the wrong publish: {sent}")
            self._all_refused(sent)
        elif isinstance(error, MessageNacked):
            sent.outcome = "refused"
            if not sent.nacked:
                self.fail(f"refused, and the broker didn't: {sent}")
            self._all_refused(sent)
        elif isinstance(error, DeliveryUnknown):
            sent.outcome = "unknown"
        else:
            sent.outcome = "failed"
            if sent.arrived and not sent.mistaken:
                self.fail(f"it was sent, and its error says otherwise ({error!r}): {sent}")

    def _all_refused(self, sent: Sent) -> None:
        if sent.arrived > sent.nacked + sent.returned:
            self.fail(f"refused, though the broker may have taken an earlier copy: {sent}")

    # --- the broker's side --------------------------------------------------------------------------------------------

    def arrived(self, wire: int, message: Message) -> Sent:
        """A publish arrives at the broker. A link that its client has given up may still bring bytes, also behind the
        copies that the next link has brought."""
        sent = self.sent[number_of(message.body)]
        sent.arrived += 1
        sent.wire = wire
        if (message.exchange, message.routing_key, bool(message.details.get("mandatory"))) != sent.place:
            self.fail(f"it arrived otherwise than it was published: {sent}")
        if sent.arrived > 1 and not (sent.confirming and sent.again):
            self.fail(f"it must not be sent again, and arrived twice: {sent}")
        if sent.mark:
            mark = (message.properties.headers or {}).get(sent.mark, 0)
            if mark in sent.marks:
                self.fail(f"two copies arrived with the mark {mark}: {sent}")
            sent.marks.add(mark)
        before = sent.stream.last_arrived
        if sent.index < before[wire] and not (self.recovery and sent.arrived > 1):
            self.fail(f"it arrived out of order, or twice: {sent}")
        before[wire] = max(before[wire], sent.index + 1)
        return sent

    def delivered(self, wire: int, place: Any, queue: str, message: Message, redelivered: bool, no_ack: bool) -> None:
        """The broker delivers a message. place: the consumer's tag, or the channel's number for a get."""
        number = number_of(message.body)
        sent = self.sent[number]
        sent.delivered += 1
        first_is_gone = sent.excused  # an earlier copy may have been purged
        if no_ack:
            sent.excused = True  # the link may lose it
            self.gone += isinstance(place, int)
        if sent.outcome in ("rolled back", "failed"):
            self.fail(f"delivered, though {sent.outcome}: {sent}")
        self._delivered.setdefault((wire, self._place(place)), deque()).append((number, redelivered))
        if (number, queue) not in self._seen:
            self._seen.add((number, queue))
            last = self._first.get((sent.stream, queue, sent.wire), -1)
            if sent.index < last and not (self.recovery and (self.crashes or first_is_gone)):
                self.fail(f"{queue} delivered its first copy behind that of a later publish: {sent}")
            self._first[sent.stream, queue, sent.wire] = sent.index
        crashes = self._acked.get((number, queue))
        if crashes is not None and crashes == self.crashes and sent.arrived < 2:
            self.fail(f"{queue} delivered it although it was acked: {sent}")

    def _place(self, place: Any) -> Any:
        """A recovering channel has another number on each link, so all gets over one wire are taken together."""
        return 0 if self.recovery and isinstance(place, int) else place

    def settles(self, wire: int, entry: Entry, outcome: str) -> None:
        """The broker settles a delivery at a client's word."""
        number = number_of(entry.message.body)
        if outcome == "ack":
            self._acked[number, entry.queue.name] = self.crashes
        key = wire, number, outcome
        if self._wanted[key] <= 0:
            self.fail(f"the broker was told to {outcome} what no handler did: {self.sent[number]} over wire {wire}")
        self._wanted[key] -= 1

    def purge_arrived(self, name: str, queue: Queue | None) -> None:
        self.purges[name] -= 1
        if self.purges[name] < 0:
            self.fail(f"{name!r} was purged more often than a program asked")
        if queue is not None:
            self.purged(queue)

    def purged(self, queue: Queue) -> None:
        """The queue's ready messages are dropped."""
        for message in queue.messages:
            self.sent[number_of(message.body)].excused = True

    def deleted(self, queue: Queue, broker: Broker) -> None:
        """The queue's messages are dropped; those that were delivered and not settled don't come back."""
        self.purged(queue)
        for session in broker.sessions:
            for channel in session.channels.values():
                for _, delivery in channel.unsettled:
                    if delivery.entry.queue is queue:
                        self.sent[number_of(delivery.entry.message.body)].excused = True

    def crashed(self, broker: Broker) -> None:
        """The broker is about to crash: what isn't safe may be lost."""
        self.crashes += 1
        for sent in self.sent:
            if not sent.persistent:
                sent.excused = True
        for queue in broker.queues.values():
            if not queue.durable:
                self.deleted(queue, broker)

    # --- handlers -----------------------------------------------------------------------------------------------------

    def handed(self, wire: int, place: Any, message: Message) -> Sent:
        """A handler, or a get, is given a message."""
        number = number_of(message.body)
        sent = self.sent[number]
        sent.handed += 1
        log = self._delivered.get((wire, self._place(place)))
        if not log:
            self.fail(f"handed out, and the broker didn't deliver it there: {sent}")
        else:
            expected = log.popleft()
            while self.recovery and log and expected != (number, message.redelivered):
                expected = log.popleft()
            if expected != (number, message.redelivered):
                self.fail(f"handed out {sent}, redelivered={message.redelivered}, and the broker sent {expected}")
        return sent

    def wants(self, wire: int, number: int, outcome: str) -> None:
        """A handler settles a message that came over a wire."""
        self._wanted[wire, number, outcome] += 1

    # --- at rest ------------------------------------------------------------------------------------------------------

    def at_rest(self, broker: Broker) -> None:
        """Checks what must be so when nothing happens any more, and all queues are consumed."""
        for asked in self.asked:
            self.fail(f"on_done was never called: {asked}")
        if self.gone > 0:
            self.fail(f"{self.gone} messages of a basic.get with no_ack are gone, and nobody was told")
        for sent in self.sent:
            if sent.outcome == "committed" and not sent.arrived:
                self.fail(f"committed, and it never arrived: {sent}")
            kept = sent.outcome in ("confirmed", "committed") and sent.routed
            if kept and not (sent.handed or sent.excused):
                self.fail(f"{sent.outcome} and lost: {sent}")
        for queue in broker.queues.values():
            if len(queue) or queue.unacknowledged:
                self.fail(f"messages are left in {queue!r}")
        if broker.sessions:
            self.fail(f"the broker has sessions that nobody has: {list(broker.sessions)}")
        if broker.memory.bytes:
            self.fail(f"the broker counts {broker.memory.bytes} bytes of messages, and has none")


def number_of(body: bytes) -> int:
    """The number of a message, with which its body begins."""
    return int(body[: body.index(b"|")])


class WatchedBroker(Broker):
    """A broker that tells the oracle what it does."""

    oracle: Oracle

    def accept(self, transport: Transport) -> Session:
        return _WatchedSession(self, transport)

    def _crash(self) -> None:
        if self.is_running:
            self.oracle.crashed(self)
        super()._crash()

    def _queue_deleted(self, queue: Queue) -> None:  # type: ignore[override]
        self.oracle.deleted(queue, self)
        self.oracle.deletions.add(queue.name)
        super()._queue_deleted(queue)


class _WatchedSession(Session):
    broker: WatchedBroker

    def __init__(self, broker: WatchedBroker, transport: Any):
        super().__init__(broker, transport)
        self.wire: int = transport.wire.number
        self._unconfirmed: dict[ServerChannel, dict[int, Sent]] = {}
        self._count: dict[ServerChannel, int] = {}
        self._gets: dict[int, deque[str]] = {}  # by channel: the queues of gets without a reply yet

    def _handle_channel(self, number: int, event: Any) -> None:
        oracle, name = self.broker.oracle, event.name
        channel = self.channels.get(number)
        if channel is not None and not channel.closing:
            if name == "basic.publish":
                self._arrived(oracle, channel, event)
            elif name in ("basic.ack", "basic.nack", "basic.reject"):
                self._settles(oracle, channel, event)
            elif name == "confirm.select":
                self._unconfirmed.setdefault(channel, {})
                self._count.setdefault(channel, 0)
            elif name == "basic.get":
                self._gets.setdefault(number, deque()).append(event.queue or channel.last_queue)
            elif name == "queue.purge":
                oracle.purge_arrived(event.queue, self.vhost.queues.get(event.queue))
        super()._handle_channel(number, event)

    def _arrived(self, oracle: Oracle, channel: ServerChannel, message: Message) -> None:
        sent = oracle.arrived(self.wire, message)
        exchange = self.vhost.exchanges.get(message.exchange)
        if exchange is not None and self.vhost.route(exchange, message):
            sent.routed = True
        if channel in self._count:
            self._count[channel] += 1
            self._unconfirmed[channel][self._count[channel]] = sent

    def _settles(self, oracle: Oracle, channel: ServerChannel, event: Any) -> None:
        tag, multiple = event.delivery_tag, event.arguments.get("multiple", False)
        outcome = "ack"
        if event.name != "basic.ack":
            outcome = "requeue" if event.requeue else "reject"
        for known, delivery in channel.unsettled:
            if known == tag or (multiple and (known < tag or not tag)):
                oracle.settles(self.wire, delivery.entry, outcome)

    def send(self, number: int, name: str, arguments: dict[str, Any]) -> None:
        if name in ("basic.ack", "basic.nack"):
            channel = self.channels.get(number)
            if channel is not None:
                self._decide(channel, name, arguments["delivery_tag"], arguments["multiple"])
        elif name == "basic.get-empty":
            self._gets[number].popleft()
        elif name in ("channel.close", "channel.close-ok"):
            self._gets.pop(number, None)
        super().send(number, name, arguments)

    def _decide(self, channel: ServerChannel, name: str, tag: int, multiple: bool) -> None:
        waiting = self._unconfirmed.get(channel, {})
        for number in [number for number in waiting if number == tag or (multiple and number < tag)]:
            sent = waiting.pop(number)
            if name == "basic.ack":
                sent.acked += 1
            else:
                sent.nacked += 1

    def send_content(self, number: int, name: str, arguments: dict[str, Any], message: Message) -> None:
        oracle = self.broker.oracle
        if name == "basic.return":
            oracle.sent[number_of(message.body)].returned += 1
        elif name == "basic.get-ok":
            channel = self.channels[number]
            tag = arguments["delivery_tag"]
            no_ack = all(known != tag for known, _ in channel.unsettled)
            queue = self._gets[number].popleft()
            oracle.delivered(self.wire, number, queue, message, arguments["redelivered"], no_ack)
        super().send_content(number, name, arguments, message)

    def fast_deliverer(self, number: int, consumer_tag: str) -> Any:
        return _WatchedDeliverer(self, number, consumer_tag, super().fast_deliverer(number, consumer_tag))


class _WatchedDeliverer:
    """Encodes deliveries for a consumer, and tells the oracle."""

    def __init__(self, session: _WatchedSession, number: int, tag: str, fast: Any):
        self._session = session
        self._number = number
        self._tag = tag
        self._fast = fast

    def deliver(self, delivery_tag: int, redelivered: bool, envelope: Any, body: bytes) -> Any:
        session = self._session
        consumer = session.channels[self._number].consumers[self._tag]
        message = Message(envelope, delivery_tag, body)
        session.broker.oracle.delivered(
            session.wire, self._tag, consumer.queue.name, message, redelivered, consumer.no_ack
        )
        return self._fast.deliver(delivery_tag, redelivered, envelope, body)
