"""The programs of a simulated run: publishers with confirms, consumers, gets, transactions, topology.

A program has one connection, with a loop that connects again as a user would write it; or, with `recovery`, one
connection that lasts. Its channels have roles. Every operation goes through the oracle.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any, Protocol

from ..client.channel import Channel
from ..client.connection import Connection
from ..connecting import connect
from ..errors import AMQPError
from ..recovery import Recovery
from ..wire.message import Message
from .oracle import Oracle, Sent, Stream
from .simulation import Simulation

QUEUES = {  # name: (durable, arguments)
    "work": (True, {}),
    "short": (True, {"x-max-length": 6, "x-overflow": "reject-publish"}),
    "brief": (False, {}),
}
EXCHANGE = "fan"
HEARTBEAT = 4


class World(Protocol):
    """What the programs of one run share."""

    simulation: Simulation
    oracle: Oracle
    recovery: Any  # what `connect` is given, or None
    calm: bool  # faults and actions are over: consumers acknowledge all


class Role:
    """One channel of a program, made again when it ends. serial: counts its channels."""

    def __init__(self, program: Program, name: str, setup: Callable[[Role], object]):
        self.program = program
        self.name = name
        self.setup = setup
        self.serial = 0
        self.channel: Channel | None = None
        self.stream = Stream(f"{program.name} {name}")
        self.tags: list[str] = []  # of its consumers
        self.unsettled: list[tuple[int, int, int]] = []  # (delivery tag, message, wire), not settled by the handlers
        self.ready = False
        self.declares = False
        self.failures = 0  # to set the channel up, in a row
        self.busy = 0  # steps of the set-up without a reply

    @property
    def is_open(self) -> bool:
        return self.channel is not None and self.channel.is_open

    def open(self) -> None:
        """Opens the channel, and sets it up."""
        program = self.program
        connection = program.connection
        if connection is None or not connection.is_open:
            return
        self.serial += 1
        self.stream = Stream(f"{program.name}.{program.serial} {self.name}.{self.serial}")
        self.tags, self.unsettled = [], []
        self.ready = False
        self.busy = 0
        made: list[Any] = []

        def ask(on_done: Any) -> None:
            made.append(connection.channel(on_done=on_done))

        # A recovering connection's channel() is done after the first set-up, so after operations of the channel.
        self.program.oracle.call("channel.open", self.stream, True, ask, fifo=program.world.recovery is None)
        channel = made[0] if made else None
        if channel is None:
            return
        self.channel = channel
        channel.add_state_change_handler(partial(self._changed, self.stream))
        channel.add_return_handler(self._returned)
        self.setup(self)
        self.ready = self.busy == 0

    def _returned(self, message: Message) -> None:
        pass

    def _changed(self, stream: Stream, channel: Any, is_open: bool) -> None:
        if is_open:
            return
        self.program.oracle.ended(stream)
        if channel is self.channel:
            self.channel, self.ready = None, False
            self.declares = True  # a queue may have been deleted
            self.failures += 1
            self.program.later(0.1 * 2 ** min(self.failures, 5), self.reopen)

    def reopen(self) -> None:
        program = self.program
        if self.channel is None and not program.stopping and (self is program.topology or program.topology.ready):
            self.open()

    def ask(
        self, kind: str, operation: str, *arguments: Any, then: Any = None, fifo: bool = True, **options: Any
    ) -> Any:
        """Asks for an operation on the channel, if there is one."""
        channel = self.channel
        if channel is not None:
            function = getattr(channel, operation)
            return self.program.oracle.call(
                kind, self.stream, channel.is_open, function, *arguments, then=then, fifo=fifo, **options
            )
        return None

    def need(self, operation: str, *arguments: Any, **options: Any) -> None:
        """Asks for a step of the set-up."""
        self.busy += 1
        self.ask(operation, operation, *arguments, then=partial(self._stepped, self.channel), **options)

    def _stepped(self, channel: Any, error: AMQPError | None, result: Any) -> None:
        if channel is self.channel and error is None:
            self.busy -= 1
            self.ready = self.busy == 0
            if self.ready:
                self.failures = 0
            if self.ready and self is self.program.topology:
                self.program.topology_made()


class Program:
    """A client program. name: unique in the run. dice: its own, for its handlers and for how it is built."""

    def __init__(self, world: World, name: str, dice: random.Random):
        self.world = world
        self.name = name
        self.oracle = world.oracle
        self.dice = dice
        self.connection: Connection | None = None
        self.serial = 0
        self.wire = -1  # over which the connection was opened
        self.stopping = False
        self.stream = Stream(name)
        self.failures = 0
        self.prefetch = dice.choice([0, 1, 3, 20])
        self.transient = dice.random() < 0.3
        self.kept = 0  # bytes in bodies of publishes that are not settled
        self.kept_when_up = 0  # the same, when it last published with the link up
        self.most_kept = 0  # buffer_limit, without recovery 0
        self._consumers = 0
        self.delayed: dict[int, Callable[[], object]] = {}
        self.topology = Role(self, "topology", self._set_up_topology)
        self.publishers = [Role(self, f"publisher {i}", self._set_up_publisher) for i in range(dice.choice([1, 1, 2]))]
        self.consumers = [Role(self, "consumer", self._set_up_consumer)]
        self.extra = Role(self, "extra", self._set_up_nothing)
        self.transactions = Role(self, "transactions", self._set_up_transactions)
        self.own = Role(self, "own", self._set_up_own)
        # Not every program has every channel: most of a run's time is their set-up.
        some = [role for role in (self.extra, self.transactions, self.own) if dice.random() < 0.6]
        self.roles = [self.topology, *self.publishers, *self.consumers, *some]

    # --- the connection -----------------------------------------------------------------------------------------------

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        self.world.simulation.reactor.call_later(seconds, call)

    def start(self) -> None:
        """Connects; a loop of its own connects again when the connection has ended."""
        if self.stopping:
            return
        self.serial += 1
        self.stream = Stream(f"{self.name}.{self.serial}")
        options: dict[str, Any] = {"heartbeat": HEARTBEAT, "connection_timeout": 6, "reactor": self.simulation.reactor}
        if self.world.recovery is not None:
            recovery = Recovery() if self.world.recovery is True else copy(self.world.recovery)
            recovery.dice = random.Random(self.dice.random())
            if self.world.recovery is True and self.dice.random() < 0.3:
                recovery.buffer, recovery.buffer_limit = 6_000, 12_000
            self.most_kept = recovery.buffer_limit
            options["recovery"] = recovery
        urls = self.simulation.urls
        first = self.serial % len(urls)
        stream = self.stream

        def ask(on_done: Any) -> None:
            connect([*urls[first:], *urls[:first]], on_done=on_done, on_close=partial(self._closed, stream), **options)

        self.oracle.call("connect", stream, True, ask, then=self._opened)

    @property
    def simulation(self) -> Simulation:
        return self.world.simulation

    def _opened(self, error: AMQPError | None, connection: Any) -> None:
        if error is not None:
            self._connect_again()
            return
        wire = self.simulation.net.arriving
        self.wire = wire.number if wire is not None else -1
        self.connection = connection
        self.failures = 0
        if self.stopping:
            self._close()
            return
        self.topology.open()

    def topology_made(self) -> None:
        """Opens the other channels, which need the queues."""
        for role in self.roles:
            role.reopen()

    def _closed(self, stream: Stream, connection: Any, error: AMQPError | None) -> None:
        self.oracle.ended(stream)
        if self.trace:
            self.oracle.note(stream.name, "has ended:", repr(error))
        if connection is self.connection:
            self.connection = None
            self._connect_again()
            if self.world.recovery is not None and not self.stopping and error is not None:
                self.oracle.fail(f"{stream.name} gave up: {error!r}")

    @property
    def trace(self) -> bool:
        return self.oracle.trace is not None

    def _connect_again(self) -> None:
        self.failures += 1
        if not self.stopping:
            self.later(self.dice.uniform(0.05, min(3.0, 0.2 * 2**self.failures)), self.start)

    def stop(self) -> None:
        """Closes the connection, for good."""
        self.stopping = True
        self._close()

    def _close(self) -> None:
        connection = self.connection
        if connection is not None:
            self.oracle.call("connection.close", self.stream, True, connection.close, fifo=False)

    @property
    def at_rest(self) -> bool:
        return (
            self.connection is not None
            and self.connection.is_open
            and all(role.ready and role.is_open for role in self.roles)
        )

    # --- the set-up of the roles --------------------------------------------------------------------------------------

    def _set_up_topology(self, role: Role) -> None:
        for name, (durable, arguments) in QUEUES.items():
            role.need("queue_declare", name, durable=durable, arguments=arguments)
        role.need("exchange_declare", EXCHANGE, "fanout", durable=True)
        for name in ("work", "brief"):
            role.need("queue_bind", name, EXCHANGE)

    def _set_up_nothing(self, role: Role) -> None:
        pass

    def _set_up_publisher(self, role: Role) -> None:
        role.need("confirm_select")

    def _set_up_transactions(self, role: Role) -> None:
        role.need("tx_select")

    def _set_up_consumer(self, role: Role) -> None:
        if role.declares:
            self._set_up_topology(role)
            role.declares = False
        if self.prefetch:
            role.need("basic_qos", prefetch_count=self.prefetch)
        for queue in QUEUES:
            self.consume(role, queue, False, setting_up=True)

    def _set_up_own(self, role: Role) -> None:
        name = f"own {self.name}"
        role.need("queue_declare", name, exclusive=True)
        self.consume(role, name, False, setting_up=True)

    def consume(self, role: Role, queue: str, no_ack: bool, setting_up: bool = False) -> None:
        self._consumers += 1
        named = self._consumers % 3
        tag = f"{self.name}-{self._consumers}" if named else ""
        stream = role.stream
        channel: Any = role.channel
        if setting_up:
            role.busy += 1

        def started(error: AMQPError | None, tag: Any) -> None:
            if error is None and role.channel is channel:
                role.tags.append(tag)
            if setting_up:
                role._stepped(channel, error, tag)

        def cancelled(tag: str) -> None:
            self.oracle.note(stream.name, "basic.cancel of", tag)
            if role.channel is channel:
                if tag in role.tags:
                    role.tags.remove(tag)
                if setting_up:  # declares the queue again, and consumes again, on a new channel
                    role.ready = False
                    self.later(0.2, partial(self._renew, role, channel))

        handler = partial(self._on_message, role, channel, no_ack)
        options: dict[str, Any] = {"no_ack": no_ack, "consumer_tag": tag, "on_cancel": cancelled, "then": started}
        role.ask("basic.consume", "basic_consume", queue, handler, **options)

    def _renew(self, role: Role, channel: Any) -> None:
        if role.channel is channel and role.is_open:
            role.ask("channel.close", "close", fifo=False)

    # --- messages -----------------------------------------------------------------------------------------------------

    def _wire(self) -> int:
        wire = self.simulation.net.arriving
        return wire.number if wire is not None else self.wire

    def _on_message(self, role: Role, channel: Any, no_ack: bool, message: Message) -> None:
        wire = self._wire()
        sent = self.oracle.handed(wire, message.consumer_tag, message)
        if self.trace:
            self.oracle.note(role.stream.name, "was handed", sent, f"tag {message.delivery_tag}")
        if not no_ack:
            self._decide(role, channel, message, sent, wire)

    def _decide(self, role: Role, channel: Any, message: Message, sent: Sent, wire: int) -> None:
        entry = (message.delivery_tag, sent.number, wire)
        if role.channel is channel:
            role.unsettled.append(entry)
        chance = 0.0 if self.world.calm else self.dice.random()
        if chance < 0.6:
            self._settle(role, channel, message, entry, "ack")
        elif chance < 0.85:
            self.later(self.dice.uniform(0, 1.5), partial(self._settle, role, channel, message, entry, "ack"))
        elif chance < 0.9:
            self._settle(role, channel, message, entry, "multiple")
        elif chance < 0.96:
            self.later(self.dice.uniform(0, 0.5), partial(self._settle, role, channel, message, entry, "requeue"))
        else:
            self._settle(role, channel, message, entry, "reject")

    def _settle(self, role: Role, channel: Any, message: Message, mine: tuple[int, int, int], how: str) -> None:
        """Acks, nacks or rejects a message, if its channel is the present one; else the message comes again."""
        tag = message.delivery_tag
        if mine not in role.unsettled:  # it was settled by `multiple`
            return
        if not channel.is_open or (role.channel is not channel and self.world.recovery is None):
            return
        settled = [mine]
        if how == "multiple":
            settled = [entry for entry in role.unsettled if entry[0] <= tag]
        outcome = "ack" if how == "multiple" else how
        for entry in settled:
            self.oracle.wants(entry[2], entry[1], outcome)
            role.unsettled.remove(entry)
        if self.trace:
            self.oracle.note(role.stream.name, how, [entry[1] for entry in settled])
        if how == "ack" and self.dice.random() < 0.8:
            message.ack()
        elif how in ("ack", "multiple"):
            self.oracle.call(
                "basic.ack", role.stream, True, channel.basic_ack, tag, multiple=how == "multiple", fifo=False
            )
        elif how == "requeue":
            message.nack()
        else:
            message.reject(requeue=False)

    # --- actions ------------------------------------------------------------------------------------------------------

    def act(self, kind: str, dice: random.Random) -> None:
        """Carries out an entry of the plan."""
        getattr(self, f"do_{kind}")(dice)

    def _body(self, number: int, dice: random.Random) -> bytes:
        size = dice.choice([0, 0, 0, 10, 10, 10, 100, 100, 1000, 5000])
        return b"%d|%s" % (number, b"x" * size)

    def do_publish(self, dice: random.Random) -> None:
        role = dice.choice(self.publishers)
        for _ in range(dice.choice([1, 2, 4, 12])):
            self._publish(role, dice)

    def _publish(self, role: Role, dice: random.Random, transaction: list[Sent] | None = None) -> None:
        channel = role.channel
        exchange, key = dice.choice(
            [("", "work"), ("", "work"), ("", "short"), (EXCHANGE, ""), ("", "brief"), ("", "nowhere")]
        )
        persistent = dice.random() < 0.7
        mandatory = dice.random() < 0.4
        held = dice.random() < 0.3
        if channel is None:
            return
        sent = self.oracle.publish(role.stream, persistent)
        body = self._body(sent.number, dice)
        properties = {"delivery_mode": 2} if persistent else None
        told = partial(self._fate, sent, len(body)) if channel.is_confirming else None
        if transaction is not None:
            transaction.append(sent)
        error = role.ask(
            f"basic.publish {sent.number}",
            "basic_publish",
            exchange,
            key,
            body,
            properties,
            mandatory,
            then=told,
            fifo=False,
            block_on_flow_control=held,
        )
        if error is not None:
            sent.outcome = "failed"
        elif told is not None:
            self._keep(len(body))

    def _keep(self, size: int) -> None:
        """Counts a publish that will be settled. While the link is down, `buffer_limit` bounds these."""
        self.kept += size
        connection: Any = self.connection
        if self.world.recovery is None:
            return
        if connection.is_connected:
            self.kept_when_up = self.kept
        else:
            self.later(0.000137, self._check_kept)  # what had no room has been told so by then

    def _check_kept(self) -> None:
        connection: Any = self.connection
        if connection is None or connection.is_connected:
            return
        if self.kept > max(self.most_kept, self.kept_when_up):
            self.oracle.fail(f"{self.name} kept {self.kept} bytes while the link was down, beyond buffer_limit")

    def _fate(self, sent: Sent, size: int, error: AMQPError | None, result: Any) -> None:
        self.kept -= size
        self.oracle.fate(sent, error, result)

    def do_get(self, dice: random.Random) -> None:
        role, queue, no_ack = self.extra, dice.choice(list(QUEUES)), dice.random() < 0.2
        channel: Any = role.channel
        number = channel.number if channel is not None else 0

        def got(error: AMQPError | None, message: Message | None) -> None:
            if message is not None:
                wire = self._wire()
                sent = self.oracle.handed(wire, number, message)
                if not no_ack:
                    self._decide(role, channel, message, sent, wire)

        for _ in range(dice.randint(1, 5)):
            role.ask("basic.get", "basic_get", queue, no_ack=no_ack, then=got)

    def do_consume(self, dice: random.Random) -> None:
        self.consume(self.extra, dice.choice(list(QUEUES)), dice.random() < 0.3)

    def do_cancel(self, dice: random.Random) -> None:
        role = self.extra
        where = dice.random()
        if role.tags:
            tag = role.tags.pop(int(where * len(role.tags)))
            role.ask("basic.cancel", "basic_cancel", tag)

    def do_topology(self, dice: random.Random) -> None:
        role, name = self.topology, f"temporary {dice.randint(0, 3)}"
        role.ask("queue.declare", "queue_declare", name, durable=True)
        role.ask("queue.bind", "queue_bind", name, "amq.topic", "a.*")
        role.ask("exchange.declare", "exchange_declare", f"{name} x", "topic", auto_delete=True)
        role.ask("exchange.bind", "exchange_bind", f"{name} x", "amq.topic", "#")
        if dice.random() < 0.7:
            role.ask("queue.unbind", "queue_unbind", name, "amq.topic", "a.*")
            role.ask("queue.delete", "queue_delete", name)
            role.ask("exchange.delete", "exchange_delete", f"{name} x")

    def do_purge(self, dice: random.Random) -> None:
        self.topology.ask("queue.purge", "queue_purge", dice.choice(list(QUEUES)))

    def do_mistake(self, dice: random.Random) -> None:
        role = dice.choice([self.topology, self.publishers[0], self.extra])
        kind = dice.choice(["passive", "conflict", "publish", "ack"])
        if kind == "passive":
            role.ask("queue.declare", "queue_declare", "no such queue", passive=True)
        elif kind == "conflict":
            role.ask("exchange.declare", "exchange_declare", EXCHANGE, "direct", durable=True)
        elif kind == "publish" and role.channel is not None:
            sent = self.oracle.publish(role.stream, False)
            sent.mistaken = True
            told = partial(self.oracle.fate, sent) if role.channel.is_confirming else None
            body = self._body(sent.number, dice)
            role.ask("basic.publish", "basic_publish", "no such exchange", "", body, then=told, fifo=False)
        elif kind == "ack" and role.channel is not None:
            role.ask("basic.ack", "basic_ack", 10**9, fifo=False)

    def do_transaction(self, dice: random.Random) -> None:
        role = self.transactions
        if not role.is_open:
            return
        transaction: list[Sent] = []
        for _ in range(dice.randint(1, 5)):
            self._publish(role, dice, transaction)
        commit = dice.random() < 0.7

        def ended(error: AMQPError | None, result: Any) -> None:
            for sent in transaction:
                if sent.outcome is None and error is None:
                    sent.outcome = "committed" if commit else "rolled back"

        if commit:
            role.ask("tx.commit", "tx_commit", then=ended)
        else:
            role.ask("tx.rollback", "tx_rollback", then=ended)

    def do_recover(self, dice: random.Random) -> None:
        self.extra.ask("basic.recover", "basic_recover", then=partial(self._recovered, self.extra))

    def _recovered(self, role: Role, error: AMQPError | None, result: Any) -> None:
        pass

    def do_reopen(self, dice: random.Random) -> None:
        role = dice.choice(self.roles)
        role.ask("channel.close", "close", fifo=False)

    def do_reconnect(self, dice: random.Random) -> None:
        connection = self.connection
        if connection is not None and self.world.recovery is None:
            self.oracle.call("connection.close", self.stream, True, connection.close, fifo=False)
