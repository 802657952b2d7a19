"""What goes wrong while recovery is under way: a second loss, a close, a cancel, a refusal, many at once."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

import cpspika
from cpspika.adapters import MemoryReactor
from cpspika.broker import Broker
from tests.recovery.test_situations import consumed, declared
from tests.support.recovering import RecoveryWorld
from tests.support.scripted import Done


def in_single_file(world: RecoveryWorld, channel: Any) -> list[Done]:
    """Operations that wait in single file: two links ended, and nothing was settled."""
    asked = [world.ask(channel.queue_declare, f"q{number}") for number in range(3)]
    for _ in range(2):
        world.cut()
        world.step_until(lambda: world.connection.is_connected, "a link")
    world.cut()
    assert world.connection._single
    return asked


@pytest.mark.parametrize("ending", ["connection", "channel", "abort"])
def test_what_waits_in_single_file_is_settled_by_a_close(ending: str) -> None:
    world = RecoveryWorld()
    channel = world.channel()
    asked = in_single_file(world, channel)
    if ending == "abort":
        world.connection.abort()
    else:
        closed = world.ask(world.connection.close if ending == "connection" else channel.close)
    world.advance(20)
    assert not any(done.pending for done in asked)
    if ending == "channel":
        assert [done.result.queue for done in asked] == ["q0", "q1", "q2"]  # asked for before the close
    else:
        assert all(isinstance(done.error, cpspika.ConnectionClosed) for done in asked)
    assert ending == "abort" or not closed.pending


def test_an_operation_that_ends_three_links_alone_is_to_blame() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    asked = in_single_file(world, channel)
    for _ in range(3):
        world.step_until(lambda: world.connection._single.alone is not None, "the first of the single file")
        world.cut()
    world.until(lambda: not any(done.pending for done in asked), "the answers")
    assert isinstance(asked[0].error, cpspika.ConnectionLost)
    assert [done.result.queue for done in asked[1:]] == ["q1", "q2"]
    assert channel.is_open
    declared(world, channel, "later")


def test_five_links_that_settle_nothing_settle_all_that_waits() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel, "of the journal")
    asked = [world.ask(channel.queue_declare, f"q{number}") for number in range(3)]
    for _ in range(6):
        world.cut()
        world.step_until(lambda: world.connection.is_connected or world.closed, "a link")
    world.advance(1)
    assert world.kinds()[-1] == "gave_up"
    assert all(isinstance(done.error, cpspika.ConnectionLost) for done in asked)
    assert isinstance(world.closed[0], cpspika.ConnectionLost)


def test_the_close_of_another_channel_does_not_stop_the_single_file() -> None:
    world = RecoveryWorld()
    channel, other = world.channel(), world.channel()
    asked = in_single_file(world, channel)
    world.step_until(lambda: world.connection._single.alone is not None, "the first of the single file")
    wrong = world.ask(other.queue_declare, "missing", passive=True)
    for number, session in enumerate(world.broker.connections):
        assert number == 0, session
    world.connection._core._channels[other.number]._shut(cpspika.ChannelClosed("by the broker"), None)
    world.until(lambda: not any(done.pending for done in asked), "the single file")
    assert not wrong.pending or world.until(lambda: not wrong.pending, "the other channel") is None
    later = world.ask(channel.queue_declare, "later")
    world.until(lambda: not later.pending, "what comes after")
    assert later.result.queue == "later"


def test_a_consumer_that_is_looked_after_when_the_link_goes_comes_back() -> None:
    world = RecoveryWorld()
    channel, taker = world.channel(), world.taker()
    taker.queue_declare("q")
    world.settle()
    got = consumed(world, channel)
    taker.queue_delete("q")
    world.advance(0.5)
    world.cut()
    again = world.taker()
    again.queue_declare("q")
    world.restored()
    world.until(lambda: world.broker.queues["q"].consumers, "the consumer")
    again.basic_publish("", "q", "hello")
    world.settle()
    assert [message.body for message in got] == [b"hello"]


def test_a_consumer_that_is_cancelled_while_its_queue_is_away_does_not_come_back() -> None:
    world = RecoveryWorld()
    channel, taker = world.channel(), world.taker()
    declared(world, channel)
    consumed(world, channel, consumer_tag="c")
    taker.queue_delete("q")
    world.advance(0.3)
    cancel = world.ask(channel.basic_cancel, "c")
    world.settle()
    assert cancel.result == "c"
    assert not channel.has_consumers
    taker.queue_declare("q")
    world.advance(5)
    assert not world.broker.queues["q"].consumers
    assert world.kinds() == []


def test_many_consumers_of_one_channel_whose_queues_are_gone() -> None:
    world = RecoveryWorld()
    channel, taker = world.channel(), world.taker()
    cancelled: list[str] = []
    for number in range(7):
        taker.queue_declare(f"q{number}")
    world.settle()
    for number in range(7):
        consumed(world, channel, f"q{number}", on_cancel=cancelled.append, consumer_tag=f"c{number}")
    for number in range(7):
        del world.broker.queues[f"q{number}"]
    world.cut()
    world.restored()
    assert sorted(cancelled) == [f"c{number}" for number in range(7)]
    assert channel.is_open
    declared(world, channel, "later")


def test_a_channel_with_a_setup_that_lives_long_may_be_closed_any_number_of_times() -> None:
    world = RecoveryWorld()
    got: list[Any] = []

    def setup(view: Any) -> None:
        view.queue_declare("q")
        view.basic_consume("q", got.append)

    channel = world.channel(on_ready=setup)
    for _ in range(8):
        world.advance(60)
        world.broker.close_channels(406, "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out")
        world.settle()
    assert channel.is_open
    assert len(world.broker.queues["q"].consumers) == 1


def test_a_channel_that_is_asked_for_while_another_waits_for_a_lock_opens_at_once() -> None:
    world = RecoveryWorld(heartbeat=10)
    channel = world.channel()
    declared(world, channel, "mine", exclusive=True)
    world.session()._timers.cancel("heartbeat")
    world.connection._unwritten.transport.lost(ConnectionResetError("cut at this end alone"))
    world.until(lambda: world.connection.is_connected, "a link")
    world.advance(1)
    assert "restored" not in world.kinds()
    opened, with_setup = Done("channel"), Done("channel")
    world.connection.channel(on_done=opened)
    world.connection.channel(lambda view: view.queue_declare("r"), on_done=with_setup)
    world.advance(1)
    assert "restored" not in world.kinds()
    assert opened.result is not None
    assert with_setup.result is not None
    assert "r" in world.broker.queues


def test_all_channels_in_use_and_a_journal() -> None:
    world = RecoveryWorld(channel_max=2)
    first, second = world.channel(), world.channel()
    declared(world, first)
    got = consumed(world, second)
    world.cut()
    del world.broker.queues["q"]
    world.restored()
    assert "q" in world.broker.queues
    first.basic_publish("", "q", "hello")
    world.settle()
    assert [message.body for message in got] == [b"hello"]
    assert first.is_open
    assert second.is_open


def test_plain_publishes_that_the_kernel_has_not_are_sent_again_in_order() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel)
    channel.basic_publish("", "q", "one")
    two = world.ask(channel.basic_publish, "", "q", "two")
    channel.basic_publish("", "q", "three")
    four = world.ask(channel.queue_declare, "q")
    world.connection._core._backlog.transport.written = 0
    world.cut()
    world.restored()
    assert not two.pending
    assert not four.pending
    assert world.bodies("q") == [b"one", b"two", b"three"]


def test_a_queue_that_was_declared_anew_is_restored_as_it_is_now() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    taker = world.taker()
    declared(world, channel, "q")
    taker.queue_delete("q")
    world.settle()
    declared(world, channel, "q", durable=True)
    world.cut()
    world.restored()
    assert "entity_failed" not in world.kinds()


def test_a_channel_that_waits_too_long_for_a_link_is_not_opened() -> None:
    world = RecoveryWorld(operation_timeout=5.0)
    world.down()
    world.cut()
    opened = Done("channel")
    world.connection.channel(on_done=opened)
    world.advance(4.5)
    assert opened.pending
    world.advance(1)
    assert isinstance(opened.error, cpspika.OperationTimeout)
    world.up()
    world.restored()
    assert not world.session().channels


@pytest.mark.parametrize("first", ["confirm_select", "tx_select"])
def test_a_refused_mode_leaves_the_other(first: str) -> None:
    world = RecoveryWorld()
    channel = world.channel()
    second = "tx_select" if first == "confirm_select" else "confirm_select"
    getattr(channel, first)()
    world.settle()
    refused = world.ask(getattr(channel, second))
    world.settle()
    assert isinstance(refused.error, cpspika.PreconditionFailed)
    assert channel.is_open
    assert channel.is_confirming is (first == "confirm_select")
    declared(world, channel)
    if first == "confirm_select":
        done = world.ask(channel.basic_publish, "", "q", "hello")
        world.cut()
        world.until(lambda: not done.pending, "the confirm")
        assert done.result == cpspika.Resent(1)
    else:
        world.cut()
        world.restored()
        commit = world.ask(channel.tx_commit)
        world.settle()
        assert commit.result is None


def test_nothing_grows_with_the_number_of_links() -> None:
    world = RecoveryWorld()
    channel = world.confirming()
    declared(world, channel)
    consumed(world, channel, no_ack=True)

    def sizes() -> list[int]:
        connection = world.connection
        return [
            len(each)
            for each in (
                connection._deadlines,
                connection._probes,
                connection._single,
                connection._unwritten.kept,
                connection._timers._by_name,
                channel._log.entries,
                channel._waiting,
                channel._log._unanswered,
                channel._log.lost,
                channel._fallen,
            )
        ]

    def round_trip(times: int) -> None:
        for _ in range(times):
            done = world.ask(channel.basic_publish, "", "q", "hello")
            channel.basic_qos(prefetch_count=5)
            world.cut()
            world.until(lambda done=done: not done.pending, "the confirm")

    round_trip(3)
    world.advance(1)
    before = sizes()
    round_trip(30)
    world.advance(1)
    assert sizes() == before


def test_each_operation_has_a_policy() -> None:
    from cpspika.client.channel import Channel
    from cpspika.recovery.policies import POLICIES

    world = RecoveryWorld(connect=False)
    asked = {name for name in dir(Channel) if getattr(getattr(Channel, name), "__operation__", False)}
    known = {name.replace(".", "_").replace("-", "_") for name in POLICIES}
    renamed = {"close": "channel_close", "flow": "channel_flow"}
    assert {renamed.get(name, name) for name in asked} <= known
    assert {"connection_update_secret", "connection_close", "channel_open"} <= known
    assert world is not None


def test_a_channel_is_open_before_what_was_asked_on_it_is_done() -> None:
    world = RecoveryWorld()
    log: list[Any] = []
    channel = world.connection.channel(on_done=Done("channel", log))
    channel.queue_declare("q", on_done=Done("declare", log))
    world.settle()
    assert [name for name, *_ in log] == ["channel", "declare"]


def test_what_was_sent_again_stays_before_what_waits_still() -> None:
    """The second link is lost while it is congested: some publishes are in flight, and some have not gone out."""
    world = RecoveryWorld()
    channel = world.confirming()
    channel.queue_declare("q", durable=True)
    world.settle()
    world.down()
    world.cut()
    log: list[Any] = []
    for number in range(12):
        channel.basic_publish("", "q", b"%d " % number + bytes(2**20), on_done=Done(number, log))
    world.up()
    world.step_until(lambda: channel._flowing and channel._waiting, "a link that is congested")
    assert 0 < len(channel._waiting) < 12
    world.cut()
    world.until(lambda: len(log) == 12, "the confirms")
    assert [each[0] for each in log] == list(range(12))
    assert [body.split()[0] for body in world.bodies("q")] == [b"%d" % number for number in range(12)]


def test_a_plain_publish_without_on_done_that_is_sent_again_frees_its_room() -> None:
    """It counts in the buffer while it waits, and not when it has gone out."""
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel)
    channel.basic_publish("", "q", b"lost before the kernel has it")
    world.cut()
    world.restored()
    channel.basic_publish("", "q", b"first")
    world.broker.flow(False)
    world.settle()
    channel.basic_publish("", "q", b"held", block_on_flow_control=True)
    assert world.connection._buffer.size
    world.broker.flow(True)
    world.settle()
    assert world.bodies("q") == [b"lost before the kernel has it", b"first", b"held"]
    assert world.connection._buffer.size == 0


def test_a_plain_publish_that_is_sent_again_is_sent_again_if_that_is_lost_too() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel)
    channel.basic_publish("", "q", b"lost")
    world.cut()
    world.step_until(lambda: channel._flowing, "the second link")
    world.cut()  # the kernel has nothing of it
    world.until(lambda: world.bodies("q"), "the message")
    world.advance(60)
    assert world.bodies("q") == [b"lost"]


def test_a_consumer_whose_cancel_waits_to_be_told_does_not_come_back() -> None:
    """The loss has ended the consumer; an operation before the cancel is asked again, and is told first."""
    world = RecoveryWorld()
    channel = world.channel()
    channel.queue_declare("q")
    old = world.ask(channel.basic_consume, "q", lambda message: None, consumer_tag="old")
    world.settle()
    assert old.result == "old"
    world.deaf()
    log: list[Any] = []
    channel.basic_consume("q", lambda message: None, consumer_tag="new", on_done=Done("new", log))
    channel.basic_cancel("old", on_done=Done("cancelled", log))
    world.settle()
    world.cut()
    world.restored()
    world.settle()
    assert [name for name, *_ in log] == ["new", "cancelled"]
    assert [consumer.tag for consumer in world.broker.queues["q"].consumers] == ["new"]


def test_a_publish_with_flags_in_a_transaction_needs_no_on_done() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    channel.queue_declare("q")
    channel.tx_select()
    world.settle()
    channel.basic_publish("", "q", b"one", mandatory=True)
    commit = world.ask(channel.tx_commit)
    world.settle()
    assert not commit.pending
    assert world.bodies("q") == [b"one"]


@pytest.mark.parametrize("stop", ["congestion", "blocked", "flow"])
def test_a_drain_that_waits_when_the_link_is_lost_is_done_on_the_next(stop: str) -> None:
    world = RecoveryWorld(publishes="unknown")  # so that nothing congests the next link
    channel = world.confirming()
    channel.queue_declare("q")
    world.settle()
    if stop == "congestion":
        world.deaf()
        channel.basic_publish("", "q", bytes(2**20))
    else:
        world.broker.block("for the test") if stop == "blocked" else world.broker.flow(False)
        world.settle()
    assert not channel.writable
    told: list[str] = []
    channel.add_writable_handler(lambda channel: told.append("writable"))
    drain = world.ask(channel.drain)
    world.settle()
    assert drain.pending
    world.broker.unblock()
    world.broker.flow(True)
    world.cut()
    world.restored()
    world.settle()
    assert not drain.pending
    assert told == ["writable"]


def test_many_clients_come_back_spread_over_the_back_offs_window() -> None:
    """Their broker is away for a while, and back: they don't come all at once."""
    reactor = MemoryReactor()
    broker = Broker(reactor)
    arrivals: list[float] = []

    def accept(transport: Any) -> Any:
        arrivals.append(reactor.time())
        return broker.accept(transport)

    listener = reactor.listen("broker", 5672, accept)
    clients: list[Any] = [
        cpspika.connect("amqp://broker", reactor=reactor, recovery=cpspika.Recovery(dice=Random(number)), heartbeat=0)
        for number in range(300)
    ]
    reactor.settle()
    assert all(client.is_connected for client in clients)
    listener.close()
    broker.close_connections()
    reactor.advance(10)  # so the window has grown to seconds
    assert not any(client.is_connected for client in clients)
    arrivals.clear()
    reactor.listen("broker", 5672, accept)
    began = reactor.time()
    for _ in range(400):
        reactor.advance(0.1)
    assert all(client.is_connected for client in clients)
    assert len(arrivals) == 300, "each comes once"
    assert max(sum(second <= at - began < second + 1 for at in arrivals) for second in range(40)) < 100
    for client in clients:
        client.close()
    reactor.settle()
    assert not broker.connections


