"""A connection to a broker: it opens, may be blocked, closes or is lost; and it owns channels, link and transport.

What a channel sends does not pass through here (`channel_sender` goes straight to the link and its backlog). What
arrives does: `_data_received` has the link decode it, and calls the channels. `dialer` finds the broker. Whatever ends
the connection settles every continuation that waits, once.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from heapq import heappop, heappush
from threading import get_ident
from typing import Any, TypeVar

from ..errors import (
    AMQPError,
    BlockedConnectionTimeout,
    ConcurrentUse,
    ConnectError,
    ConnectionClosed,
    ConnectionForked,
    ConnectionLost,
    HeartbeatTimeout,
    LocalError,
    LoginError,
    NoFreeChannels,
    OperationTimeout,
    ProtocolSyntaxError,
    UnexpectedMethodError,
    VirtualHostRefused,
    closed,
    ended,
    unknown_fate,
)
from ..interrupts import is_interrupt, repeatable
from ..parameters import ConnectionParameters
from ..reactor import Endpoint, NamedTimers, Reactor, Transport, TransportCallbacks
from ..registry import Registry
from ..version import __version__
from ..wire import handshake
from ..wire.backlog import Backlog
from ..wire.codec import Method
from ..wire.handshake import Negotiated
from ..wire.link import Event, Link
from .channel import Channel
from .channel_sender import ChannelSender, is_of_dropped
from .continuations import (
    Call,
    CallQueue,
    Continuation,
    Notice,
    OnDone,
    PendingCalls,
    Request,
    check_callable,
    fail_untold,
    ignore,
    in_hand,
    operation,
    refuse,
    registration,
    settle_soon,
)
from .dialer import Dialer
from .handlers import Handlers, Remove
from .hints import HintsNames, hint, remedy
from .hooks import ConnectionEvent, are_installed, when_changed
from .setup import OnReady, run_setup
from .trace import Sink, Tap, sinks_for_all
from .watching import deprecated, happened, reactor_was_idle

# Bytes of backlog that make a channel unwritable, and writable again. HIGH_WATER is less than a transport sends in the
# middle of a turn (sockets.EAGER), so a publisher that waits for `writable` gives the reactor its turn first.
HIGH_WATER = 256 * 1024
LOW_WATER = 64 * 1024
LINGER = 5.0  # seconds to wait for close-ok after a protocol fault; every continuation is settled by then

PRODUCT = {
    "product": "cpspika",
    "version": __version__,
    "platform": "Python {}.{}.{}".format(*sys.version_info),
    "information": "AMQP in continuation-passing style; MPL-2.0",
}

ChannelT = TypeVar("ChannelT", bound=Channel)
ConnectionT = TypeVar("ConnectionT", bound="Connection")
OnClose = Callable[["Connection", "AMQPError | None"], object]


class Connection(HintsNames):
    """A connection to a broker; `connect` makes one.

    `reactor`: drives it. `is_open`: operations may be asked for. `is_blocked`: the broker takes no publishes for now
    (connection.blocked). `parameters`: of the broker that was reached. `server_properties`: the broker's description of
    itself. `heartbeat` (seconds), `frame_max` (bytes), `channel_max`: as negotiated, 0 for none. `close_reason`: the
    error that ended the connection, or None.
    """

    # The public attributes: every facade has them too (`styles.lifting`).
    reactor: Reactor
    parameters: ConnectionParameters
    server_properties: dict[str, Any]
    heartbeat: int
    frame_max: int
    channel_max: int
    is_open: bool
    is_blocked: bool
    close_reason: AMQPError | None

    def __init__(self, reactor: Reactor, on_close: OnClose | None = None):
        """Not for programs: `connect` makes a connection."""
        self.reactor = reactor
        self._link: Link
        self.server_properties = {}
        self.heartbeat = self.frame_max = self.channel_max = 0
        self.is_open = False
        self.is_blocked = False
        self.close_reason = None
        check_callable("on_close", on_close)
        self._close_handler = on_close
        self._opening: Continuation | None = None
        self._refused_link: Link | None = None
        self._dialer: Dialer | None = None
        self._backlog: Backlog[Continuation] = Backlog(HIGH_WATER, LOW_WATER)
        self._call_queue = CallQueue(reactor.call_soon, self._write_answers, self._interrupted)
        self._channels: dict[int, Channel] = {}
        self._free: list[int] = []
        self._closed_by_broker: deque[int] = deque()
        self._next_number = 1
        self._pending: deque[Continuation] = deque()
        self._closers: list[Continuation] = []
        self._in_hand: list[Continuation] = []  # taken, and not told, when a signal handler raised an exception
        self._handlers = Handlers()
        self._timers = NamedTimers(reactor)
        self._last_tick = 0.0  # of the heartbeat, by the reactor's clock
        self._ended = False
        self._notices: list[Notice] | None = None  # of the end; they are queued again after an interrupt
        self._tellers: list[bool] = []  # of each channel that has ended with it, whether a callback got the reason
        self._was_logged = False  # the log and the hooks know of the end
        self._sinks: list[Sink] = []  # print or log the frames of this connection
        _connections.add(self)

    def __repr__(self) -> str:
        where = f" to {self._where()}" if hasattr(self, "parameters") else ""
        return f"<Connection{where} {'open' if self.is_open else 'closed' if self._ended else 'opening'}>"

    @property
    def is_connected(self) -> bool:
        """Whether the link to the broker is up. It differs from `is_open` on a connection with `recovery` alone: that
        stays open while it has no link."""
        return self.is_open

    @property
    def _unsent(self) -> int:
        """The number of bytes that the kernel has not accepted yet."""
        return self._backlog.size

    @property
    def writable(self) -> bool:
        """False while a program should publish no more: the link is congested, or the broker blocks the connection."""
        return self._backlog.writable

    def _where(self) -> str:
        return str(endpoint(self.parameters)) if self.parameters.via is None else self.parameters.host

    # --- operations ---------------------------------------------------------------------------------------------------

    @operation
    def channel(self, on_ready: OnReady | None = None, *, on_done: OnDone[Channel] | None = None) -> Channel | None:
        """Opens a channel.

        on_ready(channel): called when the channel is open; it may declare what the program needs. The channel is opened
        when on_ready has returned and its operations are answered. On a connection with `recovery` it is called again
        at every later opening, with a channel that is this opening alone. In a style with coroutines it may be a
        coroutine function.

        In the core the call also returns the channel at once: its operations may be asked for behind the opening.

        Result: the channel. Errors: NoFreeChannels, `channel_max` channels are open. ChannelClosed, on_ready raised:
        its exception is the cause.

            channel = connection.channel()
            channel.queue_declare("tasks", durable=True)
            channel.basic_publish("", "tasks", "hello")

        channel.open, 0-9-1 §1.5.2.1.
        """
        check_callable("on_ready", on_ready)
        check_callable("on_done", on_done)  # before a number is taken
        error = self._error_of_no_channel()
        if error is not None:
            refuse(on_done, error, "channel.open", self.reactor.call_soon)
            return None
        channel = self._new_channel(self._plain_channel)
        try:
            if on_ready is None:
                channel._open(on_done)
            else:
                self._open_with_setup(channel, on_ready, Request("channel.open", on_done))
        except BaseException:
            self._release(channel.number)  # of a signal handler: it was not sent, or the link is dropped
            raise
        return channel

    def _error_of_no_channel(self) -> AMQPError | None:
        """Why no channel can be opened now; None if one can be."""
        self._check_thread()
        if not self.is_open:
            return self._closed_error()
        if self._channel_count() >= self.channel_max:
            return NoFreeChannels(f"all {self.channel_max} channels of the connection are open")
        return None

    def _channel_count(self) -> int:
        return len(self._channels)

    def _new_channel(self, make: Callable[[int, bool], ChannelT]) -> ChannelT:
        """A channel with a free number, which is still to be opened. make(number, reused) makes it."""
        number = self._free_number()
        try:
            channel = make(number, self._link.was_closed_by_peer(number))
            self._channels[number] = channel
            if are_installed():
                channel._adopt()
        except BaseException:
            self._channels.pop(number, None)
            self._put_back(number)
            raise
        return channel

    def _plain_channel(self, number: int, reused: bool) -> Channel:
        return Channel(number, ChannelSender(self, number), reused)

    def _open_with_setup(self, channel: Channel, on_ready: OnReady, opening: Request) -> None:
        def opened(err: AMQPError | None, _: Any) -> None:
            if err is not None:
                opening.fail(err)
            else:
                run_setup(on_ready, channel, is_set_up)

        def is_set_up(err: AMQPError | None, _: Any) -> None:
            if err is None:
                opening.done(channel)
                return
            channel.close(on_done=ignore)
            if opening.on_done is None:
                self._report(opening.told(err))
            opening.fail(err)

        channel._open(opened)

    def _free_number(self) -> int:
        """The lowest number that is free. A number whose channel the broker closed comes last, since frames for it may
        still be under way: the longest closed first."""
        if self._free:
            return heappop(self._free)
        if self._next_number <= self.channel_max:
            self._next_number += 1
            return self._next_number - 1
        return self._closed_by_broker.popleft()

    @operation
    def close(self, reply_code: int = 200, reply_text: str = "", *, on_done: OnDone[None] | None = None) -> None:
        """Closes the connection with all its channels. Closing a closed connection is no error.

        reply_code, reply_text: the reason that the broker is told. Operations that were asked for before still get
        their replies; one that stays without gets ConnectionClosed. Errors: OperationTimeout, the broker did not answer
        within connection_timeout; the link is dropped then.

        connection.close, 0-9-1 §1.4.2.9.
        """
        closer = Request("connection.close", on_done)
        self._check_thread()
        if self._ended:
            self._end_farewell()
            settle_soon(closer, self.reactor.call_soon)
            return
        if self.is_open:
            try:
                self._write_method("connection.close", {"reply_code": reply_code, "reply_text": reply_text})
                self._stop_asking()
                self._timers.start("close", self.parameters.connection_timeout, self._close_unanswered)
            except BaseException as error:
                self._failed(error)
                raise
        elif self._dialer is not None:
            self._dialer.cancel()
            self._dialer = self._backlog.transport = None
            self.reactor.call_soon(lambda: self._end(ConnectionClosed("the connection was closed before it was open")))
        self._closers.append(closer)

    def _end_farewell(self) -> None:
        """Hangs up. After a fault of the broker's, the link of an ended connection may wait for close-ok. Perhaps
        nobody turns the reactor for that any more."""
        self._timers.cancel("farewell")
        self._hang_up()

    def abort(self) -> None:
        """Closes the link at once, without connection.close. Operations that wait get ConnectionClosed in the next
        turn."""
        self._check_thread()
        if not self._ended:
            if self._dialer is not None:
                self._dialer.cancel()
                self._dialer = None
            self._abort()
            self._end(ConnectionClosed("the connection was aborted"))
        else:
            self._abort()

    @property
    def _is_gone(self) -> bool:
        """Whether it has ended, and its link does not wait for the answer to a last connection.close."""
        return self._ended and self._backlog.transport is None

    def _drop(self) -> None:
        """Closes the link of a connection that the program has dropped: nobody is told. In any thread."""
        self._close_handler = None
        self._closers.append(Request("connection.close", ignore))  # so the end, and what it cuts off, has been told
        if self.reactor.thread in (None, get_ident()):
            self.abort()
        else:
            self.reactor.call_soon_threadsafe(self.abort)

    @operation
    def update_secret(self, new_secret: str | bytes, reason: str = "", *, on_done: OnDone[None] | None = None) -> None:
        """Gives the broker a new secret, for example a renewed OAuth 2 token.

        new_secret: the secret. reason: a text for the broker's log.

        connection.update-secret, a RabbitMQ extension of 0-9-1.
        """
        continuation = Request("connection.update-secret", on_done, ("connection.update-secret-ok",))
        self._check_thread()
        if not self.is_open:
            refuse(on_done, self._closed_error(), continuation.method, self.reactor.call_soon)
            return
        try:
            self._write_method(continuation.method, {"new_secret": new_secret, "reason": reason})
            self._pending.append(continuation)
        except BaseException as error:
            self._failed(error)
            raise

    def fileno(self) -> int:
        """The file descriptor of the connection's reactor, for a loop of the program's own to watch: readable when a
        socket is ready, or a deferred callback waits. Timers are due at `reactor.next_timer()`.

        Errors: LocalError, the reactor has none (a foreign loop or a thread turns it), or the system has neither epoll
        nor kqueue."""
        number: Callable[[], int] | None = getattr(self.reactor, "fileno", None)
        if number is None:
            raise LocalError(
                f"a foreign loop turns this connection: {type(self.reactor).__name__} has nothing to watch"
            )
        return number()

    def _closed_error(self) -> AMQPError:
        """The error of an operation on a connection that is not open: the error that ended it, if there is one."""
        reason = self.close_reason
        if isinstance(reason, ConnectionClosed):
            return reason._fresh()
        state = "closed" if self._ended or self._closers else "not open yet"
        error = ConnectionClosed(f"the connection is {state}" + (f": {reason.plain()}" if reason else ""))
        error.__cause__ = reason
        return error

    def _error_if_closed(self) -> AMQPError | None:
        return None if self.is_open else self._closed_error()

    def _expect_cancels(self, queue: str, deletion: Any) -> None:
        for channel in self._channels.values():
            channel._expect_cancels(queue, deletion)

    # --- handlers -----------------------------------------------------------------------------------------------------

    @registration
    def add_state_change_handler(self, handler: Callable[[Connection, bool], object]) -> Remove:
        """Has handler(connection, is_open) called when the connection opens or closes; `connection.close_reason` says
        why it closed. Returns a function that removes the handler."""
        return self._handlers.add("state", handler)

    @registration
    def add_blocked_handler(self, handler: Callable[[Connection, bool, str], object]) -> Remove:
        """Has handler(connection, blocked, reason) called when the broker blocks publishes, or permits them again
        (connection.blocked, a RabbitMQ extension). This stops nothing by itself, but `writable` turns False. Returns a
        function that removes the handler."""
        return self._handlers.add("blocked", handler)

    @registration
    def add_recovery_handler(self, handler: Callable[[Connection, Any], object]) -> Remove:
        """Has handler(connection, event) called for each RecoveryEvent: the link was lost, is tried again, was
        restored... Handlers watch; they decide nothing. Without `recovery` there are no such events. Returns a function
        that removes the handler."""
        return self._handlers.add("recovery", handler)

    @registration
    def addStateChangeHandler(self, handler: Callable[[Connection, bool], object]) -> None:
        """`add_state_change_handler` under its name in pika 0.5. The handler is also called at once, with the present
        state."""
        self.add_state_change_handler(handler)
        handler(self, self.is_open)

    def _in_turn(self, calls: Iterable[Call | PendingCalls]) -> None:
        """Makes calls one after another, before the frames that arrived later are decoded."""
        self._call_queue.put_first(calls)

    # --- opening ------------------------------------------------------------------------------------------------------

    def _dial(self, targets: Sequence[ConnectionParameters], on_done: OnDone[Connection] | None) -> None:
        """Tries the targets in order; see `dialer`."""
        self._opening = Request("connect", on_done)
        self.parameters = targets[0]
        endpoints = [(endpoint(target), target) for target in targets]
        self._dialer = Dialer(self.reactor, endpoints, self._owner_of, self._attempted, self._dial_failed)
        self._dialer.begin(targets[0].connection_timeout)

    def _owner_of(self, attempt: int) -> TransportCallbacks:
        """The owner of the transport of the dialer's attempt with this number."""
        lost = partial(self._transport_lost, attempt)
        return TransportCallbacks(self._transport_ready, self._data_received, self._bytes_written, lost)

    def _attempted(self, target: ConnectionParameters, transport: Transport) -> None:
        """Takes the transport of the dialer's next attempt."""
        self.parameters = target
        self._backlog.transport = transport

    def _transport_ready(self) -> None:
        self._link = Link("client", self.parameters.protocol, handshake.client(self.parameters, PRODUCT))
        for sink in [*self._sinks, *sinks_for_all()]:
            self._tap(sink)
        self._write_answers()

    def _tap(self, sink: Sink) -> None:
        """Has a sink told each frame of the link, if there is one."""
        if self._backlog.transport is not None and hasattr(self, "_link"):
            Tap.of(self._where(), self._link, self._backlog).sinks.append(sink)

    def _watch(self, sink: Sink) -> Callable[[], None]:
        """Has a sink told each frame from now on. Returns a function that ends this."""
        self._sinks.append(sink)
        self._tap(sink)
        return partial(self._unwatch, sink)

    def _unwatch(self, sink: Sink) -> None:
        if sink in self._sinks:
            self._sinks.remove(sink)
        if hasattr(self, "_link"):
            Tap.end(self._link, sink)

    def _happened(self, event: Any) -> None:
        """Tells the log and the hooks."""
        happened(self, event)

    def _dial_failed(self, error: AMQPError) -> None:
        """Ends the connection: the dialer has no address left, or the broker refused."""
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
        self._last_tick = self.reactor.time()
        if self.heartbeat:
            self._timers.start("heartbeat", self.heartbeat / 2, self._tick)
        opening = self._opening
        calls: list[Call] = [partial(opening.done, self)] if opening is not None else []
        calls += self._handlers.calls("state", self, True)
        self._in_turn(calls)
        self._opening = None
        self._happened(ConnectionEvent("opened"))

    def _refused(self, error: AMQPError) -> None:
        """The handshake failed. The dialer decides whether to try another address."""
        if self._refused_link is self._link:
            return  # this came in the same piece as the failure
        self._refused_link = self._link
        self._hang_up()
        self._timers.cancel("farewell")
        if self._dialer is not None:
            self._dialer.failed(error)

    def _refusal(self, code: int, text: str) -> AMQPError:
        """The error that a connection.close during the handshake means."""
        told = f"{self._where()}: {text}"
        if self._link.before_close in ("securing", "challenged") and code == 403:
            return closed(LoginError, code, told)
        if self._link.before_close == "opening" and code in (402, 403, 530):
            return closed(VirtualHostRefused, code, told)
        return closed(ConnectError, code, told)

    # --- in -----------------------------------------------------------------------------------------------------------

    def _data_received(self, data: bytes) -> None:
        alone = self._link.alone(data)
        if alone is None:
            self._call_queue.process(self._arrived(data))
            return
        # The reply to a program that asks and waits: one frame, and nothing behind it.
        number, event, _ = alone
        channel = self._channels.get(number)
        if channel is not None:
            self._call_queue.make(channel._handle, event)
        elif not number:
            self._write_answers()
            if event is not None:
                self._call_queue.make(self._handle_own, event)

    def _arrived(self, data: bytes) -> PendingCalls:
        """The calls for arrived bytes, for one frame (or one run of deliveries) at a time."""
        link, channels = self._link, self._channels
        try:
            for number, event in link.runs(data):
                if link.answers:
                    self._write_answers()
                channel = channels.get(number)
                if channel is None:
                    if not number:
                        yield self._handle_own, event
                elif event.__class__ is list:
                    if len(event) == 1:
                        yield channel._deliver, event[0]
                    else:
                        yield from channel._deliver_all(event)
                else:
                    yield channel._handle, event
        except GeneratorExit:
            raise
        except BaseException as error:
            # Of a signal handler, or KeyboardInterrupt in a credentials class: the rest of the data cannot be decoded.
            if self._backlog.transport is not None:
                self._backlog.transport.interrupted(error)
            raise

    def _handle_own(self, event: Event) -> None:
        if isinstance(event, Method):
            handler = _HANDLERS.get(event.name)
            if handler is not None:
                handler(self, event)
            elif self._pending and event.name in self._pending[0].expected:
                answered = self._pending[0]
                del self._pending[0]
                answered.reply(event)
            else:
                self._fault(UnexpectedMethodError(f"{event.name}, which nobody asked for"))
        elif isinstance(event, Negotiated):
            self._opened(event)
        elif isinstance(event, AMQPError):
            self._faulted(event)

    def _on_close(self, close: Method) -> None:
        """The broker closes the connection; the link has answered already."""
        if self._dialer is not None:
            self._refused(self._refusal(close.reply_code, close.reply_text))
        elif not self._closers:
            self._hang_up()
            deprecated(self._where(), close.reply_text)
            reason = closed(ConnectionClosed, close.reply_code, close.reply_text + remedy(close.reply_text))
            blamed = self._link.codec.method_name(close.class_id, close.method_id)
            self._end(reason if blamed is None else self._answering(blamed, reason))

    def _answering(self, blamed: str, reason: AMQPError) -> AMQPError:
        """The reason of a close, as the answer to the method that the broker closes for."""
        waiting = [channel._blamed(blamed) for channel in self._channels.values()]
        oldest = min((operation for operation in waiting if operation is not None), default=None)
        return oldest.told(reason) if oldest is not None else reason.of(blamed, None)

    def _on_close_ok(self, ok: Method) -> None:
        self._timers.cancel("farewell")
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
            self._backlog.stop(True)
            self._timers.start("blocked", self.parameters.blocked_connection_timeout, self._blocked_too_long)
        self._in_turn(self._handlers.calls("blocked", self, True, blocked.reason))
        self._happened(ConnectionEvent("blocked", reason=blocked.reason))

    def _on_unblocked(self, unblocked: Method) -> None:
        self.is_blocked = False
        self._backlog.stop(False)
        self._timers.cancel("blocked")
        self._in_turn([*self._handlers.calls("blocked", self, False, ""), *self._writable_calls()])
        self._happened(ConnectionEvent("unblocked"))

    # --- out ----------------------------------------------------------------------------------------------------------

    def _check_thread(self) -> None:
        """Raises ConcurrentUse for a thread that comes in while another is inside; before anything has changed."""
        if self.reactor.thread not in (None, get_ident()):
            raise ConcurrentUse(
                "another thread is inside this connection; give each thread its own, share it under its lock, "
                "or go through reactor.call_soon_threadsafe"
            )

    def _write_method(self, name: str, arguments: dict[str, Any]) -> None:
        self._check_thread()
        try:
            self._backlog.write([self._link.send(0, name, arguments)])
        except LocalError as error:
            if not is_of_dropped(error, self._backlog.transport):
                raise

    def _failed(self, error: BaseException) -> None:
        """An exception passed what changes a state and sends bytes, which belong together. If a signal handler raised
        it in between, the link is dropped."""
        transport = self._backlog.transport
        if transport is not None and is_interrupt(error):
            transport.interrupted(error)

    def _write_answers(self) -> None:
        transport = self._backlog.transport
        if self._link.answers and transport is not None:
            transport.write([self._link.take_answers()])

    def _flush(self) -> None:
        """Sends now what would go out at the end of the reactor's turn."""
        if self._backlog.transport is not None:
            self._backlog.transport.flush()

    def _bytes_written(self) -> bool:
        backlog = self._backlog
        if not (backlog.congested or backlog.waiting):
            return False
        written = backlog.take_written()
        calls: list[Call] = [partial(continuation.reply, None) for continuation in written]
        if backlog.drained():
            calls += self._writable_calls()
        if calls:
            self._in_turn(calls)
            self._call_queue.run()
        return bool(calls)

    def _writable_calls(self) -> list[Call]:
        if not self.writable:
            return []
        return [channel._tell_writable for channel in self._channels.values()]

    def _adopt(self) -> None:
        """Has its channels call the hooks, or call them no more; see `hooks`."""
        for channel in list(self._channels.values()):
            channel._adopt()

    def _release(self, number: int) -> None:
        if self._channels.pop(number, None) is not None:
            self._put_back(number)

    def _put_back(self, number: int) -> None:
        """The number is free again."""
        if self._link.was_closed_by_peer(number):
            self._closed_by_broker.append(number)
        else:
            heappush(self._free, number)

    # --- timers -------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        transport = self._backlog.transport
        if transport is None:
            return
        self._idle_seconds()
        self._last_tick = self.reactor.time()
        try:
            due = self._link.tick(transport.queued)
        except HeartbeatTimeout as silence:
            self._abort()
            self._end(HeartbeatTimeout(f"{self._where()}: {silence.text}, of {self.heartbeat} s"))
            return
        self._timers.start("heartbeat", self.heartbeat / 2, self._tick)
        if due:
            transport.write([due])

    def _idle_seconds(self) -> float:
        """How long nothing turned the reactor, if that was so long that heartbeats were missed; else 0."""
        idle = self.reactor.time() - self._last_tick
        if not self.heartbeat or idle <= 1.5 * self.heartbeat:
            return 0.0
        reactor_was_idle(self._where(), idle, self.heartbeat)
        return idle

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

    def _fault(self, error: ProtocolSyntaxError) -> None:
        """The broker broke the protocol in a way that the link could not see."""
        if self._ended:
            return
        self._link.fault(error)
        self._write_answers()
        self._faulted(error)

    def _faulted(self, error: AMQPError) -> None:
        if self._dialer is not None:
            self._refused(_at(error, self._where()))
            return
        if self._backlog.transport is not None and self._link.state == "closing":
            # Continuations are settled now. The transport stays for the close handshake, for LINGER at most.
            self._timers.start("farewell", LINGER, self._abort)
        else:
            self._hang_up()
        self._end(error)

    @repeatable
    def _transport_lost(self, attempt: int, error: Exception | None) -> None:
        # Where a callback raised, frames that arrived before are still in the call queue: they come first.
        self._call_queue.append(partial(self._lost, attempt, error))
        self._call_queue.run()

    @repeatable
    def _lost(self, attempt: int, error: Exception | None) -> None:
        if self._dialer is not None and self._dialer.tries_another(attempt):
            return  # this is told again
        self._abort()  # from here on the transport does not tell it again
        if isinstance(error, ConnectionAbortedError) and error.__cause__ is not None:
            self._in_hand += in_hand(error.__cause__.__traceback__)
            self._call_queue.revive()
        if self._dialer is not None:
            self._dialer.failed(self._lost_in_handshake(error))
            return
        if self._closers and self.is_open is False:
            self._end(None)
            return
        cause = str(error) if error is not None else "the broker closed it"
        idle = self._idle_seconds()
        if idle:
            # The broker heard no heartbeat. The operating system's error alone would hide that.
            cause = f"nothing turned the reactor for {idle:.0f} s, with a heartbeat of {self.heartbeat} s ({cause})"
        lost = ConnectionLost(f"the link to {self._where()} was lost: {cause}")
        lost.__cause__ = error
        self._end(lost)

    def _lost_in_handshake(self, error: Exception | None) -> AMQPError:
        where = self._where()
        known = hasattr(self, "_link")
        state, properties = (self._link.state, self._link.peer_properties) if known else ("", {})
        meaning = hint(error, state, self.parameters, properties)
        failure = ConnectError(f"{where}: {error or 'the peer hung up during the handshake'}{meaning}")
        failure.__cause__ = error
        return failure

    def _hang_up(self) -> None:
        transport, self._backlog.transport = self._backlog.transport, None
        if transport is not None:
            transport.close()

    def _abort(self) -> None:
        self._timers.cancel("farewell")
        transport, self._backlog.transport = self._backlog.transport, None
        if transport is not None:
            transport.abort()

    def _stop_asking(self) -> None:
        """Refuses operations from here on."""
        self.is_open = False
        for channel in self._channels.values():
            channel.is_open = False

    @repeatable
    def _end(self, reason: AMQPError | None) -> None:
        """Settles every continuation that waits, once: those of each channel in the order of asking, then the
        connection's own, then the closers. Then the handlers are called."""
        if self._ended:
            return
        self._ended = True
        try:
            self._settle_all(reason)
        except BaseException:
            self._ended = False  # of a signal handler: `_interrupted` does the rest
            self.close_reason = self.close_reason or reason
            raise

    def _interrupted(self, error: BaseException) -> None:
        """A signal handler raised an exception in the middle of the dispatch. Where the link is still there, its loss
        settles what waits; else this does."""
        self._in_hand += in_hand(error.__traceback__)
        self._call_queue.revive()
        self.reactor.call_soon(self._finish)

    @repeatable
    def _finish(self) -> None:
        """Settles what an interrupted end has left. Where the link is lost meanwhile, that settles all."""
        if not self._ended:
            if self._backlog.transport is None and self._dialer is None:
                self._end(self.close_reason or (None if self._closers else self._cut_off()))
            return
        error = self._closed_error()
        calls: list[Call] = [partial(_end_channel, channel, error, []) for channel in list(self._channels.values())]
        self._in_turn([*self._calls_in_hand(error), *calls])
        self._in_hand = []

    def _cut_off(self) -> AMQPError:
        return ConnectionLost(f"the link to {self._where()} has ended; a signal handler's exception hid why")

    def _calls_in_hand(self, error: AMQPError) -> list[Call]:
        """The calls that settle what a signal handler's exception left in hand."""
        return [
            partial(
                fail_untold, continuation, unknown_fate(error) if getattr(continuation, "undecided", False) else error
            )
            for continuation in self._in_hand
        ]

    def _settle_all(self, reason: AMQPError | None) -> None:
        """The work of `_end`. Nothing is taken out of a container before its call is in the queue."""
        if reason is not None and self._opening is None:
            reason = ended(reason)
        self.close_reason = reason
        was_open, opening = self._opening is None, self._opening
        self._stop_asking()
        self._timers.cancel("heartbeat", "blocked", "close")
        error = self._closed_error()
        if self._notices is None:
            self._notices = self._end_notices(reason, was_open)
        calls = self._calls_in_hand(error)
        for channel in list(self._channels.values()):
            calls.append(partial(_end_channel, channel, error, self._tellers))
        for continuation in self._pending:
            calls.append(partial(continuation.fail, error))
        if opening is not None:
            failed = reason or error
            calls.append(partial(opening.fail, failed))
        calls += self._closer_calls(reason)
        calls += [notice.done for notice in self._notices]
        self._in_turn(calls)
        self._in_hand, self._opening, self._closers = [], None, []
        self._pending.clear()
        if not self._was_logged:
            self._was_logged = True
            self._happened(ConnectionEvent("closed" if was_open else "failed", reason))

    def _end_notices(self, reason: AMQPError | None, was_open: bool) -> list[Notice]:
        """The notices of the end to the handlers, or to the reactor where nobody else is told."""
        opening, on_close = self._opening, self._close_handler
        calls = self._handlers.calls("state", self, False) if was_open else []
        if on_close is not None:
            calls.append(partial(on_close, self, reason))
        told = bool(self._closers) or on_close is not None or self._handlers.has("state")
        told = told or (opening is not None and opening.on_done is not None)
        if reason is not None and not told:
            tellers = self._tellers
            calls.append(lambda: None if any(tellers) else self._report(reason))
        return [Notice(call) for call in calls]

    def _closer_calls(self, reason: AMQPError | None) -> list[Call]:
        closers = self._closers
        if isinstance(reason, OperationTimeout):
            return [partial(closer.fail, reason) for closer in closers]
        return [closer.done for closer in closers]

    def _report(self, error: AMQPError) -> None:
        """Lets an error that no continuation and no handler was told leave the reactor as an exception."""

        def out_of_the_reactor() -> None:
            raise error

        self.reactor.call_soon(out_of_the_reactor)

    def _forked(self) -> None:
        """Gives up the connection in the child of a fork: it belongs to the parent."""
        if self._ended:
            return
        self._ended = True
        self.close_reason = ConnectionForked(
            "the connection belongs to the process that this one was forked from; make a new one here"
        )
        self._stop_asking()
        for channel in self._channels.values():
            channel.close_reason = self.close_reason
        if self._backlog.transport is not None:
            self._backlog.transport.detach()
            self._backlog.transport = None


