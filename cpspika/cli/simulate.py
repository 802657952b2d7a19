"""The command `python -m cpspika simulate`: runs client and embedded broker together under faults that seeds decide."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import traceback
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from ..testing.plan import Entry, make_plan
from ..testing.trial import Trial, shrink
from . import shared

CHUNK = 20  # seeds that a process is given at a time

EPILOG = """\
A seed makes a plan: what programs do, and which faults of network and broker happen when. Time is virtual and no socket
is used, so the same seed always gives the same run. Exit status: 0, all seeds passed; 1, a seed failed; 130, Ctrl-C.
"""


class Failed(NamedTuple):
    """A seed that failed, and why."""

    seed: int
    failures: list[str]


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of the command line."""
    parser = commands.add_parser(
        "simulate",
        help="test client and embedded broker under faults, in virtual time",
        description="Runs programs against the embedded broker under faults, and checks what they are told.",
        epilog=EPILOG,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seeds", type=_span, metavar="FIRST:END", help="run these seeds, the last one left out")
    which.add_argument("--seed", type=int, help="run one seed and print what happens")
    parser.add_argument("--jobs", type=shared.count, default=1, help="number of processes, for --seeds (default: 1)")
    parser.add_argument("--shrink", action="store_true", help="print the smallest plan that still fails, for --seed")
    parser.add_argument(
        "--recovery", action="store_true", help="the programs use recovery=True, instead of a loop that connects again"
    )
    parser.set_defaults(run=run_simulate, parser=parser)


def _span(text: str) -> range:
    first, colon, end = text.partition(":")
    try:
        span = range(int(first), int(end))
    except ValueError:
        span = range(0)
    if not colon or not span:
        raise argparse.ArgumentTypeError(f"{text!r} is no span of seeds; for example 0:1000")
    return span


def run_simulate(arguments: argparse.Namespace) -> None:
    """Runs the seeds. SystemExit: always, with the status."""
    if arguments.shrink and arguments.seed is None:
        arguments.parser.error("--shrink needs --seed")
    try:
        status = _run_seeds(arguments) if arguments.seeds else _run_one(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def run_seed(
    seed: int, recovery: bool = False, plan: list[Entry] | None = None, trace: list[str] | None = None
) -> list[str]:
    """Runs a seed, with `recovery=True` or without. Returns what failed; an exception of the simulation itself is a
    failure too."""
    try:
        return Trial(seed, plan, recovery or None, trace).run()
    except Exception:
        return [f"the simulation raised: {traceback.format_exc()}"]


# --- one seed ---------------------------------------------------------------------------------------------------------


def _run_one(arguments: argparse.Namespace) -> int:
    seed, recovery = arguments.seed, arguments.recovery
    plan = make_plan(seed)
    if arguments.shrink:
        if not run_seed(seed, recovery):
            print(f"seed {seed} passes; there is nothing to shrink")
            return 0
        plan = shrink(seed, recovery or None)
    print(f"plan of seed {seed}" + (", the smallest that fails" if arguments.shrink else ""))
    for entry in plan:
        print(f"  {entry}")
    trace: list[str] = []
    failures = run_seed(seed, recovery, plan, trace)
    print("what happened")
    for line in trace:
        print(f"  {line}")
    _print_result(Failed(seed, failures))
    return 1 if failures else 0


def _print_result(result: Failed) -> None:
    if result.failures:
        print(f"seed {result.seed} FAILED")
        for failure in result.failures:
            print(f"  {failure}")
    else:
        print(f"seed {result.seed} passed")


# --- many seeds -------------------------------------------------------------------------------------------------------


def _run_seeds(arguments: argparse.Namespace) -> int:
    seeds: range = arguments.seeds
    failed = 0
    print(f"running {len(seeds)} seeds", flush=True)
    for result in _results(seeds, arguments.jobs, arguments.recovery):
        failed += 1
        _print_result(result)
        sys.stdout.flush()
    print(f"{len(seeds)} seeds, {failed} failed")
    if failed:
        print("python -m cpspika simulate --seed N --shrink shows the smallest plan that fails")
    return 1 if failed else 0


def _results(seeds: range, jobs: int, recovery: bool) -> Iterator[Failed]:
    """The seeds that failed, in order."""
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    if jobs == 1:
        for chunk in chunks:
            yield from _run_chunk(recovery, chunk)
        return
    with shared.without_ctrl_c():  # this process ends the workers
        # A fresh process each, not a fork: it has none of this one's state, and works on every platform.
        pool = multiprocessing.get_context("spawn").Pool(jobs)
    with pool:
        for results in pool.imap(partial(_run_chunk, recovery), chunks):
            yield from results


def _run_chunk(recovery: bool, seeds: range) -> list[Failed]:
    results = [Failed(seed, run_seed(seed, recovery)) for seed in seeds]
    return [result for result in results if result.failures]
