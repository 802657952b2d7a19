"""A session: one client's connection, seen from the broker.

The session turns the events of its link into calls of the model, and writes the answers. `methods` holds the handlers
of the client's methods. A method that the broker refuses closes the channel or the connection, with the reply code of
the refusal. A client can harm only its own connection, whatever it sends.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from ..errors import AMQPError, ChannelClosed, HeartbeatTimeout, InvalidArgument, ProtocolSyntaxError
from ..logs import get_logger
from ..reactor import NamedTimers, Transport
from ..version import __version__
from ..wire.backlog import Backlog
from ..wire.fast_send import FastDeliverer
from ..wire.fields import decode_table, encode_longstr, encode_table
from ..wire.frames import PROTOCOL_HEADERS
from ..wire.handshake import CAPABILITIES, Host, Negotiated, server
from ..wire.link import Event, Link
from ..wire.message import Message
from .channel import ServerChannel
from .methods import HANDLERS, BrokerServices, MethodHandlers
from .queues import Clock, Queue
from .refusal import refusal
from .store import Store
from .virtual_host import VirtualHost

logger = get_logger(__name__)
_surrogate = re.compile("[\ud800-\udfff]").search

DONE = object()
TURN = 0.02  # seconds after which a client's further methods wait for the next turn, so that others are served
QUEUES = 500  # exclusive queues that are deleted in one turn
HIGH_WATER = 1024 * 1024  # bytes of backlog above which a client's consumers get no more messages
LOW_WATER = 256 * 1024  # bytes of backlog at which they get messages again
LINGER = 5.0  # seconds to wait for the client's close-ok, and for the client to hang up after ours
TIMERS = ("handshake", "heartbeat", "linger", "login")
HANDSHAKE = 10.0  # seconds that a client may take to open its connection, as in RabbitMQ

PROPERTIES = {
    "product": "cpspika",
    "version": __version__,
    "platform": "Python",
    "information": "the embedded broker of cpspika: in memory, in one process",
    "capabilities": {**CAPABILITIES, "per_consumer_qos": True, "direct_reply_to": True, "consumer_priorities": True},
}


class Session:
    """A client's connection, seen from the broker.

    `user`: name, None until the client has logged in. `vhost`: set when the connection opens. `channels`: the open
    ones, by number. `client_properties`: as the client sent them.
    """

    def __init__(self, broker: BrokerServices, transport: Transport):
        self.broker = broker
        self.backlog: Backlog[None] = Backlog(HIGH_WATER, LOW_WATER)
        self.backlog.transport = transport
        self.write = self.backlog.write
        self.link = Link("server", None, None)
        self._received: deque[Iterator[tuple[int, Event]]] = deque()
        self.user: str | None = None
        self.channel_max = 0
        self.vhost: VirtualHost
        self.channels: dict[int, ServerChannel] = {}
        self.client_properties: dict[str, Any] = {}
        self.published = False  # flow control applies to clients that have published
        self._handlers: MethodHandlers  # set when the connection opens
        self.published_in_alarm = False  # although the messages took too much memory
        self.uncommitted = 0  # bytes of messages in transactions
        self.held = 0  # bytes of transactions and unfinished bodies, as counted in the broker's memory
        self.peer_address: str | None = getattr(transport, "peer_address", None)  # None: this process
        self._login_delay = 0.0
        self._stalled = self._throttled = False
        self._busy = 0  # pieces of long work that aren't done; the client's next methods wait for them
        self.exclusive: dict[Queue, None] = {}
        self._confirming: dict[ServerChannel, None] = {}
        self.clock: Clock = broker.reactor
        self._timers = NamedTimers(broker.reactor)
        self._timers.start("handshake", HANDSHAKE, self.drop_now)
        broker.sessions[self] = None

    def __repr__(self) -> str:
        return f"<Session of {self.user!r}, {len(self.channels)} channels>"

    @property
    def is_open(self) -> bool:
        return self.backlog.transport is not None and self.link.state == "open"

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
            self._failed()

    def _greet(self, data: bytes) -> bytes | None:
        """Answers the client's protocol header.

        Returns the bytes behind the header; None if it is incomplete, or wrong and answered with the right one.
        """
        try:
            greeting = self.link.greet_back(data)
        except AMQPError:
            self.write([PROTOCOL_HEADERS["0-9-1"]])
            self.hang_up()
            return None
        if greeting is None:
            return None
        version, rest = greeting
        if version not in self.broker.rules.protocols:
            self.write([PROTOCOL_HEADERS["0-9-1"]])
            self.hang_up()
            return None
        # Clients of 0-8 don't know booleans in a field table, so RabbitMQ sends them an empty table of capabilities.
        properties = {**PROPERTIES, "like": f"RabbitMQ {self.broker.rules.like}"}
        if version == "0-8":
            properties["capabilities"] = {}
        limits, least = self.broker.limits, self.broker.rules.frame_min
        host = Host(version, properties, "PLAIN AMQPLAIN", limits, self._authenticate, self._open_vhost, least)
        self.link.begin(version, server(host))
        self._write_answers()
        return rest

    def _receive(self, data: bytes) -> None:
        self._received.append(self.link.events(data))
        self._work()

    def _work(self) -> None:
        """Handles the received events, until the client's backlog is over full.

        A client that sends and doesn't read would otherwise have the broker buffer every answer. `bytes_written`
        continues when the backlog has gone down. Methods may take long, such as publishes to many queues: after `TURN`
        seconds others are served.
        """
        time = self.clock.time
        until = time() + TURN
        while self._received and not self._busy and not self._over_full():
            if time() > until:
                self.run_long(iter((None,)))
                break
            event = next(self._received[0], None)
            if self.link.answers:
                self._write_answers()
            if event is None:
                self._received.popleft()
            elif self.backlog.transport is not None:
                self._handle(*event)
            if self.backlog.transport is None:
                self._received.clear()
        self._pause()
        for channel in self._confirming:
            channel.confirm_all()
        self._confirming.clear()
        self._count_held(self.link.unfinished + self.uncommitted)
        self.broker.check_memory(self)

    def _count_held(self, held: int) -> None:
        if held > self.held:
            self.broker.memory.add(held - self.held)
        elif held < self.held:
            self.broker.memory.subtract(self.held - held)
        self.held = held

    @property
    def must_be_read(self) -> bool:
        """Whether the client's next bytes may free memory: by acks, by the end of a transaction, body or connection."""
        return (
            self.held > 0
            or self.link.state != "open"
            or any(len(channel.unsettled) for channel in self.channels.values())
        )

    def close_for_memory(self) -> None:
        """Closes the connection of a client that publishes although the broker's memory is used up."""
        self._close(
            refusal(506, "the messages take too much memory, and the client publishes in spite of channel.flow")
        )

    def run_long(self, steps: Iterator[object], refuse: Callable[[AMQPError], object] | None = None) -> None:
        """Makes one step of long work now, and each further one in a later turn, so that other clients are served.

        The client's next methods wait until all is done. refuse: called if a later step raises an AMQPError; the first
        step raises it here.
        """
        if next(steps, DONE) is DONE:
            return
        self._busy += 1

        def make_step() -> None:
            try:
                if next(steps, DONE) is not DONE:
                    self.call_soon(make_step)
                    return
            except AMQPError as error:
                if refuse is not None:
                    refuse(error)
            except Exception:
                self._busy -= 1
                self._failed()
                return
            self._busy -= 1
            try:
                self._go_on()
            except Exception:
                self._failed()

        self.call_soon(make_step)

    def _failed(self) -> None:
        """An error of the broker itself closes this client's connection and harms no other client."""
        logger.exception("the embedded broker failed while it handled a client's data, and closes the connection")
        self._close(refusal(541, "internal error of the broker"))

    def _handle(self, number: int, event: Event) -> None:
        if isinstance(event, Negotiated):
            self._opened(event)
        elif isinstance(event, AMQPError):
            self._handle_error(number, event)
        elif number == 0:
            self._handle_connection(event)
        else:
            self._handle_channel(number, event)

    def _handle_connection(self, method: Any) -> None:
        if method.name == "connection.close":
            # The link has answered with close-ok, and discards the rest. The client hangs up: if this end did, frames
            # under way would be answered by a reset, and the client might lose the close-ok.
            self._release()
            self._timers.start("linger", LINGER, self.hang_up)
        elif method.name == "connection.close-ok":
            self.hang_up()
        elif method.name == "connection.update-secret":
            self.send(0, "connection.update-secret-ok", {})

    def _handle_channel(self, number: int, event: Any) -> None:
        channel = self.channels.get(number)
        name = event.name
        if name == "channel.open":
            self._open_channel(number)
        elif name in ("channel.close", "channel.close-ok"):
            if channel is not None:
                self._end_channel(channel)
        elif channel is not None and not channel.closing:
            try:
                handler = HANDLERS.get(name)
                if handler is None:
                    raise refusal(540, f"{name} is not implemented")
                if name in NAMING and not all(map(_is_utf8, event.arguments.values())):
                    self._close(refusal(501, "Malformed UTF-8 in shortstr"))
                    return
                if name in NAMING and event.arguments.get("arguments"):
                    encode_table("arguments", event.arguments["arguments"])  # InvalidArgument: nan, or an infinity
                handler(self._handlers, channel, event)
            except AMQPError as error:
                self.refuse(channel, event, error)

    def _open_channel(self, number: int) -> None:
        if len(self.channels) >= self.channel_max:
            full = f"number of channels opened ({len(self.channels)}) has reached the negotiated channel_max"
            self._close(refusal(530, f"{full} ({self.channel_max})"))
            return
        self.channels[number] = ServerChannel(self, number)
        self.send(number, "channel.open-ok", {})

    def refuse(self, channel: ServerChannel, event: Any, error: AMQPError) -> None:
        """Closes the channel or the connection, as the error's class says; the close names the refused method."""
        row = self.link.codec.by_name[event.name]
        if isinstance(error, InvalidArgument):  # a value that cannot be sent on: nan, which RabbitMQ cannot read
            error = refusal(541, error.text)
        if isinstance(error, ChannelClosed):
            self._begin_to_close(channel, error, row.class_index, row.method_index)
        else:
            self._close(error, row.class_index, row.method_index)

    def _handle_error(self, number: int, error: AMQPError) -> None:
        """Releases what an error of the client ends.

        The link has already put the close into its `answers`. A client that failed to log in gets no close if it
        doesn't expect one; `_await_close_ok` then hangs up at once.
        """
        if isinstance(error, ChannelClosed):
            channel = self.channels.get(number)
            if channel is not None:
                channel.closing = True
        elif self._login_delay:
            # Guessing passwords shall take time. `_write_answers` keeps the answer back meanwhile.
            self._timers.start("login", self._login_delay, self._tell_of_refusal)
        else:
            self._await_close_ok()

    def _tell_of_refusal(self) -> None:
        self._login_delay = 0.0
        self._write_answers()
        self._await_close_ok()

    # --- opening ------------------------------------------------------------------------------------------------------

    def _authenticate(self, mechanism: str, answers: list[bytes]) -> str:
        name, password = _credentials(mechanism, answers[0])
        if self.broker.refuses_logins or not self.broker.accepts_login(name, password, self.peer_address):
            self._login_delay = self.broker.login_failed()
            raise refusal(
                403,
                f"Login was refused using authentication mechanism {mechanism}. For details see the broker logfile.",
                hard=True,
            )
        return name

    def _open_vhost(self, user: str, name: str) -> None:
        vhost = self.broker.vhosts.get(name)
        if vhost is None:
            raise refusal(530, f"vhost {name} not found")
        self.vhost = vhost

    def _opened(self, agreed: Negotiated) -> None:
        self._timers.cancel("handshake")
        self.user = agreed.user
        self._handlers = MethodHandlers(self)
        self.client_properties = agreed.peer_properties
        self.channel_max = agreed.channel_max
        if agreed.heartbeat:
            self._timers.start("heartbeat", agreed.heartbeat / 2, partial(self._tick, agreed.heartbeat))
        if self.broker.blocked is not None:
            self.send_blocked(self.broker.blocked)

    def _tick(self, interval: int) -> None:
        if self.backlog.transport is None:
            return
        self._timers.start("heartbeat", interval / 2, partial(self._tick, interval))
        if self._stalled:
            return
        if self._throttled or self._received:
            # The session doesn't read all that the client sends, so silence doesn't mean that the client is gone.
            self.link.excuse()
        try:
            due = self.link.tick(self.backlog.transport.queued)
        except HeartbeatTimeout:
            self.drop_now()
            return
        if due:
            self.write([due])

    # --- out ----------------------------------------------------------------------------------------------------------

    def _over_full(self) -> bool:
        return self.backlog.size > 2 * HIGH_WATER

    def send(self, number: int, name: str, arguments: dict[str, Any]) -> None:
        if self.backlog.transport is not None:
            self.write([self.link.send(number, name, arguments)])

    def send_content(self, number: int, name: str, arguments: dict[str, Any], message: Message) -> None:
        if self.backlog.transport is not None:
            self.write(self.link.send_content(number, name, arguments, message.encoded, message.body))

    def fast_deliverer(self, number: int, consumer_tag: str) -> FastDeliverer:
        return self.link.fast_deliverer(number, consumer_tag)

    def _write_answers(self) -> None:
        if self.link.answers and not self._login_delay:
            self.write([self.link.take_answers()])

    def bytes_written(self) -> None:
        if self.backlog.drained():
            for channel in list(self.channels.values()):
                channel.resume_consumers()
            self._go_on()

    def _go_on(self) -> None:
        if self._received and self.backlog.transport is not None:
            self._work()

    def send_blocked(self, reason: str | None) -> None:
        """Sends connection.blocked, or connection.unblocked where `reason` is None.

        A client without the capability "connection.blocked" gets neither.
        """
        if self.is_open and self.link.version != "0-8" and self.capabilities.get("connection.blocked"):
            if reason is None:
                self.send(0, "connection.unblocked", {})
            else:
                self.send(0, "connection.blocked", {"reason": reason})

    def stall(self, stalled: bool = True) -> None:
        """Stops or resumes reading from the client.

        stalled: True stops, False resumes. A stalled session handles no new data, so it answers nothing, and it sends
        no heartbeats. May be called from any thread.
        """

        def carry_out() -> None:
            self._stalled = stalled
            self._pause()

        self.call(carry_out)

    def throttle(self, throttled: bool) -> None:
        """Stops or resumes reading from a publisher, when the broker's messages take too much memory.

        Meanwhile the client's next publishes wait in its own buffers.
        """
        self._throttled = throttled
        self._pause()

    def _pause(self) -> None:
        if self.backlog.transport is not None:
            self.backlog.transport.pause_reading(self._stalled or self._throttled or bool(self._received))

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self, code: int = 320, text: str = "CONNECTION_FORCED - closed by hand") -> None:
        """Closes the connection from the broker's side; may be called from any thread.

        code: reply code. text: reply text, with or without the name of the code ("NOT_FOUND - ...") before it.
        """
        self.call(lambda: self._close(refusal(code, text.partition(" - ")[2] or text, hard=True)))

    def _close(self, error: AMQPError, class_id: int = 0, method_id: int = 0) -> None:
        if self.backlog.transport is None:
            return
        if not self.link.version:
            self.drop_now()  # the client has sent nothing yet, so nobody knows which version to speak
            return
        try:
            self.send(0, "connection.close", _close_arguments(error, class_id, method_id))
        except AMQPError:
            self.drop_now()
            return
        self._await_close_ok()

    def _await_close_ok(self) -> None:
        """Releases what the client holds. Where connection.close was sent, waits `LINGER` seconds for close-ok."""
        self._release()
        if self.link.state == "closing":
            self._timers.start("linger", LINGER, self.drop_now)
        else:
            self.hang_up()

    def close_channel(self, channel: ServerChannel, code: int, text: str) -> None:
        """Sends channel.close, unless it was sent before."""
        if channel.is_open:
            self._begin_to_close(channel, refusal(code, text, hard=False), 0, 0)

    def _begin_to_close(self, channel: ServerChannel, error: AMQPError, class_id: int, method_id: int) -> None:
        """Sends channel.close. The channel ends with the client's close-ok; the ids are as of `_close_arguments`.

        Until then its consumers get messages, as with RabbitMQ, and the client's methods are ignored.
        """
        channel.confirm_all()
        self._confirming.pop(channel, None)
        self.send(channel.number, "channel.close", _close_arguments(error, class_id, method_id))
        channel.closing = True

    def hang_up(self) -> None:
        """Sends the queued bytes, then closes the link."""
        transport, self.backlog.transport = self.backlog.transport, None
        self._finish()
        if transport is not None:
            transport.close()

    def drop(self) -> None:
        """Cuts the link without connection.close; may be called from any thread."""
        self.call(self.drop_now)

    def drop_now(self) -> None:
        """Cuts the link without connection.close; called in the broker's thread."""
        transport, self.backlog.transport = self.backlog.transport, None
        self._finish()
        if transport is not None:
            transport.abort()

    def call_soon(self, call: Callable[[], object]) -> None:
        self.broker.reactor.call_soon(call)

    def call(self, call: Callable[[], object]) -> object:
        return self.broker.call(call)

    @property
    def store(self) -> Store:
        return self.broker.store

    def token_bytes(self, count: int) -> bytes:
        return self.broker.token_bytes(count)

    def nacks_now(self) -> bool:
        return self.broker.nacks_now()

    @property
    def cancels_late(self) -> bool:
        return self.broker.rules.cancels_late

    def ack_limit(self, queue: Queue, arguments: Mapping[str, Any] = MappingProxyType({})) -> float | None:
        if self.broker.rules.cancels_late:  # then quorum queues alone have a limit, and may have one of their own
            if queue.limits.type != "quorum":
                return None
            own = arguments.get("x-consumer-timeout", queue.limits.consumer_timeout)
            if own is not None:
                return float(own / 1000)
        return self.broker.consumer_timeout

    def expect_replies(self, token: str, channel: ServerChannel | None) -> None:
        if channel is None:
            self.broker.reply_channels.pop(token, None)
        else:
            self.broker.reply_channels[token] = channel

    def die(self) -> Transport | None:
        """The broker's process has died: takes the transport away, so that nothing is sent any more, and returns it."""
        transport, self.backlog.transport = self.backlog.transport, None
        return transport

    def transport_lost(self, error: Exception | None) -> None:
        self.backlog.transport = None
        self._finish()

    def _finish(self) -> None:
        self.broker.sessions.pop(self, None)
        self.broker.forget_throttled(self)
        self._timers.cancel(*TIMERS)
        self._release()

    def _release(self) -> None:
        """Ends the client's channels, then deletes its exclusive queues."""
        self._timers.cancel("heartbeat")
        for channel in list(self.channels.values()):
            self._end_channel(channel)
        self.run_long(self._delete_exclusive())
        self._count_held(0)

    def _delete_exclusive(self) -> Iterator[None]:
        """Deletes the exclusive queues in slices."""
        queues = list(self.exclusive)
        self.exclusive.clear()
        for number, queue in enumerate(queues, 1):
            if not queue.deleted:
                self.vhost.delete_queue(queue)
            if not number % QUEUES:
                yield

    def _end_channel(self, channel: ServerChannel) -> None:
        self.channels.pop(channel.number, None)
        self._confirming.pop(channel, None)
        channel.end()

    def confirm_soon(self, channel: ServerChannel) -> None:
        """Has the channel send its confirms when the received data is handled.

        Confirms of one turn go out together, so that a run of equal ones is one method with `multiple`.
        """
        self._confirming[channel] = None


