"""What the client does otherwise for some versions of RabbitMQ."""

from __future__ import annotations

from typing import Any

import pytest

import cpspika
from cpspika.client.rabbitmq import version
from tests.support import scripted
from tests.support.scripted import PROPERTIES, World, opened


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"product": "RabbitMQ", "version": "4.3.6"}, (4, 3, 6)),
        ({"product": "RabbitMQ", "version": "4.0.0-rc.2"}, (4, 0, 0)),
        ({"product": "RabbitMQ", "version": "3.10"}, (3, 10)),
        ({"product": "RabbitMQ", "version": None}, ()),
        ({"product": "RabbitMQ"}, ()),
        ({"product": "LavinMQ", "version": "4.3.6"}, ()),
        ({"product": "LavinMQ", "version": "2.4.1", "like": "RabbitMQ 4.3"}, ()),
        ({"product": "cpspika", "version": "5.0.0", "like": "RabbitMQ 4.3"}, (4, 3)),
        ({"product": "cpspika", "version": "5.0.0"}, ()),
        ({}, ()),
    ],
)
def test_the_version_of_rabbitmq(properties: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert version(properties) == expected


def broker_of(monkeypatch: pytest.MonkeyPatch, number: str, **properties: Any) -> World:
    monkeypatch.setattr(
        scripted.Peer, "properties", {**PROPERTIES, "product": "RabbitMQ", "version": number, **properties}
    )
    return opened()


@pytest.mark.parametrize(
    ("number", "global_", "warnings"), [("4.2.5", True, 0), ("4.3.0", True, 1), ("4.3.0", False, 0)]
)
def test_global_qos_warns_where_it_is_ignored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: str, global_: bool, warnings: int
) -> None:
    channel = broker_of(monkeypatch, number).channel()
    channel.basic_qos(prefetch_count=2, global_=global_)
    assert len(caplog.records) == warnings
    for record in caplog.records:
        assert record.levelname == "WARNING"
        assert f"RabbitMQ {number} ignores global_" in record.getMessage()
        assert "test_rabbitmq.py" in record.getMessage(), "where the program asked"


def consuming(world: World) -> cpspika.Channel:
    channel = world.channel()
    channel.basic_consume("q", print, consumer_tag="c", on_cancel=lambda tag: None)
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    world.peer.send(1, "basic.cancel", consumer_tag="c", no_wait=True)
    world.settle()
    return channel


def test_a_consumer_that_4_3_cancels_is_cancelled_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the channel keeps it: its tag cannot be used again, and the broker may redeliver to it."""
    world = broker_of(monkeypatch, "4.3.6")
    consuming(world)
    cancel = world.peer.expect("basic.cancel")
    assert (cancel.consumer_tag, cancel.no_wait) == ("c", True)
    world.peer.expect_nothing()


def test_an_older_broker_has_forgotten_the_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    world = broker_of(monkeypatch, "4.2.5")
    consuming(world)
    world.peer.expect_nothing()


def test_a_broker_without_basic_nack_gets_a_late_delivery_back_by_reject(monkeypatch: pytest.MonkeyPatch) -> None:
    world = broker_of(monkeypatch, "2.0.0", capabilities={})
    consuming(world)
    world.peer.send_raw(scripted.content(1, "basic.deliver", b"late", **scripted.DELIVERY))
    world.settle()
    reject = world.peer.expect("basic.reject", 1)
    assert (reject.delivery_tag, reject.requeue) == (1, True)


REFUSED = (
    "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.\nIts use is not permitted per the configuration"
)


def test_a_transient_queue_that_is_denied_names_the_remedy() -> None:
    world = opened()
    channel, done = world.channel(), scripted.Done("declare")
    channel.queue_declare("q", on_done=done)
    world.peer.expect("queue.declare")
    world.peer.send(0, "connection.close", reply_code=541, reply_text=REFUSED, class_id=50, method_id=10)
    world.settle()
    assert isinstance(done.error, cpspika.InternalError)
    assert isinstance(done.error, cpspika.ConnectionClosed)
    assert REFUSED in str(done.error)
    assert "durable=True" in str(done.error)
    assert "exclusive=True" in str(done.error)


def test_a_stream_without_prefetch_names_the_remedy() -> None:
    world = opened()
    channel, done = world.channel(), scripted.Done("consume")
    channel.basic_consume("s", print, on_done=done)
    world.peer.expect("basic.consume")
    text = "PRECONDITION_FAILED - consumer prefetch count is not set for stream queue 's' in vhost '/'"
    world.peer.send(1, "channel.close", reply_code=406, reply_text=text, class_id=60, method_id=20)
    world.settle()
    assert isinstance(done.error, cpspika.PreconditionFailed)
    assert "basic_qos(prefetch_count=" in str(done.error)


def test_another_text_of_a_close_has_no_remedy() -> None:
    world = opened()
    channel, done = world.channel(), scripted.Done("declare")
    channel.queue_declare("q", on_done=done)
    world.peer.expect("queue.declare")
    world.peer.send(
        1, "channel.close", reply_code=406, reply_text="PRECONDITION_FAILED - no", class_id=50, method_id=10
    )
    world.settle()
    assert done.error is not None
    assert done.error.text == "PRECONDITION_FAILED - no"
