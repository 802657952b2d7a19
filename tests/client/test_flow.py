"""Channel.Flow from the broker: what it stops, what it holds, and who is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

import cpspika
from cpspika.adapters import MemoryReactor
from cpspika.parameters import ConnectionParameters
from cpspika.styles.sync import SyncConnection
from tests.support.scripted import Done, MemoryBroker, World, opened, said


def stopped(confirms: bool = False) -> tuple[World, Any]:
    """A channel whose flow the broker has stopped."""
    world = opened()
    channel = world.confirming() if confirms else world.channel()
    world.peer.send(1, "channel.flow", active=False)
    world.settle()
    assert world.peer.expect("channel.flow-ok").active is False
    return world, channel


def resume(world: World, number: int = 1) -> None:
    world.peer.send(number, "channel.flow", active=True)
    world.settle()
    assert world.peer.expect("channel.flow-ok").active is True


# --- the answer and the handlers --------------------------------------------------------------------------------------


def test_flow_is_answered_each_time_with_what_was_asked() -> None:
    world = opened()
    world.channel()
    for active in (False, True, True, False, False):
        world.peer.send(1, "channel.flow", active=active)
        world.settle()
        assert world.peer.expect("channel.flow-ok", 1).active is active


def test_handlers_are_called_with_the_channel_and_whether_it_is_permitted() -> None:
    world = opened()
    channel, told = world.channel(), []
    remove = channel.add_flow_change_handler(lambda *arguments: told.append(arguments))
    assert told == [], "the new name isn't called at registration"
    for active in (False, False, True, True):
        world.peer.send(1, "channel.flow", active=active)
        world.settle()
    assert told == [(channel, False), (channel, True)], "once for each change"
    remove()
    world.peer.send(1, "channel.flow", active=False)
    world.settle()
    assert len(told) == 2


def test_the_old_name_is_called_once_at_registration_with_the_present_state() -> None:
    world = opened()
    channel, told = world.channel(), []
    channel.addFlowChangeHandler(lambda *arguments: told.append(arguments))
    assert told == [(channel, True)]
    world.peer.send(1, "channel.flow", active=False)
    world.settle()
    assert told == [(channel, True), (channel, False)]
    late: list[Any] = []
    channel.addFlowChangeHandler(lambda *arguments: late.append(arguments))
    assert late == [(channel, False)]


def test_the_old_name_of_state_handlers_is_called_once_at_registration_too() -> None:
    world = opened()
    channel, told = world.channel(), []
    channel.addStateChangeHandler(lambda *arguments: told.append(arguments))
    world.connection.addStateChangeHandler(lambda *arguments: told.append(arguments))
    assert told == [(channel, True), (world.connection, True)]
    world.connection.close()
    world.settle()
    assert told[2:] == [(channel, False), (world.connection, False)]


@pytest.mark.parametrize("raises", [Exception("no"), cpspika.AMQPError("no")])
def test_flow_ok_is_sent_though_handlers_raise(raises: Exception) -> None:
    world = opened()
    channel, told = world.channel(), []

    def handler(*_: Any) -> None:
        raise raises

    channel.add_flow_change_handler(handler)
    channel.add_flow_change_handler(lambda channel, permitted: told.append(permitted))
    world.peer.send(1, "channel.flow", active=False)
    with pytest.raises(type(raises)):
        world.settle()
    world.settle()
    assert world.peer.expect("channel.flow-ok").active is False
    assert told == [False]
    assert not channel.transmission_permitted


def test_flow_ok_is_sent_though_a_handler_closes_the_channel() -> None:
    world = opened()
    channel = world.channel()
    channel.add_flow_change_handler(lambda channel, permitted: channel.close())
    world.peer.send(1, "channel.flow", active=False)
    world.settle()
    world.peer.expect("channel.flow-ok")
    world.peer.expect("channel.close")


def test_flow_ok_is_sent_before_a_handler_gets_to_publish() -> None:
    world = opened()
    channel = world.channel()

    def handler(channel: Any, permitted: bool) -> None:
        if permitted:
            channel.basic_publish(body=b"at last")

    channel.add_flow_change_handler(handler)
    world.peer.send(1, "channel.flow", active=False)
    world.peer.send(1, "channel.flow", active=True)
    world.settle()
    world.peer.expect("channel.flow-ok")
    assert world.peer.expect("channel.flow-ok").active is True
    assert world.peer.expect("basic.publish").body == b"at last"


def test_each_channel_has_a_flow_of_its_own() -> None:
    world = opened()
    first, second = world.channel(), world.channel()
    world.peer.send(1, "channel.flow", active=False)
    world.settle()
    assert (first.transmission_permitted, second.transmission_permitted) == (False, True)
    assert (first.writable, second.writable) == (False, True)
    done = Done()
    second.basic_publish(body="m", on_done=done)
    world.settle()
    assert done.result is True


def test_a_flow_that_arrives_while_the_channel_closes_harms_nothing() -> None:
    world = opened()
    channel, done = world.channel(), Done()
    world.peer.answering = False
    channel.close(on_done=done)
    world.peer.expect("channel.close")
    world.peer.send(1, "channel.flow", active=False)
    world.settle()
    world.peer.answer()
    world.settle()
    assert done.result is None
    assert world.connection.is_open


# --- publishing meanwhile ---------------------------------------------------------------------------------------------


def test_a_publish_fails_while_the_flow_is_stopped() -> None:
    world, channel = stopped()
    done = Done()
    assert channel.basic_publish(body="m", on_done=done) is False
    with pytest.raises(cpspika.ContentTransmissionForbidden) as caught:
        channel.basic_publish(body="m")
    world.settle()
    for error in (done.error, caught.value):
        assert isinstance(error, cpspika.ContentTransmissionForbidden)
        assert isinstance(error, cpspika.AMQPConnectionError), "its class in pika 0.5"
        assert error.method == "basic.publish"
        assert "test_flow.py" in error.asked_at
    world.peer.expect_nothing()
    assert channel.is_open


def test_other_operations_go_on_while_the_flow_is_stopped() -> None:
    world, channel = stopped()
    done, acked = Done(), Done()
    channel.queue_declare("q", on_done=done)
    channel.basic_ack(1, on_done=acked)
    world.peer.expect("queue.declare")
    world.peer.expect("basic.ack")
    world.peer.send(1, "queue.declare-ok", queue="q")
    world.settle()
    assert done.result.queue == "q"
    assert acked.result is None


def test_a_refused_publish_takes_no_number_on_a_confirming_channel() -> None:
    world, channel = stopped(confirms=True)
    refused, sent = Done(), Done()
    channel.basic_publish(body="refused", on_done=refused)
    world.settle()
    resume(world)
    channel.basic_publish(body="sent", on_done=sent)
    assert world.peer.expect("basic.publish").body == b"sent"
    world.peer.ack(1)
    world.settle()
    assert isinstance(refused.error, cpspika.ContentTransmissionForbidden)
    assert sent.result is True


def test_drain_is_done_when_the_channel_is_writable() -> None:
    world = opened()
    channel = world.channel()
    at_once, later, never = Done("drain"), Done("drain"), Done("drain")
    with at_once.not_inside():
        channel.drain(on_done=at_once)
    world.settle()
    assert at_once.result is None
    world.peer.send(1, "channel.flow", active=False)
    world.settle()
    channel.drain(on_done=later)
    world.settle()
    assert not later.calls
    world.peer.send(1, "channel.flow", active=True)
    world.settle()
    assert later.result is None
    world.peer.send(1, "channel.flow", active=False)
    world.settle()
    channel.drain(on_done=never)
    world.peer.send(1, "channel.close", reply_code=404, reply_text="NOT_FOUND")
    world.settle()
    assert isinstance(never.error, cpspika.ChannelClosed)
    with pytest.raises(cpspika.ChannelClosed):
        channel.drain()


def test_writable_follows_the_flow_and_its_handler_tells_of_the_return() -> None:
    world = opened()
    channel, calls = world.channel(), []
    channel.add_writable_handler(calls.append)
    world.peer.send(1, "channel.flow", active=False)
    world.settle()
    assert channel.writable is False
    assert world.connection.writable is True, "the connection's other channels may publish"
    assert calls == []
    world.peer.send(1, "channel.flow", active=True)
    world.settle()
    assert channel.writable is True
    assert calls == [channel]


# --- held until the flow resumes --------------------------------------------------------------------------------------


def hold(channel: Any, *bodies: str, log: list[Any] | None = None, **options: Any) -> list[Done]:
    fates = []
    for body in bodies:
        fates.append(Done(body, log))
        with fates[-1].not_inside():
            answer = channel.basic_publish(
                routing_key="q", body=body, block_on_flow_control=True, on_done=fates[-1], **options
            )
        assert answer is False, "it is time to wait"
    return fates


@pytest.mark.parametrize("confirms", [False, True])
def test_held_publishes_go_out_in_order_when_the_flow_resumes(confirms: bool) -> None:
    world, channel = stopped(confirms)
    log: list[Any] = []
    fates = hold(channel, "1", "2", "3", log=log)
    world.settle()
    world.peer.expect_nothing()
    assert all(fate.pending for fate in fates)
    channel.add_flow_change_handler(lambda channel, permitted: channel.basic_publish(body="4"))
    resume(world)
    for body in (b"1", b"2", b"3", b"4"):
        assert world.peer.expect("basic.publish").body == body
    if confirms:
        assert all(fate.pending for fate in fates), "the broker decides"
        world.peer.ack(4, multiple=True)
        world.settle()
    assert log == [("1", None, True), ("2", None, True), ("3", None, True)]


def test_a_publish_with_block_on_flow_control_goes_out_at_once_while_permitted() -> None:
    world = opened()
    done = Done()
    world.channel().basic_publish(body="m", block_on_flow_control=True, on_done=done)
    assert world.peer.expect("basic.publish").body == b"m"
    assert done.result is True


def test_held_publishes_survive_a_flow_that_stops_again() -> None:
    world, channel = stopped()
    fates = hold(channel, "1")
    resume(world)
    assert world.peer.expect("basic.publish").body == b"1"
    world.peer.send(1, "channel.flow", active=False)
    world.settle()
    fates += hold(channel, "2")
    world.settle()
    assert fates[0].result is True
    assert fates[1].pending
    world.peer.expect("channel.flow-ok")
    world.peer.expect_nothing()
    resume(world)
    assert world.peer.expect("basic.publish").body == b"2"


def test_held_publishes_stay_held_when_the_broker_stops_the_flow_once_more() -> None:
    world, channel = stopped()
    (fate,) = hold(channel, "1")
    world.peer.send(1, "channel.flow", active=False)
    world.settle()
    assert world.peer.expect("channel.flow-ok").active is False
    world.peer.expect_nothing()
    assert fate.pending
    resume(world)
    assert world.peer.expect("basic.publish").body == b"1"


def test_what_is_held_is_the_message_as_it_was_at_the_call() -> None:
    world, channel = stopped()
    body, headers = bytearray(b"as it was"), {"n": 1}
    channel.basic_publish(body=body, properties={"headers": headers}, block_on_flow_control=True)
    body[:] = b"different"
    headers["n"] = 2
    resume(world)
    message = world.peer.expect("basic.publish")
    assert message.body == b"as it was"
    assert message.properties.headers == {"n": 1}


@pytest.mark.parametrize(
    "mistake",
    [
        {"routing_key": "é" * 150},
        {"exchange": None},
        {"body": 5},
        {"properties": {"priority": "high"}},
        {"properties": {"headers": {"x": "y" * 200_000}}},
    ],
    ids=lambda mistake: next(iter(mistake)),
)
def test_a_mistake_in_a_held_publish_raises_at_the_call_as_ever(mistake: dict[str, Any]) -> None:
    """Not when the flow resumes, where nobody could know whose it was."""
    world, channel = stopped()
    done = Done()
    with pytest.raises((ValueError, TypeError)):
        channel.basic_publish(**mistake, block_on_flow_control=True, on_done=done)
    resume(world)
    world.peer.expect_nothing()
    world.connection.close()
    world.settle()
    assert done.pending


ENDS = {
    "channel closed": lambda world, channel: world.peer.close_channel(406, "PRECONDITION_FAILED - why"),
    "connection closed": lambda world, channel: world.peer.close_connection(320, "CONNECTION_FORCED - why"),
    "cut": lambda world, channel: world.peer.cut(ConnectionResetError("why")),
    "our close": lambda world, channel: channel.close(),
    "our connection's close": lambda world, channel: world.connection.close(),
}


@pytest.mark.parametrize("confirms", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_held_publishes_are_told_when_the_channel_ends(end: str, confirms: bool) -> None:
    world, channel = stopped(confirms)
    log: list[Any] = []
    fates = hold(channel, "1", "2", "3", log=log)
    ENDS[end](world, channel)
    world.settle()
    assert [name for name, _, _ in log] == ["1", "2", "3"]
    for fate in fates:
        gone = cpspika.ConnectionClosed if "connection" in end or end == "cut" else cpspika.ChannelClosed
        assert isinstance(fate.error, gone)
        assert not isinstance(fate.error, cpspika.DeliveryUnknown), "it was never sent, so nothing is unknown"
        if "our" not in end:
            assert "why" in said(fate.error)


def test_a_held_publish_without_on_done_is_sent_too() -> None:
    world, channel = stopped()
    assert channel.basic_publish(body="m", block_on_flow_control=True) is False
    resume(world)
    assert world.peer.expect("basic.publish").body == b"m"


def test_a_held_publish_with_nobody_to_tell_is_not_lost_in_silence() -> None:
    """The channel's end is told: here it comes out of run()."""
    world, channel = stopped()
    channel.basic_publish(body="m", block_on_flow_control=True)
    world.peer.close_channel(406, "PRECONDITION_FAILED - why")
    with pytest.raises(cpspika.PreconditionFailed, match="why"):
        world.settle()


