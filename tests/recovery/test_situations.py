"""The situations that the page on recovery promises, each by its number there."""

from __future__ import annotations

from typing import Any

import pytest

import cpspika
from cpspika.broker import session
from tests.support.recovering import RecoveryWorld
from tests.support.scripted import Done


def consumed(world: RecoveryWorld, channel: Any, queue: str = "q", **options: Any) -> list[cpspika.Message]:
    """Messages of a consumer that doesn't acknowledge by itself."""
    got: list[cpspika.Message] = []
    started = world.ask(channel.basic_consume, queue, got.append, **options)
    world.settle()
    assert not started.pending
    return got


def declared(world: RecoveryWorld, channel: Any, queue: str = "q", **options: Any) -> None:
    done = world.ask(channel.queue_declare, queue, **options)
    world.settle()
    assert done.result.queue == queue


def tags(messages: list[cpspika.Message]) -> list[bytes]:
    return [message.body for message in messages]


def test_1_a_cut_of_an_idle_link() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    world.cut()
    assert world.connection.is_open
    assert not world.connection.is_connected
    assert channel.is_open
    world.restored()
    assert world.kinds() == ["lost", "retrying", "restored"]
    assert isinstance(world.events[0].error, cpspika.ConnectionLost)
    assert world.connection.is_connected
    assert world.states == [True]
    assert world.closed == []


def test_2_a_cut_amid_a_publish() -> None:
    world = RecoveryWorld()
    channel = world.confirming()
    declared(world, channel)
    done = world.ask(channel.basic_publish, "", "q", "hello")
    world.cut()
    world.until(lambda: not done.pending, "the confirm")
    assert done.result
    assert done.result.times == 1
    world.restored()
    assert world.events[-1].resent == 1
    assert world.bodies("q") == [b"hello"]


def test_3_a_lost_confirm_means_a_copy_and_says_so() -> None:
    world = RecoveryWorld(mark_resent="x-copy")
    channel = world.confirming()
    declared(world, channel)
    done = world.ask(channel.basic_publish, "", "q", "hello", {"headers": {"a": 1}})
    world.connection._unwritten.transport.flush()
    world.connection._unwritten.transport.pause_reading(True)  # the confirm stays in the network
    world.settle()
    assert world.bodies("q") == [b"hello"]
    assert done.pending
    world.cut()
    world.until(lambda: not done.pending, "the confirm")
    assert done.result == cpspika.Resent(1)
    assert world.bodies("q") == [b"hello", b"hello"]
    first, second = world.broker.queues["q"].messages
    assert first.properties.headers == {"a": 1}
    assert second.properties.headers == {"a": 1, "x-copy": 1}


def test_3_a_copy_that_cannot_be_sent_leaves_the_fate_unknown() -> None:
    """With the mark its header is larger than a frame. The first copy is in the queue all the same."""
    world = RecoveryWorld(mark_resent="x-copy")
    channel = world.confirming()
    declared(world, channel)
    as_large_as_a_frame = {"headers": {"a": "x" * 131_039}}
    done = world.ask(channel.basic_publish, "", "q", "hello", as_large_as_a_frame)
    world.connection._unwritten.transport.flush()
    world.connection._unwritten.transport.pause_reading(True)
    world.settle()
    assert world.bodies("q") == [b"hello"]
    world.cut()
    world.until(lambda: not done.pending, "the error")
    assert isinstance(done.error, cpspika.DeliveryUnknown)
    assert isinstance(done.error.__cause__, cpspika.InvalidArgument)
    assert world.bodies("q") == [b"hello"]


