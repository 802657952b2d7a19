"""A channel's way out: from the channel to the link and its backlog.

Publishes and acknowledgements take the fast path (`wire.fast_send`); every other method is encoded in full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from threading import get_ident
from typing import Any, Protocol

from ..errors import AMQPError, LocalError, ProtocolSyntaxError
from ..parameters import ConnectionParameters
from ..reactor import Reactor, Transport
from ..wire.backlog import Backlog
from ..wire.fast_send import FastSender
from ..wire.handshake import can
from ..wire.link import Link
from .continuations import Call, Continuation, PendingCalls
from .hooks import HookedSender
from .rabbitmq import version

Held = deque[tuple[Continuation | None, Callable[[], object]]]  # see `HeldBack`


class Carrier(Protocol):
    """The connection, as its channels' senders see it."""

    reactor: Reactor
    parameters: ConnectionParameters
    _link: Link
    _backlog: Backlog[Continuation]

    def _check_thread(self) -> None:
        """Raises ConcurrentUse if another thread is inside the connection."""

    def _in_turn(self, calls: Iterable[Call | PendingCalls]) -> None: ...
    def _failed(self, error: BaseException) -> None: ...
    def _fault(self, error: ProtocolSyntaxError) -> None: ...
    def _report(self, error: AMQPError) -> None: ...
    def _release(self, number: int) -> None: ...
    def _error_if_closed(self) -> AMQPError | None: ...
    def _expect_cancels(self, queue: str, deletion: Any) -> None: ...


def is_of_dropped(error: BaseException, transport: Transport | None) -> bool:
    """Whether a method cannot be sent only because a signal handler's exception has dropped the link: what was
    interrupted stands in the link half done. The end comes in the next turn, and settles this method's operation."""
    return type(error) is LocalError and transport is not None and transport.was_interrupted


class HeldBack:
    """Stands in the place of a channel's backlog while all that the channel sends waits in `held`, behind publishes
    that the broker's flow holds. An entry of `held`: (a continuation that waits or None, the call that sends it)."""

    __slots__ = ("_backlog", "_held")

    def __init__(self, backlog: Backlog[Continuation], held: Held):
        self._backlog = backlog
        self._held = held

    @property
    def writable(self) -> bool:
        return self._backlog.writable

    @property
    def transport(self) -> Transport | None:
        return self._backlog.transport

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        self._held.append((None, partial(self._backlog.write, list(chunks))))

    def when_written(self, number: int, waiter: Continuation) -> None:
        self._held.append((waiter, partial(self._backlog.when_written, number, waiter)))

    def unwritten(self, number: int) -> list[Continuation]:
        return self._backlog.unwritten(number)

    def take_unwritten(self, number: int) -> list[Continuation]:
        return self._backlog.take_unwritten(number)


