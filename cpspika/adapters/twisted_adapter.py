"""Twisted: the same operations, each a Deferred, on Twisted's reactor.

    @inlineCallbacks                                     async def main(reactor):
    def main(reactor):
        conn = yield twisted_adapter.connect(url)            conn = await twisted_adapter.connect(url)
        ch = yield conn.channel()                            ch = await conn.channel()
        ok = yield ch.queue_declare("q")                     ok = await ch.queue_declare("q")
        yield conn.close()                                   await conn.close()

    task.react(main)

A callback may be a coroutine function, a generator function, or return a Deferred. A failure in it is logged, or goes
to `conn.reactor.on_error`. A cancelled Deferred leaves the channel in order: see `cpspika.styles.promises`. When the
Deferred of `close` fires, or that of `connect` fails, nothing of the connection is left in the reactor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

try:
    from twisted.internet.defer import CancelledError, Deferred, succeed
    from twisted.internet.interfaces import IStreamClientEndpoint
    from twisted.python.failure import Failure
except ImportError as missing:
    raise ImportError(f"no Twisted ({missing}); install it with: pip install 'cpspika[twisted]'") from None

from ..client.connection import Connection
from ..client.continuations import check_callable
from ..connecting import Target, all_targets
from ..errors import AMQPError, InvalidArgument, InvalidArgumentType
from ..interrupts import repeatable
from ..parameters import ConnectionOptions, ConnectionParameters
from ..reactor import Reactor, TransportOwner
from ..recovery import Recovering
from ..styles import watched
from ..styles.promises import (
    Claims,
    GiveBack,
    PromisingChannel,
    PromisingConnection,
    Settle,
    close_abandoned,
    promised_connection,
)
from ..styles.twisted_operations import ChannelOperations, ConnectionOperations
from .twisted_endpoint import EndpointTransport
from .twisted_reactor import TwistedReactor

if TYPE_CHECKING:
    from typing_extensions import Unpack

OnClose = Callable[["TwistedConnection", AMQPError | None], object]


class _Promise(Deferred[Any]):
    """A Deferred of an operation. It runs its callbacks when the operation is settled, as Twisted has it."""

    def __init__(self, give_back: GiveBack | None):
        super().__init__()
        self._give_back = None if give_back is None else Claims(give_back)
        self._settled = False

    @property
    def abandoned(self) -> bool:
        """Whether it was cancelled, while the operation is not settled."""
        return bool(self.called)

    @repeatable
    def settle(self, err: AMQPError | None, result: Any) -> None:
        if not self.called:
            self._settled = True
            if err is not None:
                self.errback(err)
            else:
                self.callback(result)
        elif not self._settled and err is None and self._give_back is not None:  # it was cancelled
            self._give_back(result)


class _Hushed(_Promise):
    """A promise whose AMQPError is not logged. Twisted logs a failure that no callback has handled."""

    def __del__(self) -> None:
        self.addErrback(_unless_ours)


def _unless_ours(failure: Failure) -> Any:
    # Exceptions of the program's own callbacks must be logged.
    return None if isinstance(failure.value, (AMQPError, CancelledError)) else failure


class _Promises:
    """Twisted's promises, on one reactor."""

    def __init__(self, reactor: TwistedReactor):
        self.reactor = reactor

    def make(self, give_back: GiveBack | None = None) -> tuple[Deferred[Any], Settle]:
        promise = _Promise(give_back)
        return promise, promise.settle

    def fulfilled(self, result: Any) -> Deferred[Any]:
        return succeed(result)  # a new one each time, since callbacks change a Deferred's result

    def ignore_error(self, promise: _Promise) -> None:
        promise.__class__ = _Hushed

    def spawn(self, coroutine: Any) -> None:
        self._look_after(Deferred.fromCoroutine(coroutine))

    def _look_after(self, work: Deferred[Any]) -> None:
        work.addErrback(self.reactor.failed)

    def caller(self, function: Callable[..., Any]) -> Callable[..., None]:
        """Makes the function that the core calls for a user's callback. It runs a coroutine that the callback returns,
        and reports a failure."""

        def called_by_the_core(*args: Any) -> None:
            returned = function(*args)
            if isinstance(returned, Deferred):
                self._look_after(returned)
            elif inspect.iscoroutine(returned) or isinstance(returned, Generator):
                self.spawn(returned)

        return called_by_the_core

    def when_quiet(self, result: Any) -> Any:
        """A callback of a Deferred: delays the result until nothing of ours is left in Twisted's reactor."""
        if isinstance(result, Failure) and isinstance(result.value, CancelledError):
            return result  # a cancelled Deferred does not wait
        return self.reactor.quiet().addCallback(lambda _: result)


