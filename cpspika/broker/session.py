"""A session: one client's link, its events turned into calls of the model, and the answers back.

Each method of the client has one handler here, named for it; what the model refuses closes the channel, or the
connection, with the code that it names. Whatever a client sends, it can hurt its own connection alone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

from ..errors import AMQPError, ChannelClosed, HeartbeatTimeout, ProtocolSyntaxError
from ..reactor import Reactor, Timer, Transport
from ..version import __version__
from ..wire.codec import Method
from ..wire.fast_send import FastDeliverer
from ..wire.fields import decode_table, encode_longstr
from ..wire.frames import PROTOCOL_HEADERS
from ..wire.handshake import CAPABILITIES, Host, Negotiated, server
from ..wire.link import Event, Link
from ..wire.message import Envelope, Message
from .channel import REPLY_TO, Consumer, ServerChannel
from .queues import Queue, field_type
from .refusal import precondition_failed, refusal
from .virtual_host import HAS_USER_ID, Exchange, VirtualHost, flags, unique_name

logger = logging.getLogger(__name__)

HIGH_WATER = 1024 * 1024  # bytes of backlog at which a client's consumers are served no more...
LOW_WATER = 256 * 1024  # ...and served again
LINGER = 5.0  # seconds to wait for the client's close-ok
HANDSHAKE = 10.0  # seconds that a client may take to open its connection, as in RabbitMQ

PROPERTIES = {
    "product": "cpspika",
    "version": __version__,
    "platform": "Python",
    "information": "the embedded broker of cpspika: in memory, in one process",
    "capabilities": {**CAPABILITIES, "per_consumer_qos": True, "direct_reply_to": True, "consumer_priorities": True},
}


class BrokerServices(Protocol):
    """The broker, as its sessions see it."""

    reactor: Reactor
    users: dict[str, str]
    vhosts: dict[str, VirtualHost]
    limits: Negotiated
    sessions: dict[Any, None]
    replies: dict[str, ServerChannel]
    blocked: str | None
    refuses_logins: bool

    stopped: bool

    def nacks_now(self) -> bool: ...
    def reply(self, message: Message) -> bool: ...
    def weigh(self) -> None: ...
    def call(self, function: Callable[[], Any]) -> Any: ...


class Session:
    """A client's connection, from the broker's side. `user` and `vhost` once it is open; `channels` by number."""

    def __init__(self, broker: BrokerServices, transport: Transport):
        self.broker = broker
        self.transport: Transport | None = transport
        self.link = Link("server", None, None)
        self._received: deque[Iterator[tuple[int, Event]]] = deque()
        self.user: str | None = None
        self.channel_max = 0
        self.vhost: VirtualHost
        self.channels: dict[int, ServerChannel] = {}
        self.client_properties: dict[str, Any] = {}
        self.congested = False
        self.published = False  # a publisher is what flow control is for
        self._stalled = self._held_back = False
        self._known: Envelope | None = None  # that was checked last, and its exchange
        self._known_exchange: Exchange
        self.exclusive: dict[Queue, None] = {}
        self._confirming: dict[ServerChannel, None] = {}
        self._timers: dict[str, Timer] = {}
        self._later("handshake", HANDSHAKE, self.drop_now)
        broker.sessions[self] = None

    def __repr__(self) -> str:
        return f"<Session of {self.user!r}, {len(self.channels)} channels>"

    @property
    def is_open(self) -> bool:
        return self.transport is not None and self.link.state == "open"

    @property
    def capabilities(self) -> dict[str, Any]:
        found = self.client_properties.get("capabilities")
        return found if isinstance(found, dict) else {}

    # --- in -----------------------------------------------------------------------------------------------------------

    def transport_ready(self) -> None:
        pass

    def data_received(self, data: bytes) -> None:
        try:
            rest = data if self.link.version else self._greet(data)
            if rest:
                self._receive(rest)
        except Exception:
            # A fault of ours must cost this client its connection, and nobody else anything.
            logger.exception("the embedded broker failed in a session, and closes it")
            self._close(refusal(541, "internal error of the broker"))

    def _greet(self, data: bytes) -> bytes | None:
        """The client's protocol header; returns what came after it."""
        try:
            greeting = self.link.greet_back(data)
        except AMQPError:
            self.write([PROTOCOL_HEADERS["0-9-1"]])
            self.hang_up()
            return None
        if greeting is None:
            return None
        version, rest = greeting
        host = Host(version, PROPERTIES, "PLAIN AMQPLAIN", self.broker.limits, self._authenticate, self._enter)
        self.link.begin(version, server(host))
        self._write_answers()
        return rest

    def _receive(self, data: bytes) -> None:
        self._received.append(self.link.events(data))
        self._work()

    def _work(self) -> None:
        """Deals with what has been received, as long as the client takes the answers: one that sends and doesn't read
        must not have us hold everything that it asked for."""
        while self._received and not self._over_full():
            event = next(self._received[0], None)
            self._write_answers()
            if event is None:
                self._received.popleft()
            elif self.transport is not None:
                self._handle(*event)
            if self.transport is None:
                self._received.clear()
        self._pause()
        for channel in self._confirming:
            channel.confirm_all()
        self._confirming.clear()
        self.broker.weigh()

    def _handle(self, number: int, event: Event) -> None:
        if isinstance(event, Negotiated):
            self._opened(event)
        elif isinstance(event, AMQPError):
            self._faulted(number, event)
        elif number == 0:
            self._handle_connection(event)
        else:
            self._handle_channel(number, event)

    def _handle_connection(self, method: Any) -> None:
        if method.name == "connection.close" or method.name == "connection.close-ok":
            self.hang_up()
        elif method.name == "connection.update-secret":
            self.send(0, "connection.update-secret-ok", {})

    def _handle_channel(self, number: int, event: Any) -> None:
        channel = self.channels.get(number)
        if event.name == "channel.open":
            self._open_channel(number)
        elif event.name in ("channel.close", "channel.close-ok"):
            if channel is not None:
                self._end_channel(channel)
        elif channel is not None:
            try:
                handler = _HANDLERS.get(event.name)
                if handler is None:
                    raise refusal(540, f"{event.name} is not implemented")
                handler(self, channel, event)
            except AMQPError as error:
                self._refuse(channel, event, error)

    def _open_channel(self, number: int) -> None:
        if len(self.channels) >= self.channel_max:
            full = f"number of channels opened ({len(self.channels)}) has reached the negotiated channel_max"
            self._close(refusal(530, f"{full} ({self.channel_max})"))
            return
        self.channels[number] = ServerChannel(self, number)
        self.send(number, "channel.open-ok", {})

    def _refuse(self, channel: ServerChannel, event: Any, error: AMQPError) -> None:
        row = self.link.codec.by_name[event.name]
        if isinstance(error, ChannelClosed):
            channel.confirm_all()
            self._confirming.pop(channel, None)
            self.send(channel.number, "channel.close", _close_arguments(error, row.class_index, row.method_index))
            self._end_channel(channel)
        else:
            self._close(error, row.class_index, row.method_index)

    def _faulted(self, number: int, error: AMQPError) -> None:
        """The link refused what came, and has said so; or the handshake failed, and it is for us to say."""
        if isinstance(error, ChannelClosed):
            channel = self.channels.get(number)
            if channel is not None:
                self._end_channel(channel)
        else:
            self._await_close_ok()

    # --- opening ------------------------------------------------------------------------------------------------------

    def _authenticate(self, mechanism: str, answers: list[bytes]) -> str:
        name, password = _credentials(mechanism, answers[0])
        if self.broker.refuses_logins or self.broker.users.get(name) != password:
            raise refusal(
                403,
                f"Login was refused using authentication mechanism {mechanism}. For details see the broker logfile.",
                hard=True,
            )
        return name

    def _enter(self, user: str, name: str) -> None:
        vhost = self.broker.vhosts.get(name)
        if vhost is None:
            raise refusal(530, f"vhost {name} not found")
        self.vhost = vhost

    def _opened(self, agreed: Negotiated) -> None:
        self._cancel("handshake")
        self.user = agreed.user
        self.client_properties = agreed.peer_properties
        self.channel_max = agreed.channel_max
        if agreed.heartbeat:
            self._later("heartbeat", agreed.heartbeat / 2, partial(self._tick, agreed.heartbeat))
        if self.broker.blocked is not None:
            self.tell_blocked(self.broker.blocked)

    def _tick(self, interval: int) -> None:
        if self.transport is None:
            return
        self._later("heartbeat", interval / 2, partial(self._tick, interval))
        if self._stalled:
            return
        if self._held_back or self._received:
            self.link.excuse()  # it may well have been heard, had we listened
        try:
            due = self.link.tick(self.transport.queued)
        except HeartbeatTimeout:
            self.drop_now()
            return
        if due:
            self.write([due])

    # --- out ----------------------------------------------------------------------------------------------------------

    def write(self, chunks: Any) -> None:
        transport = self.transport
        if transport is not None:
            transport.write(chunks)
            if transport.queued - transport.written > HIGH_WATER:
                self.congested = True

    def _over_full(self) -> bool:
        transport = self.transport
        return transport is not None and transport.queued - transport.written > 2 * HIGH_WATER

    def send(self, number: int, name: str, arguments: dict[str, Any]) -> None:
        if self.transport is not None:
            self.write([self.link.send(number, name, arguments)])

    def send_content(self, number: int, name: str, arguments: dict[str, Any], message: Message) -> None:
        if self.transport is not None:
            self.write(self.link.send_content(number, name, arguments, message.encoded, message.body))

    def fast_deliverer(self, number: int, consumer_tag: str) -> FastDeliverer:
        return self.link.fast_deliverer(number, consumer_tag)

    def _write_answers(self) -> None:
        if self.link.answers:
            self.write([self.link.take_answers()])

    def bytes_written(self) -> None:
        transport = self.transport
        if self.congested and transport is not None and transport.queued - transport.written <= LOW_WATER:
            self.congested = False
            for channel in list(self.channels.values()):
                channel.unpark()
            if self._received:
                self._work()

    def tell_blocked(self, reason: str | None) -> None:
        """connection.blocked, or unblocked where there is no reason, to a client that wants to hear of it."""
        if self.is_open and self.link.version != "0-8" and self.capabilities.get("connection.blocked"):
            if reason is None:
                self.send(0, "connection.unblocked", {})
            else:
                self.send(0, "connection.blocked", {"reason": reason})

    def stall(self, stalled: bool = True) -> None:
        """By hand: reads nothing from the client and says nothing, or goes on."""

        def carry_out() -> None:
            self._stalled = stalled
            self._pause()

        self.call(carry_out)

    def hold_back(self, held: bool) -> None:
        """The broker has too much to hold: this client's publishes wait in its own buffers."""
        self._held_back = held
        self._pause()

    def _pause(self) -> None:
        if self.transport is not None:
            self.transport.pause_reading(self._stalled or self._held_back or bool(self._received))

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self, code: int = 320, text: str = "CONNECTION_FORCED - closed by hand") -> None:
        """Closes the connection from the broker's side."""
        self.call(lambda: self._close(refusal(code, text.partition(" - ")[2] or text, hard=True)))

    def _close(self, error: AMQPError, class_id: int = 0, method_id: int = 0) -> None:
        if self.transport is None:
            return
        try:
            self.send(0, "connection.close", _close_arguments(error, class_id, method_id))
        except AMQPError:
            self.drop_now()
            return
        self._await_close_ok()

    def _await_close_ok(self) -> None:
        """connection.close is under way: nothing of the client's holds any more."""
        self._end()
        if self.link.state == "closing":
            self._later("linger", LINGER, self.drop_now)
        else:
            self.hang_up()

    def close_channel(self, channel: ServerChannel, code: int, text: str) -> None:
        """Closes a channel from the broker's side."""
        error = refusal(code, text, hard=False)
        self.send(channel.number, "channel.close", _close_arguments(error, 0, 0))
        self._end_channel(channel)

    def hang_up(self) -> None:
        """What was said still goes out, then the link ends."""
        transport, self.transport = self.transport, None
        self._gone()
        if transport is not None:
            transport.close()

    def drop(self) -> None:
        """Cuts the link without a word."""
        self.call(self.drop_now)

    def drop_now(self) -> None:
        """`drop`, in the broker's thread."""
        transport, self.transport = self.transport, None
        self._gone()
        if transport is not None:
            transport.abort()

    def soon(self, call: Callable[[], object]) -> None:
        self.broker.reactor.call_soon(call)

    def call(self, call: Callable[[], object]) -> object:
        return self.broker.call(call)

    def nacks_now(self) -> bool:
        return self.broker.nacks_now()

    def expect_replies(self, token: str, channel: ServerChannel | None) -> None:
        if channel is None:
            self.broker.replies.pop(token, None)
        else:
            self.broker.replies[token] = channel

    def transport_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._gone()

    def _gone(self) -> None:
        self.broker.sessions.pop(self, None)
        for name in list(self._timers):
            self._cancel(name)
        self._end()

    def _end(self) -> None:
        """Gives back what the client held: consumers first, so that nothing is requeued to one that is going."""
        self._cancel("heartbeat")
        for channel in list(self.channels.values()):
            self._end_channel(channel)
        for queue in list(self.exclusive):
            if not queue.deleted:
                self.vhost.delete_queue(queue)
        self.exclusive.clear()

    def _end_channel(self, channel: ServerChannel) -> None:
        self.channels.pop(channel.number, None)
        self._confirming.pop(channel, None)
        channel.end()

    def _later(self, name: str, seconds: float, call: Callable[[], object]) -> None:
        self._cancel(name)
        self._timers[name] = self.broker.reactor.call_later(seconds, call)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    # --- exchanges and queues -----------------------------------------------------------------------------------------

    def _answer(self, channel: ServerChannel, method: Method, **arguments: Any) -> None:
        if not method.arguments.get("no_wait"):
            self.send(channel.number, method.name + "-ok", arguments)

    def _on_access_request(self, channel: ServerChannel, method: Method) -> None:
        self._answer(channel, method, ticket=1)

    def _on_exchange_declare(self, channel: ServerChannel, method: Method) -> None:
        self.vhost.declare_exchange(
            method.exchange,
            method.type,
            method.passive,
            method.durable,
            method.auto_delete,
            method.internal,
            method.arguments["arguments"],
        )
        self._answer(channel, method)

    def _on_exchange_delete(self, channel: ServerChannel, method: Method) -> None:
        self.vhost.delete_exchange(method.exchange, method.if_unused)
        self._answer(channel, method)

    def _on_exchange_bind(self, channel: ServerChannel, method: Method) -> None:
        change = self.vhost.bind if method.name == "exchange.bind" else self.vhost.unbind
        change(method.source, "exchange", method.destination, method.routing_key, method.arguments["arguments"], self)
        self._answer(channel, method)

    def _on_queue_declare(self, channel: ServerChannel, method: Method) -> None:
        token = method.queue[len(REPLY_TO) + 1 :]
        if method.passive and method.queue.startswith(REPLY_TO) and (not token or token in self.broker.replies):
            self._answer(channel, method, queue=method.queue, message_count=0, consumer_count=1)
            return
        name = method.queue or (channel.last_queue if method.passive else "")
        queue = self.vhost.declare_queue(
            name,
            method.passive,
            method.durable,
            method.exclusive,
            method.auto_delete,
            method.arguments["arguments"],
            self,
        )
        if queue.owner is self:
            self.exclusive[queue] = None
        channel.last_queue = queue.name
        self._answer(channel, method, queue=queue.name, message_count=len(queue), consumer_count=queue.consumer_count)

    def _queue_name(self, channel: ServerChannel, name: str) -> str:
        """ "" is the queue that the channel declared last (0-9-1 §1.7.2.1)."""
        if name or channel.last_queue:
            return name or channel.last_queue
        raise refusal(404, "no previously declared queue")

    def _queue(self, channel: ServerChannel, name: str) -> Queue:
        return self.vhost.queue(self._queue_name(channel, name), self)

    def _on_queue_bind(self, channel: ServerChannel, method: Method) -> None:
        name = self._queue_name(channel, method.queue)
        key = method.routing_key or ("" if method.queue else name)
        change = self.vhost.bind if method.name == "queue.bind" else self.vhost.unbind
        change(method.exchange, "queue", name, key, method.arguments["arguments"], self)
        self._answer(channel, method)

    def _on_queue_purge(self, channel: ServerChannel, method: Method) -> None:
        self._answer(channel, method, message_count=self._queue(channel, method.queue).purge())

    def _on_queue_delete(self, channel: ServerChannel, method: Method) -> None:
        name = self._queue_name(channel, method.queue)
        count = 0
        if name in self.vhost.queues:
            queue = self.vhost.queue(name, self)
            count = self.vhost.delete_queue(queue, method.if_unused, method.if_empty)
            self.exclusive.pop(queue, None)
        self._answer(channel, method, message_count=count)

    # --- consuming ----------------------------------------------------------------------------------------------------

    def _on_basic_qos(self, channel: ServerChannel, method: Method) -> None:
        if method.prefetch_size:
            raise refusal(540, f"prefetch_size!=0 ({method.prefetch_size})")
        channel.qos(method.prefetch_count, method.arguments["global"])
        self._answer(channel, method)
        channel.unpark()

    def _on_basic_consume(self, channel: ServerChannel, method: Method) -> None:
        tag = method.consumer_tag or unique_name("amq.ctag-")
        if tag in channel.consumers:
            raise refusal(530, f"attempt to reuse consumer tag '{tag}'")
        if method.queue == REPLY_TO:
            channel.consume_replies(tag, method.no_ack)
            self._answer(channel, method, consumer_tag=tag)
            return
        queue = self._queue(channel, method.queue)
        taken = any(consumer.exclusive for consumer in queue.consumers)
        if taken or (method.exclusive and (queue.consumer_count or queue.single_active)):
            raise refusal(403, f"{queue.described} in exclusive use")
        priority = _priority(method.arguments.get("arguments") or {}, queue)
        consumer = Consumer(channel, queue, tag, method.no_ack, method.exclusive, priority)
        self._answer(channel, method, consumer_tag=tag)
        channel.consumers[tag] = consumer
        queue.add_consumer(consumer)
        queue.dispatch()

    def _on_basic_cancel(self, channel: ServerChannel, method: Method) -> None:
        consumer = channel.consumers.pop(method.consumer_tag, None)
        channel.cancel_replies(method.consumer_tag)
        self._answer(channel, method, consumer_tag=method.consumer_tag)
        if consumer is not None:
            consumer.stop()

    def _on_cancel_ok(self, channel: ServerChannel, method: Method) -> None:
        pass

    def _on_basic_get(self, channel: ServerChannel, method: Method) -> None:
        queue = self._queue(channel, method.queue)
        entry = queue.get(method.no_ack)
        if entry is None:
            self.send(channel.number, "basic.get-empty", {})
            return
        details = {
            "delivery_tag": channel.hand_out(entry, None, method.no_ack),
            "redelivered": entry.redelivered,
            "exchange": entry.message.exchange,
            "routing_key": entry.message.routing_key,
            "message_count": len(queue),
        }
        self.send_content(channel.number, "basic.get-ok", details, entry.message)

    def _on_basic_ack(self, channel: ServerChannel, method: Method) -> None:
        channel.settle("ack", method.delivery_tag, method.multiple)

    def _on_basic_nack(self, channel: ServerChannel, method: Method) -> None:
        verdict = "requeue" if method.requeue else "reject"
        channel.settle(verdict, method.delivery_tag, method.arguments.get("multiple", False))

    def _on_basic_recover(self, channel: ServerChannel, method: Method) -> None:
        if not method.requeue:
            raise refusal(540, "requeue=false")
        channel.recover()
        if method.name == "basic.recover" and self.link.version != "0-8":
            self._answer(channel, method)

    def _on_flow(self, channel: ServerChannel, method: Method) -> None:
        if not method.active:
            raise refusal(540, "active=false")
        self._answer(channel, method, active=True)

    def _on_flow_ok(self, channel: ServerChannel, method: Method) -> None:
        pass

    # --- publishing ---------------------------------------------------------------------------------------------------

    def _on_basic_publish(self, channel: ServerChannel, message: Message) -> None:
        if self.broker.stopped:
            channel.set_flow(False)
        envelope = message.envelope
        # Messages that came alike share their envelope, and with it what is found out about them here.
        if envelope is not self._known or self.vhost.exchanges.get(envelope.exchange) is not self._known_exchange:
            self._known = None
            self._known_exchange = self._check(channel, message)
            if message.envelope is envelope:
                self._known = envelope
        exchange, mandatory = self._known_exchange, bool(message.details.get("mandatory"))
        self.published = channel.published = True
        if channel.is_transactional:
            channel.publish_later(partial(self._publish, channel, message, exchange, mandatory))
        else:
            channel.published_now(self._publish(channel, message, exchange, mandatory))

    def _check(self, channel: ServerChannel, message: Message) -> Exchange:
        """The exchange that a message is for, if it may be published. Properties are read here, while a fault is still
        their publisher's."""
        if message.details.get("immediate"):
            raise refusal(540, "immediate=true")
        exchange = self.vhost.exchange(message.exchange)
        if exchange.internal:
            what = f"exchange '{exchange.name}' in vhost '{self.vhost.name}'"
            raise refusal(403, f"cannot publish to internal {what}")
        properties = message.properties
        self.vhost.check(message)
        if flags(message) & HAS_USER_ID and properties.user_id != self.user:
            raise precondition_failed(
                f"user_id property set to '{properties.user_id}' but authenticated user was '{self.user}'"
            )
        if properties.reply_to == REPLY_TO:
            properties.reply_to = channel.reply_address()
            message.replace_properties(properties)
        return exchange

    def _publish(self, channel: ServerChannel, message: Message, exchange: Exchange, mandatory: bool) -> bool:
        """Publishes now; returns whether it was taken."""
        if not exchange.name and message.routing_key.startswith(REPLY_TO + "."):
            # RabbitMQ returns a mandatory reply though it delivers it: a token is no queue.
            self.broker.reply(message)
            routed, taken = False, True
        else:
            routed, taken = self.vhost.publish(message, exchange)
        if mandatory and not routed:
            returned = {
                "reply_code": 312,
                "reply_text": "NO_ROUTE",
                "exchange": message.exchange,
                "routing_key": message.routing_key,
            }
            self.send_content(channel.number, "basic.return", returned, message)
        return taken

    def _on_confirm_select(self, channel: ServerChannel, method: Method) -> None:
        channel.select_confirms()
        self._answer(channel, method)

    def confirm_soon(self, channel: ServerChannel) -> None:
        """Confirms go out together at the end of what was received."""
        self._confirming[channel] = None

    def _on_tx_select(self, channel: ServerChannel, method: Method) -> None:
        channel.select_transactions()
        self._answer(channel, method)

    def _on_tx_commit(self, channel: ServerChannel, method: Method) -> None:
        channel.commit()
        self._answer(channel, method)

    def _on_tx_rollback(self, channel: ServerChannel, method: Method) -> None:
        channel.rollback()
        self._answer(channel, method)


