"""A channel, seen from the broker: its consumers, unsettled deliveries, confirms and transaction.

A delivery is settled when the client acknowledges, rejects or requeues it. A delivery without acknowledgement (no_ack)
counts as settled at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, Protocol

from ..errors import AMQPError
from ..wire.backlog import Backlog
from ..wire.delivery_tags import Window
from ..wire.fast_send import FastDeliverer
from ..wire.message import Message
from .ack_timeouts import AckTimeouts, Expired
from .queues import SLICE, Clock, Entry, Queue
from .refusal import precondition_failed
from .store import Store
from .virtual_host import unique_name

REPLY_TO = "amq.rabbitmq.reply-to"
_TOO_LATE = (
    "delivery acknowledgement on channel {} timed out. Timeout value used: {} ms. "
    "This timeout value can be configured, see consumers doc guide to learn more"
)


class SessionServices(Protocol):
    """The session, as its channels see it."""

    backlog: Backlog[None]  # congested: the client reads slowly, so its consumers get no more messages
    uncommitted: int  # bytes of messages in transactions that aren't committed
    clock: Clock

    @property
    def is_open(self) -> bool: ...
    @property
    def capabilities(self) -> dict[str, Any]: ...
    def send(self, number: int, name: str, arguments: dict[str, Any]) -> None: ...
    def send_content(self, number: int, name: str, arguments: dict[str, Any], message: Message) -> None: ...
    def fast_deliverer(self, number: int, consumer_tag: str) -> FastDeliverer: ...
    def write(self, chunks: Any) -> None: ...
    def confirm_soon(self, channel: ServerChannel) -> None:
        """Calls the channel's `confirm_all` when the received data is handled."""

    def close_channel(self, channel: ServerChannel, code: int, text: str) -> None: ...
    def ack_limit(self, queue: Queue, arguments: Mapping[str, Any] = ...) -> float | None:
        """The seconds for which a client may hold a delivery of a queue; None for no limit.

        arguments: those of the consumer.
        """

    def run_long(self, steps: Iterator[object], refuse: Callable[[AMQPError], object] | None = None) -> None:
        """Makes long work in slices."""

    @property
    def cancels_late(self) -> bool:
        """Whether a consumer that holds a delivery too long is cancelled; else its channel is closed."""

    def expect_replies(self, token: str, channel: ServerChannel | None) -> None:
        """Registers the channel for replies to this token of direct reply-to; None ends the registration."""

    @property
    def store(self) -> Store: ...
    def token_bytes(self, count: int) -> bytes: ...
    def nacks_now(self) -> bool: ...
    def call_soon(self, call: Callable[[], object]) -> None: ...
    def call(self, call: Callable[[], object]) -> object:
        """Makes the call in the broker's thread."""

    def drop_now(self) -> None: ...


def _send_delivery(
    session: SessionServices, fast: FastDeliverer, delivery_tag: int, redelivered: bool, message: Message
) -> None:
    """Writes a basic.deliver."""
    try:
        session.write(fast.deliver(delivery_tag, redelivered, message.envelope, message.body))
    except AMQPError:
        # The method or the message's header is longer than this client's frame_max. This may be inside the call of a
        # publisher, which must not notice; so the consumer's link is cut in the next turn.
        session.call_soon(session.drop_now)