def test_4_publishes_without_a_link_are_buffered() -> None:
    world = RecoveryWorld(buffer=1000, buffer_limit=2000)
    channel = world.confirming()
    declared(world, channel)
    world.down()
    world.cut()
    writable: list[bool] = []
    channel.add_writable_handler(lambda channel: writable.append(channel.writable))
    first, second = (world.ask(channel.basic_publish, "", "q", body) for body in (b"x" * 500, b"y" * 500))
    assert not channel.writable
    assert not world.connection.writable
    third, fourth = (world.ask(channel.basic_publish, "", "q", body) for body in (b"z" * 300, b"w" * 800))
    world.settle()
    assert isinstance(fourth.error, cpspika.BufferFull)
    with pytest.raises(cpspika.BufferFull, match="buffer_limit=2000"):
        channel.basic_publish("", "q", b"w" * 800)
    world.up()
    world.until(lambda: not third.pending, "the confirms")
    assert first.result is second.result is third.result is True
    assert tags(world.broker.queues["q"].messages) == [b"x" * 500, b"y" * 500, b"z" * 300]
    assert writable == [True]
    assert channel.writable


def test_4_a_single_message_is_never_too_large_for_the_buffer() -> None:
    world = RecoveryWorld(buffer=1000, buffer_limit=2000)
    channel = world.confirming()
    declared(world, channel)
    world.cut()
    done = world.ask(channel.basic_publish, "", "q", b"x" * 5000)
    world.until(lambda: not done.pending, "the confirm")
    assert done.result is True


def test_4_a_publish_that_waits_too_long_was_surely_not_sent_or_is_unknown() -> None:
    world = RecoveryWorld(operation_timeout=5.0)
    channel = world.confirming()
    declared(world, channel)
    sent = world.ask(channel.basic_publish, "", "q", "sent")
    world.down()
    world.cut()
    unsent = world.ask(channel.basic_publish, "", "q", "unsent")
    world.advance(4.9)
    assert sent.pending
    assert unsent.pending
    world.advance(0.2)
    assert isinstance(unsent.error, cpspika.OperationTimeout)
    assert isinstance(sent.error, cpspika.DeliveryUnknown)
    assert not isinstance(sent.error, (cpspika.ConnectionClosed, cpspika.ChannelClosed))
    assert "in ask" in (sent.error.asked_at or "")
    assert sent.error.method == "basic.publish"
    world.up()
    world.restored()
    assert world.bodies("q") == []


def test_5_a_half_open_link() -> None:
    world = RecoveryWorld(heartbeat=10)
    channel = world.channel()
    declared(world, channel)
    world.deaf()
    world.advance(25)
    assert isinstance(world.events[0].error, cpspika.HeartbeatTimeout)
    world.restored()


def test_6_a_node_that_shuts_down_is_tried_last() -> None:
    world = RecoveryWorld(hosts=("one", "two"))
    assert world.connection.parameters.host == "one"
    world.broker.close_connections(320)
    world.restored()
    assert isinstance(world.events[0].error, cpspika.ConnectionForced)
    assert world.connection.parameters.host == "two"


def test_7_a_broker_that_is_away_for_an_hour() -> None:
    world = RecoveryWorld(operation_timeout=None)
    world.down()
    world.cut()
    world.advance(3600)
    delays = [event.delay for event in world.events if event.kind == "retrying"]
    assert 120 < len(delays) < 1000
    assert max(delays) <= 30
    assert [event.attempt for event in world.events if event.kind == "retrying"][:3] == [1, 2, 3]
    world.up()
    world.restored()


@pytest.mark.parametrize("initial", [False, True])
def test_8_a_refusal_at_the_first_connect(initial: bool) -> None:
    world = RecoveryWorld(connect=False, initial=initial, credentials=cpspika.PlainCredentials("joe", "wrong"))
    world.until(lambda: not world.connected.pending, "the refusal")
    assert isinstance(world.connected.error, cpspika.LoginError)
    world.advance(60)
    assert world.events == []
    assert world.states == []


def test_8_with_initial_the_first_connection_is_tried_again() -> None:
    world = RecoveryWorld(connect=False, listening=False, initial=True)
    world.advance(10)
    assert world.connected.pending
    assert not world.connection.is_open
    world.up()
    world.until(lambda: not world.connected.pending, "the connection")
    assert world.connected.result is world.connection
    assert world.connection.is_open


