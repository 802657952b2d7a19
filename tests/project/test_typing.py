"""What help() and type checkers see: the facade's operations are the core's, without on_done."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import cpspika
from cpspika import tasks
from cpspika.adapters import asyncio_adapter
from cpspika.styles import stubs
from cpspika.styles.lifting import operations, registrations
from tests.support import ROOT

PAIRS = [
    (cpspika.Connection, cpspika.SyncConnection),
    (cpspika.Channel, cpspika.SyncChannel),
    (cpspika.Connection, tasks.TaskConnection),
    (cpspika.Channel, tasks.TaskChannel),
    (cpspika.Connection, asyncio_adapter.AsyncioConnection),
    (cpspika.Channel, asyncio_adapter.AsyncioChannel),
]
OPERATIONS = [
    pytest.param(core, facade, name, id=f"{facade.__name__}.{name}")
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
AWAITED = """\
from cpspika import tasks
from cpspika.adapters import asyncio_adapter

async def main() -> None:
    async with asyncio_adapter.connect("embedded://") as connection, connection.channel() as channel:
        reveal_type(await channel.queue_declare(exclusive=True))
        async for message in channel.consume("q"):
            reveal_type(message)
        await channel.queue_declare(exclusiv=True)

async def task() -> None:
    async with await tasks.connect("embedded://") as connection, await connection.channel() as channel:
        reveal_type(await channel.queue_declare(exclusive=True))
        async for message in channel.consume("q"):
            reveal_type(message)
        await channel.queue_declare(exclusiv=True)

reveal_type(tasks.run(task()))
"""


@pytest.mark.parametrize(("core", "facade", "name"), OPERATIONS)
def test_a_lifted_operation_has_the_signature_and_docstring_of_the_cores(core: type, facade: type, name: str) -> None:
    whole, lifted = inspect.signature(getattr(core, name)), inspect.signature(getattr(facade, name))
    assert "on_done" in whole.parameters
    assert whole.parameters["on_done"].kind is inspect.Parameter.KEYWORD_ONLY
    without = [parameter for name, parameter in whole.parameters.items() if name != "on_done"]
    shown = list(lifted.parameters.values())
    assert shown[: len(without)] == without
    waits = facade in (cpspika.SyncConnection, cpspika.SyncChannel)
    assert [parameter.name for parameter in shown[len(without) :]] == ["timeout"] * waits
    summaries = [inspect.getdoc(getattr(each, name)).partition("\n")[0] for each in (core, facade)]
    assert summaries[0] == summaries[1]
    assert len(summaries[0]) > 15
    assert getattr(facade, name).__name__ == name


@pytest.mark.parametrize(("core", "facade"), PAIRS)
def test_handlers_are_lifted_too(core: type, facade: type) -> None:
    for name, registration in registrations(core).items():
        assert inspect.signature(getattr(facade, name)) == inspect.signature(registration)
        assert getattr(facade, name).__doc__ == registration.__doc__


@pytest.mark.parametrize("row", stubs.STYLES, ids=lambda row: row.module)
def test_the_stub_of_a_style_is_up_to_date(row: stubs.Style) -> None:
    assert stubs.path(row).read_text("utf-8") == stubs.stub(row), "run python -m cpspika.styles.stubs"


def test_help_shows_them() -> None:
    shown = pydoc.render_doc(cpspika.SyncChannel.basic_consume, renderer=pydoc.plaintext)
    assert "on_done" not in shown
    plain = " ".join(shown.replace("'", "").split())  # Python 3.13 gives each parameter a line, 3.14 drops the quotes
    assert "queue: str, on_message: OnMessage, no_ack: bool = False" in plain
    assert "Starts a consumer: on_message" in shown


def check(directory: Path, text: str) -> list[str]:
    """What a type checker says of a program: "kind: text" of each remark."""
    pytest.importorskip("mypy")
    program = directory / "program.py"
    program.write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file=", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    ours = [line.split(": ", 2)[1:] for line in done.stdout.splitlines() if line.startswith(str(program))]
    return [f"{kind}: {told}" for kind, told in ours if " defined in " not in told]


@pytest.mark.slow
def test_a_type_checker_sees_them(tmp_path: Path) -> None:
    told = check(tmp_path, TYPED)
    results = ["cpspika.client.operations.QueueDeclareOk", "cpspika.wire.message.Message | None", '"bool"']
    assert [result in line for line, result in zip(told, results, strict=False)] == [True] * 3, told
    errors = [line for line in told[3:] if line.startswith("error")]
    assert len(errors) == 3, told
    assert ['"exclusiv"' in errors[0], '"basic_ack"' in errors[1], '"on_done"' in errors[2]] == [True] * 3, told


@pytest.mark.slow
def test_a_type_checker_sees_what_is_awaited(tmp_path: Path) -> None:
    told = check(tmp_path, AWAITED)
    seen = ["fallback=cpspika.client.operations.QueueDeclareOk", "cpspika.wire.message.Message", '"exclusiv"']
    assert [part in line for line, part in zip(told, [*seen, *seen, "None"], strict=True)] == [True] * 7, told
