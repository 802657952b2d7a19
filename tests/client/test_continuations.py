"""The law of continuations: what every on_done may rely on, whatever the operation and however it ends."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import cpspika
from cpspika import errors
from cpspika.adapters import MemoryReactor
from cpspika.styles.lifting import operations
from tests.support.scripted import DELIVERY, Done, World, content, opened, run_until, said


class Boom(Exception):
    """What a user's callback raises."""


class Operation(NamedTuple):
    name: str
    arguments: dict[str, Any]
    reply: str | None  # None: it has none
    told: dict[str, Any]  # the reply's arguments
    result: Any


def ignore(*_: Any) -> None:
    pass


CHANNEL_OPERATIONS = [
    Operation("exchange_declare", {"exchange": "x"}, "exchange.declare-ok", {}, None),
    Operation("exchange_delete", {"exchange": "x"}, "exchange.delete-ok", {}, None),
    Operation("exchange_bind", {"destination": "x", "source": "y"}, "exchange.bind-ok", {}, None),
    Operation("exchange_unbind", {"destination": "x", "source": "y"}, "exchange.unbind-ok", {}, None),
    Operation(
        "queue_declare",
        {"queue": "q"},
        "queue.declare-ok",
        {"queue": "q", "message_count": 3, "consumer_count": 2},
        cpspika.QueueDeclareOk("q", 3, 2),
    ),
    Operation("queue_bind", {"queue": "q", "exchange": "x"}, "queue.bind-ok", {}, None),
    Operation("queue_unbind", {"queue": "q", "exchange": "x"}, "queue.unbind-ok", {}, None),
    Operation("queue_purge", {"queue": "q"}, "queue.purge-ok", {"message_count": 5}, 5),
    Operation("queue_delete", {"queue": "q"}, "queue.delete-ok", {"message_count": 6}, 6),
    Operation("basic_qos", {"prefetch_count": 1}, "basic.qos-ok", {}, None),
    Operation(
        "basic_consume", {"queue": "q", "on_message": ignore}, "basic.consume-ok", {"consumer_tag": "new"}, "new"
    ),
    Operation("basic_cancel", {"consumer_tag": "c"}, "basic.cancel-ok", {"consumer_tag": "c"}, "c"),
    Operation("basic_get", {"queue": "q"}, "basic.get-empty", {}, None),
    Operation("basic_ack", {"delivery_tag": 1}, None, {}, None),
    Operation("basic_nack", {"delivery_tag": 1}, None, {}, None),
    Operation("basic_reject", {"delivery_tag": 1}, None, {}, None),
    Operation("basic_recover", {}, "basic.recover-ok", {}, None),
    Operation("basic_publish", {"exchange": "", "routing_key": "q", "body": b"m"}, None, {}, True),
    Operation("confirm_select", {}, "confirm.select-ok", {}, None),
    Operation("tx_select", {}, "tx.select-ok", {}, None),
    Operation("tx_commit", {}, "tx.commit-ok", {}, None),
    Operation("tx_rollback", {}, "tx.rollback-ok", {}, None),
    Operation("flow", {"active": False}, "channel.flow-ok", {"active": False}, False),
    Operation("close", {}, None, {}, None),
]
named = pytest.mark.parametrize("operation", CHANNEL_OPERATIONS, ids=lambda operation: operation.name)
requests = pytest.mark.parametrize(
    "operation", [o for o in CHANNEL_OPERATIONS if o.reply is not None], ids=lambda operation: operation.name
)


def ask(channel: Any, operation: Operation, done: Done | None) -> Any:
    """Asks for an operation; its on_done may not be called inside."""
    if done is None:
        return getattr(channel, operation.name)(**operation.arguments)
    with done.not_inside():
        return getattr(channel, operation.name)(**operation.arguments, on_done=done)


def a_channel_with_a_consumer() -> tuple[World, Any]:
    world = opened()
    channel = world.channel()
    world.consume(channel, ignore)
    return world, channel


def test_every_operation_of_a_channel_is_covered_here() -> None:
    # drain sends nothing: see test_flow
    assert {operation.name for operation in CHANNEL_OPERATIONS} == set(operations(cpspika.Channel)) - {"drain"}
    assert set(operations(cpspika.Connection)) == {"channel", "close", "update_secret"}


# --- clause 1: keyword-only, optional ---------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", [cpspika.Connection, cpspika.Channel])
def test_on_done_is_a_keyword_and_optional_everywhere(owner: type) -> None:
    for name, operation in operations(owner).items():
        parameter = inspect.signature(operation).parameters["on_done"]
        assert (parameter.kind, parameter.default) == (parameter.KEYWORD_ONLY, None), name


@named
def test_an_on_done_that_cannot_be_called_is_refused_at_the_call(operation: Operation) -> None:
    """It would blow up far from the mistake, when the reply comes."""
    world, channel = a_channel_with_a_consumer()
    with pytest.raises(errors.InvalidArgumentType, match="on_done"):
        getattr(channel, operation.name)(**operation.arguments, on_done="not callable")
    world.peer.expect_nothing()


# --- clause 2: exactly once, never inside the call --------------------------------------------------------------------


@named
def test_on_done_comes_once_with_the_result_and_after_the_call(operation: Operation) -> None:
    world, channel = a_channel_with_a_consumer()
    done = Done(operation.name)
    ask(channel, operation, done)
    assert done.pending
    world.settle()
    if operation.reply is not None:
        assert done.pending, "it was called before the reply came"
        world.peer.send(channel.number, operation.reply, **operation.told)
        world.settle()
    assert done.result == operation.result
    world.connection.close()
    world.settle()
    assert not done.pending


@named
def test_an_operation_on_a_closed_channel_tells_on_done_and_not_inside_the_call(operation: Operation) -> None:
    world, channel = a_channel_with_a_consumer()
    world.peer.close_channel(404, "NOT_FOUND - no queue")
    with pytest.raises(cpspika.NotFound):
        world.settle()
    done = Done(operation.name)
    ask(channel, operation, done)
    assert done.pending
    world.settle()
    if operation.name == "close":
        assert done.result is None  # closing what is closed is no error
        return
    assert isinstance(done.error, cpspika.ChannelClosed)
    assert "NOT_FOUND - no queue" in str(done.error), "it must say why the channel is closed"
    assert done.error.method is not None
    world.peer.expect("channel.close-ok")
    world.peer.expect_nothing()


@named
def test_an_operation_on_a_closed_channel_raises_where_nobody_is_told(operation: Operation) -> None:
    world, channel = a_channel_with_a_consumer()
    channel.close()
    world.settle()
    if operation.name == "close":
        ask(channel, operation, None)
        world.settle()
        return
    with pytest.raises(cpspika.ChannelClosed):
        ask(channel, operation, None)


@named
def test_an_operation_on_a_channel_that_is_closing_is_refused(operation: Operation) -> None:
    world, channel = a_channel_with_a_consumer()
    closed, done = Done("close"), Done(operation.name)
    channel.close(on_done=closed)
    ask(channel, operation, done)
    assert closed.pending
    assert done.pending
    world.settle()
    assert closed.result is None
    if operation.name == "close":
        assert done.result is None
    else:
        assert isinstance(done.error, cpspika.ChannelClosed)