class Consumer:
    """A consumer of a channel; fulfils `queues.QueueConsumer`.

    `prefetch`: the channel's at the time of basic.consume, 0 for no limit. `ack_limit`: the seconds for which the
    client may hold a delivery, or None. `late`: the number of deliveries that the client held longer and hasn't settled
    yet; while there are any, the consumer gets no messages.
    """

    def __init__(
        self,
        channel: ServerChannel,
        queue: Queue,
        tag: str,
        no_ack: bool,
        exclusive: bool,
        arguments: Mapping[str, Any],
    ):
        self.channel = channel
        self.queue = queue
        self.tag = tag
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.priority: int = arguments.get("x-priority", 0)
        self.prefetch = channel.prefetch
        self.unacknowledged = 0
        self.late = 0
        self.ack_limit = channel.session.ack_limit(queue, arguments)
        if not no_ack:
            channel.timeouts.expect(self.ack_limit)
        self._fast = channel.session.fast_deliverer(channel.number, tag)

    def __repr__(self) -> str:
        return f"<Consumer {self.tag!r} of {self.queue.name!r}, {self.unacknowledged} unacknowledged>"

    def wants(self) -> bool:
        channel = self.channel
        if channel.session.backlog.congested or channel.ended:
            return False
        if self.no_ack:
            return True
        if self.late or (self.prefetch and self.unacknowledged >= self.prefetch):
            return False
        return not channel.global_prefetch or channel.unacknowledged < channel.global_prefetch

    def deliver(self, entry: Entry) -> None:
        channel = self.channel
        tag = channel.record_delivery(entry, self, self.no_ack)
        _send_delivery(channel.session, self._fast, tag, entry.redelivered, entry.message)

    def cancelled(self) -> None:
        """The queue is deleted: sends basic.cancel, if the client has the capability "consumer_cancel_notify"."""
        self.channel.consumers.pop(self.tag, None)
        # The client itself may be deleting the queue; basic.cancel follows the delete-ok then.
        self.channel.session.call_soon(self.send_cancel)

    @property
    def can_be_cancelled(self) -> bool:
        """Whether the client expects basic.cancel."""
        return bool(self.channel.session.capabilities.get("consumer_cancel_notify"))

    def send_cancel(self) -> None:
        session = self.channel.session
        if session.is_open and self.channel.is_open and self.can_be_cancelled:
            session.send(self.channel.number, "basic.cancel", {"consumer_tag": self.tag, "no_wait": True})

    def stop(self) -> None:
        """Leaves the queue."""
        if not self.queue.deleted:
            self.queue.remove_consumer(self)


class Delivery(NamedTuple):
    """An unsettled delivery; `consumer` is None for one of basic.get."""

    entry: Entry
    consumer: Consumer | None
    tag: int


class _Transaction(NamedTuple):
    """A transaction that isn't committed."""

    publishes: list[Callable[[], bool]]  # each returns False if a queue refused the message
    settlements: list[tuple[str, list[Delivery]]]  # each with its outcome
    settled: list[Delivery]  # a rollback makes these unsettled again


class _ReplyConsumer(NamedTuple):
    """The channel's consumer of direct reply-to; `token`: the part of its address that is unique."""

    tag: str
    token: str
    fast: FastDeliverer


