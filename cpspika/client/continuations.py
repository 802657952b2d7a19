"""Continuations: operations that were asked for and are not settled yet; and the queue of calls to the program.

`on_done(err, result)` is called exactly once, and never inside the call that took it. A Continuation is removed from
its container before it is settled. So a callback that raises, or that calls the library, finds a consistent state.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import CodeType, FrameType, TracebackType
from typing import Any, TypeVar

from ..errors import AMQPError, InvalidArgumentType
from ..interrupts import call_makers, cut_off, is_interrupt, is_own_file, repeatable

R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
OnDone = Callable[["AMQPError | None", "R | None"], object]
"""Called with (None, result) or (err, None). Its return value is ignored."""

Call = Callable[[], object]

order = itertools.count()  # the rank of each operation


def operation(method: F) -> F:
    """Marks a method that takes `on_done`. Every facade gets a method of the same name (`styles.lifting`)."""
    method.__operation__ = True  # type: ignore[attr-defined]
    return method


def oneway(method: F) -> F:
    """Marks an operation without a reply. It is done when its bytes have gone to the kernel; a facade need not wait."""
    method.__oneway__ = True  # type: ignore[attr-defined]
    return operation(method)


def registration(method: F) -> F:
    """Marks a method that registers a handler. Every facade gets a method of the same name."""
    method.__registration__ = True  # type: ignore[attr-defined]
    return method


CallSite = tuple[CodeType, int]


def call_site(depth: int = 2) -> CallSite | None:
    """The place where the program called the library, as a code object and an offset in it. None: the operation itself
    is what a thread or a greenlet runs.

    The line number is computed only for an error (`describe`). depth: frames between this call and the first one that
    may belong to the program. To look at a frame costs more than a call, because Python has to make an object of it."""
    global _last
    try:
        frame: FrameType | None = sys._getframe(depth)
    except ValueError:
        return None
    while frame is not None:
        code = frame.f_code
        if not is_own_file[code.co_filename]:
            last = _last
            # A loop asks from one place again and again: its thousands of continuations share one tuple.
            if code is not last[0] or frame.f_lasti != last[1]:
                if is_own_file[code.co_filename] is None:
                    return _beyond_standard(frame)
                _last = last = (code, frame.f_lasti)
            return last
        if code in call_makers:
            return None  # nobody of the program asks: a call of the reactor's does, as for what recovery repeats
        frame = frame.f_back
    return None


def _beyond_standard(frame: FrameType | None) -> CallSite | None:
    """The place where the program called Python's standard library, which called ours. None: a loop or thread of that
    library made the call."""
    while frame is not None and is_own_file[frame.f_code.co_filename] is None:
        if frame.f_code.co_filename.endswith(_HANDLES):
            return None
        frame = frame.f_back
    if frame is None or is_own_file[frame.f_code.co_filename]:
        return None
    return frame.f_code, frame.f_lasti


_HANDLES = os.path.join("asyncio", "events.py")  # from where a loop of asyncio makes calls
_last: CallSite = call_site.__code__, 0  # of the program, once it has asked for something


def describe(where: CallSite | None) -> str | None:
    """The text of a call site: "file.py:12 in main"."""
    if where is None:
        return None
    code, offset = where
    line = next((line for start, end, line in code.co_lines() if start <= offset < end), code.co_firstlineno)
    return f"{code.co_filename}:{line} in {code.co_name}"


def check_callable(name: str, value: Any) -> None:
    if value is not None and not callable(value):
        raise InvalidArgumentType(f"{name} takes a callable, not {type(value).__name__}")


def is_abandoned(on_done: Any) -> bool:
    """Whether on_done is of a style's call that timed out, or of its cancelled promise: `abandoned` says so, of on_done
    or of the object whose method it is. Nobody waits for the result then."""
    owner = getattr(on_done, "__self__", on_done)
    return bool(getattr(owner, "abandoned", False))


class Continuation:
    """An operation that was asked for and is not settled. `call_site`: where it was asked for. `order`: its rank among
    all operations."""

    __slots__ = ("call_site", "on_done", "order")

    method: str
    expected: tuple[str, ...] = ()  # names of the replies that settle it
    convert: Callable[[Any], Any] | None = None  # reply -> result
    answer: Any = None  # a reply that arrived before the replies to earlier requests

    def __init__(self, on_done: OnDone[Any] | None, depth: int = 3):
        """depth: as of `call_site`."""
        if not callable(on_done):
            check_callable("on_done", on_done)
        self.on_done = on_done
        self.call_site = call_site(depth)
        self.order = next(order)

    def done(self, result: Any = None) -> None:
        """Settles it with a result. Settling it again does nothing."""
        on_done = self.on_done
        if on_done is not None:
            # Python runs no signal handler between these two lines, so an on_done that is still here was not called.
            self.on_done = None
            on_done(None, result)

    def reply(self, reply: Any) -> None:
        """Settles it with the result that the reply means. The same as `done`, but for that."""
        convert = self.convert
        result = convert(reply) if convert is not None else None
        on_done = self.on_done
        if on_done is not None:
            self.on_done = None
            on_done(None, result)

    def fail(self, error: AMQPError) -> None:
        """Settles it with a copy of an error, which names the method and the call site."""
        if self.on_done is not None:
            mine, on_done = self.told(error), self.on_done
            self.on_done = None
            on_done(mine, None)

    def told(self, error: AMQPError) -> AMQPError:
        """A copy of an error that names this operation's method and call site."""
        return error.of(self.method, describe(self.call_site))

    @property
    def is_unsettled(self) -> bool:
        """Whether it is to be settled all the same, where an exception of a signal handler found it in hand."""
        return self.on_done is not None

    def __lt__(self, other: Continuation) -> bool:
        return self.order < other.order


