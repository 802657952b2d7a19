"""The reactor on the standard library's selectors: epoll, kqueue, poll or select, the best that the system has."""

from __future__ import annotations

import selectors

from ..interrupts import wait
from ..reactor import PlainReactor
from .poll_file import file_of
from .sockets import Watched, WatchesSockets
from .waker import DEAF, Waker, limited


class SelectReactor(WatchesSockets, PlainReactor):
    """Drives any number of connections in one thread."""

    def __init__(self) -> None:
        super().__init__()
        self._begin()

    def _begin(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._waker = Waker()
        self._selector.register(self._waker.fileno(), selectors.EVENT_READ)
        self._watched: set[int] = set()

    def watch(self, fd: int, watched: Watched, read: bool, write: bool) -> None:
        events = read * selectors.EVENT_READ | write * selectors.EVENT_WRITE
        self._watched.add(fd)
        if not events:
            # A selector accepts no socket without events. The socket stays in `_watched`, so that `run` doesn't end.
            self._forget(fd)
        elif fd in self._selector.get_map():
            self._selector.modify(fd, events, watched)
        else:
            self._selector.register(fd, events, watched)

    def unwatch(self, fd: int) -> None:
        self._watched.discard(fd)
        self._forget(fd)

    def _forget(self, fd: int) -> None:
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def unwatch_forked(self, fd: int) -> None:
        pass  # `forked` makes a new selector; the old one shares its epoll with the parent

    def _has_transports(self) -> bool:
        return bool(self._watched)

    def _poll(self, timeout: float | None) -> None:
        for key, events in self._select(timeout):
            transport = key.data
            if transport is None:
                self._waker.drain()
                continue
            if events & selectors.EVENT_READ:
                if self.on_error is None:
                    transport.on_readable()
                else:
                    self.call(transport.on_readable)
            if events & selectors.EVENT_WRITE and transport.socket is not None:
                self.call(transport.on_writable)

    @wait
    def _select(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        return self._selector.select(limited(timeout) if DEAF else timeout)

    def _wake(self) -> None:
        self._waker.wake()

    def fileno(self) -> int:
        """As of `PlainReactor`."""
        number = file_of(self._selector)
        self._watched_from_outside()
        return number

    def close(self) -> None:
        """Closes the selector and the waker. Close the connections before."""
        self._selector.close()
        self._waker.close()

    def forked(self) -> None:
        # Parent and child share one epoll. A socket that the child unregistered would be unregistered in the parent
        # too.
        self._selector.close()
        self._waker.forked()
        self._begin()
        super().forked()
