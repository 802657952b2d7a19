"""What only the real broker shows: its restart, its alarms, its heartbeat, and another client on its other side."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import pika
import pytest

import cpspika
from cpspika import (
    BlockedConnectionTimeout,
    BlockingConnection,
    ConnectError,
    Connection,
    ConnectionClosed,
    ConnectionForced,
    ConnectionLost,
    SelectConnection,
)
from cpspika.adapters import AsyncoreReactor, BlockingReactor, SelectReactor
from tests.support.rabbitmq import RabbitNode

REACTORS = [SelectReactor, AsyncoreReactor, BlockingReactor]


def turn(reactor: Any, until: Callable[[], Any], seconds: float = 20.0) -> None:
    """Turns a reactor until a condition holds."""
    deadline = time.monotonic() + seconds
    while not until():
        left = deadline - time.monotonic()
        assert left > 0, f"nothing came for {seconds:g} s"
        reactor.run_once(left)


def opened(reactor: Any, target: Any, **options: Any) -> Connection:
    """An open connection, in the core's style."""
    outcome: list[Any] = []
    cpspika.connect(target, on_done=lambda *told: outcome.append(told), reactor=reactor, **options)
    turn(reactor, lambda: outcome)
    error, connection = outcome[0]
    assert error is None, error
    assert isinstance(connection, Connection)
    return connection


def finish(reactor: Any, *connections: Connection) -> None:
    for connection in connections:
        closed: list[Any] = []
        connection.close(on_done=lambda *told, closed=closed: closed.append(told))
        turn(reactor, lambda closed=closed: closed)
    reactor.run_once(0)
    if hasattr(reactor, "close"):
        reactor.close()


@pytest.fixture
def other(node: RabbitNode) -> Iterator[Any]:
    """pika's channel."""
    connection = pika.BlockingConnection(pika.URLParameters(node.url))
    yield connection.channel()
    if connection.is_open:
        connection.close()


# --- the broker goes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "make_reactor"),
    [
        ("shutdown", SelectReactor),
        pytest.param("kill", AsyncoreReactor, marks=pytest.mark.long),
        ("kill", BlockingReactor),
    ],
)
def test_each_continuation_is_told_once_that_the_broker_has_gone(
    node: RabbitNode, how: str, make_reactor: Callable[[], Any]
) -> None:
    """What was asked for when the broker had ended, in good order (320) or not, is all told so, and nothing else."""
    reactor, told, events = make_reactor(), [], []
    connection = opened(reactor, node.url, on_close=lambda connection, error: events.append(error))
    channels = [connection.channel() for _ in range(3)]
    declared: list[Any] = []
    channels[0].queue_declare("cpspika-restart", durable=True, on_done=lambda *told: declared.append(told))
    channels[0].confirm_select()
    turn(reactor, lambda: declared)
    connection.add_state_change_handler(lambda connection, is_open: events.append(is_open))
    getattr(node, how)()
    try:
        for number in range(10):
            channel = channels[number % 3]
            channel.queue_declare(f"cpspika-{number}", on_done=lambda *err, n=number: told.append((n, *err)))
        channels[0].basic_publish("", "cpspika-restart", "x", on_done=lambda *err: told.append(("publish", *err)))
        turn(reactor, lambda: len(told) == 11 and len(events) == 2)
        turn(reactor, lambda: not reactor._has_transports())
        assert len(told) == 11
        assert {result for _, _, result in told} == {None}
        assert len({name for name, _, _ in told}) == 11
        for name, error, _ in told:
            if name == "publish":
                assert isinstance(error, cpspika.DeliveryUnknown)
            else:
                assert isinstance(error, cpspika.AMQPError)
                assert error.method == "queue.declare"
        reason = connection.close_reason
        wanted = (ConnectionForced, 320) if how == "shutdown" else (ConnectionLost, None)
        assert (isinstance(reason, wanted[0]), reason.code if reason else 0) == (True, wanted[1])
        assert isinstance(reason, ConnectionClosed)
        assert set(map(repr, events)) == {repr(False), repr(reason)}
    finally:
        node.start()
    again = SelectConnection(node.url, timeout=20)
    again.channel().queue_delete("cpspika-restart")
    again.close()


