"""The contract of a reactor, and the base class of the library's own reactors.

A reactor makes calls: when bytes arrive, when a timer is due, or as soon as possible. The core needs only what
`Reactor` declares. So an adapter for a foreign event loop is about a page long, and inherits from nothing.
`PlainReactor` is the base class of the library's own loops: a queue of calls, a heap of timers, and the turn. A
subclass adds the wait (`_poll`).

A turn has four steps:

1. It makes the calls that wait in the queue.
2. It waits for sockets, and makes the calls for those that are ready.
3. It makes the calls of the timers that are due.
4. It makes the calls that steps 2 and 3 added. These write all that the turn produced, in one system call.

An exception of a callback leaves `run`, or goes to `on_error` if that is set. The reactor stays consistent, and can be
run again.
"""

from __future__ import annotations

import heapq
import itertools
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from threading import get_ident
from typing import Any, NamedTuple, Protocol

from .errors import ConcurrentUse, LocalError
from .interrupts import cut_off, is_interrupt, makes_calls
from .registry import Registry

Call = Callable[[], object]


LONGEST_WAIT = (2**31 - 1) // 1000
"""Seconds of the longest wait: epoll and poll take milliseconds as a signed integer of 32 bits. A reactor with a later
timer makes a turn without calls at this time."""

IDLE = object()
"""The result of a call that called no user code and no owner: the turn may still wait for sockets."""


@makes_calls
def make_calls(waiting: deque[Call], guard: Callable[[Call], object] | None) -> int:
    """Makes the calls that wait in a queue, by guard(call) if there is a guard. Returns the number of calls that did
    not return IDLE."""
    # Calls that are added meanwhile wait for the next turn. Else a call that adds itself again would stop all input.
    made = 0
    for _ in range(len(waiting)):
        if waiting:  # a nested turn may have made them
            call = waiting[0]
            del waiting[0]  # not by a call: see CallQueue
            made += (call() if guard is None else guard(call)) is not IDLE
    return made


def once(call: Call) -> Callable[[], None]:
    """A function that makes the call when it is first called, and does nothing after that."""
    left = [call]

    def make() -> None:
        if left:
            left.pop()()

    return make


class Endpoint(NamedTuple):
    """Where to connect.

    host: name or address. port: TCP port. ssl: an ssl.SSLContext, or None for no TLS. via: a function via(reactor,
    owner) that makes the transport without host and port; None: TCP. server_hostname: the name that the certificate
    must have; None: that of host. tcp_keepalive: False, True, seconds, or a dict, as of ConnectionParameters."""

    host: str
    port: int
    ssl: Any = None
    via: Callable[[Any, Any], Any] | None = None
    server_hostname: str | None = None
    tcp_keepalive: bool | int | dict[str, int] = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}{' (TLS)' if self.ssl else ''}"


class Transport(Protocol):
    """A stream of bytes to and from one peer. All methods return at once.

    queued: bytes passed to `write` since the beginning. written: bytes that have gone to the kernel since the
    beginning. The difference is the backlog. was_interrupted: `interrupted` was called."""

    queued: int
    written: int
    was_interrupted: bool

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        """Queues chunks, to be sent in order at the end of the turn, together. After `close` they are dropped."""

    def flush(self) -> None:
        """Sends the queued bytes now, as many as the kernel accepts, and not at the end of the turn."""

    def close(self) -> None:
        """Sends the queued bytes, then closes the link. The owner is not called any more."""

    def pause_reading(self, paused: bool) -> None:
        """Pauses or resumes reading. While it is paused, the buffers of the kernel fill up, and the peer must wait."""

    def abort(self) -> None:
        """Closes the link now and drops the queued bytes. The owner is not called any more."""

    def interrupted(self, error: BaseException) -> None:
        """A signal handler raised an exception in the middle of the library's own code (see `interrupts`): closes the
        link now, since bytes could otherwise be sent twice, and reports it as lost in the next turn."""

    def detach(self) -> None:
        """Closes this process's copy of the socket, and sends nothing. For the child of a fork: the link is the
        parent's."""


def interruption(error: BaseException) -> ConnectionAbortedError:
    """The error that a transport reports after `Transport.interrupted`."""
    lost = ConnectionAbortedError(f"{type(error).__name__} came in the middle of sending or receiving")
    lost.__cause__ = error
    return lost


