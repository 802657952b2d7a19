"""The faults of a simulated run: of the network and of the broker. Each ends by itself; `Faults.end` ends all."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

from ..broker.channel import Consumer, ServerChannel
from .network import SimulatedWire
from .simulation import Simulation


class _Ghost:
    """The owner of an exclusive queue that nobody has any more."""

    def __init__(self) -> None:
        self.exclusive: dict[Any, None] = {}


class Faults:
    """Carries out the faults of a plan on a simulation."""

    def __init__(self, simulation: Simulation):
        self.simulation = simulation
        self.net = simulation.net
        self.broker = simulation.broker
        self._later = simulation.reactor.call_later
        self._locked: list[Any] = []
        self._over = False

    def act(self, kind: str, dice: random.Random) -> None:
        """Carries out an entry of the plan."""
        getattr(self, f"do_{kind}")(dice)

    def end(self) -> None:
        """Ends all faults: from now on everything works."""
        self._over = True
        self.net.heal()
        broker = self.broker
        broker.restart()
        broker.refuse_logins(False)
        broker.nack_next(0)
        broker.unblock()
        broker.flow(True)
        broker.stall(False)
        self._unlock()

    def _after(self, seconds: float, call: Callable[[], object]) -> None:
        self._later(seconds, lambda: None if self._over else call())

    def _wire(self, dice: random.Random) -> SimulatedWire | None:
        where, wires = dice.random(), list(self.net.wires.values())
        return wires[int(where * len(wires))] if wires else None

    # --- the network --------------------------------------------------------------------------------------------------

    def do_latency(self, dice: random.Random) -> None:
        self.net.latency = latency = dice.choice([0.0, 0.001, 0.02, 0.3])
        for wire in self.net.wires.values():
            wire.up.latency, wire.down.latency = latency, latency * dice.choice([1, 1, 3])

    def do_pieces(self, dice: random.Random) -> None:
        self.net.pieces = size = dice.choice([None, 1000, 200, 30])
        for wire in self.net.wires.values():
            wire.up.pieces = wire.down.pieces = size

    def do_cut(self, dice: random.Random) -> None:
        wire = self._wire(dice)
        if wire is not None:
            wire.cut()

    def do_cut_after(self, dice: random.Random) -> None:
        wire = self._wire(dice)
        if wire is not None:
            direction = dice.choice([wire.up, wire.down])
            direction.left = dice.choice([dice.randint(1, 30), dice.randint(1, 300), dice.randint(1, 3000)])

    def do_half_cut(self, dice: random.Random) -> None:
        wire, client = self._wire(dice), dice.random() < 0.5
        if wire is not None:
            wire.cut(client=client, server=not client)

    def do_hole(self, dice: random.Random) -> None:
        wire, seconds = self._wire(dice), dice.choice([0.1, 1.0, 6.0, 20.0])
        if wire is not None:
            direction = dice.choice([wire.up, wire.down])
            direction.hole = True
            self._after(seconds, direction.heal)

    def _host(self, dice: random.Random) -> Any:
        return dice.choice(list(self.net.hosts.values()))

    def do_refuse(self, dice: random.Random) -> None:
        host = self._host(dice)
        host.refuses = True
        self._after(dice.uniform(0.1, 3), lambda: setattr(host, "refuses", False))

    def do_slow(self, dice: random.Random) -> None:
        host = self._host(dice)
        host.delay = dice.uniform(0.1, 4)
        self._after(dice.uniform(0.1, 5), lambda: setattr(host, "delay", 0.0))

    def do_silent(self, dice: random.Random) -> None:
        host = self._host(dice)
        host.silent = True
        self._after(dice.uniform(0.1, 5), lambda: setattr(host, "silent", False))

    def do_outage(self, dice: random.Random) -> None:
        """The links are silent for a while, and are cut; then no host can be reached for a while. The first link after
        that is cut while what has waited goes out."""
        left = dice.choice([None, dice.randint(600, 3000), dice.randint(1000, 6000)])
        silence, seconds = dice.choice([0.0, 0.5, 2.0]), dice.choice([0.2, 1.0, 4.0])
        both = dice.random() < 0.5
        if silence:
            for wire in self.net.wires.values():
                wire.down.hole = True
                wire.up.hole = wire.up.hole or both
        self._after(silence, partial(self._begin_outage, seconds, left))

    def _begin_outage(self, seconds: float, left: int | None) -> None:
        for host in self.net.hosts.values():
            host.refuses = True
        self.net.cut_all()
        self._after(seconds, partial(self._end_outage, left))

    def _end_outage(self, left: int | None) -> None:
        self.net.next_left = left
        for host in self.net.hosts.values():
            host.refuses = False

    # --- the broker ---------------------------------------------------------------------------------------------------

    def do_drop(self, dice: random.Random) -> None:
        self.broker.drop_links()

    def do_close(self, dice: random.Random) -> None:
        code, text = dice.choice([(320, "CONNECTION_FORCED - shut down"), (541, "INTERNAL_ERROR - by plan")])
        where, sessions = dice.random(), self.broker.connections
        if dice.random() < 0.5:
            self.broker.close_connections(code, text)
        elif sessions:
            sessions[int(where * len(sessions))].close(code, text)

    def _channel(self, dice: random.Random) -> ServerChannel | None:
        where = dice.random()
        channels = [channel for session in self.broker.connections for channel in session.channels.values()]
        return channels[int(where * len(channels))] if channels else None

    def do_close_channel(self, dice: random.Random) -> None:
        channel = self._channel(dice)
        code, text = dice.choice([(406, "PRECONDITION_FAILED - by plan"), (404, "NOT_FOUND - by plan")])
        if channel is not None:
            channel.close(code, text)

    def do_ack_timeout(self, dice: random.Random) -> None:
        channel = self._channel(dice)
        if channel is not None:
            channel.close(
                406,
                "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. "
                "Timeout value used: 1800000 ms. This timeout value can be configured, see consumers doc guide to "
                "learn more",
            )

    def do_nack(self, dice: random.Random) -> None:
        self.broker.nack_next(dice.choice([1, 2, 10]))

    def do_block(self, dice: random.Random) -> None:
        self.broker.block("by plan")
        self._after(dice.uniform(0.1, 3), self.broker.unblock)

    def do_flow(self, dice: random.Random) -> None:
        self.broker.flow(False)
        self._after(dice.uniform(0.1, 3), lambda: self.broker.flow(True))

    def do_cancel_consumer(self, dice: random.Random) -> None:
        where = dice.random()
        found = [consumer for queue in self.broker.queues.values() for consumer in queue.consumers]
        consumers = [consumer for consumer in found if isinstance(consumer, Consumer)]
        if consumers:
            consumer = consumers[int(where * len(consumers))]
            consumer.stop()
            consumer.cancelled()

    def do_delete_queue(self, dice: random.Random) -> None:
        queue = self.broker.queues.get(dice.choice(["work", "short", "brief"]))
        if queue is not None and self.broker.is_running:
            self.broker.vhosts["/"].delete_queue(queue)

    def do_lock(self, dice: random.Random) -> None:
        name = dice.choice(["own a", "own b"])
        vhost = self.broker.vhosts["/"]
        if name not in vhost.queues and self.broker.is_running:
            self._locked.append(vhost.declare_queue(name, False, False, True, False, {}, _Ghost()))
            self._after(dice.uniform(0.5, 5), self._unlock)

    def _unlock(self) -> None:
        for queue in self._locked:
            if not queue.deleted:
                self.broker.vhosts["/"].delete_queue(queue)
        self._locked.clear()

    def do_crash(self, dice: random.Random) -> None:
        self.broker.crash()
        self._after(dice.choice([0.0, 0.1, 1.0, 4.0]), self.broker.restart)

    def do_refuse_login(self, dice: random.Random) -> None:
        self.broker.refuse_logins()
        self._after(dice.uniform(0.1, 3), lambda: self.broker.refuse_logins(False))

    def do_stall(self, dice: random.Random) -> None:
        self.broker.stall()
        self._after(dice.choice([0.1, 1.0, 6.0]), lambda: self.broker.stall(False))
