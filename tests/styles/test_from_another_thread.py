"""A thread beside the one that waits in a synchronous connection: what is handed over, what is refused; and a close in
the middle of a write, by a signal handler or what the garbage collector calls."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import cpspika
from cpspika import AsyncoreConnection, BlockingConnection, ConcurrentUse, SelectConnection
from cpspika.adapters import sockets
from cpspika.styles import sync
from tests.support.scripted import SocketBroker
from tests.support.waiting import DEADLINE

KINDS = [SelectConnection, AsyncoreConnection, BlockingConnection]


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    def bark(*_: object) -> None:
        pytest.fail("it hangs")

    signal.signal(signal.SIGALRM, bark)
    signal.alarm(30)
    yield
    signal.alarm(0)


@pytest.fixture(params=KINDS)
def connection(request: pytest.FixtureRequest, broker: Any) -> Iterator[Any]:
    with request.param(broker.url(), timeout=20) as opened:
        yield opened


def beside(connection: Any, act: Callable[[], object]) -> tuple[threading.Thread, list[Any]]:
    """A thread that acts once another thread is inside the connection. Its result or its exception is told."""
    told: list[Any] = []

    def work() -> None:
        end = time.monotonic() + DEADLINE
        while not connection._spins.depth:
            assert time.monotonic() < end, "nobody came inside"
        try:
            told.append(act())
        except BaseException as error:
            told.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, told


@pytest.mark.parametrize("what", ["connection", "channel"])
def test_close_ends_start_consuming_from_another_thread(connection: Any, what: str) -> None:
    ch = connection.channel()
    ch.basic_consume(ch.queue_declare(exclusive=True).queue, print)
    closing = connection if what == "connection" else ch
    thread, told = beside(connection, closing.close)
    ch.start_consuming()
    thread.join()
    assert told == [None]
    assert not ch.is_open
    assert connection.is_open == (what == "channel")


def test_acks_and_publishes_of_another_thread_are_handed_over(connection: Any) -> None:
    ch = connection.channel()
    queue = ch.queue_declare(exclusive=True).queue
    ch.basic_qos(prefetch_count=3)
    for number in range(10):
        ch.basic_publish("", queue, str(number))
    got: list[bytes] = []
    threads, told = [], []

    def settle(message: cpspika.Message) -> None:
        try:
            if message.body == b"8" and not message.redelivered:
                told.append(message.nack())
            elif message.body == b"9":
                told.append(message.reject(requeue=False))
            else:
                told.append(message.ack())
            if message.body == b"0":
                told.append(ch.basic_publish("", queue, bytearray(b"more")))
            if len(told) == 13:
                ch.stop_consuming()
        except BaseException as error:
            told.append(error)
            ch.stop_consuming()

    def on_message(message: cpspika.Message) -> None:
        got.append(message.body)
        thread = threading.Thread(target=settle, args=(message,))
        thread.start()
        threads.append(thread)

    ch.basic_consume(queue, on_message)
    ch.start_consuming()
    for thread in threads:
        thread.join()
    assert sorted(map(str, told)) == ["None"] * 12 + ["True"]
    assert sorted(got) == sorted([b"%d" % number for number in (*range(10), 8)] + [b"more"])
    ch.close()
    assert connection.channel().queue_declare(queue, passive=True).message_count == 0


def test_workers_acknowledge_while_the_owner_iterates(connection: Any) -> None:
    """Each comes in at any moment: while the other waits, and while it is between two calls."""
    ch = connection.channel()
    queue = ch.queue_declare(exclusive=True).queue
    count = 200
    for number in range(count):
        ch.basic_publish("", queue, str(number))
    ch.basic_qos(prefetch_count=5)
    threads, errors = [], []

    def ack(message: cpspika.Message) -> None:
        try:
            message.ack()
        except BaseException as error:
            errors.append(error)

    for number, message in enumerate(ch.consume(queue)):
        thread = threading.Thread(target=ack, args=(message,))
        thread.start()
        threads.append(thread)
        if number == count - 1:
            break
    for thread in threads:
        thread.join()
    assert errors == []
    ch.close()
    assert connection.channel().queue_declare(queue, passive=True).message_count == 0


def test_a_mistake_raises_in_the_thread_that_makes_it(connection: Any) -> None:
    ch = connection.channel()
    ch.basic_consume(ch.queue_declare(exclusive=True).queue, print)

    def mistakes() -> list[str]:
        found = []
        calls: list[Callable[[], object]] = [
            lambda: ch.basic_ack("one"),
            lambda: ch.basic_publish("", "q" * 300, "x"),
            lambda: ch.basic_publish("", "q", 3.14),
            lambda: ch.basic_publish("", "q", "x", properties=cpspika.BasicProperties(priority=3000)),
            lambda: ch.basic_nack(1, no_such=True),
        ]
        for call in calls:
            with pytest.raises((cpspika.LocalError, TypeError)) as caught:
                call()
            found.append(type(caught.value).__name__)
        connection.close()
        return found

    thread, told = beside(connection, mistakes)
    ch.start_consuming()
    thread.join()
    assert told == [
        ["InvalidArgumentType", "InvalidArgument", "InvalidArgumentType", "InvalidArgument", "TypeError"]
    ], told


def test_what_waits_for_the_broker_is_refused(connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "GRACE", 0.05)
    ch = connection.channel()
    confirming = connection.channel()
    confirming.confirm_select()
    ch.basic_consume(ch.queue_declare(exclusive=True).queue, print)

    def work() -> None:
        for call in (lambda: ch.queue_declare(exclusive=True), lambda: confirming.basic_publish("", "q", "x")):
            with pytest.raises(ConcurrentUse):
                call()
        ch.stop_consuming()

    thread, told = beside(connection, work)
    ch.start_consuming()
    thread.join()
    assert told == [None]


@pytest.mark.parametrize("kind", KINDS)
def test_a_publish_on_a_congested_link_waits_for_the_thread_inside(kind: Any) -> None:
    with SocketBroker() as broker, kind(broker.url, timeout=DEADLINE) as connection:
        ch = connection.channel()
        peer = broker.peers[0]
        ch.basic_consume("q", print)

        def flood() -> Any:
            while ch.writable:
                ch.basic_publish("", "q", b"x" * 100_000)
            ch.basic_publish("", "q", b"the last")
            sent = not connection.core._backlog.size
            connection.close()
            return sent

        thread, told = beside(connection, flood)
        ch.start_consuming()
        thread.join()
        assert told == [True]
        assert whole(peer)[-1] == b"the last"


def test_a_call_that_is_handed_over_as_the_owner_leaves_is_made(connection: Any) -> None:
    ch = connection.channel()
    queue = ch.queue_declare(exclusive=True).queue
    left = threading.Event()
    publish = ch.connection._hand_over

    def late(*args: Any) -> Any:
        ch.stop_consuming()
        assert left.wait(DEADLINE)
        return publish(*args)

    ch.connection._hand_over = late
    ch.basic_consume(ch.queue_declare(exclusive=True).queue, print)
    thread, told = beside(connection, lambda: ch.basic_publish("", queue, "x"))
    ch.start_consuming()
    left.set()
    thread.join()
    assert told == [True]
    assert ch.basic_get(queue, no_ack=True).body == b"x"


def test_a_close_that_is_never_answered_keeps_the_thread_inside_no_longer(
    broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread inside waits for what it asked itself, and not for the answer to another thread's close."""
    connection = SelectConnection(broker.url())
    try:
        ch = connection.channel()
        with monkeypatch.context() as patch:
            patch.setattr(cpspika.Channel, "_close", lambda self, code, text, on_done: None)
            thread, told = beside(connection, lambda: ch.close(timeout=0.5))
            assert not connection.drain_events(timeout=0.2)
            thread.join()
        assert isinstance(told[0], cpspika.OperationTimeout)
    finally:
        connection.close(timeout=DEADLINE)


