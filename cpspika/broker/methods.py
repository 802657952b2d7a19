"""The handlers of a client's methods: each turns one method into calls of the model, and sends the answer.

`HANDLERS` maps a method's name to its handler. A handler that refuses a method raises the error of the reply code; the
session then closes the channel or the connection with this code.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, Protocol

from ..errors import AMQPError
from ..reactor import Reactor
from ..wire.codec import Method
from ..wire.handshake import Negotiated
from ..wire.link import Link
from ..wire.message import Envelope, Message
from .channel import REPLY_TO, Consumer, ServerChannel, SessionServices
from .queue_arguments import check_consumer_arguments
from .queues import SLICE, MemoryGauge, Queue, message_memory
from .refusal import not_found, precondition_failed, refusal
from .rules import Rules
from .store import Store
from .virtual_host import HAS_USER_ID, Exchange, VirtualHost, flags, unique_name

# Where a table has nan or an infinity, one of these stands before it: the type, and the first byte of the number.
_MAYBE_INFINITE = (b"d\x7f", b"d\xff", b"f\x7f", b"f\xff")


class BrokerServices(Protocol):
    """The broker, as its sessions see it."""

    reactor: Reactor
    users: dict[str, str]  # passwords by name
    vhosts: dict[str, VirtualHost]
    limits: Negotiated
    rules: Rules
    consumer_timeout: float | None  # seconds for which a client may hold a delivery; None for no limit
    sessions: dict[Any, None]
    store: Store
    token_bytes: Callable[[int], bytes]
    reply_channels: dict[str, ServerChannel]  # the channels that consume replies, by the token of their address
    blocked: str | None  # the reason that connection.blocked gives, or None
    refuses_logins: bool
    memory: MemoryGauge
    memory_alarm: bool  # publishers have been told to stop

    def nacks_now(self) -> bool:
        """Whether `Broker.nack_next` applies to the publish at hand."""

    def check_memory(self, session: Any) -> None: ...
    def forget_throttled(self, session: Any) -> None: ...
    def accepts_login(self, name: str, password: str, address: str | None) -> bool: ...
    def login_failed(self) -> float:
        """Counts a login that was refused. Returns the seconds after which the client may hear of it."""

    def call(self, function: Callable[[], Any]) -> Any: ...


class OpenSession(SessionServices, Protocol):
    """An open session, as its handlers see it."""

    broker: BrokerServices
    link: Link
    user: str | None
    vhost: VirtualHost
    exclusive: dict[Queue, None]
    published: bool
    published_in_alarm: bool  # although the messages took too much memory

    def refuse(self, channel: ServerChannel, event: Any, error: AMQPError) -> None: ...


class MethodHandlers:
    """The handlers of one open session. They are called with the channel, and with a `Method` or a `Message`."""

    def __init__(self, session: OpenSession):
        self.session = session
        self.broker = session.broker
        self.vhost = session.vhost
        # The envelope that `_check` accepted last, and its exchange.
        self._checked: Envelope | None = None
        self._checked_exchange: Exchange

    def _answer(self, channel: ServerChannel, method: Method, **arguments: Any) -> None:
        if not method.arguments.get("no_wait"):
            self.session.send(channel.number, method.name + "-ok", arguments)

    def ignore(self, channel: ServerChannel, method: Method) -> None:
        """The method needs no action."""

    def access_request(self, channel: ServerChannel, method: Method) -> None:
        self._answer(channel, method, ticket=1)

    # --- exchanges and queues -----------------------------------------------------------------------------------------

    def exchange_declare(self, channel: ServerChannel, method: Method) -> None:
        self.vhost.declare_exchange(
            _one_line(method.exchange),
            method.type,
            method.passive,
            method.durable,
            method.auto_delete,
            method.internal,
            method.arguments["arguments"],
        )
        self._answer(channel, method)

    def exchange_delete(self, channel: ServerChannel, method: Method) -> None:
        self.vhost.delete_exchange(_one_line(method.exchange), method.if_unused)
        self._answer(channel, method)

    def exchange_bind(self, channel: ServerChannel, method: Method) -> None:
        """exchange.bind and exchange.unbind."""
        change = self.vhost.bind if method.name == "exchange.bind" else self.vhost.unbind
        arguments = method.arguments["arguments"]
        source, destination = _one_line(method.source), _one_line(method.destination)
        change(source, "exchange", destination, method.routing_key, arguments, self.session)
        self._answer(channel, method)

    def queue_declare(self, channel: ServerChannel, method: Method) -> None:
        name = _one_line(method.queue)
        if name.startswith(REPLY_TO):
            if name != REPLY_TO and name[len(REPLY_TO) + 1 :] not in self.broker.reply_channels:
                raise not_found("queue", name, self.vhost.name)
            self._answer(channel, method, queue=name, message_count=0, consumer_count=1)
            return
        queue = self.vhost.declare_queue(
            name,
            method.passive,
            method.durable,
            method.exclusive,
            method.auto_delete,
            method.arguments["arguments"],
            self.session,
        )
        if queue.owner is self.session:
            self.session.exclusive[queue] = None
        channel.last_queue = queue.name
        self._answer(channel, method, queue=queue.name, message_count=len(queue), consumer_count=queue.consumer_count)

    def _queue_name(self, channel: ServerChannel, name: str) -> str:
        """The name of a queue; an empty name means the queue that the channel declared last (0-9-1 §1.7.2.1)."""
        if name or channel.last_queue:
            return name or channel.last_queue
        raise refusal(404, "no previously declared queue")

    def _queue(self, channel: ServerChannel, name: str) -> Queue:
        return self.vhost.queue(self._queue_name(channel, name), self.session)

    def queue_bind(self, channel: ServerChannel, method: Method) -> None:
        """queue.bind and queue.unbind."""
        name = _one_line(self._queue_name(channel, method.queue))
        key = method.routing_key or ("" if method.queue else name)
        change = self.vhost.bind if method.name == "queue.bind" else self.vhost.unbind
        change(_one_line(method.exchange), "queue", name, key, method.arguments["arguments"], self.session)
        self._answer(channel, method)

    def queue_purge(self, channel: ServerChannel, method: Method) -> None:
        self._answer(channel, method, message_count=self._queue(channel, method.queue).purge())

    def queue_delete(self, channel: ServerChannel, method: Method) -> None:
        name = _one_line(self._queue_name(channel, method.queue))
        count = 0
        if name in self.vhost.queues:
            queue = self.vhost.queue(name, self.session)
            count = self.vhost.delete_queue(queue, method.if_unused, method.if_empty)
            self.session.exclusive.pop(queue, None)
        self._answer(channel, method, message_count=count)

    # --- consuming ----------------------------------------------------------------------------------------------------

    def basic_qos(self, channel: ServerChannel, method: Method) -> None:
        if method.prefetch_size:
            raise refusal(540, f"prefetch_size!=0 ({method.prefetch_size})")
        # Without global qos, RabbitMQ takes the limit for that of each consumer.
        channel.set_prefetch(method.prefetch_count, method.arguments["global"] and self.broker.rules.has_global_qos)
        self._answer(channel, method)
        channel.resume_consumers()

    def basic_consume(self, channel: ServerChannel, method: Method) -> None:
        tag = method.consumer_tag or unique_name("amq.ctag-", self.broker.token_bytes)
        if tag in channel.consumers:
            raise refusal(530, f"attempt to reuse consumer tag '{tag}'")
        if method.queue == REPLY_TO:
            channel.consume_replies(tag, method.no_ack)
            self._answer(channel, method, consumer_tag=tag)
            return
        queue = self._queue(channel, method.queue)
        arguments = method.arguments.get("arguments") or {}  # 0-8 has none
        check_consumer_arguments(arguments, queue.described, queue.limits.type, self.broker.rules.like)
        if channel.global_prefetch and queue.limits.type == "quorum":
            raise refusal(540, f"{queue.described} does not support global qos")
        in_exclusive_use = any(consumer.exclusive for consumer in queue.consumers)
        if in_exclusive_use or (method.exclusive and (queue.consumer_count or queue.limits.single_active)):
            raise refusal(403, f"{queue.described} in exclusive use")
        consumer = Consumer(channel, queue, tag, method.no_ack, method.exclusive, arguments)
        self._answer(channel, method, consumer_tag=tag)
        channel.consumers[tag] = consumer
        queue.add_consumer(consumer)
        queue.dispatch()

    def basic_cancel(self, channel: ServerChannel, method: Method) -> None:
        consumer = channel.consumers.pop(method.consumer_tag, None)
        channel.cancel_replies(method.consumer_tag)
        self._answer(channel, method, consumer_tag=method.consumer_tag)
        if consumer is not None:
            consumer.stop()

    def basic_cancel_ok(self, channel: ServerChannel, method: Method) -> None:
        channel.cancelled_late(method.consumer_tag)

    def basic_get(self, channel: ServerChannel, method: Method) -> None:
        queue = self._queue(channel, method.queue)
        if queue.has_expired:
            self._run(channel, method, queue.drop_expired(), partial(self._get, channel, method))
        else:
            self._get(channel, method)

    def _get(self, channel: ServerChannel, method: Method) -> None:
        queue = self._queue(channel, method.queue)
        entry = queue.get(method.no_ack)
        if entry is None:
            self.session.send(channel.number, "basic.get-empty", {})
            return
        if not method.no_ack:
            channel.timeouts.expect(self.session.ack_limit(queue))
        details = {
            "delivery_tag": channel.record_delivery(entry, None, method.no_ack),
            "redelivered": entry.redelivered,
            "exchange": entry.message.exchange,
            "routing_key": entry.message.routing_key,
            "message_count": len(queue),
        }
        self.session.send_content(channel.number, "basic.get-ok", details, queue.shown(entry))

    def basic_ack(self, channel: ServerChannel, method: Method) -> None:
        channel.settle("ack", method.delivery_tag, method.multiple)

    def basic_nack(self, channel: ServerChannel, method: Method) -> None:
        """basic.nack and basic.reject."""
        outcome = _REQUEUE[method.name] if method.requeue else "reject"
        channel.settle(outcome, method.delivery_tag, method.arguments.get("multiple", False))

    def basic_recover(self, channel: ServerChannel, method: Method) -> None:
        """basic.recover, which 0-8 doesn't answer; and basic.recover-async."""
        if not method.requeue:
            raise refusal(540, "requeue=false")
        self._run(channel, method, channel.recover(), partial(self._recovered, channel, method))

    def _recovered(self, channel: ServerChannel, method: Method) -> None:
        if method.name == "basic.recover-sync":  # RabbitMQ's second basic.recover of 0-8, which is answered
            self.session.send(channel.number, "basic.recover-ok", {})
        elif method.name == "basic.recover" and self.session.link.version != "0-8":
            self._answer(channel, method)

    def _committed(self, channel: ServerChannel, method: Method) -> None:
        self.broker.store.sync()
        self._answer(channel, method)

    def _run(self, channel: ServerChannel, method: Method, steps: Iterator[object], then: Callable[[], object]) -> None:
        """Does long work in slices, then makes a call."""

        def all_steps() -> Iterator[object]:
            yield from steps
            if channel.is_open:
                then()

        self.session.run_long(all_steps(), partial(self.session.refuse, channel, method))

    def channel_flow(self, channel: ServerChannel, method: Method) -> None:
        if not method.active:
            raise refusal(540, "active=false")
        self._answer(channel, method, active=True)

    # --- publishing ---------------------------------------------------------------------------------------------------

    def basic_publish(self, channel: ServerChannel, message: Message) -> None:
        if self.broker.memory_alarm:
            channel.set_flow(False)
            self.session.published_in_alarm = True
        envelope = message.envelope
        # Publishes with equal bytes in method and header share one envelope, so `_check` runs once for all of them.
        if envelope is not self._checked or self.vhost.exchanges.get(envelope.exchange) is not self._checked_exchange:
            self._checked = None
            self._checked_exchange = self._check(channel, message)
            if message.envelope is envelope:
                self._checked = envelope
            self.session.published = True
        exchange, mandatory = self._checked_exchange, bool(message.details.get("mandatory"))
        channel.published = True
        if channel.is_transactional:
            publish = partial(self._publish_now, channel, message, exchange, mandatory)
            channel.add_to_transaction(publish, message_memory(message))
            return
        steps = self._publish_now(channel, message, exchange, mandatory)
        if isinstance(steps, bool):
            channel.record_publish(steps)
        else:
            self._record_later(channel, steps)

    def _record_later(self, channel: ServerChannel, steps: Generator[None, None, bool]) -> None:
        """Publishes to many queues in slices, then prepares the confirm."""

        def all_steps() -> Iterator[None]:
            store, taken, accepted = self.broker.store, False, None
            while accepted is None:
                try:
                    next(steps)
                except StopIteration as end:
                    accepted = end.value
                # Between the slices the publishes of others set and reset the store's mark.
                taken, store.taken = taken or store.taken, False
                if accepted is None:
                    yield
            store.taken = taken
            if channel.is_open:
                channel.record_publish(accepted)

        self.session.run_long(all_steps())

    def _check(self, channel: ServerChannel, message: Message) -> Exchange:
        """Refuses a message that may not be published; returns its exchange.

        Properties are decoded here, before any queue has the message, so that an error in them closes the publisher's
        channel and no other.
        """
        if message.details.get("immediate"):
            raise refusal(540, "immediate=true")
        exchange = self.vhost.exchange(message.exchange)
        if exchange.internal:
            described = f"exchange '{exchange.name}' in vhost '{self.vhost.name}'"
            raise refusal(403, f"cannot publish to internal {described}")
        properties = message.properties
        if any(mark in message.encoded for mark in _MAYBE_INFINITE):
            properties.encode()  # InvalidArgument, if a header cannot be sent on
        self.vhost.check(message)
        user = self.session.user
        if flags(message) & HAS_USER_ID and properties.user_id != user:
            raise precondition_failed(
                f"user_id property set to '{properties.user_id}' but authenticated user was '{user}'"
            )
        if properties.reply_to == REPLY_TO:
            properties.reply_to = channel.reply_address()
            message.replace_properties(properties)
        return exchange

    def _publish_now(
        self, channel: ServerChannel, message: Message, exchange: Exchange, mandatory: bool
    ) -> bool | Generator[None, None, bool]:
        """Routes a message to its queues, and returns an unroutable mandatory one to the client.

        Returns False if a queue refused the message. For very many queues, returns the steps that push the message to
        them; their result is the same.
        """
        queues = self.vhost.route(exchange, message)
        if len(queues) > SLICE:
            return self.vhost.push_in_slices(message, queues)
        accepted = self.vhost.push(message, queues)
        if mandatory and not queues:
            returned = {
                "reply_code": 312,
                "reply_text": "NO_ROUTE",
                "exchange": message.exchange,
                "routing_key": message.routing_key,
            }
            self.session.send_content(channel.number, "basic.return", returned, message)
        return accepted

    def confirm_select(self, channel: ServerChannel, method: Method) -> None:
        channel.select_confirms()
        self._answer(channel, method)

    def tx_select(self, channel: ServerChannel, method: Method) -> None:
        channel.select_transactions()
        self._answer(channel, method)

    def tx_commit(self, channel: ServerChannel, method: Method) -> None:
        self._run(channel, method, channel.commit(), partial(self._committed, channel, method))

    def tx_rollback(self, channel: ServerChannel, method: Method) -> None:
        channel.rollback()
        self._answer(channel, method)


