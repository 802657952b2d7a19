"""A channel: its requests and their continuations, the events that arrive for it, and its end.

`operations` says what may be asked of a channel; this module performs it. A request goes out at once and waits in one
queue, in order; a reply belongs to the oldest request. A method without a reply is done when its bytes have gone to the
kernel. `publisher` looks after publishes, which wait until the broker decides their fate.

A channel knows its `ChannelSender`, and nothing of the connection behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import takewhile
from typing import Any

from ..errors import (
    AMQPError,
    ChannelClosed,
    ConnectionClosed,
    ConsumerCancelled,
    DuplicateConsumerTag,
    ProtocolSyntaxError,
    UnexpectedMethodError,
    UnknownConsumerTag,
    closed,
)
from ..wire.codec import Method
from ..wire.message import Message
from .channel_sender import ChannelSender
from .continuations import Call, Continuation, Notice, OnDone, PendingCalls, Request, describe, refuse, settle_soon
from .handlers import Handlers, Remove
from .hints import remedy
from .hooks import HookedChannel, adopted
from .operations import Consumer, Deletion, Operations, QueueDeclareOk, consumer_tag, message_count
from .publisher import Publisher
from .rabbitmq import CANCELS_LATE
from .watching import deprecated

SURRENDERED = 100  # tags of cancelled consumers that a channel remembers


class Channel(Operations):
    """A channel of a connection; `Connection.channel` opens one.

    `number`: its number on the connection. `is_open`: operations may be asked for, also while channel.open is still
    unanswered. `close_reason`: the error that closed the channel, or None.
    """

    __slots__ = (
        "__weakref__",
        "_cancelling",
        "_closers",
        "_consumers",
        "_draining",
        "_ended",
        "_facade",
        "_handlers",
        "_last_queue",
        "_notices",
        "_pending",
        "_publisher",
        "_reused",
        "_sender",
        "_starting",
        "_surrendered",
        "close_reason",
        "is_open",
        "number",
    )

    _by_method: dict[str, Callable[[Any, Any], None]]  # what happens when a method arrives that answers no request
    _hooked_by = HookedChannel
    _is_view = False  # True: one opening of a channel that recovers, for the program's `on_ready`

    # The public attributes: every facade has them too (`styles.lifting`).
    number: int
    is_open: bool
    close_reason: AMQPError | None

    def __init__(self, number: int, sender: ChannelSender, reused: bool = False):
        """Not for programs: `Connection.channel` opens a channel."""
        self.number = number
        self._reused = reused  # the broker closed an earlier channel of this number, and may still send for it
        self.is_open = True
        self.close_reason = None
        self._facade: Callable[[], Any] | None = None  # the facade around it, or None once the program has dropped it
        self._sender = sender
        self._ended = False  # nothing more can come, and the number is free
        self._notices: list[Notice] | None = None  # of the end, to the state handlers; queued again after an interrupt
        self._pending: deque[Continuation] = deque()
        self._closers: list[Continuation] = []
        self._draining: list[Continuation] = []
        self._consumers: dict[str, Consumer] = {}
        self._starting: dict[str, int] | None = None  # consume-ok is due; how many cancels wait for it
        self._cancelling: dict[str, int] = {}  # consumers, and how many cancel-oks are due
        self._surrendered: dict[str, bool] | None = None  # consumers that the broker cancelled, and their no_ack
        self._handlers = Handlers()
        self._last_queue = ""  # the name of the queue that this channel declared last
        self._publisher = Publisher(self, sender)

    def __repr__(self) -> str:
        return f"<Channel {self.number} {'open' if self.is_open else 'closed'}>"

    @property
    def writable(self) -> bool:
        """False while a program should publish no more: the link is congested, the broker blocks the connection, or it
        has stopped this channel's flow."""
        return self._sender.writable and self._publisher.permitted

    @property
    def is_confirming(self) -> bool:
        """Whether confirm_select was asked for: a publish is done when the broker has decided its fate."""
        return self._publisher.is_confirming

    @property
    def has_consumers(self) -> bool:
        """Whether a consumer was started and has not ended."""
        return bool(self._consumers)

    @property
    def _is_fire_and_forget(self) -> bool:
        """Whether a publish is done with the call: the channel is open, its flow is on, and the broker does not
        confirm."""
        return self.is_open and self._publisher.is_fire_and_forget

    # --- how an operation is asked for --------------------------------------------------------------------------------

    def _request(
        self,
        name: str,
        on_done: OnDone[Any] | None,
        convert: Callable[[Any], Any] | None = None,
        replies: tuple[str, ...] | None = None,
        **arguments: Any,
    ) -> bool:
        # 4: this function is called by an operation's own, which the program has called.
        return self._ask(Request(name, on_done, replies or (name + "-ok",), convert, 4), arguments)

    def _ask(self, request: Request, arguments: dict[str, Any]) -> bool:
        """Sends a request, which then waits for its reply. False: it failed at the call."""
        if not self.is_open:
            return self._send(request, request.method, arguments)  # tells that the channel is closed
        try:
            self._sender.send(request.method, arguments)
            self._pending.append(request)
        except BaseException as error:
            self._sender.failed(error)
            raise
        return True

    def _tell(self, name: str, on_done: OnDone[Any] | None, **arguments: Any) -> None:
        if on_done is None and self.is_open:
            self._sender.send(name, arguments)
            return
        continuation = Request(name, on_done)
        if self._send(continuation, name, arguments) and on_done is not None:
            self._sender.when_written(continuation)

    def _send(self, continuation: Continuation, name: str, arguments: dict[str, Any]) -> bool:
        if not self.is_open:
            refuse(continuation.on_done, self._closed_error(), name, self._sender.call_soon)
            return False
        self._sender.send(name, arguments)
        return True

    def _is_stale(self, message: Message) -> bool:
        """Whether a delivery that waits for the program is the broker's again: to acknowledge it would be wrong."""
        return not self.is_open

    def _closed_error(self) -> AMQPError:
        """The error of an operation on the closed channel: the connection's, if that has ended too."""
        of_connection = self._sender.connection_error()
        if of_connection is not None:
            return of_connection
        error = ChannelClosed(
            f"channel {self.number} is closed" + (f": {self.close_reason.plain()}" if self.close_reason else "")
        )
        error.__cause__ = self.close_reason
        return error

    def _open(self, on_done: OnDone[Any] | None) -> None:
        self._request("channel.open", on_done, lambda ok: self)

    def _consume(self, consumer: Consumer, on_done: OnDone[str] | None, arguments: dict[str, Any]) -> None:
        self._ask_consume(Request("basic.consume", on_done, ("basic.consume-ok",)), consumer, arguments)

    def _ask_consume(self, request: Request, consumer: Consumer, arguments: dict[str, Any]) -> None:
        tag = arguments["consumer_tag"]
        if tag and tag in self._consumers:
            raise DuplicateConsumerTag(f"channel {self.number} has a consumer {tag!r}")

        consumer.facade = self._outermost()
        consumer.queue = arguments["queue"] or self._last_queue
        consumer.no_ack = arguments["no_ack"]

        def started(ok: Method) -> str:
            started_tag: str = ok.consumer_tag
            self._consumers[started_tag] = consumer
            if self._surrendered is not None:
                self._surrendered.pop(started_tag, None)
            self._started(started_tag)
            return started_tag

        request.convert = started
        if self._ask(request, arguments) and tag:
            self._consumers[tag] = consumer
            self._starting = {**(self._starting or {}), tag: 0}

    def _cancel(self, consumer_tag: str, on_done: OnDone[str] | None) -> None:
        self._ask_cancel(Request("basic.cancel", on_done, ("basic.cancel-ok",)), consumer_tag)

    def _ask_cancel(self, cancel: Request, consumer_tag: str) -> None:
        if self.is_open and consumer_tag not in self._consumers:
            raise UnknownConsumerTag(f"channel {self.number} has no consumer {consumer_tag!r}")
        cancel.convert = self._cancelled
        starting = self._starting
        if self.is_open and starting is not None and consumer_tag in starting:
            # RabbitMQ 3.10 ends the connection (541) for a cancel that arrives right behind its basic.consume.
            self._sender.check_thread()
            self._pending.append(cancel)
            starting[consumer_tag] += 1
        elif not self._ask(cancel, {"consumer_tag": consumer_tag}):
            return
        self._cancelling[consumer_tag] = self._cancelling.get(consumer_tag, 0) + 1

    def _started(self, tag: str) -> None:
        """Sends the cancels that waited for this consume-ok."""
        if self._starting is not None and tag in self._starting:
            for _ in range(self._starting.pop(tag)):
                if self.is_open:
                    self._sender.send("basic.cancel", {"consumer_tag": tag})

    def _declared(self, ok: Method) -> QueueDeclareOk:
        self._last_queue = ok.queue
        return QueueDeclareOk(ok.queue, ok.message_count, ok.consumer_count)

    def _delete_queue(self, on_done: OnDone[int] | None, arguments: dict[str, Any]) -> None:
        self._ask_deletion(Deletion("queue.delete", on_done, ("queue.delete-ok",), message_count), arguments)

    def _ask_deletion(self, deletion: Deletion, arguments: dict[str, Any]) -> None:
        if self._ask(deletion, arguments):
            self._sender.expect_cancels(arguments["queue"] or self._last_queue, deletion)

    def _end_transaction(self, name: str, on_done: OnDone[Any] | None) -> None:
        self._ask_end_of_transaction(Request(name, on_done, (name + "-ok",)))

    def _ask_end_of_transaction(self, request: Request) -> None:
        """Publishes that are held belong to the transaction, and what is asked for later does not."""
        self._publisher.hold_what_follows()
        self._ask(request, {})

    def _expect_cancels(self, queue: str, deletion: Deletion) -> None:
        """Notes that this connection deletes a queue: the end of a consumer of it is then no error."""
        for consumer in self._consumers.values():
            if consumer.queue == queue:
                consumer.deletion = deletion

    def _cancelled(self, ok: Method) -> str:
        tag: str = ok.consumer_tag
        left = self._cancelling.pop(tag, 1) - 1
        if left:
            # RabbitMQ answers a second cancel at once, ahead of the deliveries that still come before the first answer.
            self._cancelling[tag] = left
        else:
            self._consumers.pop(tag, None)
        return tag

    def _adopt(self) -> None:
        """Has the hooks called, if there are any; see `hooks`."""
        for part in (self, self._publisher, self._sender):
            adopted(part)

    def _queue_of(self, consumer_tag: str) -> str:
        """The name of a consumer's queue; "" if it is not known."""
        consumer = self._consumers.get(consumer_tag)
        return consumer.queue if consumer is not None else ""

    def _outermost(self) -> Any:
        """The channel that messages point to: the facade, if there is one, or this."""
        facade = self._facade() if self._facade is not None else None
        return self if facade is None else facade

    def _got(self, reply: Method | Message) -> Message | None:
        if not isinstance(reply, Message):
            return None
        reply.channel = self._outermost()
        return reply

    def _drain(self, on_done: OnDone[None] | None) -> None:
        continuation = Request("drain", on_done)
        if not self.is_open:
            refuse(on_done, self._closed_error(), "drain", self._sender.call_soon)
        elif self.writable:
            settle_soon(continuation, self._sender.call_soon)
        else:
            self._sender.check_thread()
            self._draining.append(continuation)

    def _close(self, reply_code: int, reply_text: str, on_done: OnDone[None] | None) -> None:
        closer = Request("channel.close", on_done)
        if self._ended:
            settle_soon(closer, self._sender.call_soon)
            return
        self._sender.check_thread()
        try:
            if self.is_open:
                self._sender.send_now("channel.close", {"reply_code": reply_code, "reply_text": reply_text})
                self.is_open = False
            self._closers.append(closer)
        except BaseException as error:
            self._sender.failed(error)
            raise

    # --- handlers -----------------------------------------------------------------------------------------------------

    def _add_handler(self, kind: str, handler: Callable[..., object]) -> Remove:
        return self._handlers.add(kind, handler)

    def _has_handlers(self, kind: str) -> bool:
        return self._handlers.has(kind)

    def _emit(self, kind: str, *details: Any) -> None:
        """Calls every handler of a kind."""
        self._in_turn(self._handlers.calls(kind, *details))

    def _tell_writable(self) -> None:
        if self.writable:
            drained, self._draining = self._draining, []
            calls = [continuation.done for continuation in drained]
            self._in_turn([*calls, *self._handlers.calls("writable", self)])

    def _in_turn(self, calls: Iterable[Call | PendingCalls]) -> None:
        """Makes calls one after another, before the frames that arrived later are decoded."""
        self._sender.in_turn(calls)

    # --- what arrives -------------------------------------------------------------------------------------------------

    def _handle(self, event: Method | Message | AMQPError) -> None:
        """Handles an event for this channel; `_deliver_all` handles runs of deliveries."""
        if isinstance(event, AMQPError):
            self._fail_and_close(event)
            return
        handler, pending = self._by_method.get(event.name), self._pending
        if handler is not None:
            handler(self, event)
        elif pending and event.name in (answered := pending[0]).expected:
            if len(pending) > 1 and pending[1].answer is not None:
                answered.answer = event
                self._settle_answered([])
            else:
                del pending[0]
                answered.reply(event)
        elif not self._overtakes(event):
            waited = f"; {pending[0].method} is waiting" if pending else ""
            self._unexpected(f"{event.name} on channel {self.number}, which nobody asked for{waited}")

    def _deliver(self, message: Message) -> None:
        consumer = self._consumers.get(message.envelope.consumer_tag)  # type: ignore[arg-type]
        if consumer is not None and self.is_open:
            message.channel = consumer.facade
            consumer.on_message(message)
        else:
            self._undeliverable(message)

    def _deliver_all(self, messages: list[Message]) -> PendingCalls:
        """The calls of `_deliver` for messages that arrived one after another for one consumer. Nearly every message
        comes this way."""
        consumer = self._consumers.get(messages[0].envelope.consumer_tag)  # type: ignore[arg-type]
        if consumer is None:
            yield from ((self._undeliverable, message) for message in messages)
            return
        on_message, facade = consumer.on_message, consumer.facade
        for message in messages:
            if not self.is_open:
                break
            message.channel = facade
            yield on_message, message

    def _overtakes(self, event: Method | Message) -> bool:
        """Keeps a reply that arrived before the reply to an earlier request; False if nothing waits for it. RabbitMQ
        sends consume-ok and cancel-ok by way of the queue, so replies to later requests may overtake them."""
        for continuation in self._pending:
            if continuation.answer is not None:
                continue
            if event.name in continuation.expected:
                continuation.answer = event
                if event.name == "basic.consume-ok" and isinstance(continuation, Request) and continuation.convert:
                    continuation.convert(event)  # now: its deliveries may come before it is settled
                    continuation.convert = consumer_tag
                return True
            if continuation.method not in _OVERTAKEN:
                break
        return False

    def _answered(self) -> list[Call]:
        """The calls that settle the oldest requests whose replies have arrived."""
        answered = takewhile(lambda continuation: continuation.answer is not None, self._pending)
        return [partial(continuation.reply, continuation.answer) for continuation in answered]

    def _unexpected(self, text: str) -> None:
        """Closes the connection: the broker sent a method that is not allowed now."""
        self._sender.fault(UnexpectedMethodError(text))

    def _undeliverable(self, message: Message) -> None:
        """A delivery for a consumer that the channel does not have."""
        tag = message.consumer_tag
        if not self.is_open:
            return  # it was under way when the channel closed; the broker requeues it
        if self._surrendered is not None and tag in self._surrendered:
            # RabbitMQ 4 redelivers to a consumer that it has cancelled, after the timeout of a quorum queue's consumer.
            if not self._surrendered[tag]:
                self._give_back(message.delivery_tag)
        elif not self._reused:
            self._unexpected(f"a delivery on channel {self.number} for consumer {tag!r}, which it doesn't have")

    def _give_back(self, delivery_tag: int) -> None:
        """Requeues a delivery that nobody takes. A quorum queue of RabbitMQ 4.3 counts a basic.reject as a failure of
        the consumer, and drops the message after twenty; it does not count a basic.nack."""
        refuse_one = self.basic_nack if self._sender.peer_can("basic.nack") else self.basic_reject
        refuse_one(delivery_tag, requeue=True)

    def _on_cancel(self, cancel: Method) -> None:
        tag = cancel.consumer_tag
        consumer = self._consumers.pop(tag, None)
        if self.is_open:
            if not cancel.no_wait:
                self._sender.send_now("basic.cancel-ok", {"consumer_tag": tag})
            elif self._sender.rabbitmq_version >= CANCELS_LATE:
                self._sender.send_now("basic.cancel", {"consumer_tag": tag, "no_wait": True})
        if consumer is not None:
            self._surrender(tag, consumer.no_ack)
            self._consumer_cancelled(tag, consumer)

    def _consumer_cancelled(self, tag: str, consumer: Consumer) -> None:
        """The broker has ended a consumer."""
        if consumer.on_cancel is not None:
            consumer.on_cancel(tag)
        elif consumer.deletion is None or consumer.deletion.failed:
            cancelled = ConsumerCancelled(
                f"the broker cancelled consumer {tag!r} of channel {self.number}, as when its queue is deleted"
            )
            self._sender.report(cancelled.of("basic.consume", describe(consumer.call_site)))

    def _surrender(self, tag: str, no_ack: bool) -> None:
        """Remembers a consumer that the broker cancelled. Only the last SURRENDERED are kept."""
        if self._surrendered is None:
            self._surrendered = {}
        self._surrendered[tag] = no_ack
        if len(self._surrendered) > SURRENDERED:
            del self._surrendered[next(iter(self._surrendered))]

    def _on_flow(self, flow: Method) -> None:
        if self.is_open:
            self._sender.send_now("channel.flow-ok", {"active": flow.active})
            self._publisher.on_flow(flow.active)

    def _on_open_ok(self, ok: Method) -> None:
        if not (self._pending and self._pending[0].method == "channel.open"):
            self._unexpected(f"channel.open-ok on channel {self.number}, which is open")
            return
        opened = self._pending[0]
        del self._pending[0]
        told = self._handlers.calls("state", self, True) if self.is_open else []
        self._settle_answered([partial(opened.reply, ok), *told])

    def _settle_answered(self, first: list[Call]) -> None:
        """Makes these calls, and settles the oldest requests whose replies have arrived."""
        self._in_turn([*first, *self._answered()])
        while self._pending and self._pending[0].answer is not None:
            del self._pending[0]

    def _on_close(self, close: Method) -> None:
        """The broker closes the channel; the link has answered already."""
        deprecated(f"channel {self.number}", close.reply_text)
        reason: AMQPError = closed(ChannelClosed, close.reply_code, close.reply_text + remedy(close.reply_text))
        blamed = self._sender.method_name(close.class_id, close.method_id)
        if blamed is not None:
            reason = self._answering(blamed, reason)
        if self.is_open:
            if not self._end(reason, blamed):
                self._sender.report(reason)
        else:
            self.close_reason = self.close_reason or reason  # our own close crossed it; close-ok is still to come

    def _on_close_ok(self, ok: Method) -> None:
        self._end(None)

    def _fail_and_close(self, error: AMQPError) -> None:
        """Ends the channel, which the link closes for a mistake of the broker. close-ok will free its number."""
        if self.is_open and not self._shut(error, None):
            self._sender.report(error)

    def _malformed(self, error: ProtocolSyntaxError) -> None:
        """Closes the connection: the properties of a message are malformed, which showed when they were read."""
        self._sender.fault(error)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _end(self, reason: AMQPError | None, blamed: str | None = None) -> bool:
        """Ends the channel and frees its number.

        reason: the error; None after our own close. blamed: the method for which the broker closed it. Returns whether
        a callback of the program gets the reason."""
        if self._ended:
            return True
        self._ended = True
        try:
            told = self._shut(reason, blamed)
        except BaseException:
            self._ended = False  # of a signal handler: the connection's end does the rest
            raise
        self._sender.release()
        return told

    def _shut(self, reason: AMQPError | None, blamed: str | None) -> bool:
        """Settles every pending continuation in the order of asking, then the closers, then calls the state handlers.

        A channel that the link closes is shut at once, and ended at its close-ok. Nothing is done twice."""
        self.is_open = False
        self.close_reason = self.close_reason or reason
        failed = self._blamed(blamed)
        others = reason if isinstance(reason, ConnectionClosed) else self._closed_error()
        waiting = [*self._publisher.unsettled(), *self._sender.unwritten()]
        unsettled = sorted([*self._pending, *self._draining, *waiting])
        self._consumers = {}
        self._starting = None
        told = self._has_handlers("state") or any(continuation.on_done is not None for continuation in unsettled)
        fates = [(c, reason if c is failed and reason else self._publisher.fate(c, others)) for c in unsettled]
        calls: list[Call | PendingCalls] = [self._publisher.decided]
        calls += [partial(c.fail, fate) if c.answer is None else partial(c.reply, c.answer) for c, fate in fates]
        if self._ended:
            calls += [closer.done for closer in self._closers]
        calls += [notice.done for notice in self._end_notices()]
        self._in_turn(calls)
        # Now, since an exception of a signal handler may have this done again; to fail twice does nothing.
        self._publisher.forget()
        self._sender.take_unwritten()
        self._pending.clear()
        self._draining = []
        if self._ended:
            self._closers = []
        return told

    def _end_notices(self) -> list[Notice]:
        """The notices of the end, one for each state handler."""
        if self._notices is None:
            self._notices = [Notice(call) for call in self._handlers.calls("state", self, False)]
        return self._notices

    def _answering(self, blamed: str, reason: AMQPError) -> AMQPError:
        """The reason of a close, as the answer to the method that the broker closes for."""
        operation = self._blamed(blamed)
        return operation.told(reason) if operation is not None else reason.of(blamed, None)

    def _blamed(self, blamed: str | None) -> Continuation | None:
        """The operation for which the broker closed the channel, if it is known: the oldest request, if it is of the
        method blamed, since replies come in order; or the only publish that waits."""
        if self._pending and self._pending[0].method == blamed:
            return self._pending[0]
        return self._publisher.only() if blamed == "basic.publish" else None

    def _on_publish_settled(self, event: Method) -> None:
        self._publisher.on_settled(event.name == "basic.ack", event.delivery_tag, event.multiple)

    def _on_return(self, message: Message) -> None:
        message.channel = self._outermost()
        self._publisher.on_return(message)


_OVERTAKEN = frozenset(("basic.consume", "basic.cancel"))

Channel._by_method = {
    "basic.ack": Channel._on_publish_settled,
    "basic.nack": Channel._on_publish_settled,
    "basic.deliver": Channel._deliver,
    "basic.return": Channel._on_return,
    "basic.cancel": Channel._on_cancel,
    "channel.flow": Channel._on_flow,
    "channel.open-ok": Channel._on_open_ok,
    "channel.close": Channel._on_close,
    "channel.close-ok": Channel._on_close_ok,
}
