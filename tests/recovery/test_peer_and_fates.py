"""Recovery against a peer that says what a test wants, and the fate of each kind of operation."""

from __future__ import annotations

from typing import Any

import pytest

import cpspika
from tests.recovery.test_situations import consumed, declared
from tests.support.forking import forking
from tests.support.recovering import RecoveryWorld
from tests.support.scripted import Done, MemoryPeer, SocketBroker, World


def serving(world: World) -> MemoryPeer:
    """The newest link's peer, past the handshake; it answers all but consumers."""
    peer = world.peer
    peer.expect_open()
    peer.serve()
    return peer


def test_21_close_hangs_up_a_link_that_waits_for_its_close_ok() -> None:
    """The broker made a mistake: its link waits for close-ok, and the next one is to be tried in an hour."""
    world = World(recovery=cpspika.Recovery(backoff=(3600, 3600)))
    peer = serving(world)
    peer.answering = False
    peer.send(0, "tx.select-ok")
    world.settle()
    assert peer.came("connection.close")
    assert not peer.hung_up
    closed = Done("close")
    world.connection.close(on_done=closed)
    world.settle()
    assert closed.result is None
    assert peer.hung_up
    assert not world.reactor._has_work()


def test_19_a_consumer_that_is_not_answered_within_10_seconds() -> None:
    world = World(recovery=cpspika.Recovery(backoff=(0.001, 0.001)))
    serving(world)
    world.settle()
    channel, got = Done("channel"), []
    world.connection.channel(on_done=channel)
    world.settle()
    channel.result.basic_consume("q", got.append, consumer_tag="c")
    world.settle()
    world.peer.cut()
    world.reactor.advance(0.01)
    peer = serving(world)
    peer.open_channel()
    peer.when("basic.consume", lambda peer, number, method: None)
    world.settle()
    waiting = Done("declare")
    channel.result.queue_declare("later", on_done=waiting)
    world.reactor.advance(9.9)
    assert peer.came("channel.close") == []
    peer.serve()
    world.reactor.advance(0.2)
    assert waiting.result.queue == "later"
    assert len(world.broker.peers) == 2, "the link was not thrown away"
    tags = [method.consumer_tag for _, method in peer.received if getattr(method, "name", "") == "basic.consume"]
    assert tags.count("c") <= 2
    peer.deliver(channel.result.number, b"hello", consumer_tag="c", delivery_tag=1)
    world.settle()
    assert [message.body for message in got] == [b"hello"]
    assert channel.result.is_open


def test_24_a_child_process_does_not_connect_again() -> None:
    with SocketBroker() as broker:
        report = forking(
            "SelectReactor",
            """
            done, channel = Done(), Done()
            connection = cpspika.connect(url, reactor=reactor, on_done=done, heartbeat=0, recovery=True)
            run_until(reactor, lambda: not done.pending)
            connection.channel(on_done=channel)
            run_until(reactor, lambda: not channel.pending)
            channel = channel.result

            def body():
                def ask(operation, *args):
                    done = Done()
                    operation(*args, on_done=done)
                    run_until(reactor, lambda: not done.pending)
                    if done.calls[0][0] is not None:
                        raise done.calls[0][0]

                report = {
                    "channel()": told(lambda: connection.channel()),
                    "declare": told(lambda: channel.queue_declare("q")),
                    "declare(on_done)": told(lambda: ask(channel.queue_declare, "q")),
                    "publish": told(lambda: channel.basic_publish(body=b"from the child")),
                    "is_open": [connection.is_open, channel.is_open],
                }
                return report

            report = in_child(body)
            done = Done()
            channel.queue_declare("mine", on_done=done)
            run_until(reactor, lambda: not done.pending)
            report["parent"] = done.result.queue
            connection.abort()
            print(json.dumps(report))
            """,
            broker,
        )
        assert report.pop("parent") == "mine"
        assert report.pop("is_open") == [False, False]
        for what, (kind, text) in report.items():
            assert kind == "ConnectionForked", f"{what}: {kind} {text}"
        assert len(broker.peers) == 1


@pytest.mark.parametrize("work", ["publish", "ack", None])
def test_a_transaction_that_the_loss_breaks(work: str | None) -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel)
    channel.basic_publish("", "q", "first")
    world.settle()
    assert world.ask(channel.tx_select).pending
    world.settle()
    got = consumed(world, channel)
    if work == "publish":
        channel.basic_publish("", "q", "lost")
    elif work == "ack":
        got[0].ack()
    world.settle()
    commit = world.ask(channel.tx_commit)
    world.cut()
    again = world.ask(channel.tx_commit)
    world.restored()
    if work is None:
        assert commit.result is None
        assert again.result is None
        return
    for done in (commit, again, world.ask(channel.basic_publish, "", "q", "refused")):
        world.settle()
        assert isinstance(done.error, cpspika.OutcomeUnknown)
    assert world.connection.is_open
    rollback = world.ask(channel.tx_rollback)
    world.settle()
    assert rollback.result is None
    channel.basic_publish("", "q", "second")
    commit = world.ask(channel.tx_commit)
    world.settle()
    assert commit.result is None
    assert [message.body for message in got][-1] == b"second"


