"""The smallest reactor: it drives one connection, and waits for its socket by poll or select."""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..errors import LocalError
from ..interrupts import is_of_signal_handler, wait
from ..reactor import Endpoint, PlainReactor, TransportOwner
from .poll_file import PollFile
from .sockets import SocketTransport, Watched, resolve
from .waker import DEAF, Waker, limited


class BlockingReactor(PlainReactor):
    """Drives one connection at a time. It waits for the socket of that connection, and for its waker."""

    def __init__(self) -> None:
        super().__init__()
        self._transport: Watched | None = None
        self._fd = -1
        self._events = False, False  # wanted of the socket: read, write
        self._begin()

    def _begin(self) -> None:
        self._poll_file: PollFile | None = None
        self._waker = Waker()
        self._wait = _Wait(self._waker.fileno())

    def resolve(
        self, endpoint: Endpoint, on_done: Callable[[Exception | None, list[Any] | None], object]
    ) -> Callable[[], object] | None:
        return resolve(self, endpoint, on_done)

    def open(self, endpoint: Endpoint, address: Any, owner: TransportOwner) -> SocketTransport:
        if self._transport is not None:
            raise LocalError(
                "a BlockingReactor drives one connection, and has one; make a reactor for each connection, or use a "
                "SelectReactor"
            )
        return SocketTransport.connect(self, endpoint, address, owner)

    def watch(self, fd: int, watched: Watched, read: bool, write: bool) -> None:
        self._fd, self._transport, self._events = fd, watched, (read, write)
        self._wait.watch(fd, read, write)
        if self._poll_file is not None:
            self._poll_file.watch(fd, read, write)

    def unwatch(self, fd: int) -> None:
        if fd == self._fd:
            self._wait.watch(fd, False, False)
            if self._poll_file is not None:
                self._poll_file.unwatch(fd)
            self._fd, self._transport = -1, None

    unwatch_forked = unwatch

    def _has_transports(self) -> bool:
        return self._transport is not None

    def _poll(self, timeout: float | None) -> None:
        transport = self._transport
        for fd, events in self._wait(timeout):
            if fd != self._fd:
                self._waker.drain()
                continue
            if events == READ and self.on_error is None and transport is not None:  # mostly
                transport.on_readable()
                continue
            if events & FAILED:
                events = READ * self._events[0] | WRITE * self._events[1]  # reading or writing raises the error
            if events & READ and transport is not None:
                self.call(transport.on_readable)
            if events & WRITE and transport is not None and transport.socket is not None:
                self.call(transport.on_writable)

    def fileno(self) -> int:
        """As of `PlainReactor`."""
        if self._poll_file is None:
            self._poll_file = PollFile()
            self._poll_file.watch(self._waker.fileno(), True, False)
            if self._transport is not None:
                self._poll_file.watch(self._fd, *self._events)
        self._watched_from_outside()
        return self._poll_file.fileno()

    def _wake(self) -> None:
        self._waker.wake()

    def forked(self) -> None:
        self._waker.forked()
        self._close_poll_file()
        self._begin()
        self._fd, self._transport = -1, None
        super().forked()

    def close(self) -> None:
        """Closes the waker. Close the connection before."""
        self._close_poll_file()
        self._waker.close()

    def _close_poll_file(self) -> None:
        if self._poll_file is not None:
            self._poll_file.close()
            self._poll_file = None


Ready = list[tuple[int, int]]
"""File descriptors that are ready, each with its events."""

if hasattr(select, "poll"):
    READ, WRITE, FAILED = select.POLLIN, select.POLLOUT, select.POLLHUP | select.POLLERR | select.POLLNVAL

    class _Wait:
        """Waits for the waker and one socket, by poll. Both are registered once, not at each wait."""

        def __init__(self, waker: int):
            self._waker = waker
            self._fd, self._events = -1, 0
            self._poll = select.poll()
            self._poll.register(waker, READ)

        def watch(self, fd: int, read: bool, write: bool) -> None:
            self._fd = fd
            self._events = read * READ | write * WRITE
            if self._events:
                self._poll.register(fd, self._events)
            else:
                with suppress(KeyError):
                    self._poll.unregister(fd)

        @wait
        def __call__(self, timeout: float | None) -> Ready:
            """Polls."""
            milliseconds = None if timeout is None else -(-timeout * 1000 // 1)
            try:
                return self._poll.poll(milliseconds)
            except RuntimeError as error:
                if is_of_signal_handler(error):
                    raise
                return self._copy().poll(milliseconds)

        def _copy(self) -> select.poll:
            """A poll object of its own for a signal handler that waits amid a wait, which Python refuses."""
            copy = select.poll()
            copy.register(self._waker, READ)
            if self._events:
                copy.register(self._fd, self._events)
            return copy

else:
    READ, WRITE, FAILED = 1, 2, 0

    class _Wait:  # type: ignore[no-redef]
        """Waits for the waker and one socket, by select."""

        def __init__(self, waker: int):
            self._waker = waker
            self._fd, self._read, self._write = -1, False, False

        def watch(self, fd: int, read: bool, write: bool) -> None:
            self._fd, self._read, self._write = fd, read, write

        @wait
        def __call__(self, timeout: float | None) -> Ready:
            readers = [self._waker, self._fd] if self._read else [self._waker]
            writers = [self._fd] if self._write else []
            readable, writable, failed = select.select(readers, writers, writers, limited(timeout) if DEAF else timeout)
            events = (self._fd in readable) * READ | bool(writable or failed) * WRITE
            woken = [(self._waker, READ)] if self._waker in readable else []
            return [*woken, (self._fd, events)] if events else woken
