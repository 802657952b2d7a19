"""The synchronous facade: each call turns the reactor until its continuation fires.

A call that waits runs input and output, and its own continuation, but no other code of the user's. Handlers and
consumers that are due meanwhile are put by. They run when the program asks for them: in `drain_events`,
`start_consuming`, the iterator `consume`, or when the program runs the reactor itself. So no callback is entered while
another callback, or the program itself, is in the middle of a call.

One thread at a time may be inside a connection. Threads that share a connection hold `connection.lock` around each use.
A thread that comes in without the lock while another is inside gets ConcurrentUse.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import RLock
from typing import Any

from ..client.channel import Channel
from ..client.connection import Connection, connect
from ..client.continuations import call_site, describe
from ..errors import AMQPError, ConcurrentUse, OperationTimeout
from ..parameters import ConnectionParameters
from ..reactor import Reactor
from ..wire.message import Message
from .consumer import Arrived, Consuming
from .facade import ConnectionFacade, Facade, Scope, check_runs_at_once, is_stale
from .sync_operations import ChannelOperations, ConnectionOperations

MANY = 100  # exceptions in one wait; so many come from the reactor itself, and the wait would never end


class _Spins:
    """Of one reactor: how many calls wait, one inside another, and which connections have callbacks put by."""

    __slots__ = ("__weakref__", "behind", "depth")

    def __init__(self) -> None:
        self.depth = 0
        self.behind: dict[SyncConnection, None] = {}

    @classmethod
    def of(cls, reactor: Reactor) -> _Spins:
        return _spins.setdefault(reactor, cls())


_spins: weakref.WeakKeyDictionary[Reactor, _Spins] = weakref.WeakKeyDictionary()


class SyncConnection(Scope, ConnectionFacade, ConnectionOperations):
    """A connection whose calls return their results, or raise their errors.

    `core`: the Connection below. `lock`: threads that share the connection hold it. `timeout`: seconds that a call may
    take, None for no limit; a call that takes longer raises OperationTimeout.
    """

    def __init__(
        self,
        reactor: Reactor,
        targets: Sequence[ConnectionParameters],
        timeout: float | None = None,
        on_close: Callable[[SyncConnection, AMQPError | None], object] | None = None,
    ):
        self.timeout = timeout
        self.lock = RLock()
        self._spins = _Spins.of(reactor)
        self._inbox: deque[Callable[[], object]] = deque()
        closed = self._callback(on_close) if on_close is not None else None
        self.core: Connection

        def begin(self: SyncConnection, on_done: Any) -> None:
            self.core = connect(reactor, targets, on_done, closed)

        self.wait("connect", begin, self, (), {})

    def _perform(self, operation: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return self.wait(operation.__name__, operation, self.core, args, kwargs)

    def wait(
        self, name: str, operation: Callable[..., object], core: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Calls `operation` of `core` with these arguments, and turns the reactor until the operation is done; returns
        the result or raises the error. `name`: the operation's name in an error."""
        outcome: list[tuple[AMQPError | None, Any]] = []
        if not self.lock.acquire(False):
            raise _concurrent()
        try:
            operation(core, *args, **kwargs, on_done=lambda error, result: outcome.append((error, result)))
            if not self.spin(outcome.__len__, self.timeout, finish=True):
                raise self._late(name)
        finally:
            self.lock.release()
        error, result = outcome[0]
        if error is not None:
            raise error
        return self._outward(result)

    def _late(self, name: str) -> AMQPError:
        return OperationTimeout(f"no answer within {self.timeout:g} s").of(name, describe(call_site()))

    def push(self, name: str, over: Callable[[], bool]) -> None:
        """Gives unsent bytes to the kernel, and turns the reactor until the kernel has taken all, or over(). Mostly the
        kernel takes all at once, without a turn. `name`: the operation's name in an error."""
        core = self.core
        if not self.spin(lambda: over() or not core._backlog.size, self.timeout, finish=True, flush=True):
            raise self._late(name)

    def spin(
        self, done: Callable[[], object], timeout: float | None, finish: bool = False, flush: bool = False
    ) -> bool:
        """Turns the reactor until done(), and puts by the user's callbacks. False: that took longer than `timeout`
        seconds.

        An exception that comes out of the reactor meanwhile is raised. finish: it is raised only after done(), so that
        no operation is left half-way. flush: unsent bytes are sent first, which may be enough.
        """
        reactor = self.core.reactor
        deadline = None if timeout is None else reactor.time() + timeout
        strays: list[Exception] = []
        turned = False
        spins = self._spins
        spins.depth += 1
        try:
            if flush:
                self.core._flush()
            while not done():
                left = None if deadline is None else deadline - reactor.time()
                if left is not None and left <= 0 and turned:
                    break
                turned = True
                try:
                    reactor.run_once(None if left is None else max(left, 0))
                except ConcurrentUse:
                    raise
                except Exception as stray:
                    strays.append(stray)
                    if not finish or len(strays) == MANY:
                        break
        finally:
            spins.depth -= 1
            if spins.depth == 0 and spins.behind:
                behind, spins.behind = spins.behind, {}
                for connection in behind:
                    reactor.call_soon(connection._catch_up)
        if strays:
            raise strays[0]
        return bool(done())

    # --- callbacks ----------------------------------------------------------------------------------------------------

    def _callback(self, function: Callable[..., Any]) -> Callable[..., Any]:
        check_runs_at_once(function)

        def called_by_the_core(*args: Any) -> None:
            ours = [self._outward(arg) for arg in args]
            if self._spins.depth or self._inbox:
                self._inbox.append(lambda: None if is_stale(ours) else function(*ours))
                if self._spins.depth:
                    self._spins.behind[self] = None
            else:
                function(*ours)

        return called_by_the_core

    def _channel_facade(self, core: Channel) -> SyncChannel:
        return SyncChannel(self, core)

    def _catch_up(self) -> None:
        """Runs the callbacks that were put by, in the reactor's turn."""
        if self._spins.depth:
            self._spins.behind[self] = None
            return
        try:
            while self._inbox:
                self._inbox.popleft()()
        finally:
            if self._inbox:
                self.reactor.call_soon(self._catch_up)

    def drain_events(self, timeout: float | None = None) -> bool:
        """Runs the callbacks that are due, and returns whether there were any.

        timeout: seconds to wait for the first; None: without limit. Errors: on a closed connection without callbacks,
        the error that closed it.
        """
        with _Inside(self):
            ran = self.run_callbacks(lambda: not self.core.is_open, timeout)
            if not ran and not self.core.is_open:
                raise self.core.close_reason or self.core._closed_error()
        return ran

    def run_callbacks(self, over: Callable[[], bool], timeout: float | None) -> bool:
        """Waits until callbacks are due, or over() says that none will come. Runs them, and returns whether there were
        any."""
        if not self._inbox:
            self.spin(lambda: bool(self._inbox) or over(), timeout)
        count = len(self._inbox)
        for _ in range(count):
            if self._inbox:
                self._inbox.popleft()()
        return count > 0

    @property
    def has_callbacks(self) -> bool:
        """Whether callbacks are put by."""
        return bool(self._inbox)


