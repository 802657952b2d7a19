"""The contract of every reactor: order, time, waking, ending, and idleness."""

from __future__ import annotations

import gc
import select
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

import cpspika
from cpspika.adapters import AsyncoreReactor, BlockingReactor, MemoryReactor, SelectReactor
from cpspika.parameters import ConnectionParameters
from cpspika.reactor import Timers
from cpspika.styles.sync import SyncConnection
from tests.support import ROOT
from tests.support.scripted import Done, MemoryBroker, SocketBroker, SocketPeer, run_until, using
from tests.support.waiting import DEADLINE

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import asyncore
except ImportError:
    asyncore = None

KINDS = {"select": SelectReactor, "blocking": BlockingReactor, "asyncore": AsyncoreReactor, "memory": MemoryReactor}
REAL = ["select", "blocking", "asyncore"]
SHARED = ["select", "asyncore", "memory"]  # drive more than one connection


def make(kind: str) -> Any:
    if kind == "asyncore":
        if asyncore is None:
            pytest.skip("this Python has no asyncore, and pyasyncore is not installed")
        return AsyncoreReactor({})
    return KINDS[kind]()


@pytest.fixture(params=KINDS)
def reactor(request: Any) -> Iterator[Any]:
    with using(make(request.param)) as made:
        yield made


@pytest.fixture(params=REAL)
def real(request: Any) -> Iterator[Any]:
    with using(make(request.param)) as made:
        yield made


@pytest.fixture(params=SHARED)
def shared(request: Any) -> Iterator[Any]:
    with using(make(request.param)) as made:
        yield made


# --- calls ------------------------------------------------------------------------------------------------------------


def test_calls_come_in_order_and_never_inside_call_soon(reactor: Any) -> None:
    log: list[Any] = []
    for i in range(5):
        reactor.call_soon(lambda i=i: log.append(i))
        assert log == []
    reactor.run()
    assert log == [0, 1, 2, 3, 4]


def test_a_call_made_in_a_call_comes_after_those_that_waited(reactor: Any) -> None:
    log: list[Any] = []
    reactor.call_soon(lambda: (log.append("first"), reactor.call_soon(lambda: log.append("third"))))
    reactor.call_soon(lambda: log.append("second"))
    reactor.run()
    assert log == ["first", "second", "third"]


def test_a_call_that_repeats_itself_keeps_neither_timers_nor_other_calls_out(reactor: Any) -> None:
    log: list[Any] = []

    def again() -> None:
        log.append("again")
        if "timer" not in log:
            reactor.call_soon(again)
        if len(log) > 1000:
            reactor.call_later(0, lambda: None)

    reactor.call_soon(again)
    reactor.call_later(0, lambda: log.append("timer"))
    reactor.run()
    assert "timer" in log
    assert len(log) < 20


# --- time -------------------------------------------------------------------------------------------------------------


def test_timers_come_in_the_order_of_time_then_of_asking(reactor: Any) -> None:
    log: list[Any] = []
    begin = reactor.time()
    for name, seconds in (("c", 0.03), ("a", 0.01), ("b1", 0.02), ("b2", 0.02), ("now", 0)):
        reactor.call_later(seconds, lambda name=name: log.append((name, reactor.time())))
    reactor.run()
    names = [name for name, _ in log]
    assert names == ["now", "a", "b1", "b2", "c"]
    for (_, at), least in zip(log, (0, 0.01, 0.02, 0.02, 0.03), strict=True):
        assert at - begin >= least - 1e-6, "never too early"


def test_a_cancelled_timer_never_comes(reactor: Any) -> None:
    log: list[Any] = []
    timer = reactor.call_later(0.01, lambda: log.append("cancelled"))
    first = reactor.call_later(0.01, lambda: log.append("first"))
    reactor.call_later(0.02, lambda: log.append("last"))
    timer.cancel()
    timer.cancel()
    reactor.run()
    first.cancel()  # after the fact: no harm
    assert log == ["first", "last"]


