"""One opening of a recovering channel: the core's channel on one link, from its channel.open to its end.

Each opening has an epoch, 0 for the first. A delivery tag that the program sees carries it:
tag = epoch << 44 | the broker's tag. So an acknowledgement of a delivery of an earlier opening is recognized, and is
never sent: the broker gives the same numbers again, to other messages. The translation stands here, at the two places
where tags pass: a delivery comes in, an acknowledgement goes out.

The opening is also what the program's `on_ready` gets: what it asks there goes out at once, before all that waits, and
fails when the opening is over.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any

from ..client.channel import Channel
from ..client.channel_sender import ChannelSender
from ..client.connection import Connection
from ..client.continuations import OnDone, PendingCalls, Request, check_callable, refuse
from ..client.hooks import HookedPublisher, adopted
from ..client.operations import Consumer
from ..client.publisher import Content, Publisher, encode_body
from ..errors import AMQPError, ChannelClosed, ConnectionClosed, DeliveryUnknown
from ..wire.codec import Method
from ..wire.message import NO_PROPERTIES, BasicProperties, Envelope, Message, encode_properties
from .operations import Publish, Sent, stale, unknown
from .options import Resent
from .roles import Owner
from .transaction import Transaction

EPOCH_SHIFT = 44
SETTLING = frozenset(("basic.ack", "basic.nack", "basic.reject"))


class EpochSender(ChannelSender):
    """The way out of one opening. Acknowledgements of other openings are dropped and counted."""

    __slots__ = ("_above", "_recovering", "base", "last_tag")

    def __init__(self, connection: Connection, number: int, epoch: int, recovering: Owner):
        super().__init__(connection, number)
        self.base = epoch << EPOCH_SHIFT
        self._above = (epoch + 1) << EPOCH_SHIFT
        self.last_tag = self.base  # of the deliveries that were handed out
        self._recovering = recovering

    def own_tag(self, delivery_tag: int, multiple: bool) -> int | None:
        """The broker's tag of a delivery of this opening; None: there is nothing to settle in this opening."""
        if delivery_tag.__class__ is not int:
            return delivery_tag  # encoding it raises the error
        if delivery_tag == 0 and multiple:
            # All that were handed out. For the broker 0 would also mean those that are still on their way.
            return self.last_tag - self.base or None
        if delivery_tag <= 0:
            return delivery_tag
        return delivery_tag - self.base if self.base < delivery_tag < self._above else None

    def send_ack(self, delivery_tag: int, multiple: bool) -> None:
        # Each message is acknowledged here: what the base does stands here too, without its call.
        if delivery_tag.__class__ is int and self.base < delivery_tag < self._above:
            own: int | None = delivery_tag - self.base
        else:
            own = self.own_tag(delivery_tag, multiple)
        if own is None:
            self._recovering._drop_stale("basic.ack", {"delivery_tag": delivery_tag, "multiple": multiple})
            return
        thread = self._reactor.thread
        if thread is not None and thread != get_ident():
            self._connection._check_thread()
        fast = self._fast_sender or self._make_fast_sender()
        self._backlog.write([fast.ack(own, multiple)])

    def send(self, name: str, arguments: dict[str, Any]) -> None:
        if name in SETTLING:
            own = self.own_tag(arguments["delivery_tag"], arguments.get("multiple", False))
            if own is None:
                self._recovering._drop_stale(name, arguments)
                return
            arguments = {**arguments, "delivery_tag": own}
        super().send(name, arguments)


class TransactionSender(EpochSender):
    """The way out of an opening in transactions: notes that something stands to be committed."""

    __slots__ = ()

    def send_ack(self, delivery_tag: int, multiple: bool) -> None:
        try:
            super().send_ack(delivery_tag, multiple)
            self._note(delivery_tag, multiple)
        except BaseException as error:
            self.failed(error)
            raise

    def send(self, name: str, arguments: dict[str, Any]) -> None:
        try:
            super().send(name, arguments)
            if name in SETTLING:
                self._note(arguments["delivery_tag"], arguments.get("multiple", False))
        except BaseException as error:
            self.failed(error)
            raise

    def _note(self, delivery_tag: int, multiple: bool) -> None:
        transaction = self._recovering._transaction
        if transaction is not None and self.own_tag(delivery_tag, multiple) is not None:
            transaction.begun()


