"""One file descriptor for many: readable when one of several sockets is ready.

epoll and kqueue are files themselves, so a foreign loop can watch one of them in place of all sockets of a reactor.
"""

from __future__ import annotations

import selectors
from typing import Any

from ..errors import LocalError


def file_of(selector: Any) -> int:
    """The file descriptor of a selector. LocalError: the system has none."""
    if not hasattr(selector, "fileno"):
        raise LocalError(
            "this system has neither epoll nor kqueue, so a reactor has no file descriptor of its own: give the "
            "reactor a thread, or call run_once(0) at intervals"
        )
    number: int = selector.fileno()
    return number


class PollFile:
    """The file descriptor of a reactor that waits in another way itself. LocalError: the system has none."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        try:
            file_of(self._selector)
        except LocalError:
            self._selector.close()
            raise

    def fileno(self) -> int:
        """The file descriptor to watch."""
        return file_of(self._selector)

    def watch(self, fd: int, read: bool, write: bool) -> None:
        """From now on it is readable when `fd` can be read (if `read`) or written (if `write`)."""
        self.unwatch(fd)
        events = read * selectors.EVENT_READ | write * selectors.EVENT_WRITE
        if events:
            self._selector.register(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forgets a socket; before it is closed."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def close(self) -> None:
        """Closes the file descriptor."""
        self._selector.close()
