"""A terminal with a person at it: a pseudo-terminal that a process runs in, and what its screen shows.

with Terminal([sys.executable, "program.py"], columns=40) as terminal:
    terminal.wait_for("password:")
    terminal.type("secret\r")
    assert terminal.wait() == 0
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import pyte

DEADLINE = 60.0  # seconds; a busy machine may take long to give a process its time
CTRL_C = "\x03"

# The terminal becomes the one of the process, so that Ctrl-C is a signal to it. In a program of its own: code between
# fork and exec is not safe beside threads.
_ENTER = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A process in a terminal of its own. environment: its whole environment; TERM is of the terminal, unless given."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], columns: int = 80, rows: int = 24):
        self.screen = pyte.HistoryScreen(columns, rows, history=1000, ratio=0.5)
        self.sent = b""  # all that the process has written
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        self._set_size(columns, rows)
        # Those two would count more than the terminal's size.
        given = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _ENTER, *command],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env={"TERM": "xterm-256color", **given},
                start_new_session=True,
            )
        finally:
            os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int = 24) -> None:
        """The person drags the window; the process gets SIGWINCH."""
        self._set_size(columns, rows)
        self.screen.resize(rows, columns)

    def type(self, text: str) -> None:
        """The person types."""
        os.write(self._master, text.encode())

    # --- what is seen -------------------------------------------------------------------------------------------------

    @property
    def lines(self) -> list[str]:
        """The lines on the screen and those that went off its top, without empty ones at the end."""
        above = ["".join(row[at].data for at in range(self.screen.columns)).rstrip() for row in self.screen.history.top]
        lines = above + [line.rstrip() for line in self.screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def colour_of(self, text: str) -> str:
        """The colour in which the screen shows the first character of the text; "default", or "bold"."""
        for number, line in enumerate(self.screen.display):
            at = line.find(text)
            if at >= 0:
                character = self.screen.buffer[number][at]
                return "bold" if character.bold and character.fg == "default" else str(character.fg)
        raise AssertionError(f"{text!r} is not on the screen:\n{self.text}")

    def wait_for(self, wanted: str | Callable[[Terminal], Any]) -> None:
        """Reads until the text is seen, or wanted(terminal) is true."""
        seen = (lambda _: wanted in self.text) if isinstance(wanted, str) else wanted
        deadline = time.monotonic() + DEADLINE
        while not seen(self):
            assert self._read(deadline - time.monotonic()), f"{wanted!r} was not seen:\n{self.text}"

    def wait(self) -> int:
        """Reads until the process has ended and closed the terminal. Returns its exit status."""
        deadline = time.monotonic() + DEADLINE
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(1.0, deadline - time.monotonic()))

    def _read(self, timeout: float) -> bool:
        """Reads once. False: the other end is closed, or nothing came in time."""
        if not select.select([self._master], [], [], max(0.0, timeout))[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: no process has the terminal open
            return False
        self.sent += data
        self._stream.feed(data)
        return bool(data)
