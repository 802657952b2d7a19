"""The library without what other systems lack: scenarios and conformance tests, in processes where that is hidden.

Never run on Windows or macOS: this hides what these don't have, one thing at a time and all together. A style or reactor
that doesn't use what is hidden is left out.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support import ROOT
from tests.support.hiding import HIDERS

BOUND = 100  # seconds for one process

REACTORS = ("tests/reactors/test_conformance.py", "tests/reactors/test_sockets.py", "tests/reactors/test_waker.py")
SCENARIOS = (
    "tests/scenarios/test_connecting.py",
    "tests/scenarios/test_consuming.py",
    "tests/scenarios/test_messages.py",
)

# What is hidden: the files, and which of their tests (an expression of -k).
SUBSETS = {
    "sendmsg": (REACTORS + SCENARIOS, "not broken and (core-select or Select or Asyncio or sockets)"),
    "poll": (REACTORS + SCENARIOS, "not broken and (blocking or asyncore or Blocking or Asyncore)"),
    "epoll": (REACTORS + SCENARIOS, "not broken and (core-select or threads or Select)"),
    "kqueue": (REACTORS, "Select"),
    "register_at_fork": (REACTORS + SCENARIOS, "core-select or Select or threads"),
    "AF_UNIX": (
        REACTORS + SCENARIOS,
        "not broken and (core-blocking or threads or Select or Blocking or Asyncore or waker)",
    ),
    "add_reader": (REACTORS + SCENARIOS, "asyncio or Asyncio"),
    "all": (REACTORS + SCENARIOS, "not broken"),
}


def test_each_is_hidden() -> None:
    assert SUBSETS.keys() == {*HIDERS, "all"}


@pytest.mark.long
@pytest.mark.parametrize("hidden", SUBSETS)
def test_without(hidden: str) -> None:
    files, chosen = SUBSETS[hidden]
    wanted = f"({chosen}) and not uvloop and not Uvloop and not rabbitmq and not 0-8"
    command = [sys.executable, "-m", "tests.support.hiding", hidden, "-q", "-n", "0", "-m", "not long", "-k", wanted]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [*command, *files], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert " passed" in run.stdout.splitlines()[-1]