@named
def test_an_operation_after_the_link_was_lost_is_refused(operation: Operation) -> None:
    world, channel = a_channel_with_a_consumer()
    world.peer.cut()
    done = Done(operation.name)
    ask(channel, operation, done)
    assert done.pending
    world.settle()
    if operation.name == "close":
        assert done.result is None
    else:
        assert isinstance(done.error, cpspika.AMQPError)
        assert "the network failed" in said(done.error)


def test_an_abort_tells_whoever_waits_in_order_and_says_nothing_to_the_broker() -> None:
    world, channel = a_channel_with_a_consumer()
    log: list[str] = []
    channel.queue_declare("q", on_done=lambda error, ok: log.append(f"declare: {type(error).__name__}"))
    channel.basic_get("q", on_done=lambda error, message: log.append(f"get: {type(error).__name__}"))
    world.settle()
    world.peer.expect("queue.declare")
    world.peer.expect("basic.get")
    world.connection.abort()
    world.connection.abort()
    assert (log, world.connection.is_open) == ([], False), "never inside the call"
    world.settle()
    assert log == ["declare: ChannelClosed", "get: ChannelClosed"]
    assert [type(reason).__name__ for reason in world.closed] == ["ConnectionClosed"]
    assert "aborted" in said(world.connection.close_reason)
    with pytest.raises(AssertionError, match="nothing more"):
        world.peer.expect("connection.close")


@named
def test_an_operation_without_on_done_is_carried_out_all_the_same(operation: Operation) -> None:
    world, channel = a_channel_with_a_consumer()
    ask(channel, operation, None)
    world.peer.expect(
        {"close": "channel.close", "flow": "channel.flow"}.get(operation.name, operation.name.replace("_", ".", 1))
    )
    if operation.reply is not None:
        world.peer.send(channel.number, operation.reply, **operation.told)
        world.settle()
    assert world.connection.is_open


@named
def test_operations_may_be_asked_for_while_the_channel_is_still_opening(operation: Operation) -> None:
    world = opened()
    open_done, done = Done("channel"), Done(operation.name)
    channel = world.connection.channel(on_done=open_done)
    assert channel.is_open
    if operation.name == "basic_cancel":
        channel.basic_consume("q", ignore, consumer_tag="c")
    world.peer.answering = False
    ask(channel, operation, done)
    world.peer.open_channel()
    world.settle()
    assert open_done.result is channel


def test_operations_of_the_connection_are_never_settled_inside_the_call() -> None:
    world = opened()
    calls = (
        lambda on_done: world.connection.channel(on_done=on_done),
        lambda on_done: world.connection.update_secret("s", on_done=on_done),
        lambda on_done: world.connection.close(on_done=on_done),
    )
    for state in ("open", "closing", "closed"):
        for call in calls:
            done = Done(state)
            with done.not_inside():
                call(done)
            assert done.pending
        if state == "open":
            world.connection.close()
    world.settle()


def test_operations_of_a_connection_that_is_not_open_yet_are_refused() -> None:
    world = World()
    channel, secret = Done(), Done()
    with channel.not_inside(), secret.not_inside():
        assert world.connection.channel(on_done=channel) is None
        world.connection.update_secret("s", on_done=secret)
    with pytest.raises(cpspika.ConnectionClosed, match="not open yet"):
        world.connection.channel()
    world.peer.expect_open()
    assert isinstance(channel.error, cpspika.ConnectionClosed)
    assert isinstance(secret.error, cpspika.ConnectionClosed)
    world.settle()
    assert world.connected.result is world.connection


def test_each_end_settles_a_request_once() -> None:
    """Channel close, then connection close, then a lost link: only the first is told."""
    world = opened()
    channel, done = world.channel(), Done()
    channel.queue_declare("q", on_done=done)
    world.settle()
    world.peer.close_channel(405, "RESOURCE_LOCKED")
    world.peer.close_connection()
    world.peer.hang_up()
    world.settle()
    assert isinstance(done.error, cpspika.ChannelClosed)
    assert len(world.closed) == 1


def test_an_operation_that_fails_at_the_call_tells_in_the_next_turn_even_when_flow_is_off() -> None:
    world = opened()
    channel, done = world.channel(), Done()
    world.peer.send(1, "channel.flow", active=False)
    world.settle()
    with done.not_inside():
        channel.basic_publish(body="m", on_done=done)
    world.settle()
    assert isinstance(done.error, cpspika.ContentTransmissionForbidden)
    with pytest.raises(cpspika.ContentTransmissionForbidden):
        channel.basic_publish(body="m")


# --- clause 3: pipelining, and replies in order -----------------------------------------------------------------------


def test_operations_pipeline_and_settle_in_the_order_of_asking() -> None:
    """A whole script can be said at once; on the wire it is one piece, and one system call."""
    world = opened()
    log: list[Any] = []
    channel = world.connection.channel(on_done=Done("open", log))
    assert channel is not None
    channel.exchange_declare("x", "fanout", on_done=Done("declare x", log))
    channel.queue_declare("q", on_done=Done("declare q", log))
    channel.queue_bind("q", "x", on_done=Done("bind", log))
    channel.basic_consume("q", ignore, on_done=Done("consume", log))
    peer = world.peer
    for asked in ("channel.open", "exchange.declare", "queue.declare", "queue.bind", "basic.consume"):
        peer.expect(asked, 1)
    assert log == []
    peer.send(1, "channel.open-ok")
    peer.send(1, "exchange.declare-ok")
    peer.send(1, "queue.declare-ok", queue="q")
    world.settle()
    assert [name for name, _, _ in log] == ["open", "declare x", "declare q"]
    peer.send(1, "queue.bind-ok")
    peer.send(1, "basic.consume-ok", consumer_tag="t")
    world.settle()
    assert [(name, result) for name, _, result in log[3:]] == [("bind", None), ("consume", "t")]


@requests
def test_two_requests_alike_settle_in_order(operation: Operation) -> None:
    world, channel = a_channel_with_a_consumer()
    log: list[Any] = []
    for name in ("first", "second"):
        ask(channel, operation, Done(name, log))
    assert operation.reply is not None
    world.settle()
    world.peer.send(channel.number, operation.reply, **operation.told)
    world.settle()
    assert [name for name, _, _ in log] == ["first"]
    world.peer.send(channel.number, operation.reply, **operation.told)
    world.settle()
    assert [name for name, _, _ in log] == ["first", "second"]


