"""The operations of a channel: names, arguments and documentation, each once.

`Channel` inherits them and performs them; every facade is derived from them (`styles.lifting`). An operation names its
method and says what the reply means. It needs `_request` for a method with a reply and `_tell` for one without; the
few that concern the channel's own state (publishing, consumers, closing) need the hook that is declared beside these.

The docstrings say when an operation is *done*: then `on_done(None, result)` is called here, and in a facade the call
returns or its promise is fulfilled. `styles.wording` puts the docstrings into a facade's words; it needs the phrase "it
is done when", and leaves out a paragraph that begins with "In the core". An operation without that phrase is done when
the broker has replied. An error says what failed; "closes the channel" means that the broker did so.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import AMQPError, InvalidArgumentType, NotInThisVersion
from ..wire.message import Message
from .continuations import OnDone, Request, call_site, check_callable, describe, oneway, operation, registration
from .handlers import Remove
from .hints import HintsNames, hinting
from .rabbitmq import warn_of_global_qos

if TYPE_CHECKING:
    from ..wire.codec import Method
    from ..wire.message import Properties
    from .channel_sender import ChannelSender
    from .publisher import Publisher

ChannelT = TypeVar("ChannelT", bound="Operations")
OnMessage = Callable[[Message], object]
Arguments = Mapping[str, Any]
OnCancel = Callable[[str], object]


class QueueDeclareOk(NamedTuple):
    """The result of queue_declare: the queue's name, and the numbers of its ready messages and of its consumers."""

    queue: str
    message_count: int
    consumer_count: int


class Consumer:
    """One consumer: its callbacks, its queue, and where it was asked for. `facade`: the channel that its messages point
    to, which lives as long as the consumer. `deletion`: the queue.delete of this connection that will end it.
    `recover`: whether recovery starts it again."""

    __slots__ = ("call_site", "deletion", "facade", "no_ack", "on_cancel", "on_message", "queue", "recover")

    def __init__(self, on_message: OnMessage, on_cancel: OnCancel | None, recover: bool = True):
        self.recover = recover
        self.on_message = on_message
        self.on_cancel = on_cancel
        self.facade: Any = None
        self.queue = ""
        self.no_ack = False
        self.deletion: Deletion | None = None
        self.call_site = call_site()


class Deletion(Request):
    """A queue.delete. `failed`: the queue was not deleted."""

    __slots__ = ("failed",)

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.failed = False

    def fail(self, error: AMQPError) -> None:
        self.failed = True
        super().fail(error)


