"""The client's connection: a transport, the link above it, channels, and the timer of the heartbeat.

Out goes a straight line, channel -> sender -> link -> transport; in comes another, transport -> link -> channel. What
is left for the connection is its own life: it opens (`dialing` finds the broker), may be blocked, closes, or is lost;
and whatever ends it settles everything that waits, once.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from heapq import heappop, heappush
from threading import get_ident
from typing import Any

from ..errors import (
    AMQPError,
    BlockedConnectionTimeout,
    ConcurrentUse,
    ConnectError,
    ConnectionClosed,
    ConnectionForked,
    ConnectionLost,
    HeartbeatTimeout,
    InvalidArgumentType,
    LoginError,
    NoFreeChannels,
    OperationTimeout,
    ProtocolSyntaxError,
    UnexpectedMethodError,
    VirtualHostRefused,
    closed,
)
from ..parameters import ConnectionParameters
from ..reactor import Endpoint, Reactor, Timer, Transport
from ..version import __version__
from ..wire import handshake
from ..wire.codec import Method
from ..wire.fast_send import FastSender
from ..wire.handshake import Negotiated
from ..wire.link import Event, Link
from .channel import Channel, Remove
from .continuations import (
    Call,
    CallQueue,
    Continuation,
    OnDone,
    PendingCalls,
    Request,
    check_callable,
    operation,
    refuse,
    registration,
)
from .dialer import Dialer

# Less than the transport sends amid a turn (sockets.EAGER): a publisher that heeds it gives the reactor its turn.
HIGH_WATER = 256 * 1024  # bytes of backlog that make a channel unwritable...
LOW_WATER = 64 * 1024  # ...and writable again
LINGER = 5.0  # seconds to wait for close-ok after a fault, when everybody has been told already

PRODUCT = {
    "product": "cpspika",
    "version": __version__,
    "platform": "Python {}.{}.{}".format(*sys.version_info),
    "information": "AMQP in continuation-passing style; MPL-2.0",
}

OnClose = Callable[["Connection", "AMQPError | None"], object]


class _Line:
    """A channel's way out: `channel.Sender` on a connection. One a channel, since it knows the number."""

    __slots__ = ("_connection", "_fast_sender", "_number", "_reactor", "version")

    def __init__(self, connection: Connection, number: int):
        self._connection = connection
        self._reactor = connection.reactor
        self._number = number
        self._fast_sender: FastSender | None = None
        self.version = connection.link.version

    @property
    def writable(self) -> bool:
        return self._connection.writable

    def send(self, name: str, arguments: dict[str, Any]) -> None:
        connection = self._connection
        connection.check_thread()
        connection.write([connection.link.send(self._number, name, arguments)])

    def send_content(self, name: str, arguments: dict[str, Any], properties: bytes, body: bytes) -> None:
        connection = self._connection
        connection.check_thread()
        connection.write(connection.link.send_content(self._number, name, arguments, properties, body))

    def send_publish(self, exchange: str, routing_key: str, properties: bytes, body: bytes) -> bool:
        connection = self._connection
        thread = self._reactor.thread
        if thread is not None and thread != get_ident():
            connection.check_thread()
        fast = self._fast_sender or self._make_fast_sender()
        connection.write(fast.publish(exchange, routing_key, properties, body))
        return connection.writable

    def send_ack(self, delivery_tag: int, multiple: bool) -> None:
        connection = self._connection
        thread = self._reactor.thread
        if thread is not None and thread != get_ident():
            connection.check_thread()
        fast = self._fast_sender or self._make_fast_sender()
        connection.write([fast.ack(delivery_tag, multiple)])

    def _make_fast_sender(self) -> FastSender:
        self._fast_sender = self._connection.link.fast_sender(self._number)
        return self._fast_sender

    def check(self, name: str, arguments: dict[str, Any], properties: bytes) -> None:
        self._connection.link.check(name, arguments, properties)

    def when_written(self, continuation: Continuation) -> None:
        self._connection.when_written(self._number, continuation)

    def take_unwritten(self) -> list[Continuation]:
        return self._connection.take_unwritten(self._number)

    def call_soon(self, call: Call) -> object:
        return self._connection.reactor.call_soon(call)

    def in_turn(self, calls: Iterable[Call | PendingCalls]) -> None:
        self._connection.in_turn(calls)

    def method_name(self, class_index: int, method_index: int) -> str | None:
        row = self._connection.link.codec.by_index.get((class_index, method_index))
        return row.name if row else None

    def fault(self, error: ProtocolSyntaxError) -> None:
        self._connection.fault(error)

    def report(self, error: AMQPError) -> None:
        self._connection.report(error)

    def release(self) -> None:
        self._connection.release(self._number)