def test_publishes_behind_held_ones_do_not_overtake_them() -> None:
    """Resumed inside one piece with what follows, and asked for in the handler and after it."""
    world, channel = stopped()
    hold(channel, *map(str, range(50)))
    world.peer.send(1, "channel.flow", active=True)
    world.settle()
    channel.basic_publish(body="last", block_on_flow_control=True)
    world.peer.expect("channel.flow-ok")
    for i in range(50):
        assert world.peer.expect("basic.publish").body == b"%d" % i
    assert world.peer.expect("basic.publish").body == b"last"


# --- transactions -----------------------------------------------------------------------------------------------------


def transaction() -> tuple[World, Any]:
    """The same, in transactions."""
    world = opened()
    channel = world.channel()
    channel.tx_select()
    world.peer.expect("tx.select")
    world.peer.send(1, "tx.select-ok")
    world.peer.send(1, "channel.flow", active=False)
    world.settle()
    world.peer.expect("channel.flow-ok")
    return world, channel


@pytest.mark.parametrize("end", ["tx_commit", "tx_rollback"])
def test_the_end_of_a_transaction_waits_behind_its_held_publishes(end: str) -> None:
    """And what is asked for behind it, so that it counts to the next transaction, and replies come in order."""
    world, channel = transaction()
    log: list[Any] = []
    hold(channel, "1", "2", log=log)
    channel.basic_ack(1)  # of the same transaction
    world.peer.expect("basic.ack")
    getattr(channel, end)(on_done=Done(end, log))
    channel.basic_ack(2, on_done=Done("ack", log))
    channel.basic_ack(3)
    hold(channel, "3", log=log)
    channel.queue_declare("q", on_done=Done("declare", log))
    channel.tx_commit(on_done=Done("again", log))
    world.settle()
    world.peer.expect_nothing()
    assert log == []
    resume(world)
    came = []
    for name in ("basic.publish", "basic.publish", end.replace("_", "."), "basic.ack", "basic.ack", "basic.publish"):
        event = world.peer.expect(name)
        came.append(getattr(event, "body", None) or event.name)
    assert came == [b"1", b"2", end.replace("_", "."), "basic.ack", "basic.ack", b"3"]
    world.peer.expect("queue.declare")
    world.peer.expect("tx.commit")
    world.peer.send(1, f"{end.replace('_', '.')}-ok")
    world.peer.send(1, "queue.declare-ok", queue="q")
    world.peer.send(1, "tx.commit-ok")
    world.settle()
    assert [name for name, error, _ in log if error is None] == ["1", "2", "ack", "3", end, "declare", "again"]
    channel.basic_ack(4)
    assert world.peer.expect("basic.ack").delivery_tag == 4, "nothing is held any more"


