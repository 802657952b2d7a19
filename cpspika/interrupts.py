"""Exceptions that a signal handler raises in the middle of the library's own code.

Python calls a signal handler between any two instructions of the main thread, and its exception (KeyboardInterrupt, by
default) is raised there. If that is between a system call and the note of what it did, nobody knows which bytes went
out; to send them again could send messages twice. So the link is dropped: `is_interrupt` tells such an exception from
one that a callback of the program raised, after which everything is in order.

A handler also runs where a loop jumps back. From 3.12 on, Python's compiler forgets for some of these jumps that they
lie in a `try` or `with`: where the loop's last statement is an `if`, or a `while` has a condition. An exception that
comes there passes `except` and `finally` by. So such a block has no such loop: a function that it calls has it, or the
loop is a `while True` with a break. A test looks for them.

And it runs when a call of a C function returns. Since 3.14 that is also when `with lock` has acquired the lock, and its
block has not begun: nothing would release it. So a lock that the main thread shares with others is acquired in a `try`,
and released by the `except` (see `release`) and behind it.

A call that was removed from its container and then cut off would be lost. `cut_off` finds it again: where the called
function had not begun, or is `repeatable`.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, TracebackType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_STDLIB = os.path.dirname(os.__file__) + os.sep
WRITTEN = "<cpspika, written for "
"""How the file name of a facade's methods begins. They are compiled from text, and no such file exists
(`styles.written`)."""
_waits: set[CodeType] = set()
_repeatable: dict[CodeType, Callable[..., Any]] = {}
call_makers: set[CodeType] = set()
"""The functions of reactors that make calls."""


class _OwnFiles(dict[str, "bool | None"]):
    """File names that were met. True: the file belongs to the library. None: to Python's standard library."""

    def __missing__(self, name: str) -> bool | None:
        own = True if name.startswith((_PACKAGE, WRITTEN)) else None if _is_in_standard_library(name) else False
        self[name] = own
        return own


is_own_file: dict[str, bool | None] = _OwnFiles()


def wait(function: F) -> F:
    """Marks a function in which the reactor waits. An exception there interrupts nothing."""
    _waits.add(function.__code__)
    return function


def repeatable(function: F) -> F:
    """Marks a function that finishes what an earlier call with the same arguments, cut off by an exception of a signal
    handler, has left to do; or does nothing. It assigns to none of its parameters."""
    _repeatable[function.__code__] = function
    return function


def cut_off(trace: TracebackType | None) -> list[Callable[[], object]]:
    """The calls that an exception of a signal handler has cut off, and that are to be made again. trace: the
    exception's traceback. A call counts where the reactor made it and its function had not begun, or where the function
    is `repeatable`."""
    calls: list[Callable[[], object]] = []
    while trace is not None:
        frame, inner = trace.tb_frame, trace.tb_next
        function = _repeatable.get(frame.f_code)
        if function is not None:
            values = frame.f_locals
            calls.append(
                functools.partial(
                    function, *(values[name] for name in frame.f_code.co_varnames[: frame.f_code.co_argcount])
                )
            )
        elif frame.f_code in call_makers and inner is not None and _has_not_begun(inner):
            calls.append(frame.f_locals["call"])
        trace = inner
    return calls


def makes_calls(function: F) -> F:
    """Marks a function of a reactor that makes the call that its variable `call` refers to."""
    call_makers.add(function.__code__)
    return function


def _has_not_begun(trace: TracebackType) -> bool:
    """Whether an exception came as the function of this frame was entered. Python calls signal handlers there."""
    from opcode import opmap  # needed only when an exception has passed

    code, offset = trace.tb_frame.f_code, trace.tb_lasti
    begin = opmap.get("RESUME")  # the instruction with which a function begins; Python 3.10 has none
    return bool(is_own_file[code.co_filename]) and (offset < 0 or code.co_code[offset] == begin)


def release(lock: Any) -> None:
    """Releases an RLock, if this thread holds it: an exception may have come before it was acquired, or after."""
    if lock._is_owned():
        lock.release()


def is_interrupt(error: BaseException) -> bool:
    """Whether an exception that came out of a call was raised by a signal handler in the library's own code, and not in
    a callback of the program, nor where the reactor waits."""
    trace, own = error.__traceback__, None
    handlers: set[CodeType] | None = None
    while trace is not None:
        code = trace.tb_frame.f_code
        if is_own_file[code.co_filename]:
            own = code
        else:
            handlers = set(_handlers()) if handlers is None else handlers
            if code in handlers:
                return own not in _waits
            if not _is_standard(code.co_filename):
                return False
        trace = trace.tb_next
    # The default handler of SIGINT is no Python function and has no frame.
    return not isinstance(error, Exception) and own not in _waits


def is_of_signal_handler(error: BaseException) -> bool:
    """Whether an exception was raised by a signal handler, wherever that was called."""
    handlers, trace = set(_handlers()), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def interrupts_work() -> bool:
    """Whether the caller interrupts the library's own code, and not where the reactor waits: in a signal handler, or in
    code that the garbage collector calls. What was interrupted must not be done again, nor something else in its
    middle."""
    frame: FrameType | None = sys._getframe(1)
    for own in (True, False):  # past the library's own call, and past the program that made it
        while frame is not None and is_own_file[frame.f_code.co_filename] is own:
            frame = frame.f_back
    if frame is None:
        return False  # nothing of the library's is under way below; to look for who interrupts takes long
    interrupters, frame = {*_handlers(), *_called_by_collector()}, sys._getframe(1)
    called = None  # the outermost function of the program above the next frame of the library's
    while frame is not None:
        code = frame.f_code
        if is_own_file[code.co_filename]:
            if code not in _waits and called is not None and (called in interrupters or called.co_name == "__del__"):
                return True
            called = None
        elif code in interrupters or not _is_standard(code.co_filename):
            called = code
        frame = frame.f_back
    return False


def no_work_is_below() -> bool:
    """Whether no function of the library is under way below the caller, a `__del__`. Else it may interrupt one."""
    frame = sys._getframe(1).f_back
    while frame is not None:
        if is_own_file[frame.f_code.co_filename]:
            return False
        frame = frame.f_back
    return True


def _is_standard(name: str) -> bool:
    return name.startswith("<") or _is_in_standard_library(name)


def _is_in_standard_library(name: str) -> bool:
    return name.startswith(_STDLIB) and "site-packages" not in name


def _handlers() -> Iterator[CodeType]:
    """The code of the signal handlers that are installed."""
    import signal  # needed only when an exception has passed

    for number in signal.valid_signals():
        yield from _code_of(signal.getsignal(number))


def _called_by_collector() -> Iterator[CodeType]:
    """The code of what the garbage collector calls, beside `__del__`."""
    yield weakref.finalize.__call__.__code__
    for callback in gc.callbacks:
        yield from _code_of(callback)


def _code_of(called: Any) -> Iterator[CodeType]:
    """The code that runs when an object is called; nothing where that is no Python code."""
    while isinstance(called, functools.partial):
        called = called.func
    function = getattr(called, "__func__", called)
    if not hasattr(function, "__code__") and callable(function):
        function = type(function).__call__
    code = getattr(function, "__code__", None)
    if isinstance(code, CodeType):
        yield code
