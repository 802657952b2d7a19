"""The waker: an eventfd or a pipe by which another thread, or a signal handler, wakes a reactor that waits.

The reactor watches one end. `wake` writes to the other, and the wait of the reactor ends. `drain` reads what was
written. An eventfd is one file descriptor for both ends.

The ends are bare file descriptors, where the system can wait for a pipe. A socket object would warn (ResourceWarning)
when it is collected before the waker: a reactor that nobody closed is part of a reference cycle, or goes at the end of
the process, and then the finalizers run in any order.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from threading import RLock
from typing import Any

from ..interrupts import release


def _files() -> tuple[Any, Any]:
    if hasattr(os, "eventfd"):
        number = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return number, number
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer


def _socketpair() -> tuple[Any, Any]:
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    return reader, writer


# (make, read, write, close). Windows waits for sockets only.
FILES: Any = _files, os.read, os.write, os.close
SOCKETS: Any = _socketpair, socket.socket.recv, socket.socket.send, socket.socket.close

_make, _read, _write, _close = FILES if os.name == "posix" else SOCKETS


_ONE = (1).to_bytes(8, sys.byteorder)  # what an eventfd takes, a number to be added


DEAF = os.name == "nt"
"""Ctrl-C does not end a wait for sockets on Windows. So a wait takes DEAF_WAIT there at most; the turn has no calls."""

DEAF_WAIT = 1.0  # seconds


def limited(timeout: float | None) -> float:
    """The time that a wait may take where it is DEAF."""
    return DEAF_WAIT if timeout is None or timeout > DEAF_WAIT else timeout


class Waker:
    """Wakes one reactor. `wake` may be called from any thread, and by a signal handler. OSError: no file descriptor is
    left."""

    def __init__(self) -> None:
        self._ends: tuple[Any, Any] | None = None
        self._lock = RLock()
        self._ends = _make()

    def fileno(self) -> int:
        """The file descriptor to watch: readable once the waker was woken. -1 after `close`."""
        if self._ends is None:
            return -1
        reader = self._ends[0]
        return reader if isinstance(reader, int) else reader.fileno()

    def wake(self, at_the_end: Callable[[], bool] = sys.is_finalizing) -> None:
        """Makes the file descriptor readable."""
        # Called by a finalizer at the end of the process. The other threads have stopped: nobody is left to be woken,
        # and one of them may have stopped with the lock. This module may be gone.
        if at_the_end():
            return
        # Under the lock, because a number that another thread closes in this moment may then be another file's. A
        # full pipe fails, and wakes as well.
        self._locked(self._write_byte)

    def _write_byte(self) -> None:
        with contextlib.suppress(OSError):
            if self._ends is not None:
                _write(self._ends[1], _ONE)

    def _locked(self, call: Callable[[], object]) -> None:
        try:
            self._lock.acquire()  # not by `with`: see `interrupts`
            call()
        except BaseException:
            release(self._lock)
            raise
        self._lock.release()

    def drain(self) -> None:
        """Makes the file descriptor unreadable again."""
        with contextlib.suppress(OSError):
            self._read_all()

    def _read_all(self) -> None:
        while self._ends is not None and len(_read(self._ends[0], 4096)) == 4096:
            pass

    def __del__(self, close: Any = _close) -> None:
        # The program need not close a reactor that it drops. At the end of the process this module may be gone.
        ends, self._ends = self._ends, None
        for end in set(ends or ()):
            close(end)

    def forked(self) -> None:
        """Closes both ends in the child of a fork. Without the lock, which a thread of the parent may have held."""
        self.__del__()

    def close(self) -> None:
        """Closes both ends."""
        self._locked(self.__del__)
