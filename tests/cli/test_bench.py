"""`bench`: what is counted, from when latency counts, what is left behind, and how it ends."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpspika.broker import Served, serve
from cpspika.cli import bench_worker
from cpspika.cli.bench_figures import Delays, Interval, Result
from cpspika.cli.bench_worker import SECOND, STAMP, Load, Sample
from tests.cli.conftest import DEADLINE, CommandLine

LOAD = Load("", 15.0, 1.0, None, 20, 2, 100, False, False, 1.0)


def queues(broker: Served) -> set[str]:
    """The queues of bench that the broker has."""
    found: set[str] = broker.call(lambda: {name for name in broker.vhosts["/"].queues if "bench" in name})
    return found


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_message_is_counted(cli: CommandLine) -> None:
    """Two producers of 100/s for a second, on two queues."""
    many = ("--producers", "2", "--consumers", "2", "--queues", "2", "--processes", "2", "--rate", "100")
    found = cli("bench", "--seconds", "1", "--interval", "0.5", "--size", "50", "--json", "--quiet", *many).json
    assert [found[name] for name in ("published", "confirmed", "received", "refused")] == [200, 200, 200, 0]
    assert len(found["intervals"]) == 2
    for name in ("latency_ms", "confirm_latency_ms"):
        ms = found[name]
        assert 0 < ms["min"] <= ms["p50"] <= ms["p99"] <= ms["p99.9"] <= ms["max"]
    assert (found["producers"], found["size"], found["processes"]) == (2, 50, 2)


@pytest.mark.slow
def test_tables_a_plot_and_no_queue_left(on_embedded: CommandLine, embedded: Served, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "plot.svg"
    done = on_embedded(
        "bench", "--seconds", "1", "--interval", "0.25", "--plot", str(plot), "--confirm", "0", "--no-ack"
    )
    rows = [line.split()[0] for line in done.out.splitlines() if line]
    assert rows == ["throughput", "published", "received", "latency", "to"]
    assert "p99.9" in done.out
    assert done.err.count("latency p50") == 4, "the live line, a line each where there is no terminal"
    assert b"<svg" in plot.read_bytes()
    assert not queues(embedded)


@pytest.mark.slow
def test_ctrl_c_gives_the_figures_so_far(on_embedded: CommandLine, embedded: Served) -> None:
    with on_embedded.start("bench", "--seconds", "600", "--interval", "0.2", "--rate", "50", "--json") as running:
        assert running.stderr is not None
        assert b"published" in running.stderr.readline()
        assert queues(embedded)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=DEADLINE)
    assert running.returncode == 130
    found = json.loads(out)
    assert 0 < found["seconds"] < 600
    assert found["published"] >= 10
    assert b"Traceback" not in err
    assert not queues(embedded)


@pytest.mark.long
def test_a_broker_that_ends_is_a_failure(on_embedded: CommandLine) -> None:
    with serve() as broker, on_embedded.start("bench", broker.url, "--seconds", "600", "--interval", "0.2") as running:
        assert running.stderr is not None
        running.stderr.readline()
        broker.stop()
        assert running.wait(DEADLINE) == 1
        *_, last = running.stderr.read().decode().splitlines()
    assert last.startswith("cpspika bench: ")
    assert "Traceback" not in last


def test_a_queue_type_that_the_broker_lacks(on_embedded: CommandLine) -> None:
    done = on_embedded("bench", "--queue-type", "quorum", status=1)
    assert done.err.count("\n") == 1


def test_the_plot_is_looked_after_before_the_run(
    on_embedded: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    assert ".svg" in on_embedded("bench", "--plot", str(tmp_path / "plot.nope"), status=1).err
    assert "No such file" in on_embedded("bench", "--plot", str(tmp_path / "no" / "plot.svg"), status=1).err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "cpspika[cli]" in on_embedded("bench", "--plot", str(tmp_path / "plot.svg"), status=1).err


# --- a producer -------------------------------------------------------------------------------------------------------


class World:
    """A producer's surroundings: a clock that the test turns, a timer, and a channel that confirms when the test says
    so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **changes: Any):
        self.now = 0
        self.timer: tuple[float, Callable[[], object]] | None = None
        self.sent: list[tuple[int, bytes]] = []
        self.unconfirmed: list[Callable[[Any, Any], object]] = []
        self.writable = self.is_open = True
        self.published = self.confirmed = self.refused = 0
        self.confirm_delays: list[int] = []
        self.load = LOAD._replace(**changes)
        self.reactor = self
        monkeypatch.setattr(bench_worker.time, "monotonic_ns", lambda: self.now)
        self.producer = bench_worker._Producer(self, self, "q")  # type: ignore[arg-type]
        self.producer.start(0, int(self.load.seconds * SECOND))

    def call_later(self, seconds: float, function: Callable[[], object]) -> None:
        assert self.timer is None, "one timer at a time"
        self.timer = self.now + seconds * SECOND, function

    def add_writable_handler(self, handler: Callable[[Any], object]) -> None:
        self.tell_writable = handler

    def basic_publish(self, exchange: str, key: str, body: bytes, properties: Any, on_done: Any) -> bool:
        self.sent.append((int.from_bytes(body[:STAMP], "big"), body[STAMP:]))
        if on_done is not None:
            self.unconfirmed.append(on_done)
        return True

    def advance(self, now: float) -> None:
        """Turns the clock; fires a timer that is due."""
        self.now = int(now * SECOND)
        if self.timer is not None and self.timer[0] <= self.now:
            function, self.timer = self.timer[1], None
            function()

    def confirm(self, number: int, error: Any = None) -> None:
        for _ in range(number):
            self.unconfirmed.pop(0)(error, True)


