"""Runs the measurements, each in a process of its own. Rounds go through all of them: if the machine is slow for a
while, all suffer alike."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from cpspika.errors import AMQPError

from .brokers import Broker, WrongCount
from .clients import C_CLIENT, Client
from .job import Job, Measure
from .plan import Scenario
from .rabbitmq_c import CClient

ROOT = Path(__file__).parent.parent
SECONDS = 180.0  # the most that one measurement may take...
SECONDS_A_MESSAGE = 0.001  # ...and more for each message


@dataclass
class Outcome:
    """The measures of one scenario by one client on one broker. `failures`: for each round without one, the reason."""

    scenario: str
    client: str
    broker: str
    size: int
    channels: int
    measures: list[Measure] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    scenario: Scenario
    client: Client
    broker: Broker


def steps(plan: Sequence[Scenario], clients: Sequence[Client], brokers: Sequence[Broker]) -> list[Step]:
    return [
        Step(scenario, client, broker)
        for scenario in plan
        for client in clients
        if scenario.by(client)
        for broker in (brokers if scenario.each_broker else brokers[:1])
    ]


def in_rounds(steps: Sequence[Step], rounds: int) -> Iterator[tuple[int, Step]]:
    """(round, step). Every second round goes backwards, so that no client always comes after the same one; and so does
    every second turn of a scenario."""
    for number in range(rounds):
        ordered = steps if number % 2 == 0 else list(reversed(steps))
        for scenario, group in groupby(ordered, lambda step: step.scenario):
            there = list(group)
            back = there[::-1]
            for turn in range(0 if number and scenario.once else scenario.turns):
                yield from ((number, step) for step in (back if turn % 2 else there))


def run(
    all_steps: Sequence[Step],
    rounds: int,
    quick: bool,
    c_client: CClient,
    tell: Callable[[int, Step, Measure | str], object],
) -> list[Outcome]:
    """Measures. After each step it calls tell(round, step, measure), or with the reason in place of the measure."""
    outcomes: dict[Any, Outcome] = {}
    for step in all_steps:
        scenario, key = step.scenario, (step.scenario.name, step.client.name, step.broker.name)
        outcomes[key] = Outcome(*key, scenario.size, scenario.channels)
    for number, step in in_rounds(all_steps, rounds):
        outcome = outcomes[step.scenario.name, step.client.name, step.broker.name]
        try:
            measure = measure_step(step, quick, c_client)
        except (Failed, WrongCount, AMQPError, OSError) as error:
            outcome.failures.append(str(error))
            tell(number, step, str(error))
        else:
            outcome.measures.append(measure)
            tell(number, step, measure)
    return list(outcomes.values())


class Failed(Exception):
    """A measurement that gave no measure."""


def measure_step(step: Step, quick: bool, c_client: CClient, profile: str = "") -> Measure:
    scenario, client, broker = step.scenario, step.client, step.broker
    warmup, count = scenario.counts(client, quick)
    filled = warmup + count if scenario.consumes else 0
    with broker.queue(filled, scenario.size) as queue:
        job = Job(
            scenario.action,
            client.name,
            broker.url,
            queue,
            count,
            warmup,
            scenario.size,
            scenario.channels,
            scenario.samples,
            scenario.rate,
            broker.pid if scenario.each_broker else 0,
            profile,
        )
        command = [sys.executable, "-m", "benchmarks.child", job.dump()]
        if client.name == C_CLIENT:
            command = c_client.command(job)
        measure = _measured_by(command, SECONDS + SECONDS_A_MESSAGE * (warmup + count))
        if scenario.publishes:
            broker.await_count(queue, warmup + count)
        return measure


def _measured_by(command: Sequence[str], seconds: float) -> Measure:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Failed(f"not done within {seconds:.0f} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}, without a word"]
        raise Failed(lines[-1].replace(f"{ROOT}/", ""))
    return Measure.load(done.stdout.strip().splitlines()[-1])