class TwistedChannel(PromisingChannel, ChannelOperations):
    """A channel whose operations return Deferreds. `core`: the Channel below."""

    _promises: _Promises

    def _watched(self, function: Any, no_ack: bool) -> Any:
        return watched.deferring(function, no_ack)

    def _callback(self, function: Callable[..., Any], no_ack: bool = False) -> Callable[..., Any]:
        return self._promises.caller(function)

    def _handler(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return super()._handler(self._promises.caller(function))


class TwistedConnection(PromisingConnection, ConnectionOperations):
    """A connection whose operations return Deferreds. `core`: the Connection below."""

    channels = TwistedChannel
    _promises: _Promises

    def _perform(self, operation: Callable[..., Any], args: Sequence[Any]) -> Any:
        promise = super()._perform(operation, args)
        if operation is Connection.close:
            promise.addBoth(self._promises.when_quiet)
        return promise

    def _callback(self, function: Callable[..., Any], no_ack: bool = False) -> Callable[..., Any]:
        return super()._callback(self._promises.caller(function))


def connect(
    target: Target,
    *,
    reactor: Any = None,
    endpoint: Any = None,
    on_close: OnClose | None = None,
    recovery: Recovering = None,
    **options: Unpack[ConnectionOptions],
) -> Deferred[TwistedConnection]:
    """Returns a Deferred of a connection. To cancel the Deferred ends the attempt.

    target, options, on_close, recovery: as in `cpspika.connect`. reactor: one of Twisted's, by default the installed
    one, or a TwistedReactor.

    endpoint: an IStreamClientEndpoint to connect through, such as clientFromString(reactor, "tls:rabbit.example:5671")
    or wrapClientTLS(...). The target then gives the credentials and the virtual host; its host and port only name the
    broker in errors. TLS is the endpoint's (pip install 'cpspika[twisted-tls]'): the target is amqp:// and has no
    `ssl`.
    """
    check_callable("on_close", on_close)
    on = reactor if isinstance(reactor, TwistedReactor) else TwistedReactor(reactor)
    promises = _Promises(on)
    targets = all_targets(target, options)
    if endpoint is not None:
        targets = _through(endpoint, targets)

    def facade(core: Connection) -> TwistedConnection:
        return TwistedConnection(promises, core)

    def failed(failure: Failure) -> Any:
        if isinstance(failure.value, CancelledError):
            close_abandoned(core)
        return promises.when_quiet(failure)

    on_close = None if on_close is None else promises.caller(on_close)
    promise: Deferred[TwistedConnection]
    promise, core = promised_connection(promises, facade, on, targets, on_close, recovery)
    return promise.addErrback(failed)


def _through(endpoint: Any, targets: list[ConnectionParameters]) -> list[ConnectionParameters]:
    if not IStreamClientEndpoint.providedBy(endpoint):
        raise InvalidArgumentType(
            f"endpoint takes an IStreamClientEndpoint, not {type(endpoint).__name__}; "
            "twisted.internet.endpoints.clientFromString(reactor, text) makes one of a text"
        )
    for target in targets:
        if target.via is not None:
            raise InvalidArgument(f"no endpoint leads to {target.host}://, which is in this process")
        if target.ssl is not None:
            raise InvalidArgument(
                "with an endpoint, TLS is the endpoint's (a tls: one, or wrapClientTLS), so that none can be left out "
                "unseen: take amqp:// for amqps:// in the target, and no ssl"
            )

    def via(reactor: Reactor, owner: TransportOwner) -> EndpointTransport:
        assert isinstance(reactor, TwistedReactor)
        return EndpointTransport(reactor, endpoint, owner)

    return [target.replace(via=via) for target in targets]


__all__ = ["TwistedChannel", "TwistedConnection", "TwistedReactor", "connect"]
