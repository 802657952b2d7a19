"""The reactor on Twisted's: it watches sockets there, and keeps time by it, beside whatever else the program does.

Whatever Twisted calls begins a turn: the call is made, then what it gave rise to, so that all it wrote goes out at
once. Only what was asked for from elsewhere (from a timer of the program's, say) needs a call of Twisted's own, one for
all.
Twisted owns the loop, so an exception of a user's callback doesn't leave it: it is logged as Twisted logs failures, or
goes to `on_error`. A program that isn't Twisted's may turn a reactor that isn't running by `run` and `run_once`.
"""

from __future__ import annotations

import os
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
from ..reactor import LONGEST_WAIT, Call, Timer, make_calls, once
from .sockets import Watched, WatchesSockets

ROUNDS = 4  # of calls that calls of the turn gave rise to; the rest waits for the next turn

_log = Logger()


@implementer(IReadDescriptor, IWriteDescriptor)
class _Descriptor:
    """What Twisted watches for a transport or a listener."""

    __slots__ = ("_reactor", "_watched", "fd", "reads", "writes")

    def __init__(self, reactor: TwistedReactor, fd: int, watched: Watched):
        self._reactor = reactor
        self._watched = watched
        self.fd = fd
        self.reads = self.writes = False

    def __repr__(self) -> str:
        return f"<fd {self.fd} of {self._watched!r}>"  # trial shows it, where a connection was left open

    def fileno(self) -> int:
        return self.fd

    def logPrefix(self) -> str:
        return "cpspika"

    def watch(self, read: bool, write: bool) -> None:
        twisted = self._reactor.twisted
        # What is wanted first: a descriptor that waits for nothing, be it for a moment, is taken out of the poll.
        if read > self.reads:
            twisted.addReader(self)
        if write > self.writes:
            twisted.addWriter(self)
        if read < self.reads:
            twisted.removeReader(self)
        if write < self.writes:
            twisted.removeWriter(self)
        self.reads, self.writes = read, write

    def doRead(self) -> None:
        self._reactor.turn(self._watched.on_readable)

    def doWrite(self) -> None:
        if self._watched.socket is not None:  # else reading has closed it, in the same event
            self._reactor.turn(self._watched.on_writable)

    def connectionLost(self, reason: Failure) -> None:
        """Twisted watches it no longer. Either it stops; or the peer hung up or refused, and the transport finds that
        out by itself, and the reason better."""
        reads, writes = self.reads, self.writes
        self.reads = self.writes = False
        if self._watched.socket is None:
            return
        if isinstance(reason.value, ConnectionLost) and not self._reactor.twisted.running:
            # It hangs up on all that it has. (Or was turned by hand, and a connection was refused: the socket knows.)
            code = self._watched.socket.getsockopt(SOL_SOCKET, SO_ERROR)
            error = OSError(code, os.strerror(code)) if code else reason.value
            self._reactor.turn(partial(self._watched.lost, error))
        else:
            self._reactor.turn(self._watched.on_readable if reads else self._watched.on_writable)
        if self._watched.socket is not None and not (self.reads or self.writes):
            self.watch(reads, writes)


class _Timer:
    """A call that Twisted will make; counted, so that `run` knows what is left."""

    __slots__ = ("_delayed", "_reactor")

    def __init__(self, reactor: TwistedReactor, seconds: float, call: Call):
        self._reactor = reactor
        self._delayed: Any = reactor.twisted.callLater(max(0.0, seconds), reactor.due, call)

    def cancel(self) -> None:
        if self._delayed.active():
            self._delayed.cancel()
            self._reactor.timers -= 1