# The methods with names of exchanges, queues and consumers that must be UTF-8. RabbitMQ doesn't check a publish.
NAMING = frozenset(name for name in HANDLERS if name.partition(".")[0] in ("exchange", "queue")) | {
    "basic.consume",
    "basic.cancel",
    "basic.get",
}


def _is_utf8(argument: Any) -> bool:
    """Whether an argument is no str with bytes that aren't UTF-8; see `fields.decode_shortstr`."""
    return argument.__class__ is not str or argument.isascii() or not _surrogate(argument)


def _close_arguments(error: AMQPError, class_id: int, method_id: int) -> dict[str, Any]:
    """The arguments of channel.close or connection.close; the ids name the method that is refused, 0 for none."""
    return {**Link.close_arguments(error), "class_id": class_id, "method_id": method_id}


def _credentials(mechanism: str, response: bytes) -> tuple[str, str]:
    """The name and password in a SASL response; raises AccessRefused if the response is malformed."""
    try:
        if mechanism == "PLAIN":
            # An authorization identity before the first zero byte is refused, as RabbitMQ does.
            authorization, name, password = response.decode().split("\0")
            if not authorization:
                return name, password
        if mechanism == "AMQPLAIN":
            table, _ = decode_table(encode_longstr("response", response), 0)
            return str(table["LOGIN"]), str(table["PASSWORD"])
    except (ValueError, KeyError, ProtocolSyntaxError):
        pass
    raise refusal(403, f"Login was refused using authentication mechanism {mechanism}.", hard=True)
