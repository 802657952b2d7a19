"""The programs of docs/shutdown.md, each with the real signal."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support import ROOT

PROGRAMS = dict(
    re.findall(r"^## (\w+)\n.*?^```python\n(.*?)^```$", (ROOT / "docs/shutdown.md").read_text("utf-8"), re.M | re.S)
)


def test_the_page_has_a_program_for_each_style() -> None:
    assert set(PROGRAMS) == {"Synchronous", "Threads", "asyncio", "Tasks", "trio", "Twisted"}


@pytest.mark.slow
@pytest.mark.parametrize("program_of", PROGRAMS)
def test_sigterm_closes_and_ends_the_program(program_of: str, tmp_path: Path) -> None:
    if program_of in ("trio", "Twisted") and find_spec(program_of.lower()) is None:
        pytest.skip(f"no {program_of} here")
    path = tmp_path / "program.py"
    path.write_text(PROGRAMS[program_of], "utf-8")
    program = subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        program.send_signal(signal.SIGTERM)
        printed, errors = program.communicate(timeout=20)
    finally:
        program.kill()
        program.wait()
    assert (printed, errors, program.returncode in (0, -signal.SIGTERM)) == ("closed\n", "", True)
