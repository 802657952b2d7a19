"""The logger "cpspika": connections that open, recover and end; and warnings of what a user should act on."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest

import cpspika
from cpspika.adapters import MemoryReactor
from tests.support import ROOT
from tests.support.recovering import RecoveryWorld
from tests.support.scripted import Done, opened


@pytest.fixture
def log(caplog: Any) -> Any:
    caplog.set_level(logging.INFO, "cpspika")
    return caplog


def told(log: Any) -> list[tuple[str, str]]:
    assert {record.name for record in log.records} <= {"cpspika"}
    return [(record.levelname, record.getMessage()) for record in log.records]


def test_a_connection_opens_and_ends(log: Any) -> None:
    world = opened()
    world.connection.close()
    world.settle()
    assert told(log) == [
        (
            "INFO",
            "broker:5672: connected to scripted, virtual host '/'; heartbeat 0 s, frame_max 131072, channel_max 2047",
        ),
        ("INFO", "broker:5672: the connection has ended: closed by the program"),
    ]


def test_a_connection_that_is_lost_says_why(log: Any) -> None:
    world = opened()
    world.peer.hang_up()
    world.settle()
    level, text = told(log)[-1]
    assert level == "INFO"
    assert text.startswith("broker:5672: the connection has ended: the link to broker:5672 was lost")


def test_a_connection_that_is_not_opened_logs_no_secret(log: Any) -> None:
    failed = Done("connect")
    credentials = cpspika.PlainCredentials("me", "swordfish")
    reactor = MemoryReactor()
    cpspika.connect("amqp://nobody", reactor=reactor, on_done=failed, credentials=credentials)
    reactor.advance(60)
    assert failed.error is not None
    ((level, text),) = told(log)
    assert (level, text.partition(": no connection: ")[0]) == ("INFO", "nobody:5672")
    assert "swordfish" not in log.text


def test_blocked(log: Any) -> None:
    world = opened()
    world.peer.send(0, "connection.blocked", reason="low on memory")
    world.peer.send(0, "connection.unblocked")
    world.settle()
    assert told(log)[1:] == [
        ("WARNING", "broker:5672: the broker takes no publishes for now: low on memory"),
        ("INFO", "broker:5672: the broker takes publishes again"),
    ]


def test_a_reactor_that_nobody_turned(log: Any) -> None:
    world = opened({"heartbeat": 10}, heartbeat=10)
    log.clear()
    world.reactor.advance(5)
    world.peer.send_raw(b"\x08\0\0\0\0\0\0\xce")
    assert told(log) == []
    world.reactor._now += 16  # the program does something else
    world.peer.send_raw(b"\x08\0\0\0\0\0\0\xce")
    world.settle()
    ((level, text),) = told(log)
    assert level == "WARNING"
    assert "nothing turned the reactor for 16 s, with a heartbeat of 10 s" in text


@pytest.mark.parametrize("number", [0, 1])
def test_a_deprecated_feature(log: Any, number: int) -> None:
    world = opened(on_close=None)
    world.channel()
    text = "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated."
    close = "connection.close" if number == 0 else "channel.close"
    world.peer.send(number, close, reply_code=541, reply_text=text, class_id=50, method_id=10)
    with pytest.raises(cpspika.AMQPError):
        world.settle()
    assert [line for level, line in told(log) if level == "WARNING"] == [
        f"{'broker:5672' if number == 0 else 'channel 1'}: the broker tells of a deprecated feature: {text}"
    ]


def test_recovery(log: Any) -> None:
    world = RecoveryWorld()
    world.channel()
    world.cut()
    world.restored()
    world.connection.close()
    world.settle()
    assert [(level, text.partition(":5672: ")[2][:22]) for level, text in told(log)] == [
        ("INFO", "connected to cpspika 0"),
        ("INFO", "the link was lost, and"),
        ("INFO", "try 1 follows in 0.0 s"),
        ("INFO", "restored after the los"),
        ("INFO", "the connection has end"),
    ]


def test_recovery_that_gives_up_warns(log: Any) -> None:
    world = RecoveryWorld(give_up_after=5.0)
    world.down()
    world.cut()
    world.until(lambda: world.closed, "the end")
    assert [text.partition(":5672: ")[2][:21] for level, text in told(log) if level == "WARNING"] == [
        "recovery has given up"
    ]


BLOCKED = """
import sys, cpspika
from cpspika.broker import serve
class Hooks:
    def connection(self, connection, event):
        raise RuntimeError(event.kind)
with serve() as broker, cpspika.BlockingConnection(broker.url) as connection:
    broker.block()
    connection.channel().basic_publish(routing_key="q", body=b"")
    cpspika.instrument(Hooks())
    while not connection.is_blocked:
        assert connection.drain_events(20) is not None
"""


@pytest.mark.parametrize(
    ("first", "levels"),
    [("", []), ("import logging; logging.basicConfig(format='%(levelname)s')", ["WARNING", "ERROR"])],
)
def test_warnings_and_errors_are_for_programs_that_set_logging_up(first: str, levels: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", first + BLOCKED], capture_output=True, text=True, cwd=ROOT, check=True)
    assert [line for line in done.stderr.splitlines() if line.isupper()] == levels
    assert bool(done.stderr) == bool(levels)


def test_a_program_that_does_not_log_does_not_import_logging() -> None:
    program = (
        "import sys, cpspika; from cpspika.adapters import MemoryReactor; reactor = MemoryReactor();"
        "cpspika.connect('amqp://nobody', reactor=reactor, on_done=lambda err, _: print(type(err).__name__));"
        "reactor.advance(60); print('logging' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["ConnectError", "False"]