def test_8_without_it_the_first_failure_ends_the_connection() -> None:
    world = RecoveryWorld(connect=False, listening=False)
    world.settle()
    assert isinstance(world.connected.error, cpspika.ConnectError)
    assert len(world.closed) == 1


def test_9_a_refusal_later_is_tried_again_for_a_while() -> None:
    world = RecoveryWorld()
    world.broker.refuse_logins()
    world.cut()
    world.advance(50)
    assert world.connection.is_open
    assert isinstance(world.events[-1].error, cpspika.LoginError)
    world.broker.refuse_logins(False)
    world.restored()
    world.broker.refuse_logins()
    world.cut()
    world.until(lambda: world.closed, "the end", 300)
    assert world.kinds()[-1] == "gave_up"
    assert isinstance(world.closed[0], cpspika.ConnectionClosed)
    assert isinstance(world.closed[0], cpspika.LoginError)
    assert world.states == [True, False]


def test_10_a_new_secret_replaces_the_old_one_everywhere() -> None:
    world = RecoveryWorld(hosts=("one", "two"))
    done = world.ask(world.connection.update_secret, "renewed")
    world.broker.users["guest"] = "renewed"
    world.settle()
    assert done.result is None
    world.cut()
    world.restored()
    assert "renewed" not in repr(world.connection.parameters)
    done = world.ask(world.connection.update_secret, "again")
    world.down()
    world.cut()
    world.settle()
    assert done.result is None
    world.broker.users["guest"] = "again"
    world.up()
    world.restored(2)


def test_10_a_credentials_class_is_asked_at_each_attempt() -> None:
    class Token:
        mechanism = "PLAIN"
        asked = 0

        def start(self) -> bytes:
            self.asked += 1
            return b"\0guest\0guest"

        def respond(self, challenge: bytes) -> bytes:
            raise AssertionError

    token = Token()
    world = RecoveryWorld(credentials=token)
    world.cut()
    world.restored()
    assert token.asked == 2


def test_11_a_handler_acks_after_the_cut() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel)
    got = consumed(world, channel)
    channel.basic_publish("", "q", "one")
    world.settle()
    world.cut()
    got[0].ack()
    channel.basic_nack(got[0].delivery_tag)
    done = world.ask(channel.basic_reject, got[0].delivery_tag)
    world.settle()
    assert isinstance(done.error, cpspika.StaleDelivery)
    world.restored()
    assert sum(event.stale for event in world.events) == 3
    world.until(lambda: len(got) == 2, "the message again")
    assert got[1].redelivered
    assert got[1].delivery_tag != got[0].delivery_tag
    got[0].ack()  # an ack of another epoch is never sent: its number is another message's now
    channel.basic_ack(got[0].delivery_tag, multiple=True)
    world.settle()
    assert world.broker.queues["q"].unacknowledged == 1
    got[1].ack()
    world.settle()
    world.cut()
    world.restored(2)
    assert len(got) == 2
    assert world.errors == []


def test_11_tag_0_means_what_was_handed_out_in_this_opening() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel)
    got: list[cpspika.Message] = []

    def on_message(message: cpspika.Message) -> None:
        got.append(message)
        if len(got) == 2:
            channel.basic_ack(0, multiple=True)

    for body in ("one", "two", "three"):
        channel.basic_publish("", "q", body)
    world.settle()
    channel.basic_consume("q", on_message)
    world.settle()
    assert len(got) == 3
    world.cut()
    channel.basic_ack(0, multiple=True)
    world.restored()
    channel.basic_ack(0, multiple=True)
    world.until(lambda: len(got) == 4, "the message that was not handed out at the ack")
    assert got[3].body == b"three"


