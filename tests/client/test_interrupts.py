"""Ctrl-C, and whatever else a signal handler raises, at random moments (clause 10 of the law).

Each run is a process of its own that is interrupted many times by a real timer signal. Bytes are sent once, or the link
is dropped: a message is never in the queue twice, a confirm never belongs to another publish, and an acknowledgement is
never sent twice.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import cpspika
from cpspika.broker import serve
from cpspika.interrupts import is_interrupt, wait
from tests.support.endings import ignore
from tests.support.scripted import Done, World, opened

ROOT = Path(__file__).parents[2]
RUNS = 3  # processes for each kind of program and facade
COMMON = '''
import random, signal, sys, json, time
import cpspika
kind, url, seed, raises = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
facade = getattr(cpspika, kind)
dice = random.Random(seed)

class Interrupted(Exception):
    pass

def handler(number, frame):
    raise (KeyboardInterrupt if raises == "KeyboardInterrupt" else Interrupted)("by the timer")

signal.signal(signal.SIGALRM, handler)
HIT = (KeyboardInterrupt, Interrupted)
interruptions = 0

def arm():
    # Again after a while, since Python drops an exception that is raised in a finalizer.
    signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.0002, 0.004), 1)

def calm(step):
    """A step without interruptions."""
    while True:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
            return step()
        except HIT:
            pass

def connect():
    connection = facade(url, timeout=20)
    return connection, connection.channel()
'''
PUBLISHER = (
    COMMON
    + """
connection, channel = calm(connect)
calm(channel.confirm_select)
confirmed, dropped, broken = [], 0, []
number = 0
for _ in range(60):
    try:
        arm()
        while True:
            number += 1
            mine = number
            channel.basic_publish("", "q", str(mine))
            confirmed.append(mine)
    except HIT:
        interruptions += 1
    except cpspika.ConnectionClosed:
        pass
    except cpspika.AMQPError as error:
        broken.append(repr(error))
    def renew():
        global connection, channel, dropped
        try:
            channel.queue_declare("q", passive=True)
        except cpspika.ConnectionClosed:
            dropped += 1
            connection, channel = connect()
            channel.confirm_select()
    calm(renew)
calm(connection.close)
print(json.dumps({"confirmed": confirmed, "interruptions": interruptions, "dropped": dropped, "broken": broken}))
"""
)
CONSUMER = (
    COMMON
    + """
connection, channel = calm(connect)
handled, dropped, broken = [], 0, []
def on_message(message):
    message.ack()
    handled.append(int(message.body))
calm(lambda: channel.basic_qos(20))
calm(lambda: channel.basic_consume("q", on_message))
until = time.monotonic() + 20
left = 1
while left and time.monotonic() < until:
    try:
        arm()
        while True:
            connection.drain_events(0.01)
    except HIT:
        interruptions += 1
    except cpspika.ConnectionClosed:
        pass
    except cpspika.AMQPError as error:
        broken.append(repr(error))
    def renew():
        global connection, channel, dropped, left
        try:
            ok = channel.queue_declare("q", passive=True)
            left = ok.message_count
        except cpspika.ConnectionClosed:
            dropped += 1
            connection, channel = connect()
            channel.basic_qos(20)
            channel.basic_consume("q", on_message)
    calm(renew)
