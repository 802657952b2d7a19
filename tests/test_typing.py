"""What help() and type checkers see: the facade's operations are the core's, without on_done."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import cpspika
from cpspika import stubs
from cpspika.lifting import operations, registrations

PAIRS = [
    (cpspika.Connection, cpspika.SyncConnection),
    (cpspika.Channel, cpspika.SyncChannel),
]
OPERATIONS = [
    pytest.param(core, facade, name, id=f"{core.__name__}.{name}")
    for core, facade in PAIRS
    for name in operations(core)
]
TYPED = """\
import cpspika

with cpspika.BlockingConnection("amqp://localhost") as connection, connection.channel() as channel:
    reveal_type(channel.queue_declare(exclusive=True))
    reveal_type(channel.basic_get("q"))
    reveal_type(channel.basic_publish(routing_key="q", body="text"))
    channel.basic_consume("q", lambda message: print(message.body))
    channel.queue_declare(exclusiv=True)
    channel.basic_ack("1")
    channel.queue_declare("q", on_done=print)
"""


@pytest.mark.parametrize(("core", "facade", "name"), OPERATIONS)
def test_a_lifted_operation_has_the_signature_and_docstring_of_the_cores(core: type, facade: type, name: str) -> None:
    whole, lifted = inspect.signature(getattr(core, name)), inspect.signature(getattr(facade, name))
    assert "on_done" in whole.parameters
    assert whole.parameters["on_done"].kind is inspect.Parameter.KEYWORD_ONLY
    without = [parameter for name, parameter in whole.parameters.items() if name != "on_done"]
    assert list(lifted.parameters.values()) == without
    assert getattr(facade, name).__doc__ == getattr(core, name).__doc__
    assert len(getattr(core, name).__doc__) > 20
    assert getattr(facade, name).__name__ == name


@pytest.mark.parametrize(("core", "facade"), PAIRS)
def test_handlers_are_lifted_too(core: type, facade: type) -> None:
    for name, registration in registrations(core).items():
        assert inspect.signature(getattr(facade, name)) == inspect.signature(registration)
        assert getattr(facade, name).__doc__ == registration.__doc__


@pytest.mark.parametrize("row", stubs.STYLES, ids=lambda row: row.place)
def test_the_stub_of_a_style_is_up_to_date(row: stubs.Style) -> None:
    assert stubs.path(row).read_text("utf-8") == stubs.stub(row), "run python -m cpspika.stubs"


def test_help_shows_them() -> None:
    shown = pydoc.render_doc(cpspika.SyncChannel.basic_consume, renderer=pydoc.plaintext)
    assert "on_done" not in shown
    spaced = " ".join(shown.split())  # Python 3.13 gives each parameter a line
    assert "queue: 'str', on_message: 'OnMessage', no_ack: 'bool' = False" in spaced
    assert "Starts a consumer (basic.consume)" in shown


def test_a_type_checker_sees_them(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(TYPED)
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file=", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    told = [f"{kind}: {text}" for _, kind, text in (line.split(": ", 2) for line in done.stdout.splitlines()[:-1])]
    results = ["cpspika.channel.QueueDeclareOk", "cpspika.message.Message | None", '"bool"']
    assert [result in line for line, result in zip(told, results, strict=False)] == [True] * 3, done.stdout
    errors = [line for line in told[3:] if line.startswith("error")]
    assert len(errors) == 3, done.stdout
    assert ['"exclusiv"' in errors[0], '"basic_ack"' in errors[1], '"on_done"' in errors[2]] == [True] * 3, done.stdout
