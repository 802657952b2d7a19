"""The output that a person sees: text that cannot disturb the terminal, colours, tables, progress.

Each text is written by `say` or `note`, and these escape control characters: no message, name or error text of a broker
commands the terminal. `rich` draws tables and progress where the extra `cli` is installed and a terminal shows them.
Otherwise both are plain text. Results go to standard output; notes and progress go to standard error.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import textwrap
import time
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36", "bold": "1", "dim": "2"}
REDRAW = 0.1  # seconds between two pictures of the progress
NARROW = 20  # columns, the least that a line is made for


class Coloured(NamedTuple):
    """A part of a line. colour: a name of COLOURS."""

    text: str
    colour: str


def say(*parts: str | Coloured, lines: bool = False) -> None:
    """A line of the result, in parts. lines: as of `harmless`."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(harmless(part, lines))
        else:
            text = harmless(part.text, lines)
            texts.append(f"\x1b[{COLOURS[part.colour]}m{text}\x1b[0m" if is_coloured(sys.stdout) else text)
    sys.stdout.write("".join(texts) + "\n")


def say_wrapped(*head: str | Coloured, text: str) -> None:
    """A line of the result, of parts and a text. On a terminal a text that is too long goes on below itself, and no
    word is cut."""
    lines = [harmless(text)]
    if is_terminal(sys.stdout):
        width = columns(sys.stdout)
        first = sum(cells(harmless(part if isinstance(part, str) else part.text)) for part in head)
        margin = first if width - first >= NARROW else 4
        lines = textwrap.wrap(
            lines[0],
            max(width, NARROW),
            initial_indent=" " * first,
            subsequent_indent=" " * margin,
            break_long_words=False,  # a command or URL is copied
            break_on_hyphens=False,
        ) or [""]
        lines[0] = lines[0][first:]
    say(*head, lines[0])
    for line in lines[1:]:
        say(line)


def say_json(value: Any) -> None:
    """A JSON value as one line, in ASCII: whatever the terminal's encoding, each byte arrives as it is."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def note(text: str, lines: bool = False) -> None:
    """A line beside the result. A line of progress stays above it. lines: as of `harmless`."""
    for live in list(_LIVE):
        live.end()
    print(harmless(text, lines), file=sys.stderr, flush=True)


class LogNotes(logging.Handler):
    """Makes notes of the log, which has texts of the peer. The client's warnings are for its programmer; what concerns
    the user, a command tells itself."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "cpspika" or record.levelno > logging.WARNING:
            note(self.format(record), lines=record.exc_info is not None)


def note_log() -> None:
    """Makes notes of the log's warnings and errors, unless the program has its own handlers."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[LogNotes()])


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
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and not is_dumb()


def is_dumb() -> bool:
    """Whether the terminal can move no cursor, as that of an editor."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


def harmless(text: str, lines: bool = False) -> str:
    """The text with control characters escaped: a message from elsewhere must not command the terminal. lines: line
    ends and tabs stay."""
    kept = "\n\t" if lines else ""
    return "".join(c if c in kept or c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def legible(body: bytes) -> str:
    """A body for a terminal: its text, or b'...' if it is not UTF-8."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return repr(body)


def columns(stream: Any) -> int:
    """The width of the stream's terminal in characters."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80  # 0: the terminal does not say
    except (OSError, ValueError, AttributeError):
        return 80


def cells(text: str) -> int:
    """The columns that a terminal shows the text in: East Asian letters take two, accents on a letter none."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(character) for character in text)


def _cells_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fitted(text: str, room: int) -> str:
    """The text, cut off with "..." if it takes more columns than there is room for."""
    if cells(text) <= room:
        return text
    room = max(0, room - 3)
    at = used = 0
    while at < len(text) and (used := used + _cells_of(text[at])) <= room:
        at += 1
    return text[:at] + "..."


# --- tables -----------------------------------------------------------------------------------------------------------


def say_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table: the first column to the left, figures to the right. On a terminal that is too narrow for it each row is
    a list."""
    widths = [max(len(row[at]) for row in [titles, *rows]) for at in range(len(titles))]
    on_terminal = is_terminal(sys.stdout)
    if on_terminal and sum(widths) + 3 * len(widths) + 1 > columns(sys.stdout):
        _say_lists(titles, rows)
    elif not (on_terminal and not is_dumb() and _draw_table(titles, rows)):
        for row in [titles, *rows]:
            figures = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            say("  ".join([row[0].ljust(widths[0]), *figures]).rstrip())


def _say_lists(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    say(titles[0])
    width = max(map(len, titles[1:]))
    figures = max(len(cell) for row in rows for cell in row[1:])
    for row in rows:
        say(f"  {row[0]}")
        for title, cell in zip(titles[1:], row[1:], strict=True):
            say(f"    {title:<{width}}  {cell:>{figures}}")


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


_LIVE: list[LiveLine] = []  # that stand on the terminal


class LiveLine:
    """A line on the terminal of standard error that changes in its place. It is cut off where the terminal ends: the
    rest would go to a second line, which the next picture does not replace."""

    def __init__(self) -> None:
        self._length = 0  # columns that are to be overwritten

    def draw(self, text: str) -> None:
        room = max(NARROW, columns(sys.stderr)) - 1  # the last column would move the cursor to the next line
        text = fitted(harmless(text), room)
        blank = max(0, min(self._length, room) - cells(text))
        print("\r" + text + " " * blank, end="", file=sys.stderr, flush=True)
        self._length = cells(text)
        if self not in _LIVE:
            _LIVE.append(self)

    def end(self) -> None:
        """Keeps the drawing; the next text begins a line of its own."""
        if self in _LIVE:
            _LIVE.remove(self)
            self._length = 0
            print(file=sys.stderr, flush=True)


class Progress:
    """How far a command is, on standard error, if that is a terminal. As a context manager it ends its line.

    verb: "published"; total: messages in all, None if that is not known. `done`: messages so far."""

    def __init__(self, verb: str, total: int | None = None, shown: bool = True):
        self.done = 0
        self._verb, self._total = verb, total
        self._shown = shown and is_terminal(sys.stderr)
        self._began = self._drawn = time.monotonic()
        self._bar: Any = None
        self._line = LiveLine()
        self._has_drawn = False

    def __enter__(self) -> Progress:
        if self._shown and not is_dumb():
            self._bar = _rich_bar(self._verb, self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._shown:
            return
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=self.done, total=self._total if self._total is not None else self.done)
            bar.stop()
        elif self._has_drawn:
            self._draw()
            self._line.end()

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
        self._line.draw(f"{self._verb} {self.done:,}{of} messages, {rate:,.0f}/s")
        self._has_drawn = True


def _rich_bar(verb: str, total: int | None) -> Any:
    """(the bar, its task) by rich; None: it is not installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.table import Column
    except ImportError:
        return None
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(None, table_column=Column(max_width=40)),  # it gives way where the terminal is narrow
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        redirect_stdout=False,
    )
    bar.start()
    return bar, bar.add_task(verb, total=total)
