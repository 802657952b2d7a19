"""The programs of the tutorials, in every style: each runs as it stands, and its consumer ends at Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

import cpspika
from tests.project.test_examples import EXTRAS, run
from tests.support import ROOT

TUTORIALS = ROOT / "examples" / "tutorials"
STYLES = ("sync", "callbacks", "asyncio", "tasks", "threads", "trio", "twisted", "greenlets")
WAITING = "waiting for messages; Ctrl-C ends this\n"
DEADLINE = 60  # seconds

pytestmark = pytest.mark.slow


class Play(NamedTuple):
    """What a tutorial does: its consumer is started with arguments, then its other program with each of some; what both
    print. Without a consumer the other program runs alone."""

    consumer: str | None
    consumed: tuple[str, ...]
    producer: str
    produced: tuple[tuple[str, ...], ...]
    printed: tuple[str, ...]
    received: tuple[str, ...] = ()


PLAYS = {
    "1_hello": Play("receive.py", (), "send.py", ((),), ("sent 'Hello World!'\n",), ("received 'Hello World!'\n",)),
    "2_work_queues": Play(
        "worker.py", (), "queue_task.py", (("boil", "0.05"), ("bake", "0")), ("queued 'boil'\n", "queued 'bake'\n"),
        ("began 'boil'\n", "did 'boil'\n", "began 'bake'\n", "did 'bake'\n"),
    ),
    "3_publish_subscribe": Play(
        "subscribe.py", (), "publish.py", ((),), ("published 'it rains'\n",), ("heard 'it rains'\n",),
    ),
    "4_routing": Play(
        "subscribe.py", ("warning", "error"), "publish.py", ((), ("error", "disk full")),
        ("published info: 'all is well'\n", "published error: 'disk full'\n"),
        ("error: disk full\n",),
    ),
    "5_topics": Play(
        "subscribe.py", ("cellar.*", "#.humidity"), "publish.py", ((), ("cellar.wall.humidity", "80")),
        ("published kitchen.temperature 21\n", "published cellar.wall.humidity 80\n"),
        ("cellar.wall.humidity 80\n",),
    ),
    "6_rpc": Play(
        "server.py", (), "client.py", (("20",),), ("20! = 2432902008176640000\n",), ("answered 20\n",),
    ),
    "7_confirms": Play(
        None, (), "publish.py", ((),),
        ("".join(f"message {number}: {fate}\n" for number, fate in enumerate(
            ["confirmed"] * 3 + ["refused"] * 2 + ["returned, since NO_ROUTE"])),),
    ),
}  # fmt: skip


@contextmanager
def consumer(path: str, arguments: tuple[str, ...], url: str) -> Iterator[Any]:
    """Starts a program that consumes; gives a function that reads a line of it. Ctrl-C must end it in order."""
    program = subprocess.Popen(
        [sys.executable, path, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "AMQP_URL": url},
    )  # fmt: skip
    late = threading.Timer(DEADLINE, program.kill)
    late.start()
    try:
        assert program.stdout is not None
        yield program.stdout.readline
        program.send_signal(signal.SIGINT)
        printed, errors = program.communicate()
        errors = re.sub(r"^KeyboardInterrupt\n[-\dT:]+Z\n$", "", errors)  # gevent's hub tells of a Ctrl-C
        assert (printed, errors, program.returncode) == ("", "", 0)
    finally:
        late.cancel()
        program.kill()
        program.communicate()


def play(tutorial: str, style: str, url: str) -> None:
    if style in EXTRAS:
        pytest.importorskip(EXTRAS[style])
    of, folder = PLAYS[tutorial], TUTORIALS / tutorial / style
    produce = [[str(folder / of.producer), *arguments] for arguments in of.produced]
    if of.consumer is None:
        assert tuple(sorted_lines(run(*command, AMQP_URL=url)) for command in produce) == of.printed
        return
    with consumer(str(folder / of.consumer), of.consumed, url) as line:
        assert line() == WAITING
        for command, printed in zip(produce, of.printed, strict=True):
            assert run(*command, AMQP_URL=url) == printed
        assert tuple(line() for _ in of.received) == of.received


def sorted_lines(printed: str) -> str:
    """With callbacks the fates come in the order of the broker's decisions."""
    return "".join(sorted(printed.splitlines(keepends=True)))


@pytest.fixture(scope="module")
def served() -> Iterator[Any]:
    with cpspika.broker.serve() as broker:
        yield broker


@pytest.mark.parametrize("tutorial", PLAYS)
@pytest.mark.parametrize(
    "written_for", [pytest.param(style, marks=pytest.mark.long) if style in EXTRAS else style for style in STYLES]
)
def test_a_tutorial_does_what_its_page_says(served: Any, tutorial: str, written_for: str) -> None:
    play(tutorial, written_for, served.url)


@pytest.mark.parametrize("tutorial", PLAYS)
@pytest.mark.parametrize(
    "written_for", [style if style == "sync" else pytest.param(style, marks=pytest.mark.long) for style in STYLES]
)
def test_a_tutorial_does_the_same_on_rabbitmq(node: Any, tutorial: str, written_for: str) -> None:
    play(tutorial, written_for, node.url)


def test_the_tutorials_have_these_programs_in_every_style() -> None:
    wanted = {
        f"{tutorial}/{style}/{name}"
        for tutorial, of in PLAYS.items()
        for style in STYLES
        for name in (of.consumer, of.producer)
        if name
    }
    assert {path.relative_to(TUTORIALS).as_posix() for path in TUTORIALS.rglob("*.py")} == wanted


def test_each_page_shows_the_programs_of_its_tutorial() -> None:
    for tutorial, of in PLAYS.items():
        page = (ROOT / "docs" / "tutorials" / f"{tutorial}.md").read_text("utf-8")
        shown = set(re.findall(rf"^```{{programs}} examples/tutorials/{tutorial}/<style>/(.*)$", page, re.MULTILINE))
        assert shown == {name for name in (of.consumer, of.producer) if name}
