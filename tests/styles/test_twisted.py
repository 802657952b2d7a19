"""Twisted's style: Deferreds, callbacks that are coroutines, endpoints, and a reactor with nothing left in it."""

from __future__ import annotations

import gc
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("twisted")

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, inlineCallbacks
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import globalLogPublisher
from zope.interface import implementer  # type: ignore[import-untyped, unused-ignore]

import cpspika
from cpspika.adapters import twisted_adapter
from cpspika.adapters.sockets import LINGER
from cpspika.adapters.twisted_endpoint import EndpointTransport
from cpspika.broker import Served, serve
from tests.support import ROOT
from tests.support.style_twisted import outcome, private_reactor, spin, twisted_reactor

Steps = Generator[Deferred[Any], Any, Any]


@pytest.fixture
def broker() -> Iterator[Served]:
    """A broker of the test's own, which it may maltreat."""
    with serve() as running:
        yield running


@pytest.fixture
def connection(broker: Served) -> Iterator[Any]:
    opened = outcome(connect(broker.url))
    yield opened
    outcome(opened.close())


@pytest.fixture
def through(broker: Served) -> Iterator[Any]:
    """A connection through an endpoint."""
    opened = outcome(connect(broker.url, endpoint=endpoint(broker)))
    yield opened
    outcome(opened.close())


@pytest.fixture
def logged() -> Iterator[list[BaseException]]:
    """What Twisted logs as failures."""
    failures: list[BaseException] = []

    def observe(event: Any) -> None:
        if "log_failure" in event:
            failures.append(event["log_failure"].value)

    globalLogPublisher.addObserver(observe)
    yield failures
    globalLogPublisher.removeObserver(observe)


def connect(target: Any, **options: Any) -> Deferred[Any]:
    return twisted_adapter.connect(target, reactor=private_reactor(), **options)


def endpoint(broker: Served) -> TCP4ClientEndpoint:
    return TCP4ClientEndpoint(private_reactor(), broker.host, broker.port)


def held() -> list[Any]:
    reactor = private_reactor()
    found = [*reactor.getReaders(), *reactor.getWriters(), *reactor.getDelayedCalls()]
    return [one for one in found if "Waker" not in str(one)]


# --- a clean reactor --------------------------------------------------------------------------------------------------


