"""Clients that we did not write, each in a process of its own, do their everyday work against the broker.

What they do is in clients/, a script each: declare, bind, publish with confirms, consume with acks, get, a mandatory
return, a call over direct reply-to, big bodies, a refusal, close.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cpspika.broker import Served, serve
from tests.support.waiting import until

SCRIPTS = Path(__file__).parent / "clients"
SECONDS = 60


@pytest.fixture
def served(caplog: pytest.LogCaptureFixture) -> Iterator[Served]:
    with serve() as broker:
        yield broker
    assert caplog.records == [], "the broker failed, and said so in the log"


def run(*command: str, said: bytes = b"") -> str:
    """Runs a program to its end; returns what it printed."""
    done = subprocess.run(command, input=said, capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return done.stdout.decode()


def needs(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "by_url"), [("pika", True), ("amqp", False), ("aio_pika", True), ("amqpstorm", False)]
)
def test_a_client_from_pypi(served: Served, module: str, by_url: bool) -> None:
    needs(module)
    where = [served.url] if by_url else [served.host, str(served.port)]
    assert run(sys.executable, str(SCRIPTS / f"with_{module}.py"), *where) == "done\n"
    until(lambda: not served.sessions, "the end of the connection")
    assert [binding for binding in served.bindings if "rpc" not in binding.source] == []
    assert served.memory.bytes == 0


def python_2_7() -> tuple[str, dict[str, str]]:
    """A Python 2.7 that can import pika 0.5.2, and its environment; skips the test where there is none.

    CPSPIKA_PIKA_0_5_2 may name the directory of its unpacked source.
    """
    environment = {"PYTHONPATH": os.environ.get("CPSPIKA_PIKA_0_5_2", "")}
    pyenv = (Path.home() / ".pyenv" / "versions").glob("2.7.*/bin/python")
    for python in filter(None, (shutil.which("python2.7"), *map(str, pyenv))):
        command = [python, "-c", "import pika; pika.AsyncoreConnection"]  # later versions renamed it
        if not subprocess.run(command, capture_output=True, env=environment, check=False).returncode:
            return python, environment
    pytest.skip("no Python 2.7 with pika 0.5.2 (python2.7 -m pip install pika==0.5.2, or CPSPIKA_PIKA_0_5_2)")


@pytest.mark.slow
def test_the_ancestor_over_0_8(served: Served) -> None:
    python, environment = python_2_7()
    command = [python, str(SCRIPTS / "with_pika_0_5_2.py"), served.host, str(served.port)]
    done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False, env=environment)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    assert done.stdout == b"done\n"
    until(lambda: not served.sessions, "the end of the connection")
    assert served.queues == {}


@pytest.fixture
def tool(served: Served) -> Callable[..., str]:
    """Runs one of Debian's amqp-tools against the broker."""

    def run_tool(name: str, *options: str, said: bytes = b"") -> str:
        if shutil.which(name) is None:
            pytest.skip("amqp-tools (Debian's package) is not installed")
        return run(name, f"--server={served.host}", f"--port={served.port}", *options, said=said)

    return run_tool


def test_amqp_tools(served: Served, tool: Callable[..., str]) -> None:
    served.call(lambda: served.vhosts["/"].declare_queue("q", False, True, False, False, {}, None))
    tool("amqp-publish", "--routing-key=q", "--body=hello", "--content-type=text/plain", "--persistent")
    (message,) = served.queues["q"].messages
    assert (message.body, message.properties.content_type, message.properties.delivery_mode) == (
        b"hello",
        "text/plain",
        2,
    )
    tool("amqp-publish", "--routing-key=q", said=b"x" * 300_000)
    assert tool("amqp-get", "--queue=q") == "hello"
    assert tool("amqp-consume", "--queue=q", "--count=1", "cat") == "x" * 300_000
    assert served.queues["q"].messages == []
    done = subprocess.run(
        ["amqp-get", f"--port={served.port}", "--queue=q"], capture_output=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 2, "amqp-get says so where the queue is empty"


def test_amqp_tools_bind_and_are_refused(served: Served, tool: Callable[..., str]) -> None:
    tool("amqp-declare-queue", "--queue=q")
    served.call(lambda: served.vhosts["/"].bind("amq.topic", "queue", "q", "a.#", {}, None))
    tool("amqp-publish", "--exchange=amq.topic", "--routing-key=a.b", "--body=x")
    assert tool("amqp-get", "--queue=q") == "x"
    refused = subprocess.run(
        ["amqp-get", f"--port={served.port}", "--queue=missing"], capture_output=True, timeout=SECONDS, check=False
    )
    assert b"no queue 'missing' in vhost '/'" in refused.stderr
    assert tool("amqp-delete-queue", "--queue=q").strip() == "0"


def test_the_url_is_good_for_amqp_tools(served: Served, tool: Callable[..., str]) -> None:
    """They take it at its word: after a slash comes the virtual host, and an empty one is not "/"."""
    if shutil.which("amqp-declare-queue") is None:
        pytest.skip("amqp-tools (Debian's package) is not installed")
    run("amqp-declare-queue", f"--url={served.url}", "--queue=q")
    assert "q" in served.queues