class Operations(HintsNames):
    """The operations of a channel."""

    __slots__ = ()

    _sender: ChannelSender
    _publisher: Publisher
    is_open: bool

    @property
    def transmission_permitted(self) -> bool:
        """False from the broker's channel.flow(active=False) until its channel.flow(active=True)."""
        return self._publisher.permitted

    @abstractmethod
    def _request(
        self,
        name: str,
        on_done: OnDone[Any] | None,
        convert: Callable[[Any], Any] | None = None,
        replies: tuple[str, ...] | None = None,
        **arguments: Any,
    ) -> bool:
        """Sends a method that has a reply; convert(reply) gives the result. False: it failed at the call."""

    @abstractmethod
    def _tell(self, name: str, on_done: OnDone[Any] | None, **arguments: Any) -> None:
        """Sends a method that has no reply. It is done when its bytes have gone to the kernel."""

    @abstractmethod
    def _add_handler(self, kind: str, handler: Callable[..., object]) -> Remove: ...
    @abstractmethod
    def _declared(self, ok: Any) -> QueueDeclareOk: ...
    @abstractmethod
    def _delete_queue(self, on_done: OnDone[int] | None, arguments: dict[str, Any]) -> None: ...
    @abstractmethod
    def _consume(self, consumer: Consumer, on_done: OnDone[str] | None, arguments: dict[str, Any]) -> None: ...
    @abstractmethod
    def _cancel(self, consumer_tag: str, on_done: OnDone[str] | None) -> None: ...
    @abstractmethod
    def _end_transaction(self, name: str, on_done: OnDone[Any] | None) -> None: ...
    @abstractmethod
    def _got(self, reply: Any) -> Message | None: ...
    @abstractmethod
    def _drain(self, on_done: OnDone[None] | None) -> None: ...
    @abstractmethod
    def _close(self, reply_code: int, reply_text: str, on_done: OnDone[None] | None) -> None: ...

    # --- exchanges ----------------------------------------------------------------------------------------------------

    @operation
    @hinting
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
        """Declares an exchange: creates it, or checks that it exists with these properties.

        exchange: its name. type: "direct", "fanout", "topic", "headers", or a type of a plugin. passive: checks only
        that the name exists. durable: the exchange survives a restart of the broker. auto_delete: it is deleted with
        its last binding. internal: only other exchanges may publish to it. arguments: for example "alternate-exchange".

        Errors: PreconditionFailed (406), it exists with other properties; NotFound (404), passive and it does not
        exist; AccessRefused (403), the name is reserved. Each closes the channel. CommandInvalid (503), the type is
        unknown, closes the connection.

            channel.exchange_declare("logs", "fanout", durable=True)
            channel.queue_declare("all_logs", durable=True)
            channel.queue_bind("all_logs", "logs")

        exchange.declare, 0-9-1 §1.6.2.1.
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
        """Deletes an exchange and its bindings.

        exchange: its name; one that does not exist is no error in RabbitMQ. if_unused: PreconditionFailed (406) if it
        has bindings.

        exchange.delete, 0-9-1 §1.6.2.3.
        """
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
        """Binds the exchange `destination` to the exchange `source`: messages go from `source` to `destination`.

        routing_key, arguments: the binding's, as in `queue_bind`. Errors: NotFound (404), one of them does not exist.

        exchange.bind, a RabbitMQ extension of 0-9-1.
        """
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
        """Removes the binding that `exchange_bind` made with the same arguments.

        exchange.unbind, a RabbitMQ extension of 0-9-1.
        """
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
        """Declares a queue: creates it, or checks that it exists with these properties.

        queue: its name; "" lets the broker choose one. passive: checks only that the name exists. durable: the queue
        survives a restart of the broker. exclusive: only this connection may use it, and it is deleted with the
        connection. auto_delete: it is deleted with its last consumer. arguments: for example "x-message-ttl" (ms),
        "x-max-length", "x-queue-type".

        Result: QueueDeclareOk(queue, message_count, consumer_count).
        Errors: PreconditionFailed (406), it exists with other properties; NotFound (404), passive and it does not
        exist; ResourceLocked (405), it is exclusive to another connection. Each closes the channel.

            ok = channel.queue_declare("tasks", durable=True)
            print(ok.message_count, "messages are ready")
            channel.basic_consume("tasks", on_message)

        queue.declare, 0-9-1 §1.7.2.1.
        """
        self._request(
            "queue.declare",
            on_done,
            self._declared,
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
        """Binds a queue to an exchange: messages go from the exchange to the queue.

        queue: its name; "" is the queue that this channel declared last. exchange: its name. routing_key: the key, or
        for a topic exchange the pattern, that a message must match. arguments: the headers that a message must have,
        for a headers exchange.

        Errors: NotFound (404), one of them does not exist; closes the channel.

            channel.queue_bind("errors", "logs", routing_key="*.error")
            channel.queue_bind("everything", "logs", routing_key="#")
            channel.basic_publish("logs", "disk.error", "the disk is full")

        queue.bind, 0-9-1 §1.7.2.3.
        """
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
        """Removes the binding that `queue_bind` made with the same arguments.

        queue.unbind, 0-9-1 §1.7.2.5; on 0-8 a RabbitMQ extension.
        """
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
        """Drops the ready messages of a queue. Messages that are delivered and unacknowledged stay.

        Result: how many were dropped. Errors: NotFound (404), the queue does not exist; closes the channel.

        queue.purge, 0-9-1 §1.7.2.7.
        """
        self._request("queue.purge", on_done, message_count, queue=queue)

    @operation
    def queue_delete(
        self,
        queue: str,
        if_unused: bool = False,
        if_empty: bool = False,
        *,
        on_done: OnDone[int] | None = None,
    ) -> None:
        """Deletes a queue with its messages and bindings.

        queue: its name; one that does not exist is no error in RabbitMQ. if_unused: PreconditionFailed (406) if it has
        consumers. if_empty: PreconditionFailed (406) if it has messages. Either closes the channel.

        Result: how many messages were deleted with it.

        queue.delete, 0-9-1 §1.7.2.9.
        """
        self._delete_queue(on_done, {"queue": queue, "if_unused": if_unused, "if_empty": if_empty})

    # --- consuming ----------------------------------------------------------------------------------------------------

    @operation
    @hinting
    def basic_qos(
        self,
        prefetch_count: int = 0,
        prefetch_size: int = 0,
        global_: bool = False,
        *,
        on_done: OnDone[None] | None = None,
    ) -> None:
        """Limits how many messages the broker delivers before the first of them is acknowledged.

        prefetch_count: messages; 0 is no limit. prefetch_size: bytes; RabbitMQ takes only 0 (AMQPNotImplemented, 540,
        closes the connection). global_: in RabbitMQ True limits the whole channel, False each consumer that is started
        afterwards. RabbitMQ 4.3 ignores global_: the limit is each consumer's, and a warning is logged.

            channel.basic_qos(prefetch_count=100)
            channel.basic_consume("tasks", on_message)

        basic.qos, 0-9-1 §1.8.3.1.
        """
        arguments: dict[str, Any] = {
            "prefetch_count": prefetch_count,
            "prefetch_size": prefetch_size,
            "global": global_,
        }
        if global_:
            warn_of_global_qos(self._sender.server_properties, describe(call_site()))
        self._request("basic.qos", on_done, **arguments)

    @operation
    @hinting
    def basic_consume(
        self,
        queue: str,
        on_message: OnMessage,
        no_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str = "",
        no_local: bool = False,
        arguments: Arguments | None = None,
        on_cancel: OnCancel | None = None,
        recover: bool = True,
        *,
        on_done: OnDone[str] | None = None,
    ) -> None:
        """Starts a consumer: on_message(message) is called for each message that the broker delivers.

        queue: its name. no_ack: the broker takes messages for acknowledged when it has sent them. exclusive: no other
        consumer is allowed on the queue. consumer_tag: the consumer's name on this channel; "" lets the broker choose.
        no_local: RabbitMQ ignores it. arguments: for example "x-priority"; 0-8 has none. on_cancel(consumer_tag):
        called when the broker ends the consumer, for example because the queue was deleted; without it,
        ConsumerCancelled leaves the reactor as an error. recover: on a connection with `recovery`, whether the consumer
        is started again after its channel or link was lost; False: its loss is its end, as a cancel by the broker is.

        Result: the consumer tag.
        Errors: NotFound (404), the queue does not exist; AccessRefused (403), another consumer is exclusive, or this
        one would be and is not alone. Each closes the channel. DuplicateConsumerTag, raised at the call.

            def on_message(message):
                print(message.body)
                message.ack()
            channel.basic_consume("tasks", on_message)

        basic.consume, 0-9-1 §1.8.3.3.
        """
        if on_message is None:
            raise InvalidArgumentType("on_message takes a callable; a consumer without one would lose its messages")
        check_callable("on_message", on_message)
        check_callable("on_cancel", on_cancel)
        asked: dict[str, Any] = {
            "queue": queue,
            "no_ack": no_ack,
            "exclusive": exclusive,
            "consumer_tag": consumer_tag,
            "no_local": no_local,
        }
        if arguments:
            asked["arguments"] = arguments
        self._consume(Consumer(on_message, on_cancel, recover), on_done, asked)

    @operation
    def basic_cancel(self, consumer_tag: str, *, on_done: OnDone[str] | None = None) -> None:
        """Ends a consumer. Messages that the broker sent before it heard of the cancel still go to on_message.

        Result: the consumer tag. Errors: UnknownConsumerTag, raised at the call: the channel has no such consumer.

        basic.cancel, 0-9-1 §1.8.3.5.
        """
        self._cancel(consumer_tag, on_done)

    @operation
    @hinting
    def basic_get(self, queue: str, no_ack: bool = False, *, on_done: OnDone[Message | None] | None = None) -> None:
        """Takes one message from a queue. For more than a few messages a consumer costs far less.

        queue: its name. no_ack: the broker takes the message for acknowledged when it has sent it.

        Result: the Message, or None if the queue has no ready message.
        Errors: NotFound (404), the queue does not exist; closes the channel.

            message = channel.basic_get("tasks")
            if message is not None:
                message.ack()

        basic.get, 0-9-1 §1.8.3.10.
        """
        self._request("basic.get", on_done, self._got, ("basic.get-ok", "basic.get-empty"), queue=queue, no_ack=no_ack)

    @oneway
    def basic_ack(self, delivery_tag: int, multiple: bool = False, *, on_done: OnDone[None] | None = None) -> None:
        """Acknowledges a delivery: the broker may forget the message. `message.ack()` does this.

        delivery_tag: the message's. multiple: acknowledges all deliveries up to it too; tag 0 then means all there are.

        The broker does not reply: it is done when its bytes have gone to the kernel.

        Errors: PreconditionFailed (406), the tag is unknown or already settled; closes the channel, later.

            def on_message(message):
                handle(message.body)
                channel.basic_ack(message.delivery_tag)

        basic.ack, 0-9-1 §1.8.3.13.
        """
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
        """Refuses a delivery. `message.nack()` does this.

        delivery_tag: the message's. multiple: refuses all deliveries up to it too. requeue: the broker puts the message
        back into the queue; without it the message is dropped, or dead-lettered.

        The broker does not reply: it is done when its bytes have gone to the kernel.

        Errors: PreconditionFailed (406), as `basic_ack`. NotInThisVersion: 0-8 has no basic.nack; a single refusal goes
        out as basic.reject there, `multiple` is refused at the call.

        RabbitMQ 4.3: a quorum queue counts a `basic_reject` towards its delivery limit, and not a basic_nack.

        basic.nack, a RabbitMQ extension of 0-9-1.
        """
        if self._sender.version != "0-8":
            self._tell("basic.nack", on_done, delivery_tag=delivery_tag, multiple=multiple, requeue=requeue)
        elif multiple:
            raise NotInThisVersion("AMQP 0-8 has no basic.nack, and basic.reject refuses one delivery at a time")
        else:
            self.basic_reject(delivery_tag, requeue, on_done=on_done)

    @oneway
    def basic_reject(self, delivery_tag: int, requeue: bool = True, *, on_done: OnDone[None] | None = None) -> None:
        """Refuses one delivery. `message.reject()` does this.

        delivery_tag: the message's. requeue: the broker puts the message back into the queue; without it the message is
        dropped, or dead-lettered.

        The broker does not reply: it is done when its bytes have gone to the kernel.

        basic.reject, 0-9-1 §1.8.3.14.
        """
        self._tell("basic.reject", on_done, delivery_tag=delivery_tag, requeue=requeue)

    @operation
    def basic_recover(self, requeue: bool = True, *, on_done: OnDone[None] | None = None) -> None:
        """Has the broker deliver all unacknowledged messages of the channel again.

        requeue: RabbitMQ takes only True (AMQPNotImplemented, 540, closes the connection). On 0-8 the broker does not
        reply.

        basic.recover, 0-9-1 §1.8.3.16.
        """
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
        """Publishes a message.

        exchange: its name; "" routes to the queue that routing_key names. body: bytes; a str is sent as UTF-8.
        properties: BasicProperties, or a dict of their names. mandatory: the broker returns a message that reaches no
        queue. immediate: it returns a message that no consumer takes at once; RabbitMQ refuses this
        (AMQPNotImplemented, 540, closes the connection). block_on_flow_control: while the broker has stopped the flow,
        the message is held until the broker permits transmission, instead of failing.

        On a confirming channel (see `confirm_select`) it is done when the message is confirmed; if the broker decides
        otherwise, that is an error. On another channel the broker does not reply, whatever becomes of the message: it
        is done when its bytes have gone to the kernel.

        In the core the call also returns a bool at once. False says that the program should wait for the writable
        handler before it publishes more; the message is kept all the same.

        Result: True.
        Errors: MessageNacked, the broker refused the message; MessageReturned, the message reached no queue;
        DeliveryUnknown, the channel or link ended first; ContentTransmissionForbidden, the broker has stopped the flow;
        NotFound (404), the exchange does not exist, closes the channel.

            channel.confirm_select()
            properties = cpspika.BasicProperties(delivery_mode=2)
            channel.basic_publish("", "tasks", "hello", properties, mandatory=True)

        basic.publish, 0-9-1 §1.8.3.7.
        """
        return self._publisher.publish(
            exchange, routing_key, body, properties, mandatory, immediate, block_on_flow_control, on_done
        )

    @operation
    def confirm_select(self, *, on_done: OnDone[None] | None = None) -> None:
        """Has the broker confirm every message that this channel publishes from here on.

        Errors: PreconditionFailed (406), the channel is in transactions; closes the channel.

            channel.confirm_select()
            channel.basic_publish("", "tasks", "hello")
            print("the broker has the message")

        confirm.select, a RabbitMQ extension of 0-9-1.
        """
        if self._request("confirm.select", on_done):
            self._publisher.confirm()

    @operation
    def drain(self, *, on_done: OnDone[None] | None = None) -> None:
        """Waits until the channel is `writable`. A publisher that sends much waits for this from time to time.

        While publishes are held back, it is done when the channel is writable again. On a writable channel that is at
        once.
        """
        self._drain(on_done)

    # --- transactions (0-9-1 §1.9) ------------------------------------------------------------------------------------

    @operation
    def tx_select(self, *, on_done: OnDone[None] | None = None) -> None:
        """Puts publishes and acknowledgements of this channel into transactions from here on.

        Errors: PreconditionFailed (406), the channel confirms; closes the channel.

        tx.select, 0-9-1 §1.9.2.1.
        """
        self._request("tx.select", on_done)

    @operation
    def tx_commit(self, *, on_done: OnDone[None] | None = None) -> None:
        """Carries out the publishes and acknowledgements since the last commit, and begins the next transaction.

        Publishes that are held (see `block_on_flow_control`) go out first, and what is asked for later goes out last.

        tx.commit, 0-9-1 §1.9.2.3.
        """
        self._end_transaction("tx.commit", on_done)

    @operation
    def tx_rollback(self, *, on_done: OnDone[None] | None = None) -> None:
        """Drops the publishes and acknowledgements since the last commit, and begins the next transaction. Messages
        that were delivered stay delivered and unacknowledged.

        tx.rollback, 0-9-1 §1.9.2.5.
        """
        self._end_transaction("tx.rollback", on_done)

    # --- the channel itself -------------------------------------------------------------------------------------------

    @operation
    def flow(self, active: bool, *, on_done: OnDone[bool] | None = None) -> None:
        """Asks the broker to stop (False) or resume (True) its deliveries.

        RabbitMQ knows only True (AMQPNotImplemented, 540, closes the connection); use `basic_qos` there.
        Result: whether deliveries flow now.

        channel.flow, 0-9-1 §1.5.2.3.
        """
        self._request("channel.flow", on_done, lambda ok: ok.active, active=active)

    @operation
    def close(self, reply_code: int = 200, reply_text: str = "", *, on_done: OnDone[None] | None = None) -> None:
        """Closes the channel. Closing a closed channel is no error.

        reply_code, reply_text: the reason that the broker is told. Operations that were asked for before still get
        their replies; one that stays without gets ChannelClosed.

        channel.close, 0-9-1 §1.5.2.5.
        """
        self._close(reply_code, reply_text, on_done)

    # --- handlers -----------------------------------------------------------------------------------------------------

    @registration
    def add_flow_change_handler(self: ChannelT, handler: Callable[[ChannelT, bool], object]) -> Remove:
        """Has handler(channel, transmission_permitted) called when the broker stops or permits the flow of publishes
        (channel.flow). Returns a function that removes the handler."""
        return self._add_handler("flow", handler)

    @registration
    def add_return_handler(self, handler: OnMessage) -> Remove:
        """Has handler(message) called for each message that the broker returns (basic.return); `message.reply_code` and
        `message.reply_text` say why. Returns a function that removes the handler."""
        return self._add_handler("return", handler)

    @registration
    def add_state_change_handler(self: ChannelT, handler: Callable[[ChannelT, bool], object]) -> Remove:
        """Has handler(channel, is_open) called when the channel opens or closes; `channel.close_reason` says why it
        closed. Returns a function that removes the handler."""
        return self._add_handler("state", handler)

    @registration
    def add_writable_handler(self: ChannelT, handler: Callable[[ChannelT], object]) -> Remove:
        """Has handler(channel) called when `writable` turns True again. Returns a function that removes the handler."""
        return self._add_handler("writable", handler)

    @registration
    def addFlowChangeHandler(self: ChannelT, handler: Callable[[ChannelT, bool], object]) -> None:
        """`add_flow_change_handler` under its name in pika 0.5. The handler is also called at once, with the present
        state."""
        self.add_flow_change_handler(handler)
        handler(self, self.transmission_permitted)

    @registration
    def addStateChangeHandler(self: ChannelT, handler: Callable[[ChannelT, bool], object]) -> None:
        """`add_state_change_handler` under its name in pika 0.5. The handler is also called at once, with the present
        state."""
        self.add_state_change_handler(handler)
        handler(self, self.is_open)


def consumer_tag(ok: Method) -> str:
    """The result of basic_consume."""
    tag: str = ok.consumer_tag
    return tag


def message_count(ok: Method) -> int:
    """The result of queue_purge and queue_delete."""
    count: int = ok.message_count
    return count
