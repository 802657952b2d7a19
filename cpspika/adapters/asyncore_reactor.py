"""The reactor on asyncore. It uses asyncore's map, so `asyncore.loop()` drives it as well as `run()` does.

Theory of operation
===================

asyncore has sockets only: no timers, and no calls from other threads. So the reactor puts a waker into asyncore's map,
for as long as there is anything to wait for.

Before asyncore waits, it calls `readable` of every entry in the map. The waker's `readable` looks for calls and timers
that are due. If there are any, it wakes itself: the wait ends at once, and the waker's `handle_read_event` makes the
calls.

For a timer that becomes due during the wait, a thread (the *alarm*) sleeps until then and wakes the waker. Only
`asyncore.loop()` needs it. `run` waits no longer than until the next timer.
"""

from __future__ import annotations

import math
import select
import threading
import warnings
from typing import Any

from ..interrupts import wait
from ..reactor import LONGEST_WAIT, Call, PlainReactor, Timer, make_calls
from .poll_file import PollFile
from .sockets import Watched, WatchesSockets
from .waker import DEAF, Waker, limited


def _import_asyncore() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import asyncore  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        raise ImportError(
            "this Python has no module asyncore (Python 3.12 removed it); install it with: pip install "
            "'cpspika[asyncore]'"
        ) from None
    return asyncore


class _Entry:
    """The entry of a transport in asyncore's map."""

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
        raise  # asyncore calls this in an except clause, so the callback's exception leaves the loop


class _WakerEntry(Waker):
    """The entry in asyncore's map for calls and timers."""

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
    """Drives any number of connections, together with the program's own asyncore dispatchers.

    map: the map of the dispatchers; by default asyncore.socket_map. ImportError: this Python has no asyncore."""

    def __init__(self, map: dict[int, Any] | None = None):
        super().__init__()
        self._asyncore = _import_asyncore()
        self._map: dict[int, Any] = self._asyncore.socket_map if map is None else map
        self._entries: dict[int, _Entry] = {}
        self._waker: _WakerEntry | None = None
        self._alarm: tuple[float, threading.Timer] | None = None  # (time when it is due, thread)
        self._poll_file: PollFile | None = None
        self._waiting = False  # in `_poll`, not in the program's asyncore.loop()

    def watch(self, fd: int, watched: Watched, read: bool, write: bool) -> None:
        entry = self._entries.get(fd)
        if entry is None:
            entry = self._map[fd] = self._entries[fd] = _Entry(self, fd, watched)
        entry.read, entry.write = read, write
        if self._poll_file is not None:
            self._poll_file.watch(fd, read, write)
        self._stand_by()

    def unwatch(self, fd: int) -> None:
        if fd in self._entries:
            self._map.pop(fd, None)
            if self._poll_file is not None:
                self._poll_file.unwatch(fd)
            del self._entries[fd]

    def unwatch_forked(self, fd: int) -> None:
        self._poll_file = None  # shared with the parent, who goes on with it
        self.unwatch(fd)

    def fileno(self) -> int:
        """As of `PlainReactor`. It watches the library's own sockets, not the other dispatchers of asyncore's map."""
        if self._poll_file is None:
            self._poll_file = PollFile()
            for fd, entry in self._entries.items():
                self._poll_file.watch(fd, entry.read, entry.write)
            if self._waker is not None:
                self._poll_file.watch(self._waker.fileno(), True, False)
        self._watched_from_outside()
        return self._poll_file.fileno()

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
        """Adds the waker to the map, if it isn't there."""
        if self._waker is None:
            waker = self._waker = _WakerEntry(self)
            self._map[waker.fileno()] = waker
            if self._poll_file is not None:
                self._poll_file.watch(waker.fileno(), True, False)

    def _stand_down(self) -> None:
        """Removes the waker from the map if there is nothing to wait for, so that asyncore.loop() ends."""
        if self._waker is not None and not self._has_work():
            self._map.pop(self._waker.fileno(), None)
            if self._poll_file is not None:
                self._poll_file.unwatch(self._waker.fileno())
            self._waker.close()
            self._waker = None
            self._set_alarm(None)

    def before_wait(self) -> None:
        """Called before asyncore waits: ends that wait at once if a call or timer is due, else sets the alarm."""
        due = self._timers.next()
        if self._ready or (due is not None and due <= self.time()) or not self._has_work():
            self._wake()
        elif not self._waiting:
            self._set_alarm(due)

    def _set_alarm(self, due: float | None) -> None:
        """Starts the alarm for this time, in place of the one that is set. None: no alarm."""
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
        """Makes a call for asyncore, with this thread as the one inside the reactor (`thread`)."""
        outer, self.thread = self._enter()
        try:
            self.call(call)
        finally:
            self.thread = outer

    def catch_up(self) -> None:
        """Makes the calls and timers that are due. Under asyncore.loop() this does what `run_once` does around its
        wait."""
        if self._waiting:
            return
        self._make_due(self.time())
        make_calls(self._ready, self.call)
        self._stand_down()

    # --- the loop of our own ------------------------------------------------------------------------------------------

    def run_once(self, timeout: float | None = None) -> None:
        super().run_once(timeout)
        self._stand_down()

    def forked(self) -> None:
        self._poll_file = None
        for fd in list(self._entries):
            self.unwatch(fd)
        if self._waker is not None:
            self._map.pop(self._waker.fileno(), None)
            self._waker.forked()
            self._waker = None
        self._alarm = None  # its thread exists only in the parent
        super().forked()

    def _has_transports(self) -> bool:
        return bool(self._entries)

    @wait
    def _poll(self, timeout: float | None) -> None:
        self._stand_by()
        self._waiting = True
        if DEAF:
            timeout = limited(timeout)
        try:
            poll = self._asyncore.poll2 if hasattr(select, "poll") else self._asyncore.poll
            # asyncore accepts no None. A long time does as well: whatever happens meanwhile ends the wait.
            # Rounded up, because asyncore rounds down to milliseconds, and would poll without a wait in the last one.
            poll(_LONG if timeout is None else math.ceil(timeout * 1000) / 1000, self._map)
        finally:
            self._waiting = False

    def _wake(self) -> None:
        waker = self._waker
        if waker is not None:
            waker.wake()


_LONG = 3600.0  # seconds
