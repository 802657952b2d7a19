"""A channel from the broker's side: its consumers, what it holds unsettled, its confirms and its transaction."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any, NamedTuple, Protocol

from ..errors import AMQPError
from ..wire.delivery_tags import Window
from ..wire.fast_send import FastDeliverer
from ..wire.message import Message
from .queues import Entry, Queue
from .refusal import precondition_failed
from .virtual_host import unique_name

REPLY_TO = "amq.rabbitmq.reply-to"


class Carrier(Protocol):
    """The session, as its channels see it."""

    congested: bool

    @property
    def is_open(self) -> bool: ...
    @property
    def capabilities(self) -> dict[str, Any]: ...
    def send(self, number: int, name: str, arguments: dict[str, Any]) -> None: ...
    def send_content(self, number: int, name: str, arguments: dict[str, Any], message: Message) -> None: ...
    def fast_deliverer(self, number: int, consumer_tag: str) -> FastDeliverer: ...
    def write(self, chunks: Any) -> None: ...
    def confirm_soon(self, channel: ServerChannel) -> None: ...
    def close_channel(self, channel: ServerChannel, code: int, text: str) -> None: ...
    def expect_replies(self, token: str, channel: ServerChannel | None) -> None:
        """Messages to this token of direct reply-to are for the channel, or for nobody any more."""

    def nacks_now(self) -> bool: ...
    def soon(self, call: Callable[[], object]) -> None: ...
    def call(self, call: Callable[[], object]) -> object:
        """Carries it out in the broker's thread."""

    def drop_now(self) -> None: ...


def deliver(session: Carrier, fast: FastDeliverer, delivery_tag: int, redelivered: bool, message: Message) -> None:
    try:
        session.write(fast.deliver(delivery_tag, redelivered, message.envelope, message.body))
    except AMQPError:
        # It doesn't fit the frame_max that this client agreed on. That is no affair of whoever published it.
        session.soon(session.drop_now)


class Consumer:
    """A consumer of a channel; fulfils `queues.Taker`. Its prefetch is the one that the channel had at its start."""

    def __init__(self, channel: ServerChannel, queue: Queue, tag: str, no_ack: bool, exclusive: bool, priority: int):
        self.channel = channel
        self.queue = queue
        self.tag = tag
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.priority = priority
        self.prefetch = channel.prefetch
        self.unacknowledged = 0
        self._fast = channel.session.fast_deliverer(channel.number, tag)

    def __repr__(self) -> str:
        return f"<Consumer {self.tag!r} of {self.queue.name!r}, {self.unacknowledged} unacknowledged>"

    def wants(self) -> bool:
        channel = self.channel
        if channel.session.congested or channel.ended:
            return False
        if self.no_ack:
            return True
        if self.prefetch and self.unacknowledged >= self.prefetch:
            return False
        return not channel.global_prefetch or channel.unacknowledged < channel.global_prefetch

    def deliver(self, entry: Entry) -> None:
        channel = self.channel
        tag = channel.hand_out(entry, self, self.no_ack)
        deliver(channel.session, self._fast, tag, entry.redelivered, entry.message)

    def cancelled(self) -> None:
        """The queue is gone: the client is told, if it can hear it."""
        self.channel.consumers.pop(self.tag, None)
        # Behind the delete-ok, if it is this client who deletes it.
        self.channel.session.soon(self._tell_cancelled)

    def _tell_cancelled(self) -> None:
        session = self.channel.session
        if session.is_open and not self.channel.ended and session.capabilities.get("consumer_cancel_notify"):
            session.send(self.channel.number, "basic.cancel", {"consumer_tag": self.tag, "no_wait": True})

    def stop(self) -> None:
        if not self.queue.deleted:
            self.queue.remove_consumer(self)


class Handed(NamedTuple):
    """A delivery that isn't settled; `consumer` is None for one of basic.get."""

    entry: Entry
    consumer: Consumer | None
    tag: int


class _Transaction(NamedTuple):
    """What a commit carries out, and the deliveries that a rollback makes unsettled again."""

    calls: list[Callable[[], object]]
    settled: list[Handed]


class _Replies(NamedTuple):
    """The consumer of direct reply-to."""

    tag: str
    token: str
    fast: FastDeliverer