calm(lambda: connection.drain_events(0.05))
calm(connection.close)
print(json.dumps({"handled": handled, "interruptions": interruptions, "dropped": dropped, "broken": broken}))
"""
)


def run(program: str, kind: str, url: str, seed: int, raises: str) -> dict[str, Any]:
    command = [sys.executable, "-c", program, kind, url, str(seed), raises]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-2000:]}"
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("raises", ["KeyboardInterrupt", "an exception of the handler's"])
@pytest.mark.parametrize("kind", ["BlockingConnection", "SelectConnection"])
def test_an_interrupted_publisher_sends_nothing_twice(kind: str, raises: str) -> None:
    interruptions = dropped = 0
    for seed in range(RUNS):
        with serve() as broker:
            queue = declare(broker)
            outcome = run(PUBLISHER, kind, broker.url, seed, raises)
            bodies = Counter(int(entry.message.body) for entry in queue._ready)
        assert not outcome["broken"], outcome["broken"]
        twice = [number for number, count in bodies.items() if count > 1]
        assert not twice, f"seed {seed}: sent twice: {twice}"
        lost = set(outcome["confirmed"]) - set(bodies)
        assert not lost, f"seed {seed}: confirmed, but not in the queue: {sorted(lost)}"
        interruptions += outcome["interruptions"]
        dropped += outcome["dropped"]
    assert interruptions > RUNS * 30
    print(f"{interruptions} interruptions, {dropped} links dropped")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("raises", ["KeyboardInterrupt", "an exception of the handler's"])
@pytest.mark.parametrize("kind", ["BlockingConnection", "SelectConnection"])
def test_an_interrupted_consumer_acknowledges_nothing_twice(kind: str, raises: str) -> None:
    interruptions = dropped = 0
    for seed in range(RUNS):
        with serve() as broker:
            queue = declare(broker)
            fill(broker, 3000)
            outcome = run(CONSUMER, kind, broker.url, seed, raises)
            assert not outcome["broken"], f"seed {seed}: {outcome['broken']}"
            # A message whose handler was interrupted before its ack went back to the queue at the end.
            assert len(queue) <= outcome["interruptions"]
        assert set(range(3000)) <= set(outcome["handled"]) | missing(outcome, 3000)
        interruptions += outcome["interruptions"]
        dropped += outcome["dropped"]
    assert interruptions > RUNS * 5
    print(f"{interruptions} interruptions, {dropped} links dropped")


def missing(outcome: dict[str, Any], count: int) -> set[int]:
    """A message whose handler was interrupted between its ack and its note: one for each interruption at most."""
    absent = set(range(count)) - set(outcome["handled"])
    assert len(absent) <= outcome["interruptions"], f"{len(absent)} messages never came"
    return absent


def declare(broker: Any) -> Any:
    with cpspika.BlockingConnection(broker.url) as connection:
        connection.channel().queue_declare("q", durable=True)
    return broker.queues["q"]


def fill(broker: Any, count: int) -> None:
    with cpspika.BlockingConnection(broker.url) as connection, connection.channel() as channel:
        channel.confirm_select()
        for number in range(count):
            channel.basic_publish("", "q", str(number))


# --- what an interrupt is ---------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def own(source: str) -> dict[str, Any]:
    """The functions of a source, which counts as the library's own code."""
    scope: dict[str, Any] = {"signal": signal, "is_interrupt": is_interrupt}
    exec(compile(source, str(ROOT / "cpspika" / "imagined.py"), "exec"), scope)
    return scope


CATCH = """
def catch(function, *args):
    try:
        function(*args)
    except BaseException as error:
        return is_interrupt(error)
"""


def judged(function: Callable[..., object], *args: Any) -> Any:
    """What is_interrupt says of the exception of a call, where the library catches it."""

    def handler(number: int, frame: Any) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    try:
        return own(CATCH)["catch"](function, *args)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(call): signal.raise_signal(signal.SIGALRM)", True),  # a handler's exception, in the library
        ("def f(call): raise KeyboardInterrupt", True),  # the default handler of SIGINT has no frame
        ("def f(call): call()", False),  # a callback of the program
        ("def f(call): raise ValueError", False),  # a fault of the library, or of an argument
        ("import cpspika\ndef f(call): raise cpspika.ConnectionLost", False),  # an error that nobody was told
    ],
)
@pytest.mark.parametrize("callback", [KeyboardInterrupt, Interrupted, ValueError])
def test_an_interrupt_is_what_a_signal_handler_raises_in_the_librarys_own_code(
    source: str, expected: bool, callback: type[BaseException]
) -> None:
    function = own(source)["f"]

    def raises() -> None:
        raise callback

    assert judged(function, raises) is expected


def test_a_signal_in_a_callback_interrupts_nothing() -> None:
    assert judged(own("def f(call): call()")["f"], lambda: signal.raise_signal(signal.SIGALRM)) is False


@pytest.mark.parametrize("source", ["signal.raise_signal(signal.SIGALRM)", "raise KeyboardInterrupt"])
def test_a_signal_where_the_reactor_waits_interrupts_nothing(source: str) -> None:
    function = own(f"def f(): {source}")["f"]
    assert judged(function) is True
    assert judged(wait(function)) is False


@pytest.mark.parametrize("kind", ["BlockingConnection", "SelectConnection", "AsyncoreConnection"])
def test_a_signal_handlers_exception_comes_out_of_the_call_that_waits(kind: str) -> None:
    """It is not kept for the next call: the program wants out of this one."""

    def handler(number: int, frame: Any) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with serve() as broker:
            connection = getattr(cpspika, kind)(broker.url, timeout=30)
            channel = connection.channel()
            broker.stall()
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(Interrupted):
                channel.queue_declare("q")
            broker.stall(False)
            assert channel.queue_declare("q").queue == "q", "nothing was interrupted where the reactor waits"
            connection.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- at each line -----------------------------------------------------------------------------------------------------

# In a file without a name, so that the traceback looks as that of Python's own handler of SIGINT, which has no frame.
_TRACER = """
def tracer(left, inside):
    def local(frame, event, argument):
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return local

    return lambda frame, event, argument: local if inside(frame.f_code.co_filename) else None
"""
_OWN = str(ROOT / "cpspika") + "/"


