"""The smallest reactor: one connection, whose socket it waits on directly."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from ..errors import LocalError
from ..reactor import Endpoint, PlainReactor, TransportOwner
from .sockets import SocketTransport, Watched, resolve
from .waker import Waker


class BlockingReactor(PlainReactor):
    """Drives one connection at a time, without registering anything anywhere: each wait names its one socket."""

    def __init__(self) -> None:
        super().__init__()
        self._transport: Watched | None = None
        self._fd = -1
        self._read = self._write = False
        self._waker = Waker()

    def resolve(self, endpoint: Endpoint, on_done: Callable[[Exception | None, list[Any] | None], object]) -> None:
        resolve(self, endpoint, on_done)

    def open(self, endpoint: Endpoint, address: Any, owner: TransportOwner) -> SocketTransport:
        if self._transport is not None:
            raise LocalError("a BlockingReactor drives one connection; give each its own, or use a SelectReactor")
        return SocketTransport.connect(self, endpoint, address, owner)

    def watch(self, fd: int, watched: Watched, read: bool, write: bool) -> None:
        self._fd, self._transport, self._read, self._write = fd, watched, read, write

    def unwatch(self, fd: int) -> None:
        if fd == self._fd:
            self._fd, self._transport = -1, None

    unwatch_forked = unwatch

    def _has_transports(self) -> bool:
        return self._transport is not None

    def _poll(self, timeout: float | None) -> None:
        transport, waker = self._transport, self._waker.fileno()
        readable, writable = _wait(
            self._fd,
            waker,
            transport is not None and self._read,
            transport is not None and self._write,
            timeout,
        )
        if waker in readable:
            self._waker.drain()
        if transport is not None and self._fd in readable:
            self.call(transport.on_readable)
        if transport is not None and transport.socket is not None and self._fd in writable:
            self.call(transport.on_writable)

    def _wake(self) -> None:
        self._waker.wake()

    def forked(self) -> None:
        self._waker.close()
        self._waker = Waker()
        self._fd, self._transport = -1, None
        super().forked()

    def close(self) -> None:
        """Gives back the waker."""
        self._waker.close()


if hasattr(select, "poll"):

    def _wait(fd: int, waker: int, read: bool, write: bool, timeout: float | None) -> tuple[list[int], list[int]]:
        poll = select.poll()
        poll.register(waker, select.POLLIN)
        if read or write:
            poll.register(fd, read * select.POLLIN | write * select.POLLOUT)
        found = poll.poll(None if timeout is None else -(-timeout * 1000 // 1))
        failed = select.POLLHUP | select.POLLERR
        return (
            [f for f, events in found if f == waker or (read and events & (select.POLLIN | failed))],
            [f for f, events in found if f != waker and write and events & (select.POLLOUT | failed)],
        )

else:

    def _wait(fd: int, waker: int, read: bool, write: bool, timeout: float | None) -> tuple[list[int], list[int]]:
        writers = [fd] if write else []
        readable, writable, failed = select.select([waker, *([fd] if read else [])], writers, writers, timeout)
        return readable, writable + failed
