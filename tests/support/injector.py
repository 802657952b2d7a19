"""Raises an exception of a signal handler at every place where Python may run one, one place in each run of a program.

Python runs signal handlers when a function is entered or a generator goes on, when a call of a C function or of a class
returns, and where a loop jumps back. `sys.monitoring` tells of these; Python 3.10 has a tracer alone. So each run of
the same program raises in the next place, until the program ends without: no timer, no luck.

For an exception that is raised where monitoring tells of a jump, Python 3.12 and 3.13 run no `finally`; for one of a
signal they do. There a jump back is seen by the line that follows it.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from opcode import opname
from threading import get_ident
from types import CodeType, FrameType
from typing import Any

import pytest

from cpspika.interrupts import is_own_file

_JUMPS = sys.version_info >= (3, 14)


class Interrupt(BaseException):
    """As KeyboardInterrupt: the program wants out."""


class Alarm(Exception):
    """As of a program that limits the time of a call by SIGALRM: it goes on after it."""


class Injector:
    """Raises at the place with a number, counted from the beginning of the block. It is also a signal handler, as the
    library tells interruptions by these. `where`: where it raised."""

    def __init__(self, number: int, exception: type[BaseException] = Interrupt):
        if sys.version_info[:2] == (3, 11):
            pytest.skip("Python 3.11 may crash where a tracer raises an exception")
        self.left = number
        self.thread = get_ident()  # monitoring tells of all threads; a signal handler runs in the main thread alone
        self.exception = exception
        self.where = ""
        self.lines: dict[FrameType, int] = {}  # the last line of each frame

    def count(self, code: CodeType, line: int, event: str) -> None:
        if get_ident() != self.thread:
            return
        self.left -= 1
        if self.left == 0:
            self.stop()
            function = getattr(code, "co_qualname", code.co_name)  # Python 3.10 has the bare name alone
            self.where = f"{event} {code.co_filename.rpartition('cpspika/')[2]}:{line} {function}"
            signal.raise_signal(signal.SIGUSR1)

    def handler(self, *_: object) -> None:
        raise self.exception

    @contextmanager
    def block(self) -> Iterator[None]:
        # The functions that lead to the handler stand for it: below them lie frames of the library alone.
        functions = {signal.SIGUSR1: self.handler, signal.SIGUSR2: self.count}
        functions |= dict(zip((signal.SIGHUP, signal.SIGVTALRM, signal.SIGWINCH), self.callbacks(), strict=False))
        saved = {number: signal.signal(number, function) for number, function in functions.items()}
        self.start()
        try:
            yield
        finally:
            self.stop()
            for number, function in saved.items():
                signal.signal(number, function)

    if sys.version_info >= (3, 12):

        def callbacks(self) -> list[Callable[..., Any]]:
            return [self.entered, self.returned, self.jumped if _JUMPS else self.lined]

        def start(self) -> None:
            monitoring = sys.monitoring
            events, tool = monitoring.events, monitoring.DEBUGGER_ID
            monitoring.use_tool_id(tool, "injector")
            entered, returned, back = self.callbacks()
            for event in (events.PY_START, events.PY_RESUME):
                monitoring.register_callback(tool, event, entered)
            monitoring.register_callback(tool, events.C_RETURN, returned)
            loop = events.JUMP if _JUMPS else events.LINE
            monitoring.register_callback(tool, loop, back)
            # CALL stands for what follows a call too, C_RETURN.
            monitoring.set_events(tool, events.PY_START | events.PY_RESUME | events.CALL | loop)

        def stop(self) -> None:
            monitoring = sys.monitoring
            if monitoring.get_tool(monitoring.DEBUGGER_ID) == "injector":
                monitoring.set_events(monitoring.DEBUGGER_ID, 0)
                monitoring.free_tool_id(monitoring.DEBUGGER_ID)
            self.lines.clear()

        def entered(self, code: CodeType, offset: int) -> None:
            if is_own_file[code.co_filename]:
                self.count(code, code.co_firstlineno, "entering")

        def returned(self, code: CodeType, offset: int, called: Any, first: Any) -> None:
            if is_own_file[code.co_filename]:
                self.count(code, sys._getframe(1).f_lineno, f"{getattr(called, '__name__', called)} returned to")

        def jumped(self, code: CodeType, offset: int, target: int) -> None:
            if target <= offset and is_own_file[code.co_filename]:
                self.count(code, sys._getframe(1).f_lineno, "loop in")

        def lined(self, code: CodeType, line: int) -> None:
            if is_own_file[code.co_filename] and get_ident() == self.thread:
                frame = sys._getframe(1)
                back = line <= self.lines.get(frame, 0)
                self.lines[frame] = line
                if back:
                    self.count(code, line, "loop in")

    else:

        def callbacks(self) -> list[Callable[..., Any]]:
            return [self.trace, self.trace_line]

        def start(self) -> None:
            self.calls: dict[FrameType, bool] = {}  # its last instruction is a call, of no function of Python so far
            sys.settrace(self.trace)

        def stop(self) -> None:
            sys.settrace(None)
            self.lines.clear()
            self.calls.clear()

        def trace(self, frame: FrameType, event: str, arg: Any) -> Any:
            if frame.f_back in self.calls:
                self.calls[frame.f_back] = False
            if not is_own_file[frame.f_code.co_filename]:
                return None
            self.lines[frame] = frame.f_lineno
            frame.f_trace_opcodes = True
            # Not where a generator or coroutine goes on: for an exception that a tracer raises there, Python 3.10 runs
            # none of its handlers. For an exception of a signal it does.
            if not frame.f_code.co_flags & (CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR):
                self.count(frame.f_code, frame.f_lineno, "entering")
            return self.trace_line

        def trace_line(self, frame: FrameType, event: str, arg: Any) -> Any:
            if event == "opcode":
                returned = self.calls.get(frame, False)
                self.calls[frame] = opname[frame.f_code.co_code[frame.f_lasti]].startswith("CALL")
                if returned:
                    self.count(frame.f_code, frame.f_lineno, "a call returned to")
                return self.trace_line
            back = event == "line" and frame.f_lineno <= self.lines[frame]
            self.lines[frame] = frame.f_lineno
            if back:
                self.count(frame.f_code, frame.f_lineno, "loop in")
            return self.trace_line
