"""`instrument`: who is called when the link breaks, how hooks go, and which classes a channel's parts have."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

import cpspika
from cpspika.adapters import MemoryReactor
from cpspika.client import hooks
from tests.support.hooked import Noting, noting
from tests.support.recovering import RecoveryWorld
from tests.support.scripted import Done, opened


def test_an_object_without_hooks_is_refused() -> None:
    with pytest.raises(cpspika.InvalidArgumentType, match="publishing, published, delivering"):
        cpspika.instrument(object())
    assert not hooks.are_installed()


def test_hooks_are_removed_once_and_the_same_object_may_be_there_twice() -> None:
    world = opened()
    channel = world.channel()
    noted = Noting()
    first, second = cpspika.instrument(noted), cpspika.instrument(noted)
    channel.basic_publish("", "q", "1")
    first()
    first()
    channel.basic_publish("", "q", "2")
    second()
    channel.basic_publish("", "q", "3")
    assert len(noted.of("publishing")) == 3
    assert not hooks.are_installed()


def test_hooks_see_what_the_one_before_has_made_and_each_its_own_at_the_end() -> None:
    class Adding:
        def __init__(self, name: str):
            self.name = name
            self.ended: list[Any] = []

        def publishing(self, channel: Any, exchange: str, routing_key: str, properties: Any) -> Any:
            return {"headers": {**((properties or {}).get("headers") or {}), self.name: 1}}

        def published(self, properties: Any, error: Any) -> None:
            self.ended.append(properties)

    world = opened()
    channel = world.channel()
    one, two = Adding("one"), Adding("two")
    remove = cpspika.instrument(one), cpspika.instrument(two)
    try:
        channel.basic_publish("", "q", "x")
        world.settle()
        assert world.peer.expect("basic.publish").properties.headers == {"one": 1, "two": 1}
        assert (one.ended, two.ended) == ([{"headers": {"one": 1}}], [{"headers": {"one": 1, "two": 1}}])
    finally:
        for each in remove:
            each()


def test_a_hook_of_the_end_alone_gets_the_properties_that_went_out() -> None:
    class Changing:
        def publishing(self, channel: Any, exchange: str, routing_key: str, properties: Any) -> Any:
            return {"message_id": "changed"}

    class Ended:
        told: ClassVar[list[Any]] = []

        def published(self, properties: Any, error: Any) -> None:
            self.told.append((properties, error))

    world = opened()
    remove = cpspika.instrument(Changing()), cpspika.instrument(Ended())
    try:
        world.channel().basic_publish("", "q", "x", {"message_id": "given"})
    finally:
        for each in remove:
            each()
    assert Ended.told == [({"message_id": "changed"}, None)]


def test_a_block_around_a_delivery_that_fails_at_its_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        def delivering(self, message: Any) -> Any:
            return self

        def __enter__(self) -> None: ...

        def __exit__(self, *error: Any) -> None:
            raise ZeroDivisionError

    world, got = opened(), list[Any]()
    channel = world.channel()
    remove = cpspika.instrument(Failing())
    try:
        world.consume(channel, got.append)
        world.peer.deliver(1, b"x")
        world.settle()
    finally:
        remove()
    assert [message.body for message in got] == [b"x"]
    assert [record.message.partition(" ")[0] for record in caplog.records] == ["hooks.delivering"]


def test_a_channel_with_hooks_gives_its_number_back() -> None:
    with noting():
        world = opened({"channel_max": 1})
        for _ in range(3):
            channel = world.channel()
            assert channel.number == 1
            channel.close()
            world.peer.expect("channel.close")
            world.settle()


def test_a_mistake_of_the_program_is_raised_as_without_hooks() -> None:
    world = opened()
    channel = world.channel()
    with noting() as noted:
        with pytest.raises(cpspika.InvalidArgumentType, match="body takes"):
            channel.basic_publish("", "q", 5)
        with pytest.raises(cpspika.InvalidArgumentType, match="on_done takes"):
            channel.basic_publish("", "q", "x", on_done=5)
        with pytest.raises(cpspika.InvalidArgumentType, match="on_message"):
            channel.basic_consume("q", None)
        with pytest.raises(TypeError, match="nothing"):
            channel.basic_consume("q", print, nothing=1)
        assert [error for _, _, error in noted.of("published")] == [cpspika.InvalidArgumentType] * 2
    world.peer.expect_nothing()


def test_headers_that_outgrow_the_frame_are_left_out() -> None:
    class Growing:
        def publishing(self, channel: Any, exchange: str, routing_key: str, properties: Any) -> Any:
            return {"headers": {"large": "x" * 5000}}

    world = opened(tune={"frame_max": 4096})
    channel = world.channel()
    remove = cpspika.instrument(Growing())
    try:
        channel.basic_publish("", "q", "x", {"headers": {"own": 1}})
        world.settle()
        assert world.peer.expect("basic.publish").properties.headers == {"own": 1}
    finally:
        remove()


def test_a_publish_that_the_link_takes_along_ends_with_its_error() -> None:
    world = opened()
    channel = world.channel()
    channel.confirm_select()
    world.peer.expect("confirm.select")
    world.peer.send(1, "confirm.select-ok")
    done = Done("publish")
    with noting() as noted:
        channel.basic_publish("", "q", "x", on_done=done)
        assert noted.of("published") == []
        world.settle()
        world.peer.hang_up()
        world.settle()
        assert noted.of("published") == [("published", 1, type(done.error))]
        assert isinstance(done.error, cpspika.DeliveryUnknown)
        assert noted.of("connection") == [("connection", "closed")]


def test_a_connection_that_is_not_opened_has_failed() -> None:
    with noting() as noted:
        failed = Done("connect")
        reactor = MemoryReactor()
        cpspika.connect("amqp://nobody", reactor=reactor, on_done=failed)
        reactor.advance(60)
        assert failed.error is not None
        assert noted.of("connection") == [("connection", "failed")]


def test_an_error_names_the_place_of_the_program_s_call_with_hooks_too() -> None:
    world = opened()
    channel = world.channel()
    channel.confirm_select()
    done = Done("publish")
    with noting():
        channel.basic_publish("", "q", "x", on_done=done)
        world.connection.abort()
        world.settle()
    assert done.error is not None
    assert "test_hooks.py" in str(done.error.asked_at)


def consumed(world: Any, channel: Any, queue: str, **options: Any) -> list[Any]:
    got: list[Any] = []
    channel.basic_consume(queue, got.append, **options)
    world.settle()
    return got


def test_under_recovery_a_publish_is_seen_once_and_its_copies_not() -> None:
    with noting() as noted:
        world = RecoveryWorld()
        channel = world.confirming()
        channel.queue_declare("q")
        world.settle()
        flying = world.ask(channel.basic_publish, "", "q", "1")
        world.cut()
        waiting = world.ask(channel.basic_publish, "", "q", "2")
        world.until(lambda: not (flying.pending or waiting.pending), "the confirms")
        world.restored()
        assert flying.result.times == 1
        assert len(noted.of("publishing")) == 2
        assert noted.of("published") == [("published", 1, type(None)), ("published", 2, type(None))]
        again = world.ask(channel.basic_publish, "", "q", "3")
        world.until(lambda: not again.pending, "the confirm")
        assert len(noted.of("publishing")) == 3
        assert [name for _, name in noted.of("connection")] == ["opened", "lost", "retrying", "restored"]
        headers = [message.properties.headers["noted"] for message in consumed(world, channel, "q", no_ack=True)]
        assert headers == [1, 2, 3]


def test_hooks_that_come_and_go_meet_a_channel_in_each_state_of_recovery() -> None:
    world = RecoveryWorld()
    channel = world.confirming()
    channel.queue_declare("q")
    world.settle()

    def publish() -> None:
        done = world.ask(channel.basic_publish, "", "q", "x")
        world.until(lambda: not done.pending, "the confirm")

    with noting() as open_at_once:
        publish()
        assert len(open_at_once.of("publishing")) == 1
        world.cut()
    with noting() as while_down:
        waiting = world.ask(channel.basic_publish, "", "q", "x")
        assert len(while_down.of("publishing")) == 1
        world.until(lambda: not waiting.pending, "the confirm")
        world.restored()
        publish()
        assert len(while_down.of("publishing")) == 2
    publish()
    parts: list[Any] = [channel, channel._publisher, channel._opening, channel._opening._publisher, channel._sender]
    assert not [part for part in parts if "Hooked" in type(part).__name__]
    world.cut()
    world.restored(2)
    publish()
    assert (len(open_at_once.of("publishing")), len(while_down.of("publishing"))) == (1, 2)
    assert len(world.bodies("q")) == 5


def test_the_ack_of_a_message_from_before_the_loss_settles_nothing() -> None:
    with noting() as noted:
        world = RecoveryWorld()
        channel = world.channel()
        channel.queue_declare("q")
        channel.basic_publish("", "q", "x")
        got = consumed(world, channel, "q")
        (first,) = got
        world.cut()
        world.restored()
        world.until(lambda: len(got) == 2, "the message again")
        first.ack()
        assert noted.of("settled") == []
        got[1].ack()
        world.settle()
        assert noted.of("settled") == [("settled", b"x", "ack")]
        assert world.bodies("q") == []


def test_a_publish_of_a_transaction_is_seen_once() -> None:
    with noting() as noted:
        world = RecoveryWorld()
        channel = world.channel()
        channel.queue_declare("q")
        channel.tx_select()
        world.settle()
        channel.basic_publish("", "q", "x")
        channel.tx_commit()
        world.settle()
        assert (len(noted.of("publishing")), world.bodies("q")) == (1, [b"x"])
        got = consumed(world, channel, "q")
        got[0].ack()
        assert noted.of("settled") == [("settled", b"x", "ack")]


def test_a_publish_that_is_withdrawn_has_ended() -> None:
    class Abandoned(Done):
        abandoned = True

    with noting() as noted:
        world = RecoveryWorld()
        channel = world.channel()
        world.down()
        world.cut()
        world.settle()
        channel.basic_publish("", "q", "x", on_done=Abandoned("publish"))
        world.up()
        world.restored()
        assert noted.of("published") == [("published", 1, cpspika.OperationTimeout)]


def test_a_message_kept_for_its_ack_goes_with_the_channel_and_with_recover() -> None:
    with noting():
        world = opened()
        channel = world.channel()
        channel.basic_consume("q", lambda message: None, consumer_tag="c", on_done=Done("consume"))
        world.peer.expect("basic.consume")
        world.peer.send(1, "basic.consume-ok", consumer_tag="c")
        world.peer.send_content(1, "basic.deliver", b"x", consumer_tag="c", delivery_tag=1)
        world.settle()
        assert list(channel._sender.unsettled) == [1]
        channel.basic_recover()
        assert list(channel._sender.unsettled) == []
        world.peer.expect("basic.recover")
        world.peer.send(1, "basic.recover-ok")
        world.peer.send_content(1, "basic.deliver", b"x", consumer_tag="c", delivery_tag=2)
        world.settle()
        assert list(channel._sender.unsettled) == [2]
        channel.close()
        world.settle()
        assert list(channel._sender.unsettled) == []