def whole(peer: Any) -> list[bytes]:
    """The bodies that came, once the client has closed in order: with connection.close, and nothing torn."""
    end = time.monotonic() + DEADLINE
    while not peer.hung_up:
        assert time.monotonic() < end, "the client did not hang up"
        time.sleep(0.001)
    assert peer.link.state == "closed", peer.link.state
    assert not [event for _, event in peer.received if isinstance(event, cpspika.AMQPError)]
    return [message.body for message in peer.came("basic.publish")]


# --- a signal handler, the garbage collector ------------------------------------------------------------------------


SEND_AND_INTERRUPT = """
def send_and_interrupt():
    sent = send()
    if not closed:
        interrupt()
    return sent
"""


class Closing:
    """Garbage that closes the connection when it is collected."""

    def __init__(self, close: Callable[[], None]):
        self.close = close
        self.cycle = self

    def __del__(self) -> None:
        self.close()


def by_a_signal(close: Callable[[], None], undo: contextlib.ExitStack) -> Callable[[], object]:
    before = signal.signal(signal.SIGTERM, lambda *_: close())
    undo.callback(signal.signal, signal.SIGTERM, before)
    return partial(os.kill, os.getpid(), signal.SIGTERM)  # no function of Python, which would be a callback


def by_a_signal_that_comes_amid_a_callback_of_the_collector(
    close: Callable[[], None], undo: contextlib.ExitStack
) -> Callable[[], object]:
    interrupt = by_a_signal(close, undo)

    def on_collect(phase: str, _: Any) -> None:
        if phase == "stop":
            interrupt()

    undo.callback(gc.callbacks.remove, on_collect)
    gc.callbacks.append(on_collect)
    return gc.collect


