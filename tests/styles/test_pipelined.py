"""`channel.pipelined()`: publishes that do not wait for their confirms one by one."""

# ruff: noqa: PT012 (a block under test has several statements, and raises at its end)

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import cpspika
from cpspika import (
    AsyncoreConnection,
    BlockingConnection,
    ChannelClosed,
    ConnectionClosed,
    ConnectionLost,
    DeliveryUnknown,
    InvalidArgument,
    InvalidArgumentType,
    LocalError,
    MessageNacked,
    MessageReturned,
    NotFound,
    OperationTimeout,
    PublishesFailed,
    SelectConnection,
)
from cpspika.threads import ThreadedConnection
from tests.support.scripted import SocketBroker
from tests.support.waiting import DEADLINE, until

KINDS: list[Any] = [SelectConnection, AsyncoreConnection, BlockingConnection, ThreadedConnection]
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """A wait without end must not hold up the whole run."""

    def bark(*_: object) -> None:
        pytest.fail("it hangs")

    signal.signal(signal.SIGALRM, bark)
    signal.alarm(20)
    yield
    signal.alarm(0)


# --- on brokers -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=KINDS)
def connection(request: pytest.FixtureRequest, broker: Any) -> Iterator[Any]:
    with request.param(broker.url("0-9-1"), timeout=20) as opened:
        yield opened


@pytest.fixture
def ch(connection: Any) -> Any:
    channel = connection.channel()
    channel.confirm_select()
    return channel


@pytest.fixture
def queue(ch: Any) -> str:
    name: str = ch.queue_declare(exclusive=True).queue
    return name


def bodies_in(ch: Any, queue: str) -> list[bytes]:
    bodies = []
    while (message := ch.basic_get(queue, no_ack=True)) is not None:
        bodies.append(message.body)
    return bodies


@pytest.mark.parametrize("window", [1, 7, 1000])
def test_all_are_confirmed_when_the_block_ends(ch: Any, queue: str, window: int) -> None:
    with ch.pipelined(window) as block:
        for number in range(100):
            assert ch.basic_publish("", queue, str(number)) is True
            assert len(block.unconfirmed) <= window
    assert block.unconfirmed == []
    assert bodies_in(ch, queue) == [b"%d" % number for number in range(100)]


def test_the_failures_stand_under_the_numbers_of_their_publishes(ch: Any, queue: str) -> None:
    nowhere = {1, 4, 9}
    with pytest.raises(PublishesFailed) as raised, ch.pipelined():
        for number in range(10):
            ch.basic_publish("", "nowhere" if number in nowhere else queue, str(number), mandatory=True)
    assert [index for index, _ in raised.value.failures] == sorted(nowhere)
    assert all(isinstance(error, MessageReturned) for _, error in raised.value.failures)
    assert [error.message.body for _, error in raised.value.failures] == [b"1", b"4", b"9"]
    assert "3 of the block's publishes failed" in str(raised.value)
    assert raised.value.__cause__ is raised.value.failures[0][1]
    assert not isinstance(raised.value, (ConnectionClosed, ChannelClosed))
    assert len(bodies_in(ch, queue)) == 7  # the channel goes on


def test_a_full_queue_refuses_some(ch: Any) -> None:
    queue = ch.queue_declare(exclusive=True, arguments={"x-max-length": 3, "x-overflow": "reject-publish"}).queue
    with pytest.raises(PublishesFailed) as raised, ch.pipelined():
        for number in range(10):
            ch.basic_publish("", queue, str(number))
    assert [index for index, _ in raised.value.failures] == list(range(3, 10))
    assert {type(error) for _, error in raised.value.failures} == {MessageNacked}


def test_other_operations_work_inside(ch: Any, queue: str) -> None:
    with ch.pipelined() as block:
        ch.basic_publish("", queue, "0")
        message = None
        while message is None:  # RabbitMQ may route the message a moment later than it answers the get
            message = ch.basic_get(queue)
        message.ack()
        for number in range(3):
            ch.basic_publish("", queue, str(number))
        ch.queue_declare(queue, passive=True)
    assert block.unconfirmed == []
    assert bodies_in(ch, queue) == [b"0", b"1", b"2"]