def test_latency_counts_from_when_a_message_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker confirms nothing for half a second. The messages that were due meanwhile keep their times."""
    world = World(monkeypatch, rate=10.0, confirm=2)
    for tenth in range(6):
        world.advance(tenth / 10)
    assert [time / SECOND for time, _ in world.sent] == [0.0, 0.1]
    world.now = SECOND // 2
    world.confirm(2)
    assert [time / SECOND for time, _ in world.sent] == [0.0, 0.1, 0.2, 0.3]
    assert [delay / SECOND for delay in world.confirm_delays] == [0.5, 0.4]
    for tenth in range(6, 20):
        world.now = tenth * SECOND // 10
        world.confirm(len(world.unconfirmed))
        world.advance(tenth / 10)
    assert [round(time / SECOND, 6) for time, _ in world.sent] == [tenth / 10 for tenth in range(10)]
    assert (world.published, world.confirmed) == (10, 10)


def test_without_a_rate_the_window_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, confirm=3)
    world.advance(0)
    assert len(world.sent) == 3
    world.now = SECOND // 2
    world.confirm(1)
    world.confirm(1, error="nacked")
    assert (len(world.sent), world.sent[-1][0]) == (5, SECOND // 2)
    assert (world.confirmed, world.refused) == (1, 1)
    world.now = SECOND
    world.confirm(3)
    assert len(world.sent) == 5, "the time is over"


def test_without_confirms_the_link_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, confirm=0, rate=10.0, size=30)
    world.writable = False
    world.advance(0.5)
    assert not world.sent
    world.writable = True
    world.tell_writable(world)
    assert [round(time / SECOND, 6) for time, _ in world.sent] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert {STAMP + len(rest) for _, rest in world.sent} == {30}


# --- figures ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 10**11), min_size=1, max_size=300))
def test_percentiles_are_those_of_the_sorted_delays(delays: list[int]) -> None:
    counted = Delays()
    counted.add(delays)
    found = counted.milliseconds()
    assert found is not None
    exact = sorted(delays)
    for name, part in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
        wanted = next(value for at, value in enumerate(exact, 1) if at >= part * len(exact)) / 1e6
        assert wanted * 0.998 - 0.002 <= found[name] <= wanted + 0.001
    assert found["max"] == round(exact[-1] / 1e6, 3)
    assert found["min"] == round(exact[0] / 1e6, 3)


@given(st.lists(st.lists(st.integers(0, 10**10), max_size=20), max_size=5))
def test_delays_of_many_processes_are_those_of_one(parts: list[list[int]]) -> None:
    merged, whole = Delays(), Delays()
    for part in parts:
        one = Delays()
        one.add(part)
        merged.merge(one)
        whole.add(part)
    assert vars(merged) == vars(whole)


def test_throughput_counts_the_time_of_publishing_and_latency_all() -> None:
    def interval(published: int, received: int, delay: int) -> Interval:
        made = Interval()
        delays = received * delay.to_bytes(8, sys.byteorder)
        made.add(Sample(published, published, 0, received, delays, b"", False))
        return made

    result = Result(2.0, 1.0, [interval(10, 5, 10**6), interval(10, 10, 10**6)], [interval(0, 5, 10**9)])
    found = result.as_json({})
    assert (found["publish_rate"], found["receive_rate"]) == (10.0, 7.5)
    assert (found["published"], found["received"]) == (20, 20)
    assert found["latency_ms"]["max"] == 1000.0
