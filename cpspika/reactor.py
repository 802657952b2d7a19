"""What a reactor is to the core, and the machinery that plain reactors share.

A reactor calls back: when bytes came, when a time has come, as soon as it can. The core asks of it what `Reactor` says
and nothing else, so a foreign event loop needs an adapter of a page and no inheritance. `PlainReactor` is for loops of
our own: a queue of calls, a heap of timers, and a turn around one hole, `_poll`.

A turn: the calls that were waiting, then what the outside brought, then the timers that are due, then the calls these
made (which write what the turn produced, all at once). A callback's exception leaves `run`, or goes to `on_error` where
that is set; the reactor is whole and can be run again.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from .errors import ConcurrentUse

Call = Callable[[], object]


IDLE = object()
"""What a call returns that told nobody anything: the turn may still wait for more."""


def make_calls(waiting: deque[Call], guard: Callable[[Call], object] | None) -> int:
    """Makes the calls that wait, by guard(call) where there is one; how many may have told somebody something."""
    # Those that are added meanwhile wait for the next round: one that repeats itself must not keep the socket out.
    made = 0
    for _ in range(len(waiting)):
        if waiting:  # a nested turn may have taken them
            call = waiting.popleft()
            made += (call() if guard is None else guard(call)) is not IDLE
    return made


def once(call: Call) -> Call:
    """Makes the call the first time, and nothing after that."""
    left = [call]
    return lambda: left.pop()() if left else None


class Endpoint(NamedTuple):
    """Where to connect. `ssl`: an ssl.SSLContext, or None. `via`: makes the transport in a way of its own, without name
    or address: via(reactor, owner)."""

    host: str
    port: int
    ssl: Any = None
    via: Callable[[Any, Any], Any] | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}{' (TLS)' if self.ssl else ''}"


class Transport(Protocol):
    """Bytes to and from one peer. `queued` and `written`: bytes taken by write, and given to the kernel, since the
    beginning; their difference is the backlog."""

    queued: int
    written: int

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        """Takes chunks to be sent in order; they go out together at the end of the turn."""

    def flush(self) -> None:
        """Sends now what would go out at the end of the turn, as far as the kernel takes it."""

    def close(self) -> None:
        """Sends what is queued, then hangs up; the owner hears nothing more."""

    def pause_reading(self, paused: bool) -> None:
        """Reads nothing more, so that the peer is held back by its own buffers; or goes on."""

    def abort(self) -> None:
        """Hangs up now; the owner hears nothing more."""

    def detach(self) -> None:
        """Lets go of the socket without a word to the peer: it belongs to the process that we were forked from."""


class TransportOwner(Protocol):
    """Whom a transport calls: transport_ready or transport_lost first; after transport_lost, nothing."""

    def transport_ready(self) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def bytes_written(self) -> bool | None:
        """`written` has grown. True if somebody was called for it."""

    def transport_lost(self, error: Exception | None) -> None: ...


class TransportCallbacks(NamedTuple):
    """A TransportOwner of four functions, for an owner that does not show them as methods of its own."""

    transport_ready: Callable[[], None]
    data_received: Callable[[bytes], None]
    bytes_written: Callable[[], bool | None]
    transport_lost: Callable[[Exception | None], None]


class Timer(Protocol):
    def cancel(self) -> None: ...


class Listener(Protocol):
    """What listens; `port` is where."""

    port: int

    def close(self) -> None: ...


Acceptor = Callable[[Transport], TransportOwner]
"""Called with the transport of whoever connected; returns its owner."""


class Reactor(Protocol):
    """The contract of every adapter."""

    on_error: Callable[[BaseException], object] | None
    thread: int | None  # the thread that is inside the reactor now

    def run(self) -> None:
        """Turns until `stop`, or until nothing is left that could call back."""

    def stop(self) -> None: ...
    def run_once(self, timeout: float | None = None) -> None:
        """One turn; where it has nothing to do it waits, for `timeout` seconds at most (None: as long as it takes)."""

    def time(self) -> float: ...
    def call_soon(self, call: Call) -> object: ...
    def call_later(self, seconds: float, call: Call) -> Timer: ...
    def call_soon_threadsafe(self, call: Call) -> object: ...
    def hold(self) -> Call:
        """Keeps `run` from ending for want of work, until the function that is returned is called."""

    def resolve(self, endpoint: Endpoint, on_done: Callable[[Exception | None, list[Any] | None], object]) -> None:
        """Finds the addresses of an endpoint; on_done(err, addresses), never inside the call."""

    def open(self, endpoint: Endpoint, address: Any, owner: TransportOwner) -> Transport:
        """Begins to connect to one of the addresses."""


class NamedTimers:
    """The timers of one owner, by name: at most one of each name is running."""

    __slots__ = ("_by_name", "_call_later")

    def __init__(self, reactor: Reactor):
        self._call_later = reactor.call_later
        self._by_name: dict[str, Timer] = {}

    def start(self, name: str, seconds: float | None, call: Call) -> None:
        """Calls `call` after so many seconds (None: never), in place of the timer of this name."""
        self.cancel(name)
        if seconds is not None:
            self._by_name[name] = self._call_later(seconds, call)

    def cancel(self, *names: str) -> None:
        """Cancels the timers of these names, as far as they are running."""
        for name in names:
            timer = self._by_name.pop(name, None)
            if timer is not None:
                timer.cancel()


class _Timer:
    """A call in the heap. A cancelled one stays there for a while, without what it held."""

    __slots__ = ("_timers", "call")

    def __init__(self, timers: Timers, call: Call):
        self._timers = timers
        self.call: Call | None = call  # None: cancelled, or made

    def cancel(self) -> None:
        if self.call is not None:
            self.call = None
            self._timers.cancelled()

    def take(self) -> Call | None:
        call, self.call = self.call, None
        return call


class Timers:
    """A heap of timers. Cancelled ones are dropped when they come up, or all at once when most are cancelled: a timeout
    for each call, nearly always cancelled, must not fill the heap."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _Timer]] = []
        self._order = itertools.count()
        self._cancelled = 0

    def add(self, when: float, call: Call) -> _Timer:
        timer = _Timer(self, call)
        heapq.heappush(self._heap, (when, next(self._order), timer))
        return timer

    def cancelled(self) -> None:
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].call is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def next(self) -> float | None:
        """When the earliest is due, or None."""
        while self._heap and self._heap[0][2].call is None:
            heapq.heappop(self._heap)
            self._cancelled -= 1
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Call | None:
        """Takes the earliest that is due."""
        when = self.next()
        if when is None or when > now:
            return None
        return heapq.heappop(self._heap)[2].take()