def test_a_block_in_a_block_has_its_own_numbers(ch: Any, queue: str) -> None:
    with pytest.raises(PublishesFailed) as outer, ch.pipelined():
        ch.basic_publish("", queue, "0")
        with pytest.raises(PublishesFailed) as inner, ch.pipelined():
            ch.basic_publish("", "nowhere", "1", mandatory=True)
        ch.basic_publish("", queue, "2")
        ch.basic_publish("", "nowhere", "3", mandatory=True)
    assert [index for index, _ in inner.value.failures] == [0]
    assert [index for index, _ in outer.value.failures] == [2]
    with pytest.raises(MessageReturned):
        ch.basic_publish("", "nowhere", "4", mandatory=True)  # waits by itself again


def test_after_an_exception_of_its_own_the_block_waits(ch: Any, queue: str) -> None:
    with pytest.raises(ZeroDivisionError) as raised, ch.pipelined() as block:
        ch.basic_publish("", queue, "0")
        ch.basic_publish("", "nowhere", "1", mandatory=True)
        raise ZeroDivisionError
    assert block.unconfirmed == []
    failed = raised.value.__context__
    assert isinstance(failed, PublishesFailed)
    assert [index for index, _ in failed.failures] == [1]


def test_the_failures_stand_behind_the_context_that_an_exception_has(ch: Any) -> None:
    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise ZeroDivisionError from None

    with pytest.raises(ZeroDivisionError) as raised, ch.pipelined():
        ch.basic_publish("", "nowhere", mandatory=True)
        fail()
    assert isinstance(raised.value.__context__, KeyError)
    assert isinstance(raised.value.__context__.__context__, PublishesFailed)


def test_a_generator_with_a_block_may_be_left(ch: Any, queue: str) -> None:
    blocks = []

    def numbers() -> Iterator[int]:
        with ch.pipelined() as block:
            blocks.append(block)
            for number in range(10):
                ch.basic_publish("", queue, str(number))
                yield number

    first, second = numbers(), numbers()
    next(first), next(second), next(second)
    first.close()  # type: ignore[attr-defined] # not the innermost
    second.close()  # type: ignore[attr-defined]
    assert [block.unconfirmed for block in blocks] == [[], []]
    ch.basic_publish("", queue, "3")
    assert sorted(bodies_in(ch, queue)) == [b"0", b"0", b"1", b"3"]


def test_a_mistake_raises_at_the_call_and_keeps_its_number(ch: Any, queue: str) -> None:
    with pytest.raises(PublishesFailed) as raised, ch.pipelined():
        with pytest.raises(InvalidArgumentType):
            ch.basic_publish("", queue, 5)
        ch.basic_publish("", "nowhere", "1", mandatory=True)
    assert [index for index, _ in raised.value.failures] == [1]


def test_a_closed_channel_fails_what_is_out_and_ends_the_block(connection: Any, ch: Any, queue: str) -> None:
    published = 0
    with pytest.raises(PublishesFailed) as raised, ch.pipelined():
        ch.basic_publish("", queue, "0")
        ch.basic_publish("no-such-exchange", queue, "1")
        while True:  # until the broker's close is here
            published += 1
            assert published < 10**6
            ch.basic_publish("", queue, "2")
    failures = dict(raised.value.failures)
    assert 1 in failures
    assert published + 1 in failures  # the last, which was never sent
    assert isinstance(failures[published + 1], ChannelClosed)
    assert not isinstance(failures[published + 1], DeliveryUnknown)
    assert isinstance(raised.value, ChannelClosed)
    assert not isinstance(raised.value, ConnectionClosed)
    assert connection.is_open


