"""What changed from RabbitMQ 3.10 to 4.3, as docs/rabbitmq.md tells it, on the RabbitMQ that is here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cpspika
from cpspika import BlockingConnection, PreconditionFailed
from tests.support.rabbitmq import RabbitNode
from tests.support.rabbitmq_features import CONSUMER_TIMEOUT, QUEUE_TIMEOUT, TRANSIENT_DENIED, version_of

MIB = 2**20


@pytest.fixture
def connection(node: RabbitNode) -> Iterator[BlockingConnection]:
    with BlockingConnection(node.url, timeout=30) as opened:
        yield opened


@pytest.fixture
def declared(connection: BlockingConnection) -> Iterator[Callable[..., str]]:
    """declared("quorum", **arguments): the name of a new queue of a type; it is deleted at the end."""
    names: list[str] = []

    def declare(kind: str, **arguments: Any) -> str:
        names.append(f"cpspika-{kind}-{time.monotonic_ns()}")
        arguments = {"x-queue-type": kind, **{f"x-{key.replace('_', '-')}": each for key, each in arguments.items()}}
        connection.channel().queue_declare(names[-1], durable=True, arguments=arguments)
        return names[-1]

    yield declare
    for name in names:
        connection.channel().queue_delete(name)


def confirming(connection: BlockingConnection) -> Any:
    channel = connection.channel()
    channel.confirm_select()
    return channel


def until(connection: BlockingConnection, condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"nothing came for {seconds:g} s"
        connection.drain_events(0.1)


def got(channel: Any, queue: str) -> Any:
    """The next message. A quorum queue may take a moment until a requeued one is ready."""
    deadline = time.monotonic() + 30
    while (message := channel.basic_get(queue)) is None:
        assert time.monotonic() < deadline, f"no message came to {queue}"
    return message


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_frame_max_below_8192(node: RabbitNode) -> None:
    if version_of(node) < (4, 1):
        with BlockingConnection(node.url, frame_max=4096, timeout=30) as connection:
            assert connection.frame_max == 4096
    else:
        with pytest.raises(cpspika.ConnectError, match=r"RabbitMQ 4\.1 and later hang up on less than 8192"):
            BlockingConnection(node.url, frame_max=4096, timeout=30)


@pytest.mark.parametrize("confirms", [True, False], ids=["confirms", "no confirms"])
def test_a_message_above_the_limit_closes_the_channel_alone(
    connection: BlockingConnection, node: RabbitNode, confirms: bool
) -> None:
    limit = 128 * MIB if version_of(node) < (4, 0) else 16 * MIB
    channel = confirming(connection) if confirms else connection.channel()
    queue = channel.queue_declare(exclusive=True).queue
    with pytest.raises(
        cpspika.ChannelClosed, match=f"larger than configured max size {limit}; the limit is max_message"
    ) as e:
        _publish_and_look(channel, queue, bytes(limit + 1))
    if confirms:
        assert isinstance(e.value, PreconditionFailed)
        assert e.value.method == "basic.publish"
    assert connection.channel().queue_declare(queue, passive=True).message_count == 0


def _publish_and_look(channel: Any, queue: str, body: bytes) -> None:
    """Without confirms the next call tells what became of the channel."""
    channel.basic_publish(routing_key=queue, body=body)
    channel.queue_declare(queue, passive=True)


def test_a_message_of_16_mib_passes(connection: BlockingConnection) -> None:
    channel = confirming(connection)
    queue = channel.queue_declare(exclusive=True).queue
    channel.basic_publish(routing_key=queue, body=bytes(16 * MIB))
    assert len(channel.basic_get(queue, no_ack=True).body) == 16 * MIB


# --- deprecated features ----------------------------------------------------------------------------------------------


@pytest.mark.needs(TRANSIENT_DENIED)
def test_a_transient_queue_is_denied_and_the_error_names_the_remedy(node: RabbitNode) -> None:
    with RabbitNode(config="{permit_deprecated_features, #{transient_nonexcl_queues => false}}") as strict:
        with pytest.raises(
            cpspika.InternalError, match=r"(?s)transient_nonexcl_queues.*; declare the queue with durable=True"
        ) as e:
            BlockingConnection(strict.url, timeout=30).channel().queue_declare("transient")
        assert isinstance(e.value, cpspika.ConnectionClosed)
        with BlockingConnection(strict.url, timeout=30) as connection, connection.channel() as channel:
            assert channel.queue_declare(exclusive=True).message_count == 0
            assert channel.queue_declare("durable", durable=True).message_count == 0


def test_global_qos_is_the_channels_or_is_ignored_with_a_warning(
    connection: BlockingConnection, node: RabbitNode, caplog: pytest.LogCaptureFixture
) -> None:
    channel, consumed = connection.channel(), []
    queue = channel.queue_declare(exclusive=True).queue
    for number in range(6):
        channel.basic_publish(routing_key=queue, body=str(number))
    channel.basic_qos(prefetch_count=2, global_=True)
    ignored = version_of(node) >= (4, 3)
    assert [record.levelname for record in caplog.records if "global_" in record.getMessage()] == ["WARNING"] * ignored
    for _ in range(2):
        channel.basic_consume(queue, consumed.append)
    until(connection, lambda: len(consumed) == (4 if ignored else 2))
    assert connection.channel().queue_declare(queue, passive=True).message_count == (2 if ignored else 4)


# --- quorum queues ----------------------------------------------------------------------------------------------------


def test_a_quorum_queue_confirms_what_it_keeps(connection: BlockingConnection, declared: Callable[..., str]) -> None:
    queue, channel = declared("quorum"), confirming(connection)
    fates: list[Any] = []
    for number in range(500):
        channel.core.basic_publish("", queue, str(number), on_done=lambda *fate: fates.append(fate))
    until(connection, lambda: len(fates) == 500)
    assert set(fates) == {(None, True)}
    channel.basic_qos(prefetch_count=50)
    bodies = []
    for message in channel.consume(queue):
        bodies.append(int(message.body))
        message.ack()
        if len(bodies) == 500:
            break
    assert bodies == list(range(500))


def test_the_delivery_limit_counts_rejects_and_tells_the_count(
    connection: BlockingConnection, declared: Callable[..., str]
) -> None:
    letters = declared("classic")
    queue = declared("quorum", delivery_limit=2, dead_letter_exchange="", dead_letter_routing_key=letters)
    channel = confirming(connection)
    channel.basic_publish(routing_key=queue, body="x")
    counts = []
    for _ in range(3):
        message = got(channel, queue)
        counts.append((message.redelivered, (message.properties.headers or {}).get("x-delivery-count", 0)))
        message.reject()
    assert counts == [(False, 0), (True, 1), (True, 2)]
    letter = got(channel, letters)
    assert letter.properties.headers["x-death"][0]["reason"] == "delivery_limit"
    letter.ack()


def test_a_nack_counts_as_a_delivery_up_to_4_2(
    connection: BlockingConnection, node: RabbitNode, declared: Callable[..., str]
) -> None:
    """On 4.3 it is no failure of the consumer, and the message may be given back for ever."""
    queue, channel = declared("quorum", delivery_limit=2), confirming(connection)
    channel.basic_publish(routing_key=queue, body="x")
    for number in range(3):
        message = got(channel, queue)
        headers = message.properties.headers or {}
        counted = 0 if version_of(node) >= (4, 3) else number
        assert headers.get("x-delivery-count", 0) == counted
        message.nack()
    if version_of(node) >= (4, 3):
        message = got(channel, queue)
        assert message.properties.headers == {"x-acquired-count": 3}
        message.ack()


def test_an_iterator_that_is_left_does_not_use_up_the_delivery_limit(
    connection: BlockingConnection, node: RabbitNode, declared: Callable[..., str]
) -> None:
    """It gives back what it did not hand out. A message that this happens to again and again must not be lost."""
    queue, channel = declared("quorum", delivery_limit=30), confirming(connection)
    for body in "ab":
        channel.basic_publish(routing_key=queue, body=body)
    channel.basic_qos(prefetch_count=10)
    for _ in range(10):
        for message in channel.consume(queue):
            until(connection, lambda: connection.channel().queue_declare(queue, passive=True).message_count == 0)
            message.nack()
            break
    if version_of(node) >= (4, 3):
        messages = [got(channel, queue) for _ in range(2)]
        assert sorted(message.body for message in messages) == [b"a", b"b"]
        assert ["x-delivery-count" in message.properties.headers for message in messages] == [False, False]


@pytest.mark.needs(QUEUE_TIMEOUT, CONSUMER_TIMEOUT)
def test_a_consumer_timeout_cancels_the_consumer_and_its_tag_is_free(
    connection: BlockingConnection, node: RabbitNode, declared: Callable[..., str]
) -> None:
    queue = declared("quorum", consumer_timeout=1000)
    publisher, channel = confirming(connection), connection.channel()
    for body in "abc":
        publisher.basic_publish(routing_key=queue, body=body)
    channel.basic_qos(prefetch_count=2)
    slow: list[Any] = []
    done: list[bytes] = []
    cancelled: list[str] = []
    channel.basic_consume(queue, slow.append, consumer_tag="mine", on_cancel=cancelled.append)
    until(connection, lambda: cancelled, 60)
    assert cancelled == ["mine"]
    assert [message.body for message in slow] == [b"a", b"b"]
    slow[0].ack()  # too late: the message is ready again; it closes no channel
    assert channel.queue_declare(queue, passive=True).consumer_count == 0

    def work(message: Any) -> None:
        done.append(message.body)
        message.ack()

    channel.basic_consume(queue, work, consumer_tag="mine")
    until(connection, lambda: len(done) == 3)
    assert sorted(done) == [b"a", b"b", b"c"]
    until(connection, lambda: channel.queue_declare(queue, passive=True).message_count == 0)
    assert len(slow) == 2


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stream(connection: BlockingConnection, declared: Callable[..., str]) -> str:
    """A stream with the messages 0 to 9."""
    name, channel = declared("stream"), confirming(connection)
    for number in range(10):
        channel.basic_publish(routing_key=name, body=str(number))
    return name


@pytest.mark.parametrize(("offset", "first"), [("first", 0), (7, 7)])
def test_a_stream_is_read_from_an_offset(connection: BlockingConnection, stream: str, offset: Any, first: int) -> None:
    """More of it comes as messages are acknowledged, and what was read stays."""
    for _ in range(2):
        channel = connection.channel()
        channel.basic_qos(prefetch_count=2)
        read: list[tuple[int, bytes]] = []

        def on_message(message: Any, read: list[tuple[int, bytes]] = read) -> None:
            read.append((message.properties.headers["x-stream-offset"], message.body))
            message.ack()

        channel.basic_consume(stream, on_message, arguments={"x-stream-offset": offset})
        until(connection, lambda read=read: len(read) == 10 - first)
        assert read == [(number, str(number).encode()) for number in range(first, 10)]
        channel.close()


def test_next_is_what_comes_after_the_consumer(connection: BlockingConnection, stream: str) -> None:
    channel, read = connection.channel(), []
    channel.basic_qos(prefetch_count=2)
    channel.basic_consume(stream, read.append, arguments={"x-stream-offset": "next"})
    confirming(connection).basic_publish(routing_key=stream, body="new")
    until(connection, lambda: read)
    assert [(message.body, message.properties.headers["x-stream-offset"]) for message in read] == [(b"new", 10)]


def test_the_prefetch_holds_a_stream_back_until_messages_are_acknowledged(
    connection: BlockingConnection, stream: str
) -> None:
    channel, read = connection.channel(), []
    channel.basic_qos(prefetch_count=3)
    channel.basic_consume(stream, read.append, arguments={"x-stream-offset": "first"})
    until(connection, lambda: len(read) == 3)
    connection.channel()  # whatever else was sent is here now
    connection.drain_events(0)
    assert len(read) == 3
    channel.basic_ack(read[-1].delivery_tag, multiple=True)
    until(connection, lambda: len(read) == 6)


def test_a_stream_needs_a_prefetch(connection: BlockingConnection, stream: str) -> None:
    with pytest.raises(PreconditionFailed, match=r"prefetch count is not set.*; call basic_qos"):
        connection.channel().basic_consume(stream, print)
    assert connection.is_open


GET_OR_NO_ACK: dict[str, Callable[[Any, str], object]] = {
    "get": lambda channel, stream: channel.basic_get(stream),
    "no_ack": lambda channel, stream: channel.basic_consume(stream, print, no_ack=True),
}


@pytest.mark.parametrize("ask", GET_OR_NO_ACK.values(), ids=GET_OR_NO_ACK)
def test_a_stream_has_no_get_and_no_no_ack(node: RabbitNode, stream: str, ask: Callable[[Any, str], object]) -> None:
    channel = BlockingConnection(node.url, timeout=30).channel()
    channel.basic_qos(prefetch_count=1)
    with pytest.raises(cpspika.AMQPNotImplemented, match="not supported by stream queue"):
        ask(channel, stream)