class ChannelSender:
    """The way out of the channel with one number. `version`: of the protocol."""

    __slots__ = ("_backlog", "_connection", "_fast_sender", "_number", "_reactor", "unsettled", "version")

    _hooked_by = HookedSender
    unsettled: dict[int, Any]  # the messages that were handed out, by delivery tag; set by hooks alone

    def __init__(self, connection: Carrier, number: int):
        self._connection = connection
        self._reactor = connection.reactor
        self._backlog: Backlog[Continuation] | HeldBack = connection._backlog
        self._number = number
        self._fast_sender: FastSender | None = None
        self.version = connection._link.version

    @property
    def server_properties(self) -> dict[str, Any]:
        return self._connection._link.peer_properties

    @property
    def parameters(self) -> ConnectionParameters:
        """Of the broker that the connection has reached."""
        return self._connection.parameters

    @property
    def rabbitmq_version(self) -> tuple[int, ...]:
        """The version of RabbitMQ, as (4, 3, 6); () for another broker."""
        return version(self.server_properties)

    def peer_can(self, capability: str) -> bool:
        """Whether the broker announces a capability. To a client of 0-8 RabbitMQ announces none."""
        return can(self.server_properties, capability)

    @property
    def writable(self) -> bool:
        """False while the link is congested or the broker blocks the connection."""
        return self._backlog.writable

    def send(self, name: str, arguments: dict[str, Any]) -> None:
        """Sends a method. LocalError: it cannot be sent; nothing has changed then."""
        connection, thread = self._connection, self._reactor.thread
        if thread is not None and thread != get_ident():
            connection._check_thread()
        try:
            self._backlog.write([connection._link.send(self._number, name, arguments)])
        except BaseException as error:
            if is_of_dropped(error, self._backlog.transport):
                return
            self.failed(error)
            raise

    def send_now(self, name: str, arguments: dict[str, Any]) -> None:
        """`send` of a method that does not wait behind what is held."""
        held, self._backlog = self._backlog, self._connection._backlog
        try:
            self.send(name, arguments)
        finally:
            self._backlog = held

    def hold(self, held: Held) -> None:
        """Has all that is sent from here on wait in `held`, until `let_go`."""
        self._connection._check_thread()
        self._backlog = HeldBack(self._connection._backlog, held)

    def let_go(self) -> None:
        """Sends again. The caller makes the calls that are held."""
        self._backlog = self._connection._backlog

    def send_content(self, name: str, arguments: dict[str, Any], properties: bytes, body: bytes) -> None:
        """Sends a method and its content; errors as of `send`. `properties`: flags and values, encoded."""
        connection = self._connection
        connection._check_thread()
        try:
            self._backlog.write(connection._link.send_content(self._number, name, arguments, properties, body))
        except BaseException as error:
            if is_of_dropped(error, self._backlog.transport):
                return
            self.failed(error)
            raise

    def send_publish(self, exchange: str, routing_key: str, properties: bytes, body: bytes) -> bool:
        """`send_content` of a basic.publish without flags, by the fast path; returns `writable`."""
        thread = self._reactor.thread
        if thread is not None and thread != get_ident():
            self._connection._check_thread()
        fast, backlog = self._fast_sender or self._make_fast_sender(), self._backlog
        backlog.write(fast.publish(exchange, routing_key, properties, body))
        return backlog.writable

    def send_ack(self, delivery_tag: int, multiple: bool) -> None:
        """`send` of a basic.ack, by the fast path."""
        thread = self._reactor.thread
        if thread is not None and thread != get_ident():
            self._connection._check_thread()
        fast = self._fast_sender or self._make_fast_sender()
        self._backlog.write([fast.ack(delivery_tag, multiple)])

    def _make_fast_sender(self) -> FastSender:
        self._fast_sender = self._connection._link.fast_sender(self._number)
        return self._fast_sender

    def check(self, name: str, arguments: dict[str, Any], properties: bytes) -> None:
        """Raises what `send_content` would raise for these."""
        self._connection._link.check(name, arguments, properties)

    def when_written(self, continuation: Continuation) -> None:
        """Settles a continuation when all that was sent up to now has gone to the kernel."""
        self._backlog.when_written(self._number, continuation)

    def unwritten(self) -> list[Continuation]:
        """This channel's continuations that wait for that."""
        return self._backlog.unwritten(self._number)

    def take_unwritten(self) -> list[Continuation]:
        """Removes and returns this channel's continuations that wait for that."""
        return self._backlog.take_unwritten(self._number)

    def check_thread(self) -> None:
        """Raises ConcurrentUse if another thread is inside the connection."""
        self._connection._check_thread()

    def call_soon(self, call: Call) -> object:
        self._connection._check_thread()
        return self._reactor.call_soon(call)

    def in_turn(self, calls: Iterable[Call | PendingCalls]) -> None:
        """Makes calls one after another, before the frames that arrived later are decoded."""
        self._connection._in_turn(calls)

    def method_name(self, class_index: int, method_index: int) -> str | None:
        """The name of a method, or None if the version has none with these numbers."""
        return self._connection._link.codec.method_name(class_index, method_index)

    def failed(self, error: BaseException) -> None:
        """As of `Connection._failed`, for the channel's state."""
        self._connection._failed(error)

    def connection_error(self) -> AMQPError | None:
        """The error of every operation on a connection that is closed; None while it is open."""
        return self._connection._error_if_closed()

    def expect_cancels(self, queue: str, deletion: Any) -> None:
        """This connection deletes a queue: consumers of it on any channel will end."""
        self._connection._expect_cancels(queue, deletion)

    def fault(self, error: ProtocolSyntaxError) -> None:
        """The broker broke the protocol: closes the connection."""
        self._connection._fault(error)

    def report(self, error: AMQPError) -> None:
        """Reports an error that no continuation and no handler was told."""
        self._connection._report(error)

    def release(self) -> None:
        """Frees the channel's number."""
        self._connection._release(self._number)