def test_close_lets_earlier_requests_have_their_replies() -> None:
    world = opened()
    log: list[Any] = []
    channel = world.channel()
    world.peer.answering = False
    channel.queue_declare("q", on_done=Done("declare", log))
    channel.queue_purge("q", on_done=Done("purge", log))
    channel.close(on_done=Done("close", log))
    world.peer.expect("queue.declare")
    world.peer.send(1, "queue.declare-ok", queue="q")
    world.settle()
    assert log == [("declare", None, ("q", 0, 0))]
    world.peer.answer()
    world.settle()
    assert [name for name, _, _ in log] == ["declare", "purge", "close"]
    assert isinstance(log[1][1], cpspika.ChannelClosed), "what remains unanswered is settled with ChannelClosed"
    assert log[2][1:] == (None, None)


def test_closing_the_connection_lets_earlier_requests_have_their_replies() -> None:
    world = opened()
    log: list[Any] = []
    channel = world.channel()
    world.peer.answering = False
    channel.queue_declare("q", on_done=Done("declare", log))
    channel.queue_purge("q", on_done=Done("purge", log))
    world.connection.close(on_done=Done("close", log))
    world.peer.expect("queue.declare")
    world.peer.send(1, "queue.declare-ok", queue="q")
    world.settle()
    world.peer.answer()
    world.settle()
    assert [name for name, _, _ in log] == ["declare", "purge", "close"]
    assert isinstance(log[1][1], cpspika.ChannelClosed)
    assert log[2][1] is None
    assert world.closed == [None], "a close of our own is no error"


# --- clause 4: the end settles first, in the order of asking; handlers run after --------------------------------------


def fill(world: World, channel: Any, log: list[Any]) -> list[str]:
    """Asks for requests, publishes to be confirmed and acks whose bytes are still ours, mixed."""
    asked = []

    def done(name: str) -> Done:
        asked.append(name)
        return Done(name, log)

    channel.queue_declare("a", on_done=done("declare a"))
    channel.basic_publish(routing_key="q", body="1", on_done=done("publish 1"))
    channel.basic_ack(1, on_done=done("ack 1"))
    channel.queue_declare("b", on_done=done("declare b"))
    channel.basic_ack(2, on_done=done("ack 2"))
    channel.basic_publish(routing_key="q", body="2", mandatory=True, on_done=done("publish 2"))
    channel.queue_purge("a", on_done=done("purge"))
    return asked


def end_by_fault(world: World) -> None:
    world.peer.send_raw(b"\x01\0\0\0\0\0\0\xff")