class TwistedReactor(WatchesSockets):
    """Fulfils `reactor.Reactor` on one of Twisted's (`twisted`; by default the installed one).

    on_error(exception) is called with what a callback raises; where it is None, that is logged, or leaves `run_once`.
    `thread` is Twisted's, once it has called us: a call from any other is refused, and may come by callFromThread.
    """

    def __init__(self, reactor: Any = None):
        if reactor is None:
            from twisted.internet import reactor  # here, since it installs one
        self.twisted: Any = reactor
        self.on_error: Callable[[BaseException], object] | None = None
        self.thread: int | None = None
        self._ready: deque[Call] = deque()
        self._inside = False  # a turn of ours, which makes the calls in _ready at its end
        self._coming: Any = None  # the DelayedCall by which Twisted is going to begin a turn
        self._called_from_thread = False
        self.timers = 0
        self._held = 0
        self._driven = False  # by `run_once`, out of which exceptions come then
        self._stopped = False
        self._strays: deque[BaseException] = deque()
        self._watched: dict[int, _Descriptor] = {}
        self._leaving: set[Deferred[None]] = set()

    def __repr__(self) -> str:
        return f"<TwistedReactor on {self.twisted!r}>"

    # --- calls --------------------------------------------------------------------------------------------------------

    def time(self) -> float:
        now: float = self.twisted.seconds()
        return now

    def call_soon(self, call: Call) -> None:
        self._ready.append(call)
        if not self._inside:
            self._come_back()

    def call_later(self, seconds: float, call: Call) -> Timer:
        self.timers += 1
        return _Timer(self, seconds, call)

    def due(self, call: Call) -> None:
        self.timers -= 1
        self.turn(call)

    def call_soon_threadsafe(self, call: Call) -> None:
        self._ready.append(call)  # a deque's append is atomic
        if not self._called_from_thread:
            self._called_from_thread = True
            self.twisted.callFromThread(self._from_thread)

    def _from_thread(self) -> None:
        self._called_from_thread = False  # first: what is added from here on calls again
        self.turn(_nothing)

    def _come_back(self) -> None:
        if self._coming is None:
            self._coming = self.twisted.callLater(0, self.turn, _nothing)

    def turn(self, call: Call) -> None:
        """What Twisted calls goes through here: makes the call, then those that it left."""
        if self._inside:
            self.call(call)
            return
        self.thread = get_ident()
        self._inside = True
        coming, self._coming = self._coming, None
        if coming is not None and coming.active():
            coming.cancel()  # this turn does it; and who closes a connection in it shall find no call of ours left
        try:
            self.call(call)
            for _ in range(ROUNDS):
                make_calls(self._ready, self.call)
        finally:
            self._inside = False
            if self._ready:
                self._come_back()

    def call(self, call: Call) -> object:
        try:
            return call()
        except Exception:
            self.failed(Failure())  # type: ignore[no-untyped-call]
            return None

    def failed(self, failure: Failure) -> None:
        """An exception that nobody caught."""
        error = failure.value
        if self.on_error is not None and error is not None:
            self.on_error(error)
        elif self._driven and error is not None:
            self._strays.append(error)
        else:
            _log.failure("a callback of an AMQP connection failed", failure=failure)

    # --- driving it ourselves -----------------------------------------------------------------------------------------

    def hold(self) -> Call:
        """Keeps `run` from ending for want of work, until the function that is returned is called."""
        self._held += 1
        return once(self._release)

    def _release(self) -> None:
        self._held -= 1

    def run(self) -> None:
        """Turns a reactor that isn't running until `stop`, or until nothing of ours is left that could call back.
        LocalError: it runs already, and drives us. For a program that is Twisted's, and wants its threads and signals,
        reactor.run() is the thing."""
        outer, self._stopped = self._stopped, False
        try:
            while not self._stopped and self._has_work():
                self.run_once()
        finally:
            self._stopped = outer

    def stop(self) -> None:
        """Ends `run`. A reactor that the program runs is the program's to stop."""
        if self._driven:
            self._stopped = True
            self.twisted.callFromThread(_nothing)  # wakes it

    def run_once(self, timeout: float | None = None) -> None:
        """One turn of a reactor that isn't running, as of PlainReactor. LocalError: it runs."""
        self._check_runnable()
        outer = self._inside, self._driven, self.thread
        self._inside, self._driven, self.thread = False, True, get_ident()
        try:
            if make_calls(self._ready, self.call):
                timeout = 0
            self.twisted.iterate(self._patience(timeout))
            self.twisted.iterate(0)  # the timers that came due while it waited
        finally:
            self._inside, self._driven, self.thread = outer
        if self._strays:
            raise self._strays.popleft()

    def _check_runnable(self) -> None:
        if self.twisted.running:
            raise LocalError(
                "Twisted's reactor runs, and cannot be turned from inside it: return a Deferred, or await it, instead "
                "of waiting in a call"
            )
        if self._driven and self.thread != get_ident():
            raise ConcurrentUse(
                "another thread is inside this reactor; give each thread its own, or use call_soon_threadsafe"
            )

    def _has_work(self) -> bool:
        return bool(self._ready or self.timers or self._held or self._watched or self._strays)

    def _patience(self, timeout: float | None) -> float | None:
        if self._ready or self._strays or self._stopped:
            return 0
        due: float | None = min((delayed.getTime() for delayed in self.twisted.getDelayedCalls()), default=None)
        if due is None:
            return timeout
        until = min(max(0.0, due - self.time()), LONGEST_WAIT)
        return until if timeout is None else min(until, timeout)

    # --- sockets ------------------------------------------------------------------------------------------------------

    # `resolve` is in a thread of its own: Twisted's pool of threads would be left behind in the reactor.

    def check_sockets(self) -> None:
        if not IReactorFDSet.providedBy(self.twisted):
            raise LocalError(
                f"{type(self.twisted).__name__} watches no sockets for others (it is no IReactorFDSet): connect with "
                "endpoint=, such as TCP4ClientEndpoint(reactor, host, port), or install another reactor"
            )

    def watch(self, fd: int, watched: Watched, read: bool, write: bool) -> None:
        descriptor = self._watched.get(fd)
        if descriptor is None:
            descriptor = self._watched[fd] = _Descriptor(self, fd, watched)
        descriptor.watch(read, write)

    def unwatch(self, fd: int) -> None:
        descriptor = self._watched.pop(fd, None)
        if descriptor is not None:
            descriptor.watch(False, False)
            descriptor.fd = -1  # the number may be another's next

    def unwatch_forked(self, fd: int) -> None:
        """In the child of a fork. Twisted's reactor is the parent's there, down to its epoll: it is left alone."""
        self._watched.pop(fd, None)

    # --- the end ------------------------------------------------------------------------------------------------------

    def leaves(self, gone: Deferred[None]) -> None:
        """A transport hangs up, and has done so when `gone` fires."""
        self._leaving.add(gone)
        gone.addCallback(lambda _: self._leaving.discard(gone))

    def quiet(self) -> Deferred[Any]:
        """Fires when those that were told to hang up have done so, and nothing of theirs is left in Twisted's reactor:
        no socket, no timer."""
        done: Deferred[Any] = Deferred()
        # Sockets hang up at the turn's end; their calls are before this one.
        self.call_soon(lambda: DeferredList(list(self._leaving)).addCallback(done.callback))
        return done


def _nothing() -> None:
    pass
