"""`dump` and `load`: everything comes back as it was, and nothing is lost whatever comes between."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cpspika import BasicProperties
from cpspika.cli import transfer
from tests.cli.conftest import DEADLINE, CommandLine
from tests.cli.test_consume import fill, left

Connect = Callable[[str], Any]
HEADERS = {
    "bool": True,
    "int": -5,
    "big": 2**40,
    "float": 1.5,
    "whole": 2.0,
    "decimal": Decimal("1.50"),
    "text": "é",
    "bytes": b"\xff\x00",
    "time": datetime(2026, 1, 31, 12, tzinfo=timezone.utc),
    "table": {"inner": {"list": [1, "a", None, {"$bytes": "x"}]}},
    "none": None,
}
PROPERTIES = BasicProperties(
    content_type="text/plain", headers=HEADERS, delivery_mode=2, priority=1, timestamp=HEADERS["time"], message_id="m"
)


def test_messages_come_back_as_they_were(cli: CommandLine, queue: str, connected: Connect, tmp_path: Path) -> None:
    channel = connected(cli.url)
    channel.queue_bind(queue, "amq.topic", queue)
    channel.confirm_select()
    channel.basic_publish("amq.topic", queue, b"", PROPERTIES)
    encoded = channel.basic_get(queue, no_ack=True).encoded  # RabbitMQ 4 sorts the headers
    sent = [b"text", "é\u2028\n".encode(), b"\xff\x00", b""] * 40
    for body in sent:
        channel.basic_publish("amq.topic", queue, body, PROPERTIES)
    file = str(tmp_path / "dump")
    assert cli("dump", queue, file, "--json").json == {"queue": queue, "file": file, "messages": len(sent)}
    assert left(channel, queue) == 0
    assert cli("load", file, "--json").json == {"file": file, "messages": len(sent)}
    got = [channel.basic_get(queue, no_ack=True) for _ in sent]
    assert [message.body for message in got] == sent
    assert {message.encoded for message in got} == {encoded}, "the properties must be the same bytes"
    assert {message.exchange for message in got} == {""}
    assert channel.basic_get(queue) is None


def test_where_messages_go(cli: CommandLine, queue: str, connected: Connect, tmp_path: Path) -> None:
    channel = connected(cli.url)
    other = channel.queue_declare("", exclusive=True).queue
    for bound in (queue, other):
        channel.queue_bind(bound, "amq.topic", queue)
    channel.confirm_select()
    channel.basic_publish("amq.topic", queue, b"m")
    channel.queue_purge(other)
    file = str(tmp_path / "dump")
    assert "left in the queue" in cli("dump", queue, file, "--keep").out
    assert left(channel, queue) == 1
    cli("load", file)
    assert (left(channel, queue), left(channel, other)) == (2, 0)
    cli("load", file, "--queue", other)
    assert (left(channel, queue), left(channel, other)) == (2, 1)
    cli("load", file, "--route-again")
    assert (left(channel, queue), left(channel, other)) == (3, 2)


def test_a_part_of_a_queue(on_embedded: CommandLine, embedded_queue: str, connected: Connect, tmp_path: Path) -> None:
    channel = connected(on_embedded.url)
    fill(channel, embedded_queue, *[b"m"] * 30)
    assert on_embedded("dump", embedded_queue, str(tmp_path / "a"), "--count", "7", "--json").json["messages"] == 7
    assert left(channel, embedded_queue) == 23
    channel.basic_get(embedded_queue, no_ack=True)
    assert on_embedded("dump", embedded_queue, str(tmp_path / "b"), "--json").json["messages"] == 22
    assert on_embedded("dump", embedded_queue, str(tmp_path / "c"), "--json").json["messages"] == 0


def test_standard_output_and_input(on_embedded: CommandLine, embedded_queue: str, connected: Connect) -> None:
    channel = connected(on_embedded.url)
    fill(channel, embedded_queue, b"one", b"two")
    done = on_embedded.process("dump", embedded_queue, "-")
    assert [line["body"] for line in done.lines] == ["one", "two"]
    assert left(channel, embedded_queue) == 0
    on_embedded.process("load", "-", stdin=done.out.encode())
    assert left(channel, embedded_queue) == 2


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_file_is_not_overwritten(
    on_embedded: CommandLine, embedded_queue: str, connected: Connect, tmp_path: Path
) -> None:
    fill(connected(on_embedded.url), embedded_queue, b"one")
    file = tmp_path / "dump"
    file.touch()
    on_embedded("dump", embedded_queue, str(file))
    fill(connected(on_embedded.url), embedded_queue, b"two")
    assert "--append" in on_embedded("dump", embedded_queue, str(file), status=1).err
    on_embedded("dump", embedded_queue, str(file), "--append")
    assert [json.loads(line)["body"] for line in file.read_text().splitlines()] == ["one", "two"]


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        ('{"body": "a"}\n{"bo', ['{"body": "a"}']),  # an interrupted dump
        ('{"body": "a"}', ['{"body": "a"}']),  # a file of another program
        ("{" + 70000 * " ", []),
        ('{"body": "a"}\n' + "{" + 70000 * " ", ['{"body": "a"}']),
    ],
)
def test_a_last_line_that_is_cut_off(
    before: str, kept: list[str], on_embedded: CommandLine, embedded_queue: str, connected: Connect, tmp_path: Path
) -> None:
    fill(connected(on_embedded.url), embedded_queue, b"new")
    file = tmp_path / "dump"
    file.write_text(before)
    on_embedded("dump", embedded_queue, str(file), "--append")
    *old, new = file.read_text().splitlines()
    assert (old, json.loads(new)["body"]) == (kept, "new")


def test_a_full_disk_loses_nothing(
    on_embedded: CommandLine,
    embedded_queue: str,
    connected: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second fsync fails: what it was for is in the queue, and not in the file."""
    channel = connected(on_embedded.url)
    fill(channel, embedded_queue, *[b"%d" % number for number in range(20)])
    file = tmp_path / "dump"
    calls: list[int] = []
    fsync = os.fsync

    def failing(number: int) -> None:
        calls.append(number)
        if len(calls) == 4:  # of the directory, of the first and of the second batch, and now of the third
            raise OSError(28, "No space left on device")
        fsync(number)

    monkeypatch.setattr(transfer.os, "fsync", failing)
    assert "No space left" in on_embedded("dump", embedded_queue, str(file), status=1).err
    monkeypatch.undo()
    written = [json.loads(line)["body"] for line in file.read_text().splitlines()]
    assert len(calls) == 4
    assert 0 < len(written) < 20
    assert written == [str(number) for number in range(len(written))]
    assert left(channel, embedded_queue) == 20 - len(written)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGKILL], ids=["interrupted", "killed"]
)
def test_an_interrupted_dump_loses_nothing(
    how: signal.Signals, on_embedded: CommandLine, embedded_queue: str, connected: Connect, tmp_path: Path
) -> None:
    channel = connected(on_embedded.url)
    sent = [b"%d" % number for number in range(8_000)]
    for body in sent:
        channel.basic_publish("", embedded_queue, body)
    assert left(channel, embedded_queue) == len(sent)
    file = tmp_path / "dump"
    with on_embedded.start("dump", embedded_queue, str(file)) as running:
        while running.poll() is None and not (file.exists() and file.stat().st_size > 50_000):
            left(channel, embedded_queue)  # a moment, for the broker too
        running.send_signal(how)
        running.wait(DEADLINE)
    assert running.returncode in (130, -signal.SIGKILL), "it must be interrupted before its end"
    found = set()
    for line in file.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            found.add(json.loads(line)["body"].encode())
    while (message := channel.basic_get(embedded_queue, no_ack=True)) is not None:
        found.add(message.body)
    assert found == set(sent)