def test_12_prefetched_messages_are_dropped_and_come_again() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel)
    for body in ("one", "two", "three"):
        channel.basic_publish("", "q", body)
    world.settle()
    got: list[bytes] = []

    def on_message(message: cpspika.Message) -> None:
        got.append(message.body)
        if len(got) == 1:
            world.cut()
        else:
            message.ack()

    channel.basic_consume("q", on_message)
    world.until(lambda: len(got) >= 4, "all again")
    world.restored()
    assert got[-3:] == [b"one", b"two", b"three"]
    world.cut()
    world.restored(2)
    assert world.bodies("q") == []


def test_13_a_channel_closed_for_an_operation_of_the_program() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel)
    got = consumed(world, channel)
    wrong = world.ask(channel.queue_declare, "q", durable=True)
    behind = world.ask(channel.queue_declare, "r")
    world.settle()
    assert isinstance(wrong.error, cpspika.PreconditionFailed)
    assert behind.result.queue == "r"
    assert channel.is_open
    channel.basic_publish("", "q", "still here")
    world.settle()
    assert tags(got) == [b"still here"]
    [lost] = world.events
    assert lost.kind == "lost"
    assert lost.channel is channel
    assert isinstance(lost.error, cpspika.PreconditionFailed)


def test_14_an_acknowledgement_timeout() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel)
    got = consumed(world, channel)
    channel.basic_publish("", "q", "slow")
    world.settle()
    world.broker.close_channels(406, "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out")
    world.settle()
    assert world.kinds() == ["lost"]
    assert world.events[0].channel is channel
    assert [message.redelivered for message in got] == [False, True]
    got[1].ack()
    world.settle()
    assert world.errors == []


def test_14_a_consumer_that_rabbitmq_4_3_cancels_for_a_late_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    announced = {**session.PROPERTIES, "product": "RabbitMQ", "version": "4.3.0"}
    monkeypatch.setattr(session, "PROPERTIES", announced)
    world = RecoveryWorld(broker={"like": "4.3", "pretend": "quorum", "consumer_timeout": 100.0})
    channel = world.channel()
    declared(world, channel, durable=True, arguments={"x-queue-type": "quorum"})
    cancelled: list[str] = []
    got = consumed(world, channel, consumer_tag="c", on_cancel=cancelled.append)
    channel.basic_publish("", "q", "slow")
    world.settle()
    world.advance(110.0)
    world.until(lambda: len(got) == 2, "the message again")
    assert [message.redelivered for message in got] == [False, True]
    got[1].ack()
    world.settle()
    assert world.broker.queues["q"].consumer_count == 1
    assert world.broker.queues["q"].unacknowledged == 0
    assert world.kinds() == []
    assert cancelled == []
    assert world.errors == []


def test_15_a_publish_to_a_missing_exchange_among_many() -> None:
    world = RecoveryWorld()
    channel = world.confirming()
    declared(world, channel)
    other = world.confirming()
    before = [world.ask(channel.basic_publish, "", "q", f"before {n}") for n in range(5)]
    wrong = world.ask(channel.basic_publish, "nowhere", "q", "wrong")
    behind = [world.ask(channel.basic_publish, "", "q", f"behind {n}") for n in range(5)]
    beside = [world.ask(other.basic_publish, "", "q", f"beside {n}") for n in range(5)]
    world.until(lambda: not any(done.pending for done in [*before, wrong, *behind, *beside]), "all fates")
    assert isinstance(wrong.error, cpspika.NotFound)
    assert all(done.result for done in [*before, *behind, *beside])
    bodies = world.bodies("q")
    for kind in ("before", "behind", "beside"):
        ours = [body for body in bodies if body.startswith(kind.encode())]
        assert sorted(set(ours), key=ours.index) == [f"{kind} {n}".encode() for n in range(5)]


def test_16_a_consumer_that_the_broker_cancels_starts_again() -> None:
    world = RecoveryWorld()
    channel, taker = world.channel(), world.taker()
    declared(world, channel)
    cancelled: list[str] = []
    got = consumed(world, channel, on_cancel=cancelled.append)
    taker.queue_delete("q")
    world.settle()
    taker.queue_declare("q")
    world.until(lambda: world.broker.queues["q"].consumers, "the consumer")
    taker.basic_publish("", "q", "again")
    world.settle()
    assert tags(got) == [b"again"]
    assert cancelled == []


