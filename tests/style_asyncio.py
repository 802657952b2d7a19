"""The scenarios as coroutines on asyncio: each operation's Future is awaited, those of a list together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from styles import PATIENCE, Asking, Operation, Scenario, Style, Until

from cpspika.adapters import asyncio_adapter
from cpspika.facade import Facade


class AsyncioStyle(Style):
    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop], broker: Any, protocol: str):
        super().__init__(broker, protocol)
        self._loop = new_loop()
        self._told: list[dict[str, Any]] = []
        self._loop.set_exception_handler(lambda loop, context: self._told.append(context))

    def connect(self, target: Any = None, **options: Any) -> Operation:
        async def opened() -> Any:
            connection = await asyncio_adapter.connect(target or self.url(), **options)
            self.connections.append(Asking(connection, None))
            return connection

        return Operation(None, opened)

    def run(self, steps: Scenario) -> None:
        self._loop.run_until_complete(self._perform(steps))

    async def _perform(self, steps: Scenario) -> None:
        step: Callable[[], Any] = partial(steps.send, None)
        while True:
            try:
                wanted = step()
            except StopIteration:
                return
            if isinstance(wanted, Until):
                await _until(wanted.condition)
                step = partial(steps.send, None)
            elif isinstance(wanted, list):
                futures = [_begin(operation) for operation in wanted]
                step = partial(steps.send, [await _outcome(future) for future in futures])
            else:
                outcome = await _outcome(_begin(wanted))
                step = partial(steps.throw if isinstance(outcome, Exception) else steps.send, outcome)

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


def _begin(operation: Operation) -> Any:
    try:
        return operation.call()
    except Exception as mistake:
        return mistake


async def _outcome(begun: Any) -> Any:
    if isinstance(begun, Exception):
        return begun
    try:
        result = await asyncio.wait_for(begun, PATIENCE)
    except asyncio.TimeoutError as late:
        raise AssertionError(f"nothing came for {PATIENCE:g} s") from late
    except Exception as error:
        return error
    return Asking(result, None) if isinstance(result, Facade) else result


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


STYLES: dict[str, Callable[..., Style]] = {"asyncio": partial(AsyncioStyle, asyncio.new_event_loop)}
if find_spec("uvloop") is not None:
    STYLES["asyncio-uvloop"] = partial(AsyncioStyle, _uvloop)