def test_a_wrong_exchange_alone_is_told_its_code(ch: Any) -> None:
    with pytest.raises(NotFound) as raised, ch.pipelined():
        ch.basic_publish("no-such-exchange", "", "0")
    assert isinstance(raised.value, PublishesFailed)
    assert isinstance(raised.value.failures[0][1], NotFound)
    twin = pickle.loads(pickle.dumps(raised.value))
    assert type(twin) is type(raised.value)
    assert str(twin.failures) == str(raised.value.failures)


def test_another_threads_publish_waits_for_its_own_confirm(ch: Any, queue: str, connection: Any) -> None:
    told: list[Any] = []

    def publish() -> None:
        with getattr(connection, "lock", threading.Lock()):
            try:
                ch.basic_publish("", "nowhere", "other", mandatory=True)
            except MessageReturned as error:
                told.append(error)

    with ch.pipelined():
        ch.basic_publish("", queue, "mine")
        thread = threading.Thread(target=publish)
        thread.start()
        thread.join()
    assert told[0].message.body == b"other"


def test_a_large_backlog_holds_the_publisher_back(ch: Any, queue: str, connection: Any) -> None:
    body = b"x" * 200_000
    with ch.pipelined():
        for _ in range(50):
            ch.basic_publish("", queue, body)
            assert connection.core._unsent <= 2 * 256 * 1024
    assert ch.queue_purge(queue) == 50


def test_a_connection_that_recovers(broker: Any) -> None:
    for kind in (BlockingConnection, ThreadedConnection):
        with kind(broker.url("0-9-1"), timeout=20, recovery=True) as connection:
            ch = connection.channel()
            ch.confirm_select()
            queue = ch.queue_declare(exclusive=True).queue
            with ch.pipelined(10):
                for number in range(100):
                    ch.basic_publish("", queue, str(number))
                    if number == 50:
                        connection.core.reactor.call_soon_threadsafe(connection.core._core.abort)
            assert {b"%d" % number for number in range(51, 100)} <= set(bodies_in(ch, queue))


def confirms_nothing(peer: Any) -> Any:
    """A peer that confirms no publish by itself."""
    peer.when("confirm.select", lambda peer, number, method: peer.send(number, "confirm.select-ok"))
    return peer


# --- mistakes at the call ---------------------------------------------------------------------------------------------


@every_kind
def test_mistakes_at_the_call(kind: Any) -> None:
    with SocketBroker() as broker, kind(broker.url, timeout=DEADLINE) as connection:
        ch = connection.channel()
        with pytest.raises(LocalError, match=r"confirm_select\(\) first"):
            ch.pipelined()
        ch.confirm_select()
        for wrong in (0, -1):
            with pytest.raises(InvalidArgument, match="window takes 1 or more"):
                ch.pipelined(wrong)
        for wrong in ("many", 1.0, True, None):
            with pytest.raises(InvalidArgumentType, match="window takes a number"):
                ch.pipelined(wrong)
        block = ch.pipelined()
        with block:
            pass
        with pytest.raises(LocalError, match="entered before"), block:
            pass
        ch.close()
        with pytest.raises(ChannelClosed):
            ch.pipelined()


# --- against a peer that confirms as it likes -------------------------------------------------------------------------


@pytest.fixture(params=KINDS)
def scripted(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any, Any]]:
    """(connection, confirming channel, peer); the peer confirms nothing by itself."""
    with SocketBroker() as broker:
        connection = request.param(broker.url, timeout=DEADLINE)
        peer = confirms_nothing(broker.peers[0])
        ch = connection.channel()
        ch.confirm_select()
        try:
            yield connection, ch, peer
        finally:
            if connection.is_open:
                connection.close()