def test_a_commit_without_held_publishes_goes_out_at_once() -> None:
    world, channel = transaction()
    channel.tx_commit()
    world.peer.expect("tx.commit")


@pytest.mark.parametrize("end", ENDS)
def test_what_waits_behind_a_held_publish_is_told_when_the_channel_ends(end: str) -> None:
    world, channel = transaction()
    log: list[Any] = []
    hold(channel, "1", log=log)
    channel.tx_commit(on_done=Done("commit", log))
    channel.basic_ack(1, on_done=Done("ack", log))
    hold(channel, "2", log=log)
    channel.queue_declare("q", on_done=Done("declare", log))
    ENDS[end](world, channel)
    world.settle()
    assert [name for name, _, _ in log] == ["1", "commit", "ack", "2", "declare"]
    gone = cpspika.ConnectionClosed if "connection" in end or end == "cut" else cpspika.ChannelClosed
    assert all(isinstance(error, gone) for _, error, _ in log)
    assert not world.peer.came("tx.commit")
    assert not world.peer.came("basic.ack")


def test_the_answers_to_the_broker_do_not_wait_behind_a_held_commit() -> None:
    world, channel = transaction()
    cancelled: list[str] = []
    channel.basic_consume("q", print, consumer_tag="c", on_cancel=cancelled.append)
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    world.settle()
    hold(channel, "1")
    channel.tx_commit()
    world.peer.send(1, "basic.cancel", consumer_tag="c", no_wait=False)
    world.settle()
    world.peer.expect("basic.cancel-ok")
    assert cancelled == ["c"]


