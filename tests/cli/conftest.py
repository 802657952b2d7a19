"""A broker for each test, and the command line: in this process or in one of its own."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

import cpspika
from cpspika.cli import main
from cpspika.cli.shared import URL
from tests.support import ROOT

DEADLINE = 60.0  # seconds for a process; a busy machine may take long to give it its time


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The only line of standard output."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class CommandLine:
    """Calls commands for one broker, by the environment variable."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]):
        self.url = url
        self._capsys = capsys

    def __call__(self, *arguments: str, status: int | None = 0) -> Done:
        """Runs a command in this process. status: the one that it must have; None: any."""
        self._capsys.readouterr()
        try:
            main(arguments)
            ended = 0
        except SystemExit as end:
            ended = int(end.code or 0)
        done = Done(ended, *self._capsys.readouterr())
        assert status in (None, done.status), done
        return done

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """Starts a command in a process of its own."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-m", "cpspika", *arguments]
        return subprocess.Popen(command, **{**pipes, "env": environment(self.url), **options})

    def process(self, *arguments: str, stdin: bytes = b"", status: int = 0) -> Done:
        """Runs a command in a process of its own."""
        with self.start(*arguments, stdin=subprocess.PIPE) as running:
            out, err = running.communicate(stdin, DEADLINE)
        done = Done(running.returncode, out.decode(), err.decode())
        assert done.status == status, done
        return done


def environment(url: str) -> dict[str, str]:
    return {**os.environ, URL: url, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


@pytest.fixture
def url(broker: Any) -> str:
    return str(broker.url())


@pytest.fixture
def cli(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """The command line, for each broker."""
    monkeypatch.setenv(URL, url)
    return CommandLine(url, capsys)


@pytest.fixture
def on_embedded(embedded: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """The command line, for the embedded broker alone: where the broker is not the point."""
    monkeypatch.setenv(URL, embedded.url)
    return CommandLine(embedded.url, capsys)


@pytest.fixture
def name() -> str:
    """A name that no other test has."""
    return f"cli-{secrets.token_hex(4)}"


@pytest.fixture
def connected() -> Iterator[Callable[[str], Any]]:
    """A function that opens a channel for a URL."""
    connections: list[Any] = []

    def connect(url: str) -> Any:
        connections.append(cpspika.BlockingConnection(url, timeout=DEADLINE))
        return connections[-1].channel()

    yield connect
    for connection in connections:
        connection.close()


@pytest.fixture
def queue(cli: CommandLine, name: str, connected: Callable[[str], Any]) -> Iterator[str]:
    """A durable queue on the broker of `cli`."""
    channel = connected(cli.url)
    channel.queue_declare(name, durable=True)
    yield name
    channel.queue_delete(name)


@pytest.fixture
def embedded_queue(on_embedded: CommandLine, name: str, connected: Callable[[str], Any]) -> Iterator[str]:
    """A durable queue on the broker of `on_embedded`."""
    channel = connected(on_embedded.url)
    channel.queue_declare(name, durable=True)
    yield name
    channel.queue_delete(name)
