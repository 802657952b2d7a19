"""What a broker answers otherwise where it is asked to: `pretend` and `like`."""

from __future__ import annotations

from typing import Any

import pytest

import cpspika
from cpspika import InvalidArgument
from cpspika.broker import serve
from cpspika.broker.rules import Rules, rules
from cpspika.cli import main
from cpspika.wire.frames import PROTOCOL_HEADERS
from tests.support.raw_client import MemoryWorld, method, publish

QUORUM = {"x-queue-type": "quorum"}
TRANSIENT = "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated"


def test_the_default_is_rabbitmq_3_10_without_pretence() -> None:
    assert rules() == Rules() == MemoryWorld().broker.rules


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pretend": ["stream"]}, "pretend=stream: the broker can pretend to have quorum queues alone"),
        ({"pretend": ("quorum", "stream")}, "pretend=stream"),
        ({"pretend": "magic"}, "pretend=magic"),
        ({"like": "4.2"}, "like=4.2: the broker can be like RabbitMQ 3.10 and 4.3"),
    ],
)
def test_what_a_broker_cannot_be(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        MemoryWorld(**options)


def test_the_command_line_knows_what_a_broker_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--pretend", "stream"], ["--like", "2.8"]):
        with pytest.raises(SystemExit):
            main(["broker", *options])
        assert f"argument {options[0]}: invalid choice: '{options[1]}'" in capsys.readouterr().err


def test_serve_passes_them_on() -> None:
    with serve(pretend="quorum", like="4.3") as broker:
        assert broker.rules == rules(["quorum"], "4.3")


@pytest.mark.parametrize("options", [{}, {"like": "3.10"}, {"like": "4.3"}])
def test_the_server_properties_say_who_it_is_and_whom_it_is_like(options: dict[str, str]) -> None:
    with serve(**options) as broker, cpspika.BlockingConnection(broker.url) as connection:
        told = connection.server_properties
    assert (told["product"], told["version"]) == ("cpspika", cpspika.__version__)
    assert told["like"] == f"RabbitMQ {options.get('like', '3.10')}"


@pytest.mark.parametrize(("like", "lines"), [("3.10", 0), ("4.3", 1)])
def test_the_client_warns_of_global_qos_as_it_does_on_rabbitmq(
    like: str, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(like=like) as broker, cpspika.BlockingConnection(broker.url) as connection:
        connection.channel().basic_qos(prefetch_count=1, global_=True)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * lines
    assert all("RabbitMQ 4.3 ignores global_" in record.getMessage() for record in caplog.records)


def test_the_client_ends_a_consumer_that_4_3_cancels_for_a_late_delivery() -> None:
    """Else the broker would keep it, and its tag could not be used again."""
    with (
        serve(like="4.3", pretend="quorum", consumer_timeout=0.2) as broker,
        cpspika.BlockingConnection(broker.url, timeout=20) as connection,
    ):
        channel = connection.channel()
        channel.queue_declare("q", durable=True, arguments=QUORUM)
        cancelled: list[str] = []
        channel.basic_consume("q", lambda message: None, consumer_tag="c", on_cancel=cancelled.append)
        channel.basic_publish("", "q", b"held too long")
        while not cancelled:
            assert connection.drain_events(20), "no basic.cancel"
        assert channel.basic_consume("q", lambda message: message.ack(), consumer_tag="c") == "c"
        assert channel.queue_declare("q", passive=True).consumer_count == 1


# --- quorum queues ----------------------------------------------------------------------------------------------------


def test_quorum_queues_and_streams_are_refused_unless_pretended() -> None:
    for pretend, type_ in (((), "quorum"), ((), "stream"), (("quorum",), "stream")):
        wire = MemoryWorld(pretend=pretend).opened()
        arguments = {"x-queue-type": type_}
        close = wire.say(method(1, "queue.declare", queue="q", durable=True, arguments=arguments))
        text = close.expect("channel.close").reply_text
        assert f"this broker has only classic queues; a '{type_}' queue keeps copies" in text


def quorum(world: MemoryWorld, **arguments: Any) -> Any:
    wire = world.opened()
    wire.ask(1, "queue.declare", queue="q", durable=True, arguments={**QUORUM, **arguments})
    return wire


def test_returns_are_counted_and_limited() -> None:
    world = MemoryWorld(pretend=["quorum"])
    wire = quorum(world, **{"x-delivery-limit": 1})
    wire.say(publish(1, "q", b"x", headers={"a": [1, {"b": "c"}]}))
    for count, tag in ((None, 1), (1, 2)):
        wire.say(method(1, "basic.get", queue="q")).expect("basic.get-ok")
        ((_, delivery),) = session_channel(world).unsettled
        entry = delivery.entry
        assert entry.message.properties.headers.get("x-delivery-count") == count
        assert entry.message.properties.headers["a"] == [1, {"b": "c"}]
        wire.say(method(1, "basic.nack", delivery_tag=tag, requeue=True)).heard()
    assert world.bodies("q") == []
    assert (world.broker.memory.bytes, world.broker.queues["q"].unacknowledged) == (0, 0)


def session_channel(world: MemoryWorld) -> Any:
    (session,) = world.broker.connections
    return session.channels[1]


def test_without_a_limit_a_message_returns_for_ever_on_3_10_and_20_times_on_4_3() -> None:
    for like, left in (("3.10", [b"x"]), ("4.3", [])):
        world = MemoryWorld(pretend=["quorum"], like=like)
        wire = quorum(world)
        wire.say(publish(1, "q", b"x"))
        for tag in range(1, 22):
            wire.say(method(1, "basic.get", queue="q")).expect("basic.get-ok")
            wire.say(method(1, "basic.reject", delivery_tag=tag, requeue=True)).heard()
        assert world.bodies("q") == left


def test_the_memory_of_a_returned_message_is_counted() -> None:
    world = MemoryWorld(pretend=["quorum"])
    wire = quorum(world)
    wire.say(publish(1, "q", b"x", headers={"long": "k" * 130_000}))
    wire.say(method(1, "basic.consume", queue="q")).expect("basic.deliver")
    wire.vanish()
    (message,) = world.broker.queues["q"].messages
    assert message.properties.headers["x-delivery-count"] == 1
    assert world.broker.memory.bytes > 130_000
    world.opened().ask(1, "queue.purge", queue="q")
    assert world.broker.memory.bytes == 0


def test_a_lost_client_returns_its_messages_in_order() -> None:
    world = MemoryWorld(pretend=["quorum"])
    wire = quorum(world)
    wire.say(*(publish(1, "q", body) for body in (b"1", b"2", b"3")))
    wire.say(method(1, "basic.consume", queue="q")).expect("basic.deliver")
    wire.vanish()
    assert world.bodies("q") == [b"1", b"2", b"3"]
    assert world.broker.queues["q"].unacknowledged == 0


# --- like RabbitMQ 4.3 ------------------------------------------------------------------------------------------------


@pytest.fixture
def world() -> MemoryWorld:
    return MemoryWorld(like="4.3")


def test_4_3_denies_transient_queues_that_are_not_exclusive(world: MemoryWorld) -> None:
    wire = world.opened()
    wire.ask(1, "queue.declare", queue="durable", durable=True)
    wire.ask(1, "queue.declare", queue="mine", exclusive=True)
    wire.ask(1, "queue.declare", queue="mine", passive=True)
    wire.say(method(1, "queue.declare", queue="transient"))
    wire.expect_close(541, TRANSIENT)
    assert list(world.broker.queues) == ["durable"]


def test_4_3_takes_global_qos_for_that_of_each_consumer(world: MemoryWorld) -> None:
    wire = world.opened()
    wire.ask(1, "queue.declare", queue="q", durable=True)
    wire.say(*(publish(1, "q", b"x") for _ in range(5)))
    wire.ask(1, "basic.qos", prefetch_count=1, **{"global": True})
    for tag in ("a", "b"):
        wire.say(method(1, "basic.consume", queue="q", consumer_tag=tag))
    assert wire.heard().count("basic.deliver") == 2


def test_4_3_wants_frames_of_8192_bytes(world: MemoryWorld) -> None:
    world.opened(frame_max=8192)
    wire = world.wire()
    wire.greet().log_in().tune(frame_max=8191)
    wire.expect_close(530, "NOT_ALLOWED - frame_max=8191")
    MemoryWorld().opened(frame_max=8191)


def test_4_3_speaks_no_0_8(world: MemoryWorld) -> None:
    wire = world.wire("0-8")
    wire.say(PROTOCOL_HEADERS["0-8"]).expect_hang_up()
    assert wire.raw == PROTOCOL_HEADERS["0-9-1"]
