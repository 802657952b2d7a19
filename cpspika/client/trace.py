"""A link's frames in words: printed for `trace`, and its methods logged at the level DEBUG.

A link that nobody watches has a transport and a Link that know nothing of this. To watch one, `Tap` stands between the
connection and its transport, where bytes go out, and gives the Link a class that shows it the bytes that come in.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, TextIO

from ..errors import InvalidArgumentType
from ..wire.link import Link
from ..wire.words import FrameTeller, Told
from .watching import DEBUG, log, logs

Sink = Callable[[str, str, Told], None]
"""sink(where, direction, told): called with each frame. direction: "-->" to the broker, "<--" from it."""

_numbers = itertools.count(1)


def trace(connection: Any, file: TextIO | None = None) -> Callable[[], None]:
    """Prints each frame of a connection in words: time, broker, direction (`-->` to the broker, `<--` from it), method
    with its arguments. Secrets are left out, and of a body only the size is told. Returns a function that ends this.

    connection: of the core or in any style; call this in the thread that uses it. On a connection with `recovery` it
    counts for later links too. file: a text file; by default sys.stderr.

    The environment variable CPSPIKA_TRACE=1 does this for every connection of a process, from the first byte.

    Errors: InvalidArgumentType, it is no connection.
    """
    core = getattr(connection, "core", connection)
    if not hasattr(core, "_watch"):
        raise InvalidArgumentType(f"trace takes a connection, not {type(connection).__name__}")
    # A reactor that threads share has a lock; the others belong to the thread that calls.
    inside: Callable[..., Any] = getattr(core.reactor, "inside", _call)
    stop: Callable[[], None] = inside(core._watch, _Printer(file))
    return partial(inside, stop)


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


class _Printer:
    """A sink that prints. file: None for sys.stderr as it is then."""

    def __init__(self, file: TextIO | None = None):
        self._file = file

    def __call__(self, where: str, direction: str, told: Told) -> None:
        time = datetime.now().isoformat(timespec="microseconds")[11:]
        try:
            print(f"{time} {where} {direction} {told.text}", file=self._file or sys.stderr)
        except (OSError, ValueError):
            pass  # the file is closed: a trace costs the program nothing


def _log_method(where: str, direction: str, told: Told) -> None:
    if told.is_method:
        log(DEBUG, "%s %s %s", where, direction, told.text)


def sinks_for_all() -> list[Sink]:
    """The sinks that watch every link that begins now."""
    sinks: list[Sink] = []
    if os.environ.get("CPSPIKA_TRACE", "0") not in ("", "0"):
        sinks.append(_Printer())
    if logs(DEBUG):
        sinks.append(_log_method)
    return sinks


class _TappedLink(Link):
    """A link that shows the bytes that come in."""

    tap: Tap

    def alone(self, data: bytes) -> None:
        """None: `runs` reads all bytes, and shows them."""

    def runs(self, data: bytes) -> Iterator[tuple[int, Any]]:
        self.tap.tell("<--", self.tap.incoming, [data])
        return super().runs(data)


class _TappedTransport:
    """A transport that shows the bytes that go out."""

    def __init__(self, transport: Any, tap: Tap):
        self.transport = transport
        self._tap = tap

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        written = list(chunks)
        self.transport.write(written)
        self._tap.tell("-->", self._tap.outgoing, written)


class Tap:
    """Watches one link, for the `sinks`."""

    def __init__(self, where: str, link: Link, backlog: Any):
        self._where = f"{where}#{next(_numbers)}"
        self._backlog = backlog
        self.sinks: list[Sink] = []
        self.incoming = FrameTeller(link.version, *link.begun_frame())
        self.outgoing = FrameTeller(link.version)

    @classmethod
    def of(cls, where: str, link: Link, backlog: Any) -> Tap:
        """The tap of a link: the one that it has, or a new one."""
        if isinstance(link, _TappedLink):
            return link.tap
        tap = cls(where, link, backlog)
        backlog.transport = _TappedTransport(backlog.transport, tap)
        tapped: Any = link
        tapped.__class__ = _TappedLink
        tapped.tap = tap
        return tap

    @staticmethod
    def end(link: Link, sink: Sink) -> None:
        """Ends a sink of a link. Behind the last one the link is as it was."""
        if not isinstance(link, _TappedLink):
            return
        tap = link.tap
        if sink in tap.sinks:
            tap.sinks.remove(sink)
        if not tap.sinks:
            plain: Any = link
            plain.__class__ = Link
            if isinstance(tap._backlog.transport, _TappedTransport):
                tap._backlog.transport = tap._backlog.transport.transport

    def tell(self, direction: str, teller: FrameTeller, chunks: list[Any]) -> None:
        for told in teller.tell(chunks):
            for sink in list(self.sinks):
                sink(self._where, direction, told)
