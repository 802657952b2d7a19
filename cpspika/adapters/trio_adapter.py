"""trio: the same operations, each a promise to await. Nothing outlives the block that connected:

    async with trio_adapter.connect("amqp://localhost") as conn:
        ch = await conn.channel()

An operation is asked for by its call, not by the await, so that operations pipeline, or are ignored
(`message.ack()`). A callback may be an async function. One that raises ends the block with its exception, and the
connection is closed in order all the same; a cancelled await leaves the channel in order, see `promises`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from .. import tasks
from ..channel import Channel
from ..connection import Connection
from ..doors import Target, all_targets
from ..errors import AMQPError
from ..promises import GiveBack, PromisingChannel, PromisingConnection, Settle, promised_connection
from .trio_operations import ChannelOperations, ConnectionOperations
from .trio_reactor import TrioReactor

try:
    import trio
except ImportError as missing:
    raise ImportError("trio is not installed: pip install 'cpspika[trio]'") from missing

T = TypeVar("T")
OnTrioClose = Callable[["TrioConnection", "AMQPError | None"], object]
GRACE = 5.0  # seconds that the closing may take where the block was cancelled


class Promise(tasks.Promise[T]):
    """What an operation will come to; `await` it in a trio task. A cancelled await gives it up."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, T]:
        if not self.done:
            yield from self._parked().__await__()
        return self.result()

    async def _parked(self) -> None:
        parked = [trio.lowlevel.current_task()]
        self.when_settled(lambda: trio.lowlevel.reschedule(parked.pop()) if parked else None)

        def abort(_: Any) -> trio.lowlevel.Abort:
            parked.clear()
            self.cancel()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    __iter__ = __await__


class _Promises(tasks.Promises):
    """trio's promises, in one block."""

    def __init__(self, reactor: TrioReactor, nursery: trio.Nursery):
        super().__init__(reactor)
        self._nursery = nursery

    def make(self, give_back: GiveBack | None = None) -> tuple[Promise[Any], Settle]:
        promise: Promise[Any] = Promise(self.reactor, give_back)
        return promise, promise.settle

    def spawn(self, coroutine: Any) -> None:
        async def run() -> None:
            await coroutine

        self._nursery.start_soon(run)


class TrioConnection(PromisingConnection, ConnectionOperations):
    """A connection whose operations return promises for trio's tasks. `core`: the Connection below."""

    def _channel_facade(self, core: Channel) -> TrioChannel:
        return TrioChannel(self, core)


class TrioChannel(PromisingChannel, ChannelOperations):
    """A channel whose operations return promises for trio's tasks. `core`: the Channel below."""


@asynccontextmanager
async def connect(
    target: Target, *, on_close: OnTrioClose | None = None, **options: Any
) -> AsyncIterator[TrioConnection]:
    """A connection for a block; target and options as of `cpspika.connect`. on_close(connection, err) is called when it
    has ended. What the block, or a callback, raises comes out of it as it is, and in an ExceptionGroup only where
    there are several."""
    targets = all_targets(target, options)
    try:
        async with trio.open_nursery() as nursery:
            reactor = TrioReactor(nursery)
            await nursery.start(reactor.live)
            try:
                async with _connection(reactor, nursery, targets, on_close) as connection:
                    yield connection
            finally:
                reactor.scope.cancel()
    except BaseException as error:
        grouped: Any = getattr(error, "exceptions", ())  # an ExceptionGroup's, which Python 3.10 has no name for
        if len(grouped) == 1:
            raise grouped[0] from grouped[0].__cause__  # and not from the group
        raise


@asynccontextmanager
async def _connection(
    reactor: TrioReactor, nursery: trio.Nursery, targets: Any, on_close: OnTrioClose | None
) -> AsyncIterator[TrioConnection]:
    promises = _Promises(reactor, nursery)
    cores: list[Connection] = []
    try:
        yield await promised_connection(
            promises, lambda core: TrioConnection(promises, core), reactor, targets, on_close, cores.append
        )
    finally:
        closed, settle = promises.make()
        with trio.move_on_after(GRACE, shield=True):
            cores[0].close(on_done=settle)
            await closed
        cores[0].abort()


__all__ = ["Promise", "TrioChannel", "TrioConnection", "TrioReactor", "connect"]