class TransportOwner(Protocol):
    """The object that a transport calls. The first call is transport_ready or transport_lost; no call comes after
    transport_lost. No call comes inside a call of the transport's methods."""

    def transport_ready(self) -> None:
        """The link is open: TCP is connected, and the TLS handshake is done if there is one."""

    def data_received(self, data: bytes) -> None:
        """Bytes arrived."""

    def bytes_written(self) -> bool | None:
        """`written` has grown. Returns True if the owner has called user code for it."""

    def transport_lost(self, error: Exception | None) -> None:
        """The link is closed. error: the reason; None: the peer closed it in order."""


class TransportCallbacks(NamedTuple):
    """A TransportOwner made of four functions, for an owner that has no public methods of these names."""

    transport_ready: Callable[[], None]
    data_received: Callable[[bytes], None]
    bytes_written: Callable[[], bool | None]
    transport_lost: Callable[[Exception | None], None]


class Timer(Protocol):
    """A call that will be made later."""

    def cancel(self) -> None:
        """Drops the call. Does nothing if the call was made or cancelled before."""


def register_transport(reactor: Any, transport: Transport) -> None:
    """Enters a transport in `transports` of its reactor, if the reactor has that: see `after_interrupt`. A transport
    calls it at the end of its __init__, since it is interrupted only when it is whole."""
    transports = getattr(reactor, "transports", None)
    if transports is not None:
        transports.add(transport)


def after_interrupt(reactor: Any, error: BaseException) -> None:
    """An exception of a signal handler came in the middle of the library's own code (see `interrupts`), and leaves the
    reactor's turn: the calls that it cut off are queued again, and the links are dropped."""
    for call in cut_off(error.__traceback__):
        reactor.call_soon(call)
    for transport in reactor.transports:
        transport.interrupted(error)


class Listener(Protocol):
    """An open port. port: its number."""

    port: int

    def close(self) -> None:
        """Closes the port. Transports that were accepted stay open."""


Acceptor = Callable[[Transport], TransportOwner]
"""A function that is called with the transport of each peer that connects; returns the transport's owner."""


class Reactor(Protocol):
    """The contract of every adapter. `cpspika.testing.conformance` tests it.

    on_error: called with an exception of a callback; None (default): the exception leaves `run` or `run_once`.
    thread: the number of the thread (threading.get_ident) that is inside the reactor now; None: no thread is. A reactor
    in a foreign loop may always have the number of the loop's thread here. The core refuses a call from any other."""

    on_error: Callable[[BaseException], object] | None
    thread: int | None

    def run(self) -> None:
        """Makes turns until `stop`, or until nothing is left that could make a call. ConcurrentUse: another thread is
        inside the reactor."""

    def stop(self) -> None:
        """Ends `run` after the current turn. Calls that wait stay in the queue. Outside `run` it does nothing."""

    def run_once(self, timeout: float | None = None) -> None:
        """Makes one turn. timeout: the longest wait in seconds, if there is nothing to do; None (default): no limit.
        ConcurrentUse: as of `run`."""

    def time(self) -> float:
        """The time in seconds of the clock that timers use. It never goes back."""

    def call_soon(self, call: Call) -> object:
        """Queues a call. Calls are made in the order in which they were queued, never inside call_soon."""

    def call_later(self, seconds: float, call: Call) -> Timer:
        """Makes a call after some seconds. Timers that are due are called in the order of their times."""

    def call_soon_threadsafe(self, call: Call) -> object:
        """As `call_soon`, from any thread. A reactor that waits is woken."""

    def hold(self) -> Call:
        """Prevents `run` from ending when nothing is left to do. Returns the function that releases it; a second call
        of that function does nothing. For work outside the reactor, in another thread."""

    def resolve(
        self, endpoint: Endpoint, on_done: Callable[[Exception | None, list[Any] | None], object]
    ) -> Call | None:
        """Finds the addresses of an endpoint. on_done(err, addresses) is called once, never inside resolve; an address
        is an object for `open`. May return a function that gives up: then on_done is not called any more, and the
        reactor no longer waits for it. None: nothing holds the reactor meanwhile."""

    def open(self, endpoint: Endpoint, address: Any, owner: TransportOwner) -> Transport:
        """Begins to connect to one of the addresses. Returns the transport; its owner is never called inside open."""