@pytest.mark.parametrize("cls", [SelectConnection, cpspika.AsyncoreConnection, BlockingConnection])
def test_a_call_that_waits_is_told_that_the_broker_closed_the_connection(node: RabbitNode, cls: Any) -> None:
    connection = cls(node.url, timeout=20)
    channel = connection.channel()
    queue = channel.queue_declare(exclusive=True).queue
    messages = channel.consume(queue, inactivity_timeout=20)
    node.close_connections("for a test")
    with pytest.raises(ConnectionForced, match="for a test"):
        next(messages)
    assert not connection.is_open
    with pytest.raises(cpspika.ConnectionClosed, match="for a test"):
        channel.queue_declare()
    with pytest.raises(ConnectionClosed, match="for a test"):
        connection.channel()
    connection.close()


# --- a channel that the broker closes ---------------------------------------------------------------------------------

MISTAKES: dict[str, Callable[[cpspika.Channel, cpspika.Message], object]] = {
    "a missing queue": lambda channel, message: channel.queue_declare("cpspika-missing", passive=True, on_done=ignored),
    "a missing exchange": lambda channel, message: channel.basic_publish("cpspika-missing", "key", b"m"),
    "a double ack": lambda channel, message: channel.basic_ack(message.delivery_tag),
}


def ignored(error: Any, result: Any) -> None:
    pass


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_channel_error_amid_deliveries_costs_that_channel_alone(node: RabbitNode, mistake: str) -> None:
    """RabbitMQ goes on sending deliveries, and its channel.close, until it has read our close-ok."""
    reactor = SelectReactor()
    connection = opened(reactor, node.url)
    other, channel = connection.channel(), connection.channel()
    assert other is not None
    assert channel is not None
    outcome: list[Any] = []
    other.queue_declare(exclusive=True, on_done=lambda *told: outcome.append(told))
    turn(reactor, lambda: outcome)
    queue = outcome[0][1].queue
    other.confirm_select()
    confirmed: list[Any] = []
    for _ in range(5000):
        other.basic_publish("", queue, b"x" * 100, on_done=lambda *told: confirmed.append(told))
    turn(reactor, lambda: len(confirmed) == 5000)
    got: list[int] = []

    def on_message(message: cpspika.Message) -> None:
        got.append(message.delivery_tag)
        message.ack()
        if len(got) == 300:
            MISTAKES[mistake](channel, message)

    channel.add_state_change_handler(lambda channel, is_open: None)
    channel.basic_consume(queue, on_message)
    turn(reactor, lambda: not channel.is_open)
    outcome.clear()
    other.queue_declare(queue, passive=True, on_done=lambda *told: outcome.append(told))
    turn(reactor, lambda: outcome)
    assert outcome[0][0] is None, outcome[0][0]
    again = connection.channel()
    assert again is not None
    outcome.clear()
    again.basic_get(queue, on_done=lambda *told: outcome.append(told))
    turn(reactor, lambda: outcome)
    assert outcome[0][1] is not None, "what wasn't acknowledged is in the queue again"
    outcome.clear()
    connection.close(on_done=lambda *told: outcome.append(told))
    turn(reactor, lambda: outcome)
    assert outcome == [(None, None)]


# --- alarms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_reactor", REACTORS)
def test_a_memory_alarm_blocks_a_connection_that_publishes(node: RabbitNode, make_reactor: Callable[[], Any]) -> None:
    reactor, events, writable = make_reactor(), [], []
    connection = opened(reactor, node.url)
    channel = connection.channel()
    connection.add_blocked_handler(lambda connection, blocked, reason: events.append((blocked, reason)))
    channel.add_writable_handler(lambda channel: writable.append(channel.number))
    node.memory_alarm(True)
    try:
        channel.basic_publish("", "cpspika-nowhere", "x")
        turn(reactor, lambda: events)
        assert events == [(True, "low on memory")]
        assert (connection.is_blocked, connection.writable, channel.writable) == (True, False, False)
        assert channel.basic_publish("", "cpspika-nowhere", "y") is False  # kept all the same
        assert writable == []
    finally:
        node.memory_alarm(False)
    turn(reactor, lambda: len(events) == 2 and writable)
    assert events[1] == (False, "")
    assert (connection.is_blocked, connection.writable, channel.writable) == (False, True, True)
    finish(reactor, connection)


