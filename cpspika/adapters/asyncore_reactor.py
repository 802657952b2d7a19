"""The reactor on asyncore, sharing its map: `asyncore.loop()` drives it as well as `run()` does.

asyncore knows sockets and nothing else: no timers, no calls from other threads. So a waker stands in its map as long as
there is anything to wait for. Before asyncore waits it asks every entry whether it wants to read; then the waker sees
what is due, and makes itself readable, so that the wait ends at once and the due calls run where asyncore dispatches.
For a timer that comes due during the wait, a thread sleeps meanwhile; it is needed only when somebody else's
`asyncore.loop()` waits, since `run` itself waits no longer than until the next timer.
"""

from __future__ import annotations

import math
import select
import threading
import warnings
from typing import Any

from ..reactor import LONGEST_WAIT, Call, PlainReactor, Timer, make_calls
from .sockets import Watched, WatchesSockets
from .waker import Waker


def _import_asyncore() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import asyncore  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        raise ImportError(
            "Python 3.12 and later have no asyncore of their own; install one with: pip install 'cpspika[asyncore]'"
        ) from None
    return asyncore


class _Entry:
    """What stands in asyncore's map for a transport."""

    accepting = False

    def __init__(self, reactor: AsyncoreReactor, fd: int, transport: Watched):
        self._fd = fd
        self._transport = transport
        self._reactor = reactor
        self.read = self.write = False

    def fileno(self) -> int:
        return self._fd

    def readable(self) -> bool:
        return self.read

    def writable(self) -> bool:
        return self.write

    def handle_read_event(self) -> None:
        self._reactor.call_inside(self._transport.on_readable)

    def handle_write_event(self) -> None:
        if self._transport.socket is not None:
            self._reactor.call_inside(self._transport.on_writable)

    def handle_expt_event(self) -> None:
        self.handle_close()

    def handle_close(self) -> None:
        if self._transport.socket is not None:
            self._reactor.call_inside(self._transport.on_readable if self.read else self._transport.on_writable)

    def handle_error(self) -> None:
        raise  # asyncore calls it from its except clause: a callback's exception leaves the loop


class _WakerEntry(Waker):
    """What stands in asyncore's map for everything that isn't a socket."""

    accepting = False

    def __init__(self, reactor: AsyncoreReactor):
        super().__init__()
        self._reactor = reactor

    def readable(self) -> bool:
        self._reactor.before_wait()
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        self.drain()
        self._reactor.call_inside(self._reactor.catch_up)

    handle_close = handle_expt_event = handle_write_event = handle_read_event
    handle_error = _Entry.handle_error


class AsyncoreReactor(WatchesSockets, PlainReactor):
    """Drives any number of connections, beside whatever else lives in `map` (asyncore's own by default)."""

    def __init__(self, map: dict[int, Any] | None = None):
        super().__init__()
        self._asyncore = _import_asyncore()
        self._map: dict[int, Any] = self._asyncore.socket_map if map is None else map
        self._entries: dict[int, _Entry] = {}
        self._waker: _WakerEntry | None = None
        self._alarm: tuple[float, threading.Timer] | None = None
        self._waiting = False  # in our own _poll

    def watch(self, fd: int, watched: Watched, read: bool, write: bool) -> None:
        entry = self._entries.get(fd)
        if entry is None:
            entry = self._map[fd] = self._entries[fd] = _Entry(self, fd, watched)
        entry.read, entry.write = read, write
        self._stand_by()

    def unwatch(self, fd: int) -> None:
        if self._entries.pop(fd, None) is not None:
            self._map.pop(fd, None)

    unwatch_forked = unwatch

    # --- the waker ----------------------------------------------------------------------------------------------------

    def call_soon(self, call: Call) -> None:
        super().call_soon(call)
        self._stand_by()

    def call_later(self, seconds: float, call: Call) -> Timer:
        timer = super().call_later(seconds, call)
        self._stand_by()
        return timer

    def hold(self) -> Call:
        self._stand_by()
        return super().hold()

    def _stand_by(self) -> None:
        if self._waker is None:
            waker = self._waker = _WakerEntry(self)
            self._map[waker.fileno()] = waker

    def _stand_down(self) -> None:
        """Leaves the map, so that asyncore.loop() ends, when there is nothing to wait for."""
        if self._waker is not None and not self._has_work():
            self._map.pop(self._waker.fileno(), None)
            self._waker.close()
            self._waker = None
            self._set_alarm(None)

    def before_wait(self) -> None:
        due = self._timers.next()
        if self._ready or (due is not None and due <= self.time()) or not self._has_work():
            self._wake()
        elif not self._waiting:
            self._set_alarm(due)

    def _set_alarm(self, due: float | None) -> None:
        if self._alarm is not None:
            if self._alarm[0] == due:
                return
            self._alarm[1].cancel()
            self._alarm = None
        if due is not None:
            alarm = threading.Timer(min(due - self.time(), LONGEST_WAIT), self._wake)
            alarm.daemon = True
            self._alarm = due, alarm
            alarm.start()

    def call_inside(self, call: Call) -> None:
        """A callback under asyncore's dispatch, with this thread on record as being inside."""
        outer, self.thread = self._enter()
        try:
            self.call(call)
        finally:
            self.thread = outer

    def catch_up(self) -> None:
        """What `run_once` does around the wait."""
        if self._waiting:
            return
        now = self.time()
        while (call := self._timers.due(now)) is not None:
            self.call(call)
        make_calls(self._ready, self.call)
        self._stand_down()

    # --- the loop of our own ------------------------------------------------------------------------------------------

    def run_once(self, timeout: float | None = None) -> None:
        super().run_once(timeout)
        self._stand_down()

    def forked(self) -> None:
        for fd in list(self._entries):
            self.unwatch(fd)
        if self._waker is not None:
            self._map.pop(self._waker.fileno(), None)
            self._waker.close()
            self._waker = None
        self._alarm = None  # its thread stayed with the parent
        super().forked()

    def _has_transports(self) -> bool:
        return bool(self._entries)

    def _poll(self, timeout: float | None) -> None:
        self._stand_by()
        self._waiting = True
        try:
            poll = self._asyncore.poll2 if hasattr(select, "poll") else self._asyncore.poll
            # asyncore takes no None; what comes meanwhile ends the wait anyway.
            # Rounded up, since asyncore cuts to milliseconds, and the last one would be spent going round.
            poll(_LONG if timeout is None else math.ceil(timeout * 1000) / 1000, self._map)
        finally:
            self._waiting = False

    def _wake(self) -> None:
        waker = self._waker
        if waker is not None:
            waker.wake()


_LONG = 3600.0
