"""No loop of a guarded block has a way back that the guard does not see.

Python runs signal handlers where a loop jumps back. From 3.12 on its compiler forgets, for some of these jumps, that
they lie in a try or with block: where the last statement of the loop is an `if`, or a `while` has a condition. An
exception that comes there is not caught by `except BaseException`, and skips `finally` and `__exit__`. `while True`
with a `break` at its beginning, another order of the statements, or the loop in a function of its own has no such jump.
"""

from __future__ import annotations

import ast
import dis
import sys
from collections.abc import Iterator
from types import CodeType

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 is the first that has such jumps")

PACKAGE = ROOT / "cpspika"
LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.ListComp, ast.SetComp, ast.DictComp)
FREE = {
    "cli/": "a command ends at Ctrl-C",
    "testing/": "what runs in tests alone",
    "styles/workers.py": "its threads run no signal handlers",
    "client/connection.py:Connection._arrived": "nothing is in hand there, and the transport's guard sees it",
}


def codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def unguarded(code: CodeType) -> Iterator[int]:
    """The lines from which a loop jumps back into a block whose handler does not see the jump."""
    entries = dis._parse_exception_table(code)  # type: ignore[attr-defined]

    def depth(offset: int) -> int:
        return max((entry.depth + 1 for entry in entries if entry.start <= offset < entry.end), default=0)

    for instruction in dis.get_instructions(code):
        if instruction.opname == "JUMP_BACKWARD" and depth(instruction.argval) > depth(instruction.offset):
            yield (instruction.positions and instruction.positions.lineno) or 0


def guarded_loops(text: str) -> list[tuple[int, int]]:
    """The first and the last line of each loop in a block with `finally`, `except BaseException` or `with`. Loops are
    comprehensions too: Python 3.12 and later compile them into the block."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.With, ast.AsyncWith)) or (isinstance(node, ast.Try) and catches_all(node)):
            for statement in node.body:
                loops = [loop for loop in ast.walk(statement) if isinstance(loop, LOOPS)]
                found += [(loop.lineno, loop.end_lineno or 0) for loop in loops]
    return found


def catches_all(block: ast.Try) -> bool:
    names = [ast.unparse(handler.type) if handler.type else "BaseException" for handler in block.handlers]
    return bool(block.finalbody) or "BaseException" in names


def gaps(text: str, name: str) -> list[str]:
    loops = guarded_loops(text)
    return [
        f"{name}:{code.co_qualname}, line {line}"
        for code in codes(compile(text, name, "exec"))
        for line in unguarded(code)
        if any(first <= line <= last for first, last in loops)
    ]


def test_every_guard_sees_its_loops() -> None:
    files = {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    assert len(files) > 100
    found = [gap for name, text in files.items() for gap in gaps(text, name) if not gap.startswith(tuple(FREE))]
    assert not found, "\n".join(found)


def test_the_search_finds_such_a_loop() -> None:
    """Where the compiler still makes one. The text is that of a fault: the exception left `count` too low."""
    text = """
def write(self, chunks):
    try:
        for chunk in chunks:
            self.count += 1
            if chunk:
                self.large = True
    except BaseException:
        self.close()
"""
    code = next(code for code in codes(compile(text, "write", "exec")) if code.co_name == "write")
    if not list(unguarded(code)):
        pytest.skip("this Python has no such jumps")
    assert gaps(text, "write") == ["write:write, line 6"]
