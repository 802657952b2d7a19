"""The reactor of a trio program: a plain one, whose turns are those of a task, and whose sockets other tasks watch."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from math import inf
from threading import get_ident
from typing import Any

from ..errors import LocalError
from ..reactor import Call, Endpoint, PlainReactor, Timer, TransportOwner
from .sockets import SocketTransport, Watched, resolve

try:
    import trio
except ImportError as missing:
    raise ImportError("trio is not installed: pip install 'cpspika[trio]'") from missing


class TrioReactor(PlainReactor):
    """Lives while its `live` runs, until `scope` is cancelled: shielded, so that what is cancelled around it can still
    be closed in order. A callback's exception ends `nursery`, where the program is."""

    def __init__(self, nursery: trio.Nursery):
        super().__init__()
        self.on_error = lambda error: nursery.start_soon(_raise, error)
        self.thread = get_ident()  # trio's only one
        self.scope = trio.CancelScope(shield=True)
        self._awake = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._watched: dict[int, tuple[Watched, bool, bool, trio.CancelScope]] = {}

    async def live(self, task_status: trio.TaskStatus[None]) -> None:
        """Takes turns: waits until woken, or until a timer is due, and makes the calls."""
        with self.scope:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                while True:
                    patience = self._patience(None)
                    with trio.move_on_after(inf if patience is None else patience):
                        await (trio.lowlevel.checkpoint() if patience == 0 else self._awake.wait())
                    self._awake = trio.Event()
                    while (call := self._timers.due(self.time())) is not None:
                        self.call(call)
                    self._run_ready()

    def time(self) -> float:
        return trio.current_time()

    def call_soon(self, call: Call) -> None:
        super().call_soon(call)
        self._awake.set()

    def call_later(self, seconds: float, call: Call) -> Timer:
        self._awake.set()
        return super().call_later(seconds, call)

    def _wake(self) -> None:
        with suppress(trio.RunFinishedError):  # then nobody is left to care
            self._token.run_sync_soon(lambda: self._awake.set())

    def _poll(self, timeout: float | None) -> None:
        raise LocalError("a trio program is run by trio.run(main); await what you wait for")

    def _has_transports(self) -> bool:
        return bool(self._watched)

    def resolve(self, endpoint: Endpoint, on_done: Callable[[Exception | None, list[Any] | None], object]) -> None:
        resolve(self, endpoint, on_done)

    def open(self, endpoint: Endpoint, address: Any, owner: TransportOwner) -> SocketTransport:
        return SocketTransport.connect(self, endpoint, address, owner)

    def watch(self, fd: int, watched: Watched, read: bool, write: bool) -> None:
        before = self._watched.get(fd)
        self._watched[fd] = watched, read, write, trio.CancelScope()
        if before is None:
            self._nursery.start_soon(self._watch, fd, watched)
        else:
            before[3].cancel()

    async def _watch(self, fd: int, watched: Watched) -> None:
        async def each(wait: Callable[[int], Coroutine[Any, Any, None]], ready: Call) -> None:
            with suppress(trio.ClosedResourceError):
                while not scope.cancel_called:
                    await wait(fd)
                    self.call(ready)

        while fd in self._watched and self._watched[fd][0] is watched:
            _, read, write, scope = self._watched[fd]
            with scope:
                async with trio.open_nursery() as both:
                    both.start_soon(trio.sleep_forever)
                    if read:
                        both.start_soon(each, trio.lowlevel.wait_readable, watched.on_readable)
                    if write:
                        both.start_soon(each, trio.lowlevel.wait_writable, watched.on_writable)

    def unwatch(self, fd: int) -> None:
        if fd in self._watched:
            self._watched.pop(fd)[3].cancel()
            trio.lowlevel.notify_closing(fd)

    def unwatch_forked(self, fd: int) -> None:
        self._watched.pop(fd, None)


async def _raise(error: BaseException) -> None:
    raise error