def trial(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "twisted.trial", *arguments]
    environment = {"PATH": "", "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=80, check=False)


CLEAN = [f"tests.support.trial_twisted.{name}" for name in ("Tcp", "Endpoint", "Tls", "TlsEndpoint")]


@pytest.mark.parametrize(
    "reactor", ["epoll", *(pytest.param(name, marks=pytest.mark.long) for name in ("select", "poll", "asyncio"))]
)
def test_trial_finds_nothing_left_in_the_reactor(node: Any, certificates: Any, tmp_path: Path, reactor: str) -> None:
    """In TCP, TLS, memory and endpoints; whether it went well, was refused, or was cancelled."""
    if reactor == "epoll" and sys.platform != "linux":
        pytest.skip("epoll is Linux's")
    done = trial(
        f"--temp-directory={tmp_path / 'trial'}",
        f"--reactor={reactor}",
        *CLEAN,
        AMQP=f"amqp://guest:guest@localhost:{node.port}/%2F",
        TLS=node.tls_url,
        CA=certificates.ca,
    )
    assert "PASSED (successes=22)" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_trial_finds_nothing_left_without_rabbitmq(embedded: Any, tmp_path: Path) -> None:
    url = f"amqp://guest:guest@localhost:{embedded.port}/%2F"
    done = trial(f"--temp-directory={tmp_path / 'trial'}", *CLEAN, AMQP=url)
    assert "PASSED" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_trial_would_have_found_it(embedded: Any, tmp_path: Path) -> None:
    done = trial(f"--temp-directory={tmp_path / 'trial'}", "tests.support.trial_twisted.Dirty", AMQP=embedded.url)
    assert "Reactor was unclean" in done.stdout
    assert "SocketTransport" in done.stdout
    assert "<Connection to 127.0.0.1" in done.stdout


# --- programs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["socket", "endpoint", "memory"])
def test_inline_callbacks(broker: Served, by: str) -> None:
    @inlineCallbacks
    def main() -> Steps:
        target = "embedded://" if by == "memory" else broker.url
        connection = yield connect(target, **({"endpoint": endpoint(broker)} if by == "endpoint" else {}))
        channel = yield connection.channel()
        queue = (yield channel.queue_declare(exclusive=True)).queue
        assert (yield channel.basic_publish(routing_key=queue, body="text")) is True
        message = yield channel.basic_get(queue)
        yield message.ack()
        with pytest.raises(cpspika.NotFound) as caught:
            yield channel.queue_declare("nothing", passive=True)
        assert "in main" in caught.value.asked_at
        yield connection.close()
        return message.body

    assert outcome(main()) == b"text"
    assert held() == []


@pytest.mark.parametrize("by", ["socket", "endpoint"])
def test_a_coroutine_with_async_with_and_async_for(broker: Served, by: str) -> None:
    async def main() -> list[bytes]:
        options = {"endpoint": endpoint(broker)} if by == "endpoint" else {}
        bodies: list[bytes] = []
        async with await connect(broker.url, **options) as connection, await connection.channel() as channel:
            queue = (await channel.queue_declare(exclusive=True)).queue
            await channel.confirm_select()
            for number in range(5):
                await channel.basic_publish(routing_key=queue, body=str(number))
            async with channel.consume(queue) as messages:
                async for message in messages:
                    bodies.append(message.body)
                    await message.ack()
                    if len(bodies) == 5:
                        break
            assert (await channel.queue_declare(queue, passive=True))[1:] == (0, 0)
        return bodies

    assert outcome(Deferred.fromCoroutine(main())) == [b"0", b"1", b"2", b"3", b"4"]
    assert held() == []


def test_callbacks_may_be_work_that_is_looked_after(connection: Any, logged: list[Any]) -> None:
    """A coroutine, a generator, or what returns a Deferred: each is run, and logged where it fails."""
    channel = outcome(connection.channel())
    queue = outcome(channel.queue_declare(exclusive=True)).queue
    got: list[str] = []

    async def in_a_coroutine(message: Any) -> None:
        await channel.queue_declare(queue, passive=True)
        got.append(f"coroutine {message.body.decode()}")
        raise KeyError("coroutine")

    def in_a_generator(message: Any) -> Steps:
        yield channel.queue_declare(queue, passive=True)
        got.append(f"generator {message.body.decode()}")
        raise KeyError("generator")

    decorated = inlineCallbacks(in_a_generator)
    for on_message in (in_a_coroutine, in_a_generator, decorated, lambda message: decorated(message)):
        got.clear()
        tag = outcome(channel.basic_consume(queue, on_message, no_ack=True))
        outcome(channel.basic_publish(routing_key=queue, body="body"))
        spin(lambda: logged, f"{on_message} left nothing in the log")
        assert logged[0].args[0] in got[0]
        logged.clear()
        outcome(channel.basic_cancel(tag))


def test_on_error_is_told_instead_of_the_log(broker: Served, logged: list[Any]) -> None:
    errors: list[BaseException] = []
    reactor = twisted_adapter.TwistedReactor(private_reactor())
    reactor.on_error = errors.append
    connection = outcome(twisted_adapter.connect(broker.url, reactor=reactor))

    async def changed(connection: Any, is_open: bool) -> None:
        assert isinstance(connection, twisted_adapter.TwistedConnection)
        raise KeyError("coroutine")

    def changed_too(connection: Any, is_open: bool) -> None:
        raise KeyError("function")

    connection.add_state_change_handler(changed)
    connection.add_state_change_handler(changed_too)
    outcome(connection.close())
    assert sorted(error.args[0] for error in errors) == ["coroutine", "function"]
    assert logged == []


def test_an_error_that_nobody_asked_for_is_logged(connection: Any, logged: list[Any]) -> None:
    channel = outcome(connection.channel())
    channel.queue_declare("nothing", passive=True)
    spin(lambda: not channel.is_open, "the channel did not close")
    spin(lambda: (gc.collect(), logged)[1], "nothing in the log")
    assert isinstance(logged[0], cpspika.NotFound)


def test_a_failure_of_the_programs_own_is_logged_for_an_ack_too(connection: Any, logged: list[Any]) -> None:
    """That an ack came to nothing isn't logged."""
    channel = outcome(connection.channel())
    outcome(channel.close())

    def fail(failure: Any) -> None:
        raise KeyError("the program's")

    channel.basic_ack(1)
    channel.basic_ack(1).addErrback(fail)
    spin(lambda: (gc.collect(), logged)[1], "nothing in the log")
    assert [error.args for error in logged] == [("the program's",)]


def test_on_close_is_told_why(broker: Served) -> None:
    told: list[Any] = []

    async def on_close(connection: Any, error: Any) -> None:
        told.append((connection, error))

    connection = outcome(connect(broker.url, on_close=on_close))
    waiting = connection.channel()
    broker.drop_links()
    with pytest.raises(cpspika.ConnectionClosed, match="was lost"):
        outcome(waiting)
    spin(lambda: told, "on_close was not called")
    assert told[0][0] is connection
    assert isinstance(told[0][1], cpspika.ConnectionLost)
    outcome(connection.close())
    assert held() == []


STOPPING = """
import contextlib, socket, sys
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from cpspika.adapters import twisted_adapter
from cpspika.broker import serve

by, stage = sys.argv[1:]

def begin(host, port):
    options = {"endpoint": TCP4ClientEndpoint(reactor, host, port)} if by == "endpoint" else {}
    return twisted_adapter.connect(
        f"amqp://{host}:{port}", on_close=lambda connection, err: print("on_close", type(err).__name__), **options
    ).addErrback(lambda failure: print("connect", failure.type.__name__))

def opened(connection):
    reactor.stop()
    connection.channel().addErrback(lambda failure: print("channel", failure.type.__name__))
    connections.append(connection)

def stop_while_it_connects():
    (reactor.stop if reactor.getWriters() else lambda: reactor.callLater(0, stop_while_it_connects))()

connections = []
with contextlib.ExitStack() as stack:
    if stage == "open":
        broker = stack.enter_context(serve())
        begin(broker.host, broker.port).addCallback(opened)
    else:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        begin(*full.getsockname())
        stop_while_it_connects()
    reactor.run()
print([one for one in reactor.getReaders() + reactor.getWriters() if "Waker" not in str(one)])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="how to keep a connection from being made is Linux's")
@pytest.mark.parametrize("by", ["socket", "endpoint"])
@pytest.mark.parametrize(
    ("stage", "told"),
    [("open", ["channel ConnectionLost", "on_close ConnectionLost"]), ("connecting", ["connect ConnectError"])],
)
def test_a_reactor_that_stops_loses_its_connections(by: str, stage: str, told: list[str]) -> None:
    """As Twisted has it with every protocol: what waits fails, and no socket is left."""
    command = [sys.executable, "-X", "dev", "-c", STOPPING, by, stage]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=80, check=False)
    assert done.stdout.splitlines() == [*told, "[]"], done.stderr
    assert done.stderr == ""


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_what_comes_for_a_cancelled_deferred_is_given_back(broker: Served, connection: Any) -> None:
    channel = outcome(connection.channel())
    full, empty = [outcome(channel.queue_declare(exclusive=True)).queue for _ in range(2)]
    outcome(channel.basic_publish(routing_key=full, body="body"))
    for work in (channel.basic_get(full), channel.basic_consume(empty, lambda message: None), connection.channel()):
        work.cancel()
        with pytest.raises(CancelledError):
            outcome(work)
    outcome(channel.queue_declare(full, passive=True))  # behind these, and so is what follows
    assert outcome(channel.basic_get(full)).body == b"body"
    assert outcome(channel.queue_declare(empty, passive=True)).consumer_count == 0
    spin(lambda: len(broker.connections[0].channels) == 1, "the channel that nobody wanted stayed open")


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Where connections are accepted, and nothing is said."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def connect_to_silent(silent: socket.socket, by: str, **options: Any) -> Deferred[Any]:
    host, port = silent.getsockname()
    if by == "endpoint":
        options["endpoint"] = TCP4ClientEndpoint(private_reactor(), host, port)
    return connect(f"amqp://{host}:{port}", **options)


@pytest.mark.parametrize("by", ["socket", "endpoint"])
def test_a_cancelled_attempt_hangs_up(silent: socket.socket, by: str) -> None:
    work = connect_to_silent(silent, by)
    spin(lambda: select.select([silent], [], [], 0)[0], "nobody connected")
    with silent.accept()[0] as peer:
        spin(lambda: select.select([peer], [], [], 0)[0], "nothing was said")
        work.cancel()
        with pytest.raises(CancelledError):
            outcome(work)
        peer.settimeout(20)
        assert peer.recv(100) == b"AMQP\0\0\x09\x01"
        spin(lambda: not held(), "something was left")
        assert hung_up(peer)


def hung_up(peer: socket.socket) -> bool:
    try:
        return peer.recv(100) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("by", ["socket", "endpoint"])
def test_an_attempt_has_its_time(silent: socket.socket, by: str) -> None:
    """Twisted's addTimeout, and our connection_timeout."""
    with pytest.raises(TimeoutError):
        outcome(connect_to_silent(silent, by).addTimeout(0.05, private_reactor()))
    with pytest.raises(cpspika.ConnectTimeout):
        outcome(connect_to_silent(silent, by, connection_timeout=0.05))
    spin(lambda: not held(), "something was left")


# --- endpoints --------------------------------------------------------------------------------------------------------


def test_a_publisher_waits_for_a_slow_broker(broker: Served, through: Any) -> None:
    """Over an endpoint: what Twisted and the kernel don't take is our backlog, and holds the publisher back."""
    channel = outcome(through.channel())
    queue = outcome(channel.queue_declare(exclusive=True)).queue
    broker.stall()
    size, waiting = 256 * 1024, []
    while channel.writable:
        waiting.append(channel.basic_publish(routing_key=queue, body=b"x" * size))
        through.reactor.run_once(0)
        assert len(waiting) < 1000, "it stays writable for ever"
    waiting.append(channel.basic_publish(routing_key=queue, body=b"x" * size))
    assert not waiting[-1].called
    broker.stall(False)
    assert outcome(waiting[-1]) is not None
    assert channel.writable
    assert outcome(channel.queue_declare(queue, passive=True)).message_count == len(waiting)


def test_what_an_endpoint_says_is_the_error(broker: Served) -> None:
    nobody = TCP4ClientEndpoint(private_reactor(), "127.0.0.1", 1)
    with pytest.raises(cpspika.ConnectError, match="Connection refused") as caught:
        outcome(connect("amqp://rabbit.example", endpoint=nobody))
    assert "rabbit.example" in str(caught.value)
    assert caught.value.__cause__ is not None
    assert held() == []


def test_a_lost_link_through_an_endpoint(broker: Served, through: Any) -> None:
    waiting = through.channel()
    broker.drop_links()
    with pytest.raises(cpspika.ConnectionClosed, match="was lost"):
        outcome(waiting)
    assert not through.is_open


def test_an_endpoint_that_cannot_be_used_is_refused_at_the_call(broker: Served) -> None:
    through = endpoint(broker)
    with pytest.raises(cpspika.InvalidArgument, match="TLS is the endpoint's"):
        connect("amqps://localhost", endpoint=through)
    with pytest.raises(cpspika.InvalidArgument, match="embedded"):
        connect("embedded://", endpoint=through)
    with pytest.raises(cpspika.InvalidArgumentType, match="clientFromString"):
        connect(broker.url, endpoint="tcp:localhost:5672")
    with pytest.raises(cpspika.InvalidArgument, match="unknown option 'hearbeat'"):
        connect(broker.url, endpoint=through, hearbeat=5)


class Owner:
    """Of an endpoint's transport: notes what it hears, and may raise when the transport is lost."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.heard: list[str] = []
        self.failure = failure

    def transport_ready(self) -> None:
        self.heard.append("ready")

    def data_received(self, data: bytes) -> None:
        self.heard.append("data")

    def bytes_written(self) -> bool:
        return True

    def transport_lost(self, error: Exception | None) -> None:
        self.heard.append("lost")
        if self.failure is not None:
            raise self.failure


@pytest.mark.parametrize("listens", [False, True])
def test_what_an_owner_raises_when_it_is_lost_goes_to_on_error_and_nothing_is_held(
    silent: socket.socket, listens: bool
) -> None:
    reactor = twisted_adapter.TwistedReactor(private_reactor())
    errors: list[BaseException] = []
    reactor.on_error = errors.append
    host, port = silent.getsockname() if listens else ("127.0.0.1", 1)
    owner = Owner(KeyError("lost"))
    transport = EndpointTransport(reactor, TCP4ClientEndpoint(private_reactor(), host, port), owner)
    if listens:
        spin(lambda: owner.heard, "nobody connected")
        silent.accept()[0].close()
    spin(lambda: "lost" in owner.heard, "it was not lost")
    assert errors == [owner.failure]
    assert transport.gone.called
    assert not reactor._has_work()


def test_an_endpoint_that_connects_though_it_was_given_up_is_hung_up_on(silent: socket.socket) -> None:
    host, port = silent.getsockname()
    factories: list[Any] = []

    @implementer(IStreamClientEndpoint)
    class Stubborn:
        def connect(self, factory: Any) -> Deferred[Any]:
            factories.append(factory)
            return Deferred()

    owner = Owner()
    transport = EndpointTransport(twisted_reactor(), Stubborn(), owner)
    spin(lambda: factories, "the endpoint was not asked")
    transport.abort()
    spin(lambda: transport.gone.called, "it was not given up")
    TCP4ClientEndpoint(private_reactor(), host, port).connect(factories[0])
    spin(lambda: select.select([silent], [], [], 0)[0], "nobody connected")
    with silent.accept()[0] as peer:
        spin(lambda: select.select([peer], [], [], 0)[0], "it was not hung up on")
        assert hung_up(peer)
    assert owner.heard == []
    spin(lambda: not held(), "something was left")


def test_a_transport_that_does_not_read_hangs_up_all_the_same(certificates: Any, silent: socket.socket) -> None:
    """In TLS the peer's goodbye is waited for, and so it must be read."""
    ssl_of_twisted = pytest.importorskip("twisted.internet.ssl")
    host, port = silent.getsockname()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)

    def answer() -> None:
        with context.wrap_socket(silent.accept()[0], server_side=True) as peer:
            peer.sendall(peer.recv(1))
            while peer.recv(65536):
                pass

    answering = threading.Thread(target=answer, daemon=True)
    answering.start()
    authority = ssl_of_twisted.Certificate.loadPEM(Path(certificates.ca).read_text())
    trusting = ssl_of_twisted.optionsForClientTLS("localhost", authority)
    owner = Owner()
    inner = TCP4ClientEndpoint(private_reactor(), host, port)
    transport = EndpointTransport(twisted_reactor(), wrapClientTLS(trusting, inner), owner)
    transport.write([b"x" * 100_000])
    spin(lambda: owner.heard, "nobody connected")
    transport.flush()
    spin(lambda: "data" in owner.heard, "nobody answered")
    transport.pause_reading(True)
    began = time.monotonic()
    transport.close()
    spin(lambda: transport.gone.called, "it did not hang up")
    assert time.monotonic() - began < LINGER
    answering.join(20)


# --- importing it ---------------------------------------------------------------------------------------------------


def test_twisted_missing_names_the_extra() -> None:
    script = "import sys; sys.modules['twisted'] = None\nfrom cpspika.adapters import twisted_adapter"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "pip install 'cpspika[twisted]'" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_importing_it_installs_no_reactor() -> None:
    script = (
        "import sys; from cpspika.adapters import twisted_adapter; sys.exit('twisted.internet.reactor' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
