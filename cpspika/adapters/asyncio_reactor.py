"""The reactor on an asyncio loop: a guest in it, since the loop is the program's, which runs and ends it.

Calls and timers are the loop's own, sockets are watched by its add_reader and add_writer, so that it lives on any loop
that has these: the standard library's (but the Proactor of Windows), uvloop's.

A program that isn't asyncio's may drive the loop by `run` and `run_once`, and so use the core, tasks or the synchronous
facade on it. Inside a running loop that is an error: asyncio's loops cannot be run one inside another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any

from ..errors import ConcurrentUse, LocalError
from ..reactor import Call, once
from .sockets import Watched, WatchesSockets


class _Timer:
    """A call that the loop will make; counted, so that `run` knows what is left."""

    __slots__ = ("_call", "_handle", "_reactor")

    def __init__(self, reactor: AsyncioReactor, seconds: float, call: Call):
        self._reactor = reactor
        self._call: Call | None = call
        self._handle: asyncio.TimerHandle | None = reactor.loop.call_later(seconds, self._due)

    def cancel(self) -> None:
        if self._take() is not None:
            self._reactor.timer_gone()

    def _due(self) -> None:
        call = self._take()
        if call is not None:
            self._reactor.timer_gone(call)

    def _take(self) -> Call | None:
        call, self._call = self._call, None
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()
        return call


class AsyncioReactor(WatchesSockets):
    """Drives any number of connections on an asyncio loop: the one given, else the one that is running here, else a new
    one of its own, which `close` closes.

    A callback's exception goes to `on_error` where that is set, else out of `run` or `run_once`, else (the loop is run
    by the program) to the loop's exception handler.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None):
        here = loop or asyncio._get_running_loop()
        self.loop: asyncio.AbstractEventLoop = here or asyncio.new_event_loop()
        self.on_error: Callable[[BaseException], object] | None = None
        # Set while a callback of ours is called, and while we drive the loop. That another thread comes in while the
        # program's own coroutines run, asyncio's debug mode tells; to ask the loop at each publish costs too much.
        self.thread: int | None = None
        self._owns_loop = here is None
        self._ready: deque[Call] = deque()
        self._timers = 0
        self._held = 0
        self._watched: dict[int, tuple[bool, bool]] = {}  # for reading, for writing
        self._driving: Callable[[], bool] | None = None  # whether a turn of ours is over
        self._stopped = False
        self._strays: deque[Exception] = deque()

    # --- calls and time -----------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.loop.time()

    def call_soon(self, call: Call) -> None:
        self.loop.call_soon(self._call_next)
        self._ready.append(call)

    def call_soon_threadsafe(self, call: Call) -> None:
        """`call_soon` from another thread. On a loop that is closed it comes to nothing: nobody is left to care, and
        the thread (a name lookup's, the embedded broker's) could do nothing about it."""
        self._ready.append(call)  # a deque's append is atomic
        try:
            self.loop.call_soon_threadsafe(self._call_next)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    def _call_next(self) -> None:
        self.call(self._ready.popleft())

    def call_later(self, seconds: float, call: Call) -> _Timer:
        timer = _Timer(self, seconds, call)
        self._timers += 1
        return timer

    def timer_gone(self, call: Call | None = None) -> None:
        """A timer came due, with its call, or was cancelled."""
        self._timers -= 1
        if call is not None:
            self.call(call)
        else:
            self._look_whether_over()

    def call(self, call: Call) -> None:
        """Runs a callback under the rule for its exceptions."""
        outer, self.thread = self.thread, get_ident()
        try:
            call()
        except Exception as error:
            if self.on_error is None and self._driving is None:
                raise  # to asyncio, which tells the loop's exception handler
            self.failed(error, "a callback of cpspika's raised")
        finally:
            self.thread = outer
            if self._driving is not None and self._driving():
                self.loop.stop()

    def failed(self, error: Exception, message: str, **context: Any) -> None:
        """Tells of a callback's exception, as the rule has it."""
        if self.on_error is not None:
            self.on_error(error)
        elif self._driving is not None:
            self._strays.append(error)
            self.loop.stop()
        else:
            self.loop.call_exception_handler({"message": message, "exception": error, **context})

    # --- sockets ------------------------------------------------------------------------------------------------------

    # `resolve` is not the loop's getaddrinfo, for whose threads asyncio.run waits at its end, dead name server or not.

    def check_sockets(self) -> None:
        """LocalError: this loop cannot watch sockets."""
        if getattr(type(self.loop), "add_reader", None) in (None, asyncio.AbstractEventLoop.add_reader):
            raise LocalError(
                f"a {type(self.loop).__name__} cannot watch sockets (it has no add_reader), as Windows' Proactor; run "
                "the program on another: asyncio.Runner(loop_factory=asyncio.SelectorEventLoop), or before asyncio.run "
                "asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())"
            )

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
        read, write = self._watched.pop(fd, (False, False))
        if not self.loop.is_closed():
            if read:
                self.loop.remove_reader(fd)
            if write:
                self.loop.remove_writer(fd)
        self._look_whether_over()

    def unwatch_forked(self, fd: int) -> None:
        self._watched.pop(fd, None)  # the loop is the parent's, and its epoll is shared

    # --- driving the loop ourselves -----------------------------------------------------------------------------------

    def hold(self) -> Call:
        """Keeps `run` from ending for want of work, until the function that is returned is called."""
        self._held += 1
        return once(self._release)

    def _release(self) -> None:
        self._held -= 1
        self._look_whether_over()

    def run(self) -> None:
        """Runs the loop until `stop`, or until nothing of ours is left that could call back; what else lives in the
        loop runs meanwhile. LocalError: it is running already."""
        self._stopped = False
        if self._has_work():
            self._drive(lambda: self._stopped or not self._has_work())

    def run_once(self, timeout: float | None = None) -> None:
        """Runs the loop until one of our callbacks was called, for `timeout` seconds at most. LocalError: it is running
        already."""
        self._check_runnable()
        if timeout is None:
            self._drive(lambda: True)
            return
        # Already in line when the loop begins, a stop lets it do what is due and no more.
        late = self.loop.call_later(timeout, self.loop.stop) if timeout > 0 else self.loop.call_soon(self.loop.stop)
        try:
            self._drive(lambda: True)
        finally:
            late.cancel()

    def stop(self) -> None:
        """Ends `run`. A loop that the program runs is the program's to stop."""
        if self._driving is not None:
            self._stopped = True
            if asyncio._get_running_loop() is self.loop:
                self.loop.stop()
            else:
                self.loop.call_soon_threadsafe(self.loop.stop)

    def close(self) -> None:
        """Closes the loop, if it is the reactor's own. Connections should be closed before."""
        if self._owns_loop:
            self.loop.close()

    def _has_work(self) -> bool:
        return bool(self._ready or self._timers or self._held or self._watched or self._strays)

    def _look_whether_over(self) -> None:
        """Something was taken away that `run` may have waited for. In a moment: other things may take its place."""
        if self._driving is not None and not self._has_work():
            self.loop.call_soon(self._stop_without_work)

    def _stop_without_work(self) -> None:
        if self._driving is not None and not self._has_work():
            self.loop.stop()

    def _drive(self, is_over: Callable[[], bool]) -> None:
        self._check_runnable()
        if not self._strays:
            self._driving, self.thread = is_over, get_ident()
            try:
                self.loop.run_forever()
            finally:
                self._driving = self.thread = None
        if self._strays:
            raise self._strays.popleft()

    def _check_runnable(self) -> None:
        if asyncio._get_running_loop() is not None:
            raise LocalError(
                "an asyncio loop is running here, and cannot be run inside itself: await what you wait for "
                "(cpspika.adapters.asyncio_adapter), or leave it to the loop to call back"
            )
        if self.loop.is_running():
            raise ConcurrentUse(
                "another thread is inside this reactor; give each thread its own, or use call_soon_threadsafe"
            )
