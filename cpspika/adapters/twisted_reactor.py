"""The reactor on one of Twisted's reactors. Here "Twisted" is that reactor; its sockets and timers serve this one.

Theory of operation
===================

*Turns.* Every call of Twisted (a socket is ready, a timer is due) goes through `turn`. `turn` makes that call and then
the calls that it queued, so that all that they wrote is sent at once. A call that is queued outside a turn, for
instance in a timer of the program, needs a turn of its own: `_schedule_turn` asks Twisted for one, once for all such
calls.

*Exceptions.* The program runs Twisted, so an exception of a user's callback must not leave its loop. The exception is
logged as a failure, or goes to `on_error`. Twisted goes on after an exception of a signal handler, too. So `turn` does
what `PlainReactor.run_once` does about one.

*Driving.* A program that doesn't run Twisted may drive it by `run` and `run_once`. Exceptions then leave these.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from socket import SO_ERROR, SOL_SOCKET
from threading import get_ident
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor, IWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped, unused-ignore]

from ..errors import ConcurrentUse, LocalError
from ..interrupts import is_interrupt, makes_calls
from ..reactor import LONGEST_WAIT, Call, Timer, Transport, after_interrupt, make_calls, once
from ..registry import Registry
from .sockets import Watched, WatchesSockets, socket_error

ROUNDS = 5  # rounds of queued calls in one turn; calls that the last round queues wait for the next turn

_log = Logger()


@implementer(IReadDescriptor, IWriteDescriptor)
class _Descriptor:
    """The descriptor by which Twisted watches the socket of a transport or listener.

    fd: number of the socket. reads, writes: whether Twisted has it as a reader, as a writer."""

    __slots__ = ("_reactor", "_watched", "fd", "reads", "writes")

    def __init__(self, reactor: TwistedReactor, fd: int, watched: Watched):
        self._reactor = reactor
        self._watched = watched
        self.fd = fd
        self.reads = self.writes = False

    def __repr__(self) -> str:
        return f"<fd {self.fd} of {self._watched!r}>"  # trial shows this, if a test leaves a connection open

    def fileno(self) -> int:
        return self.fd

    def logPrefix(self) -> str:
        return "cpspika"

    def watch(self, read: bool, write: bool) -> None:
        twisted = self._reactor.twisted
        # Adds come before removes, because Twisted unregisters a descriptor that for a moment waits for nothing.
        if read > self.reads:
            twisted.addReader(self)
        if write > self.writes:
            twisted.addWriter(self)
        if read < self.reads:
            twisted.removeReader(self)
        if write < self.writes:
            twisted.removeWriter(self)
        self.reads, self.writes = read, write

    def end(self) -> None:
        """Ends the watch, whatever an exception of a signal handler has left undone."""
        self._reactor.twisted.removeReader(self)
        self._reactor.twisted.removeWriter(self)
        self.reads = self.writes = False
        self.fd = -1  # the next socket may get the same number

    def doRead(self) -> None:
        self._reactor.turn(self._watched.on_readable)

    def doWrite(self) -> None:
        if self._watched.socket is not None:  # None: doRead has closed it, in the same event
            self._reactor.turn(self._watched.on_writable)

    def connectionLost(self, reason: Failure) -> None:
        """Twisted no longer watches the descriptor. Either Twisted stops, or the peer closed or refused the connection.
        In the second case the transport reads the error from the socket, which gives a better reason."""
        reads, writes = self.reads, self.writes
        self.reads = self.writes = False
        if self._watched.socket is None:
            return
        if isinstance(reason.value, ConnectionLost) and not self._reactor.twisted.running:
            # Twisted stops, and drops all its descriptors. Or Twisted is driven by `run_once` and a connection was
            # refused; then the socket has the error.
            code = self._watched.socket.getsockopt(SOL_SOCKET, SO_ERROR)
            error = socket_error(code) if code else reason.value
            self._reactor.turn(partial(self._watched.lost, error))
        else:
            self._reactor.turn(self._watched.on_readable if reads else self._watched.on_writable)
        if self._watched.socket is not None and not (self.reads or self.writes):
            self.watch(reads, writes)


class _Timer:
    """A call that Twisted will make. The reactor counts its timers, so that `run` knows whether any is left."""

    __slots__ = ("_delayed", "_reactor")

    def __init__(self, reactor: TwistedReactor, seconds: float, call: Call):
        self._reactor = reactor
        self._delayed: Any = reactor.twisted.callLater(max(0.0, seconds), reactor.due, call)

    def cancel(self) -> None:
        if self._delayed.active():
            self._delayed.cancel()
            self._reactor.timers -= 1


class TwistedReactor(WatchesSockets):
    """Implements `reactor.Reactor` on one of Twisted's reactors.

    reactor: Twisted's reactor; by default the installed one.

    twisted: Twisted's reactor. on_error: called with an exception of a callback; None (default): the exception is
    logged, or leaves `run_once`. thread: the thread of Twisted, after its first call. The core refuses a call from any
    other; that thread must use callFromThread.
    """

    def __init__(self, reactor: Any = None):
        if reactor is None:
            from twisted.internet import reactor  # here, because this import installs a reactor
        self.twisted: Any = reactor
        self.on_error: Callable[[BaseException], object] | None = None
        self.thread: int | None = None
        self.transports: Registry[Transport] = Registry()
        self._ready: deque[Call] = deque()
        self._inside = False  # in a turn, which makes the calls in _ready at its end
        self._scheduled: Any = None  # the DelayedCall by which Twisted will begin a turn
        self._called_from_thread = False  # Twisted will begin a turn, by callFromThread
        self.timers = 0  # timers that are running
        self._held = 0
        self._driven = False  # in `run_once`, so exceptions leave it
        self._stopped = False
        self._strays: deque[BaseException] = deque()  # exceptions that `run_once` has still to raise
        self._watched: dict[int, _Descriptor] = {}
        self._leaving: set[Deferred[None]] = set()  # of transports that are closing

    def __repr__(self) -> str:
        return f"<TwistedReactor on {self.twisted!r}>"

    # --- calls --------------------------------------------------------------------------------------------------------

    def time(self) -> float:
        now: float = self.twisted.seconds()
        return now

    def call_soon(self, call: Call) -> None:
        self._ready.append(call)
        if not self._inside:
            self._schedule_turn()

    def call_later(self, seconds: float, call: Call) -> Timer:
        self.timers += 1
        return _Timer(self, seconds, call)

    def due(self, call: Call) -> None:
        """A timer is due."""
        self.timers -= 1
        self.turn(call)

    def call_soon_threadsafe(self, call: Call) -> None:
        self._ready.append(call)  # a deque's append is atomic
        if not self._called_from_thread:
            self._called_from_thread = True
            self.twisted.callFromThread(self._from_thread)

    def _from_thread(self) -> None:
        self.turn(_nothing)

    def _schedule_turn(self) -> None:
        """Makes Twisted begin a turn soon."""
        # Not active: an exception of a signal handler came as Twisted called `turn`.
        if self._scheduled is None or not self._scheduled.active():
            self._scheduled = self.twisted.callLater(0, self.turn, _nothing)

    def turn(self, call: Call) -> None:
        """Makes one turn: a call for Twisted, then the calls that are queued. Inside a turn it makes the call alone."""
        self._called_from_thread = False  # before the calls, because one that is added from here on needs a new turn
        if self._inside:
            self.call(call)
            return
        try:
            self._ready.appendleft(call)  # first: an exception of a signal handler may come from here on
            self.thread = get_ident()
            self._inside = True
            scheduled, self._scheduled = self._scheduled, None
            if scheduled is not None and scheduled.active():
                # This turn makes the calls. And a program that closes its last connection in it must find no
                # DelayedCall.
                scheduled.cancel()
            for _ in range(ROUNDS):
                if not self._ready:
                    break
                make_calls(self._ready, self.call)
        except BaseException as error:
            self._raised(error)
        finally:
            self._inside = False
            if self._ready:
                self._schedule_turn()

    @makes_calls
    def call(self, call: Call) -> object:
        try:
            return call()
        except BaseException as error:
            self._raised(error)
            return None

    def _raised(self, error: BaseException) -> None:
        """Handles the exception that is being handled: see the class. What is no Exception goes on to Twisted."""
        if is_interrupt(error):
            after_interrupt(self, error)
        if isinstance(error, Exception):
            self.failed(Failure())  # type: ignore[no-untyped-call]
        elif self._driven:
            self._strays.append(error)
        else:
            raise

    def failed(self, failure: Failure) -> None:
        """Handles an exception of a callback: see the class."""
        error = failure.value
        if self.on_error is not None and error is not None:
            self.on_error(error)
        elif self._driven and error is not None:
            self._strays.append(error)
        else:
            _log.failure("a callback of an AMQP connection raised an exception", failure=failure)

    # --- driving Twisted ----------------------------------------------------------------------------------------------

    def hold(self) -> Call:
        """Prevents `run` from ending when nothing is left to do. Returns the function that releases it."""
        self._held += 1
        return once(self._release)

    def _release(self) -> None:
        self._held -= 1

    def run(self) -> None:
        """Drives Twisted until `stop`, or until this reactor has nothing left that could make a call. A program that
        needs Twisted's threads and signal handlers calls Twisted's own run() in place of it. LocalError: Twisted runs
        already."""
        outer, self._stopped = self._stopped, False
        try:
            while True:  # see `interrupts`
                if self._stopped or not self._has_work():
                    break
                self.run_once()
        finally:
            self._stopped = outer

    def stop(self) -> None:
        """Ends `run`. Does nothing if the program runs Twisted."""
        if self._driven:
            self._stopped = True
            self.twisted.callFromThread(_nothing)  # ends its wait

    def run_once(self, timeout: float | None = None) -> None:
        """Makes one turn, as of `Reactor`. LocalError: Twisted runs already."""
        self._check_runnable()
        outer = self._inside, self._driven, self.thread
        self._inside, self._driven, self.thread = False, True, get_ident()
        try:
            if make_calls(self._ready, self.call):
                timeout = 0
            self.twisted.iterate(self._patience(timeout))
            self.twisted.iterate(0)  # the timers that came due while it waited
        except BaseException as error:
            if is_interrupt(error):
                after_interrupt(self, error)
            raise
        finally:
            self._inside, self._driven, self.thread = outer
        if self._strays:
            raise self._strays.popleft()

    def _check_runnable(self) -> None:
        if self.twisted.running:
            raise LocalError("Twisted's reactor runs, so a call must not wait: return a Deferred, or await it")
        if self._driven and self.thread != get_ident():
            raise ConcurrentUse(
                "another thread is inside this reactor; give each thread its own, or use call_soon_threadsafe"
            )

    def _has_work(self) -> bool:
        return bool(self._ready or self.timers or self._held or self._watched or self._strays)

    def _patience(self, timeout: float | None) -> float | None:
        # An earlier turn may have read the wake-up of a call from another thread, and not made the call. Twisted would
        # make it now, and then wait for input.
        from_threads = getattr(self.twisted, "threadCallQueue", None)
        if self._ready or self._strays or self._stopped or from_threads:
            return 0
        due: float | None = min((delayed.getTime() for delayed in self.twisted.getDelayedCalls()), default=None)
        if due is None:
            return timeout
        until = min(max(0.0, due - self.time()), LONGEST_WAIT)
        return until if timeout is None else min(until, timeout)

    # --- sockets ------------------------------------------------------------------------------------------------------

    # `resolve` uses a thread of its own, because Twisted's thread pool would stay behind in Twisted's reactor.

    def check_sockets(self) -> None:
        if not IReactorFDSet.providedBy(self.twisted):
            raise LocalError(
                f"Twisted's reactor, a {type(self.twisted).__name__}, cannot watch sockets: it doesn't provide "
                "IReactorFDSet. Connect with endpoint=, such as TCP4ClientEndpoint(reactor, host, port), or install "
                "another reactor"
            )

    def watch(self, fd: int, watched: Watched, read: bool, write: bool) -> None:
        descriptor = self._watched.get(fd)
        if descriptor is None:
            descriptor = self._watched[fd] = _Descriptor(self, fd, watched)
        descriptor.watch(read, write)

    def unwatch(self, fd: int) -> None:
        descriptor = self._watched.get(fd)
        if descriptor is not None:
            descriptor.end()
            del self._watched[fd]

    def unwatch_forked(self, fd: int) -> None:
        """As of `Watcher`. Twisted's reactor belongs to the parent, with its epoll, so nothing is unregistered."""
        self._watched.pop(fd, None)

    # --- the end ------------------------------------------------------------------------------------------------------

    def leaves(self, gone: Deferred[None]) -> None:
        """A transport is closing. gone: fires when it is closed."""
        self._leaving.add(gone)
        gone.addCallback(lambda _: self._leaving.discard(gone))

    def quiet(self) -> Deferred[Any]:
        """Fires when all transports that are closing are closed, with no socket and no timer of them left in Twisted's
        reactor."""
        done: Deferred[Any] = Deferred()
        # Sockets are closed at the end of the turn, by calls that were queued before this one.
        self.call_soon(lambda: DeferredList(list(self._leaving)).addCallback(done.callback))
        return done


def _nothing() -> None:
    pass