ENDS = {
    "channel closed": lambda world: world.peer.close_channel(406, "PRECONDITION_FAILED - told so"),
    "connection closed": lambda world: world.peer.close_connection(320, "CONNECTION_FORCED - told so"),
    "hung up": lambda world: world.peer.hang_up(),
    "fault": end_by_fault,
    "cut": lambda world: world.peer.cut(),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_settles_all_kinds_in_the_order_of_asking_before_the_handlers(end: str) -> None:
    world = opened()
    log: list[Any] = []
    channel = world.confirming()
    channel.add_state_change_handler(lambda channel, is_open: log.append(("channel handler", is_open, None)))
    world.connection.add_state_change_handler(lambda connection, is_open: log.append(("handler", is_open, None)))
    world.peer.clog()  # so that the acks are still ours when the end comes
    asked = fill(world, channel, log)
    ENDS[end](world)
    world.settle()
    names = [name for name, _, _ in log]
    assert names[: len(asked)] == asked
    assert names[len(asked)] == "channel handler"
    assert (names[len(asked) + 1 :] == ["handler"]) is (end != "channel closed")
    fates = {name: error for name, error, _ in log}
    assert isinstance(fates["publish 1"], cpspika.DeliveryUnknown)
    assert isinstance(fates["publish 2"], cpspika.DeliveryUnknown)
    assert isinstance(fates["ack 1"], cpspika.AMQPError)
    assert not isinstance(fates["ack 1"], cpspika.DeliveryUnknown)
    for name in asked:
        assert fates[name].method in ("queue.declare", "queue.purge", "basic.ack", "basic.publish")
        assert "test_continuations.py" in fates[name].asked_at
    if end != "hung up":
        word = {"fault": "frame", "cut": "the network failed"}.get(end, "told so")
        assert word in said(fates["declare a"]), said(fates["declare a"])


@pytest.mark.parametrize("end", ["answered", "closed"])
def test_a_reply_that_overtakes_a_consume_waits_for_its_turn(end: str) -> None:
    """RabbitMQ answers a basic.consume by way of the queue, and a later request may be answered before it."""
    world = opened()
    channel, peer = world.channel(), world.peer
    told: list[Any] = []
    channel.basic_consume("q", ignore, on_done=lambda err, tag: told.append(err or tag))
    channel.queue_declare("q", on_done=lambda err, ok: told.append(err or ok.queue))
    channel.queue_purge("q", on_done=lambda err, count: told.append(err or count))
    for name in ("basic.consume", "queue.declare", "queue.purge"):
        peer.expect(name)
    peer.send(1, "queue.declare-ok", queue="q", message_count=0, consumer_count=0)
    world.settle()
    assert told == []
    if end == "answered":
        peer.send(1, "basic.consume-ok", consumer_tag="c")
        peer.send(1, "queue.purge-ok", message_count=7)
        world.settle()
        assert told == ["c", "q", 7]
    else:
        peer.hang_up()
        world.settle()
        consume, declared, purge = told
        assert declared == "q"
        assert isinstance(consume, cpspika.ChannelClosed)
        assert isinstance(purge, cpspika.ChannelClosed)


def test_no_reply_overtakes_a_request_of_another_kind() -> None:
    world = opened()
    channel, peer = world.channel(), world.peer
    bound, declared = Done("bind"), Done("declare")
    channel.queue_bind("q", "x", on_done=bound)
    channel.queue_declare("q", on_done=declared)
    peer.expect("queue.bind")
    peer.expect("queue.declare")
    peer.send(1, "queue.declare-ok", queue="q", message_count=0, consumer_count=0)
    assert peer.expect("connection.close").reply_code == 503
    world.settle()
    assert bound.error is not None
    assert declared.error is not None


def test_each_channel_is_settled_in_order_when_the_connection_ends() -> None:
    world = opened()
    logs: list[list[Any]] = [[], []]
    channels = [world.channel(), world.channel()]
    for round_ in range(3):
        for log, channel in zip(logs, channels, strict=True):
            channel.queue_declare(f"q{round_}", on_done=Done(round_, log))
    on_close: list[Any] = []
    world.connection.add_state_change_handler(lambda *_: on_close.append([len(log) for log in logs]))
    world.settle()
    world.peer.close_connection()
    world.settle()
    for log in logs:
        assert [name for name, _, _ in log] == [0, 1, 2]
    assert on_close == [[3, 3]], "the connection's handlers run after everything was settled"


def test_the_operation_that_the_broker_blames_gets_its_code_and_the_others_the_closing() -> None:
    world = opened()
    channel = world.channel()
    blamed, other = Done(), Done()
    channel.queue_declare("q", passive=True, on_done=blamed)
    channel.queue_purge("q", on_done=other)
    world.settle()
    world.peer.close_channel(404, "NOT_FOUND - no queue 'q'", 50, 10)
    world.settle()
    assert isinstance(blamed.error, cpspika.NotFound)
    assert blamed.error.code == 404
    assert blamed.error.method == "queue.declare"
    assert not isinstance(other.error, cpspika.NotFound)
    assert isinstance(other.error, cpspika.ChannelClosed)
    assert isinstance(other.error.__cause__, cpspika.NotFound)
    assert "no queue 'q'" in str(other.error)


def test_a_channels_handlers_come_once_and_the_reason_is_there() -> None:
    world = opened()
    seen: list[Any] = []
    channel = world.channel()
    channel.add_state_change_handler(lambda channel, is_open: seen.append((is_open, channel.close_reason.code)))
    world.peer.close_channel(404, "NOT_FOUND")
    world.peer.close_connection()
    world.settle()
    assert seen == [(False, 404)]


# --- clause 5: mistakes, and errors with nobody to tell ---------------------------------------------------------------

LONG = "é" * 150  # 300 bytes
MISTAKES: list[tuple[str, dict[str, Any], type[Exception]]] = [
    ("queue_declare", {"queue": LONG}, ValueError),
    ("queue_declare", {"queue": 5}, TypeError),
    ("queue_declare", {"queue": "q", "arguments": {"x": object()}}, TypeError),
    ("queue_declare", {"queue": "q", "arguments": {LONG: 1}}, ValueError),
    ("queue_declare", {"queue": "q", "arguments": {"x": 2**70}}, ValueError),
    ("queue_declare", {"queue": "q", "arguments": ["x"]}, TypeError),
    ("queue_declare", {"queue": "q", "arguments": {"x": "y" * 200_000}}, ValueError),
    ("queue_declare", {"queue": "q", "nonsense": 1}, TypeError),
    ("exchange_declare", {"exchange": None}, TypeError),
    ("exchange_declare", {}, TypeError),
    ("queue_bind", {"queue": "q"}, TypeError),
    ("queue_bind", {"queue": "q", "exchange": "x", "routing_key": LONG}, ValueError),
    ("basic_qos", {"prefetch_count": -1}, ValueError),
    ("basic_qos", {"prefetch_count": 70_000}, ValueError),
    ("basic_qos", {"prefetch_count": "1"}, TypeError),
    ("basic_consume", {"queue": "q", "on_message": "no"}, TypeError),
    ("basic_consume", {"queue": "q", "on_message": ignore, "on_cancel": "no"}, TypeError),
    ("basic_consume", {"queue": "q", "on_message": ignore, "consumer_tag": LONG}, ValueError),
    ("basic_consume", {"queue": "q", "on_message": ignore, "consumer_tag": "c"}, cpspika.DuplicateConsumerTag),
    ("basic_cancel", {"consumer_tag": "nobody"}, cpspika.UnknownConsumerTag),
    ("basic_ack", {"delivery_tag": "1"}, TypeError),
    ("basic_ack", {"delivery_tag": -1}, ValueError),
    ("basic_nack", {"delivery_tag": 2**64}, ValueError),
    ("basic_publish", {"routing_key": LONG}, ValueError),
    ("basic_publish", {"exchange": None}, TypeError),
    ("basic_publish", {"body": 5}, TypeError),
    ("basic_publish", {"body": None}, TypeError),
    ("basic_publish", {"body": "\ud800"}, ValueError),
    ("basic_publish", {"properties": 5}, TypeError),
    ("basic_publish", {"properties": {"nonsense": 1}}, ValueError),
    ("basic_publish", {"properties": {"priority": 300}}, ValueError),
    ("basic_publish", {"properties": {"message_id": LONG}}, ValueError),
    ("basic_publish", {"properties": {"headers": {"x": object()}}}, TypeError),
    ("basic_publish", {"properties": {"headers": {"x": "y" * 200_000}}}, ValueError),
    ("close", {"reply_text": LONG}, ValueError),
    ("close", {"reply_code": 70_000}, ValueError),
]


@pytest.mark.parametrize("told", [True, False], ids=["on_done", "nobody told"])
@pytest.mark.parametrize(
    ("name", "arguments", "kind"), MISTAKES, ids=[f"{i}-{mistake[0]}" for i, mistake in enumerate(MISTAKES)]
)
def test_a_mistake_raises_at_the_call_and_leaves_the_link_usable(
    name: str, arguments: dict[str, Any], kind: type[Exception], told: bool
) -> None:
    world, channel = a_channel_with_a_consumer()
    done, after = Done(name), Done("after")
    with pytest.raises(kind):
        getattr(channel, name)(**arguments, **({"on_done": done} if told else {}))
    world.peer.expect_nothing()
    assert channel.is_open
    channel.queue_declare("q", on_done=after)
    world.peer.expect("queue.declare")
    world.peer.send(1, "queue.declare-ok", queue="q")
    world.settle()
    assert after.result.queue == "q"
    world.connection.close()
    world.settle()
    assert done.pending, "an operation that raised must not call its on_done as well"


def test_a_mistake_in_closing_the_connection_leaves_it_usable() -> None:
    world = opened()
    done, channel_done = Done("close"), Done("channel")
    for mistake in ({"reply_text": LONG}, {"reply_code": "x"}, {"reply_code": 70_000}):
        with pytest.raises((ValueError, TypeError)):
            world.connection.close(**mistake, on_done=done)
    assert world.connection.is_open
    world.connection.channel(on_done=channel_done)
    world.peer.open_channel()
    world.settle()
    assert channel_done.result
    world.peer.close_connection(320, "CONNECTION_FORCED - bye")
    world.settle()
    assert world.closed
    assert world.closed[0] is not None
    assert world.closed[0].code == 320
    assert done.pending


def test_a_mistake_in_a_new_secret_leaves_the_connection_usable() -> None:
    world = opened()
    done, after = Done(), Done()
    with pytest.raises(TypeError):
        world.connection.update_secret(5, on_done=done)  # type: ignore[arg-type]
    world.connection.update_secret("s", on_done=after)
    world.peer.expect("connection.update-secret")
    world.peer.send(0, "connection.update-secret-ok")
    world.settle()
    assert after.result is None
    assert done.pending


@pytest.mark.parametrize("name", ["confirm_select", "exchange_bind", "exchange_unbind"])
def test_what_the_version_lacks_raises_at_the_call(name: str) -> None:
    world = opened(protocol="0-8")
    channel = world.channel()
    arguments = {} if name == "confirm_select" else {"destination": "a", "source": "b"}
    with pytest.raises(cpspika.NotInThisVersion, match="0-8"):
        getattr(channel, name)(**arguments, on_done=Done())
    with pytest.raises(cpspika.NotInThisVersion):
        channel.basic_nack(1, multiple=True)
    done = Done()
    channel.basic_publish(body=b"m", on_done=done)
    world.settle()
    assert done.result is True, "the channel does not confirm"


def test_a_channel_closed_with_nobody_to_tell_comes_out_of_run() -> None:
    world = opened()
    world.channel().queue_declare("q")
    world.settle()
    world.peer.close_channel(406, "PRECONDITION_FAILED - durable differs")
    with pytest.raises(cpspika.PreconditionFailed, match="durable differs") as caught:
        world.reactor.run()
    assert isinstance(caught.value, cpspika.ChannelClosed)
    assert world.connection.is_open


def test_a_lost_link_with_nobody_to_tell_comes_out_of_run() -> None:
    world = opened(on_close=None)
    world.peer.hang_up()
    with pytest.raises(cpspika.ConnectionLost, match="broker:5672"):
        world.reactor.run()
    world.reactor.run()


def test_a_failed_connect_with_nobody_to_tell_comes_out_of_run() -> None:
    reactor = MemoryReactor()
    cpspika.connect("amqp://nowhere:1", reactor=reactor)
    with pytest.raises(cpspika.ConnectError, match="nowhere:1"):
        reactor.run()
    reactor.run()


def test_an_error_with_nobody_to_tell_goes_to_on_error_where_that_is_set() -> None:
    world = opened(on_close=None)
    caught: list[BaseException] = []
    world.reactor.on_error = caught.append
    channel = world.channel()
    world.peer.close_channel(404, "NOT_FOUND")
    world.settle()
    world.peer.hang_up()
    world.settle()
    assert len(caught) == 2
    assert isinstance(caught[0], cpspika.NotFound)
    assert isinstance(caught[1], cpspika.ConnectionLost)
    assert not channel.is_open


@pytest.mark.parametrize("somebody", ["on_close", "state handler", "request"])
def test_an_error_that_somebody_was_told_does_not_come_out_of_run(somebody: str) -> None:
    world = opened(on_close=ignore if somebody == "on_close" else None)
    if somebody == "state handler":
        world.connection.add_state_change_handler(ignore)
    if somebody == "request":
        world.channel().queue_declare("q", on_done=Done())
        world.settle()
    world.peer.hang_up()
    world.reactor.run()


# --- clause 6: callbacks that raise -----------------------------------------------------------------------------------


def booms(world: World) -> int:
    """Runs the reactor to the end, and counts the exceptions that come out of run()."""
    count = 0
    while True:
        try:
            world.reactor.run()
        except Boom:
            count += 1
        else:
            return count


def raiser(log: list[Any], name: Any) -> Any:
    def raises(*arguments: Any) -> None:
        log.append(name)
        raise Boom(name)

    return raises


def noting(log: list[Any], name: Any) -> Any:
    return lambda *_: log.append(name)


def test_an_on_done_that_raises_loses_nothing_of_the_same_piece() -> None:
    world = opened()
    log: list[Any] = []
    channel = world.channel()
    for name in range(4):
        channel.queue_declare("q", on_done=raiser(log, name) if name in (0, 2) else noting(log, name))
    world.settle()
    for _ in range(4):
        world.peer.send(1, "queue.declare-ok", queue="q")
    assert booms(world) == 2
    assert log == [0, 1, 2, 3]
    done = Done()
    channel.queue_declare("q", on_done=done)
    world.settle()
    world.peer.send(1, "queue.declare-ok", queue="q")
    world.settle()
    assert done.result


def test_the_exception_of_a_callback_comes_out_as_it_was_raised() -> None:
    world = opened()
    channel = world.channel()
    boom = Boom("mine")

    def raises(error: Any, result: Any) -> None:
        raise boom

    channel.queue_declare("q", on_done=raises)
    world.settle()
    world.peer.send(1, "queue.declare-ok", queue="q")
    with pytest.raises(Boom) as caught:
        world.reactor.run()
    assert caught.value is boom


def test_an_on_message_that_raises_loses_no_delivery() -> None:
    world = opened()
    got: list[Any] = []
    channel = world.channel()

    def on_message(message: Any) -> None:
        got.append(message.body)
        if message.body in (b"0", b"3"):
            raise Boom

    world.consume(channel, on_message)
    for i in range(5):
        world.peer.deliver(1, str(i).encode(), delivery_tag=i + 1)
    assert booms(world) == 2
    assert got == [b"0", b"1", b"2", b"3", b"4"]
    assert channel.is_open


def test_raising_amid_an_ack_of_many_leaves_the_others_their_fate() -> None:
    world = opened()
    log: list[Any] = []
    channel = world.confirming()
    for name in range(1, 7):
        channel.basic_publish(body="m", on_done=raiser(log, name) if name % 2 else noting(log, name))
    world.settle()
    world.peer.ack(4, multiple=True)
    world.peer.nack(5)
    world.peer.ack(6)
    assert booms(world) == 3
    assert log == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("owner", ["channel", "connection"])
def test_what_an_ack_of_many_decided_is_told_before_the_end_that_one_of_them_brings(owner: str) -> None:
    world = opened()
    channel, told = world.confirming(), []

    def on_done(number: int) -> Any:
        def done(error: Any, result: Any) -> None:
            told.append((number, error is None))
            if number == 1:
                world.connection.abort() if owner == "connection" else channel._end(None)

        return done

    for number in range(5):
        channel.basic_publish("", "q", b"x", on_done=on_done(number))
    world.settle()
    world.peer.ack(4, multiple=True)
    world.settle()
    assert told == [(0, True), (1, True), (2, True), (3, True), (4, False)]


@pytest.mark.parametrize("end", ENDS)
def test_raising_amid_the_end_leaves_the_others_their_end(end: str) -> None:
    world = opened()
    log: list[Any] = []
    channels = [world.confirming(), world.channel()]
    for channel in channels:
        number = channel.number
        channel.queue_declare("q", on_done=raiser(log, (number, 1)))
        channel.basic_get("q", on_done=noting(log, (number, 2)))
        channel.queue_declare("q", on_done=raiser(log, (number, 3)))
        channel.add_state_change_handler(raiser(log, (number, "handler 1")))
        channel.add_state_change_handler(noting(log, (number, "handler 2")))
    world.connection.add_state_change_handler(raiser(log, "connection handler"))
    world.settle()
    ENDS[end](world)
    assert booms(world) == (3 if end == "channel closed" else 7)
    expected: list[Any] = [(1, 1), (1, 2), (1, 3), (1, "handler 1"), (1, "handler 2")]
    if end != "channel closed":
        expected += [(2, what) for _, what in expected] + ["connection handler"]
        assert len(world.closed) == 1
    assert log == expected


def test_handlers_that_raise_leave_the_other_handlers_and_what_follows() -> None:
    world = opened()
    log: list[Any] = []
    channel = world.channel()
    channel.add_flow_change_handler(raiser(log, "flow 1"))
    channel.add_flow_change_handler(noting(log, "flow 2"))
    channel.add_return_handler(raiser(log, "return 1"))
    channel.add_return_handler(noting(log, "return 2"))
    world.connection.add_blocked_handler(raiser(log, "blocked 1"))
    world.connection.add_blocked_handler(noting(log, "blocked 2"))
    channel.queue_declare("q", on_done=noting(log, "declared"))
    channel.basic_publish(routing_key="gone", body="m", mandatory=True)
    message = world.peer.expect("queue.declare") and world.peer.expect("basic.publish")
    world.peer.send(1, "channel.flow", active=False)
    world.peer.give_back(1, message)
    world.peer.send(0, "connection.blocked", reason="memory")
    world.peer.send(1, "queue.declare-ok", queue="q")
    assert booms(world) == 3
    assert log == ["flow 1", "flow 2", "return 1", "return 2", "blocked 1", "blocked 2", "declared"]
    world.peer.expect("channel.flow-ok")


def test_raising_in_connects_on_done_leaves_the_connection_open() -> None:
    world = World()
    log: list[Any] = []
    world.connection.add_state_change_handler(noting(log, "state"))
    second = cpspika.connect("amqp://broker", reactor=world.reactor, on_done=raiser(log, "connected"), heartbeat=0)
    second.add_state_change_handler(noting(log, "second's state"))
    assert booms(world) == 1
    assert log == ["state", "connected", "second's state"]
    done = Done()
    second.channel(on_done=done)
    world.peer.open_channel()
    world.settle()
    assert done.result


def test_raising_in_close_handlers_still_closes() -> None:
    world = opened(on_close=lambda *_: 1 / 0)
    done = Done()
    world.connection.close(on_done=done)
    with pytest.raises(ZeroDivisionError):
        world.reactor.run()
    world.reactor.run()
    assert done.result is None
    world.peer.expect_hang_up()


@pytest.mark.parametrize("on_error", [False, True])
def test_replies_that_came_before_the_link_was_lost_are_told_though_callbacks_raise(on_error: bool) -> None:
    world = opened()
    log: list[Any] = []
    caught: list[BaseException] = []
    if on_error:
        world.reactor.on_error = caught.append
    channel = world.channel()
    for name in range(4):
        channel.queue_declare("q", on_done=lambda error, ok, name=name: log.append((name, error)) or 1 / 0)
    world.settle()
    for _ in range(4):
        world.peer.send(1, "queue.declare-ok", queue="q")
    world.peer.hang_up()
    for _ in range(20):
        try:
            world.settle()
        except ZeroDivisionError as error:
            caught.append(error)
    assert len(caught) == 4
    assert log == [(0, None), (1, None), (2, None), (3, None)]
    assert len(world.closed) == 1


def test_raising_twice_amid_the_end_keeps_the_close_handlers_last() -> None:
    world = opened()
    log: list[Any] = []
    channel = world.channel()
    for name in range(5):
        channel.queue_declare("q", on_done=raiser(log, name))
    world.connection.add_state_change_handler(noting(log, "closed"))
    world.settle()
    world.peer.close_connection()
    assert booms(world) == 5
    assert log == [0, 1, 2, 3, 4, "closed"]


def test_on_error_gets_what_callbacks_raise_and_run_goes_on() -> None:
    world = opened()
    log: list[Any] = []
    caught: list[BaseException] = []
    world.reactor.on_error = caught.append
    channel = world.confirming()
    for name in range(3):
        channel.basic_publish(body="m", on_done=raiser(log, name))
    channel.queue_declare("q", on_done=noting(log, "declared"))
    world.settle()
    world.peer.ack(3, multiple=True)
    world.peer.send(1, "queue.declare-ok", queue="q")
    world.reactor.run()
    assert log == [0, 1, 2, "declared"]
    assert [str(error) for error in caught] == ["0", "1", "2"]


# --- clause 7: what an error carries ----------------------------------------------------------------------------------


def line_after(function: Any, text: str) -> int:
    """The number of the line of this file's function that has the text."""
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if text in line)