def test_a_timer_may_cancel_another_that_is_due_at_the_same_moment(reactor: Any) -> None:
    log: list[Any] = []
    timers: list[Any] = []
    timers.append(reactor.call_later(0, lambda: (log.append("first"), timers[1].cancel())))
    timers.append(reactor.call_later(0, lambda: log.append("second")))
    reactor.run()
    assert log == ["first"]


def test_a_cancelled_timer_holds_nothing_and_does_not_keep_run_from_ending(reactor: Any) -> None:
    class Big:
        pass

    big = Big()
    gone = []
    import weakref

    weakref.finalize(big, gone.append, True)
    timer = reactor.call_later(3600, lambda big=big: None)
    del big
    timer.cancel()
    gc.collect()
    assert gone == [True]
    reactor.run()


def test_the_heap_does_not_grow_with_cancelled_timers(reactor: Any) -> None:
    """A timeout for each of a million calls, nearly always cancelled."""
    keep = [reactor.call_later(3600, lambda: None) for _ in range(10)]
    for _ in range(20_000):
        reactor.call_later(1800, lambda: None).cancel()
    assert len(reactor._timers.heap) < 500
    for timer in keep:
        timer.cancel()


def test_timers_that_are_cancelled_at_random_leave_the_others_exact() -> None:
    import random

    rng = random.Random(7)
    timers, due, cancelled = Timers(), [], set()
    handles = []
    for i in range(2000):
        when = rng.random()
        handles.append((i, when, timers.add(when, lambda i=i: due.append(i))))
        if rng.random() < 0.7:
            name, _, handle = handles[rng.randrange(len(handles))]
            handle.cancel()
            cancelled.add(name)
    calls: deque[Any] = deque()
    while timers.take_due(2.0, calls):
        calls.pop()()
    expected = [i for i, when, _ in sorted(handles, key=lambda h: (h[1], h[0])) if i not in cancelled]
    assert due == expected
    assert timers.next() is None


def test_the_memory_clock_moves_only_when_nothing_else_can_happen() -> None:
    reactor, log = MemoryReactor(), []
    reactor.call_later(1000, lambda: log.append(reactor.time()))
    reactor.call_later(10, lambda: (reactor.call_soon(lambda: log.append(reactor.time())), log.append("timer")))
    begin = time.monotonic()
    reactor.run()
    assert log == ["timer", 10, 1000]
    assert time.monotonic() - begin < 5
    reactor.advance(5)
    assert reactor.time() == 1005


# --- from other threads -----------------------------------------------------------------------------------------------


def test_call_soon_threadsafe_wakes_a_reactor_that_waits(real: Any) -> None:
    called: list[Any] = []
    waiting = threading.Event()
    real.call_later(60, lambda: None)  # what it waits for
    real.call_soon(waiting.set)

    def other() -> None:
        assert waiting.wait(DEADLINE)
        real.call_soon_threadsafe(lambda: called.append(threading.get_ident()))

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    begin = time.monotonic()
    run_until(real, lambda: bool(called))
    assert called == [threading.get_ident()], "it is called in the reactor's thread"
    assert time.monotonic() - begin < 5
    thread.join(DEADLINE)


def test_a_thousand_calls_from_several_threads_all_come(real: Any) -> None:
    called: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda n=n: [real.call_soon_threadsafe(lambda i=i: called.append((n, i))) for i in range(250)],
            daemon=True,
        )
        for n in range(4)
    ]
    real.call_later(60, lambda: None)
    for thread in threads:
        thread.start()
    run_until(real, lambda: len(called) == 1000)
    for n in range(4):
        assert [i for name, i in called if name == n] == list(range(250)), "in order, of each thread"
    for thread in threads:
        thread.join(DEADLINE)


def test_another_thread_may_stop_it(real: Any) -> None:
    running = threading.Event()
    real.call_later(60, lambda: None)
    real.call_soon(running.set)

    def other() -> None:
        assert running.wait(DEADLINE)
        real.call_soon_threadsafe(real.stop)

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    begin = time.monotonic()
    real.run()
    assert time.monotonic() - begin < 5
    thread.join(DEADLINE)


