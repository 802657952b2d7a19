"""What all commands share: help, errors in one line, exit status, Ctrl-C, a pipe that closes, no secrets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from cpspika.cli import COMMANDS, main
from cpspika.cli.shared import STATUS, masked
from tests.cli.conftest import DEADLINE, CommandLine, environment

SECRET = "hunter2"
NOBODY = f"amqp://someone:{SECRET}@127.0.0.1:1/"  # nothing listens at port 1
OWN_HELP = ("broker", "simulate")  # have no broker to connect to


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, on_embedded: CommandLine) -> None:
    text = on_embedded(command, "--help").out
    if command not in OWN_HELP:
        assert f"example:\n  cpspika {command}" in text or "\n  tail -F" in text
        assert STATUS in text


@pytest.mark.parametrize("kind", ["queue", "exchange"])
@pytest.mark.parametrize("command", ["declare", "delete"])
def test_help_of_a_kind_has_an_example(command: str, kind: str, on_embedded: CommandLine) -> None:
    assert f"  cpspika {command} {kind}" in on_embedded(command, kind, "--help").out


def test_the_list_of_commands_is_whole(on_embedded: CommandLine) -> None:
    text = on_embedded("--help").out
    assert all(f"\n    {command} " in text for command in COMMANDS)


def test_the_console_script_is_the_same() -> None:
    found = [entry for entry in entry_points(group="console_scripts") if entry.name == "cpspika"]
    if not found:
        pytest.skip("cpspika is not installed here: pip install -e .")
    assert found[0].load() is main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "'nonsense'"),
        (["get"], "QUEUE"),
        (["consume", "q", "--count", "0"], "less than 1"),
        (["ping", "--timeout", "-1"], "no number of seconds"),
        (["ping", "http://host/"], "amqp://"),
        (["ping", "amqp://host/?nope=1"], "'nope'"),
        (["ping", "amqp://a/", "--url", "amqp://b/"], "once"),
        (["publish", "--routing-key", "q", "body", "--lines"], "--lines"),
        (["publish", "--routing-key", "q", "body", "--header", "x"], "NAME=TEXT"),
        (["publish", "--routing-key", "q", "body", "--header", "x:=y"], "no JSON"),
        (["publish", "--routing-key", "q", "body", "--priority", "300"], "priority"),
        (["tail", ""], "default exchange"),
        (["bench", "--size", "7"], "too small"),
        (["dump", "q", "-", "--json"], "--json"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(arguments: list[str], said: str, on_embedded: CommandLine) -> None:
    done = on_embedded(*arguments, status=2)
    assert done.out == ""
    assert said in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["ping", NOBODY],
        ["ping", NOBODY, "--json"],
        ["doctor", NOBODY],
        ["doctor", NOBODY, "--json"],
        ["bench", NOBODY],
        ["get", "q", "--url", NOBODY],
        ["get", "q", NOBODY],
        ["ping", f"amqp://someone:{SECRET}/x@127.0.0.1:1/"],
        ["ping", f"amqp://someone:{SECRET}#@127.0.0.1:1/"],
        ["publish", "--routing-key", "q", "--file", NOBODY],
    ],
)
def test_no_password_is_printed(arguments: list[str], on_embedded: CommandLine) -> None:
    done = on_embedded(*arguments, status=None)
    assert done.status in (1, 2)
    assert SECRET not in done.out + done.err
    assert done.out + done.err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://u:p@h/", "amqp://u:***@h/"),
        ("see amqp://u:p@ss@h/ there", "see amqp://u:***@h/ there"),
        ("amqp://h:5672/", "amqp://h:5672/"),
        ("amqp://u@h/", "amqp://u@h/"),
    ],
)
def test_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_the_environment_names_the_broker(on_embedded: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_embedded("ping", "--json").json["ok"]
    monkeypatch.setenv("CPSPIKA_URL", NOBODY)
    assert "127.0.0.1:1: " in on_embedded("ping", status=1).err
    assert on_embedded("ping", "--url", on_embedded.url, "--json").json["ok"]


def test_a_command_imports_only_its_own_module() -> None:
    script = "import sys; from cpspika.cli import _parser; _parser('ping'); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(NOBODY), check=True
    )
    loaded = set(done.stdout.split())
    assert "cpspika.cli.ping" in loaded
    assert not loaded & {"cpspika.cli.bench", "cpspika.cli.simulate", "multiprocessing", "rich", "matplotlib"}


def test_ctrl_c_ends_a_command_that_waits(on_embedded: CommandLine) -> None:
    with on_embedded.start("tail", "amq.fanout") as running:
        assert running.stderr is not None
        assert b"Ctrl-C" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=DEADLINE)
    assert (running.returncode, out, err) == (130, b"", b"")


@pytest.mark.skipif(os.name != "posix", reason="select.poll")
def test_a_pipe_that_closes_ends_a_command_that_waits(on_embedded: CommandLine) -> None:
    """Though no message comes that could not be written."""
    with on_embedded.start("tail", "amq.fanout") as running:
        assert running.stderr is not None
        assert running.stdout is not None
        running.stderr.readline()
        running.stdout.close()
        assert running.wait(DEADLINE) == 141
        assert running.stderr.read() == b""


def test_a_pipe_that_closes_ends_a_command_that_prints(on_embedded: CommandLine) -> None:
    with on_embedded.start("ping") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.wait(DEADLINE) == 141
        assert running.stderr.read() == b""


def test_a_result_in_an_encoding_that_lacks_its_letters(on_embedded: CommandLine, embedded_queue: str) -> None:
    on_embedded("publish", "--routing-key", embedded_queue, "é")
    on_embedded.process("get", embedded_queue, "--keep", "--json")
    with on_embedded.start(
        "declare", "queue", "é", env={**environment(on_embedded.url), "PYTHONIOENCODING": "ascii"}
    ) as running:
        out, err = running.communicate(timeout=DEADLINE)
    assert (running.returncode, err) == (0, b"")
    assert b"\\xe9" in out
    on_embedded("delete", "queue", "é")
