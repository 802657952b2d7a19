"""pika's BlockingConnection, on a connection of the core whose reactor has a thread of its own."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from heapq import heappush
from threading import get_ident
from types import TracebackType
from typing import Any
from weakref import finalize, ref

from ...client.connection import Connection
from ...errors import AMQPError, ConnectionClosed, PublishError
from ...logs import get_logger
from ...wire.handshake import can
from . import exceptions, frame, spec
from ._channel import BlockingChannel
from ._events import Events
from ._impl import ConnectionView
from ._link import Link, at_the_end
from ._translation import of_connecting, of_connection, of_local
from .connection import Parameters

LOGGER = get_logger(__name__)
GOODBYE = 5.0  # seconds that close() waits for the threads to end, after the broker's answer


class BlockingConnection:
    """A connection whose calls wait for their answers.

    parameters: ConnectionParameters or URLParameters, or a sequence of them, which are tried in order; those of the
    last say how often all are tried (connection_attempts), and how long to pause between (retry_delay).

    Callbacks run in the thread that calls `process_data_events`, `sleep` or a channel's `start_consuming` or `consume`,
    one at a time. Heartbeats go on meanwhile, in the reactor's thread."""

    def __init__(self, parameters: Parameters | Sequence[Parameters] | None = None, _impl_class: Any = None):
        given = Parameters() if parameters is None else parameters
        configs = [given] if isinstance(given, Parameters) else list(given)
        if not configs:
            raise ValueError("parameters is an empty sequence; it takes at least one ConnectionParameters")
        self.events = events = Events()
        self._channels: dict[int, BlockingChannel] = {}
        self._told = False  # the program knows why the connection has ended
        self.link = _connect(configs)
        self.link.inside(self.link.core.add_state_change_handler, lambda core, is_open: events.stir())
        # The reactor's thread has the link, also when nobody has this. Not by __del__, which a copy would call too.
        finalize(self, self.link.drop).atexit = False

    def __repr__(self) -> str:
        return f"<BlockingConnection of {self.link.core!r}>"

    def __enter__(self) -> BlockingConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_open:
            self.close()

    @property
    def _impl(self) -> ConnectionView:
        return ConnectionView(self)

    # --- its state ----------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether operations may be asked for."""
        return self.link.core.is_open

    @property
    def is_closed(self) -> bool:
        """Not `is_open`."""
        return not self.link.core.is_open

    def _capability(self, name: str) -> bool:
        return can(self.link.core.server_properties, name)

    @property
    def basic_nack_supported(self) -> bool:
        """Whether the broker has basic.nack."""
        return self._capability("basic.nack")

    @property
    def consumer_cancel_notify_supported(self) -> bool:
        """Whether the broker tells when it cancels a consumer."""
        return self._capability("consumer_cancel_notify")

    @property
    def exchange_exchange_bindings_supported(self) -> bool:
        """Whether exchanges can be bound to exchanges."""
        return self._capability("exchange_exchange_bindings")

    @property
    def publisher_confirms_supported(self) -> bool:
        """Whether the broker confirms publishes."""
        return self._capability("publisher_confirms")

    basic_nack = basic_nack_supported
    consumer_cancel_notify = consumer_cancel_notify_supported
    exchange_exchange_bindings = exchange_exchange_bindings_supported
    publisher_confirms = publisher_confirms_supported

    # --- its end ------------------------------------------------------------------------------------------------------

    def news(self) -> Exception | None:
        """The error that ended the connection, once; None if there is none, or the program knows it."""
        reason = self.link.core.close_reason
        if self._told or reason is None:
            return None
        self._told = True
        return of_connection(reason)

    def _closed_error(self) -> Exception:
        return self.news() or exceptions.ConnectionWrongStateError("the connection is closed")

    def _check_open(self) -> None:
        if not self.is_open:
            raise self._closed_error()

    def _ask(self, start: Callable[[Any], object]) -> Any:
        self._check_open()
        try:
            return self.link.ask(start)
        except ConnectionClosed as error:
            raise self._closed_error() from error
        except AMQPError as error:
            raise of_local(error) from error

    def close(self, reply_code: int = 200, reply_text: str = "Normal shutdown") -> None:
        """Closes the channels, then the connection. ConnectionWrongStateError: it is closed."""
        if not self.is_open:
            raise self.news() or exceptions.ConnectionWrongStateError(
                f"BlockingConnection.close({reply_code}, {reply_text!r}) called on closed connection."
            )
        if at_the_end():
            self._told = True
            self.link.close_at_the_end(reply_code, reply_text)
            return
        for channel in list(self._channels.values()):
            if channel.is_open:
                with suppress(exceptions.ChannelClosed, exceptions.ChannelWrongStateError):
                    channel.close(reply_code, reply_text)
        core = self.link.core
        self._ask(lambda on_done: core.close(reply_code, reply_text, on_done=on_done))
        self._told = True
        self.events.ready.clear()
        self.events.stir()
        self.link.finish(GOODBYE)

    # --- events -------------------------------------------------------------------------------------------------------

    def _has_events(self) -> bool:
        return bool(self.events.ready) or any(channel.has_events for channel in list(self._channels.values()))

    def process_data_events(self, time_limit: float | None = 0) -> None:
        """Calls the program for what has happened: messages, timers, callbacks of other threads. Waits for something to
        happen, time_limit seconds at most; None: without limit. In a callback, and while another thread calls the
        program, it waits, and calls nothing."""
        if time_limit is not None:
            _check_seconds("time_limit", time_limit)
        if not self._has_events():
            self._check_open()
        events = self.events
        if time_limit == 0 and not self._has_events():
            self.link.read_now()
        deadline = None if time_limit is None else time.monotonic() + time_limit
        turn, me = events.turn, get_ident()
        if turn.get("of") == me:
            self._wait(deadline, in_callback=True)
        else:
            try:
                if turn.setdefault("of", me) == me or events.wait_for_turn(me, deadline):
                    self._wait(deadline)
                    self._dispatch()
            finally:
                events.give_turn(me)
        for channel in list(self._channels.values()):
            channel.forget_news()
        if not self.is_open:
            error = self.news()
            if error is not None:
                raise error

    def _wait(self, deadline: float | None, in_callback: bool = False) -> None:
        events = self.events
        while self.is_open and not (events.stirred or (not in_callback and self._has_events())):
            if not events.wait_until(deadline):
                break
        events.calm()

    def _dispatch(self) -> None:
        ready = self.events.ready
        for _ in range(len(ready)):
            try:
                _, call = ready.popleft()
            except IndexError:  # a callback has removed a timer
                break
            call()
        for channel in list(self._channels.values()):
            if channel.has_events:
                channel.dispatch()

    def sleep(self, duration: float) -> None:
        """Calls the program for what happens within `duration` seconds."""
        _check_seconds("duration", duration)
        deadline = time.monotonic() + duration
        left = duration
        while True:
            self.process_data_events(left)
            left = deadline - time.monotonic()
            if left <= 0:
                break

    def call_later(self, delay: float, callback: Callable[[], object]) -> Any:
        """Has callback() called after `delay` seconds. Returns an object for `remove_timeout`."""
        _check_callable(callback)
        _check_seconds("delay", delay)
        if not self.is_open:
            raise exceptions.ConnectionWrongStateError("call_later: the connection is closed")
        timer: list[Any] = []
        timer.append(self.link.later(delay, partial(self.events.put, timer, callback)))
        return timer

    def remove_timeout(self, timeout_id: Any) -> None:
        """Drops a call of `call_later`."""
        self.link.cancel(timeout_id[0])
        ready = self.events.ready
        for entry in [entry for entry in list(ready) if entry[0] is timeout_id]:
            with suppress(ValueError):
                ready.remove(entry)

    def add_callback_threadsafe(self, callback: Callable[[], object]) -> None:
        """Has callback() called in the thread that processes the connection's events. From any thread."""
        if not self.is_open:
            raise exceptions.ConnectionWrongStateError("add_callback_threadsafe: the connection is closed")
        _check_callable(callback)
        self.events.put(None, callback)

    def add_on_connection_blocked_callback(self, callback: Callable[[Any, Any], object]) -> None:
        """Has callback(connection, method_frame) called when the broker blocks publishes."""
        self._on_blocked(True, callback)

    def add_on_connection_unblocked_callback(self, callback: Callable[[Any, Any], object]) -> None:
        """Has callback(connection, method_frame) called when the broker permits publishes again."""
        self._on_blocked(False, callback)

    def _on_blocked(self, wanted: bool, callback: Callable[[Any, Any], object]) -> None:
        _check_callable(callback)
        put, me = self.events.put, ref(self)

        def handler(core: Any, blocked: bool, reason: str) -> None:
            if blocked == wanted:
                method = spec.Connection.Blocked(reason) if blocked else spec.Connection.Unblocked()
                put(None, lambda: callback(me(), frame.Method(0, method)))

        self.link.inside(self.link.core.add_blocked_handler, handler)

    # --- the rest -----------------------------------------------------------------------------------------------------

    def channel(self, channel_number: int | None = None) -> BlockingChannel:
        """Opens a channel; channel_number: its number, by default the lowest that is free."""
        if channel_number is not None and not isinstance(channel_number, int):
            raise TypeError(f"channel_number takes an int, not {channel_number!r}")
        core = self.link.core
        opened = self._ask(lambda on_done: _open(core, channel_number, on_done))
        channel = self._channels[opened.core.number] = BlockingChannel(opened.core, self)
        return channel

    def update_secret(self, new_secret: str, reason: str) -> None:
        """Gives the broker a new secret, for example a renewed OAuth 2 token."""
        core = self.link.core
        self._ask(lambda on_done: core.update_secret(new_secret, reason, on_done=on_done))


