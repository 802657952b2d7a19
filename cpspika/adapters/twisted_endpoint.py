"""A transport through one of Twisted's endpoints: TCP, TLS, a UNIX socket, a proxy or a tunnel, whatever connects.

Twisted buffers what it is given and tells a producer when that is too much (64 KiB, as a rule) and when all of it has
gone. So what is given counts as written at once while the buffer is short, and when it has gone otherwise; meanwhile
the rest stays here, as our backlog.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped, unused-ignore]

from ..reactor import IDLE, Timer, TransportOwner
from .allocator import keep_freed_blocks
from .sockets import LINGER
from .twisted_reactor import TwistedReactor


@implementer(IPushProducer)
class EndpointTransport(Protocol):
    """Connects through an endpoint. Fulfils `reactor.Transport`. `gone` fires when nothing of it is left."""

    transport: Any

    def __init__(self, reactor: TwistedReactor, endpoint: Any, owner: TransportOwner):
        keep_freed_blocks()
        self.queued = 0
        self.written = 0
        self.gone: Deferred[None] = Deferred()
        self._reactor = reactor
        self._owner: TransportOwner | None = owner
        self._connecting: Deferred[Any] | None = None
        self._out: list[bytes | memoryview] = []
        self._given = 0  # bytes handed to Twisted
        self._full = False  # Twisted wants no more, until what it has is gone
        self._flushing = False
        self._open = False
        self._closing = False
        self._paused = False
        self._linger: Timer | None = None
        self._release = reactor.hold()
        reactor.call_soon(partial(self._begin, endpoint))  # an endpoint may connect, or fail, inside the call

    def _begin(self, endpoint: Any) -> None:
        if self._owner is not None:
            self._connecting = maybeDeferred(connectProtocol, endpoint, self)
            self._connecting.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        self._reactor.turn(partial(self._lost, failure.value))

    # --- what Twisted calls -------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        if self._owner is None:  # some endpoints cannot be stopped
            self._cut()
            return
        self._open = True
        self.transport.registerProducer(self, True)
        if self._paused:
            self.transport.pauseProducing()
        self._reactor.turn(self._owner.transport_ready)

    def dataReceived(self, data: bytes) -> None:
        if self._owner is not None:
            self._reactor.turn(partial(self._owner.data_received, data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        error = None if isinstance(reason.value, ConnectionDone) else reason.value
        self._reactor.turn(partial(self._lost, error))

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        self._reactor.turn(self._flush)

    def stopProducing(self) -> None:
        pass  # connectionLost comes

    # --- what the owner calls -----------------------------------------------------------------------------------------

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        if self._closing or self._owner is None:
            return
        before = len(self._out)
        self._out += chunks
        self.queued += sum(map(len, self._out[before:]))
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._reactor.call_soon(self._flush)

    def flush(self) -> None:
        """Gives to Twisted now what gathered, before the end of the turn."""
        if self._open and not self._closing:
            self._give()
            self._tell()

    def _flush(self) -> object:
        """The end of a turn: gives to Twisted what gathered, and tells the owner. IDLE if nobody was called for it."""
        self._flushing = False
        if not self._open:
            return IDLE
        self._give()
        if self._closing:
            self.transport.unregisterProducer()  # while there is one, Twisted doesn't hang up
            self.transport.loseConnection()
        return None if self._tell() else IDLE

    def _give(self) -> None:
        if self._out and (self._closing or not self._full):
            data = b"".join(self._out)
            self._out.clear()
            self._given = self.queued
            self.transport.write(data)  # calls pauseProducing, if it is too much

    def _tell(self) -> bool:
        if self._owner is None or self._full or self.written == self._given:
            return False
        self.written = self._given
        return bool(self._owner.bytes_written())

    def pause_reading(self, paused: bool) -> None:
        if self._paused != paused:
            self._paused = paused
            if self._open and not self._closing:
                (self.transport.pauseProducing if paused else self.transport.resumeProducing)()

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._closing or self.gone.called:
            return
        if not self._open:
            self.abort()
            return
        self.pause_reading(False)  # TLS waits for the peer's goodbye
        self._closing = True
        self._owner = None
        self._reactor.leaves(self.gone)
        self._reactor.call_soon(self._flush)
        self._linger = self._reactor.call_later(LINGER, self._cut)

    def abort(self) -> None:
        self._closing = True
        self._owner = None
        self._out.clear()
        if self._open:
            self._reactor.leaves(self.gone)
            self._cut()
        elif self._connecting is not None:
            self._connecting.cancel()
        else:
            self._gone()

    def _cut(self) -> None:
        self.transport.unregisterProducer()
        getattr(self.transport, "abortConnection", self.transport.loseConnection)()

    def detach(self) -> None:
        # An endpoint has no way to let go of its socket; the child of a fork may keep it, and doesn't use it.
        self._closing = True
        self._owner = None

    def _lost(self, error: Any) -> None:
        owner, self._owner = self._owner, None
        self._open = False
        self._out.clear()
        if self._linger is not None:
            self._linger.cancel()
        self._gone()  # first: the owner may raise
        if owner is not None:
            owner.transport_lost(error)

    def _gone(self) -> None:
        self._release()
        if not self.gone.called:
            self.gone.callback(None)
