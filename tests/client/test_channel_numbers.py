"""A channel that the broker closed: frames for it are dropped, and the rest of the connection goes on.

RabbitMQ goes on sending deliveries, and its channel.close again, until it has read our close-ok.
"""

from __future__ import annotations

import pytest

import cpspika
from tests.support.scripted import Done, World, content, method_frame, opened

CLOSE = {"reply_code": 404, "reply_text": "NOT_FOUND - no queue 'x'", "class_id": 50, "method_id": 10}


def close(world: World, number: int) -> None:
    world.peer.send(number, "channel.close", **CLOSE)


def close_again(number: int) -> bytes:
    """The close that RabbitMQ repeats."""
    return method_frame(number, "channel.close", **CLOSE)


def delivery(number: int, tag: int, consumer_tag: str = "c", body: bytes = b"m") -> bytes:
    arguments = {"consumer_tag": consumer_tag, "delivery_tag": tag, "routing_key": "q"}
    return content(number, "basic.deliver", body, **arguments)


def closed_by_the_broker(world: World, got: list[bytes]) -> cpspika.Channel:
    """Channel 1, with a consumer, which the broker closed in the middle of its deliveries."""
    channel, declared = world.channel(), Done("declared")
    world.consume(channel, lambda message: got.append(message.body))
    channel.queue_declare("x", passive=True, on_done=declared)
    world.peer.expect("queue.declare")
    world.peer.send_raw(delivery(1, 1, body=b"first"))
    close(world, 1)
    world.peer.send_raw(delivery(1, 2, body=b"late") + close_again(1) + delivery(1, 3, body=b"later"))
    world.settle()
    assert isinstance(declared.error, cpspika.NotFound)
    return channel


def test_deliveries_and_a_second_close_after_the_brokers_close_are_dropped() -> None:
    world, got = opened(), list[bytes]()
    channel = closed_by_the_broker(world, got)
    world.peer.expect("channel.close-ok", 1)
    world.peer.expect_nothing()  # the second close is not answered
    assert world.connection.is_open
    assert (channel.is_open, got) == (False, [b"first"])


@pytest.mark.parametrize("at", range(0, 200, 7))
def test_a_delivery_that_the_close_cut_in_two_pieces_is_dropped(at: int) -> None:
    world, got = opened(), list[bytes]()
    closed_by_the_broker(world, got)
    octets = delivery(1, 4, body=b"x" * 150)
    world.peer.send_raw(octets[:at])
    world.settle()
    world.peer.send_raw(octets[at:])
    world.settle()
    assert world.connection.is_open
    assert got == [b"first"]


def test_another_channel_works_on_and_its_messages_amid_the_late_ones_arrive() -> None:
    world, got, others = opened(), list[bytes](), list[bytes]()
    other_first = world.channel()
    world.consume(other_first, lambda message: others.append(message.body), "d")
    channel = world.channel()
    channel.add_state_change_handler(lambda channel, is_open: None)  # somebody is told of its end
    world.consume(channel, lambda message: got.append(message.body))
    close(world, 2)
    world.peer.send_raw(b"".join(delivery(2, n, "c") + delivery(1, n, "d", b"%d" % n) for n in range(1, 20)))
    world.settle()
    assert others == [b"%d" % n for n in range(1, 20)]
    assert (got, world.connection.is_open) == ([], True)


def test_a_number_that_the_broker_closed_is_used_again_last_and_the_longest_closed_first() -> None:
    world = opened({"channel_max": 4})
    channels = [world.channel() for _ in range(4)]
    for channel in channels:
        channel.add_state_change_handler(lambda channel, is_open: None)  # somebody is told of its end
    for number in (3, 2):
        close(world, number)
        world.settle()
        world.peer.expect("channel.close-ok", number)
    channels[3].close()
    world.peer.expect("channel.close", 4)
    world.settle()
    numbers = []
    for _ in range(3):
        opening = world.connection.channel()
        assert opening is not None
        numbers.append(opening.number)
    assert numbers == [4, 3, 2]
    full = Done("full")
    world.connection.channel(on_done=full)
    world.settle()
    assert isinstance(full.error, cpspika.NoFreeChannels)


def test_what_is_late_for_a_number_is_dropped_until_the_new_channel_open_is_answered() -> None:
    world, got = opened({"channel_max": 1}), list[bytes]()
    closed_by_the_broker(world, got)
    world.peer.expect("channel.close-ok", 1)
    done, declared = Done("channel"), Done("declared")
    channel = world.connection.channel(on_done=done)
    assert channel is not None
    channel.queue_declare("q", on_done=declared)
    world.peer.send_raw(close_again(1) + delivery(1, 5))
    world.settle()
    assert done.pending
    assert declared.pending
    world.peer.send_raw(method_frame(1, "channel.open-ok") + method_frame(1, "queue.declare-ok", queue="q"))
    world.settle()
    assert done.result is channel
    assert declared.result.queue == "q"
    assert (channel.is_open, world.connection.is_open) == (True, True)


def test_a_delivery_for_a_tag_of_the_number_s_earlier_channel_is_dropped() -> None:
    world, got = opened({"channel_max": 1}), list[bytes]()
    closed_by_the_broker(world, got)
    world.peer.expect("channel.close-ok", 1)
    channel = world.channel()
    world.peer.send_raw(delivery(1, 6, "c") + delivery(1, 7, "c"))
    world.settle()
    assert (channel.is_open, world.connection.is_open, got) == (True, True, [b"first"])


def test_a_delivery_for_a_consumer_that_never_was_ends_the_connection() -> None:
    """On a number of which no channel was closed by the broker it is a fault, as before."""
    world = opened()
    world.channel()
    world.peer.send_raw(delivery(1, 1, "stranger"))
    world.settle()
    assert world.peer.expect("connection.close").reply_code == 503


@pytest.mark.parametrize("run", [1, 3])
def test_a_delivery_to_a_consumer_that_the_broker_cancelled_goes_back(run: int) -> None:
    """RabbitMQ 4 cancels the consumer of a quorum queue after its timeout, and may then redeliver to it."""
    world, got, cancelled = opened(), list[bytes](), list[str]()
    channel = world.channel()
    channel.basic_consume("q", lambda m: got.append(m.body), consumer_tag="c", on_cancel=cancelled.append)
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    world.peer.send(1, "basic.cancel", consumer_tag="c", no_wait=True)
    world.peer.send_raw(b"".join(delivery(1, tag) for tag in range(1, run + 1)))
    world.settle()
    for tag in range(1, run + 1):
        nack = world.peer.expect("basic.nack", 1)
        assert (nack.delivery_tag, nack.multiple, nack.requeue) == (tag, False, True)
    assert (cancelled, got, channel.is_open) == (["c"], [], True)


def test_a_delivery_without_acks_to_a_cancelled_consumer_is_dropped() -> None:
    """There is nothing to refuse: the broker has forgotten the message."""
    world = opened()
    channel = world.channel()
    channel.basic_consume("q", print, no_ack=True, consumer_tag="c", on_cancel=lambda tag: None)
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    world.peer.send(1, "basic.cancel", consumer_tag="c", no_wait=True)
    world.peer.send_raw(delivery(1, 1))
    world.settle()
    world.peer.expect_nothing()
    assert channel.is_open
