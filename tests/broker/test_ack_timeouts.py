"""Deliveries that a client holds too long, on a clock that the test controls."""

from __future__ import annotations

from typing import Any

import pytest

from cpspika import InvalidArgument
from cpspika.cli import main
from cpspika.cli.broker import _seconds
from tests.support.raw_client import MemoryWire, MemoryWorld, method, publish

LIMIT = 100.0
TOO_LATE = (
    "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: {} ms. "
    "This timeout value can be configured, see consumers doc guide to learn more"
)
QUORUM = {"x-queue-type": "quorum"}


def old(**options: Any) -> tuple[MemoryWorld, MemoryWire]:
    """A broker like RabbitMQ 3.10, and a client with the queue q."""
    world = MemoryWorld(consumer_timeout=LIMIT, **options)
    wire = world.opened()
    wire.ask(1, "queue.declare", queue="q")
    return world, wire


def new(arguments: dict[str, Any] | None = None, **options: Any) -> tuple[MemoryWorld, MemoryWire]:
    """A broker like RabbitMQ 4.3, and a client with the quorum queue q."""
    world = MemoryWorld(consumer_timeout=LIMIT, like="4.3", pretend="quorum")
    wire = world.opened(**options)
    wire.ask(1, "queue.declare", queue="q", durable=True, arguments={**QUORUM, **(arguments or {})})
    return world, wire


def deliveries(wire: MemoryWire) -> list[tuple[str, int, bool]]:
    """The deliveries that came: consumer, tag, redelivered. What came is forgotten."""
    wire.wait(lambda: False)
    found = [what for _, what in wire.frames if getattr(what, "name", "") == "basic.deliver"]
    wire.frames.clear()
    return [(what.consumer_tag, what.delivery_tag, what.redelivered) for what in found]


def timers(world: MemoryWorld) -> int:
    return sum(timer.call is not None for _, _, timer in world.reactor._timers.heap)


def counts(world: MemoryWorld) -> tuple[int, int]:
    queue = world.broker.queues["q"]
    return len(queue), queue.unacknowledged


# --- as RabbitMQ 3.10 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["basic.consume", "basic.get"])
def test_the_channel_of_a_late_client_is_closed(how: str) -> None:
    world, wire = old()
    wire.say(publish(1, "q", b"x"), method(1, how, queue="q")).heard()
    world.reactor.advance(LIMIT - 1)
    assert wire.heard() == []
    world.reactor.advance(LIMIT / 10 + 1)
    assert wire.expect("channel.close").reply_text == TOO_LATE.format(100_000)
    world.reactor.advance(2 * LIMIT)
    assert wire.heard() == [], "one close is enough"
    assert counts(world) == (1, 0), "others get its messages although it doesn't answer"
    wire.say(method(1, "channel.close-ok")).heard()
    wire.ask(1, "channel.open")


def test_the_arguments_of_4_3_say_nothing_to_3_10() -> None:
    world, wire = old(pretend="quorum")
    arguments = {**QUORUM, "x-consumer-timeout": 1}
    wire.ask(1, "queue.declare", queue="qq", durable=True, arguments=arguments)
    wire.say(publish(1, "qq", b"x"))
    wire.say(method(1, "basic.consume", queue="qq", arguments={"x-consumer-timeout": 1})).expect("basic.deliver")
    world.reactor.advance(LIMIT - 1)
    assert wire.heard() == []
    world.reactor.advance(LIMIT / 10 + 1)
    wire.expect("channel.close")


def test_whoever_settles_in_time_is_left_alone() -> None:
    world, wire = old()
    wire.ask(1, "basic.consume", queue="q")
    for tag in range(1, 40):
        wire.say(publish(1, "q", b"x")).heard()
        world.reactor.advance(LIMIT - 1)
        wire.say(method(1, "basic.ack", delivery_tag=tag)).heard()
    assert counts(world) == (0, 0)
    assert wire.heard() == []


