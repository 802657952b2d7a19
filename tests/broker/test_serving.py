"""The ways to the broker: embedded://, the command, serve() and the pytest plugin."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import cpspika
from cpspika import InvalidArgument
from cpspika.adapters import SelectReactor
from cpspika.broker import embedded, serve
from tests.support import ROOT
from tests.support.waiting import DEADLINE, until

pytest_plugins = ["pytester"]

WHERE = re.compile(r"amqp://127\.0\.0\.1:(\d+)")


# --- embedded:// ------------------------------------------------------------------------------------------------------


def echo(connection: Any, queue: str) -> None:
    """Publishes and consumes."""
    ch = connection.channel()
    ch.queue_declare(queue, auto_delete=True)
    ch.basic_publish("", queue, f"by {queue}")
    message = next(ch.consume(queue, inactivity_timeout=DEADLINE))
    message.ack()
    assert message.body == f"by {queue}".encode()
    ch.close()


@pytest.mark.parametrize("facade", ["BlockingConnection", "SelectConnection", "AsyncoreConnection"])
def test_embedded_over_each_facade(facade: str) -> None:
    if facade == "AsyncoreConnection":
        pytest.importorskip("asyncore")
    with getattr(cpspika, facade)("embedded://", timeout=DEADLINE) as connection:
        echo(connection, facade)
    until(lambda: facade not in embedded().queues, "the end of its queue")


def test_the_same_broker_for_all_of_the_process() -> None:
    with cpspika.BlockingConnection("embedded://") as one, cpspika.SelectConnection("embedded://") as two:
        sender, receiver = one.channel(), two.channel()
        name = receiver.queue_declare("").queue
        sender.basic_publish("", name, "across")
        sender.queue_declare(name, passive=True)
        assert receiver.basic_get(name, no_ack=True).body == b"across"
        assert name in embedded().queues
        receiver.queue_delete(name)


def test_embedded_from_several_threads() -> None:
    before = set(embedded().connections)  # of other tests in this process
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(5):
                with cpspika.BlockingConnection("embedded://", timeout=DEADLINE) as connection:
                    echo(connection, f"thread {number}, {turn}")
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=[number]) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert not any(thread.is_alive() for thread in threads)
    until(lambda: not set(embedded().connections) - before, "the end of their connections")


def test_embedded_in_continuations() -> None:
    reactor = SelectReactor()
    log: list[Any] = []

    def connected(error: Any, connection: Any) -> None:
        log.append(error)
        connection.close(on_done=lambda error, result: log.append(error))

    cpspika.connect("embedded://", reactor=reactor, on_done=connected)
    reactor.run()
    reactor.close()
    assert log == [None, None]


def test_embedded_does_not_keep_a_program_from_ending() -> None:
    program = """
        import cpspika
        connection = cpspika.BlockingConnection("embedded://")
        connection.channel().queue_declare("q")
        print("end")
    """
    assert python("-c", "\n".join(line.strip() for line in program.splitlines())).stdout == "end\n"


def test_a_program_without_the_broker_does_not_import_it() -> None:
    program = "import sys, cpspika; print([name for name in sys.modules if name.startswith('cpspika.broker')])"
    assert python("-c", program).stdout == "[]\n"


# --- serve() ----------------------------------------------------------------------------------------------------------


def test_serve_as_a_context_manager() -> None:
    with serve() as broker:
        assert broker.host == "127.0.0.1"
        assert broker.url.startswith(f"amqp://guest:guest@127.0.0.1:{broker.port}")
        with cpspika.BlockingConnection(broker.url) as connection:
            echo(connection, "q")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", broker.port), timeout=DEADLINE)


def test_its_end_cuts_who_is_connected() -> None:
    with serve() as broker:
        connection = cpspika.BlockingConnection(broker.url, timeout=DEADLINE)
    with pytest.raises(cpspika.AMQPError):
        connection.channel()


def test_two_brokers_do_not_meet() -> None:
    with serve() as one, serve() as two:
        with cpspika.BlockingConnection(one.url) as connection:
            connection.channel().queue_declare("q")
        assert ("q" in one.queues, "q" in two.queues) == (True, False)


def test_stop_may_be_called_before_the_end_of_the_block() -> None:
    started = time.monotonic()
    with serve() as broker:
        broker.stop()
    assert time.monotonic() - started < 5


def test_a_port_in_use_is_an_error_and_leaves_no_thread() -> None:
    with serve() as broker:
        before = threading.active_count()
        with pytest.raises(OSError, match="in use"):
            serve(port=broker.port)
        until(lambda: threading.active_count() == before, "the end of the thread")


@pytest.mark.parametrize(
    "options", [{"port": 70_000}, {"port": -1}, {"host": "a..b"}, {"host": "no.such.host.invalid"}, {"like": "9.9"}]
)
def test_what_cannot_be_served_is_an_error_and_leaves_nothing(options: dict[str, Any]) -> None:
    gc.collect()  # what other tests have left
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with pytest.raises((OSError, InvalidArgument)):
        serve(**options)
    until(lambda: threading.active_count() == threads, "the end of the thread")
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= files


def test_no_thread_is_left_behind() -> None:
    before = set(threading.enumerate())
    with serve():
        assert set(threading.enumerate()) - before
    assert set(threading.enumerate()) == before


# --- python -m cpspika broker -----------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=DEADLINE, env=environment(), check=False
    )


@pytest.fixture
def process() -> Iterator[Any]:
    """A running `python -m cpspika broker`, and its port; ended by the test, or after it."""
    command = [sys.executable, "-m", "cpspika", "broker", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as running:
        try:
            assert running.stdout is not None
            found = WHERE.search(running.stdout.readline())
            assert found is not None, "it must say where it listens"
            yield running, int(found[1])
        finally:
            if running.poll() is None:
                running.kill()


def test_the_command_serves_any_client(process: Any) -> None:
    _, port = process
    with cpspika.BlockingConnection(f"amqp://127.0.0.1:{port}", timeout=DEADLINE) as connection:
        echo(connection, "q")


@pytest.mark.slow
@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT], ids=lambda end: end.name)
def test_a_signal_ends_it_cleanly(process: Any, end: signal.Signals, connected: bool) -> None:
    running, port = process
    if connected:
        socket.create_connection(("127.0.0.1", port)).close()
        connection = cpspika.BlockingConnection(f"amqp://127.0.0.1:{port}", timeout=DEADLINE)
    running.send_signal(end)
    out, err = running.communicate(timeout=DEADLINE)
    if connected:
        with pytest.raises(cpspika.AMQPError):
            connection.channel()
    assert (running.returncode, err) == (0, "")
    assert "ended" in out


def test_help_says_what_it_is_not() -> None:
    done = python("-m", "cpspika", "broker", "--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    for said in ("stores nothing on disk", "one process", "127.0.0.1", "5672", "--port", "--host"):
        assert said in text


@pytest.mark.slow
@pytest.mark.parametrize("port", ["taken", "70000", "-1"])
def test_a_port_that_cannot_be_had_is_said_without_a_traceback(port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        chosen = str(taken.getsockname()[1]) if port == "taken" else port
        done = python("-m", "cpspika", "broker", "--port", chosen)
    assert done.returncode != 0
    assert chosen in done.stderr
    assert "Traceback" not in done.stderr
    if port == "taken":
        assert "in use" in done.stderr


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b"])
def test_a_host_that_is_none_is_said_without_a_traceback(host: str) -> None:
    done = python("-m", "cpspika", "broker", "--port", "0", "--host", host)
    assert done.returncode != 0
    assert host in done.stderr
    assert "Traceback" not in done.stderr


def test_users_and_vhosts_of_the_command() -> None:
    command = ["-m", "cpspika", "broker", "--port", "0", "--user", "ann:se:cret", "--vhost", "second"]
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment()) as running:
        try:
            assert running.stdout is not None
            line = running.stdout.readline()
            assert "cret" not in line
            found = WHERE.search(line)
            assert found is not None
            cpspika.BlockingConnection(f"amqp://ann:se%3Acret@127.0.0.1:{found[1]}/second").close()
            with pytest.raises(cpspika.LoginError):
                cpspika.BlockingConnection(f"amqp://127.0.0.1:{found[1]}")
        finally:
            running.terminate()


@pytest.mark.slow
def test_how_soon_it_is_ready() -> None:
    """From the start of the process until it accepts, less the interpreter's own start; the best of three."""

    def bare() -> float:
        started = time.perf_counter()
        python("-c", "pass")
        return time.perf_counter() - started

    def ready() -> float:
        started = time.perf_counter()
        command = [sys.executable, "-m", "cpspika", "broker", "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as running:
            try:
                assert running.stdout is not None
                found = WHERE.search(running.stdout.readline())
                assert found is not None
                socket.create_connection(("127.0.0.1", int(found[1])), timeout=DEADLINE).close()
                return time.perf_counter() - started
            finally:
                running.terminate()

    python("-c", "import cpspika.cli.broker")  # so that nothing is compiled in the measurement
    interpreter, broker = min(bare() for _ in range(3)), min(ready() for _ in range(3))
    print(f"\nready {1000 * (broker - interpreter):.0f} ms beyond the interpreter's {1000 * interpreter:.0f} ms")
    assert broker - interpreter < 1.5


# --- the pytest plugin ------------------------------------------------------------------------------------------------

USERS_TESTS = """
    import cpspika
    names = []

    def test_url(amqp_url):
        with cpspika.BlockingConnection(amqp_url) as connection:
            connection.channel().queue_declare("mine")

    def test_broker_is_fresh(amqp_broker, amqp_url):
        assert amqp_broker.url == amqp_url
        assert "mine" not in amqp_broker.queues

    def test_its_fate(amqp_broker):
        connection = cpspika.BlockingConnection(amqp_broker.url)
        amqp_broker.close_connections()
        try:
            connection.drain_events(5)
        except cpspika.ConnectionClosed as error:
            assert error.code == 320
        else:
            raise AssertionError("the connection was not closed")
"""


@pytest.mark.slow
def test_the_plugins_fixtures(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(USERS_TESTS)
    installed = [point.value for point in importlib.metadata.entry_points(group="pytest11")]
    by_name = [] if "cpspika.testing.pytest_plugin" in installed else ["-p", "cpspika.testing.pytest_plugin"]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    result = pytester.runpytest_subprocess("-W", "error", *by_name)
    result.assert_outcomes(passed=3)


@pytest.mark.slow
def test_the_plugin_tells_of_its_fixtures(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = [point.value for point in importlib.metadata.entry_points(group="pytest11")]
    by_name = [] if "cpspika.testing.pytest_plugin" in installed else ["-p", "cpspika.testing.pytest_plugin"]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    result = pytester.runpytest_subprocess("--fixtures", *by_name)
    result.stdout.fnmatch_lines(["*amqp_broker*", "*embedded broker*", "*amqp_url*"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_hold_the_port_or_a_link() -> None:
    program = """
import os, socket, cpspika
from cpspika.broker import serve
broker = serve()
client = socket.create_connection((broker.host, broker.port))
client.sendall(b"AMQP\\0\\0\\x09\\x01")
assert client.recv(1000)
read, write = os.pipe()
child = os.fork()
if not child:
    os.close(write)
    os.read(read, 1)  # until the parent has looked
    os._exit(0)
broker.stop()
client.settimeout(10)
while client.recv(1000): pass
try:
    socket.create_connection((broker.host, broker.port), 10)
except ConnectionRefusedError:
    print("refused")
os.close(write)
os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("refused\n", 0), done.stderr