class ResendingPublisher(Publisher):
    """The publishes of one opening, each kept until the broker has decided it. `has_settled`: it has decided one."""

    __slots__ = ("_connection", "_recovering", "buffer", "has_settled")

    def __init__(self, opening: OpeningChannel, sender: EpochSender, recovering: Owner):
        super().__init__(opening, sender)
        self._recovering = recovering
        self._connection = recovering._connection
        self.buffer = self._connection._buffer
        self.has_settled = False

    def publish_otherwise(self, content: Content, block_on_flow_control: bool, on_done: OnDone[bool] | None) -> bool:
        sender = self._sender
        if not self._channel.is_open:
            return self._recovering._publish_later(content, on_done)
        if not self.permitted:
            return self._stopped(content, block_on_flow_control, on_done)
        if self._window is None and on_done is None:
            self._send_untold(content)
            return sender.writable
        publish = Publish(self._recovering, on_done, content)
        publish.position = self._connection._unwritten.position
        self._send(publish, content)
        return self.buffer.take(publish.size) and sender.writable

    def _stopped(self, content: Content, block_on_flow_control: bool, on_done: OnDone[bool] | None) -> bool:
        if not block_on_flow_control:
            self._refuse_stopped(on_done)
            return False
        publish = Publish(self._recovering, on_done, content)
        self._hold(publish, content)
        self.buffer.take(publish.size)
        return False

    def _send(self, publish: Any, content: Content) -> None:
        if self._window is None and publish.on_done is None and publish.__class__ is Publish:
            self._send_untold(content)
            publish.leave()
        else:
            super()._send(publish, content)

    def _send_untold(self, content: Content) -> None:
        """Sends a publish that nobody confirms or asks for. It is kept until the kernel has taken it."""
        try:
            self._sender.send_content("basic.publish", content.arguments, content.properties, content.body)
            self._connection._unwritten.add(self._recovering, content)
        except BaseException as error:
            self._sender.failed(error)
            raise

    def launch(self, publish: Publish) -> None:
        """Sends a publish that has waited, or was sent on an earlier opening; while the flow is stopped, holds it."""
        content, header = publish.content, self._connection.options.mark_resent
        assert content is not None
        if publish.times and header is not None:
            content = _marked(content, header, publish.times)
        publish.returned = None
        publish.undecided = False
        if self.permitted:
            self._send(publish, content)
        else:
            self._hold(publish, content)

    def _settle_acked(self, publish: Any) -> None:
        if publish.__class__ is Sent:
            self.has_settled = True
            buffer = self.buffer
            buffer.size -= publish.size
            if buffer.is_full:
                buffer.ease()
            on_done = publish.on_done
            if on_done is not None:
                publish.on_done = None  # as in Continuation.done
                on_done(None, True)
        elif publish.__class__ is Publish:
            self.has_settled = True
            publish.leave()
            if publish.returned is not None:
                super()._settle_acked(publish)
            else:
                publish.done(Resent(publish.times) if publish.times else True)
        else:  # of on_ready
            super()._settle_acked(publish)

    def _settle_nacked(self, publish: Any) -> None:
        if publish.__class__ is Sent:
            publish = publish.lost()
        if publish.__class__ is Publish:
            self.has_settled = True
            publish.leave()
        super()._settle_nacked(publish)

    def _fail_publish(self, publish: Any, error: AMQPError) -> None:
        if publish.__class__ is Publish:
            error = publish.unknown_or(error)
            if publish.on_done is not None:
                publish.on_done(publish.told(error), None)
                return
        super()._fail_publish(publish, error)