def test_16_a_link_lost_while_a_consumer_is_looked_after() -> None:
    world = RecoveryWorld()
    channel, taker = world.channel(), world.taker()
    declared(world, channel)
    cancelled: list[str] = []
    got = consumed(world, channel, on_cancel=cancelled.append)
    taker.queue_delete("q")
    world.settle()
    world.cut()  # before the queue is back
    world.restored()
    world.until(lambda: world.broker.queues["q"].consumers, "the consumer")
    world.taker().basic_publish("", "q", "again")
    world.settle()
    assert tags(got) == [b"again"]
    assert cancelled == []


def test_16_a_queue_that_stays_away() -> None:
    world = RecoveryWorld()
    channel, taker = world.channel(), world.taker()
    cancelled: list[str] = []
    for queue in ("q", "r"):
        declared(world, channel, queue)
    consumed(world, channel, on_cancel=cancelled.append, consumer_tag="c")
    consumed(world, channel, "r", consumer_tag="silent")
    taker.queue_delete("q")
    taker.queue_delete("r")
    world.advance(1.5)
    assert cancelled == []
    assert world.errors == []
    world.advance(3)
    assert cancelled == ["c"]
    [error] = world.errors
    assert isinstance(error, cpspika.ConsumerCancelled)
    assert "silent" in str(error)
    assert world.kinds() == ["consumer_failed", "consumer_failed"]
    assert not channel.has_consumers


def test_16_without_recover_a_loss_is_the_consumers_end() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel)
    cancelled: list[str] = []
    consumed(world, channel, on_cancel=cancelled.append, consumer_tag="c", recover=False)
    world.cut()
    world.restored()
    assert cancelled == ["c"]
    assert not channel.has_consumers
    assert not world.broker.queues["q"].consumers


def test_17_a_declaration_that_conflicts() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel, "q")
    declared(world, channel, "r")
    cancelled: list[str] = []
    consumed(world, channel, "q", on_cancel=cancelled.append, consumer_tag="c")
    got = consumed(world, channel, "r")
    world.down()
    world.cut()
    del world.broker.queues["q"]
    taker = None
    world.up()
    done = Done("other")
    cpspika.connect("amqp://broker", reactor=world.reactor, on_done=done, heartbeat=0)
    while done.pending:
        world.reactor.run_once(0)
    taker = done.result.channel()
    taker.queue_declare("q", durable=True)
    world.restored()
    assert world.kinds() == ["lost", "retrying", "entity_failed", "consumer_failed", "restored"]
    failed = world.events[2]
    assert failed.entity == ("queue", "q")
    assert isinstance(failed.error, cpspika.PreconditionFailed)
    assert cancelled == ["c"]
    channel.basic_publish("", "r", "the rest goes on")
    world.settle()
    assert tags(got) == [b"the rest goes on"]


def test_18_an_exclusive_queue_locked_by_the_dead_link() -> None:
    world = RecoveryWorld(heartbeat=10)
    channel, other = world.channel(), world.channel()
    declared(world, channel, "mine", exclusive=True)
    declared(world, other, "q")
    got = consumed(world, channel, "mine")
    beside = consumed(world, other, "q")
    dead = world.session()
    world.connection._unwritten.transport.pause_reading(True)
    world.connection._unwritten.transport.lost(ConnectionResetError("cut at this end alone"))
    world.until(lambda: "retrying" in world.kinds() and world.connection.is_connected, "a new link")
    waiting = world.ask(channel.queue_declare, "later")
    other.basic_publish("", "q", "the other channel goes on")
    world.until(lambda: beside, "the other channel")
    assert waiting.pending
    assert "restored" not in world.kinds()
    dead.drop_now()
    world.restored()
    assert waiting.result.queue == "later"
    channel.basic_publish("", "mine", "hello")
    world.settle()
    assert tags(got) == [b"hello"]


