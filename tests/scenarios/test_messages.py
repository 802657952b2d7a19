"""What a message carries, and what becomes of a publish: returned, confirmed, nacked, committed."""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest

from cpspika import AMQPNotImplemented, BasicProperties, ConnectionClosed, MessageNacked, MessageReturned
from cpspika.errors import PublishError
from tests.support.rabbitmq_features import OLD_PROTOCOL
from tests.support.styles import Scenario, Style, count, scenario

NOON = datetime(2024, 2, 29, 12, 0, 0, tzinfo=timezone.utc)

EVERY_PROPERTY = BasicProperties(
    content_type="text/plain; charset=utf-8",
    content_encoding="identity",
    headers={"a": 1},
    delivery_mode=2,
    priority=9,
    correlation_id="käse-1",
    reply_to="somewhere",
    expiration="60000",
    message_id="m-1",
    timestamp=NOON,
    type="order.created",
    user_id="guest",
    app_id="tests",
    cluster_id="none",
)

HEADERS: dict[str, Any] = {
    "true": True,
    "false": False,
    "zero": 0,
    "minus": -1,
    "int32": [2**31 - 1, -(2**31)],
    "int64": [2**31, -(2**31) - 1, 2**63 - 1, -(2**63)],
    "float": [0.1, -1e300, 0.0],
    "decimal": [Decimal("3.14"), Decimal("-0.00001"), Decimal(7)],
    "text": ["", "plain", "Größe €5 \N{RABBIT}"],
    "bytes": b"\xff\xfe\x00",
    "time": NOON,
    "none": None,
    "table": {"deep": {"deeper": {"deepest": [{"x": 1}, [2, [3]]]}}, "empty": {}},
    "list": [],
    "k" * 128: "a long key",
    "long": "x" * 5000,
}


def queue_on(ch: Any, **arguments: Any) -> Any:
    """The name of a new queue of this connection alone."""
    ok = yield ch.queue_declare(exclusive=True, arguments=arguments or None)
    return ok.queue


