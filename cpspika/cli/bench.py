"""The command `bench`: producers and consumers in several processes put load on a broker, and measure it."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from ..errors import AMQPError
from . import shared, terminal
from .bench_figures import Interval, Result, check_plot, plot
from .bench_worker import SECOND, STAMP, Load, Role, Sample, work

LEAD = 0.2  # seconds from the word to start until the start
DRAIN = 5.0  # seconds without a message, after which the rest counts as not received
UNUSED = 600_000  # ms; the broker deletes a queue of ours that nobody uses, should this process be killed

DETAILS = """\
The queues are new, and deleted at the end. A message begins with the time when it was due, so latency is that of each
message, between processes. At a fixed --rate it counts from the time of the schedule: a producer that is held up does
not hide the delay. Without --rate a producer sends as fast as the window of --confirm lets it. The load generator is
Python: it may be what limits the throughput; more --processes show that. All processes must be on one machine."""


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of the command line."""
    parser = shared.add_command(
        commands,
        "bench",
        "put load on a broker, and measure throughput and latency",
        "  cpspika bench --seconds 10 --rate 1000 --size 1000 --queue-type quorum --plot bench.svg",
        DETAILS,
    )
    load = parser.add_argument_group("load")
    load.add_argument("--seconds", type=shared.seconds, default=10.0, metavar="N", help="how long (default: 10)")
    load.add_argument("--producers", type=shared.count, default=1, metavar="N", help="default: 1")
    load.add_argument("--consumers", type=shared.whole, default=1, metavar="N", help="default: 1")
    load.add_argument("--queues", type=shared.count, default=1, metavar="N", help="shared out to both (default: 1)")
    load.add_argument("--queue-type", choices=["classic", "quorum"], default="classic", help="default: classic")
    load.add_argument("--rate", type=shared.positive, metavar="R", help="messages per second of each producer")
    load.add_argument("--size", type=shared.whole, default=100, metavar="BYTES", help="of a body (default: 100)")
    load.add_argument("--persistent", action="store_true", help="the broker stores the messages on disk")
    load.add_argument(
        "--confirm",
        type=shared.whole,
        default=100,
        metavar="N",
        help="messages of a producer unconfirmed at a time; 0: no confirms (default: 100)",
    )
    load.add_argument(
        "--prefetch", type=shared.whole, default=200, metavar="N", help="of a consumer; 0: no limit (default: 200)"
    )
    load.add_argument("--no-ack", action="store_true", help="consumers do not acknowledge")
    load.add_argument(
        "--processes",
        type=shared.count,
        metavar="N",
        help="of this machine, for producers and consumers (default: one for each, up to the number of cores)",
    )
    parser.add_argument("--interval", type=shared.seconds, default=1.0, metavar="SECONDS", help="of the live line")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw both over time: .svg, .png, .pdf")
    parser.add_argument("--quiet", action="store_true", help="no live line")
    shared.add_broker_options(parser, positional=True, json="print the result as a JSON object")
    parser.set_defaults(run=run_bench)


def run_bench(arguments: argparse.Namespace) -> int:
    """Returns 130 after Ctrl-C, with the figures so far. Failure: a producer or consumer failed."""
    if arguments.size < STAMP:
        arguments.parser.error(f"--size {arguments.size} is too small: a message carries the time, {STAMP} bytes")
    if arguments.plot is not None:
        check_plot(arguments.plot)
    with ExitStack() as stack:
        parameters = shared.parameters_of(arguments)
        if parameters.via is not None:  # the processes must meet in one broker
            from ..broker import serve

            arguments.target, arguments.url = stack.enter_context(serve(pretend=["quorum"])).url, None
        queues = stack.enter_context(_queues(arguments))
        crew = stack.enter_context(_Crew(_load(arguments), _shares(arguments, queues)))
        live = _Live(shown=not arguments.quiet)
        try:
            crew.measure(live)
        finally:
            live.close()
    result = crew.result()
    if arguments.json:
        terminal.say_json(result.as_json(_settings(arguments, parameters)))
    else:
        result.say(arguments.size)
    _warn(arguments, result)
    if arguments.plot is not None:
        title = f"{arguments.producers} producers, {arguments.consumers} consumers, {arguments.size} bytes"
        plot(arguments.plot, result, f"{title}, {arguments.queue_type} queue")
    return 130 if crew.interrupted else 0


