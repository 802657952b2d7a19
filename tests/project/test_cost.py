"""What idleness and an import cost. Run with -rP to see the figures."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cpspika
from cpspika.adapters import MemoryReactor, SelectReactor
from cpspika.wire.codec import Codec
from cpspika.wire.frames import METHOD, frame
from cpspika.wire.handshake import Negotiated
from tests.support import ROOT
from tests.support.scripted import Done, run_until, using

pytestmark = pytest.mark.slow

CHANNEL = 3 * 1024
RECOVERING_CHANNEL = 6 * 1024
CONNECTION = 30 * 1024


class CannedPeer:
    """A broker's end in memory that costs next to nothing itself: it knows what comes, and answers by count."""

    def __init__(self, transport: Any):
        self._transport = transport
        self._step = 0

    def data_received(self, data: bytes) -> None:
        if self._step < len(CANNED):
            self._transport.write([CANNED[self._step]])
            self._step += 1
            return
        at = 0
        while at < len(data):
            size = int.from_bytes(data[at + 3 : at + 7], "big")
            if data[at + 7 : at + 11] == OPEN:
                number = int.from_bytes(data[at + 1 : at + 3], "big")
                self._transport.write([frame(METHOD, number, OPEN_OK)])
            at += size + 8

    def transport_ready(self) -> None:
        pass

    def bytes_written(self) -> None:
        pass

    def transport_lost(self, error: Exception | None) -> None:
        pass


_encode = Codec.of("0-9-1").encode
OPEN, OPEN_OK = _encode("channel.open", {})[:4], _encode("channel.open-ok", {})
_SERVER = {"product": "canned", "capabilities": {"basic.nack": True, "publisher_confirms": True}, "version": "1"}
_START = {"version_minor": 9, "server_properties": _SERVER, "mechanisms": "PLAIN", "locales": "en_US"}
CANNED = [
    frame(METHOD, 0, _encode("connection.start", _START)),
    frame(METHOD, 0, _encode("connection.tune", {"channel_max": 2047, "frame_max": 131072, "heartbeat": 60})),
    frame(METHOD, 0, _encode("connection.open-ok", {})),
]


