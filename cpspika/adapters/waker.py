"""The waker: a pair of sockets by which another thread, or a signal handler, wakes a reactor that waits.

The reactor watches one end. `wake` sends a byte to it, and the wait of the reactor ends. `drain` reads the bytes.
"""

from __future__ import annotations

import contextlib
import socket

# The sockets of all open wakers. A reactor is mostly collected by the garbage collector, as part of a reference cycle.
# The finalizers of a cycle run in any order: that of a socket, which warns that the socket isn't closed, could run
# before that of the waker, which closes it. A socket in this set isn't collected before the waker has closed it.
_open: set[socket.socket] = set()


class Waker:
    """Wakes one reactor. `wake` may be called from any thread."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        _open.update((self._reader, self._writer))

    def fileno(self) -> int:
        """The socket to watch: readable once the waker was woken."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Makes the socket readable."""
        # The send fails if the buffer is full, which wakes as well, or if the waker is closed, which leaves no reactor.
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    def drain(self) -> None:
        """Makes the socket unreadable again."""
        with contextlib.suppress(OSError):
            while len(self._reader.recv(4096)) == 4096:
                pass

    def __del__(self) -> None:
        self.close()  # the program need not close a reactor that it drops

    def close(self) -> None:
        """Closes both sockets."""
        for end in (self._reader, self._writer):
            end.close()
            _open.discard(end)
