"""Links in memory and a clock that the test turns: client and peer in one thread, exact and instant.

Nothing arrives inside the call that sent it: what is written in a turn arrives, as one piece, in the next. Time passes
only when nothing else can happen, and then it jumps to the next timer; `advance` turns the clock by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ..errors import LocalError
from ..reactor import Endpoint, PlainReactor, Reactor, TransportOwner


class Acceptor(Protocol):
    """The peer's side of a link in memory, before it is one: given its transport, it returns the owner."""

    def __call__(self, transport: MemoryTransport) -> TransportOwner: ...


class MemoryTransport:
    """One end of a link in memory. It works over any reactor that has `call_soon`."""

    def __init__(self, reactor: Reactor):
        self.queued = 0
        self.written = 0
        self.owner: TransportOwner | None = None
        self.peer: MemoryTransport | None = None
        self._reactor = reactor
        self._out: list[bytes | memoryview] = []
        self._flushing = False
        self._closing = False

    @classmethod
    def connect(cls, reactor: Reactor, owner: TransportOwner, acceptor: Acceptor) -> MemoryTransport:
        """A link between an owner and the one that the acceptor makes."""
        ours, theirs = cls(reactor), cls(reactor)
        ours.owner, ours.peer, theirs.peer = owner, theirs, ours

        def ready() -> None:
            if ours.owner is not None:
                theirs.owner = acceptor(theirs)
                ours.owner.transport_ready()

        reactor.call_soon(ready)
        return ours

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

    def _flush(self) -> None:
        self._flushing = False
        data, peer = b"".join(self._out), self.peer
        self._out.clear()
        self.written += len(data)
        if data and peer is not None:
            self._reactor.call_soon(lambda: peer.owner.data_received(data) if peer.owner is not None else None)
        if self._closing:
            self._hang_up()
        elif self.owner is not None:
            self.owner.bytes_written()

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
        peer, self.peer = self.peer, None
        if peer is not None:
            self._reactor.call_soon(lambda: peer.lost(None))

    def lost(self, error: Exception | None) -> None:
        """The link is cut: by the peer, or by a test."""
        owner, self.owner, self.peer = self.owner, None, None
        self._closing = True
        if owner is not None:
            owner.transport_lost(error)


class MemoryReactor(PlainReactor):
    """Drives links in memory, to peers that listen on it."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._listeners: dict[tuple[str, int], Acceptor] = {}

    def listen(self, host: str, port: int, acceptor: Acceptor) -> None:
        """Links to host and port go to whom the acceptor makes."""
        self._listeners[host, port] = acceptor

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

    def _has_transports(self) -> bool:
        return False

    def _poll(self, timeout: float | None) -> None:
        if timeout is None:
            raise LocalError("a wait on a MemoryReactor for something that cannot come: no call and no timer is left")
        self._now += timeout

    def _wake(self) -> None:
        pass