def test_an_error_tells_the_code_the_text_the_method_and_where_it_was_asked_for() -> None:
    world = opened()
    channel, done = world.channel(), Done()
    channel.queue_declare("q", on_done=done)  # asked here
    world.settle()
    world.peer.close_channel(406, "PRECONDITION_FAILED - inequivalent", 50, 10)
    world.settle()
    error = done.error
    assert (error.code, error.method) == (406, "queue.declare")
    assert "inequivalent" in error.text
    me = test_an_error_tells_the_code_the_text_the_method_and_where_it_was_asked_for
    line = line_after(me, "# asked here")
    assert error.asked_at == f"{__file__}:{line} in {me.__name__}"
    for part in ("406", "inequivalent", "queue.declare", f"test_continuations.py:{line}"):
        assert part in str(error)


def test_asked_at_names_the_users_line_through_the_librarys_own_calls() -> None:
    world = opened()
    channel, got, done = world.channel(), [], Done()
    world.consume(channel, got.append)
    world.peer.deliver(1, b"m")
    world.settle()
    world.peer.close_channel(404, "NOT_FOUND")
    with pytest.raises(cpspika.NotFound):
        world.settle()
    got[0].ack(on_done=done)  # acked here
    world.settle()
    me = test_asked_at_names_the_users_line_through_the_librarys_own_calls
    assert done.error.asked_at == f"{__file__}:{line_after(me, '# acked here')} in {me.__name__}"
    assert done.error.method == "basic.ack"


