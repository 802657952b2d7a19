"""A client that recovers and the embedded broker, in memory and in virtual time: links are cut when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import cpspika
from cpspika.adapters import MemoryReactor
from cpspika.broker import Broker
from tests.support.scripted import Done

LATE = 60.0  # seconds of virtual time in which what a test waits for must happen


class RecoveryWorld:
    """`connection`: open, with recovery. `events`: of its recovery handler. `closed`: what on_close was told."""

    def __init__(
        self,
        hosts: tuple[str, ...] = ("broker",),
        connect: bool = True,
        listening: bool = True,
        heartbeat: int = 0,
        channel_max: int | None = None,
        broker: dict[str, Any] | None = None,
        **options: Any,
    ):
        self.reactor = MemoryReactor()
        self.broker = Broker(self.reactor, **(broker or {}))
        self.hosts = hosts
        self.listeners: dict[str, Any] = {}
        self.events: list[cpspika.RecoveryEvent] = []
        self.closed: list[Any] = []
        self.states: list[bool] = []
        self.errors: list[BaseException] = []
        self.connected = Done("connect")
        if listening:
            self.up()
        options.setdefault("dice", Random(1))
        credentials = options.pop("credentials", None)
        more = {} if credentials is None else {"credentials": credentials}
        if channel_max is not None:
            more["channel_max"] = channel_max
        self.connection: Any = cpspika.connect(
            [f"amqp://{host}" for host in hosts],
            reactor=self.reactor,
            on_done=self.connected,
            on_close=lambda connection, err: self.closed.append(err),
            recovery=cpspika.Recovery(**options),
            heartbeat=heartbeat,
            **more,
        )
        self.connection.add_recovery_handler(lambda connection, event: self.events.append(event))
        self.connection.add_state_change_handler(lambda connection, is_open: self.states.append(is_open))
        if connect:
            self.settle()
            assert self.connected.result is self.connection

    # --- the broker's side --------------------------------------------------------------------------------------------

    def up(self, *hosts: str) -> None:
        """The broker listens."""
        for host in hosts or self.hosts:
            self.listeners[host] = self.reactor.listen(host, 5672, self.broker.accept)

    def down(self, *hosts: str) -> None:
        """The broker listens no more; open links stay."""
        for host in hosts or self.hosts:
            self.listeners.pop(host).close()

    def cut(self) -> None:
        """Cuts the link now, at both ends; what is on its way is lost."""
        transport = self.connection._unwritten.transport
        peer = transport.peer
        if peer is not None:
            peer.lost(ConnectionResetError("cut by the test"))
        transport.lost(ConnectionResetError("cut by the test"))

    def deaf(self) -> None:
        """The link is half-open: nothing arrives at either end any more, and nobody is told."""
        transport = self.connection._unwritten.transport
        transport.peer.pause_reading(True)
        transport.pause_reading(True)

    def session(self) -> Any:
        return self.broker.connections[-1]

    def bodies(self, queue: str) -> list[bytes]:
        return [message.body for message in self.broker.queues[queue].messages]

    def taker(self) -> Any:
        """The channel of another client, without recovery."""
        done = Done("other")
        cpspika.connect("amqp://" + self.hosts[0], reactor=self.reactor, on_done=done, heartbeat=0)
        self.until(lambda: not done.pending, "another client")
        return done.result.channel()

    # --- time ---------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Makes turns until nothing is left to do now; the clock stands still."""
        self._turn(self.reactor.settle)

    def advance(self, seconds: float) -> None:
        self._turn(lambda: self.reactor.advance(seconds))

    def _turn(self, turn: Callable[[], object]) -> None:
        while True:
            try:
                turn()
            except cpspika.AMQPError as error:
                self.errors.append(error)
                continue
            return

    def until(self, ready: Callable[[], Any], missing: str, seconds: float = LATE) -> None:
        """Lets time pass until `ready`, at most so many seconds of virtual time."""
        end = self.reactor.time() + seconds
        while True:
            self.settle()
            if ready():
                return
            assert self.reactor.time() < end, f"{missing} did not come within {seconds:g} s"
            self.advance(0.01)

    def step_until(self, ready: Callable[[], Any], missing: str) -> None:
        """The same, in the smallest steps: not a call is made after `ready`."""
        for _ in range(100_000):
            if ready():
                return
            self.reactor.run_once(0 if self.reactor._ready else 0.01)
        raise AssertionError(f"{missing} did not come")

    def restored(self, times: int = 1) -> None:
        self.until(lambda: self.kinds().count("restored") >= times, f"restored ({times}); events: {self.kinds()}")

    # --- the client's side --------------------------------------------------------------------------------------------

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def channel(self, on_ready: Any = None) -> Any:
        done = Done("channel")
        channel = self.connection.channel(on_ready=on_ready, on_done=done)
        self.settle()
        assert done.result is channel
        return channel

    def confirming(self) -> Any:
        channel = self.channel()
        channel.confirm_select()
        self.settle()
        return channel

    def ask(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Done:
        done = Done(operation.__name__)
        with done.not_inside():
            operation(*args, **kwargs, on_done=done)
        return done
