"""A transport through one of Twisted's client endpoints: TCP, TLS, a UNIX socket, a proxy, a tunnel.

Theory of operation
===================

Twisted has a write buffer. It calls a registered producer (here: this transport) when the buffer is full
(`pauseProducing`; as a rule at 64 KiB) and when it is empty again (`resumeProducing`).

So the transport passes its chunks to Twisted at the end of each turn, unless the buffer is full. As long as the buffer
is not full, these bytes count as written at once; else when the buffer is empty again. Chunks that come meanwhile stay
in `_out`, as the backlog of the link.
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

from ..reactor import IDLE, Timer, TransportOwner, interruption
from .allocator import keep_freed_blocks
from .sockets import LINGER
from .twisted_reactor import TwistedReactor


@implementer(IPushProducer)
class EndpointTransport(Protocol):
    """A connection through an endpoint. Implements `reactor.Transport`.

    reactor: the reactor. endpoint: an IStreamClientEndpoint. owner: the owner.

    gone: a Deferred that fires when the connection is closed and nothing of it is left in Twisted."""

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
        self._passed = 0  # bytes passed to Twisted
        self._full = False  # Twisted's buffer is full
        self._flushing = False  # a call of `_flush` is queued
        self._open = False
        self._closing = False
        self._paused = False
        self._linger: Timer | None = None
        self._release = reactor.hold()
        # In a later call, because an endpoint may connect or fail at once, and the owner must not be called in this
        # one.
        reactor.call_soon(partial(self._begin, endpoint))

    def _begin(self, endpoint: Any) -> None:
        if self._owner is not None:
            self._connecting = maybeDeferred(connectProtocol, endpoint, self)
            self._connecting.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        self._reactor.turn(partial(self._lost, failure.value))

    # --- called by Twisted --------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        if self._owner is None:  # closed while it connected, by an endpoint that could not be cancelled
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
        pass  # Twisted calls connectionLost next

    # --- called by the owner -----------------------------------------------------------------------------------------

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
        """As of `Transport`: passes the queued chunks to Twisted now."""
        if self._open and not self._closing:
            self._pass_on()
            self._report_written()

    def _flush(self) -> object:
        """At the end of a turn: passes the queued chunks to Twisted, and reports to the owner. IDLE if it called no
        user code."""
        self._flushing = False
        if not self._open:
            return IDLE
        self._pass_on()
        if self._closing:
            self.transport.unregisterProducer()  # Twisted doesn't close a connection that has a producer
            self.transport.loseConnection()
        return None if self._report_written() else IDLE

    def _pass_on(self) -> None:
        """Passes the queued chunks to Twisted, unless its buffer is full."""
        if self._out and (self._closing or not self._full):
            data = b"".join(self._out)
            self._out.clear()
            self._passed = self.queued
            self.transport.write(data)  # calls pauseProducing, if this fills the buffer

    def _report_written(self) -> bool:
        """Calls the owner's bytes_written, if `written` can grow. True if the owner called user code."""
        if self._owner is None or self._full or self.written == self._passed:
            return False
        self.written = self._passed
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
        self.pause_reading(False)  # TLS must read the peer's close_notify
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

    def interrupted(self, error: BaseException) -> None:
        """As of `Transport`."""
        owner, lost = self._owner, interruption(error)
        self.abort()
        if owner is not None:
            self._reactor.call_soon(lambda: owner.transport_lost(lost))

    def _cut(self) -> None:
        self.transport.unregisterProducer()
        getattr(self.transport, "abortConnection", self.transport.loseConnection)()

    def detach(self) -> None:
        # An endpoint cannot give up its socket. The child of a fork keeps the socket open, and doesn't use it.
        self._closing = True
        self._owner = None

    def _lost(self, error: Any) -> None:
        owner, self._owner = self._owner, None
        self._open = False
        self._out.clear()
        if self._linger is not None:
            self._linger.cancel()
        self._gone()  # before the owner's call, which may raise an exception
        if owner is not None:
            owner.transport_lost(error)

    def _gone(self) -> None:
        self._release()
        if not self.gone.called:
            self.gone.callback(None)
