"""`get`, `consume`, `tail`."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpspika import BasicProperties
from cpspika.cli import consume as module
from tests.cli.conftest import DEADLINE, CommandLine

Connect = Callable[[str], Any]


def fill(channel: Any, queue: str, *bodies: bytes) -> None:
    channel.confirm_select()
    for body in bodies:
        channel.basic_publish("", queue, body)


def left(channel: Any, queue: str) -> int:
    count: int = channel.queue_declare(queue, passive=True).message_count
    return count


def test_get(cli: CommandLine, queue: str, connected: Connect) -> None:
    channel = connected(cli.url)
    fill(channel, queue, b"one", b"two", b"three")
    assert [line["body"] for line in cli("get", queue, "--count", "2", "--keep", "--json").lines] == ["one", "two"]
    assert left(channel, queue) == 3
    assert cli("get", queue).out == "one\n"
    assert cli("get", queue, "--count", "5", "--raw").out == "twothree"
    done = cli("get", queue, status=1)
    assert (done.out, "empty" in done.err) == ("", True)


def test_consume_takes_exactly_so_many(cli: CommandLine, queue: str, connected: Connect) -> None:
    channel = connected(cli.url)
    fill(channel, queue, *(b"%d" % number for number in range(10)))
    lines = cli("consume", queue, "--count", "4", "--prefetch", "2", "--json").lines
    assert [line["body"] for line in lines] == ["0", "1", "2", "3"]
    assert lines[0]["queue"] == queue
    message = channel.basic_get(queue, no_ack=True)
    assert (message.body, message.redelivered) == (b"4", False), "none beyond the count may be delivered"
    assert left(channel, queue) == 5


def test_consume_until_none_comes(cli: CommandLine, queue: str, connected: Connect) -> None:
    channel = connected(cli.url)
    fill(channel, queue, b"one", b"two")
    assert cli("consume", queue, "--timeout", "0.3", "--keep").out == "one\ntwo\n"
    done = cli("consume", queue, "--timeout", "0.3", "--count", "3", status=1)
    assert done.out == "one\ntwo\n"
    assert "2 of 3" in done.err
    assert left(channel, queue) == 0
    fill(channel, queue, b"three")
    assert cli("consume", queue, "--timeout", "0.3", "--no-ack").out == "three\n"
    assert "404" in cli("consume", queue + "?", status=1).err


def test_a_message_that_could_not_be_written_stays(
    on_embedded: CommandLine, embedded_queue: str, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is acknowledged behind the write, not before."""
    channel = connected(on_embedded.url)
    fill(channel, embedded_queue, b"one", b"two", b"three")
    written: list[bytes] = []

    def write(message: Any) -> None:
        if written:
            raise OSError(28, "No space left on device", "out")
        written.append(message.body)

    monkeypatch.setattr(module, "_writer", lambda arguments: write)
    assert "No space left" in on_embedded("consume", embedded_queue, status=1).err
    assert (written, left(channel, embedded_queue)) == ([b"one"], 2)
    assert "No space left" in on_embedded("get", embedded_queue, status=1).err
    assert left(channel, embedded_queue) == 2


def test_bodies_to_files(on_embedded: CommandLine, embedded_queue: str, connected: Connect, tmp_path: Path) -> None:
    fill(connected(on_embedded.url), embedded_queue, b"\x00\xff", b"two\n", b"three")
    directory = tmp_path / "new"
    to = ("consume", embedded_queue, "--directory", str(directory))
    assert on_embedded(*to, "--count", "1").out == f"{directory}/000001\n"
    line, _ = on_embedded(*to, "--count", "2", "--json").lines
    assert (line["file"], line["queue"], "body" in line) == (f"{directory}/000002", embedded_queue, False)
    assert sorted(path.name for path in directory.iterdir()) == ["000001", "000002", "000003"]
    assert (directory / "000001").read_bytes() == b"\x00\xff"
    assert (directory / "000002").read_bytes() == b"two\n"


def test_the_bytes_of_a_body_go_out_as_they_are(
    on_embedded: CommandLine, embedded_queue: str, connected: Connect
) -> None:
    body = bytes(range(256))
    fill(connected(on_embedded.url), embedded_queue, body)
    with on_embedded.start("get", embedded_queue, "--raw") as running:
        out, err = running.communicate(timeout=DEADLINE)
    assert (out, err, running.returncode) == (body, b"", 0)


def test_tail_shows_what_passes(cli: CommandLine, name: str, connected: Connect) -> None:
    channel = connected(cli.url)
    channel.exchange_declare(name, "topic")
    channel.confirm_select()
    with cli.start("tail", name, "*.error", "disk.#", "--count", "2", "--json") as running:
        assert running.stderr is not None
        assert name in running.stderr.readline().decode()
        channel.basic_publish(name, "cpu.info", "no")
        channel.basic_publish(name, "cpu.error", "hot", BasicProperties(headers={"host": "web1"}))
        channel.basic_publish(name, "disk.error", "full")
        out, err = running.communicate(timeout=DEADLINE)
    assert (running.returncode, err) == (0, b"")
    first, second = (json.loads(line) for line in out.splitlines())
    assert (first["body"], second["body"]) == ("hot", "full"), "a message that two patterns match comes once"
    assert first["properties"]["headers"] == {"host": "web1"}
    assert "queue" not in first
    channel.exchange_delete(name)


def test_tail_in_words(on_embedded: CommandLine, name: str, connected: Connect) -> None:
    channel = connected(on_embedded.url)
    channel.exchange_declare(name, "fanout")
    with on_embedded.start("tail", name) as running:
        assert running.stderr is not None
        assert running.stdout is not None
        running.stderr.readline()
        channel.basic_publish(name, "k\x1b[2J", b"a\x1b[2Jb\nc", BasicProperties(content_type="x/y", headers={"n": 1}))
        line = running.stdout.readline()
        running.send_signal(signal.SIGINT)
        assert running.wait(DEADLINE) == 130
    assert line.decode().endswith("  k\\x1b[2J  content_type=x/y n=1  a\\x1b[2Jb\\nc\n")
    channel.exchange_delete(name)


def test_tail_of_what_does_not_exist(cli: CommandLine, name: str) -> None:
    assert "404" in cli("tail", name, status=1).err