def _load(arguments: argparse.Namespace) -> Load:
    given = {name: getattr(arguments, name) for name in Load._fields}
    return Load(**{**given, "url": shared.given_url(arguments), "timeout": shared.answer_time(arguments)})


def _settings(arguments: argparse.Namespace, parameters: Any) -> dict[str, Any]:
    names = ("producers", "consumers", "queues", "queue_type", "rate", "size", "persistent", "confirm", "prefetch")
    settings = {name: getattr(arguments, name) for name in (*names, "no_ack", "interval")}
    return {"url": shared.shown(parameters), **settings, "processes": _process_count(arguments)}


def _process_count(arguments: argparse.Namespace) -> int:
    roles = arguments.producers + arguments.consumers
    return int(min(roles, arguments.processes or os.cpu_count() or 1))


def _shares(arguments: argparse.Namespace, queues: list[str]) -> list[list[Role]]:
    """The producers and consumers of each process."""
    roles = [Role(True, queues[at % len(queues)]) for at in range(arguments.producers)]
    roles += [Role(False, queues[at % len(queues)]) for at in range(arguments.consumers)]
    processes = _process_count(arguments)
    return [roles[at::processes] for at in range(processes)]


@contextmanager
def _queues(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """Names of new queues, which are deleted at the end."""
    names = [f"cpspika-bench-{secrets.token_hex(4)}" for _ in range(arguments.queues)]
    table = {"x-queue-type": arguments.queue_type, "x-expires": UNUSED}
    with shared.connected(arguments) as connection:
        channel = connection.channel()
        for name in names:
            channel.queue_declare(name, durable=True, arguments=table)
    try:
        yield names
    finally:
        # On a connection of its own: the first would have had no heartbeats meanwhile.
        try:
            with shared.connected(arguments) as connection:
                channel = connection.channel()
                for name in names:
                    channel.queue_delete(name)
        except AMQPError as error:
            terminal.note(f"{', '.join(names)} not deleted: {shared.told(error)}; the broker does it after ten minutes")


def _warn(arguments: argparse.Namespace, result: Result) -> None:
    total = result.total
    wanted = (arguments.rate or 0) * arguments.producers
    reached = result.rate(result.timed.published)
    if reached < 0.95 * wanted:
        terminal.note(f"the rate was not reached: {reached:,.0f} of {wanted:,.0f} messages per second")
    if arguments.consumers and total.received < total.published:
        terminal.note(f"{total.published - total.received:,} messages were not received; the latency is without them")
    if total.refused:
        terminal.note(f"the broker refused {total.refused:,} messages")


# --- processes --------------------------------------------------------------------------------------------------------


class _Crew:
    """The processes. As a context manager it ends them."""

    def __init__(self, load: Load, shares: list[list[Role]]):
        self.interrupted = False
        self._load = load
        self._consumes = any(not role.produces for share in shares for role in share)
        self._intervals: list[Interval] = []
        self._began = self._seconds = 0.0
        context = multiprocessing.get_context("spawn")  # fresh processes: no thread or socket of this one
        self._pipes: dict[Any, int] = {}  # the number of samples from each process
        self._processes = []
        with shared.without_ctrl_c():
            for share in shares:
                ours, theirs = context.Pipe()
                process = context.Process(target=work, args=(theirs, load, share), daemon=True)
                process.start()
                theirs.close()
                self._pipes[ours] = 0
                self._processes.append(process)

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._tell("stop")
        deadline = time.monotonic() + DRAIN
        pipes: set[Any] = set(self._pipes)
        while pipes and time.monotonic() < deadline:  # the last samples; a process that ends closes its pipe
            told: list[Any] = wait(list(pipes), max(0.0, deadline - time.monotonic()))
            for pipe in told:
                try:
                    word, *details = pipe.recv()
                except (EOFError, OSError):
                    pipes.discard(pipe)
                    continue
                if word == "sample" and self._intervals:
                    self._take(pipe, details[0])
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()

    def _tell(self, *word: Any) -> None:
        for pipe in self._pipes:
            with suppress(OSError):
                pipe.send(word)

    def measure(self, live: _Live) -> None:
        """Starts, and takes samples until the time is over and the queues are empty. Failure: a process failed."""
        try:
            ready = 0
            while ready < len(self._pipes):
                ready += sum(word == "ready" for _, word, _ in self._heard(None))
            begin = time.monotonic_ns() + int(LEAD * SECOND)
            self._began, self._seconds = begin / SECOND, self._load.seconds
            self._tell("start", begin)
            self._follow(live, begin / SECOND + self._load.seconds)
        except KeyboardInterrupt:
            self.interrupted = True
            elapsed = time.monotonic() - self._began if self._began else 0.0
            self._seconds = max(0.0, min(self._load.seconds, elapsed))

    def _follow(self, live: _Live, end: float) -> None:
        shown, last_progress, received = 0, time.monotonic(), 0
        while True:
            for pipe, word, details in self._heard(self._load.interval):
                if word == "sample":
                    self._take(pipe, details[0])
            while shown < len(self._intervals) and self._intervals[shown].samples == len(self._pipes):
                shown += 1
                if self._began + shown * self._load.interval <= end:
                    live.show(shown * self._load.interval, self._intervals[shown - 1], self._load.interval)
            now = time.monotonic()
            if self._received() != received or now < end:
                received, last_progress = self._received(), now
            # The last interval of the time must be complete.
            in_time = shown * self._load.interval >= self._load.seconds
            if now >= end and in_time and (self._is_drained() or now - last_progress > DRAIN):
                return

    def _heard(self, timeout: float | None) -> list[tuple[Any, str, list[Any]]]:
        """(pipe, word, details) of what the processes said. Failure: one failed."""
        heard = []
        told: list[Any] = wait(list(self._pipes), timeout)
        for pipe in told:
            try:
                word, *details = pipe.recv()
            except (EOFError, OSError):
                raise shared.Failure("a process of the load ended unexpectedly") from None
            if word == "failed":
                raise shared.Failure(details[0])
            heard.append((pipe, word, details))
        return heard

    def _take(self, pipe: Any, sample: Sample) -> None:
        at = self._pipes[pipe]
        self._pipes[pipe] += 1
        while len(self._intervals) <= at:
            self._intervals.append(Interval())
        self._intervals[at].add(sample)

    def _received(self) -> int:
        return sum(interval.received for interval in self._intervals)

    def _is_drained(self) -> bool:
        published = sum(interval.published for interval in self._intervals)
        settled = sum(interval.confirmed + interval.refused for interval in self._intervals)
        return (not self._consumes or self._received() >= published) and (
            not self._load.confirm or settled >= published
        )

    def result(self) -> Result:
        """The figures. Not before the end."""
        in_time = -(-self._seconds // self._load.interval)  # the last one may be shorter
        at = int(in_time)
        return Result(self._seconds, self._load.interval, self._intervals[:at], self._intervals[at:])


class _Live:
    """The figures of the last interval, on standard error: on a terminal one line that changes."""

    def __init__(self, shown: bool):
        self._shown, self._on_terminal = shown, terminal.is_terminal(sys.stderr)
        self._line = terminal.LiveLine()

    def show(self, seconds: float, interval: Interval, length: float) -> None:
        if not self._shown:
            return
        ms = interval.delays.milliseconds()
        latency = f"  latency p50 {ms['p50']:.2f} p99 {ms['p99']:.2f} max {ms['max']:.2f} ms" if ms else ""
        blocked = "  BLOCKED by the broker" if interval.is_blocked else ""
        published, received = interval.published / length, interval.received / length
        text = f"{seconds:g} s  published {published:,.0f}/s  received {received:,.0f}/s{latency}{blocked}"
        if self._on_terminal:
            self._line.draw(text)
        else:
            terminal.note(text)

    def close(self) -> None:
        self._line.end()