def _close_arguments(error: AMQPError, class_id: int, method_id: int) -> dict[str, Any]:
    return {**Link.close_arguments(error), "class_id": class_id, "method_id": method_id}


def _credentials(mechanism: str, response: bytes) -> tuple[str, str]:
    """Name and password out of a SASL response."""
    try:
        if mechanism == "PLAIN":
            _, name, password = response.decode().split("\0")
            return name, password
        if mechanism == "AMQPLAIN":
            table, _ = decode_table(encode_longstr("response", response), 0)
            return str(table["LOGIN"]), str(table["PASSWORD"])
    except (ValueError, KeyError, ProtocolSyntaxError):
        pass
    raise refusal(403, f"Login was refused using authentication mechanism {mechanism}.", hard=True)


def _priority(arguments: dict[str, Any], queue: Queue) -> int:
    priority = arguments.get("x-priority", 0)
    if not isinstance(priority, int) or isinstance(priority, bool):
        why = f'"expected integer, got {field_type(priority)}"'
        raise precondition_failed(f"invalid arg 'x-priority' for {queue.described}: {why}")
    return priority


_HANDLERS: dict[str, Callable[[Session, ServerChannel, Any], None]] = {
    "access.request": Session._on_access_request,
    "exchange.declare": Session._on_exchange_declare,
    "exchange.delete": Session._on_exchange_delete,
    "exchange.bind": Session._on_exchange_bind,
    "exchange.unbind": Session._on_exchange_bind,
    "queue.declare": Session._on_queue_declare,
    "queue.bind": Session._on_queue_bind,
    "queue.unbind": Session._on_queue_bind,
    "queue.purge": Session._on_queue_purge,
    "queue.delete": Session._on_queue_delete,
    "basic.qos": Session._on_basic_qos,
    "basic.consume": Session._on_basic_consume,
    "basic.cancel": Session._on_basic_cancel,
    "basic.cancel-ok": Session._on_cancel_ok,
    "basic.get": Session._on_basic_get,
    "basic.ack": Session._on_basic_ack,
    "basic.nack": Session._on_basic_nack,
    "basic.reject": Session._on_basic_nack,
    "basic.recover": Session._on_basic_recover,
    "basic.recover-async": Session._on_basic_recover,
    "basic.publish": Session._on_basic_publish,
    "channel.flow": Session._on_flow,
    "channel.flow-ok": Session._on_flow_ok,
    "confirm.select": Session._on_confirm_select,
    "tx.select": Session._on_tx_select,
    "tx.commit": Session._on_tx_commit,
    "tx.rollback": Session._on_tx_rollback,
}
