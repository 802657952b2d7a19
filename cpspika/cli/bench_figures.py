"""The figures of `bench`: throughput and percentiles of delays, in all and over time; as a table, JSON or a plot."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import terminal
from .bench_worker import Sample
from .shared import Failure, missing_extra

PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
EXACT = 10  # bits: a delay is counted in microseconds, rounded down by less than 0.2 %


class Delays:
    """Delays, counted by their size. Memory is bounded however many there are."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()  # by microseconds
        self.number = self.total = 0  # total: ns
        self.least: int | None = None  # ns
        self.most = 0

    def add(self, delays: Iterable[int]) -> None:
        """Adds delays in ns."""
        values = [max(0, delay) for delay in delays]
        if not values:
            return
        self.counts.update(map(_rounded, values))
        self.number += len(values)
        self.total += sum(values)
        least = min(values)
        self.least = least if self.least is None else min(self.least, least)
        self.most = max(self.most, max(values))

    def merge(self, other: Delays) -> None:
        if other.least is not None:
            self.counts.update(other.counts)
            self.number += other.number
            self.total += other.total
            self.least = other.least if self.least is None else min(self.least, other.least)
            self.most = max(self.most, other.most)

    def milliseconds(self) -> dict[str, float] | None:
        """Least, mean, percentiles and most, in ms; None if there are no delays. A percentile is the smallest delay
        that at least so many of all do not exceed."""
        if self.least is None:
            return None
        figures = {"min": self.least / 1e6, "mean": self.total / self.number / 1e6}
        wanted = iter(PERCENTILES.items())
        name, part = next(wanted)
        seen = 0
        for size, count in sorted(self.counts.items()):
            seen += count
            while name and seen >= part * self.number:
                figures[name] = size / 1000
                name, part = next(wanted, ("", 1.0))
        figures["max"] = self.most / 1e6
        return {name: round(value, 3) for name, value in figures.items()}


def _rounded(delay: int) -> int:
    """A delay in ns, as microseconds with the upper bits alone."""
    size = delay // 1000
    surplus = max(0, size.bit_length() - EXACT)
    return size >> surplus << surplus


class Interval:
    """The figures of one interval, of all processes."""

    def __init__(self) -> None:
        self.samples = self.published = self.confirmed = self.refused = self.received = 0
        self.delays, self.confirm_delays = Delays(), Delays()
        self.is_blocked = False

    def add(self, sample: Sample) -> None:
        self.samples += 1
        self.published += sample.published
        self.confirmed += sample.confirmed
        self.refused += sample.refused
        self.received += sample.received
        for delays, data in ((self.delays, sample.delays), (self.confirm_delays, sample.confirm_delays)):
            values = array("q")
            values.frombytes(data)
            delays.add(values)
        self.is_blocked |= sample.is_blocked

    def add_all(self, others: Iterable[Interval]) -> Interval:
        for other in others:
            self.published += other.published
            self.confirmed += other.confirmed
            self.refused += other.refused
            self.received += other.received
            self.delays.merge(other.delays)
            self.confirm_delays.merge(other.confirm_delays)
        return self


class Result:
    """The figures of a run.

    seconds: for which the producers published. during: the intervals of that time. after: those until the queues were
    empty. Throughput counts `during` alone; delays count all messages."""

    def __init__(self, seconds: float, interval: float, during: list[Interval], after: list[Interval]):
        self.seconds, self.interval, self.intervals = seconds, interval, during
        self.timed = Interval().add_all(during)
        self.total = Interval().add_all([*during, *after])

    def rate(self, number: int) -> float:
        return round(number / self.seconds, 1) if self.seconds else 0.0

    def as_json(self, settings: dict[str, Any]) -> dict[str, Any]:
        timed, total = self.timed, self.total
        return {
            **settings,
            "seconds": round(self.seconds, 3),
            "published": total.published,
            "confirmed": total.confirmed,
            "refused": total.refused,
            "received": total.received,
            "publish_rate": self.rate(timed.published),
            "receive_rate": self.rate(timed.received),
            "latency_ms": total.delays.milliseconds(),
            "confirm_latency_ms": total.confirm_delays.milliseconds(),
            "intervals": [
                {
                    "end": round((at + 1) * self.interval, 3),
                    "published": interval.published,
                    "received": interval.received,
                    "latency_ms": interval.delays.milliseconds(),
                    "confirm_latency_ms": interval.confirm_delays.milliseconds(),
                    "blocked": interval.is_blocked,
                }
                for at, interval in enumerate(self.intervals)
            ],
        }

    def say(self, size: int) -> None:
        """Prints the tables. size: bytes of a body."""
        total, timed = self.total, self.timed
        rows = [("published", total.published, timed.published), ("received", total.received, timed.received)]
        if total.confirmed:
            rows.insert(1, ("confirmed", total.confirmed, timed.confirmed))
        terminal.say_table(
            ["throughput", "messages", "per second", "MB/s"],
            [
                [name, f"{number:,}", f"{self.rate(in_time):,.0f}", f"{self.rate(in_time) * size / 1e6:.2f}"]
                for name, number, in_time in rows
            ],
        )
        named = (("to the consumer", total.delays), ("to the confirm", total.confirm_delays))
        measured = [(name, delays.milliseconds()) for name, delays in named]
        columns = ["min", "mean", *PERCENTILES, "max"]
        found = [[name, *(f"{ms[column]:.3f}" for column in columns)] for name, ms in measured if ms]
        if found:
            terminal.say("")
            terminal.say_table(["latency in ms", *columns], found)


# --- the plot ---------------------------------------------------------------------------------------------------------


def check_plot(path: Path) -> None:
    """Failure: no plot can be written there. Asked before the run, which may be long."""
    figure = _figure()
    kinds = figure.canvas.get_supported_filetypes()
    kind = path.suffix.lower().removeprefix(".")
    if kind not in kinds:
        raise Failure(f"{path}: the ending says what kind of file the plot is: {', '.join('.' + k for k in kinds)}")
    path.open("ab").close()


def plot(path: Path, result: Result, title: str) -> None:
    """Draws throughput and latency over time."""
    figure = _figure()
    figure.set_size_inches(9, 7)
    above, below = figure.subplots(2, 1, sharex=True)
    times = [(at + 1) * result.interval for at in range(len(result.intervals))]
    for name in ("published", "received"):
        rates = [getattr(interval, name) / result.interval for interval in result.intervals]
        above.plot(times, rates, label=name, marker=".")
    above.set_ylabel("messages per second")
    above.set_ylim(0, 1.1 * max(1.0, above.dataLim.y1))
    above.set_xlim(0, max(times, default=1.0) * 1.02)
    above.set_title(title)
    measured = [interval.delays.milliseconds() for interval in result.intervals]
    for name in (*PERCENTILES, "max"):
        points = [(time, ms[name]) for time, ms in zip(times, measured, strict=True) if ms and ms[name] > 0]
        if points:
            below.plot(*zip(*points, strict=True), label=name, marker=".")
    below.set_ylabel("latency to the consumer in ms")
    below.set_yscale("log")
    for axis in ("major", "minor"):
        getattr(below.yaxis, f"set_{axis}_formatter")("{x:g}")
    below.set_xlabel("seconds")
    for axes in (above, below):
        axes.grid(True, alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def _figure() -> Any:
    """An empty figure, which needs no display. Failure: matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("--plot", error) from None
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure
