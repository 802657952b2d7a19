"""`python -m benchmarks`: measures and prints the tables; can write JSON, and the page and picture of the docs."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    import psutil  # noqa: F401
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
except ImportError as missing:
    sys.exit(f"{missing.name} is not installed: the benchmarks need the extra, pip install -e '.[bench]'")

from . import brokers, machine, profiling, report, results, runner
from .clients import CLIENTS
from .job import Measure
from .plan import Scenario, available, scenarios
from .rabbitmq_c import CClient


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the messages, and one round: shows that it works"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds through everything; 5, or 1 with --quick")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="this scenario or client alone, or all scenarios that begin with this word (celery); may be repeated",
    )
    parser.add_argument("--peers", default="all", metavar="NAMES", help="all, none, or some: pika-select,py-amqp")
    parser.add_argument(
        "--broker",
        choices=("rabbitmq", "embedded", "both"),
        default="both",
        help="both: the clients on RabbitMQ if it is installed, and the brokers side by side",
    )
    parser.add_argument("--millions", type=float, metavar="N", help="messages of the soak; 1, or 0.05 with --quick")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measures to this file")
    parser.add_argument(
        "--docs",
        nargs="?",
        const=report.RESULTS,
        choices=(report.RESULTS, report.NEWEST),
        help="write docs/benchmarks.md and its picture; newest: its section on the newest RabbitMQ",
    )
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing: show a file of --json")
    parser.add_argument("--profile", metavar="NAME", help="measure nothing: profile this scenario by cpspika's core")
    parser.add_argument("--list", action="store_true", help="list the names of the scenarios and clients")
    arguments = parser.parse_args(argv)
    if arguments.rounds is None:
        arguments.rounds = 1 if arguments.quick else 5
    if arguments.millions is None:
        arguments.millions = 0.05 if arguments.quick else 1.0
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    plan = scenarios(arguments.millions)
    console = Console()
    if arguments.list:
        console.print("scenarios:", *(scenario.name for scenario in plan), sep="\n  ")
        console.print("clients:", *CLIENTS, sep="\n  ")
        return
    if arguments.profile:
        profiling.profile(arguments.profile, plan, arguments.quick, arguments.broker)
        return
    found = results.load(arguments.read) if arguments.read else _measure(arguments, plan, argv, console)
    report.show(found, console)
    if arguments.json:
        results.save(found, arguments.json)
    if arguments.docs:
        report.write_docs(found, arguments.docs)


def _only(names: Sequence[str], plan: list[Scenario], clients: list[Any]) -> tuple[list[Scenario], list[Any]]:
    exact = {scenario.name for scenario in plan} | CLIENTS.keys()
    words = {scenario.name.partition(" ")[0] for scenario in plan} - exact
    unknown = set(names) - exact - words
    if unknown:
        sys.exit(f"nothing is called {', '.join(sorted(unknown))}; see --list")
    begun = tuple(f"{name} " for name in names if name in words)
    some = [scenario for scenario in plan if scenario.name in names or scenario.name.startswith(begun)]
    few = [client for client in clients if client.name in names]
    return some or plan, few or clients


def _measure(arguments: argparse.Namespace, plan: list[Scenario], argv: Any, console: Console) -> results.Results:
    with tempfile.TemporaryDirectory(prefix="cpspika-benchmarks-") as directory:
        c_client = CClient(Path(directory))
        try:
            clients, missing = available(arguments.peers, c_client.missing)
        except ValueError as error:
            sys.exit(str(error))
        plan, clients = _only(arguments.only, plan, clients)
        with brokers.start(arguments.broker) as running:
            about = machine.about(sys.argv[1:] if argv is None else argv, clients, running, c_client)
            all_steps = runner.steps(plan, clients, running)
            outcomes = _with_progress(all_steps, arguments, c_client)
    for name, why in missing.items():
        console.print(f"not measured: {name} ({why})")
    return results.Results(about, missing, outcomes)


def _with_progress(
    steps: Sequence[runner.Step], arguments: argparse.Namespace, c_client: CClient
) -> list[runner.Outcome]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        total = sum(1 for _ in runner.in_rounds(steps, arguments.rounds))
        task = progress.add_task("measuring", total=total)

        def tell(number: int, step: runner.Step, measure: Measure | str) -> None:
            what = f"round {number + 1}: {step.scenario.name}, {step.client.name}"
            progress.update(task, advance=1, description=what)
            if isinstance(measure, str):
                progress.console.print(f"{what} failed: {measure}", markup=False)

        return runner.run(steps, arguments.rounds, arguments.quick, c_client, tell)


if __name__ == "__main__":
    main()