def test_each_delivery_has_its_own_time() -> None:
    """A steady consumer always has unsettled deliveries, but no old ones."""
    world, wire = old()
    wire.ask(1, "basic.consume", queue="q")
    wire.say(publish(1, "q", b"x")).heard()
    for tag in range(1, 40):
        world.reactor.advance(LIMIT / 2)
        wire.say(publish(1, "q", b"x"), method(1, "basic.ack", delivery_tag=tag))
        assert wire.heard() == ["basic.deliver"]
    world.reactor.advance(LIMIT * 1.2)
    wire.expect("channel.close")


def test_what_a_rollback_gives_back_has_a_limit_again() -> None:
    world, wire = old()
    wire.say(publish(1, "q", b"x"), method(1, "basic.get", queue="q")).expect("basic.get-ok")
    wire.ask(1, "tx.select")
    wire.say(method(1, "basic.ack", delivery_tag=1)).heard()
    world.reactor.advance(3 * LIMIT)
    assert wire.heard() == []
    wire.ask(1, "tx.rollback")
    world.reactor.advance(1.2 * LIMIT)
    wire.expect("channel.close")


def test_no_limit() -> None:
    world = MemoryWorld(consumer_timeout=None)
    wire = world.opened()
    wire.ask(1, "queue.declare", queue="q")
    wire.say(publish(1, "q", b"x"), method(1, "basic.consume", queue="q")).expect("basic.deliver")
    world.reactor.advance(1_000_000)
    assert wire.heard() == []


def test_the_default_is_half_an_hour() -> None:
    world = MemoryWorld()
    wire = world.opened()
    wire.ask(1, "queue.declare", queue="q")
    wire.say(publish(1, "q", b"x"), method(1, "basic.consume", queue="q")).expect("basic.deliver")
    world.reactor.advance(1799)
    assert wire.heard() == []
    world.reactor.advance(61)
    assert wire.expect("channel.close").reply_text == TOO_LATE.format(1_800_000)


def test_a_channel_has_one_timer() -> None:
    world, wire = old()
    before = timers(world)
    wire.say(*(publish(1, "q", b"x") for _ in range(50)))
    wire.say(*(method(1, "basic.consume", queue="q", consumer_tag=tag) for tag in "abc")).heard()
    assert timers(world) == before + 1
    wire.ask(1, "channel.close", reply_code=200, reply_text="", class_id=0, method_id=0)
    assert timers(world) == before


# --- as RabbitMQ 4.3 --------------------------------------------------------------------------------------------------


def test_a_late_consumer_is_cancelled_and_others_get_its_messages() -> None:
    world, slow = new()
    slow.say(publish(1, "q", b"1"), publish(1, "q", b"2"))
    slow.say(method(1, "basic.consume", queue="q", consumer_tag="slow"))
    assert deliveries(slow) == [("slow", 1, False), ("slow", 2, False)]
    other = world.opened()
    other.ask(1, "basic.consume", queue="q", consumer_tag="other")
    world.reactor.advance(1.2 * LIMIT)
    cancel = slow.expect("basic.cancel")
    assert (cancel.consumer_tag, cancel.no_wait) == ("slow", True)
    assert deliveries(other) == [("other", 1, True), ("other", 2, True)]
    (session, _) = world.broker.connections
    assert session.channels[1].is_open
    assert counts(world) == (0, 2)
    other.say(method(1, "basic.ack", delivery_tag=2, multiple=True)).heard()
    slow.say(method(1, "basic.ack", delivery_tag=1), method(1, "basic.nack", delivery_tag=2, requeue=True))
    assert slow.heard() == [], "late acknowledgements are no errors, and do nothing"
    assert counts(world) == (0, 0)


def test_a_return_by_time_counts_as_no_failure() -> None:
    world, wire = new()
    wire.say(publish(1, "q", b"x"), method(1, "basic.consume", queue="q")).expect("basic.deliver")
    world.reactor.advance(1.2 * LIMIT)
    (message,) = world.broker.queues["q"].messages
    assert message.properties.headers == {"x-acquired-count": 1}


def test_a_late_consumer_gets_messages_again_when_it_has_settled_all() -> None:
    world, wire = new()
    wire.say(
        publish(1, "q", b"1"), publish(1, "q", b"2"), method(1, "basic.consume", queue="q", consumer_tag="c")
    ).heard()
    world.reactor.advance(1.2 * LIMIT)
    assert wire.heard() == ["basic.cancel"]
    wire.say(method(1, "basic.ack", delivery_tag=1))
    assert deliveries(wire) == []
    wire.say(method(1, "basic.ack", delivery_tag=2))
    assert deliveries(wire) == [("c", 3, True), ("c", 4, True)]
    wire.say(method(1, "basic.ack", delivery_tag=4, multiple=True)).heard()
    assert counts(world) == (0, 0)