def test_a_stale_ack_does_not_break_a_transaction() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel)
    channel.basic_publish("", "q", "first")
    channel.tx_select()
    world.settle()
    got = consumed(world, channel)
    world.cut()
    world.restored()
    got[0].ack()
    world.cut()
    world.restored(2)
    commit = world.ask(channel.tx_commit)
    world.settle()
    assert commit.result is None


@pytest.mark.parametrize("no_ack", [False, True])
def test_a_get_in_flight(no_ack: bool) -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel)
    channel.basic_publish("", "q", "hello")
    world.settle()
    got = world.ask(channel.basic_get, "q", no_ack=no_ack)
    world.cut()
    world.restored()
    world.settle()
    if no_ack:
        assert isinstance(got.error, cpspika.OutcomeUnknown)
    else:
        assert got.result.body == b"hello"
        got.result.ack()
        world.settle()
        world.cut()
        world.restored(2)
        assert world.bodies("q") == []
    assert channel.is_open


@pytest.mark.parametrize("operation", ["queue_purge", "queue_delete", "exchange_delete"])
def test_what_would_destroy_what_is_newer_is_not_asked_again(operation: str) -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel, "x")
    world.ask(channel.exchange_declare, "x", "direct")
    world.settle()
    done = world.ask(getattr(channel, operation), "x")
    world.cut()
    world.restored()
    assert isinstance(done.error, cpspika.OutcomeUnknown)
    assert not isinstance(done.error, (cpspika.ConnectionClosed, cpspika.ChannelClosed))
    world.down()
    world.cut()
    waiting = world.ask(getattr(channel, operation), "x")
    world.up()
    world.until(lambda: not waiting.pending, "the reply")
    assert waiting.calls[0][0] is None


def test_without_recover_the_end_of_the_channel_alone_is_the_consumers_end() -> None:
    world = RecoveryWorld()
    channel, other = world.channel(), world.channel()
    declared(world, channel)
    cancelled: list[str] = []
    consumed(world, channel, on_cancel=cancelled.append, consumer_tag="c", recover=False)
    consumed(world, other, on_cancel=cancelled.append, consumer_tag="d", recover=False)
    wrong = world.ask(channel.queue_declare, "missing", passive=True)
    world.settle()
    assert isinstance(wrong.error, cpspika.NotFound)
    assert cancelled == ["c"]
    assert not channel.has_consumers
    assert [consumer.tag for consumer in world.broker.queues["q"].consumers] == ["d"]


def test_an_ack_with_multiple_settles_nothing_of_another_opening() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel)
    got = consumed(world, channel)
    for body in ("one", "two", "three"):
        channel.basic_publish("", "q", body)
    world.settle()
    old = got[2].delivery_tag
    world.cut()
    world.restored()
    world.until(lambda: len(got) == 6, "all again")
    for settle in (channel.basic_ack, channel.basic_nack):
        done = world.ask(settle, old, multiple=True)
        world.settle()
        assert isinstance(done.error, cpspika.StaleDelivery)
    assert world.broker.queues["q"].unacknowledged == 3
    channel.basic_ack(got[4].delivery_tag, multiple=True)
    world.settle()
    assert world.broker.queues["q"].unacknowledged == 1
    future = got[5].delivery_tag + (1 << 44)
    done = world.ask(channel.basic_ack, future)
    world.settle()
    assert isinstance(done.error, cpspika.StaleDelivery)


def test_an_on_ready_that_raises_at_the_first_opening() -> None:
    world = RecoveryWorld()
    done = Done("channel")
    channel = world.connection.channel(on_ready=lambda view: 1 / 0, on_done=done)
    world.settle()
    assert isinstance(done.error, cpspika.ChannelClosed)
    assert isinstance(done.error.__cause__, ZeroDivisionError)
    assert not channel.is_open
    assert world.connection.is_open
    world.cut()
    world.restored()


def test_a_link_that_is_lost_amid_the_first_on_ready_has_it_run_again() -> None:
    """Its operations fail with the link. That is the link's end, and no refusal of the program's."""
    world = RecoveryWorld()
    done, views = Done("channel"), []

    def setup(view: Any) -> None:
        views.append(view)
        view.queue_declare("q")

    channel = world.connection.channel(on_ready=setup, on_done=done)
    world.step_until(lambda: views, "the first on_ready")
    world.cut()
    world.restored()
    assert done.result is channel
    assert len(views) == 2
    assert channel.is_open


