"""All measures of a run, their JSON, and the medians for tables and picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from .clients import C_CLIENT, CLIENTS
from .job import Measure
from .runner import Outcome


@dataclass
class Results:
    """`about`: machine, versions, date and command. `missing`: the reason, by client that could not run."""

    about: dict[str, Any]
    missing: dict[str, str]
    outcomes: list[Outcome]

    def find(self, scenario: str, client: str, broker: str | None = None) -> Outcome | None:
        found = (o for o in self.outcomes if (o.scenario, o.client) == (scenario, client))
        return next((o for o in found if broker in (None, o.broker)), None)

    def cpu(self, scenario: str, client: str) -> float | None:
        """Median client CPU, µs a message; None if there is no measure."""
        return _median(self.find(scenario, client), lambda measure: measure.cpu / measure.count * 1e6)

    def wall(self, scenario: str, client: str, broker: str | None = None) -> float | None:
        """Median wall time, µs a message."""
        return _median(self.find(scenario, client, broker), lambda measure: measure.wall / measure.count * 1e6)

    def broker_cpu(self, scenario: str, client: str, broker: str) -> float | None:
        """Median CPU of the broker, µs a message."""
        return _median(self.find(scenario, client, broker), lambda m: (m.broker_cpu or 0) / m.count * 1e6)

    def memory(self, scenario: str, client: str) -> float | None:
        """Median of the rise of peak memory, bytes."""
        return _median(self.find(scenario, client), lambda measure: float(measure.memory))

    def latency(self, scenario: str, client: str, percentile: str) -> float | None:
        """Median of the rounds' percentiles ("99.9"), in seconds."""
        return _median(self.find(scenario, client), lambda measure: measure.latencies[percentile])

    def beside(self, scenario: str, ours: str, theirs: str, of: str = "cpu") -> list[float] | None:
        """Ours over theirs, turn by turn: the quartiles. None without three turns of both, or if one has failed."""
        found = [self.find(scenario, client) for client in (ours, theirs)]
        if any(outcome is None or outcome.failures or len(outcome.measures) < 3 for outcome in found):
            return None
        costs = [[getattr(m, of) / m.count for m in outcome.measures] for outcome in found if outcome is not None]
        return quantiles([mine / other for mine, other in zip(*costs, strict=True)], n=4, method="inclusive")

    def best_peer(self, scenario: str, of: str = "cpu") -> tuple[str, float] | None:
        """Name and value of the Python peer with the least."""
        values = ((c.name, getattr(self, of)(scenario, c.name)) for c in CLIENTS.values())
        peers = [(n, v) for n, v in values if v is not None and n != C_CLIENT and not CLIENTS[n].ours]
        return min(peers, key=lambda pair: pair[1], default=None)


def _median(outcome: Outcome | None, value: Callable[[Measure], float]) -> float | None:
    if outcome is None or not outcome.measures:
        return None
    return median(value(measure) for measure in outcome.measures)


def save(results: Results, path: Path) -> None:
    path.write_text(json.dumps(asdict(results), indent=1) + "\n", "utf-8")


def load(path: Path) -> Results:
    values = json.loads(path.read_text("utf-8"))
    outcomes = []
    for outcome in values["outcomes"]:
        measures = [Measure.load(json.dumps(measure)) for measure in outcome.pop("measures")]
        outcomes.append(Outcome(**outcome, measures=measures))
    return Results(values["about"], values["missing"], outcomes)
