"""The library without what other systems lack: scenarios and conformance tests, in processes where that is hidden.

The tests were never run on Windows or macOS. These hide what those systems don't have, one thing at a time and all
together. A style or reactor that doesn't use what is hidden is left out.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys

import pytest

from tests.support import ROOT
from tests.support.hiding import HIDERS

BOUND = 240  # seconds for one process, which takes some ten if the machine is free

FILES = (
    "tests/reactors/test_conformance.py",
    "tests/reactors/test_sockets.py",
    "tests/reactors/test_waker.py",
    "tests/scenarios/test_connecting.py",
    "tests/scenarios/test_consuming.py",
    "tests/scenarios/test_messages.py",
)

# What is hidden, and which tests of these files use it (an expression of -k).
CHOSEN = {
    "sendmsg": "TestSelect or TestAsyncioInside or core-select",
    "poll": "TestBlocking or TestAsyncore or core-blocking",
    "epoll": "TestSelect or core-select",
    "kqueue": "TestSelect or core-select",
    "eventfd": "TestBlocking or TestSelect or test_waker",
    "register_at_fork": "TestSelect or embedded-threads",
    "AF_UNIX": "TestBlocking or TestSelect or test_waker or embedded-threads",
    "add_reader": "TestAsyncio or test_sockets or embedded-asyncio",
    "all": "TestSelect or TestBlocking or TestAsyncore or TestAsyncio or test_sockets or test_waker or core-select or "
    "core-blocking or core-asyncore or embedded-threads or embedded-asyncio",
}


def test_each_is_hidden() -> None:
    assert CHOSEN.keys() == {*HIDERS, "all"}


@pytest.mark.long
@pytest.mark.parametrize("hidden", CHOSEN)
def test_without(hidden: str) -> None:
    if hidden == "kqueue" and not hasattr(select, "kqueue"):
        pytest.skip("this system has no kqueue")
    wanted = f"({CHOSEN[hidden]}) and not uvloop and not rabbitmq and not 0-8"
    command = [sys.executable, "tests/support/hiding.py", hidden, "-q", "-n", "0", "-m", "not long", "-k", wanted]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [*command, *FILES], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert " passed" in run.stdout.splitlines()[-1]