class NamedTimers:
    """The timers of one owner, by name. At most one timer of each name is running."""

    __slots__ = ("_by_name", "_call_later")

    def __init__(self, reactor: Reactor):
        self._call_later = reactor.call_later
        self._by_name: dict[str, Timer] = {}

    def start(self, name: str, seconds: float | None, call: Call) -> None:
        """Starts the timer of this name, in place of the one that is running. seconds: None starts none."""
        self.cancel(name)
        if seconds is not None:
            self._by_name[name] = self._call_later(seconds, call)

    def has(self, name: str) -> bool:
        """Whether a timer of this name was started, and not cancelled since."""
        return name in self._by_name

    def cancel(self, *names: str) -> None:
        """Cancels those timers of these names that are running."""
        for name in names:
            timer = self._by_name.pop(name, None)
            if timer is not None:
                timer.cancel()


class _Timer:
    """A call in the heap. A cancelled timer may stay in the heap for a while, but no longer refers to its call."""

    __slots__ = ("_timers", "call")

    def __init__(self, timers: Timers, call: Call):
        self._timers = timers
        self.call: Call | None = call  # None: the timer was cancelled or its call was taken

    def cancel(self) -> None:
        if self.call is not None:
            self.call = None
            self._timers.cancelled()


class Timers:
    """A heap of timers. A cancelled timer is removed when it is due, or earlier, when most timers in the heap are
    cancelled. A program may set a timeout for each operation and cancel nearly all of them; these must not fill the
    heap.

    heap: (time, order, timer); its first entry is the earliest."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, _Timer]] = []
        self._order = itertools.count()
        self._cancelled = 0

    def add(self, when: float, call: Call) -> _Timer:
        """Adds a call at a time. Calls of the same time are made in the order in which they were added."""
        timer = _Timer(self, call)
        heapq.heappush(self.heap, (when, next(self._order), timer))
        return timer

    def cancelled(self) -> None:
        """Counts a timer in the heap as cancelled, and removes all such timers if they are more than half."""
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self.heap):
            self.heap = [entry for entry in self.heap if entry[2].call is not None]
            heapq.heapify(self.heap)
            self._cancelled = 0

    def next(self) -> float | None:
        """The time when the earliest timer is due, or None if there is none."""
        while self.heap and self.heap[0][2].call is None:
            heapq.heappop(self.heap)
            self._cancelled -= 1
        return self.heap[0][0] if self.heap else None

    def take_due(self, now: float, calls: deque[Call]) -> bool:
        """Moves the call of the earliest timer that is due to the end of `calls`. False: none is due."""
        when = self.next()
        if when is None or when > now:
            return False
        timer = self.heap[0][2]
        call, timer.call = timer.call, None  # as if it were cancelled: `next` removes it
        self._cancelled += 1
        assert call is not None
        calls.append(call)
        return True


class _WakingCalls(deque[Call]):
    """The calls that wait in a reactor that a foreign loop watches: a call that is added outside a turn wakes it."""

    def __init__(self, reactor: PlainReactor, calls: Iterable[Call]):
        super().__init__(calls)
        self._reactor = reactor

    def append(self, call: Call) -> None:
        super().append(call)
        if self._reactor.thread is None and len(self) == 1:
            self._reactor._wake()


class PlainReactor(ABC):
    """The base class of the library's own loops. See `Reactor` for its methods.

    A subclass implements the wait (`_poll(timeout)`, which also makes the calls for sockets that are ready), the
    wake-up from another thread (`_wake`), and `_has_transports`."""

    def __init__(self) -> None:
        self.on_error: Callable[[BaseException], object] | None = None
        self.transports: Registry[Transport] = Registry()
        self._ready: deque[Call] = deque()
        self._due: deque[Call] = deque()  # the call of the timer that is due now
        self._timers = Timers()
        self._running = False
        self._stopped = False
        self._held = 0
        self.thread: int | None = None
        self._is_watched = False  # by a foreign loop: see `fileno`
        _reactors.add(self)

    time = staticmethod(time.monotonic)

    def call_soon(self, call: Call) -> None:
        self._ready.append(call)

    def call_later(self, seconds: float, call: Call) -> Timer:
        return self._timers.add(self.time() + seconds, call)

    def call_soon_threadsafe(self, call: Call) -> None:
        """As `call_soon`, from any thread. A reactor that waits is woken."""
        self._ready.append(call)  # a deque's append is atomic
        self._wake()

    def hold(self) -> Call:
        """Prevents `run` from ending when nothing is left to do. Returns the function that releases it. For work
        outside the reactor, in another thread."""
        self._held += 1
        return once(self._release)

    def _release(self) -> None:
        self._held -= 1

    def run(self) -> None:
        outer, self._running, self._stopped = self._running, True, False
        try:
            while True:  # see `interrupts`
                if self._stopped or not self._has_work():
                    break
                self.run_once()
        finally:
            self._running, self._stopped = outer, False

    def _has_work(self) -> bool:
        return bool(self._ready or self._held or self._timers.next() is not None or self._has_transports())

    def stop(self) -> None:
        if self._running:
            self._stopped = True
            self._wake()

    def run_once(self, timeout: float | None = None) -> None:
        outer, me = self.thread, get_ident()
        if outer is not None and outer != me:
            self._enter()  # raises the error
        self.thread = me
        try:
            # After calls the turn doesn't wait: they may have done what the caller of `run_once` waits for.
            if self._ready and make_calls(self._ready, None if self.on_error is None else self.call):
                timeout = 0
            patience = self._patience(timeout)
            self._poll(LONGEST_WAIT if patience is not None and patience > LONGEST_WAIT else patience)
            heap = self._timers.heap
            if heap and heap[0][0] <= (now := self.time()):
                self._make_due(now)
            if self._ready:
                make_calls(self._ready, None if self.on_error is None else self.call)
        except BaseException as error:
            if is_interrupt(error):
                self._ready.extend([*self._due, *cut_off(error.__traceback__)])
                self._due.clear()
                for transport in self.transports:
                    transport.interrupted(error)
            raise
        finally:
            self.thread = outer
            if self._is_watched and self._ready and outer is None:
                self._wake()

    def _make_due(self, now: float) -> None:
        """Makes the calls of the timers that are due."""
        while self._timers.take_due(now, self._due):
            make_calls(self._due, None if self.on_error is None else self.call)

    def fileno(self) -> int:
        """A file descriptor for a foreign loop to watch: readable when a turn would find something to do. The loop then
        calls `run_once(0)`, and calls it too when the time of `next_timer` has come.

        Errors: LocalError, this reactor or this system has none."""
        raise LocalError(f"a {type(self).__name__} has no file descriptor that a foreign loop could watch")

    def _watched_from_outside(self) -> None:
        """From now on a call that waits makes the file descriptor of `fileno` readable."""
        if not self._is_watched:
            self._is_watched = True
            self._ready = _WakingCalls(self, self._ready)
        if self._ready:
            self._wake()

    def next_timer(self) -> float | None:
        """Seconds until a turn has something to do without input: 0 if a call waits or a timer is due; None: nothing is
        planned. For a foreign loop, as the longest time that it may wait."""
        if self._ready:
            return 0.0
        due = self._timers.next()
        return None if due is None else max(0.0, due - self.time())

    def _enter(self) -> tuple[int | None, int]:
        """(the thread that is inside already, this thread). The first is None, or this thread in a nested turn.
        ConcurrentUse: another thread is inside."""
        me = get_ident()
        if self.thread is not None and self.thread != me:
            raise ConcurrentUse(
                "another thread is inside this reactor; give each thread its own, or use call_soon_threadsafe"
            )
        return self.thread, me

    def _patience(self, timeout: float | None) -> float | None:
        """The longest time in seconds that the turn may wait; None: no limit."""
        if self._ready or self._stopped:
            return 0
        heap = self._timers.heap
        due = heap[0][0] if heap and heap[0][2].call is not None else self._timers.next()
        if due is None:
            return timeout
        until = due - self.time()
        if timeout is not None and timeout < until:
            return timeout
        return until if until > 0 else 0

    def forked(self) -> None:
        """Called in the child of a fork. Drops all calls and timers, because they are the parent's. A subclass also
        gives up what both processes share."""
        self.forget()

    def forget(self) -> None:
        """Drops all calls and timers."""
        self._ready.clear()
        self._timers = Timers()
        self._held = 0
        self.thread = None

    @makes_calls
    def call(self, call: Call) -> object:
        """Makes a call; an exception of it goes to `on_error`, or leaves `run` if that is not set."""
        if self.on_error is None:
            return call()
        try:
            return call()
        except Exception as error:
            self.on_error(error)
            return None

    @abstractmethod
    def _has_transports(self) -> bool: ...
    @abstractmethod
    def _poll(self, timeout: float | None) -> None: ...
    @abstractmethod
    def _wake(self) -> None: ...


_reactors: Registry[PlainReactor] = Registry()


def _after_fork() -> None:
    for reactor in _reactors:
        reactor.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
