"""A channel: every operation of AMQP once, as a request and its continuation.

An operation says its method and what its reply means; the rest is the same for all. Requests go out at once and wait
in order in one queue; a reply belongs to the oldest. A method without a reply is done when its bytes have gone to the
kernel. A publish on a confirming channel waits under its tag until the broker decides its fate, which is `publishing`'s
affair.

The channel is handed a `Sender` and never sees the connection behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import (
    AMQPError,
    ChannelClosed,
    ConnectionForked,
    ConsumerCancelled,
    DuplicateConsumerTag,
    InvalidArgumentType,
    NotInThisVersion,
    ProtocolSyntaxError,
    UnexpectedMethodError,
    UnknownConsumerTag,
    closed,
)
from ..wire.codec import Method
from ..wire.message import Message
from .channel_sender import Sender
from .continuations import (
    Call,
    Continuation,
    OnDone,
    PendingCalls,
    Request,
    check_callable,
    oneway,
    operation,
    refuse,
    registration,
)
from .publisher import Publisher

if TYPE_CHECKING:
    from ..wire.message import Properties

OnMessage = Callable[[Message], object]
Arguments = Mapping[str, Any]
Remove = Callable[[], None]


class QueueDeclareOk(NamedTuple):
    queue: str
    message_count: int
    consumer_count: int


class _Consumer(NamedTuple):
    on_message: OnMessage
    on_cancel: Callable[[str], object] | None


class Channel:
    """A channel of a connection; `Connection.channel` makes them.

    `number`: its number on the link. `is_open`: operations may be asked for; they may be while channel.open is still
    unanswered. `close_reason`: the error that closed it, or None. `face`: the channel that its messages point to, this
    one or a facade's.
    """

    __slots__ = (
        "__weakref__",
        "_announced",
        "_closers",
        "_consumers",
        "_draining",
        "_ended",
        "_handlers",
        "_pending",
        "_publisher",
        "_sender",
        "close_reason",
        "facade",
        "is_open",
        "number",
    )

    def __init__(self, number: int, sender: Sender):
        self.number = number
        self.is_open = True
        self.close_reason: AMQPError | None = None
        self.facade: Any = self
        self._sender = sender
        self._ended = False  # nothing more can come, and the number is free
        self._announced = False
        self._pending: deque[Continuation] = deque()
        self._closers: list[Continuation] = []
        self._draining: list[Continuation] = []
        self._consumers: dict[str, _Consumer] = {}
        self._handlers: dict[str, list[Callable[..., object]]] = {}
        self._publisher = Publisher(self, sender)

    def __repr__(self) -> str:
        return f"<Channel {self.number} {'open' if self.is_open else 'closed'}>"

    @property
    def writable(self) -> bool:
        """False while it is wise to publish no more: the link's buffer is full, the broker blocks the connection, or
        has stopped this channel's flow."""
        return self._sender.writable and self._publisher.permitted

    @property
    def transmission_permitted(self) -> bool:
        """False after the broker's channel.flow(active=False)."""
        return self._publisher.permitted

    @property
    def is_fire_and_forget(self) -> bool:
        """Whether a publish is done with the call: the channel is open, its flow isn't stopped, and nobody confirms."""
        return self.is_open and self._publisher.is_fire_and_forget

    @property
    def is_confirming(self) -> bool:
        """Whether confirm_select was asked for: a publish is done when the broker has decided its fate."""
        return self._publisher.is_confirming

    @property
    def has_consumers(self) -> bool:
        return bool(self._consumers)

    # --- how an operation is asked for --------------------------------------------------------------------------------

    def _request(
        self,
        name: str,
        on_done: OnDone[Any] | None,
        convert: Callable[[Any], Any] | None = None,
        replies: tuple[str, ...] | None = None,
        **arguments: Any,
    ) -> bool:
        """Sends a method that has a reply. False: it failed at the call, and its on_done will be told."""
        continuation = Request(name, on_done, replies or (name + "-ok",), convert)
        if not self._send(continuation, name, arguments):
            return False
        self._pending.append(continuation)
        return True

    def _tell(self, name: str, on_done: OnDone[Any] | None, **arguments: Any) -> None:
        """Sends a method that has no reply: it is done when its bytes have gone to the kernel."""
        if on_done is None and self.is_open:
            self._sender.send(name, arguments)
            return
        continuation = Request(name, on_done)
        if self._send(continuation, name, arguments) and on_done is not None:
            self._sender.when_written(continuation)

    def _send(self, continuation: Continuation, name: str, arguments: dict[str, Any]) -> bool:
        if not self.is_open:
            refuse(continuation.on_done, self.closed_error(), name, self._sender.call_soon)
            return False
        self._sender.send(name, arguments)
        return True

    def closed_error(self) -> AMQPError:
        """What an operation on the closed channel is told."""
        if isinstance(self.close_reason, ConnectionForked):
            return self.close_reason
        error = ChannelClosed(
            f"channel {self.number} is closed" + (f": {self.close_reason}" if self.close_reason else "")
        )
        error.__cause__ = self.close_reason
        return error

    def open(self, on_done: OnDone[Channel] | None) -> None:
        self._request("channel.open", on_done, lambda ok: self)

    # --- exchanges ----------------------------------------------------------------------------------------------------

    @operation
    def exchange_declare(
        self,
        exchange: str,
        type: str = "direct",
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Arguments | None = None,
        *,
        on_done: OnDone[None] | None = None,
    ) -> None:
        """Makes an exchange, or checks that it is there as described (exchange.declare, 0-9-1 §1.6.2).

        type: "direct", "fanout", "topic", "headers", or a plugin's. passive: checks for its name alone, NotFound (404)
        if there is none. durable: it outlives the broker. auto_delete: it goes with its last binding. internal: only
        exchanges publish to it. PreconditionFailed (406): it is there and different; each error closes the channel.
        """
        self._request(
            "exchange.declare",
            on_done,
            exchange=exchange,
            type=type,
            passive=passive,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=arguments,
        )

    @operation
    def exchange_delete(self, exchange: str, if_unused: bool = False, *, on_done: OnDone[None] | None = None) -> None:
        """Deletes an exchange and its bindings (exchange.delete). if_unused: PreconditionFailed (406) if it has any."""
        self._request("exchange.delete", on_done, exchange=exchange, if_unused=if_unused)

    @operation
    def exchange_bind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Arguments | None = None,
        *,
        on_done: OnDone[None] | None = None,
    ) -> None:
        """Routes from exchange `source` to exchange `destination` (exchange.bind, RabbitMQ's own, 0-9-1)."""
        self._request(
            "exchange.bind",
            on_done,
            destination=destination,
            source=source,
            routing_key=routing_key,
            arguments=arguments,
        )

    @operation
    def exchange_unbind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Arguments | None = None,
        *,
        on_done: OnDone[None] | None = None,
    ) -> None:
        """Takes away what exchange_bind with the same arguments made (exchange.unbind, RabbitMQ's own, 0-9-1)."""
        self._request(
            "exchange.unbind",
            on_done,
            destination=destination,
            source=source,
            routing_key=routing_key,
            arguments=arguments,
        )

    # --- queues -------------------------------------------------------------------------------------------------------

    @operation
    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Arguments | None = None,
        *,
        on_done: OnDone[QueueDeclareOk] | None = None,
    ) -> None:
        """Makes a queue, or checks that it is there as described (queue.declare, 0-9-1 §1.7.2); the result tells its
        name, how many messages are ready and how many consumers there are.

        queue: "" lets the broker choose a name. passive: checks for its name alone, NotFound (404) if there is none.
        durable: it outlives the broker. exclusive: for this connection alone, and gone with it; for others
        ResourceLocked (405). auto_delete: it goes with its last consumer. arguments: "x-message-ttl",
        "x-max-length"... PreconditionFailed (406): it is there and different; each error closes the channel.
        """
        self._request(
            "queue.declare",
            on_done,
            lambda ok: QueueDeclareOk(ok.queue, ok.message_count, ok.consumer_count),
            queue=queue,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=arguments,
        )

    @operation
    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Arguments | None = None,
        *,
        on_done: OnDone[None] | None = None,
    ) -> None:
        """Routes from an exchange to a queue (queue.bind). NotFound (404): one of them isn't there."""
        self._request(
            "queue.bind",
            on_done,
            queue=queue,
            exchange=exchange,
            routing_key=routing_key,
            arguments=arguments,
        )

    @operation
    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Arguments | None = None,
        *,
        on_done: OnDone[None] | None = None,
    ) -> None:
        """Takes away what queue_bind with the same arguments made (queue.unbind; on 0-8 RabbitMQ's own)."""
        self._request(
            "queue.unbind",
            on_done,
            queue=queue,
            exchange=exchange,
            routing_key=routing_key,
            arguments=arguments,
        )

    @operation
    def queue_purge(self, queue: str, *, on_done: OnDone[int] | None = None) -> None:
        """Drops the ready messages of a queue (queue.purge); the result is how many there were."""
        self._request("queue.purge", on_done, _message_count, queue=queue)

    @operation
    def queue_delete(
        self,
        queue: str,
        if_unused: bool = False,
        if_empty: bool = False,
        *,
        on_done: OnDone[int] | None = None,
    ) -> None:
        """Deletes a queue (queue.delete); the result is how many messages went with it. if_unused, if_empty:
        PreconditionFailed (406) if it has consumers, or messages."""
        self._request("queue.delete", on_done, _message_count, queue=queue, if_unused=if_unused, if_empty=if_empty)

    # --- consuming ----------------------------------------------------------------------------------------------------

    @operation
    def basic_qos(
        self,
        prefetch_count: int = 0,
        prefetch_size: int = 0,
        global_: bool = False,
        *,
        on_done: OnDone[None] | None = None,
    ) -> None:
        """Bounds how many messages may be unacknowledged at once, 0 for no bound (basic.qos). In RabbitMQ it holds for
        each consumer started after it, with global_ for the whole channel; prefetch_size, in bytes, must be 0 there."""
        arguments: dict[str, Any] = {
            "prefetch_count": prefetch_count,
            "prefetch_size": prefetch_size,
            "global": global_,
        }
        self._request("basic.qos", on_done, **arguments)

    @operation
    def basic_consume(
        self,
        queue: str,
        on_message: OnMessage,
        no_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str = "",
        no_local: bool = False,
        arguments: Arguments | None = None,
        on_cancel: Callable[[str], object] | None = None,
        *,
        on_done: OnDone[str] | None = None,
    ) -> None:
        """Starts a consumer (basic.consume): on_message(message) is called for each delivery until the cancel. The
        result is its tag.

        no_ack: messages count as acknowledged when they are sent. exclusive: AccessRefused (403) if there is another
        consumer. consumer_tag: "" lets the broker choose; one in use raises DuplicateConsumerTag. on_cancel(tag): the
        broker ended it, because the queue went; without it that is a ConsumerCancelled for the error handler.
        0-8 has no arguments.
        """
        if on_message is None:
            raise InvalidArgumentType("on_message takes a callable; a consumer without one would lose its messages")
        check_callable("on_message", on_message)
        check_callable("on_cancel", on_cancel)
        if consumer_tag and consumer_tag in self._consumers:
            raise DuplicateConsumerTag(f"channel {self.number} has a consumer {consumer_tag!r}")
        consumer = _Consumer(on_message, on_cancel)
        extra: dict[str, Any] = {"arguments": arguments} if arguments else {}
        asked = self._request(
            "basic.consume",
            on_done,
            lambda ok: self._consuming(ok.consumer_tag, consumer),
            queue=queue,
            no_ack=no_ack,
            exclusive=exclusive,
            consumer_tag=consumer_tag,
            no_local=no_local,
            **extra,
        )
        if asked and consumer_tag:
            self._consumers[consumer_tag] = consumer

    def _consuming(self, tag: str, consumer: _Consumer) -> str:
        self._consumers[tag] = consumer
        return tag

    @operation
    def basic_cancel(self, consumer_tag: str, *, on_done: OnDone[str] | None = None) -> None:
        """Ends a consumer (basic.cancel); what the broker sent before still comes to on_message. The result is its tag.
        A tag that the channel doesn't have raises UnknownConsumerTag."""
        if self.is_open and consumer_tag not in self._consumers:
            raise UnknownConsumerTag(f"channel {self.number} has no consumer {consumer_tag!r}")
        self._request("basic.cancel", on_done, self._cancelled, consumer_tag=consumer_tag)

    def _cancelled(self, ok: Method) -> str:
        self._consumers.pop(ok.consumer_tag, None)
        tag: str = ok.consumer_tag
        return tag

    @operation
    def basic_get(self, queue: str, no_ack: bool = False, *, on_done: OnDone[Message | None] | None = None) -> None:
        """Takes one message off a queue (basic.get); the result is it, or None where there was none."""
        self._request("basic.get", on_done, self._got, ("basic.get-ok", "basic.get-empty"), queue=queue, no_ack=no_ack)

    def _got(self, reply: Method | Message) -> Message | None:
        if not isinstance(reply, Message):
            return None
        reply.channel = self.facade
        return reply

    @oneway
    def basic_ack(self, delivery_tag: int, multiple: bool = False, *, on_done: OnDone[None] | None = None) -> None:
        """Acknowledges a delivery, with `multiple` all up to it (basic.ack). It has no reply: on_done is called when
        its bytes have gone to the kernel. A tag that isn't open closes the channel: PreconditionFailed (406)."""
        if on_done is None and self.is_open:
            self._sender.send_ack(delivery_tag, multiple)
        else:
            self._tell("basic.ack", on_done, delivery_tag=delivery_tag, multiple=multiple)

    @oneway
    def basic_nack(
        self,
        delivery_tag: int,
        multiple: bool = False,
        requeue: bool = True,
        *,
        on_done: OnDone[None] | None = None,
    ) -> None:
        """Refuses a delivery, with `multiple` all up to it (basic.nack, RabbitMQ's own, 0-9-1). Without requeue it is
        dropped or dead-lettered. On 0-8, which lacks it, a single one goes out as the same basic.reject."""
        if self._sender.version != "0-8":
            self._tell("basic.nack", on_done, delivery_tag=delivery_tag, multiple=multiple, requeue=requeue)
        elif multiple:
            raise NotInThisVersion("AMQP 0-8 has no basic.nack, and basic.reject refuses one delivery at a time")
        else:
            self.basic_reject(delivery_tag, requeue, on_done=on_done)

    @oneway
    def basic_reject(self, delivery_tag: int, requeue: bool = True, *, on_done: OnDone[None] | None = None) -> None:
        """Refuses a delivery (basic.reject); without requeue it is dropped or dead-lettered."""
        self._tell("basic.reject", on_done, delivery_tag=delivery_tag, requeue=requeue)

    @operation
    def basic_recover(self, requeue: bool = True, *, on_done: OnDone[None] | None = None) -> None:
        """Has the broker deliver all unacknowledged messages again (basic.recover); RabbitMQ wants requeue=True. On 0-8
        it has no reply."""
        ask = self._tell if self._sender.version == "0-8" else self._request
        ask("basic.recover", on_done, requeue=requeue)

    # --- publishing ---------------------------------------------------------------------------------------------------

    @oneway
    def basic_publish(
        self,
        exchange: str = "",
        routing_key: str = "",
        body: str | bytes = b"",
        properties: Properties | None = None,
        mandatory: bool = False,
        immediate: bool = False,
        block_on_flow_control: bool = False,
        *,
        on_done: OnDone[bool] | None = None,
    ) -> bool:
        """Publishes a message (basic.publish); a str body is sent as UTF-8. Returns False when it is time to wait for
        the writable handler; the message is kept all the same.

        On a confirming channel on_done tells the message's fate: the result True, or MessageNacked, MessageReturned,
        DeliveryUnknown. On another it is called when the bytes have gone to the kernel, whatever becomes of them.
        mandatory: a message that reaches no queue comes back. immediate: the same for one that no consumer takes at
        once, which RabbitMQ refuses (540). While the broker stopped the flow, it fails with
        ContentTransmissionForbidden, or with block_on_flow_control is held until the broker permits it.
        """
        return self._publisher.publish(
            exchange, routing_key, body, properties, mandatory, immediate, block_on_flow_control, on_done
        )

    @operation
    def confirm_select(self, *, on_done: OnDone[None] | None = None) -> None:
        """Has the broker confirm every publish from here on (confirm.select, a RabbitMQ extension of 0-9-1)."""
        if self._request("confirm.select", on_done):
            self._publisher.confirm()

    @operation
    def drain(self, *, on_done: OnDone[None] | None = None) -> None:
        """Done when the channel is `writable`, at once where it is: what a publisher waits for that was told False."""
        continuation = Request("drain", on_done)
        if not self.is_open:
            refuse(on_done, self.closed_error(), "drain", self._sender.call_soon)
        elif self.writable:
            self._sender.call_soon(continuation.done)
        else:
            self._draining.append(continuation)

    # --- transactions (0-9-1 §1.9) ------------------------------------------------------------------------------------

    @operation
    def tx_select(self, *, on_done: OnDone[None] | None = None) -> None:
        """Puts publishes and acks of this channel into transactions from here on (tx.select)."""
        self._request("tx.select", on_done)

    @operation
    def tx_commit(self, *, on_done: OnDone[None] | None = None) -> None:
        """Carries out what was published and acknowledged since the last commit (tx.commit)."""
        self._request("tx.commit", on_done)

    @operation
    def tx_rollback(self, *, on_done: OnDone[None] | None = None) -> None:
        """Drops what was published and acknowledged since the last commit (tx.rollback); messages that were delivered
        stay delivered, and unacknowledged."""
        self._request("tx.rollback", on_done)

    # --- the channel itself -------------------------------------------------------------------------------------------

    @operation
    def flow(self, active: bool, *, on_done: OnDone[bool] | None = None) -> None:
        """Asks the broker to stop or resume deliveries (channel.flow, §1.5.2.3); the result is what it does now.
        RabbitMQ knows only active=True; use basic_qos there."""
        self._request("channel.flow", on_done, lambda ok: ok.active, active=active)

    @operation
    def close(self, reply_code: int = 200, reply_text: str = "", *, on_done: OnDone[None] | None = None) -> None:
        """Closes the channel (channel.close). Operations asked for before still get their replies; what then remains
        unanswered is settled with ChannelClosed. Closing a closed channel is no error."""
        closer = Request("channel.close", on_done)
        if self._ended:
            self._sender.call_soon(closer.done)
            return
        if self.is_open:
            self._sender.send("channel.close", {"reply_code": reply_code, "reply_text": reply_text})
            self.is_open = False
        self._closers.append(closer)

    # --- handlers -----------------------------------------------------------------------------------------------------

    @registration
    def add_flow_change_handler(self, handler: Callable[[Channel, bool], object]) -> Remove:
        """handler(channel, transmission_permitted) when the broker stops or permits the flow of publishes. Like each
        add_..., it returns a function that takes the handler away."""
        return self._add("flow", handler)

    @registration
    def add_return_handler(self, handler: Callable[[Message], object]) -> Remove:
        """handler(message) for each message that comes back; message.reply_text says why."""
        return self._add("return", handler)

    @registration
    def add_state_change_handler(self, handler: Callable[[Channel, bool], object]) -> Remove:
        """handler(channel, is_open) when the channel opens or closes; channel.close_reason says why."""
        return self._add("state", handler)

    @registration
    def add_writable_handler(self, handler: Callable[[Channel], object]) -> Remove:
        """handler(channel) when `writable` turns True again."""
        return self._add("writable", handler)

    @registration
    def addFlowChangeHandler(self, handler: Callable[[Channel, bool], object]) -> None:
        """add_flow_change_handler under pika 0.5's name: called at once too, with the present state."""
        self.add_flow_change_handler(handler)
        handler(self, self.transmission_permitted)

    @registration
    def addStateChangeHandler(self, handler: Callable[[Channel, bool], object]) -> None:
        """add_state_change_handler under pika 0.5's name: called at once too, with the present state."""
        self.add_state_change_handler(handler)
        handler(self, self.is_open)

    def _add(self, kind: str, handler: Callable[..., object]) -> Remove:
        _check_handler(handler)
        handlers = self._handlers.setdefault(kind, [])
        handlers.append(handler)
        return lambda: handlers.remove(handler) if handler in handlers else None

    def has_handlers(self, kind: str) -> bool:
        return bool(self._handlers.get(kind))

    def emit(self, kind: str, *details: Any) -> None:
        """Calls every handler of a kind."""
        self.in_turn(self._calls(kind, *details))

    def _calls(self, kind: str, *details: Any) -> list[Call]:
        return [partial(handler, *details) for handler in self._handlers.get(kind, ())]

    def tell_writable(self) -> None:
        if self.writable:
            drained, self._draining = self._draining, []
            self.in_turn([*(continuation.done for continuation in drained), *self._calls("writable", self)])

    def in_turn(self, calls: Iterable[Call | PendingCalls]) -> None:
        """Makes calls one after another, before whatever arrived later is looked at."""
        self._sender.in_turn(calls)

    # --- what arrives -------------------------------------------------------------------------------------------------

    def handle(self, event: Method | Message | AMQPError) -> None:
        """Takes what the link received for this channel, but deliveries that came alike."""
        if isinstance(event, AMQPError):
            self._fail_and_close(event)
            return
        handler = _HANDLERS.get(event.name)
        if handler is not None:
            handler(self, event)
        elif self._pending and event.name in self._pending[0].expected:
            answered = self._pending.popleft()
            if self._pending and self._pending[0].answer is not None:
                self.in_turn([partial(answered.reply, event), *self._answered()])
            else:
                answered.reply(event)
        elif not self._overtakes(event):
            waited = f"; {self._pending[0].method} is waiting" if self._pending else ""
            self.unexpected(f"{event.name} on channel {self.number}, which nobody asked for{waited}")

    def deliver(self, message: Message) -> None:
        consumer = self._consumers.get(message.envelope.consumer_tag)  # type: ignore[arg-type]
        if consumer is not None and self.is_open:
            message.channel = self.facade
            consumer.on_message(message)
        else:
            self._undeliverable(message)

    def deliveries(self, messages: list[Message]) -> PendingCalls:
        """`deliver`, for several to one consumer: what is to be called for them. Most of all that arrives."""
        consumer = self._consumers.get(messages[0].envelope.consumer_tag)  # type: ignore[arg-type]
        if consumer is None:
            yield self._undeliverable, messages[0]
            return
        on_message, facade = consumer.on_message, self.facade
        for message in messages:
            if not self.is_open:
                break
            message.channel = facade
            yield on_message, message

    def _overtakes(self, event: Method | Message) -> bool:
        """RabbitMQ answers basic.consume and basic.cancel by way of the queue, so the reply to a later request may come
        first. It is kept until their turn is over."""
        for continuation in self._pending:
            if continuation.answer is not None:
                continue
            if event.name in continuation.expected:
                continuation.answer = event
                return True
            if continuation.method not in _OVERTAKEN:
                break
        return False

    def _answered(self) -> Iterator[Call]:
        """Takes those whose replies came before their turn, now that it has come."""
        while self._pending and self._pending[0].answer is not None:
            continuation = self._pending.popleft()
            yield partial(continuation.reply, continuation.answer)

    def unexpected(self, text: str) -> None:
        """The broker sent what it may not send now: the connection is closed for it."""
        self._sender.fault(UnexpectedMethodError(text))

    def _undeliverable(self, message: Message) -> None:
        if self.is_open:  # else it was under way when the close was sent, and the broker takes it back
            self.unexpected(
                f"a delivery on channel {self.number} for consumer {message.consumer_tag!r}, which it doesn't have"
            )

    def _on_cancel(self, cancel: Method) -> None:
        tag = cancel.consumer_tag
        consumer = self._consumers.pop(tag, None)
        if not cancel.no_wait and self.is_open:
            self._sender.send("basic.cancel-ok", {"consumer_tag": tag})
        if consumer is None:
            return
        if consumer.on_cancel is not None:
            consumer.on_cancel(tag)
        else:
            self._sender.report(
                ConsumerCancelled(
                    f"the broker cancelled consumer {tag!r} of channel {self.number}, as when its queue is deleted"
                )
            )

    def _on_flow(self, flow: Method) -> None:
        if self.is_open:
            self._sender.send("channel.flow-ok", {"active": flow.active})
            self._publisher.on_flow(flow.active)

    def _on_open_ok(self, ok: Method) -> None:
        if not (self._pending and self._pending[0].method == "channel.open"):
            self.unexpected(f"channel.open-ok on channel {self.number}, which is open")
            return
        opened = self._pending.popleft()
        self.in_turn([partial(opened.reply, ok), *(self._calls("state", self, True) if self.is_open else [])])

    def _on_close(self, close: Method) -> None:
        """The broker closes the channel; the link has answered."""
        reason = closed(ChannelClosed, close.reply_code, close.reply_text)
        if self.is_open:
            told = self.end(reason, self._sender.method_name(close.class_id, close.method_id))
            if not told:
                self._sender.report(reason)
        else:
            self.close_reason = self.close_reason or reason  # ours crossed it, and close-ok is still to come

    def _on_close_ok(self, ok: Method) -> None:
        self.end(None)

    def _fail_and_close(self, error: AMQPError) -> None:
        """The link closes the channel for the peer's mistake; close-ok will free its number."""
        if self.is_open and not self._shut(error, None):
            self._sender.report(error)

    def malformed(self, error: ProtocolSyntaxError) -> None:
        """A message's header turned out to be malformed when it was read."""
        self._sender.fault(error)

    # --- the end ------------------------------------------------------------------------------------------------------

    def end(self, reason: AMQPError | None, blamed: str | None = None) -> bool:
        """The channel is over. `reason`: why, or None for a close of our own. `blamed`: the method that the broker
        closed it for. Returns whether anybody was told the reason."""
        if self._ended:
            return True
        self._ended = True
        self._sender.release()
        return self._shut(reason, blamed)

    def _shut(self, reason: AMQPError | None, blamed: str | None) -> bool:
        """Settles every pending continuation in the order of asking, then the closers, then calls the handlers of the
        state; what was done before, at a close that was still to be acknowledged, isn't done again."""
        self.is_open = False
        self.close_reason = self.close_reason or reason
        failed = self._blamed(reason, blamed)
        others = self.closed_error()
        unsettled = sorted(
            [*self._pending, *self._draining, *self._publisher.withdraw_all(), *self._sender.take_unwritten()]
        )
        self._pending.clear()
        self._draining = []
        self._consumers = {}
        told = self.has_handlers("state") or any(continuation.on_done is not None for continuation in unsettled)
        fates = [(c, reason if c is failed and reason else self._publisher.fate(c, others)) for c in unsettled]
        calls: list[Call | PendingCalls] = [self._publisher.decided]
        calls += [partial(c.fail, fate) if c.answer is None else partial(c.reply, c.answer) for c, fate in fates]
        if self._ended:
            calls += [closer.done for closer in self._closers]
            self._closers = []
        if not self._announced:
            self._announced = True
            calls += self._calls("state", self, False)
        self.in_turn(calls)
        return told

    def _blamed(self, reason: AMQPError | None, blamed: str | None) -> Continuation | None:
        """Whose operation the broker closed the channel for: replies come in order, so it is the oldest request, if
        that is of the method blamed, or the only publish."""
        if reason is None or blamed is None:
            return None
        if self._pending and self._pending[0].method == blamed:
            return self._pending[0]
        return self._publisher.only() if blamed == "basic.publish" else None

    def _on_publish_settled(self, event: Method) -> None:
        self._publisher.on_settled(event.name == "basic.ack", event.delivery_tag, event.multiple)

    def _on_return(self, message: Message) -> None:
        message.channel = self.facade
        self._publisher.on_return(message)


def _check_handler(handler: Any) -> None:
    if not callable(handler):
        raise InvalidArgumentType(f"handler takes a callable, not {type(handler).__name__}")


def _message_count(ok: Method) -> int:
    count: int = ok.message_count
    return count


_OVERTAKEN = frozenset(("basic.consume", "basic.cancel"))

_HANDLERS: dict[str, Callable[[Channel, Any], None]] = {
    "basic.ack": Channel._on_publish_settled,
    "basic.nack": Channel._on_publish_settled,
    "basic.deliver": Channel.deliver,
    "basic.return": Channel._on_return,
    "basic.cancel": Channel._on_cancel,
    "channel.flow": Channel._on_flow,
    "channel.open-ok": Channel._on_open_ok,
    "channel.close": Channel._on_close,
    "channel.close-ok": Channel._on_close_ok,
}
