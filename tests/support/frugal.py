"""Hooks that make a run of thousands of short tests cheaper. `tests/conftest.py` registers them."""

from __future__ import annotations

import faulthandler
import marshal
import os
import sys
import time
from collections.abc import Generator
from typing import Any

import pytest

HANGS = 90.0  # seconds after which a test that hangs shows where each thread stands
ROUND = 10.0  # seconds; it shows so up to this much earlier


def keep_bytecode(config: pytest.Config) -> None:
    """With PYTHONDONTWRITEBYTECODE, which keeps the tree clean, each worker and each process that a test starts would
    compile every module anew. The tests keep what is compiled beside pytest's cache, out of the way."""
    if sys.dont_write_bytecode and sys.pycache_prefix is None:
        sys.dont_write_bytecode = False
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(config.rootpath / ".pytest_cache" / "bytecode")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


class Hangs:
    """Shows where each thread stands when a test hangs, as pytest's faulthandler_timeout does. That starts and ends a
    thread for each test; this does so every ten seconds at most."""

    def __init__(self) -> None:
        self._stderr = os.dup(2)  # pytest captures the descriptor itself
        self._armed = float("-inf")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        now = time.monotonic()
        if now - self._armed > ROUND:
            self._armed = now
            faulthandler.dump_traceback_later(HANGS, file=self._stderr)

    def pytest_sessionfinish(self) -> None:
        faulthandler.cancel_dump_traceback_later()

    @pytest.hookimpl(tryfirst=True)
    def pytest_enter_pdb(self) -> None:
        faulthandler.cancel_dump_traceback_later()


class Packing:
    """xdist's own way to write a report and to read it costs four times as much, and each test has three reports."""

    @pytest.hookimpl(wrapper=True)
    def pytest_report_to_serializable(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> Generator[None, Any, Any]:
        data = yield
        return {"packed": marshal.dumps(data)} if report.passed and not report.user_properties else data

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_from_serializable(self, data: dict[str, Any]) -> None:
        if "packed" in data:
            data.update(marshal.loads(data.pop("packed")))


class Forgetting:
    """A worker of xdist needs none of the reports that pytest keeps, and each gc.collect() looks at all of them."""

    def __init__(self, config: pytest.Config):
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.stats.clear()


def install(config: pytest.Config) -> None:
    keep_bytecode(config)
    config.pluginmanager.register(Hangs())
    config.pluginmanager.register(Packing())
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(Forgetting(config))
