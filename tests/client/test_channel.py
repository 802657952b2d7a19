"""Channels: their numbers, their end, and who gets what comes on them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

import cpspika
from cpspika import ConnectionParameters
from cpspika.adapters import MemoryReactor
from cpspika.styles.lifting import operations
from cpspika.styles.sync import SyncConnection
from tests.support.scripted import (
    Done,
    MemoryBroker,
    method_frame,
    opened,
    said,
)


def test_no_free_channels_is_told_and_numbers_are_used_again() -> None:
    world = opened({"channel_max": 3})
    channels = [world.channel() for _ in range(3)]
    assert [channel.number for channel in channels] == [1, 2, 3]
    full = Done()
    with full.not_inside():
        assert world.connection.channel(on_done=full) is None
    with pytest.raises(cpspika.NoFreeChannels, match="3"):
        world.connection.channel()
    world.settle()
    assert isinstance(full.error, cpspika.NoFreeChannels)
    channels[1].close()
    with pytest.raises(cpspika.NoFreeChannels):
        world.connection.channel()  # its number is free with the close-ok, not before
    world.settle()
    world.peer.expect("channel.close", 2)
    assert world.channel().number == 2
    assert world.connection.is_open


def test_the_lowest_free_number_is_used_and_the_old_channel_stays_closed() -> None:
    world = opened()
    channels = [world.channel() for _ in range(4)]
    for index in (2, 0):
        channels[index].close()
        world.settle()
        world.peer.expect("channel.close")
    again = [world.channel() for _ in range(3)]
    assert [channel.number for channel in again] == [1, 3, 5]
    assert not channels[0].is_open
    with pytest.raises(cpspika.ChannelClosed):
        channels[0].queue_declare("q")
    world.peer.expect_nothing()


def test_thousands_of_channels_come_and_go() -> None:
    world = opened()
    random.seed(1)
    alive: list[Any] = []
    for _ in range(500):
        if alive and random.random() < 0.5:
            alive.pop(random.randrange(len(alive))).close()
            world.settle()
            world.peer.expect("channel.close")
        else:
            alive.append(world.channel())
        assert len({channel.number for channel in alive}) == len(alive)
    assert max(channel.number for channel in alive) < 100


def test_a_channel_error_leaves_the_other_channels_working() -> None:
    world = opened()
    first, second = world.channel(), world.channel()
    dead, alive = Done(), Done()
    first.queue_declare("q", passive=True, on_done=dead)
    second.queue_declare("p", on_done=alive)
    world.peer.expect("queue.declare", 1)
    world.peer.expect("queue.declare", 2)
    world.peer.close_channel(404, "NOT_FOUND - no queue", 50, 10, number=1)
    world.peer.send(2, "queue.declare-ok", queue="p")
    world.settle()
    assert isinstance(dead.error, cpspika.NotFound)
    assert alive.result.queue == "p"
    assert (first.is_open, second.is_open, world.connection.is_open) == (False, True, True)
    world.peer.expect("channel.close-ok", 1)
    assert isinstance(first.close_reason, cpspika.NotFound)
    assert world.channel().number == 3, "frames for number 1 may still arrive"


def test_a_channel_that_the_broker_will_not_open() -> None:
    world = opened()
    done, later = Done(), Done()
    channel = world.connection.channel(on_done=done)
    assert channel is not None
    channel.queue_declare("q", on_done=later)
    world.settle()
    world.peer.send_raw(method_frame(1, "channel.close", reply_code=541, reply_text="INTERNAL_ERROR"))
    world.settle()
    assert "INTERNAL_ERROR" in said(done.error)
    assert "INTERNAL_ERROR" in said(later.error)


@pytest.mark.parametrize("closes", [False, True])
def test_state_handlers_are_told_of_the_opening_unless_the_channel_is_closed_meanwhile(closes: bool) -> None:
    world = opened()
    channel = world.connection.channel()
    states: list[Any] = []
    channel.add_state_change_handler(lambda *arguments: states.append(arguments))
    if closes:
        channel.close()
    world.peer.open_channel(1)
    world.settle()
    assert states == [(channel, not closes)]


def test_a_consumer_is_asked_for_with_all_that_was_given() -> None:
    world = opened()
    given: dict[str, Any] = {"no_ack": True, "exclusive": True, "consumer_tag": "c", "no_local": True}
    world.channel().basic_consume("q", print, arguments={"x-priority": 5}, **given)
    asked = world.peer.expect("basic.consume", 1)
    world.channel().basic_consume("q", print)
    assert (asked.queue, asked.arguments["arguments"]) == ("q", {"x-priority": 5})
    assert {name: getattr(asked, name) for name in given} == given
    bare = world.peer.expect("basic.consume", 2)
    assert bare.arguments["arguments"] == {}
    assert {name: bool(getattr(bare, name)) for name in given} == dict.fromkeys(given, False)


def test_channel_closes_that_cross_end_once() -> None:
    world = opened()
    channel, done, pending = world.channel(), Done(), Done()
    states: list[Any] = []
    channel.add_state_change_handler(lambda channel, is_open: states.append(is_open))
    channel.queue_declare("q", on_done=pending)
    world.peer.answering = False
    channel.close(on_done=done)
    world.peer.expect("queue.declare")
    world.peer.expect("channel.close")
    world.peer.send_raw(method_frame(1, "channel.close", reply_code=404, reply_text="NOT_FOUND"))
    world.settle()
    world.peer.send_raw(method_frame(1, "channel.close-ok"))
    world.settle()
    assert done.result is None
    assert isinstance(pending.error, cpspika.ChannelClosed)
    assert states == [False]
    assert world.connection.is_open
    assert world.connection.channel().number == 2, "frames for number 1 may still arrive"


def test_the_brokers_close_that_crosses_ours_is_the_reason() -> None:
    world = opened()
    channel, done, late = world.channel(), Done(), Done()
    world.peer.answering = False
    channel.close(on_done=done)
    world.peer.expect("channel.close")
    assert channel.close_reason is None
    world.peer.send_raw(method_frame(1, "channel.close", reply_code=404, reply_text="NOT_FOUND - no queue 'q'"))
    world.settle()
    assert done.pending, "close-ok is still to come"
    for end in (lambda: None, lambda: world.peer.send_raw(method_frame(1, "channel.close-ok"))):
        end()
        world.settle()
        assert isinstance(channel.close_reason, cpspika.NotFound)
        assert channel.close_reason.code == 404
        assert "no queue 'q'" in str(channel.close_reason)
    assert done.result is None
    channel.queue_declare("q", on_done=late)
    world.settle()
    assert late.error.__cause__ is channel.close_reason


def test_the_brokers_cancel_goes_to_on_cancel() -> None:
    world = opened()
    channel, cancelled, got = world.channel(), [], []
    channel.basic_consume("q", got.append, consumer_tag="c", on_cancel=cancelled.append)
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    world.peer.deliver(1, b"before")
    world.peer.send(1, "basic.cancel", consumer_tag="c", no_wait=True)
    world.settle()
    assert [message.body for message in got] == [b"before"]
    assert cancelled == ["c"]
    assert channel.is_open
    assert not channel.has_consumers
    world.peer.expect_nothing()
    with pytest.raises(cpspika.UnknownConsumerTag):
        channel.basic_cancel("c")
    channel.basic_consume("q", got.append, consumer_tag="c")


def test_the_brokers_cancel_without_on_cancel_comes_out_of_run() -> None:
    world = opened()
    channel = world.channel()
    world.consume(channel, lambda message: None)
    world.peer.send(1, "basic.cancel", consumer_tag="c", no_wait=True)
    with pytest.raises(cpspika.ConsumerCancelled, match="'c'"):
        world.settle()
    assert channel.is_open


def test_the_brokers_cancel_that_wants_an_answer_gets_one() -> None:
    world = opened()
    channel, cancelled = world.channel(), []
    channel.basic_consume("q", print, consumer_tag="c", on_cancel=cancelled.append)
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    world.peer.send(1, "basic.cancel", consumer_tag="c", no_wait=False)
    assert world.peer.expect("basic.cancel-ok").consumer_tag == "c"
    assert cancelled == ["c"]


def test_cancels_that_cross_end_the_consumer_once() -> None:
    world = opened()
    channel, cancelled, done = world.channel(), [], Done()
    channel.basic_consume("q", print, consumer_tag="c", on_cancel=cancelled.append)
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    world.settle()
    channel.basic_cancel("c", on_done=done)
    world.peer.send(1, "basic.cancel", consumer_tag="c", no_wait=True)
    world.peer.expect("basic.cancel")
    world.peer.send(1, "basic.cancel-ok", consumer_tag="c")
    world.settle()
    assert done.result == "c"
    assert len(cancelled) <= 1
    assert channel.is_open


def test_deliveries_go_to_their_consumer_with_what_the_broker_said() -> None:
    world = opened()
    channel, first, second = world.channel(), [], []
    world.consume(channel, first.append, "one")
    world.consume(channel, second.append, "two")
    world.peer.deliver(
        1, b"for two", {"message_id": "m"}, consumer_tag="two", delivery_tag=9, redelivered=True, exchange="x"
    )
    world.peer.deliver(1, b"for one", consumer_tag="one", delivery_tag=10)
    world.settle()
    assert [message.body for message in first] == [b"for one"]
    message = second[0]
    assert (message.body, message.delivery_tag, message.redelivered) == (b"for two", 9, True)
    assert (message.exchange, message.routing_key, message.consumer_tag) == ("x", "q", "two")
    assert message.channel is channel
    assert message.properties.message_id == "m"
    message.ack(multiple=True)
    message.nack(requeue=False)
    message.reject()
    ack, nack, reject = (world.peer.expect(f"basic.{name}") for name in ("ack", "nack", "reject"))
    assert (ack.delivery_tag, ack.multiple) == (9, True)
    assert (nack.delivery_tag, nack.multiple, nack.requeue) == (9, False, False)
    assert (reject.delivery_tag, reject.requeue) == (9, True)


def test_basic_get_gives_a_message_or_none() -> None:
    world = opened()
    channel, some, none = world.channel(), Done(), Done()
    channel.basic_get("q", on_done=some)
    channel.basic_get("q", on_done=none)
    world.settle()
    world.peer.send_content(
        1, "basic.get-ok", b"m", delivery_tag=4, exchange="x", routing_key="k", message_count=7, redelivered=True
    )
    world.peer.send(1, "basic.get-empty")
    world.settle()
    message = some.result
    assert (message.body, message.delivery_tag, message.message_count, message.redelivered) == (b"m", 4, 7, True)
    assert message.channel is channel
    assert none.result is None


def test_a_facade_over_memory_opens_and_closes_as_the_others_do() -> None:
    reactor = MemoryReactor()
    broker = MemoryBroker(reactor)
    with SyncConnection(reactor, [ConnectionParameters("broker", heartbeat=0)]) as connection:
        broker.peer.serve()
        with connection.channel() as channel:
            assert channel.queue_declare("q").queue == "q"
            assert channel.basic_get("q") is None
    assert broker.peer.hung_up or not connection.is_open


def test_a_close_before_the_opening_that_was_asked_for_is_nobodys_error() -> None:
    reactor = MemoryReactor()
    connection = cpspika.connect("amqp://nobody", reactor=reactor)
    closed = Done()
    connection.close(on_done=closed)
    reactor.run()  # nothing comes out of it
    assert closed.result is None
    assert len(closed.calls) == 1


def test_a_thread_that_comes_in_while_another_is_inside_is_refused_and_sends_nothing() -> None:
    world = opened()
    channel = world.channel()
    confirming = world.channel()
    confirming.confirm_select()
    world.settle()
    world.peer.expect("confirm.select")
    world.peer.send(2, "confirm.select-ok")
    world.settle()
    calls: list[Callable[[], object]] = [
        lambda: channel.queue_declare("q"),
        lambda: channel.basic_publish("", "q", "by the fast path"),
        lambda: confirming.basic_publish("", "q", "by the fast path"),
        lambda: channel.basic_publish("", "q", "in full", mandatory=True),
        lambda: channel.basic_ack(1),
        lambda: channel.basic_reject(1),
        lambda: channel.basic_cancel("c"),
        lambda: channel.close(),
        lambda: world.connection.channel(),
        lambda: world.connection.update_secret("new"),
        lambda: world.connection.close(),
    ]
    world.consume(channel, print, tag="c")
    world.reactor.thread = -1  # another one
    for call in calls:
        with pytest.raises(cpspika.ConcurrentUse):
            call()
    world.reactor.thread = threading.get_ident()  # this one is inside: in a callback
    for call in calls[1:3]:
        call()
    world.reactor.thread = None
    world.peer.expect("basic.publish", 1)
    world.peer.expect("basic.publish", 2)
    world.peer.expect_nothing()
    assert world.connection.is_open


def test_a_channel_knows_whether_it_has_consumers() -> None:
    world = opened()
    channel = world.channel()
    assert channel.has_consumers is False
    world.consume(channel, print, tag="c")
    assert channel.has_consumers is True
    channel.basic_cancel("c")
    world.settle()
    world.peer.send(1, "basic.cancel-ok", consumer_tag="c")
    world.settle()
    assert channel.has_consumers is False


# What the broker gets of each operation, asked for with as little as it takes. Arguments that are not named here are
# False, 0, "" or an empty table.
LEAST: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "exchange_declare": (("x",), {"exchange": "x", "type": "direct"}),
    "exchange_delete": (("x",), {"exchange": "x"}),
    "exchange_bind": (("to", "from"), {"destination": "to", "source": "from"}),
    "exchange_unbind": (("to", "from"), {"destination": "to", "source": "from"}),
    "queue_declare": ((), {}),
    "queue_bind": (("q", "x"), {"queue": "q", "exchange": "x"}),
    "queue_unbind": (("q", "x"), {"queue": "q", "exchange": "x"}),
    "queue_purge": (("q",), {"queue": "q"}),
    "queue_delete": (("q",), {"queue": "q"}),
    "basic_qos": ((), {}),
    "basic_consume": (("q", print), {"queue": "q"}),
    "basic_cancel": (("c",), {"consumer_tag": "c"}),
    "basic_get": (("q",), {"queue": "q"}),
    "basic_ack": ((1,), {"delivery_tag": 1}),
    "basic_nack": ((1,), {"delivery_tag": 1, "requeue": True}),
    "basic_reject": ((1,), {"delivery_tag": 1, "requeue": True}),
    "basic_recover": ((), {"requeue": True}),
    "confirm_select": ((), {}),
    "tx_select": ((), {}),
    "tx_commit": ((), {}),
    "tx_rollback": ((), {}),
    "flow": ((True,), {"active": True}),
    "close": ((), {"reply_code": 200}),
}


def test_the_least_arguments_are_tested_of_each_operation() -> None:
    assert LEAST.keys() | {"basic_publish", "drain"} == operations(cpspika.Channel).keys()


@pytest.mark.parametrize("name", LEAST)
def test_what_an_operation_sends_by_default(name: str) -> None:
    world = opened()
    channel = world.channel()
    world.consume(channel, print, tag="c")
    given, told = LEAST[name]
    getattr(channel, name)(*given)
    sent = world.peer.expect(name.replace("_", ".", 1) if "_" in name else f"channel.{name}")
    arguments = {argument: value for argument, value in sent.arguments.items() if value}
    assert arguments == told


def test_a_publish_by_default() -> None:
    world = opened()
    channel = world.channel()
    channel.basic_publish()
    message = world.peer.expect("basic.publish")
    assert (message.exchange, message.routing_key, message.body, message.encoded) == ("", "", b"", b"\0\0")
    assert not any(message.details.get(flag) for flag in ("mandatory", "immediate"))


@pytest.mark.parametrize("on_message", [None, "print"])
def test_a_consumer_without_a_callable_is_refused_at_the_call(on_message: Any) -> None:
    world = opened()
    channel = world.channel()
    with pytest.raises(cpspika.InvalidArgumentType, match="on_message takes a callable"):
        channel.basic_consume("q", on_message)
    assert not channel.has_consumers
    world.peer.expect_nothing()
