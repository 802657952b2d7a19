"""Consumers: prefetch, acknowledgements, redelivery, and how they end."""

from __future__ import annotations

from typing import Any

import pytest

from cpspika import AccessRefused, DuplicateConsumerTag, NotInThisVersion, PreconditionFailed, UnknownConsumerTag
from tests.support.rabbitmq_features import GLOBAL_QOS
from tests.support.styles import Scenario, Style, count, scenario


def filled(ch: Any, *bodies: str) -> Any:
    """The name of a new queue that holds these bodies."""
    ok = yield ch.queue_declare(exclusive=True)
    yield [ch.basic_publish("", ok.queue, body) for body in bodies]
    return ok.queue


def texts(messages: list[Any]) -> list[str]:
    return [message.body.decode() for message in messages]


@scenario()
def test_prefetch_bounds_what_is_unacknowledged(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue = yield from filled(ch, "1", "2", "3", "4", "5")
    got: list[Any] = []
    yield ch.basic_qos(prefetch_count=2)
    tag = yield ch.basic_consume(queue, got.append)
    yield s.until(lambda: len(got) == 2)
    yield from count(ch, queue, 3)
    assert (yield ch.queue_declare(queue, passive=True)) == (queue, 3, 1)
    ch.subject.basic_ack(got[1].delivery_tag, multiple=True)
    yield s.until(lambda: len(got) == 4)
    yield ch.basic_cancel(tag)
    assert texts(got) == ["1", "2", "3", "4"]
    yield from count(ch, queue, 1)


@pytest.mark.needs(GLOBAL_QOS)
@scenario(only="0-9-1")
def test_prefetch_for_the_whole_channel(s: Style) -> Scenario:
    ch = yield from s.channel()
    one = yield from filled(ch, "1", "2", "3")
    two = yield from filled(ch, "4", "5", "6")
    got: list[Any] = []
    yield ch.basic_qos(prefetch_count=2, global_=True)
    yield ch.basic_consume(one, got.append)
    yield ch.basic_consume(two, got.append)
    yield s.until(lambda: len(got) == 2)
    left = 0
    for queue in (one, two):
        while (yield ch.basic_get(queue, no_ack=True)) is not None:
            left += 1
    assert left == 4
    assert len(got) == 2


@scenario()
def test_a_rejected_message_is_delivered_again_or_dropped(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue = yield from filled(ch, "x")
    first = yield ch.basic_get(queue)
    first.reject()
    again = yield ch.basic_get(queue)
    assert (first.redelivered, again.redelivered, again.body) == (False, True, b"x")
    again.reject(requeue=False)
    assert (yield ch.basic_get(queue)) is None


@scenario()
def test_a_nacked_message_is_delivered_again(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue = yield from filled(ch, "x")
    got: list[Any] = []

    def on_message(message: Any) -> None:
        got.append(message)
        if message.redelivered:
            message.ack()
        else:
            message.nack()

    yield ch.basic_consume(queue, on_message)
    yield s.until(lambda: len(got) == 2)
    assert [message.redelivered for message in got] == [False, True]


@scenario(only="0-9-1")
def test_nack_of_several(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue = yield from filled(ch, "1", "2", "3")
    got = []
    for _ in range(3):
        got.append((yield ch.basic_get(queue)))
    yield ch.basic_nack(got[1].delivery_tag, multiple=True)
    yield ch.basic_nack(got[2].delivery_tag, requeue=False)
    again = []
    while (message := (yield ch.basic_get(queue, no_ack=True))) is not None:
        again.append(message)
    assert texts(again) == ["1", "2"]
    assert all(message.redelivered for message in again)


@scenario(only="0-8")
def test_nack_of_several_is_not_in_0_8(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue = yield from filled(ch, "1")
    message = yield ch.basic_get(queue)
    with pytest.raises(NotInThisVersion):
        yield ch.basic_nack(message.delivery_tag, multiple=True)
    assert ch.is_open


@scenario()
def test_recover(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue = yield from filled(ch, "1", "2")
    for _ in range(2):
        assert (yield ch.basic_get(queue)).redelivered is False
    assert (yield ch.basic_get(queue)) is None
    yield ch.basic_recover(requeue=True)
    again = []
    for _ in range(2):
        again.append((yield ch.basic_get(queue)))
    assert texts(again) == ["1", "2"]
    assert all(message.redelivered for message in again)


@scenario()
def test_unacknowledged_messages_go_back_when_the_channel_closes(s: Style) -> Scenario:
    connection = yield s.connect()
    ch = yield connection.channel()
    queue = yield from filled(ch, "x")
    yield ch.basic_get(queue)
    yield ch.close()
    ch = yield connection.channel()
    yield from count(ch, queue, 1)
    assert (yield ch.basic_get(queue)).redelivered is True


@scenario(recovers=False)
def test_an_ack_of_nothing_closes_the_channel(s: Style) -> Scenario:
    connection = yield s.connect()
    ch = yield connection.channel()
    ch.add_state_change_handler(lambda channel, is_open: None)  # somebody to tell
    yield ch.basic_ack(17)
    yield s.until(lambda: not ch.is_open)
    assert isinstance(ch.close_reason, PreconditionFailed)
    assert "17" in ch.close_reason.text
    assert connection.is_open


@scenario()
def test_a_consumer_of_no_ack(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue = yield from filled(ch, "1", "2", "3")
    got: list[Any] = []
    yield ch.basic_consume(queue, got.append, no_ack=True)
    yield s.until(lambda: len(got) == 3)
    yield ch.basic_recover()
    assert (yield ch.queue_declare(queue, passive=True)).message_count == 0
    assert texts(got) == ["1", "2", "3"]


@scenario()
def test_messages_come_in_order_to_two_consumers(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue = yield from filled(ch)
    one: list[Any] = []
    two: list[Any] = []
    yield ch.basic_consume(queue, one.append, no_ack=True, consumer_tag="one")
    yield ch.basic_consume(queue, two.append, no_ack=True, consumer_tag="two")
    yield [ch.basic_publish("", queue, str(number)) for number in range(100)]
    yield s.until(lambda: len(one) + len(two) == 100)
    assert texts(one) == sorted(texts(one), key=int)
    assert texts(two) == sorted(texts(two), key=int)
    assert one
    assert two
    assert {message.consumer_tag for message in one} == {"one"}


@scenario()
def test_cancel_by_the_client(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue = yield from filled(ch, "before")
    got: list[Any] = []
    cancelled: list[str] = []
    tag = yield ch.basic_consume(queue, got.append, consumer_tag="mine", on_cancel=cancelled.append)
    assert tag == "mine"
    yield s.until(lambda: got)
    assert (yield ch.basic_cancel("mine")) == "mine"
    yield ch.basic_publish("", queue, "after")
    assert (yield ch.basic_get(queue)).body == b"after"
    assert texts(got) == ["before"]
    assert cancelled == []


@scenario()
def test_a_consumers_tag_is_the_channels_own(s: Style) -> Scenario:
    connection = yield s.connect()
    ch = yield connection.channel()
    other = yield connection.channel()
    queue = yield from filled(ch)
    yield ch.basic_consume(queue, print, consumer_tag="mine")
    with pytest.raises(DuplicateConsumerTag):
        yield ch.basic_consume(queue, print, consumer_tag="mine")
    with pytest.raises(UnknownConsumerTag):
        yield ch.basic_cancel("another's")
    assert (yield other.basic_consume(queue, print, consumer_tag="mine")) == "mine"
    yield ch.basic_cancel("mine")
    assert (yield ch.basic_consume(queue, print, consumer_tag="mine")) == "mine"


@scenario()
def test_an_exclusive_consumer_suffers_no_other(s: Style) -> Scenario:
    connection = yield s.connect()
    ch = yield connection.channel()
    other = yield connection.channel()
    queue = yield from filled(ch)
    yield ch.basic_consume(queue, print, exclusive=True)
    with pytest.raises(AccessRefused):
        yield other.basic_consume(queue, print)
    assert ch.is_open


@scenario()
def test_the_broker_cancels_when_the_queue_is_deleted(s: Style) -> Scenario:
    connection = yield s.connect()
    ch = yield connection.channel()
    other = yield connection.channel()
    queue = yield from filled(ch)
    cancelled: list[str] = []
    tag = yield ch.basic_consume(queue, print, on_cancel=cancelled.append)
    assert (yield other.queue_delete(queue)) == 0
    yield s.until(lambda: cancelled)
    assert cancelled == [tag]
    with pytest.raises(UnknownConsumerTag):
        yield ch.basic_cancel(tag)


@scenario(only="0-9-1")
def test_a_consumers_arguments(s: Style) -> Scenario:
    """Of two consumers the one of higher priority gets everything that it can take."""
    ch = yield from s.channel()
    queue = yield from filled(ch)
    low: list[Any] = []
    high: list[Any] = []
    yield ch.basic_consume(queue, low.append, no_ack=True)
    yield ch.basic_consume(queue, high.append, no_ack=True, arguments={"x-priority": 10})
    yield [ch.basic_publish("", queue, "x") for _ in range(10)]
    yield s.until(lambda: len(low) + len(high) == 10)
    assert len(high) == 10


@scenario()
def test_direct_reply_to(s: Style) -> Scenario:
    connection = yield s.connect()
    client = yield connection.channel()
    server = yield connection.channel()
    queue = yield from filled(server)
    replies: list[Any] = []

    def answer(request: Any) -> None:
        reply = {"correlation_id": request.properties.correlation_id}
        request.channel.basic_publish("", request.properties.reply_to, request.body.upper(), reply)

    yield server.basic_consume(queue, answer, no_ack=True)
    yield client.basic_consume("amq.rabbitmq.reply-to", replies.append, no_ack=True)
    for number in range(3):
        properties = {"reply_to": "amq.rabbitmq.reply-to", "correlation_id": str(number)}
        yield client.basic_publish("", queue, f"request {number}", properties)
    yield s.until(lambda: len(replies) == 3)
    assert texts(replies) == ["REQUEST 0", "REQUEST 1", "REQUEST 2"]
    assert [reply.properties.correlation_id for reply in replies] == ["0", "1", "2"]


@scenario()
def test_requests_behind_a_consume_settle_in_order(s: Style) -> Scenario:
    """RabbitMQ may answer them before the consume, whose reply comes by way of the queue."""
    ch = yield from s.channel()
    queue = (yield ch.queue_declare(exclusive=True)).queue
    got: list[Any] = []
    for _ in range(20):
        tag, declared, purged = yield [
            ch.basic_consume(queue, got.append, consumer_tag="mine"),
            ch.queue_declare(queue, passive=True),
            ch.queue_purge(queue),
        ]
        assert (tag, declared.queue, purged) == ("mine", queue, 0)
        assert (yield ch.basic_cancel("mine")) == "mine"
