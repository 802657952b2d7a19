"""The scenarios in trio: each in a run of its own, with its connections in blocks that end with it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from importlib.util import find_spec
from typing import Any

from styles import PATIENCE, Asking, Operation, Scenario, Style, Until

from cpspika.facade import Facade


class TrioStyle(Style):
    def connect(self, target: Any = None, **options: Any) -> Operation:
        from cpspika.adapters import trio_adapter

        async def opened() -> Any:
            block = trio_adapter.connect(target or self.url(), **options)
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
            step: Callable[[], Any] = partial(steps.send, None)
            while True:
                try:
                    wanted = step()
                except StopIteration:
                    return
                step = await self._next(steps, wanted)

    async def _next(self, steps: Scenario, wanted: Any) -> Callable[[], Any]:
        if isinstance(wanted, Until):
            await _until(wanted.condition)
            return partial(steps.send, None)
        asked = [_asked(operation) for operation in (wanted if isinstance(wanted, list) else [wanted])]
        outcomes = [await _outcome(promise) for promise in asked]
        if isinstance(wanted, list):
            return partial(steps.send, outcomes)
        return partial(steps.throw if isinstance(outcomes[0], Exception) else steps.send, outcomes[0])


def _asked(operation: Operation) -> Any:
    try:
        return operation.call()
    except Exception as mistake:
        return mistake


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
