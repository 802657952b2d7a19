"""A reactor for tests: links in memory, and a clock that the test controls.

Client and peer may run in one thread. Nothing arrives inside the call that sent it: all bytes written in a turn arrive
in the next turn, as one piece. Time passes only when no call is left to make; the clock then jumps to the next timer.
`advance` moves the clock by a given time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from ..errors import LocalError
from ..reactor import Acceptor, Endpoint, PlainReactor, Reactor, TransportOwner, interruption, register_transport
from .allocator import keep_freed_blocks


class Wire(Protocol):
    """The network between the two ends of a link in memory. A simulated network implements it; without one, bytes
    arrive in the next turn. An end offers it `receive`, `count_written` and `lost`."""

    def carry(self, end: MemoryTransport, data: bytes) -> None:
        """An end sends bytes. The wire calls `end.count_written` when they count as given to the kernel, and the
        other end's `receive` when they arrive; never inside carry."""

    def received(self, end: MemoryTransport, size: int) -> None:
        """The owner of an end has taken bytes that arrived; not yet, while reading is paused."""

    def hang_up(self, end: MemoryTransport, aborted: bool) -> None:
        """An end is closed. The wire calls the other end's `lost` when it hears of it; never inside hang_up. aborted:
        bytes that did not count as given to the kernel are dropped."""


class MemoryTransport:
    """One end of a link in memory. Implements `reactor.Transport`.

    The two ends may have different reactors, in different threads. Bytes are passed to the reactor of the other end,
    and count as written when that end has received them.

    owner: the owner of this end, or None once the owner is not called any more. peer: the other end, or None without
    one."""

    def __init__(self, reactor: Reactor):
        keep_freed_blocks()
        self.queued = 0
        self.written = 0
        self.was_interrupted = False
        self.owner: TransportOwner | None = None
        self.peer: MemoryTransport | None = None
        self._reactor = reactor
        self._out: list[bytes | memoryview] = []
        self._flushing = False
        self._closing = False
        self._paused = False
        self._arrived: deque[bytes] = deque()  # pieces that the owner hasn't received yet
        self.wire: Wire | None = None
        self._release = reactor.hold()
        register_transport(reactor, self)

    @classmethod
    def connect(
        cls, reactor: Reactor, owner: TransportOwner, acceptor: Acceptor, peers_reactor: Reactor | None = None
    ) -> MemoryTransport:
        """Links an owner to the owner that an acceptor makes. Returns the first owner's end. peers_reactor: the reactor
        of the other end; by default the same."""
        ours = cls(reactor)
        there = peers_reactor or reactor
        ours.owner = owner

        def accept() -> None:
            theirs = cls(there)
            theirs.peer = ours
            theirs.owner = acceptor(theirs)
            reactor.call_soon_threadsafe(lambda: ours._ready(theirs))

        there.call_soon_threadsafe(accept)
        return ours

    def _ready(self, peer: MemoryTransport) -> None:
        self.peer = peer
        if self.owner is not None:
            self.owner.transport_ready()
        else:
            self._hang_up()

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        if self._closing or self.owner is None:
            return
        chunks = list(chunks)
        self._out += chunks
        self.queued += sum(map(len, chunks))
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._reactor.call_soon(self._flush)

    def flush(self) -> None:
        if self._out:
            self._hand_over()

    def _flush(self) -> None:
        self._flushing = False
        self._hand_over()
        if self._closing:
            self._hang_up()

    def _hand_over(self) -> None:
        data, peer = b"".join(self._out), self.peer
        self._out.clear()
        if data and self.wire is not None:
            self.wire.carry(self, data)
        elif data and peer is not None:
            there = peer
            peer._reactor.call_soon_threadsafe(lambda: there.receive(data))

    def receive(self, data: bytes) -> None:
        """In the reactor of this end: bytes of the peer arrive."""
        self._arrived.append(data)
        self._deliver()

    def _deliver(self) -> None:
        """Passes the bytes that arrived to the owner, unless reading is paused."""
        while self._arrived and not self._paused:
            data, peer = self._arrived.popleft(), self.peer
            if self.wire is not None:
                self.wire.received(self, len(data))
            elif peer is not None:
                there, size = peer, len(data)
                peer._reactor.call_soon_threadsafe(lambda there=there, size=size: there.count_written(size))  # type: ignore[misc]
            if self.owner is not None:
                self.owner.data_received(data)

    def count_written(self, size: int) -> None:
        """In the reactor of this end: the peer has received bytes."""
        self.written += size
        if self.owner is not None:
            self.owner.bytes_written()

    def pause_reading(self, paused: bool) -> None:
        self._paused = paused
        if not paused:
            self._reactor.call_soon(self._deliver)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.owner = None
            self._flush_soon()

    def abort(self) -> None:
        self._out.clear()
        self._closing = True
        self.owner = None
        self._hang_up(aborted=True)

    detach = abort

    def interrupted(self, error: BaseException) -> None:
        """As of `Transport`."""
        self.was_interrupted = True
        if self.owner is not None:  # first, since another exception may come before the rest is done
            self._reactor.call_soon(partial(self.owner.transport_lost, interruption(error)))
        self.abort()

    def _hang_up(self, aborted: bool = False) -> None:
        self._release()
        peer, self.peer = self.peer, None
        if self.wire is not None:
            wire, self.wire = self.wire, None
            wire.hang_up(self, aborted)
        elif peer is not None:
            there = peer
            peer._reactor.call_soon_threadsafe(lambda: there.lost(None))

    def lost(self, error: Exception | None) -> None:
        """Ends the link: the peer closed it, or a test cuts it. error: the reason; None: closed in order."""
        self._release()
        self.peer = self.wire = None
        self._closing = True
        self._report_loss(error)

    def _report_loss(self, error: Exception | None) -> None:
        # The owner stays until it has been told: an exception of a signal handler may come before that.
        if self.owner is not None:
            self.owner.transport_lost(error)
            self.owner = None


