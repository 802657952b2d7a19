"""The simulator: seeds pass, each run is the same again, the oracle sees mistakes, plans shrink; and its command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from typing import Any

import pytest

import cpspika
from cpspika import tasks
from cpspika.errors import OperationTimeout
from cpspika.testing import Simulation
from cpspika.testing.plan import ACTIONS, FAULTS, Entry, make_plan, smallest
from cpspika.testing.trial import Trial, shrink
from tests.support import ROOT
from tests.support.mutants import MUTANTS, RECOVERY_MUTANTS, first_found, mutated

QUICK = (
    "confirm_settles_twice",
    "end_drops_an_on_done",
    "end_settles_in_reverse",
    "return_goes_to_the_oldest",
    "window_is_shifted_by_one",
    "acks_of_earlier_openings_are_sent",
    "bindings_are_not_recorded",
    "the_buffer_leaks",
    "transactions_survive_a_loss",
)


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "cpspika", "simulate", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False, **options)


# --- the seeds --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, 50))
def test_seeds_pass(first: int) -> None:
    failed = {seed: failures for seed in range(first, first + 50) if (failures := Trial(seed).run())}
    assert not failed, "python -m cpspika simulate --seed N --shrink shows more"


SEEDS = int(os.environ.get("CPSPIKA_SEEDS", "1500"))  # of the long tests; a release is tried with 10000


@pytest.mark.long
@pytest.mark.parametrize("options", [(), ("--recovery",)])
def test_very_many_seeds_pass(options: tuple[str, ...]) -> None:
    done = command("--seeds", f"0:{SEEDS}", "--jobs", "2", *options)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith(f"{SEEDS} seeds, 0 failed\n")


def test_the_plans_of_few_seeds_have_every_kind() -> None:
    plans = [make_plan(seed) for seed in range(200)]
    assert {entry.kind for plan in plans for entry in plan} == {*ACTIONS, *FAULTS}


def test_a_run_has_all_that_a_trial_is_for() -> None:
    """The programs of a few seeds meet every outcome; a workload that does nothing would pass every rule."""
    outcomes: set[Any] = set()
    crashes = lost = 0
    for seed in range(40):
        trial = Trial(seed)
        assert trial.run() == []
        outcomes |= {sent.outcome for sent in trial.oracle.sent}
        crashes += trial.oracle.crashes
        lost += sum(program.serial > 1 for program in trial.programs)
    assert outcomes >= {"confirmed", "refused", "returned", "unknown", "failed", "committed", "rolled back"}
    assert crashes
    assert lost


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--recovery"]])
def test_a_seed_gives_the_same_run_in_every_process(options: list[str]) -> None:
    line = ["--seed", "8", *options]
    runs = {command(*line, env={**os.environ, "PYTHONHASHSEED": hashes}).stdout for hashes in ("1", "2")}
    assert len(runs) == 1
    assert runs.pop().endswith("seed 8 passed\n")


# --- the oracle -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutant", QUICK)
def test_the_oracle_sees_a_mistake(mutant: str) -> None:
    assert first_found(mutant, 100) is not None


@pytest.mark.long
@pytest.mark.parametrize("mutant", sorted(MUTANTS | RECOVERY_MUTANTS))
def test_the_oracle_sees_each_mistake(mutant: str) -> None:
    assert first_found(mutant, 1000) is not None


# --- plans ------------------------------------------------------------------------------------------------------------


def test_leaving_an_entry_out_changes_no_other() -> None:
    plan = make_plan(5)
    assert [entry.dice(5).random() for entry in plan[1:]] == [entry.dice(5).random() for entry in make_plan(5)[1:]]
    assert len({entry.dice(5).random() for entry in plan}) == len(plan)


@pytest.mark.parametrize("needed", [(), (0,), (3, 17), (19,), tuple(range(20))])
def test_the_smallest_plan_has_what_is_needed_alone(needed: tuple[int, ...]) -> None:
    plan = [Entry(number, float(number), "publish") for number in range(20)]
    found = smallest(plan, lambda some: {entry.number for entry in some} >= set(needed))
    assert [entry.number for entry in found] == list(needed)


def test_a_plan_that_fails_shrinks_and_fails_still() -> None:
    with mutated("confirm_settles_twice"):
        seed = 1
        plan = shrink(seed)
        assert len(plan) == 1
        assert plan[0].kind in ("publish", "mistake")
        assert Trial(seed, plan).run()
    assert Trial(seed, plan).run() == []


# --- a program of one's own -------------------------------------------------------------------------------------------


def test_time_is_virtual(amqp_simulation: Simulation) -> None:
    simulation = amqp_simulation
    told: list[Any] = []
    cpspika.connect(
        simulation.url,
        reactor=simulation.reactor,
        on_done=lambda error, connection: told.append(connection),
        on_close=lambda connection, error: told.append(error),
    )
    simulation.run(lambda: told)
    simulation.run(86400)
    assert simulation.reactor.time() >= 86400
    assert told[0].is_open, "heartbeats kept the link for a day"
    for wire in list(simulation.net.wires.values()):
        wire.down.hole = True
    simulation.run(lambda: len(told) == 2)
    assert isinstance(told[1], cpspika.HeartbeatTimeout)


def test_every_style_on_plain_reactors_works() -> None:
    simulation = Simulation(hosts=("one", "two"))
    simulation.net.hosts["one"].refuses = True

    def program() -> Any:
        connection = yield tasks.connect(simulation.urls)
        channel = yield connection.channel()
        yield channel.queue_declare("q")
        yield connection.close()
        return connection.parameters.host

    assert tasks.run(program(), reactor=simulation.reactor) == "two"


def test_run_says_what_never_happens(amqp_simulation: Simulation) -> None:
    with pytest.raises(OperationTimeout, match="nothing is left that could happen"):
        amqp_simulation.run(lambda: False)

    def again() -> None:
        amqp_simulation.reactor.call_later(1, again)

    again()
    with pytest.raises(OperationTimeout, match="3600 s of virtual time"):
        amqp_simulation.run(lambda: False)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_the_command_runs_seeds(jobs: str) -> None:
    done = command("--seeds", "10:25", "--jobs", jobs)
    assert (done.returncode, done.stdout, done.stderr) == (0, "running 15 seeds\n15 seeds, 0 failed\n", "")


@pytest.mark.slow
def test_the_command_shows_a_run() -> None:
    done = command("--seed", "4")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "plan of seed 4"
    assert len([line for line in lines if " s  " in line and "----" not in line]) == len(make_plan(4))
    assert "what happened" in lines
    assert lines[-1] == "seed 4 passed"
    assert command("--seed", "4", "--shrink").stdout == "seed 4 passes; there is nothing to shrink\n"


@pytest.mark.slow
def test_the_command_finds_and_shrinks_a_failure() -> None:
    program = textwrap.dedent("""
        import sys
        from cpspika.cli import main
        from tests.support.mutants import mutated
        with mutated("confirm_settles_twice"):
            main(["simulate", *sys.argv[1:]])
    """)

    def broken(*arguments: str) -> tuple[int, list[str]]:
        line = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
        return done.returncode, done.stdout.splitlines()

    status, lines = broken("--seeds", "0:3")
    assert status == 1
    assert "seed 0 FAILED" in lines
    assert lines[-2].endswith(" failed")
    status, lines = broken("--seed", "0", "--shrink")
    assert status == 1
    assert lines[0] == "plan of seed 0, the smallest that fails"
    assert "publish" in lines[1]
    assert lines[2] == "what happened"
    assert "on_done was called 2 times" in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seeds", "7"], "'7' is no span of seeds; for example 0:1000"),
        (["--seeds", "9:3"], "'9:3' is no span of seeds"),
        (["--seeds", "0:3", "--jobs", "0"], "0 is less than 1"),
        (["--seeds", "0:3", "--shrink"], "--shrink needs --seed"),
        ([], "one of the arguments --seeds --seed is required"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], said: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_ends_the_command(jobs: str) -> None:
    line = [sys.executable, "-m", "cpspika", "simulate", "--seeds", "0:1000000", "--jobs", jobs]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, cwd=ROOT, start_new_session=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running 1000000 seeds\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted\n")
