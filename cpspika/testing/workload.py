"""The programs of a simulated run: publishers with confirms, consumers, gets, transactions, topology.

A program has one connection, with a loop that connects again as a user would write it; or, with `recovery`, one
connection that lasts. Its channels have roles. Every operation goes through the oracle.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from typing import Any, Protocol

from ..client.channel import Channel
from ..client.connection import Connection
from ..connecting import connect
from ..errors import AMQPError, ContentTransmissionForbidden, LocalError, OperationTimeout
from ..recovery import Recovery, RecoveryEvent
from ..wire.message import Message
from .oracle import MISTAKEN, Oracle, Sent, Stream
from .simulation import Simulation

QUEUES = {  # name: (durable, arguments)
    "work": (True, {}),
    "short": (True, {"x-max-length": 6, "x-overflow": "reject-publish"}),
    "brief": (False, {}),
}
EXCHANGE = "fan"
HEARTBEAT = 4
MARK = "x-copies"  # a header


class World(Protocol):
    """The common state of the programs of one run."""

    simulation: Simulation
    oracle: Oracle
    recovery: Any  # what `connect` is given, or None
    calm: bool  # faults and actions are over: consumers acknowledge all


class Role:
    """One channel of a program, made again when it ends. on_ready: its set-up at each opening, beside `setup`. serial:
    counts its channels."""

    def __init__(self, program: Program, name: str, setup: Callable[[Role], object], on_ready: Any = None):
        self.program = program
        self.name = name
        self.setup = setup
        self.on_ready = None if on_ready is None else partial(on_ready, self)
        self.openings = self.refusals = 0  # of those that on_ready has seen: all; in a row, those that it refused
        self.was_opened = False
        self.prepared = ""  # the tag of its consumer
        self.closing = False  # the program has closed it
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
        self.stream = Stream(f"{program.name}.{program.serial} {self.name}.{self.serial}", program.patience)
        self.tags, self.unsettled = [], []
        self.ready = self.closing = False
        self.busy = self.openings = self.refusals = 0
        self.was_opened = False
        made: list[Any] = []

        def ask(on_done: Any) -> None:
            made.append(connection.channel(self.on_ready, on_done=on_done))

        opened: Any = None
        if self.on_ready is not None:
            self.busy += 1
            opened = partial(self._opened, self.serial)
        # channel() is done after the first on_ready, and of a recovering connection after operations of the channel.
        fifo = program.world.recovery is None and self.on_ready is None
        self.program.oracle.call("channel.open", self.stream, True, ask, then=opened, fifo=fifo)
        channel = made[0] if made else None
        if channel is None:
            return
        self.channel = channel
        channel.add_state_change_handler(partial(self._changed, self.stream))
        channel.add_return_handler(self._returned)
        self.setup(self)
        self.ready = self.busy == 0

    def _opened(self, serial: int, error: AMQPError | None, channel: Any) -> None:
        if serial == self.serial:
            self.was_opened = error is None
            self._stepped(self.channel, error, channel)

    def _returned(self, message: Message) -> None:
        pass

    def _changed(self, stream: Stream, channel: Any, is_open: bool) -> None:
        if is_open:
            return
        program = self.program
        program.oracle.ended(stream)
        stream.is_open = False
        if program.world.recovery is not None and not (self.closing or program.stopping or program.is_short):
            program.oracle.fail(f"{stream.name} has ended, and the program did not close it: {channel.close_reason!r}")
        if channel is self.channel:
            self.channel, self.ready = None, False
            self.declares = True  # a queue may have been deleted
            self.failures += 1
            program.later(0.1 * 2 ** min(self.failures, 5), self.reopen)

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

    def close(self) -> None:
        self.closing = True
        self.ask("channel.close", "close", fifo=False)

    def need(self, operation: str, *arguments: Any, **options: Any) -> None:
        """Asks for a step of the set-up."""
        self.busy += 1
        self.ask(operation, operation, *arguments, then=partial(self._stepped, self.channel), **options)

    def _stepped(self, channel: Any, error: AMQPError | None, result: Any) -> None:
        if channel is self.channel and isinstance(error, OperationTimeout):
            self.close()  # and another one begins anew
        elif channel is self.channel and error is None:
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
        self.patience = 0.0  # operation_timeout, without recovery 0
        self.is_short = False  # so short that operations may fail for it
        self.losses = 0  # of links, as recovery tells them
        self.is_restored = True
        self.known: dict[tuple[str, str], bool | None] = {}  # of its own topology; None: it may exist or not
        self.prefetch = dice.choice([0, 1, 3, 20])
        self.transient = dice.random() < 0.3
        self.kept = 0  # bytes in bodies of publishes that are not settled
        self.kept_when_up = 0  # the same, when it last published with the link up
        self.mark = ""  # mark_resent
        self.again = True  # publishes="resend"
        self.most_kept = 0  # buffer_limit, without recovery 0
        # With the end, the position in its bytes behind it, and `losses` then.
        self._untold: list[tuple[Sent, Stream, Any, int, int]] = []
        self._consumers = 0
        self.delayed: dict[int, Callable[[], object]] = {}
        self.topology = Role(self, "topology", self._set_up_topology)
        self.publishers = [Role(self, "publisher 0", self._set_up_publisher)]
        if dice.random() < 0.3:
            plain = dice.random() < 0.7
            self.publishers.append(Role(self, "publisher 1", self._set_up_nothing if plain else self._set_up_publisher))
        prepare = self._prepare if dice.random() < 0.2 else None
        self.consumers = [Role(self, "consumer", self._set_up_consumer, prepare)]
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
            if self.world.recovery is True:
                self._vary(recovery)
            self.most_kept = recovery.buffer_limit
            self.patience = recovery.operation_timeout or float("inf")
            options["recovery"] = recovery
        urls = self.simulation.urls
        first = self.serial % len(urls)
        stream = self.stream

        def ask(on_done: Any) -> None:
            connect([*urls[first:], *urls[:first]], on_done=on_done, on_close=partial(self._closed, stream), **options)

        self.oracle.call("connect", stream, True, ask, then=self._opened)

    def _vary(self, recovery: Recovery) -> None:
        """Chooses some of the options."""
        dice = self.dice
        if dice.random() < 0.3:
            recovery.buffer, recovery.buffer_limit = 6_000, 12_000
        if dice.random() < 0.2:
            recovery.operation_timeout, self.is_short = 2.0, True
        if dice.random() < 0.1:
            recovery.publishes, self.again = "unknown", False
        if dice.random() < 0.3:
            recovery.mark_resent = self.mark = MARK

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
        if self.world.recovery is not None:
            connection.add_recovery_handler(self._recovery)
        if self.stopping:
            self._close()
            return
        self.topology.open()

    def _recovery(self, connection: Any, event: RecoveryEvent) -> None:
        if self.trace:
            self.oracle.note(self.stream.name, event.kind, repr(event.error) if event.error is not None else "")
        if event.kind == "lost" and event.channel is None:
            self.losses += 1
            self.is_restored = False
        elif event.kind == "restored":
            if self.is_restored:
                self.oracle.fail(f"{self.stream.name} was told twice that it is restored")
            self.is_restored = True
        elif event.kind == "entity_failed":
            self.oracle.fail(f"{event.entity} was not declared again: {event.error!r}")

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
        return not any(True for _ in self.unrest())

    def unrest(self) -> Iterator[str]:
        """Why the program has not come to rest."""
        connection = self.connection
        if connection is None or not connection.is_open:
            yield f"{self.name} has no connection"
            return
        yield from (f"{role.stream.name} is not ready" for role in self.roles if not (role.ready and role.is_open))
        if not self.is_restored:
            yield f"{self.stream.name} was not told that it is restored"
        if not connection.writable:
            yield f"{self.stream.name} is not writable"

    def expected_consumers(self) -> dict[str, tuple[Role, int | None]]:
        """By tag: the role of a consumer, and its prefetch limit, if that is known."""
        expected: dict[str, tuple[Role, int | None]] = {}
        for role in self.roles:
            if role.prepared:
                expected[role.prepared] = role, None
            limit = self.prefetch if role in self.consumers else 0
            expected |= dict.fromkeys(role.tags, (role, limit))
        return expected

    def differences_of_topology(self, broker: Any) -> Iterator[str]:
        """At rest: how the broker's topology differs from what the replies have said."""
        if self.world.recovery is None:
            return
        vhost = broker.vhosts["/"]
        source = vhost.exchanges["amq.topic"]
        for (kind, name), known in self.known.items():
            if kind.startswith("binding"):
                exists = source.leads_to(kind.split()[1], name)
            else:
                exists = name in (vhost.queues if kind == "queue" else vhost.exchanges)
            if known is not None and exists != known:
                yield f"the {kind} {name!r} {'exists' if exists else 'is gone'}"
        for name in {"work", "brief"} - self.oracle.deletions:
            if not vhost.exchanges[EXCHANGE].leads_to("queue", name):
                yield f"the binding of {name!r} is gone"

    # --- the set-up of the roles --------------------------------------------------------------------------------------

    def _set_up_topology(self, role: Role) -> None:
        for name, (durable, arguments) in QUEUES.items():
            role.need("queue_declare", name, durable=durable, arguments=arguments)
        role.need("exchange_declare", EXCHANGE, "fanout", durable=True)
        for name in ("work", "brief"):
            role.need("queue_bind", name, EXCHANGE)

    @property
    def _prepared(self) -> str:
        return f"prepared {self.name}"

    def _prepare(self, role: Role, view: Any) -> None:
        """An on_ready: a queue of its own and a consumer, made again at each opening."""
        role.openings += 1
        fails = role.was_opened and not self.world.calm and self.dice.random() < 0.2
        role.refusals = role.refusals + 1 if fails else 0
        if fails and role.refusals < 3:  # five closes in a row would end the channel
            raise RuntimeError("by plan")
        stream = Stream(f"{role.stream.name} opening {role.openings}", self.patience)

        def ask(kind: str, operation: str, *arguments: Any, **options: Any) -> None:
            self.oracle.call(kind, stream, view.is_open, getattr(view, operation), *arguments, **options)

        def on_message(message: Any) -> None:
            self._on_message(role, message.channel, False, message)

        ask("queue.declare", "queue_declare", self._prepared)
        tag = role.prepared = f"{self._prepared} {role.serial}.{role.openings}"
        cancelled = partial(self._renew_prepared, role)
        ask("basic.consume", "basic_consume", self._prepared, on_message, consumer_tag=tag, on_cancel=cancelled)

    def _renew_prepared(self, role: Role, tag: str) -> None:
        if tag == role.prepared:
            role.close()

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
            role.close()

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
            if self.world.recovery is not None and self.dice.random() < 0.5:
                tag = 0  # all that were handed out
            settled = [entry for entry in role.unsettled if not tag or entry[0] <= tag]
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
        if dice.random() < 0.2:
            role.ask("drain", "drain", fifo=False)

    def _publish(self, role: Role, dice: random.Random, transaction: list[Sent] | None = None) -> None:
        channel = role.channel
        exchange, key = dice.choice(
            [
                *[("", "work")] * 4,
                *[("", "short")] * 2,
                *[(EXCHANGE, "")] * 2,
                *[("", "brief")] * 2,
                *[("", "nowhere")] * 2,
                ("", f"own {self.name}"),
                ("", self._prepared),
            ]
        )
        persistent = dice.random() < 0.7
        mandatory = dice.random() < 0.6
        held = dice.random() < 0.3
        if channel is None:
            return
        sent = self.oracle.publish(role.stream, exchange, key, mandatory, persistent, channel.is_confirming)
        sent.mark, sent.again = self.mark, self.again
        body = self._body(sent.number, dice)
        properties = {"delivery_mode": 2} if persistent else None
        if transaction is not None:
            transaction.append(sent)
        if not channel.is_confirming and dice.random() < 0.7:
            self._publish_untold(role, sent, exchange, key, body, properties, mandatory)
            return
        told: Any = partial(self._fate, sent, len(body)) if channel.is_confirming else partial(self._unsent, sent)
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
        elif sent.confirming:
            self._keep(len(body))
            if self.is_short and self.connection is not None and not self.connection.is_connected:
                self.later(self.patience + 0.01, partial(self._check_expired, sent, self.losses))

    def _unsent(self, sent: Sent, error: AMQPError | None, result: Any) -> None:
        """Without confirms."""
        if isinstance(error, (LocalError, ContentTransmissionForbidden)):
            sent.outcome = "failed"

    def _check_expired(self, sent: Sent, losses: int) -> None:
        connection = self.connection
        if connection is not None and not connection.is_connected and losses == self.losses and sent.outcome is None:
            self.oracle.fail(f"it has waited without a link for longer than {self.patience:g} s: {sent}")

    def _publish_untold(self, role: Role, sent: Sent, *arguments: Any) -> None:
        """Publishes without an on_done, on a channel that doesn't confirm."""
        channel: Any = role.channel
        connection: Any = self.connection
        try:
            channel.basic_publish(*arguments)
        except AMQPError:
            sent.outcome = "failed"
        else:
            if self.world.recovery is not None and connection.is_connected and role is not self.transactions:
                end = connection._unwritten.transport
                self._untold.append((sent, role.stream, end, end.queued, self.losses))

    def check_untold(self) -> None:
        """A publish that the kernel had not got when its link was lost must have been sent again. After a second loss
        nobody can tell: the kernel of that link may have got the copy."""
        if self.is_short:
            return
        for sent, stream, end, position, losses in self._untold:
            if end.written < position and self.losses == losses + 1 and not sent.arrived and stream.is_open:
                self.oracle.fail(f"the kernel had not got it, and it was not sent again: {sent}")

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
        role, queue, no_ack = self.extra, dice.choice(list(QUEUES)), dice.random() < 0.4
        channel: Any = role.channel
        number = channel.number if channel is not None else 0

        def got(error: AMQPError | None, message: Message | None) -> None:
            if no_ack:
                self.oracle.gone -= message is not None or error is not None
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
        role, name = self.topology, f"temporary {self.name} {dice.randint(0, 3)}"
        queue, bound = ("queue", name), ("binding queue", name)
        exchange, joined = ("exchange", f"{name} x"), ("binding exchange", f"{name} x")

        def now(exists: bool, *entities: tuple[str, str]) -> Any:
            return partial(self._changed, exists, entities)

        role.ask("queue.declare", "queue_declare", name, durable=True, then=now(True, queue))
        role.ask("queue.bind", "queue_bind", name, "amq.topic", "a.*", then=now(True, bound))
        then = now(True, exchange)
        role.ask("exchange.declare", "exchange_declare", f"{name} x", "topic", auto_delete=True, then=then)
        role.ask("exchange.bind", "exchange_bind", f"{name} x", "amq.topic", "#", then=now(True, joined))
        if dice.random() < 0.5:
            role.ask("queue.unbind", "queue_unbind", name, "amq.topic", "a.*", then=now(False, bound))
        if dice.random() < 0.5:
            role.ask("queue.delete", "queue_delete", name, then=now(False, queue, bound))
            role.ask("exchange.delete", "exchange_delete", f"{name} x", then=now(False, exchange, joined))

    def _changed(self, exists: bool, entities: Any, error: AMQPError | None, result: Any) -> None:
        for entity in entities:
            self.known[entity] = exists if error is None else None

    def do_purge(self, dice: random.Random) -> None:
        queue = dice.choice(list(QUEUES))
        if self.topology.channel is not None:
            self.oracle.purges[queue] += 1
            self.topology.ask("queue.purge", "queue_purge", queue)

    def do_mistake(self, dice: random.Random) -> None:
        role = dice.choice([self.topology, self.publishers[0], self.extra])
        kind = dice.choice(["passive", "conflict", "publish", "ack"])
        if kind == "passive":
            role.ask("queue.declare", "queue_declare", f"{MISTAKEN}queue", passive=True, mistaken=True)
            role.ask("queue.declare", "queue_declare", "work", passive=True)  # behind it, and without its fault
        elif kind == "conflict":
            role.ask("exchange.declare", "exchange_declare", EXCHANGE, "direct", durable=True, mistaken=True)
        elif kind == "publish" and role.channel is not None:
            name = f"{MISTAKEN}exchange"
            if role in self.publishers:  # the broker's close does not tell which of these it is for
                for _ in range(dice.choice([0, 2, 4])):
                    self._publish(role, dice)
            sent = self.oracle.publish(role.stream, name, "", False, False, role.channel.is_confirming)
            sent.mistaken, sent.mark, sent.again = True, self.mark, self.again
            told = partial(self.oracle.fate, sent) if role.channel.is_confirming else None
            body = self._body(sent.number, dice)
            role.ask("basic.publish", "basic_publish", name, "", body, then=told, fifo=False, mistaken=True)
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
        dice.choice(self.roles).close()

    def do_reconnect(self, dice: random.Random) -> None:
        connection = self.connection
        if connection is not None and self.world.recovery is None:
            self.oracle.call("connection.close", self.stream, True, connection.close, fifo=False)
