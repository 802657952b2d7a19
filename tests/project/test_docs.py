"""The programs in the docs run as they stand, each by itself, and the adapter that they show is a right one."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.project.test_examples import run
from tests.support import ROOT

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHEETS = {sheet: BLOCK.findall((ROOT / sheet).read_text("utf-8")) for sheet in
          ("README.md", "docs/adapters.md", "docs/from_pika.md", "docs/styles.md", "docs/simulation.md",
           "docs/watching.md")}  # fmt: skip
# Pages whose programs are followed by what they print; one without that is a module or test that another one uses.
PRINTING = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = [
    (sheet, number, program, printed)
    for sheet in ("docs/first_steps.md", "docs/long_work.md", "docs/threads.md", "docs/tokens.md")
    for number, (program, printed) in enumerate(PRINTING.findall((ROOT / sheet).read_text("utf-8")))
]
TESTED = {"docs/simulation.md": ("test_mine.py", 1), "docs/testing.md": ("test_greeter.py", 3)}
PROGRAMS = [(sheet, number) for sheet, blocks in SHEETS.items() for number in range(len(blocks))]
SHEETS["docs/testing.md"] = BLOCK.findall((ROOT / "docs/testing.md").read_text("utf-8"))


def _missing(program: str, beside: set[str]) -> str | None:
    """An extra that a program imports, directly, and that is not installed."""
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if name not in beside and find_spec(name.partition(".")[0]) is None:
                return name
    return None


def _written(sheet: str, directory: Path) -> list[Path]:
    """The programs of a sheet, as files; one may say its name in its first line."""
    paths = []
    for number, block in enumerate(SHEETS[sheet]):
        named = re.match(r"# (\w+\.py)\n", block)
        paths.append(directory / (named[1] if named else f"program_{number}.py"))
        paths[-1].write_text(block, "utf-8")
    return paths


def test_the_sheets_have_programs() -> None:
    """So that the tests below cannot pass by blindness."""
    assert [len(blocks) >= 2 for blocks in SHEETS.values()] == [True] * len(SHEETS)


# What the programs of docs/watching.md say beside what they print, one after another.
WATCHED = ("connected to cpspika", "--> channel 1 basic.publish(", "greetings: ack", '"name": "process greetings"')


def check_watched(number: int, path: str) -> None:
    done = subprocess.run(
        [sys.executable, path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "b'Hello World!'\n"), done.stderr
    assert [told for told in WATCHED if told in done.stderr] == [WATCHED[number]]


@pytest.mark.slow
@pytest.mark.parametrize(("sheet", "number"), PROGRAMS)
def test_a_program_in_the_docs_runs(sheet: str, number: int, tmp_path: Path) -> None:
    paths = _written(sheet, tmp_path)
    missing = _missing(SHEETS[sheet][number], {path.stem for path in paths})
    if missing is not None:
        pytest.skip(f"no {missing} here")
    if sheet == "docs/watching.md":
        check_watched(number, str(paths[number]))
        return
    printed = run(str(paths[number]))
    if sheet == "docs/styles.md":
        assert sorted(printed.splitlines()) == [f"b'message {number}'" for number in range(3)]
    elif not paths[number].name.startswith("test_"):
        assert printed == "b'Hello World!'\n"


@pytest.mark.long
def test_the_adapter_in_the_docs_conforms(tmp_path: Path) -> None:
    _written("docs/adapters.md", tmp_path)
    printed = run(
        "-m", "pytest", "-q", "-c", "/dev/null", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)
    )
    passed = re.search(r"(\d+) passed in", printed)
    assert passed, printed
    assert int(passed[1]) > 20, printed


@pytest.mark.slow
@pytest.mark.parametrize(("sheet", "number", "program", "printed"), PRINTED, ids=[f"{p[0]}-{p[1]}" for p in PRINTED])
def test_a_program_prints_what_the_page_says(
    sheet: str, number: int, program: str, printed: str, tmp_path: Path
) -> None:
    path = tmp_path / "program.py"
    path.write_text(program, "utf-8")
    assert run(str(path)) == printed


def test_each_program_of_such_a_page_is_run() -> None:
    for sheet in {sheet for sheet, *_ in PRINTED}:
        programs = BLOCK.findall((ROOT / sheet).read_text("utf-8"))
        assert programs == [program for of, _, program, _ in PRINTED if of == sheet], sheet


@pytest.mark.slow
@pytest.mark.parametrize("sheet", TESTED)
def test_the_tests_in_the_docs_pass(sheet: str, tmp_path: Path) -> None:
    file, number = TESTED[sheet]
    _written(sheet, tmp_path)
    printed = run(
        "-m", "pytest", "-q", "-c", "/dev/null", "-p", "no:cacheprovider", "--rootdir", str(tmp_path),
        str(tmp_path / file),
    )  # fmt: skip
    assert f"{number} passed in" in printed, printed
