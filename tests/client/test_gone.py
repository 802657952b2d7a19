"""The class of an error says what is gone: the connection, the channel alone, or nothing (clause 8 of the law)."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

import cpspika
from tests.support.scripted import Done, World, opened

ENDS: dict[str, tuple[Callable[[World], object], type[Exception]]] = {
    "a lost link": (lambda world: world.peer.cut(), cpspika.ConnectionLost),
    "shut down": (lambda world: world.peer.close_connection(), cpspika.ConnectionForced),
    "internal error": (lambda world: world.peer.close_connection(541, "INTERNAL_ERROR"), cpspika.InternalError),
    "a method's fault": (lambda world: close_for(world), cpspika.CommandInvalid),
    "a fault of the broker's": (lambda world: world.peer.send_raw(b"\x09" * 30), cpspika.ProtocolSyntaxError),
    "our own close": (lambda world: world.connection.close(), cpspika.ConnectionClosed),
    "abort": (lambda world: world.connection.abort(), cpspika.ConnectionClosed),
}


def close_for(world: World) -> None:
    text = "COMMAND_INVALID - unknown exchange type 'tpic'"
    world.peer.send(0, "connection.close", reply_code=503, reply_text=text, class_id=40, method_id=10)


@pytest.mark.parametrize("end", ENDS)
def test_whatever_waits_gets_the_connections_own_error(end: str) -> None:
    world = opened()
    waiting, confirming, done = world.channel(), world.confirming(), {}
    for name in ("declare", "get", "publish", "secret", "drain"):
        done[name] = Done(name)
    waiting.exchange_declare("x", "tpic", on_done=done["declare"])
    waiting.basic_get("q", on_done=done["get"])
    confirming.basic_publish("", "q", b"m", on_done=done["publish"])
    world.connection.update_secret("s", on_done=done["secret"])
    done.pop("drain")
    world.settle()
    act, cls = ENDS[end]
    act(world)
    world.peer.answer() if end == "our own close" else None
    world.settle()
    for name, told in done.items():
        assert isinstance(told.error, cpspika.ConnectionClosed), name
        assert isinstance(told.error, cls), name
        assert not isinstance(told.error, cpspika.AMQPChannelError), name
        copy = pickle.loads(pickle.dumps(told.error))
        assert type(copy) is type(told.error)
    assert isinstance(done["publish"].error, cpspika.DeliveryUnknown)
    assert waiting.close_reason is not None
    assert isinstance(waiting.close_reason, cpspika.ConnectionClosed)


@pytest.mark.parametrize("end", ENDS)
def test_whatever_is_asked_later_gets_it_too_also_on_a_channel_that_closed_earlier(end: str) -> None:
    world = opened()
    closed, channel = world.channel(), world.channel()
    closed.add_state_change_handler(lambda channel, is_open: None)  # somebody is told of its end
    world.peer.close_channel(404, "NOT_FOUND - no queue", number=1)
    world.settle()
    early = Done("early")
    closed.queue_purge("q", on_done=early)
    world.settle()
    assert isinstance(early.error, cpspika.ChannelClosed), "the channel alone is gone"
    assert not isinstance(early.error, cpspika.ConnectionClosed)
    ENDS[end][0](world)
    world.peer.answer() if end == "our own close" else None
    world.settle()
    for subject in (closed, channel):
        later = Done("later")
        subject.queue_purge("q", on_done=later)
        world.settle()
        assert isinstance(later.error, cpspika.ConnectionClosed)
        assert isinstance(later.error, ENDS[end][1])
        with pytest.raises(cpspika.ConnectionClosed):
            subject.basic_publish("", "q", b"m")
    opening = Done("opening")
    world.connection.channel(on_done=opening)
    world.settle()
    assert isinstance(opening.error, cpspika.ConnectionClosed)


def test_a_publish_whose_channel_ended_is_unknown_and_a_channel_error() -> None:
    world = opened()
    channel, fates = world.confirming(), [Done("1"), Done("2")]
    for fate in fates:
        channel.basic_publish("", "q", b"m", on_done=fate)
    world.settle()
    world.peer.close_channel(406, "PRECONDITION_FAILED - unknown delivery tag 9", 60, 80)
    world.settle()
    for fate in fates:
        assert isinstance(fate.error, cpspika.DeliveryUnknown)
        assert isinstance(fate.error, cpspika.ChannelClosed)
        assert not isinstance(fate.error, cpspika.ConnectionClosed)


# --- errors that no on_done was told ----------------------------------------------------------------------------------


def test_the_error_of_a_closed_channel_without_on_done_names_method_and_call_site() -> None:
    world = opened()
    channel = world.channel()
    channel.queue_declare("missing", passive=True)  # here
    world.settle()
    world.peer.close_channel(404, "NOT_FOUND - no queue 'missing'", 50, 10)
    with pytest.raises(cpspika.NotFound) as caught:
        world.reactor.run()
    assert caught.value.method == "queue.declare"
    assert caught.value.asked_at is not None
    assert "test_gone.py" in caught.value.asked_at


def test_a_publish_to_a_missing_exchange_names_its_method() -> None:
    """Its call site is not kept: a publish without on_done costs too little for that."""
    world = opened()
    world.channel().basic_publish("missing", "q", b"m")
    world.settle()
    world.peer.close_channel(404, "NOT_FOUND - no exchange 'missing'", 60, 40)
    with pytest.raises(cpspika.NotFound) as caught:
        world.reactor.run()
    assert caught.value.method == "basic.publish"


def test_the_error_that_ended_a_connection_names_method_and_call_site() -> None:
    world = opened()
    world.channel().exchange_declare("x", "tpic")
    world.settle()
    close_for(world)
    world.settle()
    (reason,) = world.closed
    assert reason is not None
    assert reason.method == "exchange.declare"
    assert reason.asked_at is not None
    assert "test_gone.py" in reason.asked_at