@scenario()
def test_every_property_comes_back(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue = yield from queue_on(ch)
    yield ch.basic_publish("", queue, "x", EVERY_PROPERTY)
    message = yield ch.basic_get(queue, no_ack=True)
    assert message.properties == EVERY_PROPERTY
    assert message.properties.timestamp == NOON


@scenario()
def test_a_property_alone_comes_back_alone(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue = yield from queue_on(ch)
    alone = [{name: getattr(EVERY_PROPERTY, name)} for name in ("content_type", "headers", "priority", "cluster_id")]
    for properties in ({}, *alone):
        yield ch.basic_publish("", queue, "x", properties)
        message = yield ch.basic_get(queue, no_ack=True)
        assert message.properties == BasicProperties(**properties)


@scenario()
def test_every_type_of_header_comes_back(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue = yield from queue_on(ch)
    yield ch.basic_publish("", queue, "x", BasicProperties(headers=HEADERS))
    message = yield ch.basic_get(queue, no_ack=True)
    assert message.properties.headers == HEADERS


@pytest.mark.needs(OLD_PROTOCOL)
@scenario()
def test_the_other_version_reads_the_same(s: Style) -> Scenario:
    """The broker itself decodes the properties then, and encodes them anew."""
    other = {"0-8": "0-9-1", "0-9-1": "0-8"}[s.protocol]
    ch = yield from s.channel()
    reader = yield (yield s.connect(s.url(protocol=other))).channel()
    queue = s.name()
    yield ch.queue_declare(queue, durable=True, auto_delete=True)
    yield ch.basic_publish("", queue, "x", BasicProperties(headers=HEADERS, content_type="text/plain", priority=1))
    got: list[Any] = []
    yield reader.basic_consume(queue, got.append, no_ack=True)
    yield s.until(lambda: got)
    assert got[0].properties == BasicProperties(headers=HEADERS, content_type="text/plain", priority=1)


@scenario()
def test_bodies_of_every_size(s: Style) -> Scenario:
    connection = yield s.connect(frame_max=8192)
    assert connection.frame_max == 8192
    ch = yield connection.channel()
    queue = yield from queue_on(ch)
    frame = connection.frame_max - 8
    for size in (0, 1, frame - 1, frame, frame + 1, 2 * frame, 2 * frame + 1, 100_000):
        body = (b"0123456789abcdef" * (size // 16 + 1))[:size]
        yield ch.basic_publish("", queue, body)
        message = yield ch.basic_get(queue, no_ack=True)
        assert message.body == body


@pytest.mark.slow
@scenario()
def test_large_bodies(s: Style) -> Scenario:
    connection = yield s.connect()
    ch = yield connection.channel()
    queue = yield from queue_on(ch)
    frame, got = connection.frame_max - 8, []
    yield ch.basic_consume(queue, got.append, no_ack=True)
    sent = [bytes([size % 251]) * size for size in (frame - 1, frame, frame + 1, 2**20, 5 * 2**20)]
    yield [ch.basic_publish("", queue, body) for body in sent]
    yield s.until(lambda: len(got) == len(sent))
    assert [message.body for message in got] == sent


@scenario()
def test_an_unroutable_mandatory_message_comes_back(s: Style) -> Scenario:
    ch = yield from s.channel()
    returned: list[Any] = []
    ch.add_return_handler(returned.append)
    nowhere = s.name()
    assert (yield ch.basic_publish("", nowhere, "back", {"message_id": "1"}, mandatory=True)) is True
    yield ch.basic_publish("", nowhere, "gone")
    yield s.until(lambda: returned)
    (message,) = returned
    assert (message.body, message.exchange, message.routing_key) == (b"back", "", nowhere)
    assert (message.reply_code, message.reply_text) == (312, "NO_ROUTE")
    assert message.properties.message_id == "1"


@scenario(only="0-9-1")
def test_a_return_is_the_fate_of_its_own_publish(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue = yield from queue_on(ch)
    nowhere = s.name()
    yield ch.confirm_select()
    fates = yield [
        ch.basic_publish("", nowhere if number % 3 == 0 else queue, f"{number % 2}", {"app_id": "x"}, mandatory=True)
        for number in range(12)
    ]
    for number, fate in enumerate(fates):
        if number % 3:
            assert fate is True
        else:
            assert isinstance(fate, MessageReturned)
            assert (fate.code, fate.message.body, fate.message.routing_key) == (312, b"%d" % (number % 2), nowhere)
            assert fate.message.properties == BasicProperties(app_id="x")
    assert ch.is_open


@scenario(only="0-9-1")
def test_confirms(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue = yield from queue_on(ch)
    yield ch.basic_publish("", queue, "before")
    yield ch.confirm_select()
    fates = yield [ch.basic_publish("", queue, str(number), {"delivery_mode": number % 2 + 1}) for number in range(200)]
    assert fates == [True] * 200
    assert (yield ch.basic_publish("", "cpspika-nowhere", "unroutable, and confirmed")) is True
    assert (yield ch.queue_declare(queue, passive=True)).message_count == 201


@scenario(only="0-9-1")
def test_a_full_queue_nacks(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue = yield from queue_on(ch, **{"x-max-length": 2, "x-overflow": "reject-publish"})
    yield ch.confirm_select()
    fates = []
    for number in range(4):  # one by one: the broker counts lazily when many come at once
        fates += yield [ch.basic_publish("", queue, str(number))]
    assert fates[:2] == [True, True]
    assert [type(fate) for fate in fates[2:]] == [MessageNacked, MessageNacked]
    assert all(isinstance(fate, PublishError) for fate in fates[2:])
    yield ch.queue_purge(queue)
    assert (yield ch.basic_publish("", queue, "room again")) is True


@scenario()
def test_commit_and_rollback_of_publishes(s: Style) -> Scenario:
    connection = yield s.connect()
    ch = yield connection.channel()
    queue = yield from queue_on(ch)
    yield ch.tx_select()
    yield ch.basic_publish("", queue, "dropped")
    yield ch.tx_rollback()
    yield ch.basic_publish("", queue, "kept")
    assert (yield ch.basic_get(queue)) is None
    yield ch.tx_commit()
    message = yield ch.basic_get(queue)
    assert (message.body, message.message_count) == (b"kept", 0)


@scenario()
def test_commit_and_rollback_of_acks(s: Style) -> Scenario:
    connection = yield s.connect()
    ch = yield connection.channel()
    queue = yield from queue_on(ch)
    yield ch.basic_publish("", queue, "one")
    yield ch.basic_publish("", queue, "two")
    yield ch.tx_select()
    one = yield ch.basic_get(queue)
    one.ack()
    yield ch.tx_commit()
    two = yield ch.basic_get(queue)
    two.ack()
    yield ch.tx_rollback()
    yield ch.close()
    after = yield connection.channel()
    yield from count(after, queue, 1)
    message = yield after.basic_get(queue)
    assert (message.body, message.redelivered, message.message_count) == (b"two", True, 0)


@scenario(recovers=False)
def test_immediate_is_not_what_the_broker_does_any_more(s: Style) -> Scenario:
    """540 closes the connection, and with it the other channels."""
    connection = yield s.connect(on_close=lambda connection, error: None)
    ch = yield connection.channel()
    other = yield connection.channel()
    yield ch.basic_publish("", "cpspika-q", "x", immediate=True)
    yield s.until(lambda: not connection.is_open)
    assert isinstance(connection.close_reason, AMQPNotImplemented)
    assert isinstance(connection.close_reason, ConnectionClosed)
    assert connection.close_reason.code == 540
    assert not other.is_open
    with pytest.raises(ConnectionClosed, match="540"):
        yield connection.channel()


@scenario()
def test_expired_and_rejected_messages_are_dead_lettered(s: Style) -> Scenario:
    ch = yield from s.channel()
    dead = yield from queue_on(ch)
    queue = yield from queue_on(ch, **{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    yield ch.basic_publish("", queue, "expired", {"expiration": "1"})
    got: list[Any] = []
    yield ch.basic_consume(dead, got.append, no_ack=True)
    yield s.until(lambda: len(got) == 1)
    yield ch.basic_publish("", queue, "rejected")
    message = yield ch.basic_get(queue)
    message.reject(requeue=False)
    yield s.until(lambda: len(got) == 2)
    assert [message.body for message in got] == [b"expired", b"rejected"]
    deaths = [message.properties.headers["x-death"][0] for message in got]
    assert [death["reason"] for death in deaths] == ["expired", "rejected"]
    assert all(death["queue"] == queue and isinstance(death["time"], datetime) for death in deaths)