def test_a_full_window_waits_for_one_confirm(scripted: Any) -> None:
    """Not for more: the others may stay unconfirmed for long."""
    _, ch, peer = scripted

    def confirm_the_first_at_the_eighth(peer: Any, number: int, message: Any) -> None:
        if message.body == b"7":
            peer.ack(1)
        if message.body == b"8":
            peer.ack(9, multiple=True)

    peer.when("basic.publish", confirm_the_first_at_the_eighth)
    with ch.pipelined(8) as block:
        for number in range(8):
            ch.basic_publish("", "q", str(number))
        assert len(block.unconfirmed) == 8 or block.unconfirmed == list(range(1, 8))
        ch.basic_publish("", "q", "8")
        assert 0 not in block.unconfirmed
    assert block.unconfirmed == []


def test_nacks_out_of_order(scripted: Any) -> None:
    _, ch, peer = scripted

    def settle(peer: Any, number: int, message: Any) -> None:
        if message.body == b"4":
            peer.nack(5)
            peer.ack(3)
            peer.nack(2, multiple=True)
            peer.ack(4)

    peer.when("basic.publish", settle)
    with pytest.raises(PublishesFailed) as raised, ch.pipelined():
        for number in range(5):
            ch.basic_publish("", "q", str(number))
    assert [index for index, _ in raised.value.failures] == [0, 1, 4]
    assert "test_nacks_out_of_order" in raised.value.failures[0][1].asked_at


def test_a_lost_connection_leaves_fates_unknown(scripted: Any) -> None:
    _, ch, peer = scripted

    def hang_up_at_the_last(peer: Any, number: int, message: Any) -> None:
        if message.body == b"4":
            peer.ack(2, multiple=True)
            peer.socket.shutdown(2)

    peer.when("basic.publish", hang_up_at_the_last)
    with pytest.raises(ConnectionLost) as raised, ch.pipelined():
        for number in range(5):
            ch.basic_publish("", "q", str(number))
    assert isinstance(raised.value, PublishesFailed)
    assert [index for index, _ in raised.value.failures] == [2, 3, 4]
    assert all(isinstance(error, DeliveryUnknown) for _, error in raised.value.failures)


def test_a_lost_connection_ends_a_wait_for_room(scripted: Any) -> None:
    _, ch, peer = scripted
    peer.when("basic.publish", lambda peer, number, message: peer.socket.shutdown(2))
    with pytest.raises(ConnectionLost) as raised, ch.pipelined(1):
        ch.basic_publish("", "q", "0")
        ch.basic_publish("", "q", "1")
    assert [(index, isinstance(error, DeliveryUnknown)) for index, error in raised.value.failures] == [
        (0, True),
        (1, False),
    ]


@pytest.mark.parametrize("where", ["the wait for room", "the end"])
def test_the_time_of_the_connection_bounds_each_wait(scripted: Any, where: str) -> None:
    connection, ch, peer = scripted
    connection.timeout = 0.05
    with pytest.raises(OperationTimeout, match=r"no answer within 0\.05 s"), ch.pipelined(2) as block:
        ch.basic_publish("", "q", "0")
        ch.basic_publish("", "q", "1")
        if where == "the wait for room":
            ch.basic_publish("", "q", "2")
    assert block.unconfirmed == [0, 1]
    connection.timeout = DEADLINE
    peer.ack(2, multiple=True)
    ch.queue_declare("q")
    assert block.unconfirmed == []


def test_the_time_of_a_call_bounds_its_wait_for_room(scripted: Any) -> None:
    _, ch, peer = scripted
    with pytest.raises(cpspika.PublishesFailed), ch.pipelined(1):
        ch.basic_publish("", "q", "0")
        with pytest.raises(OperationTimeout, match=r"no answer within 0\.02 s"):
            ch.basic_publish("", "q", "1", timeout=0.02)
        peer.nack(1)


def test_ctrl_c_leaves_the_block_at_once(scripted: Any) -> None:
    _, ch, peer = scripted
    with pytest.raises(KeyboardInterrupt), ch.pipelined() as block:
        ch.basic_publish("", "q", "0")
        raise KeyboardInterrupt
    assert block.unconfirmed == [0]
    peer.ack(1)
    ch.queue_declare("q")
    assert block.unconfirmed == []
    peer.when("basic.publish", lambda peer, number, message: peer.ack(2))
    assert ch.basic_publish("", "q", "1") is True