_REQUEUE = {"basic.nack": "requeue", "basic.reject": "failed"}


def _one_line(name: str) -> str:
    """The name of a queue or exchange, without line ends; RabbitMQ strips them where it declares, binds and deletes."""
    return name.replace("\r", "").replace("\n", "") if "\n" in name or "\r" in name else name


HANDLERS: dict[str, Callable[[MethodHandlers, ServerChannel, Any], None]] = {
    "access.request": MethodHandlers.access_request,
    "exchange.declare": MethodHandlers.exchange_declare,
    "exchange.delete": MethodHandlers.exchange_delete,
    "exchange.bind": MethodHandlers.exchange_bind,
    "exchange.unbind": MethodHandlers.exchange_bind,
    "queue.declare": MethodHandlers.queue_declare,
    "queue.bind": MethodHandlers.queue_bind,
    "queue.unbind": MethodHandlers.queue_bind,
    "queue.purge": MethodHandlers.queue_purge,
    "queue.delete": MethodHandlers.queue_delete,
    "basic.qos": MethodHandlers.basic_qos,
    "basic.consume": MethodHandlers.basic_consume,
    "basic.cancel": MethodHandlers.basic_cancel,
    "basic.cancel-ok": MethodHandlers.basic_cancel_ok,
    "basic.get": MethodHandlers.basic_get,
    "basic.ack": MethodHandlers.basic_ack,
    "basic.nack": MethodHandlers.basic_nack,
    "basic.reject": MethodHandlers.basic_nack,
    "basic.recover": MethodHandlers.basic_recover,
    "basic.recover-async": MethodHandlers.basic_recover,
    "basic.recover-sync": MethodHandlers.basic_recover,
    "basic.publish": MethodHandlers.basic_publish,
    "channel.flow": MethodHandlers.channel_flow,
    "channel.flow-ok": MethodHandlers.ignore,
    "confirm.select": MethodHandlers.confirm_select,
    "tx.select": MethodHandlers.tx_select,
    "tx.commit": MethodHandlers.tx_commit,
    "tx.rollback": MethodHandlers.tx_rollback,
}