def test_a_commit_from_another_thread_holds_nothing() -> None:
    world, channel = transaction()
    hold(channel, "1")
    world.reactor.thread = -1
    with pytest.raises(cpspika.ConcurrentUse):
        channel.tx_commit()
    world.reactor.thread = None
    channel.basic_ack(1)
    world.peer.expect("basic.ack")
    resume(world)
    world.peer.expect("basic.publish")


# --- the synchronous facade -------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def closed_at_the_end() -> Iterator[None]:
    yield
    while SyncWorld.made:
        SyncWorld.made.pop().connection.abort()


class SyncWorld:
    """A facade over memory, and a broker that answers by itself, on the clock."""

    made: ClassVar[list[SyncWorld]] = []

    def __init__(self, timeout: float | None = None) -> None:
        self.reactor = MemoryReactor()
        self.broker = MemoryBroker(self.reactor)
        self.reactor.call_soon(lambda: None)
        targets = [ConnectionParameters("broker", heartbeat=0)]
        self.connection = SyncConnection(self.reactor, targets, timeout)
        self.made.append(self)
        self.peer = self.broker.peers[0]
        self.peer.serve()
        self.bodies: list[bytes] = []
        self.peer.when("basic.publish", lambda peer, number, message: self.bodies.append(message.body))
        self.flow_oks: list[bool] = []
        self.peer.when("channel.flow-ok", lambda peer, number, ok: self.flow_oks.append(ok.active))
        self.channel = self.connection.channel()

    def later(self, seconds: float, *what: Any, **arguments: Any) -> None:
        name, *rest = what
        self.reactor.call_later(seconds, lambda: getattr(self.peer, name)(*rest, **arguments))

    def stop_flow(self) -> None:
        self.peer.send(1, "channel.flow", active=False)
        self.reactor.settle()
        assert self.flow_oks == [False]