def test_a_connection_that_stays_blocked_is_given_up(node: RabbitNode) -> None:
    reactor, ended = SelectReactor(), []
    connection = opened(
        reactor,
        f"{node.url}?blocked_connection_timeout=0.2",
        on_close=lambda connection, error: ended.append(error),
    )
    channel = connection.channel()
    channel.confirm_select()
    fates: list[Any] = []
    node.memory_alarm(True)
    try:
        channel.basic_publish("", "cpspika-nowhere", "x", on_done=lambda *fate: fates.append(fate))
        turn(reactor, lambda: ended)
    finally:
        node.memory_alarm(False)
    assert isinstance(ended[0], BlockedConnectionTimeout)
    assert str(node.port) in str(ended[0])
    # The broker may have confirmed it before it blocked the connection; else its fate is unknown.
    ((error, result),) = fates
    assert result is True or isinstance(error, cpspika.DeliveryUnknown)
    finish(reactor)


# --- heartbeats -------------------------------------------------------------------------------------------------------


def test_heartbeats_as_negotiated(node: RabbitNode) -> None:
    for options, agreed in (({}, 60), ({"heartbeat": None}, 60), ({"heartbeat": 0}, 0), ({"heartbeat": 7}, 7)):
        connection = BlockingConnection(node.url, timeout=20, **options)
        assert connection.heartbeat == agreed
        peer = node.eval("[[{timeout, Seconds}]] = rabbit_networking:connection_info_all([timeout]), Seconds")
        assert peer == str(agreed)
        connection.close()


@pytest.mark.parametrize(
    "make_reactor",
    [
        SelectReactor,
        pytest.param(AsyncoreReactor, marks=pytest.mark.long),
        pytest.param(BlockingReactor, marks=pytest.mark.long),
    ],
)
def test_heartbeats_keep_an_idle_connection(node: RabbitNode, make_reactor: Callable[[], Any]) -> None:
    """Neither side hears anything else for longer than either would bear."""
    reactor, ended = make_reactor(), []
    connection = opened(reactor, f"{node.url}?heartbeat=1", on_close=lambda *told: ended.append(told))
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        reactor.run_once(max(0.0, until - time.monotonic()))
    assert ended == []
    assert connection.is_open
    finish(reactor, connection)


def test_a_frozen_broker_is_noticed_after_two_heartbeat_intervals(node: RabbitNode) -> None:
    reactor, ended = SelectReactor(), []
    opened(reactor, f"{node.url}?heartbeat=1", on_close=lambda connection, error: ended.append(error))
    begin = time.monotonic()
    os.kill(node.pid, signal.SIGSTOP)
    try:
        turn(reactor, lambda: ended)
    finally:
        os.kill(node.pid, signal.SIGCONT)
    assert 1.4 < time.monotonic() - begin < 4
    assert isinstance(ended[0], cpspika.HeartbeatTimeout)
    reactor.close()


# --- finding it -------------------------------------------------------------------------------------------------------


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.mark.parametrize("cls", [SelectConnection, cpspika.AsyncoreConnection, BlockingConnection])
def test_a_list_of_targets_whose_first_is_dead(node: RabbitNode, dead_port: int, cls: Any) -> None:
    connection = cls([f"amqp://127.0.0.1:{dead_port}", "amqp://no-such-host.invalid", node.url], timeout=20)
    assert connection.parameters.port == node.port
    assert connection.channel().queue_declare(exclusive=True).message_count == 0
    connection.close()


def test_a_name_of_several_addresses_whose_first_refuses(node: RabbitNode) -> None:
    """The node listens on 127.0.0.1 alone; where "localhost" is ::1 too, that is tried and passed over."""
    connection = BlockingConnection(f"amqp://localhost:{node.port}/", timeout=20)
    assert connection.is_open
    connection.close()


def test_all_targets_dead(node: RabbitNode, dead_port: int) -> None:
    dead = f"amqp://127.0.0.1:{dead_port}"
    with pytest.raises(ConnectError, match=rf"127\.0\.0\.1:{dead_port}.*refused.*127\.0\.0\.1:{dead_port}.*refused"):
        BlockingConnection([dead, dead], timeout=20)