def test_two_threads_in_one_reactor_is_an_error_that_says_so(real: Any) -> None:
    inside, leave, outcome = threading.Event(), threading.Event(), []
    real.call_soon(lambda: (inside.set(), leave.wait(DEADLINE)))
    thread = threading.Thread(target=lambda: real.run_once(0), daemon=True)
    thread.start()
    assert inside.wait(DEADLINE)
    try:
        real.run_once(0)
    except cpspika.ConcurrentUse as error:
        outcome.append(str(error))
    leave.set()
    thread.join(DEADLINE)
    assert "thread" in outcome[0]
    real.run_once(0)


# --- running and ending -----------------------------------------------------------------------------------------------


def test_run_ends_when_nothing_is_left(reactor: Any) -> None:
    """Nothing at all, one call, and one timer; a call's end is not followed by a wait for ever."""
    log: list[Any] = []
    reactor.run()
    reactor.call_soon(lambda: log.append("call"))
    reactor.run()
    reactor.call_later(0.01, lambda: log.append("timer"))
    reactor.run()
    reactor.call_later(0.01, lambda: reactor.call_soon(lambda: log.append("call of timer")))
    reactor.run()
    reactor.call_soon(lambda: reactor.call_soon(lambda: log.append("call of call")))
    reactor.run()
    assert log == ["call", "timer", "call of timer", "call of call"]


def test_stop_ends_run_and_the_rest_waits_for_the_next(reactor: Any) -> None:
    log: list[Any] = []
    reactor.call_later(3600, lambda: log.append("late"))
    reactor.call_soon(lambda: log.append("before"))
    reactor.call_soon(reactor.stop)
    reactor.run()
    assert log == ["before"]
    reactor.call_soon(lambda: log.append("again"))
    reactor.call_soon(reactor.stop)
    reactor.run()
    assert log == ["before", "again"]


def test_stop_outside_run_does_not_stop_the_next(reactor: Any) -> None:
    log: list[Any] = []
    reactor.stop()
    reactor.call_soon(lambda: log.append(1))
    reactor.run()
    assert log == [1]


def test_a_run_inside_a_run_leaves_the_outer_one_stoppable(reactor: Any) -> None:
    log: list[Any] = []

    def inner() -> None:
        reactor.call_soon(reactor.stop)
        reactor.run()
        log.append("inner ended")
        reactor.call_soon(reactor.stop)

    late = reactor.call_later(3600 if isinstance(reactor, MemoryReactor) else 3, lambda: log.append("too late"))
    reactor.call_soon(inner)
    reactor.run()
    late.cancel()
    assert log == ["inner ended"], "stop() after a nested run did not stop the outer one"


def test_run_once_waits_no_longer_than_it_is_told(real: Any) -> None:
    real.call_later(60, lambda: None)
    begin = time.monotonic()
    real.run_once(0)
    assert time.monotonic() - begin < 5
    begin = time.monotonic()
    real.run_once(0.05)
    assert 0.045 <= time.monotonic() - begin < 5


def test_run_once_without_timeout_waits_for_the_next_timer(reactor: Any) -> None:
    log: list[Any] = []
    reactor.call_later(0.03, lambda: log.append(1))
    turns = 0
    while not log:
        reactor.run_once()
        turns += 1
    assert turns == 1, "it waited until the timer, and not a moment less"


# --- exceptions -------------------------------------------------------------------------------------------------------


def fail(*_: Any) -> None:
    raise KeyError("a callback's")


def test_an_exception_leaves_run_and_the_rest_is_there_for_the_next(reactor: Any) -> None:
    log: list[Any] = []
    for i in range(4):
        reactor.call_soon(fail if i % 2 else lambda i=i: log.append(i))
    reactor.call_later(0.01, fail)
    reactor.call_later(0.01, lambda: log.append("timer"))
    failures = 0
    for _ in range(10):
        try:
            reactor.run()
        except KeyError:
            failures += 1
        else:
            break
    assert failures == 3
    assert log == [0, 2, "timer"]


