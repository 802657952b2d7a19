"""What the synchronous facade has beyond the operations: iterators, loops that consume, and context managers."""

from __future__ import annotations

import asyncore
import gc
import signal
import time
import traceback
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

import cpspika
from cpspika import AsyncoreConnection, BlockingConnection, ConsumerCancelled, NotFound, SelectConnection
from cpspika.broker import serve
from tests.support.scripted import SocketBroker, deliver_three
from tests.support.waiting import DEADLINE


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """A wait without end must not hold up the whole run."""

    def bark(*_: object) -> None:
        pytest.fail("it hangs")

    signal.signal(signal.SIGALRM, bark)
    signal.alarm(10)
    yield
    signal.alarm(0)


@pytest.fixture(params=[SelectConnection, AsyncoreConnection, BlockingConnection])
def connection(request: pytest.FixtureRequest, broker: Any, protocol: str) -> Iterator[Any]:
    with request.param(broker.url(protocol), timeout=20) as opened:
        yield opened


@pytest.fixture
def ch(connection: Any) -> Any:
    return connection.channel()


@pytest.fixture
def queue(ch: Any) -> str:
    name: str = ch.queue_declare(exclusive=True).queue
    return name


def fill(ch: Any, queue: str, count: int) -> None:
    for number in range(count):
        ch.basic_publish("", queue, str(number))


def test_the_iterator_hands_out_messages_until_none_came_for_a_while(ch: Any, queue: str) -> None:
    fill(ch, queue, 10)
    bodies = []
    for message in ch.consume(queue, inactivity_timeout=0.1):
        bodies.append(int(message.body))
        message.ack()
    assert bodies == list(range(10))
    assert ch.queue_declare(queue, passive=True) == (queue, 0, 0)


def test_a_left_iterator_gives_back_what_it_did_not_hand_out(ch: Any, queue: str) -> None:
    fill(ch, queue, 10)
    messages = ch.consume(queue)
    for message in messages:
        message.ack()
        if message.body == b"3":
            break
    messages.close()
    again = []
    while (message := ch.basic_get(queue, no_ack=True)) is not None:
        again.append(int(message.body))
    assert again == [4, 5, 6, 7, 8, 9]
    assert ch.queue_declare(queue, passive=True).consumer_count == 0


@pytest.mark.parametrize(("no_ack", "rejected"), [(True, []), (False, [2, 3])])
@pytest.mark.parametrize("kind", [SelectConnection, AsyncoreConnection, BlockingConnection])
def test_a_left_iterator_rejects_only_what_was_to_be_acknowledged(kind: Any, no_ack: bool, rejected: list[int]) -> None:
    with SocketBroker() as broker, kind(broker.url, timeout=20) as connection:
        ch = connection.channel()
        broker.peers[0].when("basic.consume", deliver_three)
        messages = ch.consume("q", no_ack=no_ack)
        assert next(messages).body == b"0"
        ch.queue_declare("q")  # behind its answer the others are here, too
        messages.close()
        ch.queue_declare("q")
        assert [reject.delivery_tag for reject in broker.peers[0].came("basic.nack")] == rejected


def test_the_iterator_raises_what_ends_it(connection: Any, ch: Any, queue: str) -> None:
    messages = ch.consume(queue)
    connection.channel().queue_delete(queue)
    with pytest.raises(ConsumerCancelled):
        next(messages)
    with pytest.raises(NotFound):
        ch.consume("cpspika-nothing")


def test_start_consuming_runs_until_it_is_stopped(ch: Any, queue: str) -> None:
    fill(ch, queue, 5)
    got: list[int] = []

    def on_message(message: cpspika.Message) -> None:
        assert message.channel is ch
        got.append(int(message.body))
        message.ack()
        if len(got) == 3:
            ch.stop_consuming()

    ch.basic_qos(prefetch_count=1)
    tag = ch.basic_consume(queue, on_message)
    ch.start_consuming()
    assert got == [0, 1, 2]
    ch.basic_cancel(tag)


def test_start_consuming_ends_with_the_last_consumer(ch: Any, queue: str) -> None:
    fill(ch, queue, 2)
    got: list[bytes] = []

    def on_message(message: cpspika.Message) -> None:
        got.append(message.body)
        if len(got) == 2:
            ch.basic_cancel(message.consumer_tag)

    ch.basic_consume(queue, on_message, no_ack=True)
    ch.start_consuming()
    assert got == [b"0", b"1"]


def test_start_consuming_raises_what_closes_the_channel(ch: Any, queue: str) -> None:
    fill(ch, queue, 1)
    ch.basic_consume(queue, lambda message: ch.basic_ack(message.delivery_tag + 1))
    with pytest.raises(cpspika.PreconditionFailed):
        ch.start_consuming()


