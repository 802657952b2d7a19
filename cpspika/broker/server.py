"""The broker: its virtual hosts, users and sessions, and the methods that a test may call.

The broker's memory is bounded under load:
- A client that reads slowly gets no more than a buffer of messages ahead.
- When the messages of all queues take more than `memory_high` bytes, the channels that publish get channel.flow(False).
  The specifications provide this method for that purpose; RabbitMQ no longer sends it.
- When they take more than twice as much, the broker stops reading from a client that publishes in spite of
  channel.flow; TCP then holds it up. A client whose next bytes may free memory is read from all the same: one with
  unsettled deliveries, with an open transaction or with a body under way.
- When such a client publishes on, past `memory_limit`, its connection is closed with 506.
- When they take half of `memory_high` or less, publishers may go on.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from ..errors import InvalidArgument, OperationTimeout
from ..reactor import Acceptor, Listener, Reactor, Transport
from ..wire.handshake import Negotiated
from ..wire.message import Message
from .ack_timeouts import CONSUMER_TIMEOUT
from .channel import REPLY_TO, ServerChannel
from .queues import MemoryGauge, Queue
from .rules import rules
from .session import Session
from .store import NULL_STORE, Store
from .virtual_host import Binding, Exchange, VirtualHost

R = TypeVar("R")
T = TypeVar("T")

# What the broker offers in connection.tune.
LIMITS = Negotiated(frame_max=131072, channel_max=2047, heartbeat=60, virtual_host="", peer_properties={})
MEMORY_HIGH = 512 * 1024 * 1024  # bytes
SLACK = 16 * 1024 * 1024  # bytes at least between twice `memory_high` and `memory_limit`
REVIEW = 1.0  # seconds between two looks at clients that aren't read from
FREE_FAILURES = 20  # failed logins in short order that aren't slowed; one is forgotten each second
LONGEST_DELAY = 5.0  # seconds by which a failed login is slowed at most
PATIENCE = 10.0  # seconds that a call from another thread waits for the broker's thread


class ListeningReactor(Reactor, Protocol):
    """A reactor that can listen, as a broker needs it."""

    def listen(self, host: str, port: int, acceptor: Acceptor) -> Listener: ...


class Broker:
    """An AMQP broker in this process and in memory.

    Its methods may be called from any thread, once the broker knows the reactor's thread (`set_thread`; `serve` and
    `embedded` have called it). A call from another thread waits until the reactor has carried it out, for 10 seconds at
    most; then it raises OperationTimeout.

    Arguments:
        reactor: the reactor that the broker runs on; `listen` uses its `listen`.
        users: passwords by user name. Default: {"guest": "guest"}. Every user may use every virtual host.
        vhosts: names of the virtual hosts. Default: "/" alone.
        memory_high: bytes of messages above which publishers are told to stop. Default: 512 MiB.
        limits: frame_max, channel_max and heartbeat that are offered to clients. Default: 131072 bytes, 2047, 60 s.
        pretend: types of queues to accept without their promises: "quorum". Default: none.
        like: version of RabbitMQ to answer as, "3.10" or "4.3". Default: "3.10".
        allow_remote_guest: True lets the user "guest" log in from any address. Default: False, from loopback alone.
        consumer_timeout: seconds for which a client may hold a delivery without acknowledging it; None for no limit.
            Default: 1800. The channel of a late client is closed with 406. Like 4.3, a late consumer of a quorum queue
            gets basic.cancel, and other queues have no limit.
        store: keeps durable definitions and persistent messages for `restart`. Default: keeps nothing.
        token_bytes: source of randomness for the names that the broker makes up, called with a number of bytes; a test
            may give `random.Random(seed).randbytes`. Default: `secrets.token_bytes`.

    Attributes:
        queues, exchanges, bindings: those of the virtual host "/".
        vhosts: all virtual hosts by name, each with its own `queues`, `exchanges` and `bindings`.
        connections: the open sessions.
        memory: `memory.bytes` is the memory that all messages take, estimated.
    """

    def __init__(
        self,
        reactor: ListeningReactor,
        users: Mapping[str, str] | None = None,
        vhosts: Iterable[str] = ("/",),
        memory_high: int = MEMORY_HIGH,
        limits: Negotiated = LIMITS,
        pretend: Iterable[str] = (),
        like: str = "3.10",
        allow_remote_guest: bool = False,
        consumer_timeout: float | None = CONSUMER_TIMEOUT,
        store: Store = NULL_STORE,
        token_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ):
        self.reactor: Reactor = reactor
        self._listening_reactor = reactor
        self.users = dict(users or {"guest": "guest"})
        self.memory = MemoryGauge()
        self.rules = rules(pretend, like)
        self.store = store
        self.token_bytes = token_bytes
        self.is_running = True
        self.vhosts: dict[str, VirtualHost] = {}
        self._make_vhosts(vhosts)
        self.memory_high = memory_high
        self.memory_limit = 2 * memory_high + max(memory_high, SLACK)
        self.allow_remote_guest = allow_remote_guest
        if consumer_timeout is not None and not consumer_timeout > 0:
            raise InvalidArgument(f"consumer_timeout={consumer_timeout}: more than 0 seconds, or None")
        self.consumer_timeout = consumer_timeout
        self._failures = (0.0, 0.0)  # failed logins, less one for each second since; the time of the last one
        self._throttled: dict[Session, None] = {}
        self.limits = limits
        self.sessions: dict[Session, None] = {}
        self.reply_channels: dict[str, ServerChannel] = {}
        self.blocked: str | None = None
        self.refuses_logins = False
        self._nacks = 0
        self._listeners: dict[Listener, str] = {}  # and the host as it was given
        self.memory_alarm = False  # publishers have been told to stop
        self._thread: int | None = None

    def __repr__(self) -> str:
        queues = sum(len(vhost.queues) for vhost in self.vhosts.values())
        return f"<Broker: {len(self.sessions)} connections, {queues} queues, {self.memory.bytes} bytes of messages>"

    def accept(self, transport: Transport) -> Session:
        """Starts a session for a client that has connected; an acceptor for any reactor that listens.

        transport: the connection to the client. Returns the session, which is the transport's owner from now on.
        """
        return Session(self, transport)

    def _make_vhosts(self, names: Iterable[str]) -> None:
        for name in names:
            self.vhosts[name] = vhost = VirtualHost(
                name, self.reactor, self.memory, self.rules, self.store, self.token_bytes
            )
            vhost.on_deleted = self._queue_deleted
            vhost.on_reply = self._reply

    def listen(self, host: str, port: int) -> Listener:
        """Accepts clients at an address, until `end`.

        host: name or address. port: number; 0 for a free one. Returns the listener; its `port` is the number in use.
        Raises OSError if the address can't be used.
        """
        listener = self._listening_reactor.listen(host, port, self.accept)
        self._listeners[listener] = host
        return listener

    def end(self) -> None:
        """Stops listening, and cuts every link without connection.close. Call it in the reactor's thread."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for session in list(self.sessions):
            session.drop_now()

    # --- for tests: state ---------------------------------------------------------------------------------------------

    @property
    def queues(self) -> dict[str, Queue]:
        """The queues of the virtual host "/", by name."""
        return self.vhosts["/"].queues

    @property
    def exchanges(self) -> dict[str, Exchange]:
        """The exchanges of the virtual host "/", by name."""
        return self.vhosts["/"].exchanges

    @property
    def bindings(self) -> list[Binding]:
        """The bindings of the virtual host "/", without the implicit ones of the default exchange."""
        return self.call(lambda: self.vhosts["/"].bindings)

    @property
    def connections(self) -> list[Session]:
        """The sessions of open connections, the oldest first."""
        return self.call(lambda: [session for session in self.sessions if session.is_open])

    # --- for tests: actions -------------------------------------------------------------------------------------------

    def call(self, function: Callable[[], R]) -> R:
        """Calls a function in the reactor's thread, and returns its result.

        Raises the function's exception, or OperationTimeout if the reactor doesn't make the call within 10 seconds.
        """
        if self._thread in (None, threading.get_ident()):
            return function()
        done = threading.Event()
        outcome: list[tuple[BaseException | None, Any]] = []

        def carry_out() -> None:
            try:
                outcome.append((None, function()))
            except BaseException as error:
                outcome.append((error, None))
            done.set()

        self.reactor.call_soon_threadsafe(carry_out)
        if not done.wait(PATIENCE):
            raise OperationTimeout(f"the broker's reactor did not make the call within {PATIENCE:g} s")
        error, result = outcome[0]
        if error is not None:
            raise error
        returned: R = result
        return returned

    def set_thread(self, thread: int) -> None:
        """Tells the broker the thread of its reactor. Until then `call` makes every call in the thread of its caller.

        thread: `threading.get_ident()` of the thread.
        """
        self._thread = thread

    def flow(self, active: bool) -> None:
        """Sends channel.flow to every open channel.

        active: False tells clients to stop publishing, True to go on. A channel that is in this state gets nothing.
        """
        self.call(lambda: self._flow(active, publishers_only=False))

    def block(self, reason: str = "blocked by hand") -> None:
        """Sends connection.blocked to every client with this capability, and to those that connect until `unblock`.

        reason: text for the clients. Default: "blocked by hand". The broker goes on to take publishes.
        """
        self.call(lambda: self._set_blocked(reason))

    def unblock(self) -> None:
        """Sends connection.unblocked to every client with the capability, after `block`."""
        self.call(lambda: self._set_blocked(None))

    def nack_next(self, count: int = 1) -> None:
        """Answers the next publishes on confirming channels with basic.nack; their messages are routed all the same.

        count: number of publishes. Default: 1. Replaces the count of an earlier call.
        """
        self.call(lambda: setattr(self, "_nacks", count))

    def refuse_logins(self, refuse: bool = True) -> None:
        """Refuses every login from now on.

        refuse: False ends this: users may log in with their passwords again. Default: True.
        """
        self.refuses_logins = refuse

    def close_connections(self, code: int = 320, text: str = "CONNECTION_FORCED - closed by hand") -> None:
        """Closes every connection with connection.close.

        code: reply code. Default: 320. text: reply text, with or without the name of the code ("NOT_FOUND - ...")
        before it.
        """
        self._each(lambda: self.sessions, lambda session: session.close(code, text))

    def close_channels(self, code: int, text: str) -> None:
        """Closes every channel with channel.close.

        code: reply code. text: reply text, with or without the name of the code ("NOT_FOUND - ...") before it.
        """
        self._each(self._channels, lambda channel: channel.close(code, text))

    def drop_links(self) -> None:
        """Cuts every link without connection.close."""
        self._each(lambda: self.sessions, Session.drop_now)

    def crash(self) -> None:
        """Ends the broker as if its process had died: nothing more is sent, every link is cut, and nobody can connect
        until `restart`. Users and the switches of `refuse_logins` stay."""
        self.call(self._crash)

    def restart(self) -> None:
        """Starts the broker again after `crash`, with what its store gives back; without a store that is nothing. It
        listens where it listened before. Raises OSError if an address can't be used any more."""
        self.call(self._restart)

    def _crash(self) -> None:
        if not self.is_running:
            return
        self.is_running = False
        for listener in self._listeners:
            listener.close()
        transports = [session.die() for session in self.sessions]
        for vhost in self.vhosts.values():
            vhost.end()
        self.store.crash()
        for session in list(self.sessions):
            session.transport_lost(None)
        for transport in transports:
            if transport is not None:
                transport.abort()
        self.reply_channels.clear()
        self.blocked = None
        self.memory_alarm = False
        self.memory = MemoryGauge()
        self._nacks = 0

    def _restart(self) -> None:
        if self.is_running:
            return
        self._make_vhosts(list(self.vhosts))
        definitions, messages = self.store.load()
        for name, vhost in self.vhosts.items():
            of_vhost = [message for message in messages if message.vhost == name]
            vhost.restore(definitions.get(name, []), of_vhost)
        self.is_running = True
        stopped, self._listeners = self._listeners, {}
        for listener, host in stopped.items():
            self.listen(host, listener.port)

    def stall(self, stalled: bool = True) -> None:
        """Stops reading from all present clients, so that the broker answers nothing and sends no heartbeats.

        stalled: False resumes reading. Default: True.
        """
        self._each(lambda: self.sessions, lambda session: session.stall(stalled))

    def _each(self, find: Callable[[], Iterable[T]], action: Callable[[T], object]) -> None:
        """Finds sessions or channels and acts on each, all in the reactor's thread."""

        def carry_out() -> None:
            for item in list(find()):
                action(item)

        self.call(carry_out)

    def _channels(self) -> list[ServerChannel]:
        return [channel for session in list(self.sessions) for channel in list(session.channels.values())]

    def _flow(self, active: bool, publishers_only: bool) -> None:
        for channel in self._channels():
            if channel.published or not publishers_only:
                channel.set_flow(active)

    def _set_blocked(self, reason: str | None) -> None:
        if (reason is None) != (self.blocked is None):
            self.blocked = reason
            for session in list(self.sessions):
                session.send_blocked(reason)

    # --- for sessions -------------------------------------------------------------------------------------------------

    def nacks_now(self) -> bool:
        """Whether the next publish is to be nacked: `nack_next` said so. Counts it."""
        if self._nacks:
            self._nacks -= 1
            return True
        return False

    def _reply(self, address: str, message: Message) -> None:
        """Delivers a message to an address of direct reply-to, if a channel has this address."""
        channel = self.reply_channels.get(address[len(REPLY_TO) + 1 :])
        if channel is not None:
            channel.reply(message)

    def accepts_login(self, name: str, password: str, address: str | None) -> bool:
        """Whether a user may log in. address: the client's; None for one in this process."""
        expected = self.users.get(name)
        if expected is None or not hmac.compare_digest(expected.encode(), password.encode()):
            return False
        return name != "guest" or self.allow_remote_guest or address is None or _is_loopback(address)

    def login_failed(self) -> float:
        """Counts a failed login. Returns the seconds after which its client is told."""
        failures, last = self._failures
        now = self.reactor.time()
        failures = max(0.0, failures - (now - last)) + 1
        self._failures = failures, now
        return min(max(0.0, failures - FREE_FAILURES), LONGEST_DELAY)

    def check_memory(self, session: Session) -> None:
        """Stops publishers when the messages take too much memory; `session` has just handled what it received.

        `_clear_memory_alarm` lets them go on when the messages take half of `memory_high` or less.
        """
        used = self.memory.bytes
        if used > self.memory_high:
            if not self.memory_alarm:
                self.memory_alarm = True
                self.memory.low_mark = self.memory_high // 2
                self.memory.on_low = lambda: self.reactor.call_soon(self._clear_memory_alarm)
                self._flow(False, publishers_only=True)
                session.published_in_alarm = session.published  # it has sent more than fits, in one piece
            if used > 2 * self.memory_high and (session.published_in_alarm or session.held):
                self._brake(session, used)
        if self._throttled:
            self._read_acks()

    def _brake(self, session: Session, used: int) -> None:
        if not session.must_be_read:
            if not self._throttled:
                self.reactor.call_later(REVIEW, self._review)
            self._throttled[session] = None
            session.throttle(True)
        elif used > self.memory_limit:
            session.close_for_memory()

    def _read_acks(self) -> None:
        """Resumes reading from the clients that have got deliveries meanwhile: their acks free memory."""
        for session in [session for session in self._throttled if session.must_be_read]:
            del self._throttled[session]
            session.throttle(False)

    def forget_throttled(self, session: Session) -> None:
        """Forgets a session that was told to publish no more: it has ended."""
        self._throttled.pop(session, None)

    def _review(self) -> None:
        self._read_acks()
        if self._throttled:
            self.reactor.call_later(REVIEW, self._review)

    def _clear_memory_alarm(self) -> None:
        self.memory_alarm = False
        self._flow(True, publishers_only=True)
        self._throttled.clear()
        for session in list(self.sessions):
            session.published_in_alarm = False
            session.throttle(False)

    @staticmethod
    def _queue_deleted(queue: Queue) -> None:
        if queue.owner is not None:
            queue.owner.exclusive.pop(queue, None)


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)
