"""Continuations: who is told how an operation ended, and where it was asked for.

`on_done(err, result)` is called exactly once, and never inside the call that took it. Whoever holds a Continuation
takes it out of its books first and settles it then, so that a callback that raises, or that calls back into the
library, finds everything in order.
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType
from typing import Any, TypeVar

from ..errors import AMQPError, InvalidArgumentType
from ..interrupts import is_own_file

R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
OnDone = Callable[["AMQPError | None", "R | None"], object]
"""Called with (None, result) or (err, None); what it returns is ignored."""

Call = Callable[[], object]

_order = itertools.count()


def operation(method: F) -> F:
    """Marks a method that takes `on_done`. The facades lift every one that is marked."""
    method.__operation__ = True  # type: ignore[attr-defined]
    return method


def oneway(method: F) -> F:
    """Marks an operation that the broker doesn't answer: it is done when its bytes are on their way. A facade may hand
    it over without waiting."""
    method.__oneway__ = True  # type: ignore[attr-defined]
    return operation(method)


def registration(method: F) -> F:
    """Marks a method that takes a handler to be called later. The facades lift these too."""
    method.__registration__ = True  # type: ignore[attr-defined]
    return method


CallSite = tuple[CodeType, int]


_last: CallSite | None = None


def call_site(depth: int = 2) -> CallSite | None:
    """Where the program called into the library. Kept as a code object and an offset, since the line is wanted only if
    something goes wrong. `depth`: of the first frame that may be the program's."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None and is_own_file[frame.f_code.co_filename]:
        frame = frame.f_back
    if frame is None:
        return None
    # A program asks from few places, one after another from the same: what waits by the thousand shares a tuple.
    global _last
    last, code, offset = _last, frame.f_code, frame.f_lasti
    if last is None or last[0] is not code or last[1] != offset:
        _last = last = (code, offset)
    return last


def describe(where: CallSite | None) -> str | None:
    """ "file.py:12 in main"."""
    if where is None:
        return None
    code, offset = where
    line = next((line for start, end, line in code.co_lines() if start <= offset < end), code.co_firstlineno)
    return f"{code.co_filename}:{line} in {code.co_name}"


def check_callable(name: str, value: Any) -> None:
    if value is not None and not callable(value):
        raise InvalidArgumentType(f"{name} takes a callable, not {type(value).__name__}")


class Continuation:
    """An operation that was asked for and isn't settled."""

    __slots__ = ("call_site", "on_done", "order")

    method: str
    expected: tuple[str, ...] = ()  # names of the replies that settle it
    convert: Callable[[Any], Any] | None = None  # reply -> result
    answer: Any = None  # a reply that came before its turn

    def __init__(self, on_done: OnDone[Any] | None):
        if not callable(on_done):
            check_callable("on_done", on_done)
        self.on_done = on_done
        self.call_site = call_site(3)
        self.order = next(_order)

    def done(self, result: Any = None) -> None:
        if self.on_done is not None:
            self.on_done(None, result)

    def reply(self, reply: Any) -> None:
        self.done(self.convert(reply) if self.convert is not None else None)

    def fail(self, error: AMQPError) -> None:
        if self.on_done is not None:
            self.on_done(self.told(error), None)

    def told(self, error: AMQPError) -> AMQPError:
        """The error as this operation's own."""
        return error.of(self.method, describe(self.call_site))

    def __lt__(self, other: Continuation) -> bool:
        return self.order < other.order


class Request(Continuation):
    """One that waits for a reply, or for what its method's name says."""

    __slots__ = ("answer", "convert", "expected", "method")

    def __init__(
        self,
        method: str,
        on_done: OnDone[Any] | None,
        expected: tuple[str, ...] = (),
        convert: Callable[[Any], Any] | None = None,
    ):
        # As Continuation.__init__ does; to call that would cost a twentieth of a whole synchronous call.
        if not callable(on_done):
            check_callable("on_done", on_done)
        self.on_done = on_done
        self.call_site = call_site(3)
        self.order = next(_order)
        self.method = method
        self.expected = expected
        self.convert = convert
        self.answer = None


def refuse(on_done: OnDone[Any] | None, error: AMQPError, method: str, call_soon: Callable[[Call], object]) -> None:
    """An operation that fails at the call: tells its on_done in the next turn, or raises where there is none."""
    check_callable("on_done", on_done)
    mine = error.of(method, describe(call_site()))
    if on_done is None:
        raise mine
    tell = on_done
    call_soon(lambda: tell(mine, None))


class CallQueue:
    """What has arrived and what is to be called for it, in one order.

    An item is a call, or an iterator of them, each a function and its argument, which is asked for the next when the
    one before has been dealt with. A call may give rise to others (the reply that ends a channel settles all that waits
    on it): these go to the front, before whatever arrived later. Each is taken off before it is made, and whenever more
    may be left, the rest is promised to the reactor first. So one that raises, or that turns the reactor itself and
    waits there for the next, holds nothing up.
    """

    __slots__ = ("_after", "_call_soon", "_items", "_promised")

    def __init__(self, call_soon: Callable[[Call], object], after: Call):
        self._call_soon = call_soon
        self._after = after  # called when an iterator is at its end
        self._items: deque[Any] = deque()
        self._promised = False

    def append(self, item: Call) -> None:
        """Adds an item behind everything else."""
        self._items.append(item)

    def put_first(self, items: Iterable[Call | PendingCalls]) -> None:
        """Puts items before everything else: their turn is when the present call returns, or in the next turn."""
        self._items.extendleft(reversed([item if callable(item) else (item,) for item in items]))
        self._promise()

    def _promise(self) -> None:
        if not self._promised:
            self._promised = True
            self._call_soon(self._resume)

    def _resume(self) -> None:
        self._promised = False
        self.run()

    def process(self, each: PendingCalls) -> None:
        """Adds an item, and runs what there is."""
        self._items.append((each,))
        self.run()

    def run(self) -> None:
        items = self._items
        while items:
            item = items[0]
            if type(item) is not tuple:
                items.popleft()
                if items:
                    self._promise()
                item()
                continue
            for function, argument in item[0]:
                if not self._promised:
                    self._promise()
                function(argument)
                if item is not (items[0] if items else None):
                    break  # something comes before the rest; or a nested turn saw to that already
            else:
                if item is (items[0] if items else None):
                    items.popleft()
                self._after()


PendingCalls = Iterator[tuple[Callable[[Any], object], Any]]