def test_18_a_lock_that_stays() -> None:
    world = RecoveryWorld(heartbeat=10)
    channel = world.channel()
    declared(world, channel, "mine", exclusive=True)
    cancelled: list[str] = []
    consumed(world, channel, "mine", on_cancel=cancelled.append)
    world.connection._unwritten.transport.lost(ConnectionResetError("cut at this end alone"))
    session = world.session()
    session._timers.cancel("heartbeat")  # the broker doesn't notice
    world.until(lambda: "restored" in world.kinds(), "the end of waiting", 120)
    assert world.kinds()[-3:] == ["entity_failed", "consumer_failed", "restored"]
    assert len(cancelled) == 1


def test_18_an_exclusive_consumer_that_the_dead_link_still_has() -> None:
    world = RecoveryWorld(heartbeat=10)
    channel = world.channel()
    declared(world, channel, "q")
    got = consumed(world, channel, "q", exclusive=True)
    dead = world.session()
    world.connection._unwritten.transport.lost(ConnectionResetError("cut at this end alone"))
    world.until(lambda: world.connection.is_connected and "lost" in world.kinds(), "a new link")
    world.advance(1)
    dead.drop_now()
    world.restored()
    channel.basic_publish("", "q", "hello")
    world.settle()
    assert tags(got) == [b"hello"]
    assert len(world.broker.queues["q"].consumers) == 1


def test_19_a_consumer_that_is_not_answered() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel)
    got = consumed(world, channel)
    world.cut()
    queue = world.broker.queues["q"]
    unanswered = queue.add_consumer if hasattr(queue, "add_consumer") else None
    assert unanswered is not None or queue is not None
    world.restored()
    opening = channel._opening
    channel._discard_opening(cpspika.ChannelClosed("not answered"), opening)
    channel.basic_publish("", "q", "hello")
    world.until(lambda: got, "the message on the next opening")
    assert channel._opening is not opening


def test_20_lost_again_while_restoring() -> None:
    world = RecoveryWorld()
    channel = world.confirming()
    declared(world, channel)
    got = consumed(world, channel)
    done = world.ask(channel.basic_publish, "", "q", "hello")
    world.cut()
    for _ in range(3):
        world.step_until(lambda: world.connection.is_connected, "a link")
        world.cut()
    world.until(lambda: not done.pending, "the confirm")
    world.restored()
    assert done.result
    assert got[-1].body == b"hello"
    assert world.kinds().count("restored") == 1
    assert world.kinds().count("lost") == 4


def test_20_the_back_off_begins_anew_when_a_link_has_held() -> None:
    world = RecoveryWorld()
    world.down()
    world.cut()
    world.advance(100)
    world.up()
    world.restored()
    world.advance(6)
    world.cut()
    world.settle()
    assert world.events[-1].kind == "retrying"
    assert world.events[-1].delay <= 0.1


def test_21_close_without_a_link() -> None:
    world = RecoveryWorld()
    channel = world.confirming()
    declared(world, channel)
    log: list[Any] = []
    channel.add_state_change_handler(lambda channel, is_open: log.append("channel"))
    world.connection.add_state_change_handler(lambda connection, is_open: log.append("connection"))
    world.down()
    world.cut()
    for number in range(3):
        channel.queue_declare(f"q{number}", on_done=Done(f"declare {number}", log))
    world.connection.close(on_done=Done("close", log))
    world.settle()
    assert [each if isinstance(each, str) else each[0] for each in log] == [
        "declare 0", "declare 1", "declare 2", "channel", "close", "connection",
    ]  # fmt: skip
    assert all(isinstance(each[1], cpspika.ConnectionClosed) for each in log[:3])
    assert log[4][1] is None
    assert world.closed == [None]
    world.up()
    world.advance(100)
    assert world.broker.connections == []
    assert not world.reactor._has_work()


