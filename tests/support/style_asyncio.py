"""The scenarios as coroutines on asyncio: each operation's Future is awaited, those of a list together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest

from cpspika.adapters import asyncio_adapter
from cpspika.styles.facade import Facade
from tests.support.styles import PATIENCE, Asking, Operation, Scenario, Style, perform


class AsyncioStyle(Style):
    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop], broker: Any, protocol: str):
        super().__init__(broker, protocol)
        self._loop = new_loop()
        self._told: list[dict[str, Any]] = []
        self._loop.set_exception_handler(lambda loop, context: self._told.append(context))

    def connect(self, target: Any = None, **options: Any) -> Operation:
        async def opened() -> Any:
            connection = await asyncio_adapter.connect(target or self.url(), **self.with_recovery(options))
            self.connections.append(Asking(connection, None))
            return connection

        return Operation(None, opened)

    def run(self, steps: Scenario) -> None:
        self._loop.run_until_complete(perform(steps, _outcome, _until))

    def close(self) -> None:
        super().close()
        try:
            assert not asyncio.all_tasks(self._loop)
            assert not self._told, self._told
        finally:
            self._loop.close()


async def _until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"nothing came for {PATIENCE:g} s"
        await asyncio.sleep(0.002)


async def _outcome(promise: Any) -> Any:
    if isinstance(promise, Exception):
        return promise
    try:
        result = await asyncio.wait_for(promise, PATIENCE)
    except asyncio.TimeoutError as late:
        raise AssertionError(f"nothing came for {PATIENCE:g} s") from late
    except Exception as error:
        return error
    return Asking(result, None) if isinstance(result, Facade) else result


def on_uvloop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


STYLES: dict[str, Callable[..., Style]] = {"asyncio": partial(AsyncioStyle, asyncio.new_event_loop)}
if find_spec("uvloop") is not None:
    STYLES["asyncio-uvloop"] = partial(AsyncioStyle, on_uvloop)