def _check_callable(callback: Any) -> None:
    if not callable(callback):
        raise TypeError(f"callback takes a callable, not {callback!r}")


def _check_seconds(name: str, seconds: Any) -> None:
    if not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} takes a number of seconds, not {seconds!r}")
    if seconds < 0:
        raise ValueError(f"{name}={seconds} is not a number of seconds from 0")


def _open(core: Connection, number: int | None, on_done: Any) -> None:
    """Opens a channel, of this number if there is one. InvalidChannelNumber: it is in use, or too high."""
    if not number:
        core.channel(on_done=on_done)
        return
    if not 0 < number <= core.channel_max or number in core._channels:
        raise exceptions.InvalidChannelNumber(number)
    while core._next_number <= number:
        heappush(core._free, core._next_number)
        core._next_number += 1
    others = [free for free in core._free if free != number]
    if number in core._closed_by_broker:
        core._closed_by_broker.remove(number)
    core._free = [number]
    core.channel(on_done=on_done)
    core._free = sorted(others)


def _stray(error: BaseException) -> None:
    if not isinstance(error, PublishError):  # pika drops a returned message that nobody asked for
        LOGGER.warning("%s: %s", type(error).__name__, error)


def _connect(configs: list[Parameters]) -> Link:
    last, failure = configs[-1], None
    for attempt in range(last.connection_attempts):
        if attempt:
            time.sleep(last.retry_delay)
        for config in configs:
            try:
                return _connect_to(config)
            except AMQPError as error:
                LOGGER.info("no connection to %s:%s: %s", config.host, config.port, error)
                failure = error
    assert failure is not None
    cause = failure.__cause__
    as_it_is = isinstance(cause, (socket.gaierror, ssl.SSLError))  # as pika does
    raise cause if cause is not None and as_it_is else of_connecting(failure) from failure


def _connect_to(config: Parameters) -> Link:
    link = Link(config, _stray)
    core: Any = link.core
    core.parameters.credentials.erase()
    milliseconds = (config.tcp_options or {}).get("TCP_USER_TIMEOUT")
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    sock = getattr(core._backlog.transport, "socket", None)  # None: the embedded broker's link has none
    if milliseconds is not None and option is not None and sock is not None:
        link.inside(sock.setsockopt, socket.IPPROTO_TCP, option, milliseconds)
    return link