def test_callbacks_wait_for_drain_events(ch: Any, connection: Any, queue: str) -> None:
    fill(ch, queue, 3)
    got: list[bytes] = []
    ch.basic_consume(queue, lambda message: got.append(message.body), no_ack=True)
    for _ in range(20):
        connection.channel().close()
    assert got == []
    while len(got) < 3:
        assert connection.drain_events(5) is True
    begin = time.monotonic()
    assert connection.drain_events(0.05) is False
    assert 0.04 < time.monotonic() - begin < 1


def test_a_callback_may_call_and_wait(ch: Any, connection: Any, queue: str) -> None:
    """Calls within a callback spin the same reactor, and no other callback is entered meanwhile."""
    fill(ch, queue, 3)
    events: list[str] = []

    def on_message(message: cpspika.Message) -> None:
        events.append(f"enter {message.body.decode()}")
        other = connection.channel()
        other.queue_declare(queue, passive=True)
        other.close()
        events.append("leave")

    ch.basic_consume(queue, on_message, no_ack=True)
    while len(events) < 6:
        connection.drain_events(5)
    assert events == ["enter 0", "leave", "enter 1", "leave", "enter 2", "leave"]


def test_an_exception_of_a_callback_comes_out_and_leaves_the_rest(ch: Any, connection: Any, queue: str) -> None:
    fill(ch, queue, 3)
    got: list[bytes] = []

    def on_message(message: cpspika.Message) -> None:
        if message.body == b"1":
            raise KeyError("a mistake of the user's")
        got.append(message.body)

    def drain() -> None:
        while True:
            connection.drain_events(5)

    ch.basic_consume(queue, on_message, no_ack=True)
    with pytest.raises(KeyError, match="a mistake of the user's"):
        drain()
    while len(got) < 2:
        assert connection.drain_events(5)
    assert got == [b"0", b"2"]


def test_messages_put_by_go_with_their_connection(broker: Any) -> None:
    """The reactor of asyncore outlives a connection; what came for a consumer, and was not handed out, does not."""
    got: list[Any] = []
    with AsyncoreConnection(broker.url(), timeout=20) as connection:
        ch = connection.channel()
        name = ch.queue_declare(exclusive=True).queue
        fill(ch, name, 3)
        ch.basic_consume(name, got.append)
        for _ in range(20):
            connection.channel().close()
    asyncore.loop()
    assert got == []


def test_an_error_tells_where_the_operation_was_asked_for(ch: Any) -> None:
    with pytest.raises(NotFound) as caught:
        ch.queue_declare("cpspika-nothing", passive=True)
    error = caught.value
    assert (error.method, error.code) == ("queue.declare", 404)
    assert error.asked_at.endswith("in test_an_error_tells_where_the_operation_was_asked_for")
    assert "test_sync.py:" in error.asked_at


def test_context_managers_close(connection: Any) -> None:
    with connection.channel() as ch:
        queue = ch.queue_declare(exclusive=True).queue
    assert not ch.is_open
    other = connection.channel()
    with pytest.raises(ZeroDivisionError), other:
        1 / 0  # noqa: B018
    assert not other.is_open
    assert connection.channel().queue_declare(queue, passive=True).queue == queue
    with connection:
        pass
    assert not connection.is_open


def test_an_error_inside_a_context_manager_is_the_one_that_is_raised(connection: Any) -> None:
    with pytest.raises(NotFound), connection.channel() as ch:
        ch.basic_get("cpspika-nothing")


def test_asyncore_loop_drives_the_consumers(broker: Any, protocol: str) -> None:
    connection = AsyncoreConnection(broker.url(protocol), timeout=20)
    ch = connection.channel()
    queue = ch.queue_declare(exclusive=True).queue
    fill(ch, queue, 3)
    got: list[bytes] = []

    def on_message(message: cpspika.Message) -> None:
        got.append(message.body)
        if len(got) == 3:
            connection.close()

    ch.basic_consume(queue, on_message, no_ack=True)
    asyncore.loop()
    assert got == [b"0", b"1", b"2"]
    assert not asyncore.socket_map


def test_a_handler_does_not_come_amid_the_call_that_gave_rise_to_it(connection: Any, ch: Any, queue: str) -> None:
    """The call sends what made the channel unwritable, so it is writable again before the answer comes."""
    told: list[bool] = []
    ch.add_writable_handler(lambda channel: told.append(channel.writable))
    assert ch.core.basic_publish("", queue, b"x" * 300_000) is False
    ch.queue_declare(queue, passive=True)
    assert told == []
    assert connection.drain_events(20)
    assert told == [True]


