"""How the tests of `conformance` are played: the base of its class, and the two ends of a transport.

A test is a generator that yields what it waits for. `Play` drives the loop meanwhile, from outside or from inside.
"""

from __future__ import annotations

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
    """A test, for adapters that have all these flags. first: called before the loop is entered; it may raise SkipTest,
    which some loops would wrap."""

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
    """Who is told of a transport: `heard`, in order, and the bytes of `data`."""

    transport: Transport

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.data = bytearray()
        self.told = 0  # what `written` was when it last was told

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
    """A plain socket for the reactor to connect to, or one that connects to it."""

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

    def _use(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock

    def send(self, data: bytes) -> None:
        assert self._socket is not None
        self._socket.sendall(data)

    def has(self, count: int) -> bool:
        """Whether so many bytes came; reads what there is."""
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
        return self.has(0) and self.ended

    def close(self) -> None:
        self._listener.close()
        if self._socket is not None:
            self._socket.close()


class Play:
    """A class of tests. What an adapter cannot do it says in a flag, and the tests that need it fall away."""

    many = True  # drives several transports at once
    listens = True  # has `listen`
    runs = True  # the program may drive it: has `run`, `stop` and `run_once`
    sockets = True  # connects to the world outside, and so waits in real time

    deadline = DEADLINE  # for whatever a test waits for

    reactor: Any  # of the test that is played
    errors: list[BaseException]  # what came to on_error

    # --- what a subclass says -----------------------------------------------------------------------------------------

    def make_reactor(self) -> Any:
        """A reactor of the adapter, for one test."""
        raise NotImplementedError

    def drive(self, reactor: Any, done: Done) -> None:
        """Turns the loop until done() is true; it comes true at the deadline too."""
        while not done():
            reactor.run_once(0.01)

    def play(self, steps: Steps[None]) -> None:
        """Plays a test, driving the loop from outside. For a loop that must be entered: run `play_inside` in it, for
        instance `asyncio.run(self.play_inside(steps, asyncio.sleep))`; all of the test, make_reactor too, then
        happens inside."""
        for done in steps:
            self.drive(self.reactor, done)

    async def play_inside(self, steps: Steps[None], sleep: Callable[[float], Awaitable[object]]) -> None:
        """Plays a test inside a loop that has coroutines."""
        for done in steps:
            while not done():
                await sleep(0.001)

    def leftovers(self) -> list[Any]:
        """What the loop still holds after everything was closed: sockets it watches, timers, calls."""
        return []

    def close_reactor(self, reactor: Any) -> None:
        """Gives back what make_reactor took."""
        getattr(reactor, "close", lambda: None)()

    # --- how a test is made -------------------------------------------------------------------------------------------

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
            assert not self.errors, f"came to on_error: {self.errors}"
        finally:
            self._close_all()
            self.close_reactor(self.reactor)

    def _close_all(self) -> None:
        while self._open:
            self._open.pop()()

    def until(self, what: str, done: Callable[[], object]) -> Steps[None]:
        """Waits for done(); AssertionError: `what` never came."""
        came = False

        def over() -> bool:
            nonlocal came
            came = came or bool(done())
            return came or time.monotonic() > deadline

        deadline = time.monotonic() + self.deadline
        yield over
        assert came, f"waited {self.deadline:g} s in vain for the {what}"

    def run(self) -> None:
        """The reactor's `run`. AssertionError: it did not end."""

        def uncover() -> None:
            self.reactor.on_error = None  # so that an exception leaves run: `stop` may be what is broken

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
        """What `resolve` tells."""
        told: list[tuple[Exception | None, Any]] = []
        self.reactor.resolve(endpoint, lambda error, addresses: told.append((error, addresses)))
        assert told == [], "resolve called on_done inside the call"
        yield from self.until(f"on_done of resolve({endpoint})", lambda: told)
        yield from self.turn()
        assert len(told) == 1, "resolve called on_done twice"
        return told[0]

    def opened(self, endpoint: Endpoint) -> Steps[Owner]:
        """The owner of a transport that is ready, or lost."""
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
        """A transport, and its peer."""
        peer = Peer()
        self._open.append(peer.close)
        owner = yield from self.opened(peer.endpoint)
        assert owner.heard == ["ready"]
        peer.accept()
        return owner, peer

    def turn(self) -> Steps[None]:
        """One turn at least."""
        turned: list[bool] = []
        self.reactor.call_soon(lambda: turned.append(True))
        yield from self.until("call of call_soon", lambda: turned)
