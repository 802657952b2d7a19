"""trio: the same operations, each a promise to await. Nothing outlives the block that connected:

    async with trio_adapter.connect("amqp://localhost") as conn:
        ch = await conn.channel()

The call starts an operation, not the await, so operations pipeline. Callbacks may be async functions. An exception of
one ends the block, and the block's end cancels the others. A cancelled await leaves the channel in order, see
`promises`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from ..connecting import Target, all_targets
from ..parameters import ConnectionOptions
from ..recovery import Recovering
from ..styles import tasks
from ..styles.promises import GRACE, OnClose, PromisingChannel, PromisingConnection, promised_connection
from ..styles.trio_operations import ChannelOperations, ConnectionOperations
from .guest_reactor import GuestReactor

try:
    import trio
except ImportError as missing:
    raise ImportError("trio is not installed: pip install 'cpspika[trio]'") from missing

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")


class TrioReactor(GuestReactor):
    """Lives in a nursery until `scope` is cancelled. An exception of a callback ends the nursery."""

    def __init__(self, nursery: trio.Nursery):
        super().__init__(trio.current_time, trio.lowlevel.current_trio_token().run_sync_soon)
        self.nursery = nursery
        self.on_error = lambda error: nursery.start_soon(self._raise, error)
        self.scope = trio.CancelScope(shield=True)
        self._asleep = trio.lowlevel.ParkingLot()
        self._lives = True
        nursery.start_soon(self._live)

    async def _live(self) -> None:
        try:
            with self.scope:
                await self._turns()
        finally:
            # From here on trio makes the turns itself: of the close that follows an exception, and for an operation
            # that is asked for behind the block.
            self._lives = False
            self.on_error = _hook
            if self._ready:
                self._wake()

    async def _turns(self) -> None:
        while True:  # see `interrupts`
            self.turn()
            await self._rest()

    async def _rest(self) -> None:
        with trio.move_on_after(self.patience()):
            await self._asleep.park()

    async def _raise(self, error: BaseException) -> None:
        raise error

    def _wake(self) -> None:
        if self._lives:
            self._asleep.unpark_all()
        else:
            self._from_thread(self.turn)

    def _watch(self, fd: int, write: bool, ready: Callable[[], object]) -> Callable[[], object]:
        async def watch() -> None:
            with scope:
                while True:  # see `interrupts`
                    if scope.cancel_called:
                        break  # the socket is closed
                    await (trio.lowlevel.wait_writable(fd) if write else trio.lowlevel.wait_readable(fd))
                    ready()

        scope = trio.CancelScope(shield=True)
        self.nursery.start_soon(watch)
        return scope.cancel


def _hook(error: BaseException) -> None:
    sys.excepthook(type(error), error, error.__traceback__)


class Promise(tasks.Promise[T]):
    """The promise of an operation's result. A cancelled await cancels it."""

    def __await__(self) -> Generator[Any, Any, T]:
        if not self.done:
            settled = trio.Event()
            self.claim()
            self.when_settled(settled.set)
            try:
                yield from settled.wait().__await__()
            except BaseException:
                self.discard()  # the cancel met the reply: nobody takes the result
                raise
            finally:
                self.leave(settled.set)
        return self.result()


class TrioChannel(PromisingChannel, ChannelOperations):
    """A channel whose operations return promises for trio's tasks. `core`: the Channel below."""


class TrioConnection(PromisingConnection, ConnectionOperations):
    """A connection whose operations return promises for trio's tasks. `core`: the Connection below."""

    channels = TrioChannel

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.reactor.nursery.cancel_scope.cancel()  # ends the callbacks that still run
        with trio.move_on_after(GRACE if kind else inf, shield=True):
            await super().__aexit__(kind, error, trace)


@asynccontextmanager
async def connect(
    target: Target,
    *,
    on_close: OnClose | None = None,
    recovery: Recovering = None,
    **options: Unpack[ConnectionOptions],
) -> AsyncIterator[TrioConnection]:
    """An asynchronous context manager of a connection.

    target, options, on_close, recovery: as in `cpspika.connect`. Errors come out as they are, several in an
    ExceptionGroup.
    """
    targets = all_targets(target, options)
    try:
        async with trio.open_nursery() as nursery:
            reactor = TrioReactor(nursery)
            promises = tasks.Promises(reactor, Promise, lambda coroutine: nursery.start_soon(lambda: coroutine))
            make = partial(TrioConnection, promises)
            promise, core = promised_connection(promises, make, reactor, targets, on_close, recovery)
            try:
                async with await promise as conn:
                    yield conn
            finally:
                core.abort()
                reactor.turn()  # settles the operations that wait
                reactor.scope.cancel()
    except BaseException as error:
        grouped: Any = getattr(error, "exceptions", ())
        if len(grouped) == 1:
            raise grouped[0] from grouped[0].__cause__
        raise