class ServerChannel:
    """A channel of a session.

    `consumers`: by tag. `prefetch`: the limit of each consumer that starts from now on. `global_prefetch`: the limit
    of all consumers together. Both are numbers of unacknowledged messages, 0 for no limit. `flow`: False while
    channel.flow forbids the client to publish. `published`: the client has published on this channel. `closing`: the
    broker has sent channel.close and waits for close-ok; until then its consumers get messages, as with RabbitMQ.
    """

    def __init__(self, session: SessionServices, number: int):
        self.session = session
        self.number = number
        self.consumers: dict[str, Consumer] = {}
        self.unsettled: Window[Delivery] = Window()
        self.unacknowledged = 0  # deliveries to its consumers that are not settled
        self.closing = False
        self.ended = False
        self.prefetch = 0
        self.global_prefetch = 0
        self.last_queue = ""
        self.flow = True
        self.published = False
        self._confirming = False
        self._next_publish = 1
        self._confirms: list[tuple[int, bool]] = []  # publish number, and True for an ack, False for a nack
        self._store = session.store
        self._unsafe: dict[int, bool] = {}  # confirms that wait for the store, by publish number
        self._transaction: _Transaction | None = None
        self._uncommitted = 0  # bytes of the transaction's messages
        self._replies: _ReplyConsumer | None = None
        self.timeouts = AckTimeouts(session.clock, self.unsettled, self._ack_limit, self._held_too_long)
        self._late: dict[
            int, Consumer
        ] = {}  # the deliveries that were taken back, by tag, until the client settles them

    def __repr__(self) -> str:
        return f"<ServerChannel {self.number}, {len(self.consumers)} consumers, {len(self.unsettled)} unsettled>"

    @property
    def is_open(self) -> bool:
        return not (self.closing or self.ended)

    def close(self, code: int = 320, text: str = "CONNECTION_FORCED - closed by hand") -> None:
        """Closes the channel from the broker's side; may be called from any thread.

        code: reply code. text: reply text, with or without the name of the code ("NOT_FOUND - ...") before it.
        """
        self.session.call(lambda: self.session.close_channel(self, code, text.partition(" - ")[2] or text))

    # --- deliveries ---------------------------------------------------------------------------------------------------

    def set_prefetch(self, count: int, global_: bool) -> None:
        """basic.qos, with RabbitMQ's meaning of its argument `global`.

        global_: True sets the limit of the whole channel; False sets that of each consumer which starts from now on.
        """
        if global_:
            self.global_prefetch = count
        else:
            self.prefetch = count

    def record_delivery(self, entry: Entry, consumer: Consumer | None, no_ack: bool) -> int:
        """Counts a delivery that is about to be sent; returns its delivery tag."""
        if no_ack:
            return self.unsettled.skip()
        if consumer is not None:
            consumer.unacknowledged += 1
            self.unacknowledged += 1
        tag = self.unsettled.add(Delivery(entry, consumer, self.unsettled.next_tag))
        if not self.timeouts.running:
            self.timeouts.start()
        return tag

    def settle(self, outcome: str, tag: int, multiple: bool) -> None:
        """Settles one delivery, or with `multiple` all up to it; in a transaction, at the commit.

        outcome: "ack", "reject", "requeue", or "failed" to requeue what a consumer failed to handle. tag: delivery tag;
        0 with `multiple` means all deliveries. Raises PreconditionFailed for a tag that isn't unsettled.
        """
        try:
            if multiple and tag and not self.unsettled.has(tag) and tag not in self._late:
                raise KeyError(tag)
            deliveries = self.unsettled.settle(tag, multiple)
        except KeyError:
            if tag not in self._late:
                raise precondition_failed(f"unknown delivery tag {tag}") from None
            deliveries = []
        if self._late:
            self._settle_late(outcome, tag, multiple)
        if self._transaction is not None:
            self._transaction.settlements.append((outcome, deliveries))
            self._transaction.settled.extend(deliveries)
        elif len(deliveries) <= SLICE:
            self._settle_now(outcome, deliveries)
        else:
            self.session.run_long(self._settling(outcome, deliveries))

    def _settling(self, outcome: str, deliveries: list[Delivery]) -> Iterator[None]:
        """Settles many deliveries in slices. Messages return the last one first, and are held until all have."""
        if len(deliveries) <= SLICE:
            self._settle_now(outcome, deliveries)
            return
        returning = outcome not in ("ack", "reject")
        queues = {delivery.entry.queue for delivery in deliveries} if returning else set()
        for queue in queues:
            queue.hold(True)
        starts = range(0, len(deliveries), SLICE)
        for at in reversed(starts) if returning else starts:
            self._settle_now(outcome, deliveries[at : at + SLICE])
            yield
        for queue in queues:
            queue.hold(False)

    def _settle_now(self, outcome: str, deliveries: list[Delivery]) -> None:
        freed: dict[Consumer, None] = {}
        requeued: dict[Queue, list[Entry]] = {}
        for entry, consumer, _ in deliveries:
            if consumer is not None:
                consumer.unacknowledged -= 1
                self.unacknowledged -= 1
                freed[consumer] = None
            if outcome == "ack":
                entry.queue.ack(entry)
            elif outcome == "reject":
                entry.queue.reject(entry)
            else:
                requeued.setdefault(entry.queue, []).append(entry)
        for queue, entries in requeued.items():
            queue.requeue(entries, outcome == "failed")
        if self.global_prefetch:
            self.resume_consumers()
        else:
            for consumer in freed:
                consumer.queue.resume(consumer)

    # --- deliveries that are held too long ----------------------------------------------------------------------------

    def _ack_limit(self, delivery: Delivery) -> float | None:
        entry, consumer, _ = delivery
        return consumer.ack_limit if consumer is not None else self.session.ack_limit(entry.queue)

    def _held_too_long(self, expired: Expired) -> None:
        """Takes the deliveries back from consumers that can be cancelled; else closes the channel."""
        if not self.is_open:
            return
        late: dict[Consumer, list[Delivery]] = {}
        for _, delivery, limit in expired:
            consumer = delivery.consumer
            if consumer is None or not (self.session.cancels_late and consumer.can_be_cancelled):
                self.session.close_channel(self, 406, _TOO_LATE.format(self.number, round(limit * 1000)))
                self.end()  # a client that is stuck doesn't answer; others get its messages
                return
            late.setdefault(consumer, []).append(delivery)
        for consumer, deliveries in late.items():
            self._take_back(consumer, deliveries)

    def _take_back(self, consumer: Consumer, deliveries: list[Delivery]) -> None:
        """Sends basic.cancel to a consumer, and requeues deliveries that it held too long.

        As in RabbitMQ 4.3, the consumer keeps its tag, and gets messages again when all these deliveries are settled.
        It ends when the client answers with cancel-ok.
        """
        for delivery in deliveries:
            self.unsettled.settle(delivery.tag)
            self._late[delivery.tag] = consumer
        consumer.late += len(deliveries)
        consumer.send_cancel()
        consumer.queue.pass_on(consumer)
        self._settle_now("requeue", deliveries)

    def _settle_late(self, outcome: str, tag: int, multiple: bool) -> None:
        """The client has settled deliveries that were taken back from it; nothing comes of it for their messages.

        When it has acknowledged or rejected all of them, the consumer gets messages again. As in RabbitMQ 4.3, it
        doesn't when the client requeued some.
        """
        tags = [late for late in self._late if not tag or late <= tag] if multiple else [tag]
        for late in tags:
            consumer = self._late.pop(late, None)
            if consumer is not None and outcome in ("ack", "reject"):
                consumer.late -= 1
                if not consumer.late and self.consumers.get(consumer.tag) is consumer:
                    self.session.call_soon(partial(consumer.queue.resume, consumer))

    def cancelled_late(self, tag: str) -> None:
        """The client has answered basic.cancel: ends the consumer, if it is one that held a delivery too long."""
        consumer = self.consumers.get(tag)
        if consumer is not None and consumer.late:
            del self.consumers[tag]
            consumer.stop()

    def recover(self) -> Iterator[None]:
        """Requeues all unsettled deliveries, in slices."""
        yield from self._settling("requeue", self.unsettled.settle(0, multiple=True))

    def resume_consumers(self) -> None:
        """Has the queues ask the channel's consumers again: a limit that stopped them may have changed."""
        for consumer in list(self.consumers.values()):
            consumer.queue.resume(consumer)

    # --- direct reply-to ----------------------------------------------------------------------------------------------

    def consume_replies(self, tag: str, no_ack: bool) -> None:
        """Starts the consumer of direct reply-to. A channel has one at most, and it cannot acknowledge."""
        if not no_ack:
            raise precondition_failed("reply consumer cannot acknowledge")
        if self._replies is not None:
            raise precondition_failed("reply consumer already set")
        self._replies = _ReplyConsumer(
            tag, unique_name("", self.session.token_bytes), self.session.fast_deliverer(self.number, tag)
        )
        self.session.expect_replies(self._replies.token, self)

    def cancel_replies(self, tag: str) -> None:
        """Ends the consumer of direct reply-to, if it has this tag."""
        if self._replies is not None and self._replies.tag == tag:
            self.session.expect_replies(self._replies.token, None)
            self._replies = None

    def reply_address(self) -> str:
        """The routing key of replies to this channel, which replaces "amq.rabbitmq.reply-to" in a request."""
        if self._replies is None:
            raise precondition_failed("fast reply consumer does not exist")
        return f"{REPLY_TO}.{self._replies.token}"

    def reply(self, message: Message) -> None:
        """Delivers a reply to the consumer of direct reply-to."""
        if self._replies is not None:
            # As in RabbitMQ, a reply takes no number of its own: nobody acknowledges it.
            _send_delivery(self.session, self._replies.fast, self.unsettled.next_tag, False, message)

    # --- publishes ----------------------------------------------------------------------------------------------------

    @property
    def is_transactional(self) -> bool:
        return self._transaction is not None

    def add_to_transaction(self, publish: Callable[[], bool], memory: int) -> None:
        """Has the commit make this call, which publishes a message that takes `memory` bytes."""
        if self._transaction is not None:
            self._uncommitted += memory
            self.session.uncommitted += memory
            self._transaction.publishes.append(publish)

    def record_publish(self, accepted: bool) -> None:
        """Prepares the confirm of a publish, if the channel confirms: an ack where the queues accepted it."""
        if self._confirming:
            tag = self._next_publish
            self._next_publish += 1
            accepted = accepted and not self.session.nacks_now()
            if self._store.taken:
                self._confirm_when_safe(tag, accepted)
            else:
                self._confirms.append((tag, accepted))
                self.session.confirm_soon(self)

    def select_confirms(self) -> None:
        if self._transaction is not None:
            raise precondition_failed("cannot switch from tx to confirm mode")
        self._confirming = True

    def confirm_all(self) -> None:
        """Sends the prepared confirms: one method for each run of acks or nacks, with `multiple` for more than one."""
        confirms, self._confirms = self._confirms, []
        if self._unsafe:
            confirms.sort()
        for accepted, run in groupby(confirms, key=lambda confirm: confirm[1]):
            tags = [tag for tag, _ in run]
            if self._unsafe and next(iter(self._unsafe)) < tags[-1]:  # `multiple` would confirm that one too
                for tag in tags:
                    self._confirm(accepted, tag, False)
            else:
                self._confirm(accepted, tags[-1], len(tags) > 1)

    def _confirm(self, accepted: bool, tag: int, multiple: bool) -> None:
        arguments = {"delivery_tag": tag, "multiple": multiple}
        self.session.send(self.number, "basic.ack" if accepted else "basic.nack", arguments)

    def _confirm_when_safe(self, tag: int, accepted: bool) -> None:
        """Prepares the confirm of a publish that the store has taken: it is sent when the store has it safe."""
        self._store.taken = False
        self._unsafe[tag] = accepted
        self._store.flush(partial(self._safe, tag))

    def _safe(self, tag: int) -> None:
        if self.is_open:
            if not self._confirms:
                self.session.call_soon(self.confirm_all)
            self._confirms.append((tag, self._unsafe.pop(tag)))

    def select_transactions(self) -> None:
        if self._confirming:
            raise precondition_failed("cannot switch from confirm to tx mode")
        if self._transaction is None:
            self._transaction = _Transaction([], [], [])

    def commit(self) -> Iterator[None]:
        """Carries out the transaction in slices, its publishes before its settlements. Begins the next transaction.

        Raises PreconditionFailed if a queue refused one of the messages; the rest of the transaction is carried out.
        """
        ended = self._end_transaction()
        accepted = True
        for number, publish in enumerate(ended.publishes, 1):
            accepted = publish() and accepted
            if not number % SLICE:
                yield
        for outcome, deliveries in ended.settlements:
            yield from self._settling(outcome, deliveries)
        if not accepted:
            raise precondition_failed("partial tx completion")

    def rollback(self) -> None:
        """Drops the transaction's publishes, makes its deliveries unsettled again, and begins the next transaction."""
        for delivery in self._end_transaction().settled:
            self.unsettled.put_back(delivery.tag, delivery)
        self.timeouts.start()

    def _end_transaction(self) -> _Transaction:
        if self._transaction is None:
            raise precondition_failed("channel is not transactional")
        self.session.uncommitted -= self._uncommitted
        self._uncommitted = 0
        ended, self._transaction = self._transaction, _Transaction([], [], [])
        return ended

    # --- flow and the end ---------------------------------------------------------------------------------------------

    def set_flow(self, active: bool) -> None:
        """Sends channel.flow where it changes something: False stops the client's publishes, True permits them."""
        if self.flow != active and self.session.is_open and not self.closing:
            self.flow = active
            self.session.send(self.number, "channel.flow", {"active": active})

    def end(self) -> None:
        """Rolls back, requeues the unsettled deliveries, and removes the consumers.

        `ended` keeps the channel's consumers from getting any more messages. They leave their queues only after the
        deliveries are requeued: if a consumer left first, the next consumer would get later messages before these.
        """
        self.ended = True
        if self._replies is not None:
            self.cancel_replies(self._replies.tag)
        if self._transaction is not None:
            self.rollback()
        self.timeouts.stop()
        consumers, self.consumers = list(self.consumers.values()), {}
        self.session.run_long(self._ending(self.unsettled.settle(0, multiple=True), consumers))

    def _ending(self, deliveries: list[Delivery], consumers: list[Consumer]) -> Iterator[None]:
        yield from self._settling("failed", deliveries)
        for consumer in consumers:
            consumer.stop()
