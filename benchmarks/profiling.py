"""Profiles one scenario by cProfile. That makes calls slower: trust the order, not the sum."""

from __future__ import annotations

import pstats
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import brokers, runner
from .clients import CLIENTS
from .plan import CORE, Scenario
from .rabbitmq_c import CClient

LINES = 25


def profile(name: str, plan: Sequence[Scenario], quick: bool, broker: str) -> None:
    """`name`: a scenario, or "scenario,client"."""
    wanted, _, client = name.partition(",")
    scenario = next((scenario for scenario in plan if scenario.name == wanted), None)
    if scenario is None or (client and client not in CLIENTS):
        sys.exit(f"nothing is called {name}; see --list")
    with tempfile.TemporaryDirectory(prefix="cpspika-benchmarks-") as directory:
        file = str(Path(directory, "profile"))
        with brokers.start("rabbitmq" if broker == "both" else broker) as running:
            step = runner.Step(scenario, CLIENTS[client or CORE], running[0])
            measure = runner.measure_step(step, quick, CClient(Path(directory)), file)
        print(f"{scenario.name}: {measure.count} messages, {measure.cpu / measure.count * 1e6:.1f} µs each, profiled")
        pstats.Stats(file).strip_dirs().sort_stats("tottime").print_stats(LINES)
