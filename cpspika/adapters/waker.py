"""A pair of sockets by which another thread, or a signal, wakes a reactor that waits."""

from __future__ import annotations

import contextlib
import socket

# Those in use are held here too. Reactors are mostly collected as parts of circles, and of the finalizers in one any
# may be the first: a socket's, which complains that nobody closed it, or ours, which closes it.
_open: set[socket.socket] = set()


class Waker:
    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        _open.update((self._reader, self._writer))

    def fileno(self) -> int:
        return self._reader.fileno()

    def wake(self) -> None:
        # A full pipe wakes as well as one byte; a closed one has nobody left to wake.
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    def drain(self) -> None:
        with contextlib.suppress(OSError):
            while len(self._reader.recv(4096)) == 4096:
                pass

    def __del__(self) -> None:
        self.close()  # a reactor that nobody holds any more needs no farewell

    def close(self) -> None:
        for end in (self._reader, self._writer):
            end.close()
            _open.discard(end)
