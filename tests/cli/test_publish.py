"""`publish`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cpspika import BasicProperties
from cpspika.broker import serve
from tests.cli.conftest import DEADLINE, CommandLine

Connect = Callable[[str], Any]


def bodies(channel: Any, queue: str) -> list[bytes]:
    found = []
    while (message := channel.basic_get(queue, no_ack=True)) is not None:
        found.append(message.body)
    return found


def test_a_message_with_all_properties(cli: CommandLine, queue: str, connected: Connect) -> None:
    options = {
        "--content-type": "text/plain",
        "--content-encoding": "utf-8",
        "--priority": "3",
        "--correlation-id": "c",
        "--reply-to": "r",
        "--expiration": "60000",
        "--message-id": "m",
        "--timestamp": "2026-01-31T12:00:00Z",
        "--type": "t",
        "--user-id": "guest",
        "--app-id": "a",
    }
    flat = [word for pair in options.items() for word in pair]
    headers = ["--header", "text=1", "--header", "number:=1", "--header", 'exact:={"$decimal": "1.50"}']
    done = cli("publish", "--routing-key", queue, "é", "--json", *flat, *headers)
    assert done.json == {"published": 1, "confirmed": 1}
    message = connected(cli.url).basic_get(queue, no_ack=True)
    assert message.body == "é".encode()
    assert message.properties == BasicProperties(
        content_type="text/plain",
        content_encoding="utf-8",
        headers={"text": "1", "number": 1, "exact": Decimal("1.50")},
        delivery_mode=2,
        priority=3,
        correlation_id="c",
        reply_to="r",
        expiration="60000",
        message_id="m",
        timestamp=datetime(2026, 1, 31, 12, tzinfo=timezone.utc),
        type="t",
        user_id="guest",
        app_id="a",
    )


def test_bodies_of_files_and_lines(cli: CommandLine, queue: str, connected: Connect, tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"one\n\xff\n\nlast")
    key = ("--routing-key", queue)
    cli("publish", *key, "--file", str(file), "--transient")
    channel = connected(cli.url)
    message = channel.basic_get(queue, no_ack=True)
    assert (message.body, message.properties.delivery_mode) == (b"one\n\xff\n\nlast", 1)
    assert cli("publish", *key, "--file", str(file), "--lines", "--json").json["confirmed"] == 4
    assert bodies(channel, queue) == [b"one", b"\xff", b"", b"last"]
    cli("publish", *key, "--count", "3", "x")
    assert bodies(channel, queue) == [b"x"] * 3
    assert "No such file" in cli("publish", *key, "--file", str(tmp_path / "none"), status=1).err


def test_standard_input(cli: CommandLine, queue: str, connected: Connect) -> None:
    cli.process("publish", "--routing-key", queue, stdin=b"a\nb")
    assert "2 messages" in cli.process("publish", "--routing-key", queue, "--lines", stdin=b"c\nd").out
    assert bodies(connected(cli.url), queue) == [b"a\nb", b"c", b"d"]


def test_a_line_is_published_when_it_comes(on_embedded: CommandLine, embedded_queue: str, connected: Connect) -> None:
    """As of `tail -F`: the next one may come much later."""
    channel = connected(on_embedded.url)
    arrived = channel.consume(embedded_queue, no_ack=True, inactivity_timeout=DEADLINE)
    command = ("publish", "--routing-key", embedded_queue, "--lines")
    with on_embedded.start(*command, stdin=subprocess.PIPE) as running:
        assert running.stdin is not None
        for line in (b"one", b"two"):
            os.write(running.stdin.fileno(), line + b"\n")
            assert next(arrived).body == line
        running.stdin.close()
        assert running.wait(DEADLINE) == 0
    arrived.close()


def test_a_message_that_reaches_no_queue(cli: CommandLine, name: str) -> None:
    done = cli("publish", "--routing-key", name, "m", status=1)
    assert "312" in done.err
    assert name in done.err
    assert done.err.count("\n") == 1
    cli("publish", "--routing-key", name, "m", "--allow-unroutable")
    assert "unconfirmed" in cli("publish", "--routing-key", name, "m", "--no-confirm").out


@pytest.mark.parametrize("more", [[], ["--no-confirm"]])
def test_an_exchange_that_does_not_exist(cli: CommandLine, name: str, more: list[str]) -> None:
    assert "404" in cli("publish", "--exchange", name, "--routing-key", "", "m", *more, status=1).err


def test_the_line_that_failed_is_said(on_embedded: CommandLine, tmp_path: Path, name: str, connected: Connect) -> None:
    """A queue that refuses what is more than its limit: lines before are confirmed."""
    limit = {"x-max-length": 3, "x-overflow": "reject-publish"}
    channel = connected(on_embedded.url)
    channel.queue_declare(name, durable=True, arguments=limit)
    file = tmp_path / "lines"
    file.write_bytes(b"m\n" * 5)
    done = on_embedded("publish", "--routing-key", name, "--file", str(file), "--lines", status=1)
    assert "line 4: " in done.err
    assert "the 3 before it are confirmed" in done.err
    channel.queue_delete(name)


def test_a_broker_that_blocks_publishers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as broker:
        monkeypatch.setenv("CPSPIKA_URL", broker.url)
        cli = CommandLine(broker.url, capsys)
        cli("declare", "queue", "q", "--durable")
        broker.block()
        done = cli("publish", "--routing-key", "q", "m", "--timeout", "0.3", status=1)
        assert done.err.startswith("the broker blocks publishers; waiting\n")
        assert "confirmed nothing for 0.3 s" in done.err
        # Without --timeout it waits for as long as that takes.
        with cli.start("publish", "--routing-key", "q", "m") as running:
            assert running.stderr is not None
            assert running.stderr.readline() == b"the broker blocks publishers; waiting\n"
            broker.unblock()
            assert running.wait(DEADLINE) == 0
            assert running.stderr.read() == b"the broker takes messages again\n", "told once"
        assert cli("get", "q").out == "m\n"


def test_a_broker_that_is_silent(on_embedded: CommandLine, embedded_queue: str) -> None:
    """As one short of memory, which reads no more: the command ends with what it knows."""
    with serve(memory_high=1000) as broker:
        url = ("--url", broker.url)
        on_embedded("declare", "queue", "q", "--durable", *url)
        many = ("--count", "5000", "x" * 200, "--timeout", "0.3")
        assert "confirmed nothing for 0.3 s" in on_embedded("publish", "--routing-key", "q", *many, *url, status=1).err