@pytest.mark.parametrize(
    ("name", "requeue", "again"),
    [("nack", False, True), ("reject", False, True), ("nack", True, False), ("reject", True, False)],
)
def test_a_late_requeue_does_not_bring_the_consumer_back(name: str, requeue: bool, again: bool) -> None:
    world, wire = new()
    wire.say(publish(1, "q", b"x"), method(1, "basic.consume", queue="q", consumer_tag="c")).heard()
    world.reactor.advance(1.2 * LIMIT)
    wire.say(method(1, f"basic.{name}", delivery_tag=1, requeue=requeue))
    assert deliveries(wire) == ([("c", 2, True)] if again else [])


@pytest.mark.parametrize("tag", [0, 2, 3])
def test_several_late_deliveries_are_settled_at_once(tag: int) -> None:
    world, wire = new()
    wire.say(
        publish(1, "q", b"1"), publish(1, "q", b"2"), method(1, "basic.consume", queue="q", consumer_tag="c")
    ).heard()
    world.reactor.advance(0.5 * LIMIT)
    wire.say(publish(1, "q", b"3")).heard()
    world.reactor.advance(0.7 * LIMIT)
    assert wire.heard() == ["basic.cancel"]
    assert counts(world) == (2, 1), "the third one is in time"
    wire.say(method(1, "basic.ack", delivery_tag=tag, multiple=True))
    assert deliveries(wire) == [("c", 4, True), ("c", 5, True)]
    assert counts(world) == (0, 2 if tag != 2 else 3)


def test_the_answer_to_basic_cancel_ends_the_consumer() -> None:
    world, wire = new()
    wire.say(publish(1, "q", b"x"), method(1, "basic.consume", queue="q", consumer_tag="c")).heard()
    wire.say(method(1, "basic.cancel-ok", consumer_tag="c")).heard()
    assert world.broker.queues["q"].consumer_count == 1, "nobody has cancelled it"
    world.reactor.advance(1.2 * LIMIT)
    wire.say(method(1, "basic.cancel-ok", consumer_tag="c"), method(1, "basic.cancel-ok", consumer_tag="c")).heard()
    assert world.broker.queues["q"].consumer_count == 0
    wire.say(method(1, "basic.ack", delivery_tag=1))
    assert wire.heard() == []
    assert counts(world) == (1, 0)
    wire.say(method(1, "basic.ack", delivery_tag=1))
    assert wire.expect("channel.close").reply_text == "PRECONDITION_FAILED - unknown delivery tag 1"


def test_without_the_answer_its_tag_is_in_use() -> None:
    world, wire = new()
    wire.say(publish(1, "q", b"x"), method(1, "basic.consume", queue="q", consumer_tag="c")).heard()
    world.reactor.advance(1.2 * LIMIT)
    wire.say(method(1, "basic.consume", queue="q", consumer_tag="c"))
    wire.expect_close(530, "NOT_ALLOWED - attempt to reuse consumer tag 'c'")


def test_without_the_capability_the_channel_is_closed() -> None:
    world, wire = new(capabilities={})
    wire.say(publish(1, "q", b"x"), method(1, "basic.consume", queue="q")).expect("basic.deliver")
    world.reactor.advance(1.2 * LIMIT)
    assert wire.expect("channel.close").reply_text == TOO_LATE.format(100_000)
    wire.say(method(1, "channel.close-ok")).heard()
    assert counts(world) == (1, 0)


def test_a_late_basic_get_closes_the_channel() -> None:
    world, wire = new()
    wire.say(publish(1, "q", b"x"), method(1, "basic.get", queue="q")).expect("basic.get-ok")
    world.reactor.advance(1.2 * LIMIT)
    assert wire.expect("channel.close").reply_code == 406