def test_on_error_gets_every_exception_and_run_goes_on(reactor: Any) -> None:
    log: list[Any] = []
    reactor.on_error = log.append
    reactor.call_soon(fail)
    reactor.call_soon(lambda: log.append("call"))
    reactor.call_later(0.01, fail)
    reactor.call_later(0.02, lambda: log.append("timer"))
    reactor.run()
    assert [type(entry) for entry in log] == [KeyError, str, KeyError, str]


def test_on_error_does_not_swallow_what_ends_a_program(reactor: Any) -> None:
    reactor.on_error = lambda error: None

    def interrupt() -> None:
        raise KeyboardInterrupt

    reactor.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        reactor.run()


def test_an_exception_in_one_connections_callback_leaves_the_others(shared: Any) -> None:
    """All that is readable in a turn is read, in that turn or the next."""
    broker: Any
    got: list[int] = []

    def connect(url: str) -> None:
        for i in range(5):

            def opened(error: Any, connection: Any, i: int = i) -> None:
                got.append(i)
                raise KeyError(i)

            cpspika.connect(url, reactor=shared, on_done=opened, heartbeat=0)
        failures = 0
        until = time.monotonic() + DEADLINE
        while len(got) < 5 or failures < 5:
            assert time.monotonic() < until
            try:
                shared.run_once(1)
            except KeyError:
                failures += 1
        assert sorted(got) == [0, 1, 2, 3, 4]

    if isinstance(shared, MemoryReactor):
        MemoryBroker(shared)
        connect("amqp://broker")
    else:
        with SocketBroker() as broker:
            connect(broker.url)


# --- idleness ---------------------------------------------------------------------------------------------------------


def open_idle(reactor: Any, broker: SocketBroker, channels: int = 0) -> Any:
    done = Done()
    connection = cpspika.connect(broker.url, reactor=reactor, on_done=done, heartbeat=0)
    run_until(reactor, lambda: not done.pending)
    opened = [Done() for _ in range(channels)]
    for on_done in opened:
        connection.channel(on_done=on_done)
    run_until(reactor, lambda: not any(on_done.pending for on_done in opened))
    return connection


@pytest.mark.parametrize("kind", REAL)
def test_an_idle_reactor_sleeps_until_its_next_timer(kind: str) -> None:
    """No polling: a turn for each timer, and one or two for the rest."""
    with SocketBroker() as broker, using(make(kind)) as reactor:
        open_idle(reactor, broker)
        for _ in range(3):
            reactor.run_once(0)
        log: list[Any] = []
        for i in range(1, 6):
            reactor.call_later(0.05 * i, lambda: log.append(reactor.time()))
        turns = 0
        while len(log) < 5:
            reactor.run_once(10)
            turns += 1
        assert turns <= 5 + 2, f"{turns} turns for five timers"


@pytest.mark.parametrize("kind", REAL)
def test_run_sleeps_in_one_wait_while_nothing_happens(kind: str) -> None:
    with SocketBroker() as broker, using(make(kind)) as reactor:
        open_idle(reactor, broker)
        waits: list[Any] = []
        poll = reactor._poll
        reactor._poll = lambda timeout: (waits.append(timeout), poll(timeout))[1]
        reactor.call_later(0.3, reactor.stop)
        reactor.run()
        assert len(waits) <= 4, waits