def _adopt_all() -> None:
    for connection in _connections:
        connection._adopt()


when_changed(_adopt_all)


def _end_channel(channel: Channel, error: AMQPError, told: list[bool]) -> None:
    told.append(channel._end(error))


def endpoint(parameters: ConnectionParameters) -> Endpoint:
    p = parameters
    return Endpoint(p.host, p.port, p.ssl, p.via, p.server_hostname, p.tcp_keepalive)


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

_connections: Registry[Connection] = Registry()


def _after_fork() -> None:
    for connection in _connections:
        connection._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def connect(
    reactor: Reactor,
    targets: Sequence[ConnectionParameters],
    on_done: OnDone[Connection] | None = None,
    on_close: OnClose | None = None,
) -> Connection:
    """Begins to connect, on a reactor, to the first of the targets that can be reached.

    on_done(err, connection): called once. on_close(connection, err): called when the connection has ended; err is None
    after a close of our own. InvalidArgument, InvalidArgumentType: as of `handshake.check`."""
    return begin(Connection(reactor, on_close), targets, on_done)


def begin(
    connection: ConnectionT, targets: Sequence[ConnectionParameters], on_done: OnDone[Connection] | None = None
) -> ConnectionT:
    """Has a new connection dial; arguments and errors as of `connect`."""
    for target in targets:
        handshake.check(target)
    connection._check_thread()
    connection._dial(targets, on_done)
    return connection