@contextlib.contextmanager
def subprocess_broker() -> Iterator[str]:
    """A broker in another process, so that its memory isn't counted here."""
    broker = subprocess.Popen(
        [sys.executable, "-m", "tests.support.scripted"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert broker.stdout is not None
    assert broker.stdin is not None
    try:
        yield f"amqp://127.0.0.1:{int(broker.stdout.readline())}"
    finally:
        broker.stdin.close()
        broker.wait(10)
        broker.stdout.close()


@contextlib.contextmanager
def memory_world() -> Iterator[tuple[Any, str]]:
    reactor = MemoryReactor()
    reactor.listen("broker", 5672, CannedPeer)
    yield reactor, "amqp://broker"


@contextlib.contextmanager
def socket_world() -> Iterator[tuple[Any, str]]:
    with subprocess_broker() as url, using(SelectReactor()) as reactor:
        yield reactor, url


worlds = pytest.mark.parametrize("world", [memory_world, socket_world], ids=["memory", "select"])


def bytes_of_each(make: Callable[[], Any], count: int) -> float:
    """Memory that each of many takes, the first ones apart (they fill caches)."""
    keep = [make() for _ in range(3)]
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        keep += [make() for _ in range(count)]
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / count
    finally:
        tracemalloc.stop()
        del keep


def open_connection(reactor: Any, url: str, **options: Any) -> Any:
    done = Done()
    connection = cpspika.connect(url, reactor=reactor, on_done=done, **options)
    run_until(reactor, lambda: not done.pending)
    assert done.result is connection
    for _ in range(3):
        reactor.run_once(0)
    return connection


def open_channel(reactor: Any, connection: Any) -> Any:
    done = Done()
    connection.channel(on_done=done)
    run_until(reactor, lambda: not done.pending)
    return done.result


@worlds
def test_memory_of_an_idle_connection(world: Any) -> None:
    with world() as (reactor, url):
        each = bytes_of_each(lambda: open_connection(reactor, url), 100)
    print(f"an idle connection takes {each:.0f} bytes; the bound is {CONNECTION}")
    assert each < CONNECTION


@worlds
def test_memory_of_an_idle_channel(world: Any) -> None:
    with world() as (reactor, url):
        connection = open_connection(reactor, url)
        each = bytes_of_each(lambda: open_channel(reactor, connection), 1000)
    print(f"an idle channel takes {each:.0f} bytes; the bound is {CHANNEL}")
    assert each < CHANNEL


@worlds
def test_memory_of_an_idle_channel_that_recovers(world: Any) -> None:
    with world() as (reactor, url):
        connection = open_connection(reactor, url, recovery=True)
        each = bytes_of_each(lambda: open_channel(reactor, connection), 1000)
        connection.abort()
    print(f"an idle channel with recovery takes {each:.0f} bytes; the bound is {RECOVERING_CHANNEL}")
    assert each < RECOVERING_CHANNEL


@worlds
def test_memory_of_a_channel_that_was_used_and_is_idle_again(world: Any) -> None:
    """It gives back what the work took: a request, held publishes, handlers' lists."""

    def make(reactor: Any, connection: Any) -> Any:
        channel = open_channel(reactor, connection)
        for _ in range(50):
            channel.basic_publish(routing_key="q", body=b"m" * 100)
        done = Done()
        channel.basic_publish(routing_key="q", body=b"m", on_done=done)
        run_until(reactor, lambda: not done.pending)
        return channel

    with world() as (reactor, url):
        connection = open_connection(reactor, url)
        each = bytes_of_each(lambda: make(reactor, connection), 300)
    print(f"a used idle channel takes {each:.0f} bytes; the bound is {CHANNEL}")
    assert each < CHANNEL


def test_closed_channels_and_connections_are_given_back() -> None:
    with memory_world() as (reactor, url):
        connection = open_connection(reactor, url)

        def come_and_go() -> None:
            channel = open_channel(reactor, connection)
            transient = open_connection(reactor, url)
            transient._abort()
            reactor.run_once(0)
            del channel

        come_and_go()
        each = bytes_of_each(come_and_go, 50)
        live = len(connection._channels)
    assert live == 54, "channels stay until they are closed"
    assert each < CHANNEL + CONNECTION


IMPORT = """
import sys
before = set(sys.modules)
import cpspika
added = set(sys.modules) - before
names = {name.partition(".")[0] for name in added} - {"cpspika"}
foreign = sorted(name for name in names if name not in sys.stdlib_module_names and not name.startswith("_"))
print(len(added), *(sorted(DEAR & added)), *foreign)
"""
# Modules that take long to import, and that a program without TLS, the broker or a facade does not need.
DEAR = {"asyncio", "ssl", "http", "email", "inspect", "sysconfig", "subprocess", "concurrent.futures"}
MODULES = 120  # that it loads at most, the standard library's with it: Python 3.14 has a few more
DEAR |= {"cpspika.broker", "cpspika.styles.sync", "cpspika.tasks", "cpspika.threads"}


def test_import_is_cheap_and_brings_nothing_foreign() -> None:
    program = f"DEAR = {DEAR!r}\n{IMPORT}"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    count, *unwanted = done.stdout.split()
    assert unwanted == [], "imported, but not needed"
    print(f"import cpspika loads {count} modules; the bound is {MODULES}")
    assert int(count) <= MODULES


def test_a_negotiated_heartbeat_is_the_only_timer_of_an_idle_connection() -> None:
    """So an idle process sleeps."""
    with memory_world() as (reactor, url):
        connection = open_connection(reactor, url)
        for _ in range(50):
            open_channel(reactor, connection)
        assert isinstance(Negotiated(0, 0, 60, "/", {}), tuple)
        assert sum(1 for entry in reactor._timers.heap if entry[2].call is not None) == 1