@pytest.mark.parametrize("kind", SHARED)
def test_the_cost_of_a_turn_does_not_grow_with_idle_channels(kind: str) -> None:
    """Counted in Python function calls, which no busy machine changes."""

    def calls_of_a_turn(reactor: Any, connection: Any, ack: Any) -> int:
        for _ in range(3):
            reactor.run_once(0)
        count = 0

        def profile(frame: Any, event: str, argument: Any) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        ack.basic_ack(1)
        sys.setprofile(profile)
        try:
            for _ in range(4):
                reactor.run_once(0)
        finally:
            sys.setprofile(None)
        return count

    def measure(reactor: Any, url: str, wait: Any) -> list[int]:
        counts = []
        for channels in (2, 1500):
            done = Done()
            connection = cpspika.connect(url, reactor=reactor, on_done=done, heartbeat=0)
            run_until(reactor, lambda done=done: not done.pending)
            wait()
            opened = [Done() for _ in range(channels)]
            for on_done in opened:
                connection.channel(on_done=on_done)
            run_until(reactor, lambda opened=opened: not any(on_done.pending for on_done in opened), 60)
            counts.append(calls_of_a_turn(reactor, connection, opened[0].result))
        return counts

    with using(make(kind)) as reactor:
        if kind == "memory":
            broker = MemoryBroker(reactor)
            few, many = measure(reactor, "amqp://broker", lambda: broker.peer.serve())
        else:
            with SocketBroker() as sockets:
                few, many = measure(reactor, sockets.url, lambda: None)
    assert many <= few + 20, f"{few} calls with 2 channels, {many} with 1500"


def test_the_memory_reactor_says_so_when_it_would_wait_for_ever() -> None:
    with pytest.raises(cpspika.LocalError, match="cannot come"):
        MemoryReactor().run_once()


# --- kinds ------------------------------------------------------------------------------------------------------------


def test_a_blocking_reactor_refuses_a_second_connection_at_once_and_keeps_the_first() -> None:
    with SocketBroker() as broker, using(BlockingReactor()) as reactor:
        first = open_idle(reactor, broker)
        done = Done()
        strays: list[BaseException] = []
        reactor.on_error = strays.append
        cpspika.connect(broker.url, reactor=reactor, on_done=done, connection_timeout=5)
        run_until(reactor, lambda: not done.pending, 3)
        assert "one connection" in str(done.error)
        assert strays == []
        channel = Done()
        first.channel(on_done=channel)
        run_until(reactor, lambda: not channel.pending)
        assert channel.result.is_open


def test_a_blocking_reactor_may_connect_again_after_the_first_is_closed() -> None:
    with SocketBroker() as broker, using(BlockingReactor()) as reactor:
        for _ in range(3):
            connection = open_idle(reactor, broker)
            closed = Done()
            connection.close(on_done=closed)
            run_until(reactor, lambda closed=closed: not closed.pending)
            reactor.run_once(0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["select", "asyncore"])
def test_one_reactor_drives_many_connections(kind: str) -> None:
    with SocketBroker() as broker, using(make(kind)) as reactor:
        connections = [open_idle(reactor, broker, channels=2) for _ in range(20)]
        declared = [Done() for _ in connections]
        for connection, done in zip(connections, declared, strict=True):
            connection._channels[1].queue_declare("q", on_done=done)
        run_until(reactor, lambda: not any(done.pending for done in declared))
        closed = [Done() for _ in connections]
        for connection, done in zip(connections, closed, strict=True):
            connection.close(on_done=done)
        reactor.run()
        assert [done.result for done in closed] == [None] * 20, "run() ends when all are closed"


@pytest.mark.parametrize("kind", REAL)
def test_run_ends_when_the_last_connection_is_closed(kind: str) -> None:
    with SocketBroker() as broker, using(make(kind)) as reactor:
        connection = open_idle(reactor, broker)
        reactor.call_later(0.05, connection.close)
        reactor.run()
        assert not connection.is_open


@pytest.mark.parametrize("kind", REAL)
def test_a_megabyte_goes_through_whole_though_the_kernel_takes_it_in_pieces(kind: str) -> None:
    with SocketBroker() as broker, using(make(kind)) as reactor:
        connection = open_idle(reactor, broker, channels=1)
        bodies: list[bytes] = []
        broker.peers[0].when("basic.publish", lambda peer, number, message: bodies.append(message.body))
        sent = [bytes([i]) * 1_000_000 for i in range(8)]
        done = [Done() for _ in sent]
        for body, on_done in zip(sent, done, strict=True):
            connection._channels[1].basic_publish(body=body, on_done=on_done)
        behind = Done()
        connection._channels[1].queue_declare("q", on_done=behind)
        run_until(reactor, lambda: not behind.pending)
        assert [on_done.result for on_done in done] == [True] * 8
        assert bodies == sent


