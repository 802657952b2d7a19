"""Links in memory and a clock that the test turns: client and peer in one thread, exact and instant.

Nothing arrives inside the call that sent it: what is written in a turn arrives, as one piece, in the next. Time passes
only when nothing else can happen, and then it jumps to the next timer; `advance` turns the clock by hand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import LocalError
from ..reactor import Acceptor, Endpoint, PlainReactor, Reactor, TransportOwner
from .allocator import keep_freed_blocks


class MemoryTransport:
    """One end of a link in memory. The ends may live on different reactors, in different threads: what one writes is
    handed to the other's reactor, and counts as written when that has taken it."""

    def __init__(self, reactor: Reactor):
        keep_freed_blocks()
        self.queued = 0
        self.written = 0
        self.owner: TransportOwner | None = None
        self.peer: MemoryTransport | None = None
        self._reactor = reactor
        self._out: list[bytes | memoryview] = []
        self._flushing = False
        self._closing = False
        self._paused = False
        self._waiting: deque[bytes] = deque()
        self._release = reactor.hold()

    @classmethod
    def connect(
        cls, reactor: Reactor, owner: TransportOwner, acceptor: Acceptor, peers_reactor: Reactor | None = None
    ) -> MemoryTransport:
        """A link between an owner and the one that the acceptor makes, which lives on `peers_reactor` (the same, if
        none is given)."""
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
        if data and peer is not None:
            there = peer
            peer._reactor.call_soon_threadsafe(lambda: there._arrived(data))

    def _arrived(self, data: bytes) -> None:
        """In this end's reactor: the peer's bytes."""
        self._waiting.append(data)
        self._read()

    def _read(self) -> None:
        while self._waiting and not self._paused:
            data, peer = self._waiting.popleft(), self.peer
            if peer is not None:
                there, size = peer, len(data)
                peer._reactor.call_soon_threadsafe(lambda there=there, size=size: there._taken(size))  # type: ignore[misc]
            if self.owner is not None:
                self.owner.data_received(data)

    def _taken(self, size: int) -> None:
        self.written += size
        if self.owner is not None:
            self.owner.bytes_written()

    def pause_reading(self, paused: bool) -> None:
        self._paused = paused
        if not paused:
            self._reactor.call_soon(self._read)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.owner = None
            self._flush_soon()

    def abort(self) -> None:
        self._out.clear()
        self._closing = True
        self.owner = None
        self._hang_up()

    detach = abort

    def _hang_up(self) -> None:
        self._release()
        peer, self.peer = self.peer, None
        if peer is not None:
            there = peer
            peer._reactor.call_soon_threadsafe(lambda: there.lost(None))

    def lost(self, error: Exception | None) -> None:
        """The link is cut: by the peer, or by a test."""
        self._release()
        owner, self.owner, self.peer = self.owner, None, None
        self._closing = True
        if owner is not None:
            owner.transport_lost(error)


class _MemoryListener:
    def __init__(self, listeners: dict[tuple[str, int], Acceptor], host: str, port: int):
        self.host, self.port = host, port
        self._listeners = listeners

    def close(self) -> None:
        self._listeners.pop((self.host, self.port), None)


class MemoryReactor(PlainReactor):
    """Drives links in memory, to peers that listen on it."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._listeners: dict[tuple[str, int], Acceptor] = {}

    def listen(self, host: str, port: int, acceptor: Acceptor) -> _MemoryListener:
        """Links to host and port go to whom the acceptor makes."""
        self._listeners[host, port] = acceptor
        return _MemoryListener(self._listeners, host, port)

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Turns the clock, and runs what comes due on the way."""
        until = self._now + seconds
        while self._ready or self._now < until:
            self.run_once(until - self._now)

    def settle(self) -> None:
        """Runs until nothing more can happen without time passing."""
        while self._ready:
            self.run_once(0)

    def resolve(self, endpoint: Endpoint, on_done: Callable[[Exception | None, list[Any] | None], object]) -> None:
        acceptor = self._listeners.get((endpoint.host, endpoint.port))
        if acceptor is None:
            refused = ConnectionRefusedError(f"nothing listens on {endpoint} in memory")
            self.call_soon(lambda: on_done(refused, None))
        else:
            self.call_soon(lambda: on_done(None, [acceptor]))

    def open(self, endpoint: Endpoint, address: Any, owner: TransportOwner) -> MemoryTransport:
        return MemoryTransport.connect(self, owner, address)

    def _has_work(self) -> bool:
        # An open link alone is nothing to wait for: both its ends are here, and idle.
        return bool(self._ready) or self._timers.next() is not None

    def _has_transports(self) -> bool:
        return False

    def _poll(self, timeout: float | None) -> None:
        if timeout is None:
            raise LocalError("a wait on a MemoryReactor for something that cannot come: no call and no timer is left")
        self._now += timeout

    def _wake(self) -> None:
        pass