def test_21_close_tells_of_publishes_that_nobody_was_told_of() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    world.down()
    world.cut()
    channel.basic_publish("", "q", "one")
    channel.basic_publish("", "q", "two")
    done = world.ask(world.connection.close)
    world.settle()
    assert isinstance(done.error, cpspika.ConnectionClosed)
    assert "2 publishes were lost" in str(done.error)


def test_22_blocked_when_lost() -> None:
    world = RecoveryWorld()
    told: list[tuple[bool, str]] = []
    world.connection.add_blocked_handler(lambda connection, blocked, reason: told.append((blocked, reason)))
    world.broker.block("by hand")
    world.settle()
    assert told == [(True, "by hand")]
    assert world.connection.is_blocked
    world.broker.blocked = None
    world.cut()
    world.restored()
    assert told == [(True, "by hand"), (False, "")]
    assert not world.connection.is_blocked


def test_22_flow_off_when_lost() -> None:
    world = RecoveryWorld()
    channel = world.confirming()
    declared(world, channel)
    flow: list[bool] = []
    channel.add_flow_change_handler(lambda channel, permitted: flow.append(permitted))
    world.broker.flow(False)
    world.settle()
    held = world.ask(channel.basic_publish, "", "q", "held", block_on_flow_control=True)
    refused = world.ask(channel.basic_publish, "", "q", "refused")
    world.settle()
    assert isinstance(refused.error, cpspika.ContentTransmissionForbidden)
    assert held.pending
    world.cut()
    world.until(lambda: not held.pending, "the confirm")
    assert held.result is True
    assert flow == [False, True]
    assert world.bodies("q") == [b"held"]


@pytest.mark.parametrize("lost", [False, True])
def test_22_a_commit_behind_a_held_publish(lost: bool) -> None:
    """Without a loss it commits what was held; a loss drops both, and the program is told."""
    world = RecoveryWorld()
    channel = world.channel()
    declared(world, channel)
    channel.tx_select()
    world.broker.flow(False)
    world.settle()
    held = world.ask(channel.basic_publish, "", "q", "held", block_on_flow_control=True)
    commit = world.ask(channel.tx_commit)
    behind = world.ask(channel.basic_publish, "", "q", "next", block_on_flow_control=True)
    world.settle()
    assert held.pending
    assert commit.pending
    assert not world.bodies("q")
    if lost:
        world.cut()
        world.restored()
        for done in (held, commit, behind):
            assert isinstance(done.error, cpspika.OutcomeUnknown), done
        assert world.ask(channel.tx_rollback).pending
        world.settle()
        again = world.ask(channel.basic_publish, "", "q", "again")
        world.settle()
        assert again.result is True
        assert world.ask(channel.tx_commit).pending
        world.settle()
        assert world.bodies("q") == [b"again"]
    else:
        world.broker.flow(True)
        world.settle()
        assert (held.result, commit.result, behind.result) == (True, None, True)
        assert world.bodies("q") == [b"held"], "the commit is of what was asked for before it"


def test_23_a_channel_that_is_closed_again_and_again() -> None:
    world = RecoveryWorld()
    fails: list[int] = []

    def setup(view: Any) -> None:
        fails.append(1)
        if len(fails) > 1:
            view.queue_declare("missing", passive=True)

    channel = world.channel(on_ready=setup)
    states: list[bool] = []
    channel.add_state_change_handler(lambda channel, is_open: states.append(is_open))
    other = world.channel()
    world.broker.close_channels(406, "by hand")
    world.settle()
    assert not channel.is_open
    assert isinstance(channel.close_reason, cpspika.NotFound)
    assert len(fails) <= 6
    assert states == [False]
    assert world.connection.is_open
    assert other.is_open
    done = world.ask(channel.queue_declare, "q")
    world.settle()
    assert isinstance(done.error, cpspika.ChannelClosed)
