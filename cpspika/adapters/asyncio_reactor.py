"""The reactor on an asyncio loop. As a rule the program runs and ends the loop.

Calls and timers are the loop's own. Sockets are watched by the loop's add_reader and add_writer, where it has these:
the loops of the standard library have (except the Proactor, the default on Windows), and uvloop's. On any other loop
the connections go through the loop's own transports, see `asyncio_transport`.

A program that doesn't run the loop itself may drive it by `run` and `run_once`, and so use the core, tasks or the
synchronous facade on it. Inside a running loop `run` and `run_once` are an error, because asyncio cannot run a loop
inside another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any

from ..errors import ConcurrentUse, LocalError
from ..interrupts import is_interrupt, makes_calls
from ..reactor import (
    Acceptor,
    Call,
    Endpoint,
    Listener,
    Transport,
    TransportOwner,
    after_interrupt,
    make_calls,
    once,
)
from ..registry import Registry
from .asyncio_transport import AsyncioListener, AsyncioTransport
from .sockets import SocketListener, SocketTransport, Watched, WatchesSockets

TURNS_TO_CLOSE = 3  # of a loop, for transports that were cut; without these, asyncio warns if the loop is closed next
_NO_ADD_READER = asyncio.AbstractEventLoop.add_reader  # raises NotImplementedError


class _Timer:
    """A call that the loop will make. The reactor counts its timers, so that `run` knows whether any is left."""

    __slots__ = ("_call", "_handle", "_reactor")

    def __init__(self, reactor: AsyncioReactor, seconds: float, call: Call):
        self._reactor = reactor
        self._call: Call | None = call
        self._handle: asyncio.TimerHandle | None = reactor.loop.call_later(seconds, self._due)

    def cancel(self) -> None:
        call, self._call = self._call, None
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()
        if call is not None:
            self._reactor.timer_gone()

    def _due(self) -> None:
        self._reactor.call(self._make)

    @makes_calls
    def _make(self) -> None:
        call = self._call
        if call is not None:
            # No function is called between these, so no signal handler either.
            self._call = self._handle = None
            self._reactor.timers -= 1
            call()


class AsyncioReactor(WatchesSockets):
    """Drives any number of connections on an asyncio loop.

    loop: the loop; by default the one that runs in this thread, or else a new one, which `close` closes.

    An exception of a callback goes to `on_error` if that is set. Else it leaves `run` or `run_once`; if the program
    runs the loop, it goes to the loop's exception handler.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None):
        here = loop or asyncio._get_running_loop()
        self.loop: asyncio.AbstractEventLoop = here or asyncio.new_event_loop()
        self.on_error: Callable[[BaseException], object] | None = None
        # In a loop that the program runs: the loop's thread, for good, so the core refuses calls from other threads
        # before they change anything. Else set while `run` or `run_once` drives the loop.
        self.thread: int | None = get_ident() if asyncio._get_running_loop() is self.loop else None
        self.leaving: set[object] = set()  # what the loop has still to close, in its next turns
        self._owns_loop = here is None
        self._watches = getattr(type(self.loop), "add_reader", None) not in (None, _NO_ADD_READER)
        self.transports: Registry[Transport] = Registry()
        self.timers = 0
        self._ready: deque[Call] = deque()
        self._make_waiting = partial(make_calls, self._ready, None)
        self._held = 0
        self._watched: dict[int, tuple[bool, bool]] = {}  # for reading, for writing
        self._driving: Callable[[], bool] | None = None  # in `run` or `run_once`: whether that is over
        self._stopped = False
        self._stopping = False  # the loop was told to stop
        self._strays: deque[Exception] = deque()  # exceptions that `run` or `run_once` has still to raise

    # --- calls and time -----------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.loop.time()

    def call_soon(self, call: Call) -> None:
        self.loop.call_soon(self.call)
        self._ready.append(call)

    def call_soon_threadsafe(self, call: Call) -> None:
        """As `call_soon`, from any thread. If the loop is closed the call is dropped: the thread (of a name lookup, of
        the embedded broker) could do nothing about an error."""
        self._ready.append(call)  # a deque's append is atomic
        try:
            self.loop.call_soon_threadsafe(self.call)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    @makes_calls
    def _make_next(self) -> None:
        call = self._ready[0]
        del self._ready[0]  # not by a call: see CallQueue
        call()

    def call_later(self, seconds: float, call: Call) -> _Timer:
        timer = _Timer(self, seconds, call)
        self.timers += 1
        return timer

    def timer_gone(self) -> None:
        """A timer was cancelled."""
        self.timers -= 1
        self._stop_if_idle()

    @makes_calls
    def call(self, call: Call | None = None) -> None:
        """Makes a call; None: all calls that wait. The class says what becomes of their exceptions.

        The loop has a handle for each call that waits. Mostly the first handle makes all calls, and the others find
        none. An exception of a signal handler may cost the loop a handle: then the next handle makes the calls."""
        outer, self.thread = self.thread, get_ident()
        try:
            if call is None:
                call = self._make_next if len(self._ready) == 1 else self._make_waiting
            call()
        except BaseException as error:
            if is_interrupt(error):
                after_interrupt(self, error)
            if not isinstance(error, Exception) or (self.on_error is None and self._driving is None):
                raise  # to asyncio, which calls the loop's exception handler
            self.failed(error, "a callback of cpspika raised an exception")
        finally:
            if outer is None:
                self.thread = None
            if self._driving is not None and self._driving():
                self._stop_loop()

    def failed(self, error: Exception, message: str, **context: Any) -> None:
        """Handles an exception of a callback, as the class says. message, context: for the loop's exception handler."""
        if self.on_error is not None:
            self.on_error(error)
        elif self._driving is not None:
            self._strays.append(error)
            self._stop_loop()
        else:
            self.loop.call_exception_handler({"message": message, "exception": error, **context})

    # --- sockets ------------------------------------------------------------------------------------------------------

    # `resolve` doesn't use the loop's getaddrinfo: asyncio.run waits for its threads, even if a name server doesn't
    # answer.

    def open(self, endpoint: Endpoint, address: Any, owner: TransportOwner) -> Transport:
        return (SocketTransport if self._watches else AsyncioTransport).connect(self, endpoint, address, owner)

    def listen(self, host: str, port: int, acceptor: Acceptor) -> Listener:
        """As of `Reactor`."""
        return (SocketListener if self._watches else AsyncioListener)(self, host, port, acceptor)

    def watch(self, fd: int, watched: Watched, read: bool, write: bool) -> None:
        read_before, write_before = self._watched.get(fd, (False, False))
        self._watched[fd] = read, write
        if read and not read_before:
            self.loop.add_reader(fd, self.call, watched.on_readable)
        elif read_before and not read:
            self.loop.remove_reader(fd)
        if write and not write_before:
            self.loop.add_writer(fd, self.call, watched.on_writable)
        elif write_before and not write:
            self.loop.remove_writer(fd)

    def unwatch(self, fd: int) -> None:
        read, write = self._watched.get(fd, (False, False))
        if not self.loop.is_closed():
            if read:
                self.loop.remove_reader(fd)
            if write:
                self.loop.remove_writer(fd)
        self._watched.pop(fd, None)
        self._stop_if_idle()

    def unwatch_forked(self, fd: int) -> None:
        self._watched.pop(fd, None)  # the loop is the parent's, and both processes share its epoll

    # --- driving the loop ---------------------------------------------------------------------------------------------

    def hold(self) -> Call:
        """Prevents `run` from ending when nothing is left to do. Returns the function that releases it."""
        self._held += 1
        return once(self._release)

    def _release(self) -> None:
        self._held -= 1
        self._stop_if_idle()

    def run(self) -> None:
        """Runs the loop until `stop`, or until the reactor has nothing left that could make a call. Tasks of the
        program run meanwhile. LocalError: an asyncio loop is running here already."""
        self._stopped = False
        while self._has_work() and not self._stopped:
            self._drive(lambda: self._stopped or not self._has_work())

    def run_once(self, timeout: float | None = None) -> None:
        """Runs the loop until a callback of the library was called. timeout: seconds; None (default): no limit.
        LocalError: as of `run`."""
        self._check_runnable()
        if timeout is None:
            self._drive(lambda: True)
            return
        # A stop that is queued before the loop runs makes the loop do what is due, and no more.
        late = self.loop.call_later(timeout, self._stop_loop) if timeout > 0 else self.loop.call_soon(self._stop_loop)
        try:
            self._drive(lambda: True)
        finally:
            late.cancel()

    def stop(self) -> None:
        """Ends `run`. Does nothing to a loop that the program runs."""
        if self._driving is not None:
            self._stopped = True
            if asyncio._get_running_loop() is self.loop:
                self._stop_loop()
            else:
                self.loop.call_soon_threadsafe(self._stop_loop)

    def close(self) -> None:
        """Closes the loop, if the reactor made it. Close the connections before."""
        if self._owns_loop:
            self.loop.close()

    def _has_work(self) -> bool:
        return bool(self._ready or self.timers or self._held or self._watched or self._strays)

    def _stop_if_idle(self) -> None:
        """Called when `run` has one thing less to wait for: ends `run` if nothing is left. In a later call, because
        something new may be added in this one."""
        if self._driving is not None and not self._has_work():
            self.loop.call_soon(self._stop_without_work)

    def _stop_without_work(self) -> None:
        if self._driving is not None and not self._has_work():
            self._stop_loop()

    def _stop_loop(self) -> None:
        """Ends the loop's run. Once for each run: uvloop keeps a second stop for the next one, which would end at
        once."""
        if not self._stopping:
            self._stopping = True
            self.loop.stop()

    def _run_loop(self) -> None:
        self._stopping = False
        self.loop.run_forever()

    def _drive(self, is_over: Callable[[], bool]) -> None:
        self._check_runnable()
        if not self._strays:
            outer, self.thread = self.thread, get_ident()
            self._driving = is_over
            try:
                self._run_loop()
                self._close_transports()
            finally:
                self._driving, self.thread = None, outer
        if self._strays:
            raise self._strays.popleft()

    def _close_transports(self) -> None:
        for _ in range(TURNS_TO_CLOSE):
            if self.leaving:
                self.loop.call_soon(self._stop_loop)
                self._run_loop()

    def _check_runnable(self) -> None:
        if asyncio._get_running_loop() is not None:
            raise LocalError(
                "an asyncio loop is running here, and cannot be run inside itself: await the result "
                "(cpspika.adapters.asyncio_adapter), or pass an on_done, which the loop will call"
            )
        if self.loop.is_running():
            raise ConcurrentUse(
                "another thread is inside this reactor; give each thread its own, or use call_soon_threadsafe"
            )