@pytest.mark.parametrize("handled", [False, True])
def test_an_on_ready_that_raises_from_now_on_is_told(handled: bool) -> None:
    """Also where no operation of the channel waits: a consumer would stay idle, and nobody know why."""
    world = RecoveryWorld()
    calls: list[bool] = []
    told: list[bool] = []

    def setup(view: Any) -> None:
        calls.append(True)
        if len(calls) > 1:
            raise KeyError("the second time")

    channel = world.channel(on_ready=setup)
    if handled:
        channel.add_state_change_handler(lambda _, is_open: told.append(is_open))
    declared(world, channel, "q")
    consumed(world, channel, "q")
    world.cut()
    world.until(lambda: not channel.is_open, "the end of the channel")
    world.settle()
    assert world.kinds().count("channel_failed") == 1
    event = next(event for event in world.events if event.kind == "channel_failed")
    assert event.channel is channel
    assert isinstance(event.error.__cause__, KeyError)
    assert told == ([False] if handled else [])
    assert [type(error.__cause__) for error in world.errors] == ([] if handled else [KeyError])


def test_an_on_ready_that_raises_later_and_then_not() -> None:
    world = RecoveryWorld()
    calls: list[Any] = []

    def setup(view: Any) -> None:
        calls.append(view)
        if len(calls) in (2, 3):
            raise ValueError("not now")
        view.queue_declare("q")

    channel = world.channel(on_ready=setup)
    done = world.ask(channel.queue_declare, "behind")
    world.cut()
    world.restored()
    world.until(lambda: not done.pending, "what waits")
    assert len(calls) == 4
    assert done.result.queue == "behind"
    assert channel.is_open
    lost = [event for event in world.events if event.channel is channel]
    assert [type(event.error.__cause__) for event in lost] == [ValueError, ValueError]


def test_an_operation_of_a_view_fails_with_its_opening() -> None:
    world = RecoveryWorld()
    views: list[Any] = []
    world.channel(on_ready=views.append)
    world.cut()
    world.restored()
    done = world.ask(views[0].queue_declare, "q")
    world.settle()
    assert isinstance(done.error, cpspika.AMQPError)
    assert "q" not in world.broker.queues
    assert len(views) == 2


def test_a_channel_that_is_closed_while_things_wait() -> None:
    world = RecoveryWorld()
    channel = world.confirming()
    log: list[Any] = []
    channel.add_state_change_handler(lambda channel, is_open: log.append("state"))
    sent = Done("sent", log)
    channel.basic_publish("", "q", "sent", on_done=sent)
    world.down()
    world.cut()
    for name in ("one", "two"):
        channel.queue_declare(name, on_done=Done(name, log))
    closed = Done("closed", log)
    channel.close(on_done=closed)
    assert log == []
    refused = world.ask(channel.queue_declare, "three")
    world.settle()
    assert isinstance(refused.error, cpspika.ChannelClosed)
    world.up()
    world.until(lambda: not closed.pending, "the close")
    assert [each if isinstance(each, str) else each[0] for each in log] == ["one", "two", "sent", "closed", "state"]
    assert isinstance(sent.error, cpspika.DeliveryUnknown)  # the close came before the confirm
    assert not world.session().channels


def test_give_up_after() -> None:
    world = RecoveryWorld(give_up_after=10.0)
    channel = world.channel()
    world.down()
    world.cut()
    world.advance(5)
    world.up()
    world.restored()
    world.down()
    world.cut()
    waiting = world.ask(channel.queue_declare, "q")
    world.advance(9.9)
    assert world.closed == []
    world.advance(0.2)
    assert isinstance(waiting.error, cpspika.ConnectionLost | cpspika.ConnectionClosed)
    assert world.kinds()[-1] == "gave_up"
    assert len(world.closed) == 1
    world.advance(100)
    assert not world.reactor._has_work()


def test_many_operations_expire_in_order_and_those_asked_later_do_not() -> None:
    world = RecoveryWorld(operation_timeout=5.0)
    channel = world.channel()
    world.down()
    world.cut()
    log: list[Any] = []
    for number in range(1000):
        channel.queue_declare(f"q{number}", on_done=Done(number, log))
    world.advance(4)
    late = world.ask(channel.queue_declare, "late")
    world.advance(1.5)
    assert [each[0] for each in log] == list(range(1000))
    assert all(isinstance(each[1], cpspika.OperationTimeout) for each in log)
    assert late.pending
    world.up()
    world.until(lambda: not late.pending, "the last one")
    assert late.result.queue == "late"
    assert "q0" not in world.broker.queues


def test_one_error_tells_of_all_publishes_that_nobody_was_told_of() -> None:
    world = RecoveryWorld(operation_timeout=5.0)
    channel = world.channel()
    world.down()
    world.cut()
    for number in range(10):
        channel.basic_publish("", "q", f"{number}")
    world.advance(6)
    [error] = world.errors
    assert isinstance(error, cpspika.OperationTimeout)
    assert "10 publishes were lost" in str(error)
    assert world.connection._buffer.size == 0


def test_a_publish_in_a_transaction_that_is_refused_was_surely_not_sent() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    channel.tx_select()
    world.settle()
    world.broker.flow(False)
    world.settle()
    done = world.ask(channel.basic_publish, "", "q", "refused")
    world.settle()
    assert isinstance(done.error, cpspika.ContentTransmissionForbidden)
