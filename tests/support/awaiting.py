"""The styles whose calls are awaited, so that a program that cancels is written once: asyncio, trio, tasks, Twisted.

async def main(style):
    async with style.connect(url) as connection:
        work = style.start(use(connection))
        await style.sleep(0.001)
        await style.cancel(work)

STYLES["trio"]().run(main)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from typing import Any

from cpspika import tasks
from cpspika.adapters import SelectReactor, asyncio_adapter

Main = Callable[[Any], Coroutine[Any, Any, Any]]


class Awaiting:
    """One style. `cancelled`: the exception in work that was cancelled."""

    cancelled: type[BaseException]

    def run(self, main: Main) -> Any:
        """Runs main(style) to its end; what it leaves to the reactor as an exception is raised."""
        raise NotImplementedError

    def begin(self, url: str, **options: Any) -> Any:
        """Begins to connect; to be awaited."""
        raise NotImplementedError

    @asynccontextmanager
    async def connect(self, url: str, **options: Any) -> AsyncIterator[Any]:
        async with await self.begin(url, **options) as connection:
            yield connection

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError

    def start(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Starts work beside the caller."""
        raise NotImplementedError

    async def cancel(self, work: Any) -> None:
        """Cancels work, and waits for its end. An error of it that is no cancellation is raised."""
        raise NotImplementedError


class Asyncio(Awaiting):
    cancelled = asyncio.CancelledError

    def run(self, main: Main) -> Any:
        errors: list[Any] = []

        async def caught() -> Any:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
            return await main(self)

        result = asyncio.run(caught())
        for context in errors:
            raise context.get("exception") or AssertionError(context["message"])
        return result

    def begin(self, url: str, **options: Any) -> Any:
        return asyncio_adapter.connect(url, **options)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def start(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.ensure_future(work)

    async def cancel(self, work: Any) -> None:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work


class Tasks(Awaiting):
    cancelled = tasks.Cancelled

    def run(self, main: Main) -> Any:
        self._reactor = SelectReactor()
        try:
            return tasks.run(main(self), self._reactor)
        finally:
            self._reactor.close()

    def begin(self, url: str, **options: Any) -> Any:
        return tasks.connect(url, **options)

    async def sleep(self, seconds: float) -> None:
        await tasks.sleep(seconds)

    def start(self, work: Coroutine[Any, Any, Any]) -> Any:
        return tasks.spawn(work)

    async def cancel(self, work: Any) -> None:
        work.cancel()
        with suppress(tasks.Cancelled):
            await work


class Trio(Awaiting):
    @property
    def cancelled(self) -> Any:
        import trio

        return trio.Cancelled

    def run(self, main: Main) -> Any:
        import trio

        async def nursed() -> Any:
            async with trio.open_nursery() as self._nursery:
                return await main(self)

        return trio.run(nursed)

    @asynccontextmanager
    async def connect(self, url: str, **options: Any) -> AsyncIterator[Any]:
        from cpspika.adapters import trio_adapter

        async with trio_adapter.connect(url, **options) as connection:
            yield connection

    async def sleep(self, seconds: float) -> None:
        import trio

        await trio.sleep(seconds)

    def start(self, work: Coroutine[Any, Any, Any]) -> Any:
        import trio

        scope, ended = trio.CancelScope(), trio.Event()

        async def scoped() -> None:
            try:
                with scope:
                    await work
            finally:
                ended.set()

        self._nursery.start_soon(scoped)
        return scope, ended

    async def cancel(self, work: Any) -> None:
        scope, ended = work
        scope.cancel()
        await ended.wait()


class Twisted(Awaiting):
    @property
    def cancelled(self) -> Any:
        from twisted.internet.defer import CancelledError

        return CancelledError

    def run(self, main: Main) -> Any:
        from twisted.internet.defer import Deferred

        from tests.support.style_twisted import outcome

        return outcome(Deferred.fromCoroutine(main(self)))

    def begin(self, url: str, **options: Any) -> Any:
        from cpspika.adapters import twisted_adapter
        from tests.support.style_twisted import private_reactor

        return twisted_adapter.connect(url, reactor=private_reactor(), **options)

    async def sleep(self, seconds: float) -> None:
        from twisted.internet.task import deferLater

        from tests.support.style_twisted import private_reactor

        await deferLater(private_reactor(), seconds)

    def start(self, work: Coroutine[Any, Any, Any]) -> Any:
        from twisted.internet.defer import Deferred

        return Deferred.fromCoroutine(work)

    async def cancel(self, work: Any) -> None:
        work.cancel()
        with suppress(self.cancelled):
            await work


STYLES: dict[str, Callable[[], Awaiting]] = {"asyncio": Asyncio, "tasks": Tasks}
if find_spec("trio") is not None:
    STYLES["trio"] = Trio
if find_spec("twisted") is not None:
    STYLES["twisted"] = Twisted