class _MemoryListener:
    def __init__(self, listeners: dict[tuple[str, int], Acceptor], host: str, port: int):
        self.host, self.port = host, port
        self._listeners = listeners

    def close(self) -> None:
        self._listeners.pop((self.host, self.port), None)


class MemoryReactor(PlainReactor):
    """Drives links in memory, to peers that listen on the same reactor."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._listeners: dict[tuple[str, int], Acceptor] = {}

    def listen(self, host: str, port: int, acceptor: Acceptor) -> _MemoryListener:
        """Accepts links to this host and port."""
        self._listeners[host, port] = acceptor
        return _MemoryListener(self._listeners, host, port)

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves the clock by some seconds, and makes the calls that become due meanwhile."""
        until = self._now + seconds
        while self._ready or self._now < until:
            self.run_once(until - self._now)

    def settle(self) -> None:
        """Makes turns until no call is left. The clock stands still."""
        while self._ready:
            self.run_once(0)

    def resolve(self, endpoint: Endpoint, on_done: Callable[[Exception | None, list[Any] | None], object]) -> None:
        acceptor = self._listeners.get((endpoint.host, endpoint.port))
        if acceptor is None:
            refused = ConnectionRefusedError(f"nothing listens at {endpoint} on this MemoryReactor")
            self.call_soon(lambda: on_done(refused, None))
        else:
            self.call_soon(lambda: on_done(None, [acceptor]))

    def open(self, endpoint: Endpoint, address: Any, owner: TransportOwner) -> MemoryTransport:
        return MemoryTransport.connect(self, owner, address)

    @property
    def is_idle(self) -> bool:
        """Whether no call and no timer is left, so that nothing can happen."""
        return not self._has_work()

    def _has_work(self) -> bool:
        # Unlike a socket, an open link is nothing to wait for: only a call can send bytes on it.
        return bool(self._ready) or self._timers.next() is not None

    def _has_transports(self) -> bool:
        return False

    def _poll(self, timeout: float | None) -> None:
        if timeout is None:
            raise LocalError(
                "a MemoryReactor was told to wait for an event that cannot come: no call and no timer is left"
            )
        self._now += timeout

    def _wake(self) -> None:
        pass
