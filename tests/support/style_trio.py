"""The scenarios in trio: each in a run of its own, with its connections in blocks that end with it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib.util import find_spec
from typing import Any

from cpspika.styles.facade import Facade
from tests.support.styles import PATIENCE, Asking, Operation, Scenario, Style, perform


class TrioStyle(Style):
    def connect(self, target: Any = None, **options: Any) -> Operation:
        from cpspika.adapters import trio_adapter

        async def opened() -> Any:
            block = trio_adapter.connect(target or self.url(), **self.with_recovery(options))
            return await self._blocks.enter_async_context(block)

        return Operation(None, opened)

    def run(self, steps: Scenario) -> None:
        import trio

        trio.run(self._run, steps)

    async def _run(self, steps: Scenario) -> None:
        import trio

        with trio.move_on_after(PATIENCE):
            await self._perform(steps)
            return
        raise AssertionError(f"nothing came for {PATIENCE:g} s")

    async def _perform(self, steps: Scenario) -> None:
        async with AsyncExitStack() as self._blocks:
            await perform(steps, _outcome, _until)


async def _outcome(promise: Any) -> Any:
    if isinstance(promise, Exception):
        return promise
    try:
        result = await promise
    except Exception as error:
        return error
    return Asking(result, None) if isinstance(result, Facade) else result


async def _until(condition: Callable[[], Any]) -> None:
    import trio

    while not condition():
        await trio.sleep(0.002)


STYLES: dict[str, Callable[..., Style]] = {"trio": TrioStyle} if find_spec("trio") else {}
