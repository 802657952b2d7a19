"""The machinery of the conformance tests: their base class, and the two ends of a transport.

A test is a generator. It yields a condition (a function without arguments) and goes on when the condition is true.
`Play` drives the loop meanwhile, from outside or from inside.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from ..reactor import Endpoint, Transport

DEADLINE = 10.0  # seconds

R = TypeVar("R")
Done = Callable[[], bool]
Steps = Generator[Done, None, R]


def needs(*flags: str, first: Callable[[], object] | None = None) -> Callable[[Callable[[Any], Steps[None]]], Any]:
    """Makes a test of a generator function. flags: the test is run only for an adapter that has all of them. first: a
    function that is called before the loop is entered; it may raise SkipTest, which some loops would wrap in another
    exception."""

    def test_of(steps: Callable[[Any], Steps[None]]) -> Any:
        @functools.wraps(steps)
        def test(self: Play) -> None:
            if first is not None:
                first()
            self.play(self._whole(steps))

        test.needs = flags  # type: ignore[attr-defined]
        return test

    return test_of


class Owner:
    """The owner of a transport. heard: its calls, in order ("ready", or ("lost", error)). data: the bytes that
    arrived."""

    transport: Transport

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.data = bytearray()
        self.told = 0  # `written` at the last call of bytes_written

    def transport_ready(self) -> None:
        self.heard.append("ready")

    def data_received(self, data: bytes) -> None:
        self.data += data

    def bytes_written(self) -> bool:
        self.told = self.transport.written
        return True

    def transport_lost(self, error: Exception | None) -> None:
        self.heard.append(("lost", error))


class Peer:
    """A plain socket, the peer of a transport. Without a port it listens, and the reactor connects to it. port: it
    connects to this port."""

    def __init__(self, port: int | None = None) -> None:
        self._listener = socket.socket()
        self._socket: socket.socket | None = None
        self.data = bytearray()
        self.ended = False
        if port is None:
            self._listener.bind(("127.0.0.1", 0))
            self._listener.listen()
            self._listener.settimeout(DEADLINE)
        else:
            self._use(socket.create_connection(("127.0.0.1", port), DEADLINE))

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self._listener.getsockname()[1])

    def accept(self) -> None:
        self._use(self._listener.accept()[0])

    def is_connected(self) -> bool:
        """Whether a transport has connected by now."""
        if self._socket is None:
            self._listener.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                self._use(self._listener.accept()[0])
        return self._socket is not None

    def _use(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock

    def send(self, data: bytes) -> None:
        assert self._socket is not None
        self._socket.sendall(data)

    def has(self, count: int) -> bool:
        """Reads what has arrived. Whether that is `count` bytes by now, or more."""
        assert self._socket is not None
        try:
            while not self.ended:
                data = self._socket.recv(1 << 20)
                self.data += data
                self.ended = not data
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.ended = True
        return len(self.data) >= count

    def hung_up(self) -> bool:
        """Whether the other end has closed the connection."""
        return self.has(0) and self.ended

    def close(self) -> None:
        self._listener.close()
        if self._socket is not None:
            self._socket.close()


class Play:
    """The base class of the tests. A subclass sets a flag to False for what its adapter cannot do; the tests that need
    the flag are then left out."""

    many = True  # the reactor drives several transports at once
    listens = True  # the reactor has `listen`
    runs = True  # the program may drive the reactor: it has `run`, `stop` and `run_once`
    sockets = True  # the reactor connects to real sockets, and waits in real time

    deadline = DEADLINE  # seconds that a test waits for an event

    reactor: Any  # the reactor of the current test
    errors: list[BaseException]  # the exceptions that on_error received

    # --- for a subclass to
    # override-------------------------------------------------------------------------------------

    def make_reactor(self) -> Any:
        """A reactor of the adapter, for one test. Must be overridden."""
        raise NotImplementedError

    def drive(self, reactor: Any, done: Done) -> None:
        """Drives the loop until done() is true. It becomes true at the deadline, whatever happens."""
        while not done():
            reactor.run_once(0.01)

    def play(self, steps: Steps[None]) -> None:
        """Runs a test and drives the loop from outside. Override this for a loop that the program runs, and run
        `play_inside` in it, for instance asyncio.run(self.play_inside(steps, asyncio.sleep)). The whole test, with
        make_reactor, is then run inside the loop."""
        for done in steps:
            self.drive(self.reactor, done)

    async def play_inside(self, steps: Steps[None], sleep: Callable[[float], Awaitable[object]]) -> None:
        """Runs a test inside a loop that has coroutines. sleep: the loop's own, sleep(seconds)."""
        for done in steps:
            while not done():
                await sleep(0.001)

    def leftovers(self) -> list[Any]:
        """The sockets, timers and calls that the loop still has after everything was closed."""
        return []

    def close_reactor(self, reactor: Any) -> None:
        """Closes a reactor that make_reactor made."""
        getattr(reactor, "close", lambda: None)()

    # --- for a test to use --------------------------------------------------------------------------------------------

    def __init_subclass__(cls) -> None:
        for name in dir(cls):
            test = getattr(cls, name)
            if not all(getattr(cls, flag) for flag in getattr(test, "needs", ())):
                setattr(cls, name, None)

    def _whole(self, steps: Callable[[Any], Steps[None]]) -> Steps[None]:
        self.reactor = self.make_reactor()
        self.errors = []
        self.reactor.on_error = self.errors.append
        self._open: list[Callable[[], object]] = []
        try:
            yield from steps(self)
            self._close_all()
            yield from self.until("end of everything that the loop holds", lambda: not self.leftovers())
            assert not self.errors, f"on_error received {self.errors}"
        finally:
            self._close_all()
            self.close_reactor(self.reactor)

    def _close_all(self) -> None:
        while self._open:
            self._open.pop()()

    def until(self, what: str, done: Callable[[], object]) -> Steps[None]:
        """Waits until done() is true. AssertionError: it did not become true before the deadline. what: the event, for
        the message."""
        came = False

        def over() -> bool:
            nonlocal came
            came = came or bool(done())
            return came or time.monotonic() > deadline

        deadline = time.monotonic() + self.deadline
        yield over
        assert came, f"waited {self.deadline:g} s in vain for the {what}"

    def run(self) -> None:
        """Calls `run` of the reactor. AssertionError: it did not end within twice the deadline."""

        def uncover() -> None:
            self.reactor.on_error = None  # so that an exception leaves run, even if `stop` doesn't work

        def leave() -> None:
            raise TimeoutError

        def late() -> None:
            self.reactor.call_soon_threadsafe(uncover)
            self.reactor.call_soon_threadsafe(leave)

        watchdog = threading.Timer(2 * self.deadline, late)
        watchdog.daemon = True
        watchdog.start()
        try:
            self.reactor.run()
        except TimeoutError:
            raise AssertionError(f"waited {2 * self.deadline:g} s in vain for the end of run") from None
        finally:
            watchdog.cancel()

    def found(self, endpoint: Endpoint) -> Steps[tuple[Exception | None, Any]]:
        """Calls `resolve`; returns (error, addresses) as passed to its on_done."""
        told: list[tuple[Exception | None, Any]] = []
        self.reactor.resolve(endpoint, lambda error, addresses: told.append((error, addresses)))
        assert told == [], "resolve called on_done inside the call"
        yield from self.until(f"on_done of resolve({endpoint})", lambda: told)
        yield from self.turn()
        assert len(told) == 1, "resolve called on_done twice"
        return told[0]

    def opened(self, endpoint: Endpoint) -> Steps[Owner]:
        """Opens a transport, and returns its owner when the transport is ready or lost."""
        error, addresses = yield from self.found(endpoint)
        assert error is None, error
        assert addresses, "resolve found no address"
        owner = Owner()
        owner.transport = self.reactor.open(endpoint, addresses[0], owner)
        self._open.append(owner.transport.abort)
        assert owner.heard == [], "open called its owner inside the call"
        yield from self.until("transport_ready, or transport_lost, of an open", lambda: owner.heard)
        return owner

    def linked(self) -> Steps[tuple[Owner, Peer]]:
        """Opens a transport to a new peer; returns its owner and the peer."""
        peer = Peer()
        self._open.append(peer.close)
        owner = yield from self.opened(peer.endpoint)
        assert owner.heard == ["ready"]
        peer.accept()
        return owner, peer

    def turn(self) -> Steps[None]:
        """Waits for at least one turn."""
        turned: list[bool] = []
        self.reactor.call_soon(lambda: turned.append(True))
        yield from self.until("call of call_soon", lambda: turned)
