"""basic.cancel behind basic.consume, and the end of consumers whose queue this connection deletes."""

from __future__ import annotations

from typing import Any

import pytest

import cpspika
from tests.support.scripted import Done, opened


def consuming(tag: str = "c") -> tuple[Any, Any, Done]:
    """A channel that asked for a consumer, and has no reply yet."""
    world = opened()
    channel, started = world.channel(), Done("started")
    channel.basic_consume("q", print, consumer_tag=tag, on_done=started)
    world.peer.expect("basic.consume")
    return world, channel, started


def test_a_cancel_right_behind_its_consume_waits_for_consume_ok() -> None:
    """RabbitMQ 3.10 closes the connection (541) for a cancel that overtakes its consume-ok."""
    world, channel, started = consuming()
    cancelled, declared, log = Done("cancelled"), Done("declared"), list[str]()
    channel.basic_cancel("c", on_done=lambda err, tag: (log.append("cancel"), cancelled(err, tag)))
    channel.queue_declare("p", on_done=lambda err, ok: (log.append("declare"), declared(err, ok)))
    world.peer.expect("queue.declare")
    world.peer.send(1, "queue.declare-ok", queue="p")
    world.settle()
    world.peer.expect_nothing()
    assert log == []
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    world.settle()
    assert started.result == "c"
    assert world.peer.expect("basic.cancel").consumer_tag == "c"
    world.peer.send(1, "basic.cancel-ok", consumer_tag="c")
    world.settle()
    assert (cancelled.result, declared.result.queue) == ("c", "p")
    assert log == ["cancel", "declare"], "replies settle in the order of asking"
    assert not channel.has_consumers


def test_two_cancels_that_wait_both_go_out() -> None:
    world, channel, _ = consuming()
    first, second = Done("first"), Done("second")
    channel.basic_cancel("c", on_done=first)
    channel.basic_cancel("c", on_done=second)
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    world.settle()
    for _ in range(2):
        world.peer.expect("basic.cancel")
        world.peer.send(1, "basic.cancel-ok", consumer_tag="c")
    world.settle()
    assert (first.result, second.result) == ("c", "c")


@pytest.mark.parametrize("tag", ["c", ""])
def test_deliveries_between_the_answers_to_two_cancels_belong_to_the_consumer(tag: str) -> None:
    """RabbitMQ answers a cancel of a consumer that is being cancelled at once. What the queue sent before the answer to
    the first cancel comes behind."""
    world = opened()
    channel, got = world.channel(), list[bytes]()
    channel.basic_consume("q", lambda message: got.append(message.body), consumer_tag=tag)
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    world.settle()
    first, second = Done("first"), Done("second")
    for done in (first, second):
        channel.basic_cancel("c", on_done=done)
        world.peer.expect("basic.cancel")
    world.peer.send(1, "basic.cancel-ok", consumer_tag="c")
    world.peer.deliver(1, b"late", consumer_tag="c")
    world.peer.send(1, "basic.cancel-ok", consumer_tag="c")
    world.settle()
    assert (first.result, second.result, got) == ("c", "c", [b"late"])
    assert world.connection.is_open
    assert not channel.has_consumers
    channel.basic_consume("q", print, consumer_tag="c")


def test_deliveries_behind_a_consume_ok_that_overtakes_another_answer() -> None:
    """Each answer comes by way of its queue, and one queue may be busy."""
    world, channel, _ = consuming("busy")
    world.peer.send(1, "basic.consume-ok", consumer_tag="busy")
    world.settle()
    cancelled, started, got = Done("cancelled"), Done("started"), list[bytes]()
    channel.basic_cancel("busy", on_done=cancelled)
    channel.basic_consume("other", lambda message: got.append(message.body), on_done=started)
    world.peer.expect("basic.cancel")
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="t")
    world.peer.deliver(1, b"first", consumer_tag="t")
    world.settle()
    world.peer.send(1, "basic.cancel-ok", consumer_tag="busy")
    world.settle()
    assert (cancelled.result, started.result, got) == ("busy", "t", [b"first"])


