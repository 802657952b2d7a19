"""The synchronous facade under gevent's monkey patching: many greenlets in one thread, a connection each.

Patching is for a whole process, so the programs run in processes of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cpspika.broker import Served

pytest.importorskip("gevent")

ROOT = Path(__file__).parent.parent
DEADLINE = 60.0

# Each greenlet connects, waits until all of them are connected, and reads what it published itself.
PROGRAM = """
from gevent import monkey; monkey.patch_all()
import sys, gevent, cpspika
from gevent.event import Event

url, kind, count = sys.argv[1], getattr(cpspika, sys.argv[2]), int(sys.argv[3])
all_here, here = Event(), []

def one(number):
    with kind(url) as connection:
        channel = connection.channel()
        queue = channel.queue_declare(exclusive=True).queue
        here.append(number)
        if len(here) == count:
            all_here.set()
        assert all_here.wait(40), f"only {len(here)} of {count} have connected"
        channel.basic_publish(routing_key=queue, body=str(number))
        return int(channel.basic_get(queue, no_ack=True).body)

greenlets = [gevent.spawn(one, number) for number in range(count)]
assert [greenlet.get() for greenlet in greenlets] == list(range(count))
print("done")
"""

# One greenlet waits for a message that never comes, while another goes on.
BESIDE = """
from gevent import monkey; monkey.patch_all()
import sys, gevent, cpspika

def waits():
    with cpspika.BlockingConnection(sys.argv[1]) as connection:
        channel = connection.channel()
        queue = channel.queue_declare(exclusive=True).queue
        for message in channel.consume(queue):
            return

def ticks():
    for _ in range(20):
        gevent.sleep(0.001)
    return "ticked"

waiting = gevent.spawn(waits)
gevent.sleep(0.05)
print(gevent.spawn(ticks).get(timeout=20), waiting.ready())
waiting.kill()
"""


def run(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE, check=False, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("kind", ["BlockingConnection", "SelectConnection"])
def test_a_thousand_greenlets_have_a_connection_each(kind: str, embedded: Served) -> None:
    assert run(PROGRAM, embedded.url, kind, "1000") == "done\n"


@pytest.mark.parametrize("kind", ["BlockingConnection", "SelectConnection"])
def test_greenlets_on_rabbitmq(kind: str, node: Any) -> None:
    assert run(PROGRAM, node.url, kind, "100") == "done\n"


def test_a_greenlet_that_waits_holds_nobody_up(embedded: Served) -> None:
    assert run(BESIDE, embedded.url) == "ticked False\n"
