"""Callbacks of the user that raise (clause 6 of the law of continuations), or that call back in."""

from __future__ import annotations

from typing import Any

import pytest

import cpspika
from cpspika import errors
from tests.support.endings import ENDS, Boom
from tests.support.scripted import DELIVERY, Done, World, content, opened, run_until

# --- callbacks that raise ---------------------------------------------------------------------------------------------


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
    assert isinstance(later.error, cpspika.ConnectionClosed)


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


# --- handlers ---------------------------------------------------------------------------------------------------------


def test_a_handler_that_was_removed_is_not_called_and_the_others_are() -> None:
    world = opened()
    channel, log = world.channel(), []
    for register in (channel.add_state_change_handler, world.connection.add_state_change_handler):
        remove = register(noting(log, "removed"))
        register(noting(log, "kept"))
        remove()
        remove()  # the second time it does nothing
    channel.close()
    world.settle()
    world.peer.expect("channel.close")
    world.connection.close()
    world.settle()
    assert log == ["kept", "kept"]


def test_a_handler_that_was_registered_twice_is_removed_once() -> None:
    world = opened()
    channel, log = world.channel(), []
    handler = noting(log, "called")
    remove, _ = channel.add_state_change_handler(handler), channel.add_state_change_handler(handler)
    remove()
    remove()
    channel.close()
    world.settle()
    assert log == ["called"]


def test_a_handler_that_is_no_callable_is_refused_at_the_call() -> None:
    world = opened()
    channel = world.channel()
    for register in (
        *(channel.add_state_change_handler, channel.add_flow_change_handler, channel.add_return_handler),
        *(channel.add_writable_handler, world.connection.add_state_change_handler),
        *(world.connection.add_blocked_handler, channel.addStateChangeHandler, channel.addFlowChangeHandler),
    ):
        with pytest.raises(cpspika.InvalidArgumentType, match="handler takes a callable, not str"):
            register("nothing to call")


def test_an_on_ready_that_ctrl_c_ends_closes_its_channel() -> None:
    """It may wait, as in a synchronous facade, and Ctrl-C or the end of a greenlet comes there."""

    def on_ready(channel: Any) -> None:
        raise KeyboardInterrupt

    world, done = opened(), Done("channel")
    world.connection.channel(on_ready, on_done=done)
    world.peer.open_channel()
    with pytest.raises(KeyboardInterrupt):
        world.settle()
    world.settle()
    assert isinstance(done.error, cpspika.ChannelClosed)
    assert not world.connection._channels