def test_a_consumer_that_ends_before_its_consume_ok_is_settled_does_not_come_back() -> None:
    world, channel, _ = consuming("busy")
    world.peer.send(1, "basic.consume-ok", consumer_tag="busy")
    world.settle()
    ended = list[str]()
    channel.basic_cancel("busy")
    channel.basic_consume("other", print, on_cancel=ended.append)
    world.peer.expect("basic.cancel")
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="t")
    world.peer.send(1, "basic.cancel", consumer_tag="t", no_wait=True)
    world.peer.send(1, "basic.cancel-ok", consumer_tag="busy")
    world.settle()
    assert ended == ["t"]
    assert not channel.has_consumers


def test_a_cancel_that_waits_is_settled_when_the_consume_fails() -> None:
    world, channel, started = consuming()
    cancelled = Done("cancelled")
    channel.basic_cancel("c", on_done=cancelled)
    world.peer.close_channel(404, "NOT_FOUND - no queue 'q'", 60, 20)
    world.settle()
    assert isinstance(started.error, cpspika.NotFound)
    assert isinstance(cancelled.error, cpspika.ChannelClosed)


def test_a_cancel_that_waits_is_settled_when_the_channel_is_closed_behind_it() -> None:
    world, channel, started = consuming()
    cancelled, closed = Done("cancelled"), Done("closed")
    channel.basic_cancel("c", on_done=cancelled)
    channel.close(on_done=closed)
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    world.peer.answer()
    world.settle()
    assert started.result == "c"
    assert isinstance(cancelled.error, cpspika.ChannelClosed)
    assert closed.result is None


# --- the queue is deleted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [False, True], ids=["the same channel", "another channel"])
@pytest.mark.parametrize("first", ["delete-ok", "cancel"])
def test_the_end_of_a_consumer_whose_queue_this_connection_deletes_is_no_error(other: bool, first: str) -> None:
    world = opened()
    channel = world.channel()
    world.consume(channel, print)
    deleter = world.channel() if other else channel
    deleted = Done("deleted")
    deleter.queue_delete("q", on_done=deleted)
    world.peer.expect("queue.delete")
    steps = [
        lambda: world.peer.send(deleter.number, "queue.delete-ok", message_count=3),
        lambda: world.peer.send(channel.number, "basic.cancel", consumer_tag="c", no_wait=True),
    ]
    for step in steps if first == "delete-ok" else reversed(steps):
        step()
        world.settle()
    assert deleted.result == 3
    assert not channel.has_consumers


def test_on_cancel_is_called_all_the_same() -> None:
    world, cancelled = opened(), list[str]()
    channel = world.channel()
    channel.basic_consume("q", print, consumer_tag="c", on_cancel=cancelled.append)
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    channel.queue_delete("q")
    world.settle()
    world.peer.send(1, "basic.cancel", consumer_tag="c", no_wait=True)
    world.settle()
    assert cancelled == ["c"]


def test_a_queue_that_was_declared_without_a_name_is_known_by_the_name_it_got() -> None:
    world = opened()
    channel = world.channel()
    channel.queue_declare()
    world.peer.expect("queue.declare")
    world.peer.send(1, "queue.declare-ok", queue="amq.gen-1")
    world.settle()
    channel.basic_consume("", print, consumer_tag="c")
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    channel.queue_delete("amq.gen-1")
    world.settle()
    world.peer.send(1, "basic.cancel", consumer_tag="c", no_wait=True)
    world.settle()


@pytest.mark.parametrize("deletes", ["nothing", "another queue", "in vain"])
def test_another_end_of_a_consumer_is_an_error_that_says_where_it_was_asked_for(deletes: str) -> None:
    world = opened()
    channel = world.channel()
    world.consume(channel, print)
    if deletes == "another queue":
        channel.queue_delete("p")
    elif deletes == "in vain":
        deleter, failed = world.channel(), Done("failed")
        deleter.queue_delete("q", if_unused=True, on_done=failed)
        world.peer.expect("queue.delete")
        world.peer.close_channel(406, "PRECONDITION_FAILED - in use", 50, 40, number=2)
        world.settle()
        assert isinstance(failed.error, cpspika.PreconditionFailed)
    world.peer.send(1, "basic.cancel", consumer_tag="c", no_wait=True)
    with pytest.raises(cpspika.ConsumerCancelled) as caught:
        world.reactor.run()
    assert caught.value.method == "basic.consume"
    assert caught.value.asked_at is not None