def test_asked_at_of_a_mistake_that_raises_at_the_call_is_in_the_error_too() -> None:
    world = opened()
    channel = world.channel()
    channel.close()
    world.settle()
    with pytest.raises(cpspika.ChannelClosed) as caught:
        channel.queue_purge("q")
    assert caught.value.method == "queue.purge"
    assert caught.value.asked_at is not None
    assert "test_continuations.py" in caught.value.asked_at


def test_operations_settled_by_one_event_have_errors_of_their_own() -> None:
    world = opened()
    channel, first, second = world.channel(), Done(), Done()
    channel.queue_declare("a", on_done=first)
    channel.queue_purge("a", on_done=second)
    world.settle()
    world.peer.close_connection()
    world.settle()
    assert first.error is not second.error
    assert (first.error.method, second.error.method) == ("queue.declare", "queue.purge")
    assert first.error.asked_at != second.error.asked_at


# --- callbacks that call back in --------------------------------------------------------------------------------------


def test_an_on_done_may_ask_for_more_and_close_the_channel() -> None:
    world = opened()
    channel = world.channel()
    closed, more = Done("close"), Done("more")

    def declared(error: Any, ok: Any) -> None:
        channel.queue_purge("q", on_done=more)
        channel.close(on_done=closed)

    channel.queue_declare("q", on_done=declared)
    world.settle()
    world.peer.answering = False
    world.peer.send(1, "queue.declare-ok", queue="q")
    world.settle()
    world.peer.send(1, "queue.purge-ok", message_count=2)
    world.settle()
    assert more.result == 2
    world.peer.answer()
    world.settle()
    assert closed.result is None


def test_a_callback_amid_the_end_may_ask_for_more_and_is_refused_later() -> None:
    world = opened()
    channel, later = world.channel(), Done("later")

    def failed(error: Any, ok: Any) -> None:
        with later.not_inside():
            channel.queue_declare("again", on_done=later)
        with pytest.raises(cpspika.ConnectionClosed):
            world.connection.channel()

    channel.queue_declare("q", on_done=failed)
    world.settle()
    world.peer.hang_up()
    world.settle()
    assert isinstance(later.error, cpspika.ChannelClosed)


