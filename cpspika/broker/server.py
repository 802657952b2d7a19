"""The broker: its virtual hosts, users and sessions on one reactor, and what a test may do to it by hand.

Memory is bounded under load. A client that reads slowly is served no more than a buffer's worth. When the messages of
all queues weigh more than `memory_high`, publishing channels are told to stop (channel.flow), as 0-8's time had it and
RabbitMQ no longer does; a client that publishes on all the same isn't read from any more, and TCP holds it back, until
enough was consumed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from ..errors import OperationTimeout
from ..reactor import Acceptor, Listener, Reactor, Transport
from ..wire.handshake import Negotiated
from ..wire.message import Message
from .channel import REPLY_TO, ServerChannel
from .queues import MemoryGauge, Queue
from .session import Session
from .virtual_host import Binding, Exchange, VirtualHost

R = TypeVar("R")
T = TypeVar("T")

LIMITS = Negotiated(frame_max=131072, channel_max=2047, heartbeat=60, virtual_host="", peer_properties={})
MEMORY_HIGH = 512 * 1024 * 1024
PATIENCE = 10.0  # seconds that a call from another thread waits for the broker's


class Host(Reactor, Protocol):
    """A reactor that a broker can live on."""

    def listen(self, host: str, port: int, acceptor: Acceptor) -> Listener: ...


class Broker:
    """An AMQP broker in this process, kept in memory alone.

    Give its `accept` to whatever listens on `reactor`. users: passwords by name; vhosts: names. `queues`, `exchanges`
    and `bindings` are those of the virtual host "/", `vhosts` has all. memory_high: bytes of messages past which
    publishers are stopped.

    Its methods may be called from any thread: one that isn't the reactor's waits until the reactor has carried it out.
    """

    def __init__(
        self,
        reactor: Host,
        users: Mapping[str, str] | None = None,
        vhosts: Iterable[str] = ("/",),
        memory_high: int = MEMORY_HIGH,
        limits: Negotiated = LIMITS,
    ):
        self.reactor: Reactor = reactor
        self._host = reactor
        self.users = dict(users or {"guest": "guest"})
        self.load = MemoryGauge()
        self.vhosts = {name: VirtualHost(name, reactor, self.load) for name in vhosts}
        for vhost in self.vhosts.values():
            vhost.on_deleted = self._forget
        self.memory_high = memory_high
        self.limits = limits
        self.sessions: dict[Session, None] = {}
        self.replies: dict[str, ServerChannel] = {}
        self.blocked: str | None = None
        self.refuses_logins = False
        self._nacks = 0
        self._listeners: list[Listener] = []
        self.stopped = False  # publishers are told to wait
        self._thread: int | None = None

    def __repr__(self) -> str:
        queues = sum(len(vhost.queues) for vhost in self.vhosts.values())
        return f"<Broker: {len(self.sessions)} connections, {queues} queues, {self.load.bytes} bytes of messages>"

    def accept(self, transport: Transport) -> Session:
        """A client has connected: returns who owns the transport from here on."""
        return Session(self, transport)

    def listen(self, host: str, port: int) -> Listener:
        """Accepts clients at host and port (0: a free one), until `end`."""
        listener = self._host.listen(host, port, self.accept)
        self._listeners.append(listener)
        return listener

    def end(self) -> None:
        """Listens no longer, and cuts every link."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for session in list(self.sessions):
            session.drop_now()

    # --- looking in ---------------------------------------------------------------------------------------------------

    @property
    def queues(self) -> dict[str, Queue]:
        return self.vhosts["/"].queues

    @property
    def exchanges(self) -> dict[str, Exchange]:
        return self.vhosts["/"].exchanges

    @property
    def bindings(self) -> list[Binding]:
        return self.call(lambda: self.vhosts["/"].bindings)

    @property
    def connections(self) -> list[Session]:
        """The open ones, oldest first."""
        return self.call(lambda: [session for session in self.sessions if session.is_open])

    # --- by hand ------------------------------------------------------------------------------------------------------

    def call(self, function: Callable[[], R]) -> R:
        """Runs a function in the reactor's thread, and returns what it returns."""
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
            raise OperationTimeout(f"the broker's reactor did not come round within {PATIENCE:g} s")
        error, result = outcome[0]
        if error is not None:
            raise error
        returned: R = result
        return returned

    def live_in(self, thread: int) -> None:
        """From here on the reactor runs in this thread; calls from others are handed to it."""
        self._thread = thread

    def flow(self, active: bool) -> None:
        """Sends channel.flow to every open channel: False has clients stop publishing, True lets them go on."""
        self.call(lambda: self._flow(active, False))

    def block(self, reason: str = "blocked by hand") -> None:
        """Sends connection.blocked to every client that wants to hear it, and to those that connect from here on."""
        self.call(lambda: self._tell_blocked(reason))

    def unblock(self) -> None:
        """Sends connection.unblocked."""
        self.call(lambda: self._tell_blocked(None))

    def nack_next(self, count: int = 1) -> None:
        """The next publishes on confirming channels are refused with basic.nack, though they are routed."""
        self.call(lambda: setattr(self, "_nacks", count))

    def refuse_logins(self, refuse: bool = True) -> None:
        """Every login fails from here on, or none on this account."""
        self.refuses_logins = refuse

    def close_connections(self, code: int = 320, text: str = "CONNECTION_FORCED - closed by hand") -> None:
        """Closes every connection with a reply code."""
        self._each(lambda: self.sessions, lambda session: session.close(code, text))

    def close_channels(self, code: int, text: str) -> None:
        """Closes every channel with a reply code."""
        self._each(self._channels, lambda channel: channel.close(code, text))

    def drop_links(self) -> None:
        """Cuts every link without a word."""
        self._each(lambda: self.sessions, Session.drop_now)

    def stall(self, stalled: bool = True) -> None:
        """Reads nothing more from any client, and so answers nothing, until stall(False)."""
        self._each(lambda: self.sessions, lambda session: session.stall(stalled))

    def _each(self, those: Callable[[], Iterable[T]], do: Callable[[T], object]) -> None:
        """Does it to each of those that there are when the reactor's thread comes to it."""

        def carry_out() -> None:
            for one in list(those()):
                do(one)

        self.call(carry_out)

    def _channels(self) -> list[ServerChannel]:
        return [channel for session in list(self.sessions) for channel in list(session.channels.values())]

    def _flow(self, active: bool, publishers_only: bool) -> None:
        for channel in self._channels():
            if channel.published or not publishers_only:
                channel.set_flow(active)

    def _tell_blocked(self, reason: str | None) -> None:
        if (reason is None) != (self.blocked is None):
            self.blocked = reason
            for session in list(self.sessions):
                session.tell_blocked(reason)

    # --- for sessions -------------------------------------------------------------------------------------------------

    def nacks_now(self) -> bool:
        if self._nacks:
            self._nacks -= 1
            return True
        return False

    def reply(self, message: Message) -> bool:
        """Routes a message to a client's direct reply-to; False where nobody waits for it."""
        channel = self.replies.get(message.routing_key[len(REPLY_TO) + 1 :])
        if channel is None:
            return False
        channel.reply(message)
        return True

    def weigh(self) -> None:
        """Stops publishers when the messages weigh too much; `_lightened` lets them go on when half of that is gone."""
        load = self.load.bytes
        if load > self.memory_high and not self.stopped:
            self.stopped = True
            self.load.mark, self.load.on_light = self.memory_high // 2, lambda: self.reactor.call_soon(self._lightened)
            self._flow(False, publishers_only=True)
        if load > 2 * self.memory_high:
            for session in list(self.sessions):
                session.hold_back(session.published)

    def _lightened(self) -> None:
        self.stopped = False
        self._flow(True, publishers_only=True)
        for session in list(self.sessions):
            session.hold_back(False)

    @staticmethod
    def _forget(queue: Queue) -> None:
        if queue.owner is not None:
            queue.owner.exclusive.pop(queue, None)