class OpenPublisher:
    """The publisher of a recovering channel that is open: its publishes go out at once, and are sent again if the link
    is lost before they are decided. (ResendingPublisher.publish is for on_ready: what that publishes fails with its
    opening.)"""

    __slots__ = ("_kept", "_opening", "_publisher", "_recovering", "_sender", "_transport", "_unwritten")

    _hooked_by = HookedPublisher

    def __init__(self, publisher: ResendingPublisher):
        self._publisher = publisher
        self._opening = publisher._channel
        self._recovering = publisher._recovering
        self._sender = publisher._sender
        self._unwritten = publisher._connection._unwritten
        self._kept = self._unwritten.kept
        self._transport = self._unwritten.transport

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: str | bytes,
        properties: Any,
        mandatory: bool,
        immediate: bool,
        block_on_flow_control: bool,
        on_done: OnDone[bool] | None,
    ) -> bool:
        # Each publish comes this way: what Unwritten.add does stands here too, without its call.
        publisher = self._publisher
        octets = body if body.__class__ is bytes else encode_body(body)
        encoded = NO_PROPERTIES if properties is None else encode_properties(properties)
        if mandatory or immediate or not self._opening.is_open:
            content = Content(exchange, routing_key, mandatory, immediate, encoded, octets)
            return publisher.publish_otherwise(content, block_on_flow_control, on_done)
        if on_done is None and publisher.is_fire_and_forget:
            writable = self._sender.send_publish(exchange, routing_key, encoded, octets)
            kept = self._kept
            if not kept:
                self._unwritten.watch()
            kept.append((self._transport.queued, self._recovering, exchange, routing_key, encoded, octets))
            return writable
        window = publisher._window
        if window is None or not publisher.permitted:
            content = Content(exchange, routing_key, False, False, encoded, octets)
            return publisher.publish_otherwise(content, block_on_flow_control, on_done)
        # What Buffer.take does stands here too.
        sender = self._sender
        sent = Sent(self._recovering, on_done, (exchange, routing_key, encoded, octets))
        try:
            writable = sender.send_publish(exchange, routing_key, encoded, octets)
            window.add(sent)
        except BaseException as error:
            sender.failed(error)
            raise
        buffer = publisher.buffer
        buffer.size += sent.size
        if buffer.size > buffer.most:
            buffer.is_full = True
        return writable and not buffer.is_full

    def awaits(self, on_done: OnDone[bool]) -> bool:
        return self._publisher.awaits(on_done)

    @property
    def _channel(self) -> Owner:
        return self._recovering

    @property
    def permitted(self) -> bool:
        return self._publisher.permitted

    @property
    def is_confirming(self) -> bool:
        return self._publisher.is_confirming

    @property
    def is_fire_and_forget(self) -> bool:
        return self._publisher.is_fire_and_forget

    def confirm(self) -> None:
        self._publisher.confirm()


class TransactionPublisher(OpenPublisher):
    """The same in transactions: a publish that is lost is not sent again, since its transaction is lost with it."""

    __slots__ = ("_transaction",)

    def __init__(self, publisher: ResendingPublisher, transaction: Transaction):
        super().__init__(publisher)
        self._transaction = transaction

    def publish(self, *asked: Any) -> bool:
        *content, on_done = asked
        check_callable("on_done", on_done)
        error = self._transaction.refusal("basic.publish")
        if error is not None:
            refuse(on_done, error, "basic.publish", self._sender.call_soon)
            return False
        # The class's own: hooks have seen the publish already.
        publish: Callable[..., bool] = partial(ResendingPublisher.publish, self._publisher)
        writable = publish(*content, on_done and partial(_told_unknown, on_done))
        self._transaction.begun()
        return writable


def _told_unknown(on_done: OnDone[bool], err: AMQPError | None, result: bool | None) -> None:
    if isinstance(err, (ConnectionClosed, ChannelClosed, DeliveryUnknown)):
        err = unknown(err).of("basic.publish", err.asked_at)
    on_done(err, result)