class ServerChannel:
    """A channel of a session. `flow` is False while the broker has stopped its publishes."""

    def __init__(self, session: Carrier, number: int):
        self.session = session
        self.number = number
        self.consumers: dict[str, Consumer] = {}
        self.unsettled: Window[Handed] = Window()
        self.unacknowledged = 0  # by its consumers
        self.ended = False
        self.prefetch = 0
        self.global_prefetch = 0
        self.last_queue = ""
        self.flow = True
        self.published = False
        self._confirming = False
        self._next_publish = 1
        self._verdicts: list[tuple[int, bool]] = []
        self._transaction: _Transaction | None = None
        self._replies: _Replies | None = None

    def __repr__(self) -> str:
        return f"<ServerChannel {self.number}, {len(self.consumers)} consumers, {len(self.unsettled)} unsettled>"

    def close(self, code: int = 320, text: str = "CONNECTION_FORCED - closed by hand") -> None:
        """Closes the channel from the broker's side."""
        self.session.call(lambda: self.session.close_channel(self, code, text.partition(" - ")[2] or text))

    # --- deliveries ---------------------------------------------------------------------------------------------------

    def qos(self, count: int, shared: bool) -> None:
        """RabbitMQ's reading: shared, the limit of the channel; else of each consumer started from here on."""
        if shared:
            self.global_prefetch = count
        else:
            self.prefetch = count

    def hand_out(self, entry: Entry, consumer: Consumer | None, no_ack: bool) -> int:
        """The delivery tag of what is about to be sent."""
        if no_ack:
            return self.unsettled.skip()
        if consumer is not None:
            consumer.unacknowledged += 1
            self.unacknowledged += 1
        return self.unsettled.add(Handed(entry, consumer, self.unsettled.next_tag))

    def settle(self, verdict: str, tag: int, multiple: bool) -> None:
        """verdict: "ack", "requeue" or "reject"."""
        try:
            if tag and multiple and not self.unsettled.has(tag):
                raise KeyError(tag)
            handed = self.unsettled.settle(tag, multiple)
        except KeyError:
            raise precondition_failed(f"unknown delivery tag {tag}") from None
        if self._transaction is not None:
            self._transaction.calls.append(lambda: self._settle(verdict, handed))
            self._transaction.settled.extend(handed)
        else:
            self._settle(verdict, handed)

    def _settle(self, verdict: str, handed: list[Handed]) -> None:
        freed: dict[Consumer, None] = {}
        back: dict[Queue, list[Entry]] = {}
        for entry, consumer, _ in handed:
            if consumer is not None:
                consumer.unacknowledged -= 1
                self.unacknowledged -= 1
                freed[consumer] = None
            if verdict == "ack":
                entry.queue.settle(entry)
            elif verdict == "reject":
                entry.queue.reject(entry)
            else:
                back.setdefault(entry.queue, []).append(entry)
        for queue, entries in back.items():
            queue.requeue(entries)
        if self.global_prefetch:
            self.unpark()
        else:
            for consumer in freed:
                consumer.queue.unpark(consumer)

    def recover(self) -> None:
        self._settle("requeue", self.unsettled.settle(0, multiple=True))

    def unpark(self) -> None:
        """The channel has room again: its consumers may take more."""
        for consumer in list(self.consumers.values()):
            consumer.queue.unpark(consumer)

    # --- direct reply-to ----------------------------------------------------------------------------------------------

    def consume_replies(self, tag: str, no_ack: bool) -> None:
        if not no_ack:
            raise precondition_failed("reply consumer cannot acknowledge")
        if self._replies is not None:
            raise precondition_failed("reply consumer already set")
        self._replies = _Replies(tag, unique_name(""), self.session.fast_deliverer(self.number, tag))
        self.session.expect_replies(self._replies.token, self)

    def cancel_replies(self, tag: str) -> None:
        if self._replies is not None and self._replies.tag == tag:
            self.session.expect_replies(self._replies.token, None)
            self._replies = None

    def reply_address(self) -> str:
        if self._replies is None:
            raise precondition_failed("fast reply consumer does not exist")
        return f"{REPLY_TO}.{self._replies.token}"

    def reply(self, message: Message) -> None:
        """A reply for the client's direct reply-to."""
        if self._replies is not None:
            deliver(self.session, self._replies.fast, self.unsettled.skip(), False, message)

    # --- publishes ----------------------------------------------------------------------------------------------------

    @property
    def is_transactional(self) -> bool:
        return self._transaction is not None

    def publish_later(self, carry_out: Callable[[], bool]) -> None:
        """At the commit."""
        if self._transaction is not None:
            self._transaction.calls.append(carry_out)

    def published_now(self, taken: bool) -> None:
        """A publish was carried out, and the queues took it or refused."""
        if self._confirming:
            tag = self._next_publish
            self._next_publish += 1
            self._verdicts.append((tag, taken and not self.session.nacks_now()))
            self.session.confirm_soon(self)

    def select_confirms(self) -> None:
        if self._transaction is not None:
            raise precondition_failed("cannot switch from tx to confirm mode")
        self._confirming = True

    def confirm_all(self) -> None:
        """Confirms what was published, a run of the same verdict at a time."""
        verdicts, self._verdicts = self._verdicts, []
        for taken, run in groupby(verdicts, key=lambda verdict: verdict[1]):
            tags = [tag for tag, _ in run]
            arguments = {"delivery_tag": tags[-1], "multiple": len(tags) > 1}
            self.session.send(self.number, "basic.ack" if taken else "basic.nack", arguments)

    def select_transactions(self) -> None:
        if self._confirming:
            raise precondition_failed("cannot switch from confirm to tx mode")
        if self._transaction is None:
            self._transaction = _Transaction([], [])

    def commit(self) -> None:
        for carry_out in self._take_transaction().calls:
            carry_out()

    def rollback(self) -> None:
        for handed in self._take_transaction().settled:
            self.unsettled.put_back(handed.tag, handed)

    def _take_transaction(self) -> _Transaction:
        if self._transaction is None:
            raise precondition_failed("channel is not transactional")
        taken, self._transaction = self._transaction, _Transaction([], [])
        return taken

    # --- flow and the end ---------------------------------------------------------------------------------------------

    def set_flow(self, active: bool) -> None:
        """Has the client stop or resume its publishes."""
        if self.flow != active and self.session.is_open:
            self.flow = active
            self.session.send(self.number, "channel.flow", {"active": active})

    def end(self) -> None:
        """Gives back what the channel holds. Its consumers want nothing any more, but hold their places until what they
        had is requeued: the next in turn shall be served in order."""
        self.ended = True
        if self._replies is not None:
            self.cancel_replies(self._replies.tag)
        if self._transaction is not None:
            self.rollback()
        self._settle("requeue", self.unsettled.settle(0, multiple=True))
        consumers, self.consumers = list(self.consumers.values()), {}
        for consumer in consumers:
            consumer.stop()