class Request(Continuation):
    """An operation that waits for the replies `expected`, or for another event that `method` names ("drain")."""

    __slots__ = ("answer", "convert", "expected", "method")

    def __init__(
        self,
        method: str,
        on_done: OnDone[Any] | None,
        expected: tuple[str, ...] = (),
        convert: Callable[[Any], Any] | None = None,
        depth: int = 3,
    ):
        # The same as Continuation.__init__. A call of it would cost a twentieth of a whole synchronous call.
        if not callable(on_done):
            check_callable("on_done", on_done)
        self.on_done = on_done
        self.call_site = call_site(depth)
        self.order = next(order)
        self.method = method
        self.expected = expected
        self.convert = convert
        self.answer = None


class Notice(Continuation):
    """A call that tells a handler of an end. It is made once, however often it is queued: as a continuation it is found
    again after an exception of a signal handler (`in_hand`)."""

    __slots__ = ()

    def __init__(self, call: Call):
        self.call_site = None
        self.order = next(order)
        self.on_done: Any = call  # last: what is half made is not found

    def done(self, result: Any = None) -> None:
        call = self.on_done
        if call is not None:
            self.on_done = None  # as in Continuation.done
            call()

    def fail(self, error: AMQPError) -> None:
        self.done()


def ignore(err: AMQPError | None, result: Any) -> None:
    """The on_done of an operation whose end nobody waits for."""


def refuse(on_done: OnDone[Any] | None, error: AMQPError, method: str, call_soon: Callable[[Call], object]) -> None:
    """Fails an operation at the call: on_done gets the error in the next turn; without an on_done it is raised."""
    check_callable("on_done", on_done)
    mine = error.of(method, describe(call_site()))
    if on_done is None:
        raise mine
    call_soon(partial(on_done, mine, None))


def settle_soon(continuation: Continuation, call_soon: Callable[[Call], object]) -> None:
    """Settles an operation that has nothing to do, in the next turn."""
    if continuation.on_done is not None:
        call_soon(partial(continuation.on_done, None, None))


def in_hand(trace: TracebackType | None) -> list[Continuation]:
    """The continuations that the library had in its hands when a signal handler raised an exception: taken out of their
    containers, and not told; and a notice for each call that was `cut_off`. trace: the exception's traceback. Frames
    above the reactor, or of operations that a callback asks for, hold operations that have failed at the call."""
    found: dict[Continuation, None] = {Notice(call): None for call in cut_off(trace)}
    dispatches = False
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if is_own_file[name]:
            dispatches = dispatches or os.path.dirname(name).endswith("adapters") or name.endswith("reactor.py")
            dispatches = dispatches or trace.tb_frame.f_code in (CallQueue._make_all.__code__, CallQueue.make.__code__)
            if dispatches:
                for value in list(trace.tb_frame.f_locals.values()):
                    _gather(value, found, 3)
        else:
            dispatches = False
        trace = trace.tb_next
    return list(found)


def fail_untold(continuation: Continuation, error: AMQPError) -> None:
    """Fails a continuation that was found in hand, unless it was told meanwhile: it stood in the call queue too."""
    if continuation.is_unsettled:
        continuation.fail(error)


