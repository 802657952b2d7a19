"""Greenlets: the facades under gevent's monkey patching, in programs of their own, patched before all else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from tests.support import ROOT

CORES = ["BlockingConnection", "SelectConnection"]
# The heaviest run with BlockingConnection; with SelectConnection, which differs in the reactor alone, when asked for.
HEAVY = ["BlockingConnection", pytest.param("SelectConnection", marks=pytest.mark.long)]
MEMORY = 100 * 1024 * 1024  # bytes for a thousand connections, their greenlets included

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("gevent") is None, reason="the extra gevent is not installed"),
]

PREAMBLE = """
from gevent import monkey
monkey.patch_all()
import json, resource, sys, threading, time
import gevent, gevent.event
import cpspika
from cpspika.threads import ThreadedConnection

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
url, count = sys.argv[1], int(sys.argv[2])
make = getattr(cpspika, sys.argv[3], ThreadedConnection)

def in_greenlets(count, work):
    greenlets = [gevent.spawn(work, number) for number in range(count)]
    gevent.joinall(greenlets, timeout=40, raise_error=True)
    late = [greenlet for greenlet in greenlets if not greenlet.dead]
    assert not late, f"{len(late)} greenlets did not end"
    return [greenlet.value for greenlet in greenlets]

def memory():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
"""

# Each is there before anyone goes on, and then waits for what another sends, round a ring.
RENDEZVOUS = """
before, everybody, arrived = memory(), gevent.event.Event(), []
own, weights = set(), []

def work(number):
    with make(url, timeout=40, heartbeat=0) as connection:
        own.add(id(connection.reactor))
        channel = connection.channel()
        queue = channel.queue_declare(f"ring-{number}", exclusive=True).queue
        arrived.append(number)
        if len(arrived) == count:
            weights.append(memory() - before)
            everybody.set()
        assert everybody.wait(40), f"{len(arrived)} of {count} were connected"
        channel.basic_publish(routing_key=f"ring-{(number + 1) % count}", body=str(number))
        for message in channel.consume(queue):
            message.ack()
            return int(message.body)

got = in_greenlets(count, work)
print(json.dumps([sorted(arrived) == list(range(count)), got, weights[0], len(own)]))
"""


def run(program: str, *arguments: Any) -> Any:
    """What the program prints, as JSON; it must say nothing on stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PREAMBLE + textwrap.dedent(program), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def outside() -> Iterator[str]:
    """The URL of an embedded broker in a process of its own."""
    command = [sys.executable, "-m", "cpspika", "broker", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"amqp://\S+", process.stdout.readline())
        assert found
        yield found[0]
        process.terminate()
        process.communicate(timeout=10)


@pytest.mark.long
@pytest.mark.parametrize("facade", HEAVY)
def test_a_thousand_greenlets_with_a_connection_each(outside: str, facade: str) -> None:
    count = 1000
    arrived, got, weight, reactors = run(RENDEZVOUS, outside, count, facade)
    assert arrived
    assert got == [(number - 1) % count for number in range(count)]
    assert reactors == count, "each greenlet has a reactor of its own, like a thread"
    assert weight < MEMORY, f"{weight / count:.0f} bytes a connection"


@pytest.mark.parametrize("facade", [*HEAVY, "ThreadedConnection"])
def test_greenlets_on_rabbitmq(node: Any, facade: str) -> None:
    count = 100
    arrived, got, _, _ = run(RENDEZVOUS, node.url, count, facade)
    assert arrived
    assert got == [(number - 1) % count for number in range(count)]


@pytest.mark.parametrize("facade", CORES)
def test_others_run_while_a_greenlet_waits(outside: str, facade: str) -> None:
    """For the name of a host, for an answer, for a message; and the lock of a shared connection holds."""
    ticks, published = run(
        """
        ticks = [0]

        def tick():
            while True:
                ticks[0] += 1
                gevent.sleep(0.001)

        gevent.spawn(tick)
        connection = make(url.replace("127.0.0.1", "localhost"), timeout=30)
        channel = connection.channel()
        queue = channel.queue_declare(exclusive=True).queue

        def publish(number):
            for _ in range(10):
                with connection.lock:
                    channel.basic_publish(routing_key=queue, body=b"x")

        in_greenlets(20, publish)
        empty = channel.queue_declare(exclusive=True).queue
        before = ticks[0]
        assert list(channel.consume(empty, inactivity_timeout=0.2)) == []
        waited = ticks[0] - before
        published = channel.queue_purge(queue)
        connection.close()
        print(json.dumps([waited, published]))
        """,
        outside,
        0,
        facade,
    )
    assert ticks > 5, "nothing else ran meanwhile"
    assert published == 200


def test_a_greenlet_that_is_killed_while_it_waits_closes_its_connection(outside: str) -> None:
    left = run(
        """
        opened = []

        def wait():
            with make(url, timeout=30) as connection:
                opened.append(connection)
                channel = connection.channel()
                for message in channel.consume(channel.queue_declare("killed", exclusive=True).queue):
                    pass

        waiting = gevent.spawn(wait)
        with make(url, timeout=30) as other:
            while not opened:
                gevent.sleep(0.001)
            gevent.sleep(0)
            waiting.kill(timeout=30)
            other.channel().queue_declare("killed", exclusive=True)  # it would be locked else
        print(json.dumps([waiting.dead, opened[0].is_open]))
        """,
        outside,
        0,
        "BlockingConnection",
    )
    assert left == [True, False]


def test_two_greenlets_inside_a_connection_is_an_error_that_says_so(outside: str) -> None:
    told = run(
        """
        connection = make(url, timeout=30)
        channel = connection.channel()
        queue = channel.queue_declare(durable=True, auto_delete=True).queue
        messages = channel.consume(queue)
        waiting = gevent.spawn(next, messages)
        gevent.sleep(0)  # it gets inside
        try:
            connection.channel()
        except cpspika.ConcurrentUse as error:
            told = str(error)
        with make(url) as other:
            other.channel().basic_publish(routing_key=queue, body=b"x")
        assert waiting.get(timeout=30).body == b"x"
        connection.close()
        print(json.dumps(told))
        """,
        outside,
        0,
        "BlockingConnection",
    )
    assert "another thread is inside this connection" in told


def test_a_thousand_greenlets_on_one_threaded_connection(outside: str) -> None:
    """Its reactor, its workers and its callers are greenlets then."""
    confirmed, handled, left = run(
        """
        connection = make(url, timeout=40)
        channel = connection.channel()
        channel.confirm_select()
        queue = channel.queue_declare(exclusive=True).queue
        handled = []

        def on_message(message):
            handled.append(channel.queue_declare(queue, passive=True).queue)
            message.ack()

        channel.basic_consume(queue, on_message)
        confirmed = in_greenlets(count, lambda number: channel.basic_publish(routing_key=queue, body=str(number)))
        with gevent.Timeout(40):
            while len(handled) < count:
                gevent.sleep(0.01)
        connection.close()
        assert connection.join(10)
        left = [thread.name for thread in threading.enumerate() if thread.name.startswith("cpspika")]
        print(json.dumps([confirmed.count(True), len(handled), left]))
        """,
        outside,
        1000,
        "ThreadedConnection",
    )
    assert (confirmed, handled, left) == (1000, 1000, [])


def test_the_embedded_broker_serves_greenlets_of_its_own_process() -> None:
    _, got, _, _ = run(RENDEZVOUS, "embedded://", 100, "BlockingConnection")
    assert got == [(number - 1) % 100 for number in range(100)]