def _is_core(name: str) -> bool:
    return name.startswith((_OWN + "client/", _OWN + "wire/"))


def interrupted_at(line: int, call: Callable[[], object]) -> bool:
    """Makes a call, with a KeyboardInterrupt at its n-th line of the core. False: it had fewer."""
    scope: dict[str, Any] = {}
    exec(_TRACER, scope)
    left = [line]
    before = sys.gettrace()
    sys.settrace(scope["tracer"](left, _is_core))
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    assert left[0] > 0, "the interrupt was swallowed"
    return False


OPERATIONS: dict[str, Callable[[World, cpspika.Channel], object]] = {
    "queue_declare": lambda world, ch: ch.queue_declare("q"),
    "queue_delete": lambda world, ch: ch.queue_delete("q"),
    "basic_consume": lambda world, ch: ch.basic_consume("q", print, consumer_tag="another"),
    "basic_cancel": lambda world, ch: ch.basic_cancel("c"),
    "basic_publish": lambda world, ch: ch.basic_publish("", "q", b"m"),
    "basic_publish, told": lambda world, ch: ch.basic_publish("", "q", b"m", on_done=Done()),
    "basic_publish, mandatory": lambda world, ch: ch.basic_publish("", "q", b"m", mandatory=True),
    "basic_reject": lambda world, ch: ch.basic_reject(1, on_done=Done()),
    "basic_ack": lambda world, ch: ch.basic_ack(1),
    "close": lambda world, ch: ch.close(),
    "update_secret": lambda world, ch: world.connection.update_secret("new"),
    "connection.close": lambda world, ch: world.connection.close(),
}


# These change nothing but what they send; and a second close closes.
IN_ORDER_ALREADY = ["basic_publish", "basic_publish, told", "basic_ack", "connection.close"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "confirming"),
    [(name, confirming) for name in OPERATIONS for confirming in ([False, True] if "publish" in name else [False])],
)
def test_an_interrupt_at_any_line_of_a_call_drops_the_link_or_leaves_all_in_order(name: str, confirming: bool) -> None:
    line, dropped = 0, 0
    while True:
        line += 1
        world = opened()
        channel = world.channel()
        world.consume(channel, ignore, tag="c")
        world.peer.serve()
        if confirming:
            channel.confirm_select()
        world.peer.deliver(1, b"m")
        world.settle()
        world.peer.inbox.clear()
        ask = OPERATIONS[name]
        if not interrupted_at(line, lambda: ask(world, channel)):  # noqa: B023
            break
        at_once = [Done("queue.declare"), Done("channel.open")]  # a program may go on in the same turn
        channel.queue_declare("at once", on_done=at_once[0])
        world.connection.channel(on_done=at_once[1])
        if name == "connection.close":
            at_once.append(Done("connection.close"))
            world.connection.close(on_done=at_once[2])
        world.settle()
        assert not any(done.pending for done in at_once), f"line {line}"
        if name == "connection.close" and world.closed == [None]:
            continue
        if not world.connection.is_open:
            dropped += 1
            assert isinstance(world.closed[0], cpspika.ConnectionLost), f"line {line}: {world.closed}"
            assert "KeyboardInterrupt" in str(world.closed[0])
            continue
        # Nothing was sent, or all was done: then each reply still finds its own operation.
        probe = channel if channel.is_open else world.connection.channel()
        declared, published = Done(), Done()
        probe.queue_declare("probe", on_done=declared)
        probe.basic_publish("", "probe", b"p", on_done=published)
        world.settle()
        assert declared.result.queue == "probe", f"line {line}"
        assert published.result is True, f"line {line}"
        assert world.connection.is_open, f"line {line}: {world.connection.close_reason}"
    assert line > 5
    assert dropped or (name in IN_ORDER_ALREADY and not confirming)


class Alarm(Exception):
    """Of a signal handler, in code of the program that the library guards."""


@contextmanager
def alarm_raises() -> Iterator[Callable[..., object]]:
    """The block gets a function that sends the signal."""

    def handler(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield lambda *_: signal.raise_signal(signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_interrupt_in_a_hook_goes_on_to_the_program(caplog: pytest.LogCaptureFixture) -> None:
    with alarm_raises() as alarm:
        remove = cpspika.instrument(SimpleNamespace(publishing=alarm))
        try:
            with pytest.raises(Alarm):
                opened().channel().basic_publish("", "q", "x")
        finally:
            remove()
    assert "hooks" not in caplog.text


def test_an_interrupt_in_credentials_goes_on_to_the_program() -> None:
    class Credentials:
        mechanism = "PLAIN"

        def start(self) -> bytes:
            alarm()
            return b""

    with serve() as broker, alarm_raises() as alarm, pytest.raises(Alarm):
        cpspika.BlockingConnection(broker.url, credentials=Credentials(), timeout=5)