# --- what cannot be loaded --------------------------------------------------------------------------------------------


def test_load_says_where_it_stopped(cli: CommandLine, queue: str, connected: Connect, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    lines = [json.dumps({"queue": queue, "body": str(number)}) for number in range(5)]
    nowhere = json.dumps({"queue": queue + "?", "body": "x"})
    file.write_text("\n".join([*lines[:3], "", nowhere, *lines[3:]]) + "\n")
    channel = connected(cli.url)
    done = cli("load", str(file), status=1)
    assert "line 5: 312" in done.err
    assert "the 3 before it are confirmed" in done.err
    assert "--from-line 5" in done.err
    assert done.err.count("\n") == 1
    assert left(channel, queue) >= 3
    channel.queue_purge(queue)
    cli("load", str(file), "--from-line", "6")
    assert left(channel, queue) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "no JSON"),
        ("[]", "object"),
        ('{"body": 1}', "not 1"),
        ("[" * 100_000, "no JSON"),
        ('{"body": "", "properties": {"headers": {"a": {"$float": "nan"}}}}', "nan"),
        ('{"body": "", "properties": {"priority": 300}}', "priority"),
    ],
)
def test_a_line_that_is_no_message(
    line: str, said: str, on_embedded: CommandLine, embedded_queue: str, tmp_path: Path
) -> None:
    file = tmp_path / "lines"
    good = json.dumps({"queue": embedded_queue, "body": "m"})
    file.write_text(f"{good}\n{line}\n{good}\n")
    done = on_embedded("load", str(file), status=1)
    assert "line 2: " in done.err
    assert said in done.err
    assert "before it 1 message confirmed; --from-line 2" in done.err
    assert done.err.count("\n") == 1


def test_a_queue_that_does_not_exist(cli: CommandLine, name: str, tmp_path: Path) -> None:
    assert "404" in cli("dump", name, str(tmp_path / "x"), status=1).err
    assert not (tmp_path / "x").exists()