def test_classic_queues_have_no_limit() -> None:
    world, wire = new()
    wire.ask(1, "queue.declare", queue="classic", durable=True)
    wire.say(publish(1, "classic", b"1"), publish(1, "classic", b"2"))
    wire.say(method(1, "basic.consume", queue="classic"), method(1, "basic.get", queue="classic")).heard()
    world.reactor.advance(100 * LIMIT)
    assert wire.heard() == []


@pytest.mark.parametrize(
    ("of_queue", "of_consumer", "seconds"),
    [(None, None, LIMIT), (5000, None, 5.0), (5000, 500_000, 500.0), (None, 2000, 2.0), (0, None, 0.0)],
)
def test_the_limit_of_a_queue_and_of_a_consumer(of_queue: int | None, of_consumer: int | None, seconds: float) -> None:
    world, wire = new({"x-consumer-timeout": of_queue} if of_queue is not None else {})
    wire.say(publish(1, "q", b"x"))
    arguments = {"x-consumer-timeout": of_consumer} if of_consumer is not None else {}
    wire.say(method(1, "basic.consume", queue="q", arguments=arguments)).expect("basic.deliver")
    if seconds:
        world.reactor.advance(0.99 * seconds)
        assert wire.heard() == []
    world.reactor.advance(0.2 * seconds + 0.1)
    wire.expect("basic.cancel")


def test_limits_of_consumers_on_one_channel() -> None:
    world, wire = new()
    wire.say(*(publish(1, "q", b"x") for _ in range(6)))
    wire.ask(1, "basic.qos", prefetch_count=3)
    for tag, limit in (("long", 50_000), ("short", 5_000)):
        arguments = {"x-consumer-timeout": limit}
        wire.say(method(1, "basic.consume", queue="q", consumer_tag=tag, arguments=arguments)).heard()
    world.reactor.advance(6)
    assert wire.expect("basic.cancel").consumer_tag == "short"
    assert wire.heard() == []
    assert counts(world) == (3, 3)
    world.reactor.advance(43)
    assert wire.heard() == []
    world.reactor.advance(3)
    assert wire.expect("basic.cancel").consumer_tag == "long"


@pytest.mark.parametrize(
    ("value", "why"),
    [(-1, "{value_negative,-1}"), ("x", '"expected integer, got longstr"'), (1.5, '"expected integer, got double"')],
)
def test_wrong_limits(value: Any, why: str) -> None:
    for queue in ("q", "new"):
        _, wire = new()
        arguments = {"x-consumer-timeout": value}
        if queue == "q":
            wire.say(method(1, "basic.consume", queue="q", arguments=arguments))
        else:
            wire.say(method(1, "queue.declare", queue="new", durable=True, arguments={**QUORUM, **arguments}))
        text = f"PRECONDITION_FAILED - invalid arg 'x-consumer-timeout' for queue '{queue}' in vhost '/': {why}"
        assert wire.expect("channel.close").reply_text == text


def test_classic_queues_refuse_a_limit() -> None:
    _, wire = new()
    wire.say(method(1, "queue.declare", queue="c", durable=True, arguments={"x-consumer-timeout": 1000}))
    text = "invalid arg 'x-consumer-timeout' for queue 'c' in vhost '/' of queue type rabbit_classic_queue"
    assert text in wire.expect("channel.close").reply_text


def test_the_next_consumer_becomes_the_single_active_one() -> None:
    world, wire = new({"x-single-active-consumer": True})
    wire.say(publish(1, "q", b"x"))
    for tag in "ab":
        wire.say(method(1, "basic.consume", queue="q", consumer_tag=tag))
    assert deliveries(wire) == [("a", 1, False)]
    world.reactor.advance(1.2 * LIMIT)
    assert deliveries(wire) == [("b", 2, True)]


# --- asking for it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_limit_is_more_than_nothing(seconds: float) -> None:
    with pytest.raises(InvalidArgument, match="consumer_timeout="):
        MemoryWorld(consumer_timeout=seconds)


def test_the_command_line_takes_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    assert (_seconds("1.5"), _seconds("0")) == (1.5, 0.0)
    for wrong in ("-1", "inf", "soon"):
        with pytest.raises(SystemExit):
            main(["broker", "--consumer-timeout", wrong])
        assert "--consumer-timeout" in capsys.readouterr().err
