"""The benchmarks run: each scenario that has an action of its own gives a measure, for each style of client."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from benchmarks.job import Job
from benchmarks.meter import Meter
from benchmarks.styles import pace
from tests.support import ROOT

pytestmark = pytest.mark.long

CONNECTING = {"cpspika", "cpspika-on-asyncio", "cpspika-asyncio", "cpspika-tasks", "cpspika-blocking"} | {
    "py-amqp",
    "pika-select",
    "pika-blocking",
    "aio-pika",
}
PACED = {"cpspika", "cpspika-asyncio", "pika-select", "aio-pika"}
KOMBU = {"kombu-cpspika", "kombu-py-amqp"}
CELERY = {"celery-cpspika", "celery-py-amqp"}
PATIENCE = 240.0


def run(file: Path, scenarios: list[str], clients: set[str]) -> tuple[dict[str, dict[str, Any]], str]:
    """The outcomes by scenario and client, and what the command printed."""
    names = [argument for name in [*scenarios, *sorted(clients)] for argument in ("--only", name)]
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--broker", "embedded", "--json", str(file), *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, dict[str, Any]] = {}
    for outcome in json.loads(file.read_text("utf-8"))["outcomes"]:
        assert outcome["failures"] == [], f"{outcome['scenario']}, {outcome['client']}"
        assert len(outcome["measures"]) == (10 if outcome["scenario"].startswith("beside") else 1)
        for measure in outcome["measures"]:
            assert measure["count"] > 0
            assert measure["wall"] > 0
        found.setdefault(outcome["scenario"], {})[outcome["client"]] = measure
    return found, ran.stdout


def test_each_style_connects(tmp_path: Path) -> None:
    found, shown = run(tmp_path / "measures.json", ["connect"], CONNECTING)
    assert found.keys() == {"connect"}
    assert found["connect"].keys() == CONNECTING
    assert "Connect, open a channel, close" in shown


def test_two_clients_take_turns(tmp_path: Path) -> None:
    clients = {"cpspika-blocking", "py-amqp"}
    found, shown = run(tmp_path / "measures.json", ["beside get"], clients)
    assert found["beside get"].keys() == clients
    assert "over py-amqp, by turns" in shown


def test_confirms_are_pipelined_or_waited_for_one_by_one(tmp_path: Path) -> None:
    found, shown = run(tmp_path / "measures.json", ["confirm", "confirm each"], CONNECTING)
    assert found["confirm"].keys() == CONNECTING - {"py-amqp", "pika-blocking"}
    assert found["confirm each"].keys() == {"cpspika-blocking", "py-amqp", "pika-blocking"}
    assert "one by one" in shown


def test_what_a_style_adds_is_measured_without_a_socket(tmp_path: Path) -> None:
    alone = {"cpspika-alone", "cpspika-alone-asyncio", "cpspika-alone-tasks"}
    found, shown = run(tmp_path / "measures.json", ["alone publish", "alone confirm"], alone)
    assert found["alone publish"].keys() == found["alone confirm"].keys() == alone
    assert "asyncio adds to a confirm" in shown


def test_each_style_publishes_at_a_rate(tmp_path: Path) -> None:
    found, shown = run(tmp_path / "measures.json", ["latency 1000"], PACED)
    assert found["latency 1000"].keys() == PACED
    for measure in found["latency 1000"].values():
        latencies = [measure["latencies"][percentile] for percentile in ("50", "99", "99.9")]
        assert latencies[0] > 0
        assert latencies == sorted(latencies)
    assert "1,000 a second" in shown


@pytest.mark.parametrize(("word", "clients"), [("kombu", KOMBU), ("celery", CELERY)])
def test_a_word_names_the_scenarios_that_begin_with_it(tmp_path: Path, word: str, clients: set[str]) -> None:
    found, shown = run(tmp_path / "measures.json", [word], clients)
    assert found.keys() == {
        "kombu": {"kombu publish", "kombu consume+ack"},
        "celery": {"celery solo", "celery threads"},
    }.get(word)
    assert all(measured.keys() == clients for measured in found.values())
    assert "cpspika : py-amqp" in shown


def test_what_was_due_while_the_client_was_late_counts_from_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(pace, "perf_counter", lambda: now)
    monkeypatch.setattr(pace.threading, "Thread", Mock())
    job = Job("latency", "", "", "", count=2, warmup=1, rate=10)
    meter = Meter(job)
    paced = pace.Pace(job, meter, lambda: None)
    paced.start()
    begin = now = pace.LEAD
    assert paced.take() == 1
    assert not paced.arrived()
    now = begin + 0.05
    assert paced.take() == 0
    now = begin + 0.25
    assert paced.take() == 2
    assert paced.all_taken
    assert not paced.arrived()
    now = begin + 0.26
    assert paced.arrived()
    assert meter.result is not None
    assert meter.result.latencies == pytest.approx({"50": 0.06, "99": 0.15, "99.9": 0.15})


def test_percentiles() -> None:
    assert pace.percentiles([float(n) for n in range(1000, 0, -1)]) == {"50": 500.0, "99": 990.0, "99.9": 999.0}
    assert pace.percentiles([7.0]) == {"50": 7.0, "99": 7.0, "99.9": 7.0}