def test_the_facade_blocks_in_a_nested_loop_until_the_flow_resumes() -> None:
    world = SyncWorld()
    world.stop_flow()
    world.later(7, "send", 1, "channel.flow", active=True)
    before = world.reactor.time()
    world.channel.basic_publish(routing_key="q", body="m", block_on_flow_control=True)
    assert world.reactor.time() - before == 7
    world.reactor.settle()
    assert world.bodies == [b"m"]
    assert world.flow_oks == [False, True]


@pytest.mark.parametrize("end", ["close_channel", "close_connection", "cut"])
def test_the_facade_stops_blocking_when_the_channel_ends(end: str) -> None:
    world = SyncWorld()
    world.stop_flow()
    arguments = {
        "close_channel": (406, "PRECONDITION_FAILED - why"),
        "close_connection": (320, "CONNECTION_FORCED - why"),
        "cut": (ConnectionResetError("why"),),
    }[end]
    world.later(3, end, *arguments)
    with pytest.raises(cpspika.ChannelClosed if end == "close_channel" else cpspika.ConnectionClosed) as caught:
        world.channel.basic_publish(routing_key="q", body="m", block_on_flow_control=True)
    assert "why" in said(caught.value)
    assert world.reactor.time() == 3
    assert world.bodies == []


def test_the_facade_raises_at_once_without_block_on_flow_control() -> None:
    world = SyncWorld()
    world.stop_flow()
    with pytest.raises(cpspika.ContentTransmissionForbidden):
        world.channel.basic_publish(routing_key="q", body="m")
    assert world.reactor.time() == 0
    assert world.channel.transmission_permitted is False


