"""Programs that fork, each run in a process of its own with no threads: the test's own process has some."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

from tests.support import ROOT
from tests.support.scripted import SocketBroker

PREAMBLE = """
import json, os, sys, time, traceback
sys.path.insert(0, {root!r})
import cpspika
from cpspika import adapters
from cpspika.parameters import ConnectionParameters
from cpspika.styles.sync import SyncConnection
from tests.support.scripted import Done, run_until

port = {port}
reactor = adapters.{reactor}()
url = "amqp://127.0.0.1:%d" % port

def in_child(body):
    '''Forks; the child's report comes back, or what went wrong there.'''
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            report = body()
        except BaseException:
            report = ["failed", traceback.format_exc()]
        os.write(writer, json.dumps(report).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        report = json.loads(pipe.read())
    os.waitpid(pid, 0)
    return report

def told(call):
    '''The class and text of what a call raises or tells its on_done.'''
    try:
        result = call()
    except cpspika.AMQPError as error:
        return [type(error).__name__, str(error)]
    return ["returned", repr(result)]

def open_core():
    done = Done()
    cpspika.connect(url, reactor=reactor, on_done=done, heartbeat=0)
    run_until(reactor, lambda: not done.pending)
    channel = Done()
    done.result.channel(on_done=channel)
    run_until(reactor, lambda: not channel.pending)
    return done.result, channel.result

def open_facade():
    connection = SyncConnection(reactor, [ConnectionParameters("127.0.0.1", port, heartbeat=0)], timeout=10)
    return connection, connection.channel()

def ask(operation, **arguments):
    '''A core operation, and what its on_done was told.'''
    done = Done()
    operation(**arguments, on_done=done)
    run_until(reactor, lambda: not done.pending)
    if done.calls[0][0] is not None:
        raise done.error
    return done.result
"""


def forking(reactor: str, program: str, broker: SocketBroker) -> Any:
    """What the program prints, as JSON."""
    preamble = PREAMBLE.format(root=str(ROOT), port=broker.port, reactor=reactor)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", preamble + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
