"""Each command as a real process, as a new user would call them one after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import CommandLine


@pytest.mark.long
def test_on_the_embedded_broker(on_embedded: CommandLine, name: str, tmp_path: Path) -> None:
    session(on_embedded, name, tmp_path)


@pytest.mark.long
def test_on_rabbitmq(node: Any, capsys: pytest.CaptureFixture[str], name: str, tmp_path: Path) -> None:
    session(CommandLine(node.url, capsys), name, tmp_path)


def session(cli: CommandLine, name: str, directory: Path) -> None:
    """The other commands (publish of standard input, tail, bench...) have processes in their own tests."""
    run = cli.process
    file = directory / "dump.jsonl"
    assert run("ping", "--json").json["ok"]
    assert run("doctor", "--json").json["ok"]
    assert run("declare", "queue", name, "--durable", "--json").json["queue"] == name
    run("declare", "exchange", name, "--type", "topic")
    run("bind", name, name, "--routing-key", "#")
    assert run("publish", "--exchange", name, "--routing-key", "a.b", "hello", "--json").json["confirmed"] == 1
    run("publish", "--routing-key", name, "--lines", stdin=b"one\ntwo\nthree\n")
    assert run("consume", name, "--count", "2", "--json").lines[0]["routing_key"] == "a.b"
    assert run("dump", name, str(file), "--json").json["messages"] == 2
    assert run("load", str(file), "--json").json["messages"] == 2
    assert run("get", name).out == "two\n"
    assert run("purge", name, "--json").json["message_count"] == 1
    run("unbind", name, name, "--routing-key", "#")
    run("delete", "exchange", name)
    assert run("bench", "--seconds", "0.5", "--rate", "20", "--json", "--quiet").json["received"] == 10
    assert "deleted" in run("delete", "queue", name).out
