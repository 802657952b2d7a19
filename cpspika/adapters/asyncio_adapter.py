"""asyncio: the same operations, each a Future. Works on the standard loops, Windows' Proactor included, and on uvloop.

    async with asyncio_adapter.connect("amqp://localhost") as conn, await conn.channel() as ch:
        queue = (await ch.queue_declare(exclusive=True)).queue
        await ch.basic_publish(routing_key=queue, body="hello")
        async for message in ch.consume(queue):
            await message.ack()

The call starts an operation, not the await. So a program may gather futures (operations pipeline), or ignore them
(`message.ack()`). On a confirming channel, awaiting a publish waits for its confirm. On another channel the await ends
at once; while the channel isn't writable it waits, which holds a publisher back.

A cancelled await (a cancelled task, a time-out) leaves the channel in order, see `promises`. A callback may be a
coroutine function: it runs in a task of its own. An exception of it goes to the reactor's on_error, or to the loop's
exception handler.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from ..client.connection import Connection
from ..connecting import Target, all_targets
from ..errors import AMQPError, InvalidArgumentType, LocalError
from ..interrupts import repeatable
from ..parameters import ConnectionOptions
from ..recovery import Recovering
from ..styles.asyncio_operations import ChannelOperations, ConnectionOperations
from ..styles.promises import (
    Block,
    Claims,
    GiveBack,
    PromisingChannel,
    PromisingConnection,
    ResolvedPromises,
    Settle,
    close_abandoned,
    promised_connection,
)
from .asyncio_reactor import AsyncioReactor

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")
OnAsyncioClose = Callable[["AsyncioConnection", AMQPError | None], object]


class Future(asyncio.Future[T]):
    """The Future of an operation's result. The class has this name because asyncio shows it in its log, for an error
    that nobody asked for."""

    __slots__ = ()

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the result any more."""
        return self.cancelled()

    @repeatable
    def settle(self, err: AMQPError | None, result: Any) -> None:
        """Gives the future its result or error, if it was not cancelled."""
        if not self.done():
            if err is None:
                self.set_result(result)
            else:
                self.set_exception(err)


class Wanted(Block[T], Future[T]):
    """The Future of a result that must not get lost: a message, a consumer, a channel, a connection. The Future of a
    channel or connection is an asynchronous context manager too, which awaits the opening first."""

    __slots__ = ("_give_back",)

    def __init__(self, give_back: GiveBack, loop: asyncio.AbstractEventLoop):
        super().__init__(loop=loop)
        self._give_back = Claims(give_back)

    @repeatable
    def settle(self, err: AMQPError | None, result: Any) -> None:
        """Gives the future its result or error. The result for one that was cancelled is given back."""
        if err is None and self.cancelled():
            self._give_back(result)
        else:
            super().settle(err, result)

    def __await__(self) -> Generator[Any, None, T]:
        self._give_back.claim()
        try:
            return (yield from super().__await__())
        except asyncio.CancelledError:
            unclaimed = self._give_back.drop()
            # The task was cancelled after the result had come, but before it was resumed with it.
            if unclaimed and self.done() and not self.cancelled() and self.exception() is None:
                self._give_back(self.result())
            raise

    __iter__ = __await__


def _look_at_error(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


class _Promises:
    """asyncio's promises, on one loop."""

    def __init__(self, reactor: AsyncioReactor):
        self._reactor = reactor
        self._loop = reactor.loop
        self.fulfilled = ResolvedPromises(self._keep).__getitem__
        self.sent = self.fulfilled(True)
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop itself holds them weakly

    def make(self, give_back: GiveBack | None = None) -> tuple[Future[Any], Settle]:
        future: Future[Any] = Future(loop=self._loop) if give_back is None else Wanted(give_back, self._loop)
        return future, future.settle

    def _keep(self, result: Any) -> asyncio.Future[Any]:
        future, settle = self.make()
        settle(None, result)
        return future

    def ignore_error(self, promise: asyncio.Future[Any]) -> None:
        promise.add_done_callback(_look_at_error)

    def spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        if not inspect.iscoroutine(coroutine):
            raise InvalidArgumentType(
                "on asyncio a callback is a function or a coroutine function, no generator function"
            )
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._reactor.failed(error, "a coroutine that is a callback of cpspika raised", task=task)


class AsyncioChannel(PromisingChannel, ChannelOperations):
    """A channel whose operations return Futures. `core`: the Channel below."""


class AsyncioConnection(PromisingConnection, ConnectionOperations):
    """A connection whose operations return Futures. `core`: the Connection below; `reactor`: its AsyncioReactor."""

    channels = AsyncioChannel


def connect(
    target: Target,
    *,
    on_close: OnAsyncioClose | None = None,
    recovery: Recovering = None,
    **options: Unpack[ConnectionOptions],
) -> Wanted[AsyncioConnection]:
    """Begins to connect on the running loop: `conn = await connect(url)`, or `async with connect(url) as conn`.

    target, options, on_close, recovery: as in `cpspika.connect`. Errors: LocalError, no loop is running here.
    """
    try:
        reactor = AsyncioReactor(asyncio.get_running_loop())
    except RuntimeError:
        raise LocalError("no asyncio loop is running here; connect in a coroutine, under asyncio.run(main())") from None
    targets = all_targets(target, options)
    promises = _Promises(reactor)

    def facade(core: Connection) -> AsyncioConnection:
        return AsyncioConnection(promises, core)

    promise: Wanted[AsyncioConnection]
    promise, core = promised_connection(promises, facade, reactor, targets, on_close, recovery)
    promise.add_done_callback(lambda future: close_abandoned(core) if future.cancelled() else None)
    return promise


__all__ = ["AsyncioChannel", "AsyncioConnection", "AsyncioReactor", "Wanted", "connect"]