def _gather(value: Any, found: dict[Continuation, None], depth: int) -> None:
    """Finds the continuations in a value: itself, calls of its methods, and lists and tuples of such."""
    if isinstance(value, partial):
        value = value.func
    value = getattr(value, "__self__", value)
    if isinstance(value, Continuation):
        if _is_whole(value) and value.is_unsettled:
            found[value] = None
    elif depth and isinstance(value, (list, tuple)):
        for each in value:
            _gather(each, found, depth - 1)


def _is_whole(value: Continuation) -> bool:
    """False: the exception came while it was being made."""
    slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
    return all(hasattr(value, name) for name in slots)


class CallQueue:
    """The calls that are to be made for arrived bytes, in one order.

    An item is a call, or an iterator of calls (function, argument). The iterator decodes the next frame only after the
    call for the frame before has returned. A call may cause other calls: the reply that ends a channel settles every
    continuation of that channel. These go to the front, before the calls for later frames.

    An item is removed before its call is made. If more items may be left, the queue first asks the reactor to resume
    it. So a callback may raise, or may turn the reactor itself and wait there for a later frame: the rest goes on.

    Items are removed by `del`, not by a call: when a call returns, Python may run a signal handler, whose exception
    would lose what the call returned.
    """

    __slots__ = ("_after", "_call_soon", "_interrupted", "_items", "_promised")

    def __init__(
        self,
        call_soon: Callable[[Call], object],
        after: Call,
        interrupted: Callable[[BaseException], object] | None = None,
    ):
        self._call_soon = call_soon
        self._interrupted = interrupted  # called with the exception of a signal handler that comes amid `run`
        self._after = after  # called at the end of each iterator
        self._items: deque[Any] = deque()
        self._promised = False  # the reactor will call `_resume`

    def append(self, item: Call) -> None:
        """Adds a call at the end."""
        self._items.append(item)

    def put_last(self, items: Iterable[Call | PendingCalls]) -> None:
        """Adds calls at the end. They are made in the next turn, or before."""
        self._items.extend([item if callable(item) else (item,) for item in items])
        self._promise()

    def put_first(self, items: Iterable[Call | PendingCalls]) -> None:
        """Adds calls at the front. They are made when the present call returns, or in the next turn."""
        self._items.extendleft(reversed([item if callable(item) else (item,) for item in items]))
        self._promise()

    @repeatable
    def _promise(self) -> None:
        if not self._promised:
            self._call_soon(self._resume)
            self._promised = True

    def revive(self) -> None:
        """After an exception of a signal handler, which may have cost the queue its next turn."""
        self._promised = False
        if self._items:
            self._promise()

    @repeatable
    def _resume(self) -> None:
        self._promised = False
        self.run()

    def make(self, function: Callable[[Any], object], argument: Any) -> None:
        """Makes the one call for bytes that arrived, behind those that wait. Mostly none waits: then there is nothing
        that the reactor would have to resume. The call may add others."""
        if self._items:
            self._items.append(partial(function, argument))
            self.run()
            return
        try:
            function(argument)
        except BaseException as error:
            self._look_for_interrupt(error)
            raise
        if self._items:
            self.run()

    def _look_for_interrupt(self, error: BaseException) -> None:
        if self._interrupted is not None and is_interrupt(error):
            self._interrupted(error)

    def process(self, calls: PendingCalls) -> None:
        """Adds an iterator of calls at the end, and makes all calls of the queue."""
        self._items.append((calls,))
        self.run()

    def run(self) -> None:
        """Makes all calls of the queue."""
        try:
            self._make_all()
        except BaseException as error:
            self._look_for_interrupt(error)
            raise

    def _make_all(self) -> None:
        """The loops of `run`. They do not stand in its `try`: see `interrupts`."""
        items = self._items
        while items:
            item = items[0]
            if type(item) is not tuple:
                if len(items) > 1:
                    self._promise()
                del items[0]
                item()
                continue
            if not self._promised:
                self._promise()  # before a call is taken: behind it an exception would lose the call
            for function, argument in item[0]:
                function(argument)
                if item is not (items[0] if items else None):
                    break  # the call has put others to the front, or a nested turn has made the rest
                if not self._promised:
                    self._promise()
            else:
                if item is (items[0] if items else None):
                    items.popleft()
                self._after()


PendingCalls = Iterator[tuple[Callable[[Any], object], Any]]
