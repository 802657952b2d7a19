"""One simulated run of a seed: programs, faults and oracle together, until all has come to rest."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from .faults import Faults
from .oracle import Oracle, WatchedBroker
from .plan import ACTIONS, SECONDS, Entry, make_plan, smallest
from .simulation import Simulation
from .workload import Program

MOST_TURNS = 20_000  # of the reactor; a run has a few hundred
REST = 120.0  # virtual seconds in which all must come to rest after the faults
PROGRAMS = ("a", "b")
NARROW = 0.4  # of the runs are on links that a few messages congest


class Trial:
    """A run. seed: an int or a str. plan: entries; by default those of the seed. recovery: what the programs give to
    `connect`; None: they connect again by themselves. trace: gets a line for each event, if it is a list.

    After `run`, `failures` has a line for each broken rule."""

    def __init__(
        self,
        seed: int | str,
        plan: Iterable[Entry] | None = None,
        recovery: Any = None,
        trace: list[str] | None = None,
    ):
        self.seed = seed
        self.plan = list(make_plan(seed) if plan is None else plan)
        self.recovery = recovery
        self.calm = False
        self._turns = 0
        self.simulation = Simulation(seed, ("one", "two"), heartbeat=8, make_broker=WatchedBroker)
        network = random.Random(f"{seed} network")
        if network.random() < NARROW:
            self.simulation.net.weight = network.choice([30, 100, 300])
            self.simulation.net.kernel_buffer = network.choice([500, 2000, 8000])
        self.oracle = Oracle(self.simulation.net, recovery is not None, trace)
        broker: Any = self.simulation.broker
        broker.oracle = self.oracle
        self.faults = Faults(self.simulation)
        count = random.Random(f"{seed} programs").choice([1, 1, len(PROGRAMS)])
        self.programs = [Program(self, name, random.Random(f"{seed} program {name}")) for name in PROGRAMS[:count]]
        self.simulation.reactor.on_error = self._stray

    @property
    def failures(self) -> list[str]:
        return self.oracle.failures

    def _stray(self, error: BaseException) -> None:
        if "no link for" in str(error) and any(program.is_short for program in self.programs):
            return  # of publishes without an on_done, which expired, or whose channel did
        self.oracle.fail(f"an error that nobody was told: {error!r}")

    def run(self) -> list[str]:
        """Runs the plan until all has come to rest. Returns the failures."""
        reactor = self.simulation.reactor
        for program in self.programs:
            program.start()
        for entry in self.plan:
            reactor.call_later(entry.time, partial(self._act, entry))
        self._advance(SECONDS)
        self.calm = True
        self.faults.end()
        self.oracle.note("the faults are over")
        self._come_to_rest()
        for program in self.programs:
            program.check_untold()
            program.stop()
        limit = reactor.time() + REST
        while not reactor.is_idle:
            if reactor.time() >= limit:
                self.oracle.fail("a timer or a call is left at rest")
                break
            self._turn(limit - reactor.time())
            if self._turns > MOST_TURNS:
                break
        self.oracle.at_rest(self.simulation.broker)
        return self.failures

    def _advance(self, seconds: float) -> None:
        reactor = self.simulation.reactor
        until = reactor.time() + seconds
        while reactor.time() < until and self._turns <= MOST_TURNS:
            self._turn(until - reactor.time())

    def _turn(self, seconds: float) -> None:
        """Makes a turn. What goes on for ever without time passing would otherwise never end."""
        self.simulation.reactor.run_once(seconds)
        self._turns += 1
        if self._turns == MOST_TURNS + 1:
            self.oracle.fail(f"more than {MOST_TURNS} turns: something goes on for ever")

    def _act(self, entry: Entry) -> None:
        dice = entry.dice(self.seed)
        if self.oracle.trace is not None:
            self.oracle.note("----", entry)
        if entry.kind in ACTIONS:
            dice.choice(self.programs).act(entry.kind, dice)
        else:
            self.faults.act(entry.kind, dice)

    def _come_to_rest(self) -> None:
        reactor = self.simulation.reactor
        limit = reactor.time() + REST
        while True:
            self._advance(1.0)
            if self._turns > MOST_TURNS or self._at_rest():
                return
            if reactor.time() >= limit:
                self.oracle.fail(f"it did not come to rest: {', '.join(self._unrest())}")
                return

    def _at_rest(self) -> bool:
        broker = self.simulation.broker
        return (
            all(program.at_rest for program in self.programs)
            and not self.oracle.asked
            and not any(len(queue) or queue.unacknowledged for queue in broker.queues.values())
            and not any(True for _ in self._differences())
        )

    def _differences(self) -> Iterator[str]:
        """How the broker differs from what the programs have asked for."""
        broker = self.simulation.broker
        channels = [channel for session in broker.sessions for channel in session.channels.values()]
        found = {tag: consumer for channel in channels for tag, consumer in channel.consumers.items()}
        for program in self.programs:
            for tag, (role, limit) in program.expected_consumers().items():
                consumer = found.pop(tag, None)
                if consumer is None:
                    yield f"{role.stream.name} has a consumer {tag!r}, and the broker doesn't"
                elif limit not in (None, consumer.prefetch):
                    yield f"consumer {tag!r} of {role.stream.name} has the limit {consumer.prefetch}, not {limit}"
            yield from program.differences_of_topology(broker)
        yield from (f"the broker has a consumer {tag!r}, and no program does" for tag in found)
        roles = sum(len(program.roles) for program in self.programs)
        if len(channels) != roles:
            yield f"the broker has {len(channels)} channels, and the programs have {roles}"

    def _unrest(self) -> Iterator[str]:
        broker = self.simulation.broker
        for program in self.programs:
            yield from program.unrest()
        yield from self._differences()
        yield from (f"{asked} waits" for asked in self.oracle.asked)
        yield from (f"{queue!r} has messages" for queue in broker.queues.values() if len(queue) or queue.unacknowledged)


def shrink(seed: int | str, recovery: Any = None) -> list[Entry]:
    """The smallest plan found that still fails, for a seed that fails."""
    return smallest(make_plan(seed), lambda plan: bool(Trial(seed, plan, recovery).run()))
