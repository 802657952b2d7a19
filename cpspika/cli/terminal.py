"""What a person sees: text that cannot disturb the terminal, colours, tables, progress.

`rich` draws tables and progress where the extra `cli` is installed and a terminal shows them. Otherwise both are plain
text. Results go to standard output; notes and progress go to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36", "bold": "1", "dim": "2"}
REDRAW = 0.1  # seconds between two pictures of the progress


def say(text: str) -> None:
    """A line of the result."""
    sys.stdout.write(text + "\n")


def say_json(value: Any) -> None:
    """A JSON value as one line, in ASCII: whatever the terminal's encoding, each byte arrives as it is."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def note(text: str) -> None:
    """A line beside the result."""
    print(text, file=sys.stderr, flush=True)


def messages(number: int) -> str:
    """ "1 message", "2 messages"."""
    return f"{number:,} message{'' if number == 1 else 's'}"


def is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def is_coloured(stream: Any) -> bool:
    """Whether to colour the output: on a terminal, unless NO_COLOR or TERM=dumb says no; FORCE_COLOR says yes."""
    if os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str, colour: str, on: bool) -> str:
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if on else text


def harmless(text: str, lines: bool = False) -> str:
    """The text with control characters escaped: a message from elsewhere must not command the terminal. lines: line
    ends and tabs stay."""
    kept = "\n\t" if lines else ""
    return "".join(c if c in kept or c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def legible(body: bytes, lines: bool = False) -> str:
    """A body for a terminal: its text, or b'...' if it is not UTF-8. lines: as of `harmless`."""
    try:
        return harmless(body.decode("utf-8"), lines)
    except UnicodeDecodeError:
        return repr(body)


def columns() -> int:
    """The terminal's width in characters."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return 80


# --- tables -----------------------------------------------------------------------------------------------------------


def say_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table: the first column to the left, figures to the right."""
    if is_terminal(sys.stdout) and _draw_table(titles, rows):
        return
    widths = [max(len(row[at]) for row in [titles, *rows]) for at in range(len(titles))]
    for row in [titles, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        say("  ".join(cells).rstrip())


def _draw_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """The same by rich. False: it is not installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return False
    table = Table()
    for at, title in enumerate(titles):
        table.add_column(title, justify="right" if at else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(file=sys.stdout).print(table)
    return True


# --- progress ---------------------------------------------------------------------------------------------------------


class Progress:
    """How far a command is, on standard error, if that is a terminal. As a context manager it ends its line.

    verb: "published"; total: messages in all, None if that is not known. `done`: messages so far."""

    def __init__(self, verb: str, total: int | None = None, shown: bool = True):
        self.done = 0
        self._verb, self._total = verb, total
        self._shown = shown and is_terminal(sys.stderr)
        self._began = self._drawn = time.monotonic()
        self._bar: Any = None
        self._length = 0  # of the plain line

    def __enter__(self) -> Progress:
        if self._shown:
            self._bar = _rich_bar(self._verb, self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._shown:
            return
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=self.done, total=self._total if self._total is not None else self.done)
            bar.stop()
        elif self._length:
            self._draw()
            print(file=sys.stderr)

    def advance(self, messages: int = 1) -> None:
        self.done += messages
        if self._shown:
            now = time.monotonic()
            if now - self._drawn >= REDRAW:
                self._drawn = now
                self._draw()

    def _draw(self) -> None:
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=self.done)
            return
        of = f" of {self._total:,}" if self._total is not None else ""
        rate = self.done / max(time.monotonic() - self._began, 1e-9)
        text = f"{self._verb} {self.done:,}{of} messages, {rate:,.0f}/s"
        print("\r" + text.ljust(self._length), end="", file=sys.stderr, flush=True)
        self._length = len(text)


def _rich_bar(verb: str, total: int | None) -> Any:
    """(the bar, its task) by rich; None: it is not installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        return None
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
    )
    bar.start()
    return bar, bar.add_task(verb, total=total)