class OpeningChannel(Channel):
    """The core's channel of one opening. `begun`: the reactor's time then. `has_settled`: the broker has answered
    something."""

    __slots__ = ("_recovering", "begun", "has_settled")

    _publisher: ResendingPublisher
    _sender: EpochSender
    _is_view = True

    def __init__(self, recovering: Owner, epoch: int, link: Connection, number: int, reused: bool):
        kind = EpochSender if recovering._transaction is None else TransactionSender
        sender = kind(link, number, epoch, recovering)
        self._recovering = recovering
        super().__init__(number, sender, reused)
        self.begun = link.reactor.time()
        self.has_settled = False
        self._publisher = ResendingPublisher(self, sender, recovering)

    @property
    def _facade(self) -> Any:
        return None

    @_facade.setter
    def _facade(self, facade: Any) -> None:
        """A message points to the program's channel, which outlives this opening."""

    def _outermost(self) -> Any:
        return self._recovering._outermost()

    def _become_transactional(self) -> None:
        self._sender.__class__ = TransactionSender
        adopted(self._sender)

    # --- what the program asks in on_ready ----------------------------------------------------------------------------

    def _tell(self, name: str, on_done: OnDone[Any] | None, **arguments: Any) -> None:
        if on_done is not None and name in SETTLING and self.is_open:
            multiple = arguments.get("multiple", False)
            if self._sender.own_tag(arguments["delivery_tag"], multiple) is None:
                told = Request(name, on_done)
                self._recovering._drop_stale(name, arguments)
                self._sender.call_soon(lambda: told.fail(stale()))
                return
        super()._tell(name, on_done, **arguments)

    # --- what arrives -------------------------------------------------------------------------------------------------

    def _deliver(self, message: Message) -> None:
        sender = self._sender
        message.delivery_tag = sender.last_tag = message.delivery_tag + sender.base
        super()._deliver(message)

    def _deliver_all(self, messages: list[Message]) -> PendingCalls:
        # Nearly every message comes this way: the base's loop, with the tags.
        consumer = self._consumers.get(messages[0].envelope.consumer_tag)  # type: ignore[arg-type]
        sender = self._sender
        base = sender.base
        if consumer is None:
            for message in messages:
                message.delivery_tag += base
            yield from ((self._undeliverable, message) for message in messages)
            return
        on_message, facade = consumer.on_message, self._outermost()
        for message in messages:
            if not self.is_open:
                break
            message.channel = facade
            message.delivery_tag = sender.last_tag = message.delivery_tag + base
            yield on_message, message

    def _got(self, reply: Method | Message) -> Message | None:
        message = super()._got(reply)
        if message is not None:
            sender = self._sender
            message.delivery_tag = sender.last_tag = message.delivery_tag + sender.base
        return message

    def _consumer_cancelled(self, tag: str, consumer: Consumer) -> None:
        if not self._recovering._cancelled_by_broker(tag, consumer):
            super()._consumer_cancelled(tag, consumer)

    # --- handlers: the program's, of the channel that outlives this opening -------------------------------------------

    def _has_handlers(self, kind: str) -> bool:
        return kind == "state" or self._recovering._has_handlers(kind)

    def _emit(self, kind: str, *details: Any) -> None:
        recovering = self._recovering
        recovering._emit(kind, *[recovering if detail is self else detail for detail in details])

    def _tell_writable(self) -> None:
        super()._tell_writable()  # of on_ready
        self._recovering._may_go_on()


OpeningChannel._by_method = {**Channel._by_method, "basic.deliver": OpeningChannel._deliver}


def _marked(content: Content, header: str, times: int) -> Content:
    """The same message, with a header that counts the copies sent before."""
    known = Message(Envelope("basic.publish", encoded=content.properties), 0, b"").properties
    values = known._present()
    values["headers"] = {**values.get("headers", {}), header: times}
    return content._replace(properties=BasicProperties(**values).encode())