class SyncChannel(Scope, Facade, Consuming[Iterator[Message]], ChannelOperations):
    """A channel whose calls return their results, or raise their errors. `core`: the Channel below; `connection`: the
    SyncConnection that it belongs to."""

    core: Channel

    def __init__(self, connection: SyncConnection, core: Channel):
        self.connection = connection
        self.core = core
        self._stopped = False

    def _perform(self, operation: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return self.connection.wait(operation.__name__, operation, self.core, args, kwargs)

    def _perform_oneway(self, operation: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        core, connection = self.core, self.connection
        if not core.writable or not core.is_open or (operation is _PUBLISH and core.is_confirming):
            return self._perform(operation, args, kwargs)
        with _Inside(connection):
            result = operation(core, *args, **kwargs)
            connection.push(operation.__name__, lambda: not core.is_open)
            if not core.is_open:
                raise core._closed_error()
        return result

    def _callback(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self.connection._callback(function)

    def start_consuming(self) -> None:
        """Runs the callbacks of consumers and handlers until `stop_consuming`, or until the channel has no consumers.

        Errors: the error that closed the channel.
        """
        self._stopped = False
        connection = self.connection
        with _Inside(connection):
            while not self._stopped and (self.core.has_consumers or connection.has_callbacks):
                connection.run_callbacks(lambda: not self.core.has_consumers, None)
        if not self._stopped and self.core.close_reason is not None:
            raise self.core.close_reason

    def stop_consuming(self) -> None:
        """Ends `start_consuming` once the callback that calls this returns. The consumers stay."""
        self._stopped = True

    def _iterate(self, queue: str, options: dict[str, Any], inactivity_timeout: float | None) -> Iterator[Message]:
        arrived = Arrived(self.core, options)
        consume = Channel.basic_consume
        arrived.started(self.connection.wait("basic_consume", consume, self.core, (), arrived.arguments(queue)))
        messages = self._messages(arrived, inactivity_timeout)
        next(messages)
        return messages

    def _messages(self, arrived: Arrived, patience: float | None) -> Iterator[Any]:
        connection, core = self.connection, self.core
        try:
            yield None  # for _iterate: a generator that has not begun would not run what stands under "finally"
            while True:
                with _Inside(connection):
                    connection.spin(lambda: bool(arrived.messages) or arrived.is_over, patience)
                message = arrived.take()
                if message is not None:
                    yield message
                elif arrived.is_over:
                    raise arrived.end_reason()
                else:
                    return
        finally:
            try:
                if core.is_open:
                    connection.wait("basic_cancel", lambda _, on_done: arrived.close(on_done), core, (), {})
                    with _Inside(connection):
                        connection.push("basic_reject", lambda: not core.is_open)
            except AMQPError:
                # A channel that ends meanwhile has no consumer left, and the next call says so. An iterator that the
                # program dropped could not raise it.
                if core.is_open:
                    raise


_PUBLISH = Channel.basic_publish


class _Inside:
    """A thread's stay inside a connection, as a block."""

    __slots__ = ("_lock",)

    def __init__(self, connection: SyncConnection):
        self._lock = connection.lock

    def __enter__(self) -> None:
        if not self._lock.acquire(False):
            raise _concurrent()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _concurrent() -> ConcurrentUse:
    return ConcurrentUse(
        "another thread is inside this connection: hold connection.lock around each use, or give each thread its own"
    )