def by_a_destructor(close: Callable[[], None], undo: contextlib.ExitStack) -> Callable[[], object]:
    Closing(close)
    return gc.collect


def by_a_finalizer(close: Callable[[], None], undo: contextlib.ExitStack) -> Callable[[], object]:
    weakref.finalize(Closing(lambda: None), close)
    return gc.collect


@pytest.mark.parametrize(
    "interrupted",
    [by_a_signal, by_a_signal_that_comes_amid_a_callback_of_the_collector, by_a_destructor, by_a_finalizer],
)
@pytest.mark.parametrize("kind", KINDS)
def test_close_amid_a_write_sends_nothing_twice(kind: Any, interrupted: Any) -> None:
    """It comes between the system call that sends and the note of how much it sent."""
    with SocketBroker() as broker, contextlib.ExitStack() as undo:
        connection = kind(broker.url, timeout=DEADLINE)
        ch = connection.channel()
        peer = broker.peers[0]
        transport = connection.core._backlog.transport
        closed: list[Any] = []
        gc.collect()  # so that no other garbage is collected below
        interrupt = interrupted(lambda: closed.append(connection.close()), undo)
        given = {"send": transport._send_some, "closed": closed, "interrupt": interrupt}
        # As a function of the module that sends: the library's own code is what is interrupted.
        exec(compile(SEND_AND_INTERRUPT, sockets.__file__, "exec"), given)
        transport._send_some = given["send_and_interrupt"]
        body = bytes(range(256)) * 20_000
        with contextlib.suppress(cpspika.ConnectionClosed):  # closed before the kernel had the whole of it
            ch.basic_publish("", "q", body)
        assert closed == [None]
        assert not connection.is_open
        assert whole(peer) == [body]
        with pytest.raises(cpspika.ConnectionClosed):
            ch.queue_declare("q")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_close_in_a_signal_handler_at_a_random_moment(kind: Any, seed: int) -> None:
    """A loop publishes large messages; whatever arrives is whole, in order, and ends with connection.close."""
    with SocketBroker() as broker:
        connection = kind(broker.url, timeout=DEADLINE)
        ch = connection.channel()
        peer = broker.peers[0]
        asked = []

        def on_alarm(*_: object) -> None:
            if not asked:
                asked.append(True)
                connection.close()

        before = signal.signal(signal.SIGVTALRM, on_alarm)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.002 + seed * 0.003)
        count = 0

        def publish() -> None:
            nonlocal count
            while True:
                ch.basic_publish("", "q", b"%d:" % count + b"x" * (count % 7) * 50_000)
                count += 1

        try:
            with pytest.raises(cpspika.ConnectionClosed):
                publish()
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)
        numbers = [int(body.split(b":")[0]) for body in whole(peer)]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) in (count, count + 1)
