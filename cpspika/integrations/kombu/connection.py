"""A connection as kombu has it: the names of py-amqp's, over a BlockingConnection."""

from __future__ import annotations

import select
import weakref
from collections.abc import Callable, Collection
from time import monotonic
from typing import Any, NoReturn

from amqp.exceptions import RecoverableConnectionError

from ...blocking import BlockingConnection
from ...errors import AMQPError, ConnectionForked
from ...parameters import ConnectionParameters
from .channel import Channel as Opened
from .errors import (
    CHANNEL_ERRORS,
    CONNECTION_ERRORS,
    RECOVERABLE_CHANNEL_ERRORS,
    RECOVERABLE_CONNECTION_ERRORS,
    raise_translated,
)

BURST = 0.01  # seconds of callbacks that an event loop gets in one go; then its timers and signals have their turn
TURN = 0.01  # seconds of publishes after which the reactor has a turn, also if nothing has arrived


class Connection:
    """An open connection. `client`: the kombu.Connection that it is of. `link`: cpspika's connection. `channels`: the
    open channels by number. `confirm_publish`: each publish waits for its confirm."""

    Channel = Opened

    connection_errors = CONNECTION_ERRORS
    channel_errors = CHANNEL_ERRORS
    recoverable_connection_errors = RECOVERABLE_CONNECTION_ERRORS
    recoverable_channel_errors = RECOVERABLE_CHANNEL_ERRORS

    def __init__(self, parameters: ConnectionParameters, client: Any = None, **options: Any):
        """options: the transport_options of kombu. on_open(connection), on_blocked(reason), on_unblocked(),
        confirm_publish, read_timeout and write_timeout are used here."""
        self.client = client
        self.confirm_publish = bool(options.get("confirm_publish"))
        self.channels: dict[int | None, Opened] = {}
        self._told = False  # the program has got an error of the connection's end
        self._collected = False
        self.loop_told = False  # an event loop has got the error of the connection's end
        self.on_end: Callable[[], object] | None = None  # called when the connection has ended
        self._on_blocked = options.get("on_blocked")
        self._on_unblocked = options.get("on_unblocked")
        try:
            self.link = BlockingConnection(parameters, timeout=_longest(options))
        except AMQPError as error:
            raise_translated(error)
        self._poll = self._watch()
        self._turn_due = 0.0  # the time at which `look` makes a turn, also if nothing has arrived
        # On the core: a handler of the facade would wait for drain_events.
        ended = weakref.WeakMethod(self._ended)
        self.link.core.add_state_change_handler(lambda _, is_open: None if (call := ended()) is None else call())
        if self._on_blocked or self._on_unblocked:
            self.link.add_blocked_handler(self._blocked)
        if options.get("on_open") is not None:
            options["on_open"](self)

    def __repr__(self) -> str:
        return f"<Connection of {self.link!r}>"

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ended(self) -> None:
        if self.on_end is not None:
            self.on_end()

    def _blocked(self, link: Any, blocked: bool, reason: str) -> None:
        if blocked and self._on_blocked:
            self._on_blocked(reason)
        elif not blocked and self._on_unblocked:
            self._on_unblocked()

    @property
    def connected(self) -> bool:
        """Whether the connection is open, as far as the program knows. A lost connection counts as open until the
        program has got an error. Otherwise kombu would replace it silently, and the program would wait for messages on
        a connection that has none of its consumers."""
        link = self.link
        return link.is_open or not (self._told or self._collected or isinstance(link.close_reason, ConnectionForked))

    @property
    def is_closed(self) -> bool:
        """Whether the program has closed or dropped the connection."""
        return self._collected

    def fail(self, error: AMQPError) -> NoReturn:
        """Raises the error for the program."""
        self.note_end()
        raise_translated(error)

    def note_end(self) -> None:
        """The program is about to get an error. If the connection has ended, the program knows it then."""
        if not self.link.is_open:
            self._told = True

    @property
    def heartbeat(self) -> int:
        """The negotiated interval in seconds; 0: off."""
        return self.link.heartbeat

    @property
    def frame_max(self) -> int:
        """Bytes of the largest frame; 0: no limit."""
        return self.link.frame_max

    @property
    def channel_max(self) -> int:
        """The highest number of a channel."""
        return self.link.channel_max

    @property
    def server_properties(self) -> dict[str, Any]:
        """The broker's description of itself."""
        return self.link.server_properties

    @property
    def server_capabilities(self) -> dict[str, Any]:
        """The capabilities that the broker announces."""
        return self.server_properties.get("capabilities") or {}

    def channel(self, channel_id: int | None = None, callback: Callable[[Any], object] | None = None) -> Opened:
        """Opens a channel, or returns the one that has this number. callback(channel): called when it is open."""
        known = self.channels.get(channel_id)
        if known is not None:
            return known
        self._check_connected()
        channel = self.Channel(self)
        if callback is not None:
            callback(channel)
        return channel

    def _check_connected(self) -> None:
        if not self.connected:
            raise RecoverableConnectionError("connection already closed")

    # --- events -------------------------------------------------------------------------------------------------------

    def drain_events(self, timeout: float | None = None) -> None:
        """Waits for one event, such as a message, and has its callback called.

        timeout: seconds; None: without limit. TimeoutError: there was none. Other errors: as of the connection's end.
        """
        self._check_connected()
        try:
            if self.link.drain_events(timeout, 1):
                return
        except AMQPError as error:
            self.fail(error)
        raise TimeoutError("timed out")

    def drain_burst(self, waiting: Collection[object] = ()) -> bool:
        """Has the callbacks called of events that are there, for BURST seconds. Returns whether there may be more.

        waiting: calls that wait in the event loop; once there are any, the burst ends. Celery's acks wait there:
        without this, all messages of a prefetch would be worked off before the first ack goes out, and the broker
        would send none meanwhile.
        """
        self._check_connected()
        drain, end = self.link.drain_events, monotonic() + BURST
        try:
            while drain(0, 1):
                if waiting or monotonic() > end:
                    return True
        except AMQPError as error:
            self.fail(error)
        return False

    def hand_out(self) -> None:
        """Has the callbacks called of events that have arrived."""
        self._check_connected()
        try:
            while self.link.has_callbacks:
                self.link.drain_events(0)
        except AMQPError as error:
            self.fail(error)

    def look(self) -> None:
        """Takes in what has arrived, and keeps events for drain_events. Errors: as of the connection's end."""
        self._check_connected()
        if self._is_quiet():
            return
        self._turn()

    def _is_quiet(self) -> bool:
        """Whether a turn would find nothing urgent. To ask costs less than a turn. Timers, and the call by which each
        publish has the transport look after its bytes, can wait for TURN."""
        if self._poll is None or not self.link.is_open or monotonic() >= self._turn_due:
            return False
        try:
            return not self._poll.poll(0)
        except RuntimeError:  # another thread asks in this moment
            return False

    def _watch(self) -> Any:
        """A poll object on the socket; None: there is none to poll."""
        transport: Any = self.link.core._backlog.transport
        sock = getattr(transport, "socket", None)
        if sock is None or not hasattr(select, "poll"):
            return None
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return poll

    def _turn(self) -> None:
        self._turn_due = monotonic() + TURN
        try:
            self.link.turn()
        except AMQPError as error:
            self.fail(error)

    def heartbeat_tick(self, rate: int = 2) -> None:
        """Sends a heartbeat if one is due. ConnectionForced: the broker sent nothing for two intervals."""
        self._check_connected()
        self._turn()

    def fileno(self) -> int:
        """The file descriptor for an event loop: readable when there may be an event."""
        return self.link.fileno()

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self, reply_code: int = 0, reply_text: str = "", *_: Any) -> None:
        """Closes the connection. Closing a closed connection is no error."""
        if self._collected:
            return
        self.on_end = None  # the program need not be told
        try:
            self.link.close(reply_code or 200, reply_text)
        except AMQPError as error:
            self.fail(error)
        finally:
            self.collect()

    def collect(self) -> None:
        """Drops the connection, and tells the broker nothing. In the child of a fork the parent keeps it."""
        self.on_end = None
        self._collected = True
        for channel in list(self.channels.values()):
            channel.collect()
        link: Any = self.link
        link.abort()
        # Nobody turns the reactor any more, unless a thread is inside: that hears of the end.
        if link.lock.acquire(blocking=False):
            try:
                link.reactor.close()
            finally:
                link.lock.release()

    # --- the socket ---------------------------------------------------------------------------------------------------

    @property
    def transport(self) -> Connection:
        """The object that has `sock` and `connected`: in py-amqp a transport, here the connection itself."""
        return self

    _transport = transport  # Celery asks for it by this name

    @property
    def sock(self) -> _Socket:
        """Stands for the socket."""
        return _Socket(self)


def _longest(options: dict[str, Any]) -> float | None:
    given = [options[name] for name in ("read_timeout", "write_timeout") if options.get(name)]
    return max(given, default=None)


class _Socket:
    """Stands for the socket of a connection. Celery bounds the calls of a teardown by `settimeout`: it becomes the time
    that each call may take. The socket itself stays non-blocking."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def fileno(self) -> int:
        """As of the connection, for an event loop."""
        return self._connection.fileno()

    def settimeout(self, seconds: float | None) -> None:
        """Each call of the connection may take so long."""
        self._connection.link.timeout = seconds

    def gettimeout(self) -> float | None:
        """The seconds that each call may take."""
        return self._connection.link.timeout

    def shutdown(self, how: int) -> None:
        """Drops the link."""
        self.close()

    def close(self) -> None:
        """Drops the link."""
        self._connection.link.abort()