def test_an_on_message_may_close_the_connection_and_gets_no_more() -> None:
    world = opened()
    channel, got = world.channel(), []

    def on_message(message: Any) -> None:
        got.append(message.body)
        message.ack()
        world.connection.close()

    world.consume(channel, on_message)
    for i in range(3):
        world.peer.deliver(1, b"%d" % i, delivery_tag=i + 1)
    world.settle()
    assert got == [b"0"]
    world.peer.expect("basic.ack")
    world.peer.expect("connection.close")
    assert world.closed == [None]


def _run_of_deliveries(count: int, first: int = 1) -> bytes:
    """Deliveries that came alike, in one piece."""
    return b"".join(
        content(1, "basic.deliver", b"%d" % tag, **{**DELIVERY, "delivery_tag": tag})
        for tag in range(first, first + count)
    )


@pytest.mark.parametrize("owner", ["channel", "connection"])
@pytest.mark.parametrize("way", ["close", "abort"])
def test_no_delivery_of_a_run_comes_after_its_on_message_closed(owner: str, way: str) -> None:
    if (owner, way) == ("channel", "abort"):
        owner = "connection"
    world = opened()
    channel, got = world.channel(), []

    def on_message(message: Any) -> None:
        got.append(message.delivery_tag)
        if message.delivery_tag == 3:
            getattr(channel if owner == "channel" else world.connection, way)()

    world.consume(channel, on_message)
    world.peer.send_raw(_run_of_deliveries(6))
    world.settle()
    assert got == [1, 2, 3]


def test_a_run_of_deliveries_goes_on_after_an_on_message_that_raised_or_turned_the_reactor() -> None:
    world = opened()
    channel, got = world.channel(), []

    def on_message(message: Any) -> None:
        got.append(message.delivery_tag)
        if message.delivery_tag == 2:
            raise Boom
        if message.delivery_tag == 4:
            run_until(world.reactor, lambda: 6 in got, 1)

    world.consume(channel, on_message)
    world.peer.send_raw(_run_of_deliveries(7))
    assert booms(world) == 1
    assert got == [1, 2, 3, 4, 5, 6, 7]


def test_a_broken_frame_behind_a_run_of_deliveries_comes_after_it() -> None:
    world = opened()
    channel, got = world.channel(), []
    world.consume(channel, lambda message: got.append((message.delivery_tag, channel.is_open)))
    world.peer.send_raw(_run_of_deliveries(3) + b"\x09" * 40)
    world.settle()
    assert got == [(1, True), (2, True), (3, True)]
    assert isinstance(world.closed[0], errors.InvalidFrameError)


def test_a_callback_may_turn_the_reactor_until_a_later_reply_comes() -> None:
    """A synchronous call inside a callback does this: the reply is behind it in the same piece."""
    world = opened()
    channel = world.channel()
    first, second = Done("first"), Done("second")

    def declared(error: Any, ok: Any) -> None:
        first(error, ok)
        run_until(world.reactor, lambda: not second.pending, 1)

    channel.queue_declare("a", on_done=declared)
    channel.queue_declare("b", on_done=second)
    world.settle()
    world.peer.send(1, "queue.declare-ok", queue="a")
    world.peer.send(1, "queue.declare-ok", queue="b")
    world.settle()
    assert second.result.queue == "b"


def test_a_callback_may_turn_the_reactor_until_another_of_the_same_ack_is_told() -> None:
    """The fates that one frame decides are decided: waiting for the next of them must not wait for ever."""
    world = opened()
    channel = world.confirming()
    log: list[Any] = []
    second, third = Done(2, log), Done(3, log)

    def confirmed(error: Any, result: Any) -> None:
        log.append((1, error, result))
        run_until(world.reactor, lambda: not second.pending, 1)

    channel.basic_publish(body="1", on_done=confirmed)
    channel.basic_publish(body="2", on_done=second)
    channel.basic_publish(body="3", on_done=third)
    world.settle()
    world.peer.ack(2, multiple=True)
    world.peer.ack(3)
    world.settle()
    assert [name for name, _, _ in log] == [1, 2, 3]


@pytest.mark.parametrize("end", ENDS)
def test_a_callback_amid_the_end_may_turn_the_reactor_until_the_others_are_told(end: str) -> None:
    world = opened()
    channel = world.channel()
    second, closed = Done("second"), []
    channel.add_state_change_handler(lambda channel, is_open: closed.append(is_open))

    def failed(error: Any, ok: Any) -> None:
        run_until(world.reactor, lambda: not second.pending and bool(closed), 1)

    channel.queue_declare("a", on_done=failed)
    channel.queue_declare("b", on_done=second)
    world.settle()
    ENDS[end](world)
    world.settle()
    assert second.error
    assert closed == [False]


def test_a_turn_inside_a_callback_does_not_let_later_events_overtake() -> None:
    world = opened()
    channel = world.confirming()
    log: list[Any] = []

    def turning(name: int) -> Any:
        def done(error: Any, result: Any) -> None:
            log.append(name)
            world.reactor.run_once(0)

        return done

    for name in range(1, 6):
        channel.basic_publish(body="m", on_done=turning(name))
    world.settle()
    world.peer.ack(3, multiple=True)
    world.settle()
    world.peer.ack(5, multiple=True)
    world.settle()
    assert log == [1, 2, 3, 4, 5]


# --- all of it, at random ---------------------------------------------------------------------------------------------

CHANNELS = (1, 2)  # the first confirms


