"""A pair of sockets by which another thread, or a signal, wakes a reactor that waits."""

from __future__ import annotations

import contextlib
import socket


class Waker:
    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

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
        self._reader.close()
        self._writer.close()
