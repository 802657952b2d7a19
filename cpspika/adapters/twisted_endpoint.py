"""A transport through one of Twisted's client endpoints: TCP, TLS, a UNIX socket, a proxy, a tunnel.

Twisted has a write buffer. It calls a registered producer (here: this transport) when the buffer is full
(`pauseProducing`; as a rule at 64 KiB) and when it is empty again (`resumeProducing`). `loop_transport` says what the
transport makes of this.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped, unused-ignore]

from ..reactor import TransportOwner
from .loop_transport import LoopTransport
from .twisted_reactor import TwistedReactor


@implementer(IPushProducer)
class EndpointTransport(LoopTransport, Protocol):
    """A connection through an endpoint. Implements `reactor.Transport`.

    reactor: the reactor. endpoint: an IStreamClientEndpoint. owner: the owner.

    gone: a Deferred that fires when the connection is closed and nothing of it is left in Twisted."""

    transport: Any

    def __init__(self, reactor: TwistedReactor, endpoint: Any, owner: TransportOwner):
        self.gone: Deferred[None] = Deferred()
        self._connecting: Deferred[Any] | None = None
        super().__init__(reactor, owner)
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
        self._reactor.turn(partial(self._ended, reason))

    def _ended(self, reason: Failure) -> None:
        self._lost(None if isinstance(reason.value, ConnectionDone) else reason.value)

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        self._reactor.turn(self._flush)

    def stopProducing(self) -> None:
        pass  # Twisted calls connectionLost next

    # --- as of LoopTransport ------------------------------------------------------------------------------------------

    def _pass_on(self) -> None:
        if self._out and (self._closing or not self._full):
            data = b"".join(self._out)
            self._out.clear()
            self._passed = self.queued
            self.transport.write(data)  # calls pauseProducing, if this fills the buffer

    def _has_ended(self) -> bool:
        return not getattr(self.transport, "connected", True)  # of TLS it is not known

    def _read(self, wanted: bool) -> None:
        (self.transport.resumeProducing if wanted else self.transport.pauseProducing)()

    def _end(self) -> None:
        self.transport.unregisterProducer()  # Twisted doesn't close a connection that has a producer
        self.transport.loseConnection()

    def _cut(self) -> None:
        self.transport.unregisterProducer()
        getattr(self.transport, "abortConnection", self.transport.loseConnection)()

    def _give_up(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        else:
            self._gone()

    def _leaves(self) -> None:
        self._reactor.leaves(self.gone)

    def _gone(self) -> None:
        super()._gone()
        if not self.gone.called:
            self.gone.callback(None)