def test_two_ends_that_both_send_more_than_the_kernel_takes_do_not_wait_for_each_other(real: Any) -> None:
    """The transport reads on while its writes are stuck."""
    megabytes = 16
    body = b"x" * 1_000_000
    heard = threading.Event()

    def script(peer: SocketPeer) -> None:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            peer.socket.setsockopt(socket.SOL_SOCKET, option, 65536)
        peer.expect_open()
        peer.open_channel()
        peer.expect("basic.consume")
        peer.send(1, "basic.consume-ok", consumer_tag="c")
        for tag in range(1, megabytes + 1):
            peer.deliver(1, body, delivery_tag=tag)
        assert heard.wait(DEADLINE), f"the client has not read what was sent within {DEADLINE} s"
        for _ in range(megabytes):
            assert peer.expect("basic.publish").body == body
        peer.expect_hang_up()
        real.call_soon_threadsafe(lambda: hung_up.append(peer))

    hung_up: list[SocketPeer] = []
    with SocketBroker(script) as broker:
        opened, bodies, done, closed = Done(), [], Done(), Done()
        connection = cpspika.connect(broker.url, reactor=real, on_done=opened, heartbeat=0)
        run_until(real, lambda: not opened.pending)
        channel = connection.channel()
        channel.basic_consume("q", lambda message: bodies.append(message.body), on_done=lambda err, tag: publish())

        def publish() -> None:
            for number in range(1, megabytes + 1):
                channel.basic_publish(body=body, on_done=done if number == megabytes else None)

        run_until(real, lambda: len(bodies) == megabytes)
        assert done.pending, "the kernel took everything: this test shows nothing"
        heard.set()
        run_until(real, lambda: not done.pending)
        assert done.result is True
        assert bodies == [body] * megabytes
        connection.close(on_done=closed)
        run_until(real, lambda: bool(hung_up))
        assert closed.result is None


needs_asyncore = pytest.mark.skipif(asyncore is None, reason="no asyncore on this Python, and no pyasyncore")


@needs_asyncore
def test_asyncore_loop_drives_calls_timers_and_connections_and_ends() -> None:
    """The user's own asyncore.loop() is all that turns: it ends when all is closed and nothing is to come."""
    log: list[Any] = []
    map_: dict[int, Any] = {}
    with SocketBroker() as broker, using(AsyncoreReactor(map_)) as reactor:

        def opened(error: Any, connection: Any) -> None:
            log.append("open")
            reactor.call_soon(lambda: log.append("call"))
            reactor.call_later(0.05, lambda: (log.append("timer"), connection.close()))

        cpspika.connect(broker.url, reactor=reactor, on_done=opened, heartbeat=0)
        begin = time.monotonic()
        asyncore.loop(timeout=30, map=map_)
        assert log == ["open", "call", "timer"]
        assert time.monotonic() - begin < 10, "the timer ended the wait, not asyncore's own timeout"
        assert map_ == {}


@needs_asyncore
def test_asyncore_loop_wakes_for_another_threads_call() -> None:
    map_: dict[int, Any] = {}
    called: list[Any] = []
    with using(AsyncoreReactor(map_)) as reactor:
        release = reactor.hold()
        timer = threading.Timer(0.05, lambda: reactor.call_soon_threadsafe(lambda: (called.append(1), release())))
        timer.daemon = True
        timer.start()
        begin = time.monotonic()
        asyncore.loop(timeout=30, map=map_)
        assert called == [1]
        assert time.monotonic() - begin < 10