@every_kind
def test_ctrl_c_ends_the_wait_at_the_end(kind: Any) -> None:
    came = threading.Event()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with SocketBroker() as broker:
            connection = kind(broker.url, timeout=DEADLINE)
            confirms_nothing(broker.peers[0]).when("basic.publish", lambda peer, number, message: came.set())
            ch = connection.channel()
            ch.confirm_select()

            def press() -> None:
                came.wait(DEADLINE)
                os.kill(os.getpid(), signal.SIGUSR1)

            pressing = threading.Thread(target=press)
            pressing.start()
            with pytest.raises(KeyboardInterrupt), ch.pipelined() as block:
                ch.basic_publish("", "q", "0")
            pressing.join()
            assert block.unconfirmed == [0] or block.failures[0][0] == 0
            connection.close()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_blocked_connection_says_so_until_the_window_is_full(scripted: Any) -> None:
    connection, ch, peer = scripted
    peer.send(0, "connection.blocked", reason="low on memory")
    if isinstance(connection, ThreadedConnection):
        until(lambda: connection.is_blocked, "connection.blocked")
    else:
        while not connection.is_blocked:
            ch.queue_declare("q")
    with ch.pipelined(3) as block:
        assert [ch.basic_publish("", "q", str(number)) for number in range(3)] == [False] * 3
        assert block.unconfirmed == [0, 1, 2]
        with pytest.raises(OperationTimeout):
            ch.basic_publish("", "q", "3", timeout=0.02)
        peer.send(0, "connection.unblocked")
        peer.ack(3, multiple=True)
        peer.when("basic.publish", lambda peer, number, message: peer.ack(4))
        assert ch.basic_publish("", "q", "3") is True


def test_a_stopped_flow_is_a_failure_or_a_wait(scripted: Any) -> None:
    connection, ch, peer = scripted
    peer.when("channel.flow-ok", lambda peer, number, method: None)
    peer.send(1, "channel.flow", active=False)
    if isinstance(connection, ThreadedConnection):
        until(lambda: not ch.core._publisher.permitted, "channel.flow")
    else:
        while ch.core._publisher.permitted:
            ch.queue_declare("q")
    with pytest.raises(PublishesFailed) as raised, ch.pipelined():
        assert ch.basic_publish("", "q", "0") is False
        assert ch.basic_publish("", "q", "1", block_on_flow_control=True) is False
        peer.when("basic.publish", lambda peer, number, message: peer.ack(1))
        peer.send(1, "channel.flow", active=True)
    assert [(i, type(error)) for i, error in raised.value.failures] == [(0, cpspika.ContentTransmissionForbidden)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("kind", [BlockingConnection, SelectConnection, ThreadedConnection])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_child_of_a_fork_does_not_wait_for_the_parents_confirms(kind: Any) -> None:
    with SocketBroker() as broker:
        connection = kind(broker.url, timeout=DEADLINE)
        peer = confirms_nothing(broker.peers[0])
        ch = connection.channel()
        ch.confirm_select()
        child = 0
        with ch.pipelined() as block:
            ch.basic_publish("", "q", "0")
            child = os.fork()
            if child == 0:
                signal.alarm(5)
                code = 1
                try:
                    block._finish()
                    code = 0 if isinstance(block.failures[0][1], cpspika.ConnectionForked) else 2
                finally:
                    os._exit(code)
            peer.ack(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        connection.close()


def test_a_slow_publisher_hears_of_the_end_before_the_window_is_full(scripted: Any) -> None:
    connection, ch, peer = scripted
    peer.when("basic.publish", lambda peer, number, message: peer.socket.shutdown(2))
    deadline = time.monotonic() + DEADLINE
    with pytest.raises(ConnectionLost), ch.pipelined():
        while time.monotonic() < deadline:
            ch.basic_publish("", "q", "0")
            time.sleep(0.005)
    assert not connection.is_open
