"""`trace`, CPSPIKA_TRACE and the log's DEBUG lines: what a link says, in words; and the link left as it was."""

from __future__ import annotations

import io
import logging
import re
from typing import Any

import pytest

import cpspika
from cpspika import BlockingConnection
from cpspika.client.trace import trace
from cpspika.threads import ThreadedConnection
from cpspika.wire.link import Link
from tests.support.recovering import RecoveryWorld
from tests.support.scripted import World, opened

LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{6} (\S+)#\d+ (-->|<--) (.*)")


def lines(printed: str) -> list[tuple[str, str]]:
    """Direction and words of each line."""
    found = [LINE.fullmatch(line) for line in printed.splitlines()]
    assert None not in found, printed
    return [(match[2], match[3].partition("(")[0]) for match in found if match is not None]


def test_each_frame_in_words_from_then_on() -> None:
    world = opened()
    channel = world.channel()
    printed = io.StringIO()
    stop = trace(world.connection, printed)
    channel.basic_publish("", "q", "hello", {"content_type": "text/plain"})
    world.peer.expect("basic.publish")
    world.peer.send(1, "channel.flow", active=False)
    world.settle()
    assert lines(printed.getvalue()) == [
        ("-->", "channel 1 basic.publish"),
        ("-->", "channel 1 header of a body of 5 bytes, content_type='text/plain'"),
        ("-->", "channel 1 body, 5 bytes"),
        ("<--", "channel 1 channel.flow"),
        ("-->", "channel 1 channel.flow-ok"),
    ]
    world.peer.expect("channel.flow-ok")
    channel.queue_declare("q")
    world.peer.expect("queue.declare")
    world.peer.send(1, "queue.declare-ok", queue="q", message_count=0, consumer_count=0)  # a frame by itself
    world.settle()
    assert lines(printed.getvalue())[5:] == [
        ("-->", "channel 1 queue.declare"),
        ("<--", "channel 1 queue.declare-ok"),
    ]
    stop()
    stop()
    channel.close()
    world.settle()
    assert len(printed.getvalue().splitlines()) == 7


def test_the_link_is_as_it_was_when_the_last_has_stopped() -> None:
    world = opened()
    transport = world.connection._backlog.transport
    one, two = trace(world.connection, io.StringIO()), trace(world.connection, io.StringIO())
    assert world.connection._backlog.transport is not transport
    one()
    assert type(world.connection._link) is not Link
    two()
    assert type(world.connection._link) is Link
    assert world.connection._backlog.transport is transport


@pytest.mark.parametrize("kind", [BlockingConnection, ThreadedConnection])
def test_a_connection_of_any_style(kind: Any) -> None:
    printed = io.StringIO()
    with kind("embedded://", timeout=10) as connection:
        cpspika.trace(connection, printed)
        connection.channel()
    told = lines(printed.getvalue())
    assert told[:2] == [("-->", "channel 1 channel.open"), ("<--", "channel 1 channel.open-ok")]
    assert told[-1] == ("<--", "connection.close-ok")


def test_a_connection_that_has_not_reached_its_broker_yet_is_traced_from_its_first_byte() -> None:
    printed = io.StringIO()
    world = World()
    trace(world.connection, printed)
    world.peer.expect_open()
    world.settle()
    assert lines(printed.getvalue())[:3] == [
        ("-->", r"protocol header b'AMQP\x00\x00\t\x01'"),
        ("<--", "connection.start"),
        ("-->", "connection.start-ok"),
    ]


def test_not_a_connection() -> None:
    with pytest.raises(cpspika.InvalidArgumentType, match="takes a connection, not int"):
        trace(5)


def test_a_closed_file_costs_nothing() -> None:
    world = opened()
    channel = world.channel()
    closed = io.StringIO()
    closed.close()
    trace(world.connection, closed)
    channel.basic_publish("", "q", "x")
    world.settle()
    assert world.peer.expect("basic.publish").body == b"x"


def test_a_connection_that_recovers_is_traced_over_its_links() -> None:
    world = RecoveryWorld()
    world.channel()
    printed = io.StringIO()
    stop = trace(world.connection, printed)
    world.cut()
    world.restored()
    opens = [words for _, words in lines(printed.getvalue()) if words == "channel 1 channel.open"]
    assert opens == ["channel 1 channel.open"]
    assert ("<--", "connection.open-ok") in lines(printed.getvalue())
    stop()
    size = len(printed.getvalue())
    world.cut()
    world.restored(2)
    assert len(printed.getvalue()) == size


def test_the_environment_traces_every_connection_from_its_first_byte(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("CPSPIKA_TRACE", "1")
    credentials = cpspika.PlainCredentials("me", "swordfish")
    with BlockingConnection("embedded://", timeout=10, client_properties={"own": 1}):
        pass
    world = World(credentials=credentials)
    world.settle()
    printed = capsys.readouterr().err
    assert "swordfish" not in printed
    told = lines(printed)
    assert told[0] == ("-->", "protocol header b'AMQP\\x00\\x00\\t\\x01'")
    assert [words for _, words in told if words.startswith("connection.")][:6] == [
        "connection.start",
        "connection.start-ok",
        "connection.tune",
        "connection.tune-ok",
        "connection.open",
        "connection.open-ok",
    ]
    assert "response=..." in printed


@pytest.mark.parametrize("value", ["0", ""])
def test_the_environment_may_say_no(monkeypatch: Any, capsys: Any, value: str) -> None:
    monkeypatch.setenv("CPSPIKA_TRACE", value)
    world = opened()
    assert type(world.connection._link) is Link
    assert capsys.readouterr().err == ""


def test_debug_logs_each_method_and_no_content(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "cpspika")
    world = opened(credentials=cpspika.PlainCredentials("me", "swordfish"))
    channel = world.channel()
    channel.basic_publish("", "q", "hello", {"headers": {"own": "header"}})
    channel.close()
    world.settle()
    told = [record.getMessage().partition(" ")[2] for record in caplog.records if record.levelno == logging.DEBUG]
    assert [text.partition("(")[0] for text in told][-5:] == [
        "--> channel 1 channel.open",
        "<-- channel 1 channel.open-ok",
        "--> channel 1 basic.publish",
        "--> channel 1 channel.close",
        "<-- channel 1 channel.close-ok",
    ]
    assert "routing_key='q'" in told[-3]
    assert not [text for text in told if "swordfish" in text or "hello" in text or "'own'" in text]