class PlainReactor(ABC):
    """A loop of our own; a kind of it says how to wait (`_poll`) and how to be woken (`_wake`)."""

    def __init__(self) -> None:
        self.on_error: Callable[[BaseException], object] | None = None
        self._ready: deque[Call] = deque()
        self._timers = Timers()
        self._running = False
        self._stopped = False
        self._held = 0
        self.thread: int | None = None
        _reactors.add(self)

    def time(self) -> float:
        return time.monotonic()

    def call_soon(self, call: Call) -> None:
        self._ready.append(call)

    def call_later(self, seconds: float, call: Call) -> Timer:
        return self._timers.add(self.time() + seconds, call)

    def call_soon_threadsafe(self, call: Call) -> None:
        """`call_soon` from another thread: wakes the reactor where it waits."""
        self._ready.append(call)  # a deque's append is atomic
        self._wake()

    def hold(self) -> Call:
        """Keeps `run` from ending for want of work, until the function that is returned is called: for work that is
        under way outside the reactor, in another thread."""
        self._held += 1
        return once(self._release)

    def _release(self) -> None:
        self._held -= 1

    def run(self) -> None:
        outer, self._running, self._stopped = self._running, True, False
        try:
            while not self._stopped and self._has_work():
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
        outer, self.thread = self._enter()
        try:
            # A turn that had calls to make doesn't wait: they may have done what the caller turns the reactor for.
            if self._ready and make_calls(self._ready, None if self.on_error is None else self.call):
                timeout = 0
            self._poll(self._patience(timeout))
            now = self.time()
            while (call := self._timers.due(now)) is not None:
                self.call(call)
            if self._ready:
                make_calls(self._ready, None if self.on_error is None else self.call)
        finally:
            self.thread = outer

    def _enter(self) -> tuple[int | None, int]:
        """The thread that is inside already (this one, in a nested turn), and this one."""
        me = threading.get_ident()
        if self.thread is not None and self.thread != me:
            raise ConcurrentUse(
                "another thread is inside this reactor; give each thread its own, or use call_soon_threadsafe"
            )
        return self.thread, me

    def _patience(self, timeout: float | None) -> float | None:
        """How long the turn may wait."""
        if self._ready or self._stopped:
            return 0
        due = self._timers.next()
        if due is None:
            return timeout
        until = due - self.time()
        if timeout is not None and timeout < until:
            return timeout
        return until if until > 0 else 0

    def forked(self) -> None:
        """In the child of a fork: what waits belongs to the parent. A kind of reactor gives up what both share, too."""
        self.forget()

    def forget(self) -> None:
        """Drops every call and timer that waits."""
        self._ready.clear()
        self._timers = Timers()
        self._held = 0
        self.thread = None

    def call(self, call: Call) -> object:
        """Runs a callback under the rule for its exceptions."""
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


_reactors: weakref.WeakSet[PlainReactor] = weakref.WeakSet()


def _after_fork() -> None:
    for reactor in list(_reactors):
        reactor.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