@needs_asyncore
def test_a_callbacks_exception_leaves_asyncore_loop_and_the_loop_can_go_on() -> None:
    map_: dict[int, Any] = {}
    log: list[Any] = []
    with using(AsyncoreReactor(map_)) as reactor:
        reactor.call_soon(fail)
        reactor.call_later(0.02, lambda: log.append("timer"))
        with pytest.raises(KeyError):
            asyncore.loop(timeout=5, map=map_)
        asyncore.loop(timeout=5, map=map_)
        assert log == ["timer"]


@needs_asyncore
def test_asyncore_lives_beside_other_dispatchers() -> None:
    """Both are driven by either loop."""
    import socket

    map_: dict[int, Any] = {}
    heard: list[bytes] = []
    ours, theirs = socket.socketpair()

    class Other(asyncore.dispatcher):  # type: ignore[misc, name-defined]
        def handle_read(self) -> None:
            heard.append(self.recv(100))

        def writable(self) -> bool:
            return False

    with theirs, SocketBroker() as broker, using(AsyncoreReactor(map_)) as reactor:
        other = Other(ours, map_)
        theirs.send(b"one")
        connection = open_idle(reactor, broker, channels=1)
        run_until(reactor, lambda: heard == [b"one"])
        theirs.send(b"two")
        connection.close()
        reactor.call_later(0.2, other.close)
        asyncore.loop(timeout=5, map=map_)
        assert heard == [b"one", b"two"]


@needs_asyncore
def test_the_facade_on_asyncore_leaves_nothing_for_asyncore_loop() -> None:
    """A program on asyncore ends with asyncore.loop(), which returns."""
    with SocketBroker() as broker:
        connection = cpspika.AsyncoreConnection(broker.url)
        channel = connection.channel()
        channel.queue_declare(queue="test_q", durable=True)
        channel.basic_publish(exchange="", routing_key="test_q", body="Hello World!")
        connection.close()
        asyncore.loop()


def test_without_asyncore_the_error_says_what_to_install() -> None:
    with mock.patch.dict(sys.modules, {"asyncore": None}), pytest.raises(ImportError, match=r"cpspika\[asyncore\]"):
        AsyncoreReactor()


@pytest.mark.skipif(not hasattr(select, "poll"), reason="select has no poll here")
def test_the_select_reactor_takes_many_file_descriptors() -> None:
    with SocketBroker() as broker, using(SelectReactor()) as reactor:
        for _ in range(60):
            open_idle(reactor, broker)


LEAK = """
import gc, sys, warnings
sys.path.insert(0, {root!r})
warnings.simplefilter("error", ResourceWarning)
caught = []
sys.unraisablehook = lambda args: caught.append(str(args.exc_value))
import cpspika
from tests.support.scripted import SocketBroker
with SocketBroker() as broker:
    for how in {hows}:
        exec(how)
        gc.collect()
print(caught)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        "cpspika.BlockingConnection(broker.url).close()",
        "with cpspika.BlockingConnection(broker.url) as connection:\n    connection.channel().close()\ndel connection",
        "try:\n    cpspika.BlockingConnection('amqp://127.0.0.1:1')\nexcept cpspika.ConnectError:\n    pass",
        "cpspika.SelectConnection(broker.url).close()",
        "cpspika.SelectConnection(broker.url, reactor=cpspika.adapters.SelectReactor()).close()",
    ],
)
def test_a_closed_connection_leaves_no_socket_open(how: str) -> None:
    """A user who runs with -W error, or counts descriptors, must see none of ours."""
    program = LEAK.format(root=str(ROOT), hows=repr([how]))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_facade_works_over_every_reactor() -> None:
    for kind in REAL:
        with SocketBroker() as broker, using(make(kind)) as reactor:
            connection = SyncConnection(reactor, [ConnectionParameters("127.0.0.1", broker.port)], timeout=DEADLINE)
            with connection, connection.channel() as channel:
                assert channel.queue_declare("q").queue == "q"
                channel.confirm_select()
                assert channel.basic_publish(body="m") is True