@pytest.mark.parametrize("written", [False, True], ids=["nothing was written", "the declaration was written"])
def test_what_nobody_confirms_follows_the_same_operations_again(written: bool) -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel, "log")
    channel.basic_publish("", "log", "0")
    told = world.ask(channel.basic_publish, "", "log", "1", mandatory=True)
    channel.basic_publish("", "log", "2")
    done = world.ask(channel.queue_declare, "new")
    if written:
        world.connection._unwritten.transport.flush()
    channel.basic_publish("", "new", "3")
    world.ask(channel.basic_publish, "", "log", "4")
    newer = world.ask(channel.queue_declare, "newer")
    channel.basic_publish("", "newer", "5")
    channel.basic_publish("", "log", "6", mandatory=True)
    world.connection._unwritten.transport.lost(ConnectionResetError("cut at this end alone"))
    world.restored()
    world.until(lambda: not newer.pending, "the second declaration")
    world.settle()
    assert told.result is True
    assert done.result.queue == "new"
    assert newer.result.queue == "newer"
    assert world.bodies("log")[-5:] == [b"0", b"1", b"2", b"4", b"6"]  # copies may stand before them
    assert world.bodies("new") == [b"3"]
    assert world.bodies("newer") == [b"5"]


def test_an_operation_whose_end_is_decided_is_told_behind_an_opening() -> None:
    """The operation before it fails by an error that closes the channel; then it is the first on the next opening."""
    world = RecoveryWorld()
    world.taker().queue_declare("q")
    world.settle()
    channel = world.channel()
    done = world.ask(channel.queue_declare, "none", passive=True)
    world.cut()
    world.step_until(lambda: channel._opening is not None and channel._opening._pending, "the declare, asked again")
    purged = world.ask(channel.queue_purge, "q")
    world.cut()
    world.reactor.advance(60)
    later = world.ask(channel.queue_declare, "later")
    world.reactor.advance(60)
    assert isinstance(done.error, cpspika.NotFound)
    assert isinstance(purged.error, cpspika.OutcomeUnknown)
    assert later.result.queue == "later"


def test_each_close_is_told_though_one_before_it_raises() -> None:
    world, told = RecoveryWorld(), list[Any]()

    def raises(err: Any, _: Any) -> None:
        raise ZeroDivisionError

    world.connection.close(on_done=raises)
    world.connection.close(on_done=lambda err, _: told.append(err))
    with pytest.raises(ZeroDivisionError):
        world.reactor.settle()
    world.reactor.settle()
    assert told == [None]


def test_a_publish_that_times_out_as_the_connection_is_aborted_is_reported_once() -> None:
    world = RecoveryWorld(operation_timeout=1)
    channel = world.confirming()
    world.down()
    world.cut()
    channel.basic_publish("", "q", "untold")
    world.reactor.call_later(1, world.connection.abort)  # due at the same time, behind the time-out
    with pytest.raises(cpspika.OperationTimeout) as caught:
        world.reactor.advance(2)
    assert "more" not in str(caught.value)