def test_a_silent_first_target_leaves_time_for_the_second(node: RabbitNode) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begin = time.monotonic()
        target = [f"amqp://127.0.0.1:{silent.getsockname()[1]}", node.url]
        connection = BlockingConnection(target, connection_timeout=2, timeout=20)
        assert 0.9 < time.monotonic() - begin < 2
        connection.close()


# --- another client ---------------------------------------------------------------------------------------------------

HEADERS = {"text": "Größe", "n": 7, "big": 2**40, "yes": True, "nothing": None, "list": [1, "a", {"b": 2}]}
WHEN = datetime(2024, 2, 29, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize("protocol", ["0-9-1", "0-8"])
def test_pika_reads_what_cpspika_publishes(node: RabbitNode, other: Any, protocol: str) -> None:
    queue = other.queue_declare("", durable=True, auto_delete=True).method.queue
    body = bytes(range(256)) * 2000
    with BlockingConnection(node.url, protocol=protocol, timeout=20) as connection, connection.channel() as channel:
        channel.basic_publish(
            routing_key=queue,
            body=body,
            properties=cpspika.BasicProperties(
                content_type="text/plain",
                headers={**HEADERS, "when": WHEN},
                delivery_mode=2,
                priority=3,
                correlation_id="c",
                reply_to="r",
                expiration="60000",
                message_id="m",
                timestamp=WHEN,
                type="t",
                user_id="guest",
                app_id="a",
            ),
        )
        channel.basic_publish(routing_key=queue, body="")
    method, properties, read = other.basic_get(queue, auto_ack=True)
    assert (read, method.routing_key, method.redelivered) == (body, queue, False)
    when = WHEN.replace(tzinfo=None)
    headers = properties.headers
    assert headers.pop("when") in (when, WHEN)
    assert headers == HEADERS
    names = "content_type delivery_mode priority correlation_id reply_to expiration message_id type user_id app_id"
    assert [getattr(properties, name) for name in names.split()] == (
        ["text/plain", 2, 3, "c", "r", "60000", "m", "t", "guest", "a"]
    )
    assert properties.timestamp == int(WHEN.timestamp())
    _, properties, read = other.basic_get(queue, auto_ack=True)
    assert (read, properties) == (b"", pika.BasicProperties())
    other.queue_delete(queue)


@pytest.mark.parametrize("protocol", ["0-9-1", "0-8"])
def test_cpspika_reads_what_pika_publishes(node: RabbitNode, other: Any, protocol: str) -> None:
    queue = other.queue_declare("", durable=True, auto_delete=True).method.queue
    body = bytes(range(256)) * 2000
    properties = pika.BasicProperties(
        content_type="text/plain", headers=HEADERS, delivery_mode=1, timestamp=int(WHEN.timestamp()), message_id="m"
    )
    other.basic_publish("amq.direct", queue, b"unroutable", properties)
    other.queue_bind(queue, "amq.direct", queue)
    other.basic_publish("amq.direct", queue, body, properties)
    other.basic_publish("", queue, b"")
    other.queue_declare(queue, passive=True)
    with BlockingConnection(node.url, protocol=protocol, timeout=20) as connection, connection.channel() as channel:
        messages = channel.consume(queue, no_ack=True)
        first, second = next(messages), next(messages)
        assert (first.body, first.exchange, first.routing_key) == (body, "amq.direct", queue)
        assert first.properties == cpspika.BasicProperties(
            content_type="text/plain", headers=HEADERS, delivery_mode=1, timestamp=WHEN, message_id="m"
        )
        assert (second.body, second.properties) == (b"", cpspika.BasicProperties())


def test_the_two_share_a_queue(node: RabbitNode, other: Any) -> None:
    """What one gave back, the other gets, marked as delivered before."""
    with BlockingConnection(node.url, timeout=20) as connection, connection.channel() as channel:
        queue = channel.queue_declare("", durable=True, auto_delete=True).queue
        channel.basic_publish(routing_key=queue, body="x")
        channel.basic_get(queue).nack()
        channel.queue_declare(queue, passive=True)  # its reply comes after the nack has been seen
        method, _, body = other.basic_get(queue)
        assert (body, method.redelivered) == (b"x", True)
        other.basic_reject(method.delivery_tag)
        message = next(channel.consume(queue))
        assert (message.body, message.redelivered) == (b"x", True)
        message.ack()