@pytest.mark.parametrize("end", ["close", "drop"])
def test_an_iterator_that_is_left_while_the_link_dies_raises_nothing(end: str) -> None:
    """Dropped, it could not raise: Python would print "Exception ignored in generator"."""

    def script(peer: Any) -> None:
        peer.expect_header()
        peer.serve()
        asked: list[Any] = []
        peer.when("basic.cancel", lambda peer, number, method: asked.append(method))
        peer.wait(lambda: bool(asked), None)
        peer.hang_up()

    unraisable: list[Any] = []
    with SocketBroker(script) as broker, mock.patch("sys.unraisablehook", unraisable.append):
        connection = cpspika.BlockingConnection(broker.url, timeout=DEADLINE)
        channel = connection.channel()
        messages = channel.consume("q")
        if end == "close":
            messages.close()  # type: ignore[attr-defined]
        del messages
        gc.collect()
        with pytest.raises(cpspika.ConnectionClosed):
            channel.queue_declare("q")
    assert not unraisable


def test_start_consuming_on_a_closed_channel_raises_a_fresh_error_each_time(connection: Any, ch: Any) -> None:
    with pytest.raises(NotFound):
        ch.queue_declare("cpspika-nothing", passive=True)
    caught = []
    for _ in range(3):
        with pytest.raises(cpspika.ChannelClosed, match="404") as again:
            ch.start_consuming()
        caught.append(again.value)
    assert len({id(error) for error in caught}) == 3
    lengths = [len(traceback.extract_tb(error.__traceback__)) for error in caught]
    assert lengths[0] == lengths[2]
    assert all(isinstance(error.__cause__, NotFound) for error in caught)
    assert all("in test_start_consuming_on_a_closed_channel" in error.asked_at for error in caught)
    connection.close()
    ch.start_consuming()


def test_the_text_of_a_closed_channel_names_one_call_site(ch: Any) -> None:
    def declare() -> None:
        ch.queue_declare("cpspika-nothing", passive=True)

    with pytest.raises(NotFound):
        declare()
    with pytest.raises(cpspika.ChannelClosed) as caught:
        ch.queue_purge("cpspika-nothing")
    assert str(caught.value).count("asked for at") == 1
    assert "in test_the_text_of_a_closed_channel" in str(caught.value)
    assert "404" in str(caught.value)
    with pytest.raises(cpspika.ChannelClosed) as caught:
        ch.basic_ack(1)
    assert str(caught.value).count("asked for at") == 1


def test_an_iterator_runs_the_callbacks_that_are_due() -> None:
    """Between two messages, and while it waits for one; and they do not put off the end of its patience."""
    with cpspika.BlockingConnection("embedded://") as connection, connection.channel() as channel:
        beside = connection.channel()
        for queue in ("mine", "beside"):
            channel.queue_declare(queue, exclusive=True)
        got: list[Any] = []
        beside.basic_consume("beside", lambda message: got.append(bytes(message.body)), no_ack=True)
        for number in range(3):
            channel.basic_publish("", "mine", f"mine {number}")
        beside.basic_publish("", "beside", "beside 0")
        for message in channel.consume("mine", inactivity_timeout=0.2):
            message.ack()
            got.append(bytes(message.body))
            if message.body == b"mine 2":
                beside.basic_publish("", "beside", "beside 1")  # comes while the iterator waits for more
    assert [body for body in got if body.startswith(b"mine")] == [b"mine 0", b"mine 1", b"mine 2"]
    assert [body for body in got if body.startswith(b"beside")] == [b"beside 0", b"beside 1"]


@pytest.mark.parametrize("facade", [cpspika.BlockingConnection, cpspika.threads.ThreadedConnection])
def test_a_timeout_of_a_wrong_type_is_an_error_before_anything_is_sent(facade: Any) -> None:
    wrong: Any = "5"
    with facade("embedded://") as connection, connection.channel() as channel:
        channel.queue_declare("q", exclusive=True)
        channel.confirm_select()
        calls = [
            lambda: channel.basic_publish("", "q", "x", timeout=wrong),
            lambda: channel.basic_get("q", timeout=wrong),
            lambda: channel.queue_purge("q", timeout=wrong),
            lambda: connection.channel(timeout=wrong),
            lambda: channel.consume("q", inactivity_timeout=wrong),
            lambda: facade("embedded://", timeout=wrong),
        ]
        if facade is cpspika.BlockingConnection:
            calls += [lambda: connection.drain_events(wrong), lambda: connection.turn(wrong)]
        for call in calls:
            with pytest.raises(cpspika.InvalidArgumentType, match="timeout takes a number of seconds or None, not '5'"):
                call()
        ok = channel.queue_declare("q", passive=True, timeout=5)
        assert (ok.message_count, ok.consumer_count) == (0, 0)


@pytest.mark.parametrize("publishes", range(4))
def test_a_lost_link_is_told_once(publishes: int) -> None:
    """By the publish that finds it out, and by those after it; the close has nothing to tell then."""
    with serve() as broker:
        connection = BlockingConnection(broker.url)
        channel = connection.channel()
        broker.drop_links()
        lost = 0
        for _ in range(publishes):
            try:
                channel.basic_publish("", "nowhere", "x")
            except cpspika.ConnectionLost:
                lost += 1
        assert lost >= publishes - 1
        connection.close()
