"""The law of continuations: what every on_done may rely on, whatever the operation and however it ends."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import pytest

import cpspika
from cpspika import errors
from cpspika.adapters import MemoryReactor
from cpspika.client.continuations import describe
from cpspika.styles.lifting import operations
from tests.support.endings import ENDS, fill, ignore
from tests.support.scripted import Done, World, opened, said


class Operation(NamedTuple):
    name: str
    arguments: dict[str, Any]
    reply: str | None  # None: it has none
    told: dict[str, Any]  # the reply's arguments
    result: Any


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
    assert log == ["declare: ConnectionClosed", "get: ConnectionClosed"]
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
    assert isinstance(log[1][1], cpspika.ConnectionClosed)
    assert log[2][1] is None
    assert world.closed == [None], "a close of our own is no error"


# --- clause 4: the end settles first, in the order of asking; handlers run after --------------------------------------


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
        assert "endings.py" in fates[name].asked_at
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
        assert isinstance(consume, cpspika.ConnectionClosed)
        assert isinstance(purge, cpspika.ConnectionClosed)


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


def test_asked_at_of_the_connections_own_operations_names_the_users_line() -> None:
    """They have no call of the library's own between the program and the continuation."""
    world, updated, opening = opened(), Done(), Done()
    world.connection.update_secret("new", on_done=updated)  # updated here
    world.connection.channel(on_done=opening)  # opened here
    world.settle()
    world.peer.close_connection()
    world.settle()
    me = test_asked_at_of_the_connections_own_operations_names_the_users_line
    assert updated.error.asked_at == f"{__file__}:{line_after(me, '# updated here')} in {me.__name__}"
    assert opening.error.asked_at == f"{__file__}:{line_after(me, '# opened here')} in {me.__name__}"


def test_asked_at_names_the_right_one_of_two_functions_alike() -> None:
    """Their calls stand at the same place of their code."""

    def ask_first(channel: Any, done: Done) -> None:
        channel.queue_purge("a", on_done=done)

    def ask_second(channel: Any, done: Done) -> None:
        channel.queue_purge("b", on_done=done)

    world = opened()
    channel, first, second = world.channel(), Done(), Done()
    ask_first(channel, first)
    ask_second(channel, second)
    world.peer.close_connection()
    world.settle()
    assert [done.error.asked_at.rpartition(" in ")[2] for done in (first, second)] == ["ask_first", "ask_second"]


def test_the_continuations_of_a_loop_share_their_call_site() -> None:
    """So thousands of them hold one tuple."""
    channel = opened().channel()
    for _ in range(3):
        channel.queue_purge("q")
    assert len({id(request.call_site) for request in channel._pending}) == 1


def test_where_no_line_is_the_programs_none_is_named() -> None:
    assert describe(None) is None