def test_the_facades_timeout_bounds_the_blocking() -> None:
    world = SyncWorld(timeout=5)
    world.stop_flow()
    with pytest.raises(cpspika.OperationTimeout):
        world.channel.basic_publish(routing_key="q", body="m", block_on_flow_control=True)
    assert world.reactor.time() == 5


def test_other_callbacks_wait_while_the_facade_blocks() -> None:
    """A flow handler isn't entered amid the publish that waits; it runs when the program gives it room."""
    world = SyncWorld()
    told: list[Any] = []
    world.channel.add_flow_change_handler(lambda channel, permitted: told.append((channel, permitted)))
    world.stop_flow()
    assert told == [(world.channel, False)], "the program let the reactor run by itself"
    world.later(1, "send", 1, "channel.flow", active=True)
    world.channel.basic_publish(routing_key="q", body="m", block_on_flow_control=True)
    assert len(told) == 1
    world.connection.drain_events(0)
    assert told[1:] == [(world.channel, True)]


def test_the_facade_on_a_confirming_channel_blocks_until_the_fate() -> None:
    world = SyncWorld()
    world.channel.confirm_select()
    world.peer.when("basic.publish", lambda peer, number, message: peer.ack(1))
    world.stop_flow()
    world.later(2, "send", 1, "channel.flow", active=True)
    assert world.channel.basic_publish(routing_key="q", body="m", block_on_flow_control=True) is True


def test_the_old_handler_names_on_the_facade_hand_out_the_facades_channel() -> None:
    world = SyncWorld()
    told: list[Any] = []
    world.channel.addFlowChangeHandler(lambda *arguments: told.append(arguments))
    assert told == [(world.channel, True)]
    world.stop_flow()
    assert told[1:] == [(world.channel, False)]
