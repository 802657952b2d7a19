"""What a person sees: the commands in a terminal, against a broker in a process of its own."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pty", reason="pseudo-terminals")

from cpspika import BasicProperties
from cpspika.broker import serve
from tests.cli.conftest import environment
from tests.support import scripted
from tests.support.terminal import CTRL_C, DEADLINE, Terminal

pytestmark = pytest.mark.slow

# What would change the title, clear the screen, colour the rest, go to the line's begin, turn the writing direction.
EVIL = "e\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08\x7f\u202ez"
SHOWN = r"e\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08\x7f\u202ez"
EVIL_NAME = EVIL.replace("\r", "")  # a broker drops the ends of lines in names
OURS = re.compile(r"\x1b\[(0|1|2|3[1-6])m|\r\n")  # what a command itself sends to a terminal

Run = Callable[..., Terminal]


@pytest.fixture(scope="module")
def broker_url() -> Iterator[str]:
    """The embedded broker, by its command."""
    command = [sys.executable, "-m", "cpspika", "broker", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(""), text=True) as running:
        assert running.stdout is not None
        found = re.search(r"amqp://(\S+)", running.stdout.readline())
        assert found
        yield f"amqp://guest:guest@{found[1]}/"
        running.terminate()
        assert running.wait(DEADLINE) == 0


@pytest.fixture
def without_rich(tmp_path: Path) -> dict[str, str]:
    """Variables of a process that has no rich."""
    (tmp_path / "rich.py").write_text("raise ImportError('rich', name='rich')\n")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), environment("")["PYTHONPATH"]])}


@pytest.fixture
def start(broker_url: str) -> Iterator[Run]:
    """Starts a command in a terminal: start(*arguments, url=..., columns=80, VARIABLE=...)."""
    opened: list[Terminal] = []

    def start(*arguments: str, url: str = broker_url, columns: int = 80, **variables: str) -> Terminal:
        plain = {name: value for name, value in environment(url).items() if name not in ("NO_COLOR", "FORCE_COLOR")}
        command = [sys.executable, "-m", "cpspika", *arguments]
        terminal = Terminal(command, {**plain, "TERM": "xterm-256color", **variables}, columns)  # whatever TERM is here
        opened.append(terminal)
        return terminal

    yield start
    for terminal in opened:
        terminal.__exit__(None, None, None)


@pytest.fixture
def run(start: Run) -> Run:
    """Runs a command in a terminal until it ends; status: the one that it must have."""

    def run(*arguments: str, status: int = 0, **options: Any) -> Terminal:
        terminal = start(*arguments, **options)
        ended = terminal.wait()
        assert ended == status, terminal.text
        return terminal

    return run


@pytest.fixture
def channel(broker_url: str, connected: Callable[[str], Any]) -> Any:
    return connected(broker_url)


@pytest.fixture
def queue(channel: Any) -> Iterator[str]:
    name = f"cli-{secrets.token_hex(4)}"
    channel.queue_declare(name, durable=True)
    yield name
    channel.queue_delete(name)


@pytest.fixture
def exchange(channel: Any) -> Iterator[str]:
    name = f"cli-{secrets.token_hex(4)}"
    channel.exchange_declare(name, "fanout")
    yield name
    channel.exchange_delete(name)


def words(terminal: Terminal) -> str:
    """All words, wherever the lines end. A word that the terminal has cut is two."""
    return " ".join(terminal.text.split())


# --- ping and doctor --------------------------------------------------------------------------------------------------


def test_ping(run: Run, broker_url: str) -> None:
    terminal = run("ping")
    first, *rest = terminal.lines
    assert first == broker_url.replace("guest:guest", "guest").rstrip("/") + "/%2F answers"
    assert (terminal.colour_of("amqp"), terminal.colour_of("answers")) == ("bold", "green")
    assert terminal.colour_of("reached") == "default"
    names = ["reached", "TLS", "login", "virtual host", "broker", "protocol", "limits", "round trip"]
    assert [line[2:15].rstrip() for line in rest] == names


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
@pytest.mark.parametrize("command", ["ping", "doctor"])
def test_without_colours(command: str, variables: dict[str, str], run: Run) -> None:
    assert b"\x1b" not in run(command, **variables).sent


def test_doctor(run: Run) -> None:
    terminal = run("doctor")
    assert terminal.colour_of("ok ") == "green"
    assert "permissions  configure, write, read, tried with the queue\n" in terminal.text
    assert terminal.text.count("  ok ") == 12
    failing = run("doctor", url="amqp://guest:guest@127.0.0.1:1/", status=1)
    assert (failing.colour_of("failed"), failing.colour_of("ok")) == ("red", "green")
    assert re.search(r"\n {24}-> nothing listens there: start the broker", failing.text)


@pytest.mark.parametrize("command", ["ping", "doctor"])
def test_no_word_is_cut_on_a_narrow_terminal(command: str, run: Run) -> None:
    wide, narrow = run(command, columns=300), run(command, columns=40)
    changes = r"[\d.]+|cpspika-doctor-\w+"  # times and names
    assert re.sub(changes, "", words(narrow)) == re.sub(changes, "", words(wide))
    assert len(narrow.lines) > len(wide.lines)


# --- tail -------------------------------------------------------------------------------------------------------------


def test_tail(start: Run, channel: Any, exchange: str) -> None:
    terminal = start("tail", exchange)
    terminal.wait_for("Ctrl-C ends it")
    channel.basic_publish(exchange, "disk.full", "x" * 200, BasicProperties(content_type="text/plain"))
    terminal.wait_for("xxx...")
    assert len(terminal.lines) == 2, "a message is one line"
    assert len(terminal.lines[1]) == 80
    colours = [terminal.colour_of(text) for text in ("disk.full", "content_type", "xxx")]
    assert colours == ["cyan", "brown", "default"]  # pyte's name of yellow
    terminal.resize(100)
    channel.basic_publish(exchange, "wide", "漢字" * 100)
    terminal.wait_for("漢字...")
    assert len(terminal.lines) == 3, "letters of two columns count as two"
    terminal.type(CTRL_C)
    assert terminal.wait() == 130
    assert terminal.lines[3:] == ["^C"]


def test_tail_without_colours(start: Run, channel: Any, exchange: str) -> None:
    terminal = start("tail", exchange, "--count", "1", NO_COLOR="1")
    terminal.wait_for("Ctrl-C ends it")
    channel.basic_publish(exchange, "k", "body")
    assert terminal.wait() == 0
    assert b"\x1b" not in terminal.sent
    assert terminal.lines[1].endswith("  k  body")


# --- bench ------------------------------------------------------------------------------------------------------------


BENCH = ("bench", "--seconds", "1.5", "--interval", "0.5", "--rate", "20")


@pytest.mark.long
def test_bench(run: Run) -> None:
    terminal = run(*BENCH)
    live = [line for line in terminal.lines if "published" in line and "/s" in line]
    assert len(live) == 1, terminal.text
    assert live[0].startswith("1.5 s  published ")
    assert terminal.sent.count(b"\r") > terminal.sent.count(b"\r\n"), "the live line changes in its place"
    assert "│ published  │       30 │         20 │ 0.00 │" in terminal.lines
    assert re.search(r"│ to the consumer │( +[\d.]+ │){6}", terminal.text)


@pytest.mark.long
@pytest.mark.parametrize("rich", [True, False])
def test_bench_on_a_narrow_terminal(rich: bool, run: Run, without_rich: dict[str, str]) -> None:
    terminal = run(*BENCH, columns=40, **({} if rich else without_rich))
    assert [line[:15] for line in terminal.lines if " s  p" in line] == ["1.5 s  publishe"]
    assert "    messages      30\n    per second    20\n" in terminal.text
    assert re.search(r"  to the consumer\n    min  +\d+\.\d+\n    mean  +\d", terminal.text)


@pytest.mark.long
@pytest.mark.parametrize("variables", ["rich hidden", "TERM=dumb"])
def test_the_table_of_bench_in_plain_text(variables: str, run: Run, without_rich: dict[str, str]) -> None:
    terminal = run(*BENCH, **({"TERM": "dumb"} if variables == "TERM=dumb" else without_rich))
    assert "published         30          20  0.00" in terminal.lines
    assert b"\x1b" not in terminal.sent


@pytest.mark.long
def test_the_live_line_of_bench_when_the_window_changes(start: Run) -> None:
    terminal = start("bench", "--seconds", "60", "--interval", "0.3", "--rate", "20", columns=120)
    terminal.wait_for(" ms")
    terminal.resize(40)
    before = len(terminal.sent)
    terminal.wait_for(lambda it: it.sent.count(b"\r", before) >= 4)
    drawn = terminal.sent[before:].decode().split("\r")[2:-1]  # one may have been drawn before the resize
    assert all(len(text) < 40 for text in drawn), drawn
    terminal.type(CTRL_C)
    assert terminal.wait() == 130
    assert "latency in ms" in terminal.text, "the figures so far"
    assert "Traceback" not in terminal.text


# --- progress ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 40])
def test_progress(columns: int, run: Run, queue: str, tmp_path: Path) -> None:
    file = tmp_path / "f"
    published = run("publish", "--routing-key", queue, "--count", "3000", "hello", columns=columns)
    assert re.fullmatch(r"published ━+ 3000/3000 \d:\d\d:\d\d", published.lines[0])
    assert published.lines[1:] == ["3,000 messages published and confirmed"]
    dumped = run("dump", queue, str(file), columns=columns)
    assert re.fullmatch(r"dumped ━+ 3000/3000 \d:\d\d:\d\d", dumped.lines[0])
    loaded = run("load", str(file), columns=columns)
    assert re.fullmatch(r"loaded ━+ 3000/3000 \d:\d\d:\d\d", loaded.lines[0])
    for terminal in (published, dumped, loaded):
        assert b"\x1b[?25l" in terminal.sent
        assert not terminal.screen.cursor.hidden
    consumed = run("consume", queue, "--count", "2", columns=columns)
    assert consumed.sent == b"hello\r\nhello\r\n"


@pytest.mark.parametrize("variables", ["rich hidden", "TERM=dumb"])
def test_progress_in_plain_text(variables: str, run: Run, queue: str, without_rich: dict[str, str]) -> None:
    options = {"TERM": "dumb"} if variables == "TERM=dumb" else without_rich
    terminal = run("publish", "--routing-key", queue, "--count", "3000", "x", columns=40, **options)
    *progress, last = terminal.lines  # a fast machine is done before there is progress to tell
    assert progress in ([], [line for line in progress if re.match(r"published [\d,]+ of 3,000 messages,", line)])
    assert last == "3,000 messages published and confirmed"
    assert b"\x1b" not in terminal.sent


def test_ctrl_c_leaves_the_terminal_as_it_was(start: Run, queue: str) -> None:
    terminal = start("publish", "--routing-key", queue, "--count", "100000000", "x")
    terminal.wait_for(lambda it: re.search(r" [1-9]\d*/100000000", it.text))
    assert terminal.screen.cursor.hidden
    terminal.type(CTRL_C)
    assert terminal.wait() == 130
    assert not terminal.screen.cursor.hidden
    assert "Traceback" not in terminal.text


def test_typed_lines_are_published(start: Run, queue: str, channel: Any) -> None:
    terminal = start("publish", "--routing-key", queue, "--lines")
    terminal.type("one\ntwo\n")
    terminal.type("\x04")
    assert terminal.wait() == 0
    assert terminal.lines == ["one", "two", "2 messages published and confirmed"]


@pytest.mark.long
@pytest.mark.parametrize("rich", [True, False])
def test_a_note_does_not_go_into_the_progress(
    rich: bool, start: Run, connected: Callable[[str], Any], without_rich: dict[str, str]
) -> None:
    with serve() as broker:
        connected(broker.url).queue_declare("q", arguments={"x-max-length": 1})
        options = {} if rich else without_rich
        command = ("publish", "--routing-key", "q", "--count", "100000000", "x")
        terminal = start(*command, url=broker.url, **options)
        terminal.wait_for(lambda it: re.search(r" [1-9][\d,]*(/| of )100,?000,?000", it.text))
        broker.block("low on disk")
        terminal.wait_for("waiting")
        broker.unblock()
        terminal.wait_for("again")
        terminal.wait_for(lambda it: "again" not in it.lines[-1])  # the progress goes on below
        assert "the broker blocks publishers; waiting" in terminal.lines
        assert "the broker takes messages again" in terminal.lines
        terminal.type(CTRL_C)
        assert terminal.wait() == 130


# --- no text commands the terminal ------------------------------------------------------------------------------------


def assert_harmless(terminal: Terminal) -> None:
    text = OURS.sub("", terminal.sent.decode())
    bad = {character for character in text if not character.isprintable()}
    assert not bad, terminal.sent
    assert terminal.screen.title == ""


def test_a_message_does_not_command_the_terminal(run: Run, start: Run, channel: Any, tmp_path: Path) -> None:
    name = EVIL_NAME + secrets.token_hex(4)
    channel.queue_declare(name)
    channel.exchange_declare(name, "fanout")
    channel.queue_bind(name, name, "")
    texts = ("content_type", "content_encoding", "correlation_id", "reply_to", "message_id", "type", "app_id")
    properties = BasicProperties(headers={EVIL: EVIL, "list": [EVIL, EVIL.encode()]}, **dict.fromkeys(texts, EVIL))
    channel.confirm_select()

    def publish(count: int) -> None:
        for _ in range(count):
            channel.basic_publish(name, EVIL, EVIL, properties)

    publish(6)
    directory = tmp_path / EVIL.replace("\x07", "")
    file = tmp_path / ("dump" + EVIL)
    for command in (
        ("get", name),
        ("get", name, "--json"),
        ("get", name, "--directory", str(directory)),
        ("consume", name, "--count", "1"),
        ("consume", name, "--count", "1", "--json"),
        ("dump", name, str(file)),
        ("load", str(file)),
        ("purge", name),
    ):
        assert_harmless(run(*command, NO_COLOR="1", TERM="dumb"))
    for options in ((), ("--whole",), ("--json",)):
        terminal = start("tail", name, "--count", "1", *options)
        terminal.wait_for("ends it")
        publish(1)
        assert terminal.wait() == 0
        assert_harmless(terminal)
        if not options:
            assert f"  {SHOWN}" in words(terminal).replace(" ", "  ")
    channel.queue_delete(name)
    channel.exchange_delete(name)


@pytest.mark.long
def test_a_name_does_not_command_the_terminal(run: Run, tmp_path: Path) -> None:
    name = EVIL_NAME + secrets.token_hex(4)
    for command in (
        ("declare", "queue", name),
        ("declare", "exchange", name),
        ("bind", name, name, "--routing-key", EVIL),
        ("unbind", name, name, "--routing-key", EVIL),
        ("delete", "exchange", name),
        ("delete", "queue", name),
        ("doctor", "--probe", name),
    ):
        assert_harmless(run(*command))
    for command in (
        ("get", name),
        ("consume", name),
        ("dump", name, str(tmp_path / "f")),
        ("purge", name),
        ("tail", name),
        ("bind", name, name),
        ("publish", "--routing-key", name, "x"),
        ("publish", "--exchange", name, "--routing-key", EVIL, "x"),
        ("publish", "--routing-key", name, "--file", name),
        ("load", name),
    ):
        terminal = run(*command, status=1)
        assert_harmless(terminal)
        assert words(terminal).startswith(f"cpspika {command[0]}: ")
    for command in (("get", "q", EVIL), ("get", "q", "--count", EVIL), ("ping", f"amqp://{EVIL}:1x/")):
        assert_harmless(run(*command, status=2))


def test_a_broker_does_not_command_the_terminal(run: Run, broker_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its properties, and by the text with which it refuses."""
    for command in ("ping", "doctor"):
        assert_harmless(run(command, f"{broker_url}{'%1b]0;owned%07'}", status=1))
    evil = dict.fromkeys(("product", "version", "platform", "cluster_name"), EVIL)
    monkeypatch.setattr(scripted.Peer, "properties", {**scripted.PROPERTIES, **evil})
    with scripted.SocketBroker() as broker:
        for command in ("ping", "doctor"):
            terminal = run(command, url=broker.url)
            assert_harmless(terminal)
            assert r"\x1b]0;owned\x07" in terminal.text