class Model:
    """A world, and what the law says must become of everything that is asked of it."""

    def __init__(self) -> None:
        self.world = opened()
        self.channels = {1: self.world.confirming(), 2: self.world.channel()}
        for number, channel in self.channels.items():
            self.world.consume(channel, ignore, f"c{number}")
            channel.add_state_change_handler(lambda channel, is_open: self.note(("closed", channel.number)))
        self.log: list[Any] = []  # settled operations and handlers, in order
        self.asked: list[dict[str, Any]] = []
        self.requests: dict[int, list[dict[str, Any]]] = {1: [], 2: []}  # not replied to
        self.published: list[dict[str, Any]] = []  # on channel 1; tag is index + 1
        self.booms = 0
        self.last_returned = -1
        self.peer = self.world.peer
        self.over = False

    def note(self, what: Any) -> None:
        self.log.append(what)

    def ask(self, number: int, kind: str, raising: bool, nested: bool) -> None:
        channel = self.channels[number]
        entry: dict[str, Any] = {
            "channel": number,
            "kind": kind,
            "calls": 0,
            "inside": True,
            "refused": not channel.is_open,
            "name": f"q{len(self.asked)}",
            "fate": None,
        }
        self.asked.append(entry)

        def on_done(error: Any, result: Any) -> None:
            assert not entry["inside"], f"{entry} was settled inside the call"
            entry["calls"] += 1
            entry["outcome"] = (error, result)
            self.note(entry)
            if nested and not self.over:
                self.ask(number, "declare", False, False)
            if raising:
                self.booms += 1
                raise Boom

        if kind == "declare":
            channel.queue_declare(entry["name"], on_done=on_done)
        elif kind == "ack":
            channel.basic_ack(1, on_done=on_done)
        else:
            mandatory = kind == "mandatory"
            channel.basic_publish(routing_key=entry["name"], body="m", mandatory=mandatory, on_done=on_done)
        entry["inside"] = False
        if entry["refused"]:
            return
        if kind == "declare":
            self.requests[number].append(entry)
        elif kind != "ack" and number == 1:
            self.published.append(entry)

    def reply(self, number: int) -> None:
        """To the oldest that has reached the peer."""
        self.turn()
        if self.requests[number] and self.channels[number].is_open:
            entry = self.requests[number].pop(0)
            entry["fate"] = "replied"
            self.peer.send(number, "queue.declare-ok", queue=entry["name"])

    def decide(self, which: int, multiple: bool, acked: bool) -> None:
        self.turn()
        if not self.channels[1].is_open:
            return
        undecided = [i for i, entry in enumerate(self.published) if entry["fate"] in (None, "returned")]
        if not undecided:
            return
        index = undecided[which % len(undecided)]
        for i in undecided if multiple else [index]:
            if i <= index and self.published[i]["fate"] != "returned":
                self.published[i]["fate"] = "acked" if acked else "nacked"
            elif i <= index:
                self.published[i]["fate"] = "returned for good"
        self.peer.send(1, "basic.ack" if acked else "basic.nack", delivery_tag=index + 1, multiple=multiple)

    def give_back(self, which: int) -> None:
        self.turn()
        waiting = [e for e in self.published if e["kind"] == "mandatory" and e["fate"] is None]
        waiting = [e for e in waiting if self.asked.index(e) > self.last_returned]  # in order, as brokers do
        if waiting and self.channels[1].is_open:
            entry = waiting[which % len(waiting)]
            self.last_returned = self.asked.index(entry)
            entry["fate"] = "returned"
            route = {"exchange": "", "routing_key": entry["name"]}
            self.peer.send_content(1, "basic.return", b"m", reply_code=312, reply_text="NO_ROUTE", **route)

    def turn(self) -> None:
        while True:
            try:
                self.world.settle()
            except Boom:
                self.booms -= 1
            else:
                return

    def end(self, how: str, number: int) -> None:
        channel = self.channels[number]
        if how == "channel by peer":
            self.turn()
            if channel.is_open:
                self.peer.close_channel(406, "PRECONDITION_FAILED", number=number)
        elif how == "channel by us":
            channel.close()
        elif how == "connection by peer":
            self.peer.close_connection()
        elif how == "connection by us":
            self.world.connection.close()
        elif how == "hang up":
            self.peer.hang_up()
        elif how == "cut":
            self.turn()
            self.peer.cut()
        elif how == "fault":
            self.peer.send_raw(b"\x01\0\0\0\0\0\0\xff")

    def check(self) -> None:
        assert self.booms == 0, "an exception of a callback got lost, or came twice"
        for entry in self.asked:
            assert entry["calls"] == 1, f"on_done was called {entry['calls']} times: {entry}"
        for number in CHANNELS:
            self.check_order(number)
        for entry in self.asked:
            self.check_fate(entry)

    def check_order(self, number: int) -> None:
        mine = [e for e in self.asked if e["channel"] == number and not e["refused"]]
        settled = [e for e in self.log if isinstance(e, dict) and e["channel"] == number and not e["refused"]]
        requests = [e for e in settled if e["kind"] == "declare"]
        assert requests == [e for e in mine if e["kind"] == "declare"], "requests settle in the order of asking"
        ended = [e for e in settled if self.ended(e)]
        assert ended == [e for e in mine if self.ended(e)], "the end settles in the order of asking"
        if ended:
            assert settled[-len(ended) :] == ended, "nothing is settled with success once the end has begun"
        assert self.log.count(("closed", number)) == 1
        at = self.log.index(("closed", number))
        late = [e for e in self.log[at:] if isinstance(e, dict) and e["channel"] == number and not e["refused"]]
        assert not late, "close handlers run after everything was settled"

    @staticmethod
    def ended(entry: dict[str, Any]) -> bool:
        """Whether it was the end that settled it."""
        error = entry["outcome"][0]
        return isinstance(error, (cpspika.ChannelClosed, cpspika.DeliveryUnknown)) or entry["fate"] == "returned"

    def check_fate(self, entry: dict[str, Any]) -> None:
        error, result = entry["outcome"]
        publish = entry["kind"] in ("publish", "mandatory") and entry["channel"] == 1
        if entry["refused"]:
            assert isinstance(error, cpspika.ChannelClosed)
        elif entry["kind"] == "declare" and entry["fate"] == "replied":
            assert error is None
            assert result.queue == entry["name"], "a reply went to another request"
        elif entry["kind"] == "declare":
            assert isinstance(error, cpspika.ChannelClosed)
        elif publish and entry["fate"] == "acked":
            assert (error, result) == (None, True)
        elif publish and entry["fate"] == "nacked":
            assert isinstance(error, cpspika.MessageNacked)
        elif publish and entry["fate"] is not None:
            assert isinstance(error, cpspika.MessageReturned)
            assert error.message.routing_key == entry["name"], "a return went to another publish"
        elif publish:
            assert isinstance(error, cpspika.DeliveryUnknown)
        else:
            assert error is None or isinstance(error, cpspika.ChannelClosed)


ask_step = st.tuples(
    st.just("ask"),
    st.sampled_from(CHANNELS),
    st.sampled_from(["declare", "ack", "publish", "mandatory"]),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([False, False, False, True]),
)
steps = st.lists(
    st.one_of(
        ask_step,
        ask_step,
        ask_step,
        st.tuples(st.just("reply"), st.sampled_from(CHANNELS)),
        st.tuples(st.just("decide"), st.integers(0, 9), st.booleans(), st.sampled_from([True, True, False])),
        st.tuples(st.just("give_back"), st.integers(0, 9)),
        st.tuples(st.just("turn")),
    ),
    max_size=40,
)
channel_ends = st.tuples(st.sampled_from(["channel by peer", "channel by us"]), st.sampled_from(CHANNELS))
ends = st.sampled_from(["connection by peer", "connection by us", "hang up", "cut", "fault"])


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(before=steps, channel_end=channel_ends | st.none(), between=steps, end=ends, turned=st.booleans(), after=steps)
def test_whatever_happens_the_law_holds(
    before: list[Any], channel_end: Any, between: list[Any], end: str, turned: bool, after: list[Any]
) -> None:
    model = Model()

    def perform(some: list[Any]) -> None:
        for name, *arguments in some:
            getattr(model, name)(*arguments)

    perform(before)
    if channel_end is not None:
        model.end(*channel_end)
    perform(between)
    if turned:
        model.turn()
    model.over = True
    model.end(end, 1)
    perform([step for step in after if step[0] == "ask"])
    model.turn()
    assert len(model.world.closed) == 1
    model.check()
