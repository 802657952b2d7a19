"""mypy --strict and pyright (strict) accept right programs, and name each wrong line of wrong ones, in every style."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cpspika import parameters

ROOT = Path(parameters.__file__).parent.parent
WRONG = "# wrong"
NEEDS = {"connecting_twisted": "twisted", "connecting_trio": "trio"}

# Each line that a checker must complain of ends with WRONG; it must complain of no other.
PROGRAMS = {
    "connecting": """
        import ssl
        from pathlib import Path

        import cpspika
        from cpspika import tasks
        from cpspika.adapters import asyncio_adapter
        from cpspika.threads import ThreadedConnection

        context = ssl.create_default_context()
        right = cpspika.ConnectionParameters("localhost", heartbeat=30, ssl=context, protocol="0-8")
        cpspika.connect(right, heartbeat=None, virtual_host="/", on_done=print)
        cpspika.connect(["amqp://one", right], connection_timeout=2.5, frame_max=8192, client_properties={"a": 1})
        cpspika.BlockingConnection("amqp://", heartbeat=30, timeout=1.0)
        cpspika.connect(right, cafile=Path("ca.pem"), certfile="c.pem", keyfile=None, server_hostname="b")
        cpspika.connect(right, tcp_keepalive=True)
        cpspika.connect(right, tcp_keepalive={"idle": 60, "count": 3})
        cpspika.connect(right, tcp_keepalive="often")  # wrong
        cpspika.connect(right, cafile=5)  # wrong
        cpspika.connect(right, heartbaet=30)  # wrong
        cpspika.connect(right, heartbeat="often")  # wrong
        cpspika.connect(right, protocol="1.0")  # wrong
        cpspika.connect(right, ssl=True)  # wrong
        cpspika.ConnectionParameters("localhost", heartbaet=30)  # wrong
        right.replace(heartbaet=30)  # wrong
        cpspika.BlockingConnection("amqp://", heartbaet=30)  # wrong
        cpspika.SelectConnection("amqp://", frame_max="big")  # wrong
        cpspika.AsyncoreConnection("amqp://", heartbaet=30)  # wrong
        ThreadedConnection("amqp://", heartbaet=30)  # wrong
        tasks.connect("amqp://", heartbaet=30)  # wrong
        asyncio_adapter.connect("amqp://", heartbaet=30)  # wrong
    """,
    "connecting_twisted": """
        from cpspika.adapters import twisted_adapter

        twisted_adapter.connect("amqp://", heartbeat=30)
        twisted_adapter.connect("amqp://", heartbaet=30)  # wrong
    """,
    "connecting_trio": """
        from cpspika.adapters import trio_adapter

        trio_adapter.connect("amqp://", heartbeat=30)
        trio_adapter.connect("amqp://", heartbaet=30)  # wrong
    """,
    "attributes": """
        from typing import Any

        import cpspika
        from cpspika import tasks
        from cpspika.adapters.asyncio_adapter import AsyncioChannel, AsyncioConnection, AsyncioReactor
        from cpspika.threads import ThreadedChannel, ThreadedConnection

        def connections(
            one: cpspika.SyncConnection, two: tasks.TaskConnection, three: AsyncioConnection, four: ThreadedConnection
        ) -> None:
            for connection in (one, two, three, four):
                numbers: list[int] = [connection.heartbeat, connection.frame_max, connection.channel_max]
                bools: list[bool] = [connection.is_open, connection.is_blocked, connection.writable]
                properties: dict[str, Any] = connection.server_properties
                reason: cpspika.AMQPError | None = connection.close_reason
                host: str = connection.parameters.host
                connection.reactor.call_soon(print)
                core: cpspika.Connection = connection.core
                connection.abort()
                print(numbers, bools, properties, reason, host, core)
                print(connection.is_opn)  # wrong
                connection.is_open = False  # wrong
            reactor: AsyncioReactor = three.reactor
            print(reactor, one.is_confirming)  # wrong

        def channels(
            one: cpspika.SyncChannel, two: tasks.TaskChannel, three: AsyncioChannel, four: ThreadedChannel
        ) -> None:
            for channel in (one, two, three, four):
                bools: list[bool] = [channel.is_open, channel.writable, channel.is_confirming, channel.has_consumers]
                permitted: bool = channel.transmission_permitted
                number: int = channel.number
                reason: cpspika.AMQPError | None = channel.close_reason
                print(bools, permitted, number, reason)
                print(channel.transmission_permited)  # wrong
                text: str = channel.number  # wrong
                print(text)
    """,
    "operations": """
        import cpspika
        from cpspika import tasks
        from cpspika.adapters import asyncio_adapter
        from cpspika.threads import ThreadedConnection

        def on_message(message: cpspika.Message) -> None:
            message.ack()

        def calls(one: cpspika.SyncChannel) -> None:
            count: int = one.queue_declare("q", durable=True).message_count
            message: cpspika.Message | None = one.basic_get("q")
            one.basic_consume("q", on_message)
            one.queue_declare("q", durabel=True)  # wrong
            one.basic_ack("1")  # wrong
            one.queue_declare("q", on_done=print)  # wrong
            one.basic_consume("q", lambda: None)  # wrong
            one.queue_declair("q")  # wrong
            for each in one.consume("q", inactivity_timeout=1.5):
                print(each.body, count, message)
            one.consume("q", no_akc=True)  # wrong

        async def main() -> None:
            async with asyncio_adapter.connect("amqp://") as connection, connection.channel() as channel:
                ok = await channel.queue_declare("q")
                count: int = ok.message_count
                async for message in channel.consume("q"):
                    print(message.body, count)
                await channel.queue_declare("q", durabel=True)  # wrong
                print(ok.mesage_count)  # wrong

        async def task() -> int:
            connection = await tasks.connect("amqp://")
            channel = await connection.channel()
            wrong: str = await channel.queue_purge("q")  # wrong
            print(wrong)
            return await channel.queue_purge("q")

        result: int = tasks.run(task())

        with ThreadedConnection("amqp://") as threaded, threaded.channel() as shared:
            shared.basic_publish("", "q", b"hello")
            shared.basic_publish("", "q", 5)  # wrong
    """,
}


def mypy(directory: Path) -> list[tuple[str, int]]:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file=", "--no-error-summary"]
    done = subprocess.run([*command, str(directory)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    remarks = [line.split(":")[:2] for line in done.stdout.splitlines() if ": error: " in line]
    return [(file, int(line)) for file, line in remarks]


def pyright(directory: Path) -> list[tuple[str, int]]:
    pytest.importorskip("pyright")
    config = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
    (directory / "pyrightconfig.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable],
        capture_output=True,
        text=True,
        cwd=directory,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    remarks = json.loads(done.stdout)["generalDiagnostics"]
    return [(each["file"], each["range"]["start"]["line"] + 1) for each in remarks if each["severity"] == "error"]


@pytest.fixture(scope="module", params=[mypy, pyright], ids=["mypy", "pyright"])
def named(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[int]]:
    """The lines that a checker names, by program; it runs once for all of them."""
    directory = tmp_path_factory.mktemp("typed")
    lines: dict[str, set[int]] = {}
    for name, text in PROGRAMS.items():
        if importlib.util.find_spec(NEEDS.get(name, "cpspika")) is not None:
            (directory / f"{name}.py").write_text(textwrap.dedent(text))
            lines[name] = set()
    for file, line in request.param(directory):
        assert Path(file).parent == directory, f"a remark on the library itself: {file}:{line}"
        lines[Path(file).stem].add(line)
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_type_checker_names_the_wrong_lines_and_no_other(named: dict[str, set[int]], name: str) -> None:
    if name not in named:
        pytest.skip(f"{NEEDS[name]} is not installed")
    lines = list(enumerate(textwrap.dedent(PROGRAMS[name]).splitlines(), 1))
    missed = [line for number, line in lines if line.endswith(WRONG) and number not in named[name]]
    assert not missed, "passes, though it is wrong"
    assert not [line for number, line in lines if number in named[name] and not line.endswith(WRONG)], "is right"


def test_the_typed_options_are_the_options() -> None:
    typed = parameters.ConnectionOptions.__annotations__
    assert set(typed) == set(parameters._OPTIONS)
    keywords_only = set(typed) - {"host", "port", "virtual_host", "credentials"}
    assert set(parameters.LinkOptions.__annotations__) == keywords_only