class Connection:
    """A connection to a broker; `connect` makes them.

    `reactor`: what drives it. `is_open`; `is_blocked`: the broker takes no publishes for now (connection.blocked).
    `server_properties`: what the broker says of itself. `parameters`: of the broker that was reached. `close_reason`:
    the error that ended it, or None. `heartbeat`, `frame_max`, `channel_max`: as negotiated. `writable`: False while it
    is wise to publish no more, since the buffer is full or the broker blocks the connection.
    """

    def __init__(self, reactor: Reactor, on_close: OnClose | None = None):
        self.reactor = reactor
        self.link: Link
        self.parameters: ConnectionParameters
        self.server_properties: dict[str, Any] = {}
        self.heartbeat = self.frame_max = self.channel_max = 0
        self.is_open = False
        self.is_blocked = False
        self.close_reason: AMQPError | None = None
        check_callable("on_close", on_close)
        self._close_handler = on_close
        self._opening: Continuation | None = None
        self._refused_link: Link | None = None
        self._dialer: Dialer | None = None
        self._transport: Transport | None = None
        self._call_queue = CallQueue(reactor.call_soon, self._write_answers)
        self._channels: dict[int, Channel] = {}
        self._free: list[int] = []
        self._next_number = 1
        self._pending: deque[Continuation] = deque()
        self._closers: list[Continuation] = []
        self._unwritten: deque[tuple[int, int, Continuation]] = deque()
        self._handlers: dict[str, list[Callable[..., object]]] = {}
        self.writable = True
        self._congested = False
        self._timers: dict[str, Timer] = {}
        self._ended = False
        _connections.add(self)

    def __repr__(self) -> str:
        where = f" to {self._where()}" if hasattr(self, "parameters") else ""
        return f"<Connection{where} {'open' if self.is_open else 'closed' if self._ended else 'opening'}>"

    def _where(self) -> str:
        return str(endpoint(self.parameters)) if self.parameters.via is None else self.parameters.host

    # --- operations ---------------------------------------------------------------------------------------------------

    @operation
    def channel(self, *, on_done: OnDone[Channel] | None = None) -> Channel | None:
        """Opens a channel (channel.open, 0-9-1 §1.5.2.1). It is returned too, since its operations may be asked for at
        once, behind the opening. NoFreeChannels: as many as negotiated are open."""
        self.check_thread()
        if not self.is_open:
            refuse(on_done, self.closed_error(), "channel.open", self.reactor.call_soon)
            return None
        if not self._free and self._next_number > self.channel_max:
            full = NoFreeChannels(f"all {self.channel_max} channels of the connection are open")
            refuse(on_done, full, "channel.open", self.reactor.call_soon)
            return None
        number = heappop(self._free) if self._free else self._next_number
        self._next_number += number == self._next_number
        channel = self._channels[number] = Channel(number, _Line(self, number))
        channel.open(on_done)
        return channel

    @operation
    def close(self, reply_code: int = 200, reply_text: str = "", *, on_done: OnDone[None] | None = None) -> None:
        """Closes the connection with all its channels (connection.close, §1.4.2.9). Operations asked for before still
        get their replies; what then remains unanswered is settled with ChannelClosed. Closing a closed one
        is no error."""
        closer = Request("connection.close", on_done)
        if self._ended:
            self.reactor.call_soon(closer.done)
            return
        if self.is_open:
            self._write_method("connection.close", {"reply_code": reply_code, "reply_text": reply_text})
            self._stop_asking()
            self._later("close", self.parameters.connection_timeout, self._close_unanswered)
        elif self._dialer is not None:
            self._dialer.cancel()
            self._dialer = self._transport = None
            self.reactor.call_soon(lambda: self._end(ConnectionClosed("the connection was closed before it was open")))
        self._closers.append(closer)

    def abort(self) -> None:
        """Hangs up at once, without a word to the broker; whatever waits is told so, in the next turn."""
        if not self._ended:
            if self._dialer is not None:
                self._dialer.cancel()
                self._dialer = None
            self._abort()
            self._end(ConnectionClosed("the connection was aborted"))

    @operation
    def update_secret(self, new_secret: str | bytes, reason: str = "", *, on_done: OnDone[None] | None = None) -> None:
        """Hands the broker a new secret, such as a renewed token (connection.update-secret, a RabbitMQ extension of
        0-9-1)."""
        continuation = Request("connection.update-secret", on_done, ("connection.update-secret-ok",))
        if not self.is_open:
            refuse(on_done, self.closed_error(), continuation.method, self.reactor.call_soon)
            return
        self._write_method(continuation.method, {"new_secret": new_secret, "reason": reason})
        self._pending.append(continuation)

    def closed_error(self) -> AMQPError:
        """What an operation on a connection that isn't open is told."""
        if isinstance(self.close_reason, ConnectionForked):
            return self.close_reason
        state = "closed" if self._ended or self._closers else "not open yet"
        error = ConnectionClosed(f"the connection is {state}" + (f": {self.close_reason}" if self.close_reason else ""))
        error.__cause__ = self.close_reason
        return error

    # --- handlers -----------------------------------------------------------------------------------------------------

    @registration
    def add_state_change_handler(self, handler: Callable[[Connection, bool], object]) -> Remove:
        """handler(connection, is_open) when it opens or closes; connection.close_reason says why. Like each add_..., it
        returns a function that takes the handler away."""
        return self._add("state", handler)

    @registration
    def add_blocked_handler(self, handler: Callable[[Connection, bool, str], object]) -> Remove:
        """handler(connection, blocked, reason) when the broker blocks publishes, or no longer does (connection.blocked,
        a RabbitMQ extension). Nothing is stopped by it, but `writable` turns False."""
        return self._add("blocked", handler)

    @registration
    def addStateChangeHandler(self, handler: Callable[[Connection, bool], object]) -> None:
        """add_state_change_handler under pika 0.5's name: called at once too, with the present state."""
        self.add_state_change_handler(handler)
        handler(self, self.is_open)

    def _add(self, kind: str, handler: Callable[..., object]) -> Remove:
        if not callable(handler):
            raise InvalidArgumentType(f"handler takes a callable, not {type(handler).__name__}")
        handlers = self._handlers.setdefault(kind, [])
        handlers.append(handler)
        return lambda: handlers.remove(handler) if handler in handlers else None

    def _emit_calls(self, kind: str, *details: Any) -> list[Call]:
        return [partial(handler, *details) for handler in self._handlers.get(kind, ())]

    def in_turn(self, calls: Iterable[Call | PendingCalls]) -> None:
        """Makes calls one after another, before whatever arrived later is looked at."""
        self._call_queue.put_first(calls)

    # --- opening ------------------------------------------------------------------------------------------------------

    def dial(self, targets: Sequence[ConnectionParameters], on_done: OnDone[Connection] | None) -> None:
        """Tries the targets in order; see `dialing`."""
        self._opening = Request("connect", on_done)
        self.parameters = targets[0]
        self._dialer = Dialer(self.reactor, [(endpoint(target), target) for target in targets], self)
        self._dialer.begin(targets[0].connection_timeout)

    def attempt(self, target: ConnectionParameters, transport: Transport) -> None:
        """The dialer tries another address."""
        self.parameters = target
        self._transport = transport

    def transport_ready(self) -> None:
        self.link = Link("client", self.parameters.protocol, handshake.client(self.parameters, PRODUCT))
        self._write_answers()

    def dial_failed(self, error: AMQPError) -> None:
        """The dialer has no address left to try."""
        self._dialer = None
        self._end(error)

    def _opened(self, agreed: Negotiated) -> None:
        self.frame_max, self.channel_max, self.heartbeat = (
            agreed.frame_max,
            agreed.channel_max,
            agreed.heartbeat,
        )
        self.server_properties = agreed.peer_properties
        if self._dialer is not None:
            self._dialer.done()
            self._dialer = None
        self.is_open = True
        if self.heartbeat:
            self._later("heartbeat", self.heartbeat / 2, self._tick)
        opening, self._opening = self._opening, None
        calls: list[Call] = [partial(opening.done, self)] if opening is not None else []
        self.in_turn([*calls, *self._emit_calls("state", self, True)])

    def _refused(self, error: AMQPError) -> None:
        """The handshake failed: the dialer may have another address, or it was the broker's last word."""
        if self._refused_link is self.link:
            return  # it failed already, and this came in the same piece
        self._refused_link = self.link
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        self._cancel("farewell")
        if self._dialer is not None:
            self._dialer.failed(error)

    def _refusal(self, code: int, text: str) -> AMQPError:
        """What a connection.close during the handshake means."""
        told = f"{self._where()}: {text}"
        if self.link.before_close in ("securing", "challenged") and code == 403:
            return closed(LoginError, code, told)
        if self.link.before_close == "opening" and code in (402, 403, 530):
            return closed(VirtualHostRefused, code, told)
        return closed(ConnectError, code, told)

    # --- in -----------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._call_queue.process(self._arrived(data))

    def _arrived(self, data: bytes) -> PendingCalls:
        """What is to be called for what arrived."""
        link, channels = self.link, self._channels
        for number, event in link.runs(data):
            if link.answers:
                self._write_answers()
            channel = channels.get(number)
            if channel is None:
                if not number:
                    yield self._handle_own, event
            elif event.__class__ is list:
                if len(event) == 1:
                    yield channel.deliver, event[0]
                else:
                    yield from channel.deliveries(event)
            else:
                yield channel.handle, event

    def _handle_own(self, event: Event) -> None:
        if isinstance(event, Method):
            handler = _HANDLERS.get(event.name)
            if handler is not None:
                handler(self, event)
            elif self._pending and event.name in self._pending[0].expected:
                self._pending.popleft().reply(event)
            else:
                self.fault(UnexpectedMethodError(f"{event.name}, which nobody asked for"))
        elif isinstance(event, Negotiated):
            self._opened(event)
        elif isinstance(event, AMQPError):
            self._faulted(event)

    def _on_close(self, close: Method) -> None:
        """The broker closes the connection; the link has answered."""
        if self._dialer is not None:
            self._refused(self._refusal(close.reply_code, close.reply_text))
        elif not self._closers:
            self._hang_up()
            self._end(closed(ConnectionClosed, close.reply_code, close.reply_text))

    def _on_close_ok(self, ok: Method) -> None:
        self._cancel("farewell")
        self._hang_up()
        self._end(None)

    def _on_redirect(self, redirect: Method) -> None:
        self._refused(
            ConnectError(
                f"{self._where()}: the broker sends us to {redirect.host!r} (connection.redirect); connect there"
            )
        )

    def _on_blocked(self, blocked: Method) -> None:
        if not self.is_blocked:
            self.is_blocked = True
            self.writable = False
            self._later("blocked", self.parameters.blocked_connection_timeout, self._blocked_too_long)
        self.in_turn(self._emit_calls("blocked", self, True, blocked.reason))

    def _on_unblocked(self, unblocked: Method) -> None:
        self.is_blocked = False
        self.writable = not self._congested
        self._cancel("blocked")
        self.in_turn([*self._emit_calls("blocked", self, False, ""), *self._writable_calls()])

    # --- out ----------------------------------------------------------------------------------------------------------

    def write(self, chunks: Sequence[bytes | memoryview]) -> None:
        transport = self._transport
        if transport is not None:
            transport.write(chunks)
            if transport.queued - transport.written >= HIGH_WATER:
                self._congested = True
                self.writable = False

    def check_thread(self) -> None:
        """Refuses a thread that comes in while another is inside; before anything has changed."""
        if self.reactor.thread not in (None, get_ident()):
            raise ConcurrentUse(
                "another thread is inside this connection; give each thread its own, share it under its lock, "
                "or go through reactor.call_soon_threadsafe"
            )

    def _write_method(self, name: str, arguments: dict[str, Any]) -> None:
        self.check_thread()
        self.write([self.link.send(0, name, arguments)])

    def _write_answers(self) -> None:
        if self.link.answers and self._transport is not None:
            self._transport.write([self.link.take_answers()])

    def when_written(self, number: int, continuation: Continuation) -> None:
        """Settles a continuation when all that was written up to now has gone to the kernel."""
        position = self._transport.queued if self._transport is not None else 0
        self._unwritten.append((position, number, continuation))

    def take_unwritten(self, number: int) -> list[Continuation]:
        taken = [continuation for _, owner, continuation in self._unwritten if owner == number]
        if taken:
            self._unwritten = deque(entry for entry in self._unwritten if entry[1] != number)
        return taken

    @property
    def unsent(self) -> int:
        """Bytes that the kernel hasn't taken yet."""
        return self._transport.queued - self._transport.written if self._transport is not None else 0

    def flush(self) -> None:
        """Sends now what would go out at the end of the reactor's turn."""
        if self._transport is not None:
            self._transport.flush()

    def bytes_written(self) -> bool:
        transport = self._transport
        if transport is None or not (self._unwritten or self._congested):
            return False
        calls: list[Call] = []
        while self._unwritten and self._unwritten[0][0] <= transport.written:
            calls.append(partial(self._unwritten.popleft()[2].reply, None))
        if self._congested and transport.queued - transport.written <= LOW_WATER:
            self._congested = False
            self.writable = not self.is_blocked
            calls += self._writable_calls()
        if calls:
            self.in_turn(calls)
            self._call_queue.run()
        return bool(calls)

    def _writable_calls(self) -> list[Call]:
        if not self.writable:
            return []
        return [channel.tell_writable for channel in self._channels.values()]

    def release(self, number: int) -> None:
        if self._channels.pop(number, None) is not None:
            heappush(self._free, number)

    # --- timers -------------------------------------------------------------------------------------------------------

    def _later(self, name: str, seconds: float | None, call: Call) -> None:
        self._cancel(name)
        if seconds is not None:
            self._timers[name] = self.reactor.call_later(seconds, call)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _tick(self) -> None:
        if self._transport is None:
            return
        try:
            due = self.link.tick(self._transport.queued)
        except HeartbeatTimeout as silence:
            self._abort()
            self._end(HeartbeatTimeout(f"{self._where()}: {silence.text}, of {self.heartbeat} s"))
            return
        self._later("heartbeat", self.heartbeat / 2, self._tick)
        if due:
            self._transport.write([due])

    def _blocked_too_long(self) -> None:
        self._abort()
        seconds = self.parameters.blocked_connection_timeout
        self._end(BlockedConnectionTimeout(f"{self._where()} kept the connection blocked for {seconds} s"))

    def _close_unanswered(self) -> None:
        self._abort()
        self._end(
            OperationTimeout(
                f"{self._where()} did not answer connection.close in {self.parameters.connection_timeout} s"
            )
        )

    # --- the end ------------------------------------------------------------------------------------------------------

    def fault(self, error: ProtocolSyntaxError) -> None:
        """The broker broke the protocol in a way that shows only above the link."""
        if self._ended:
            return
        self.link.fault(error)
        self._write_answers()
        self._faulted(error)

    def _faulted(self, error: AMQPError) -> None:
        if self._dialer is not None:
            self._refused(_at(error, self._where()))
            return
        transport = self._transport
        if transport is not None and self.link.state == "closing":
            # Everybody is told now; the transport stays for the close handshake, and no longer than LINGER.
            self._later("farewell", LINGER, self._abort)
        else:
            self._hang_up()
        self._end(error)

    def transport_lost(self, error: Exception | None) -> None:
        # Behind what arrived before and, since a callback raised, isn't handed on yet.
        self._call_queue.append(partial(self._lost, error))
        self._call_queue.run()

    def _lost(self, error: Exception | None) -> None:
        self._transport = None
        self._cancel("farewell")
        if self._dialer is not None:
            self._dialer.failed(self._lost_in_handshake(error))
            return
        if self._closers and self.is_open is False:
            self._end(None)
            return
        cause = f": {error}" if error is not None else ", which hung up"
        lost = ConnectionLost(f"the link to {self._where()} was lost{cause}")
        lost.__cause__ = error
        self._end(lost)

    def _lost_in_handshake(self, error: Exception | None) -> AMQPError:
        where = self._where()
        state = self.link.state if hasattr(self, "link") else "begun"
        if error is None and state in ("securing", "challenged"):
            return LoginError(f"{where} hung up on the credentials, as brokers do that refuse them without a word")
        if error is None and state == "opening":
            return VirtualHostRefused(f"{where} hung up on virtual host {self.parameters.virtual_host!r}")
        failure = ConnectError(f"{where}: {error or 'the peer hung up during the handshake'}")
        failure.__cause__ = error
        return failure

    def _hang_up(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def _abort(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def _stop_asking(self) -> None:
        """No operation is taken any more."""
        self.is_open = False
        for channel in self._channels.values():
            channel.is_open = False

    def _end(self, reason: AMQPError | None) -> None:
        """Settles everything that waits, once: the channels', each in the order of asking, then the connection's own,
        then the closers; then the handlers."""
        if self._ended:
            return
        self._ended = True
        self.close_reason = reason
        was_open, opening, self._opening = self._opening is None, self._opening, None
        self._stop_asking()
        for name in ("heartbeat", "blocked", "close"):
            self._cancel(name)
        error = self.closed_error()
        tellers: list[bool] = []
        calls: list[Call] = []
        for channel in list(self._channels.values()):
            calls.append(partial(_end_channel, channel, error, tellers))
        for continuation in self._pending:
            calls.append(partial(continuation.fail, error))
        self._pending.clear()
        if opening is not None:
            failed = reason or error
            calls.append(partial(opening.fail, failed))
        asked_for = bool(self._closers)
        calls += self._closer_calls(reason)
        if was_open:
            calls += self._emit_calls("state", self, False)
        on_close = self._close_handler
        if on_close is not None:
            calls.append(lambda: on_close(self, reason))
        told = asked_for or on_close is not None or bool(self._handlers.get("state"))
        told = told or (opening is not None and opening.on_done is not None)
        if reason is not None and not told:
            calls.append(lambda: None if any(tellers) else self.report(reason))
        self.in_turn(calls)

    def _closer_calls(self, reason: AMQPError | None) -> list[Call]:
        closers, self._closers = self._closers, []
        if isinstance(reason, OperationTimeout):
            return [partial(closer.fail, reason) for closer in closers]
        return [closer.done for closer in closers]

    def report(self, error: AMQPError) -> None:
        """An error with nobody to tell: leaves the reactor as an exception."""

        def out_of_the_reactor() -> None:
            raise error

        self.reactor.call_soon(out_of_the_reactor)

    def forked(self) -> None:
        """This process is a fork, and the connection its parent's."""
        if self._ended:
            return
        self._ended = True
        self.close_reason = ConnectionForked(
            "the connection belongs to the process that this one was forked from; make a new one here"
        )
        self._stop_asking()
        for channel in self._channels.values():
            channel.close_reason = self.close_reason
        if self._transport is not None:
            self._transport.detach()
            self._transport = None


def _end_channel(channel: Channel, error: AMQPError, told: list[bool]) -> None:
    told.append(channel.end(error))


def endpoint(parameters: ConnectionParameters) -> Endpoint:
    return Endpoint(parameters.host, parameters.port, parameters.ssl, parameters.via)


def _at(error: AMQPError, where: str) -> AMQPError:
    if not error.text.startswith(where):
        error.text = f"{where}: {error.text}"
    return error


_HANDLERS: dict[str, Callable[[Connection, Any], None]] = {
    "connection.close": Connection._on_close,
    "connection.close-ok": Connection._on_close_ok,
    "connection.redirect": Connection._on_redirect,
    "connection.blocked": Connection._on_blocked,
    "connection.unblocked": Connection._on_unblocked,
}

_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork() -> None:
    for connection in list(_connections):
        connection.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def connect(
    reactor: Reactor,
    targets: Sequence[ConnectionParameters],
    on_done: OnDone[Connection] | None = None,
    on_close: OnClose | None = None,
) -> Connection:
    """Begins to connect to the first of the targets that can be reached, on a reactor; on_done(err, connection).
    on_close(connection, err) is called when the connection has ended, err None after a close of our own."""
    for target in targets:
        handshake.check(target)
    connection = Connection(reactor, on_close)
    connection.dial(targets, on_done)
    return connection
