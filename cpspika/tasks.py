"""Tasks: generators and coroutines driven by continuations, on any reactor, without asyncio.

    def main():                                          async def main():
        conn = yield tasks.connect("embedded://")            conn = await tasks.connect("embedded://")
        ch = yield conn.channel()                            ch = await conn.channel()
        ok = yield ch.queue_declare("q")                     ok = await ch.queue_declare("q")
        yield conn.close()                                   await conn.close()

    tasks.run(main())

A task asks for something by yielding (or awaiting) a promise. It is resumed with the result, or the error is raised at
the yield. A task may yield another generator or coroutine, which runs as a part of it. Depth and length cost memory
alone (see `styles.tasks`), with one exception: coroutines that await one another are nested by the interpreter, which
allows about a thousand. For more, `await tasks.spawn(...)`.

A task runs from promise to promise and is never interrupted between two of them. Each task is bound to one reactor.

If nobody asks for a promise that is rejected, its error leaves the reactor as an exception when the promise goes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from .client.connection import Connection
from .connecting import Target, all_targets, thread_reactor
from .errors import AMQPError, InvalidArgumentType
from .parameters import ConnectionOptions
from .reactor import Reactor
from .recovery import Recovering
from .styles.promises import PromisingChannel, PromisingConnection, close_abandoned, promised_connection
from .styles.task_operations import ChannelOperations, ConnectionOperations
from .styles.tasks import Cancelled, Promise, Promises, T, Task, Together, Work, is_work, running, start

if TYPE_CHECKING:
    from typing_extensions import Unpack

OnTaskClose = Callable[["TaskConnection", AMQPError | None], object]


class TaskChannel(PromisingChannel, ChannelOperations):
    """A channel whose operations return promises for tasks. `core`: the Channel below."""


class TaskConnection(PromisingConnection, ConnectionOperations):
    """A connection whose operations return promises for tasks. `core`: the Connection below."""

    channels = TaskChannel


def connect(
    target: Target,
    *,
    reactor: Reactor | None = None,
    on_close: OnTaskClose | None = None,
    recovery: Recovering = None,
    **options: Unpack[ConnectionOptions],
) -> Promise[TaskConnection]:
    """Returns a promise of a connection.

    target, options, on_close, recovery: as in `cpspika.connect`. reactor: by default that of the calling task, else the
    calling thread's own.
    """
    promises = Promises(reactor or current_reactor())

    def facade(core: Connection) -> TaskConnection:
        return TaskConnection(promises, core)

    promise: Promise[TaskConnection]
    promise, core = promised_connection(
        promises, facade, promises.reactor, all_targets(target, options), on_close, recovery
    )
    promise.when_settled(lambda: close_abandoned(core) if promise.cancelled else None)
    return promise


def current_reactor() -> Reactor:
    """The reactor of the task that is running, else the calling thread's own."""
    task = running()
    return task.reactor if task is not None else thread_reactor()


def spawn(work: Work[T], reactor: Reactor | None = None) -> Task[T]:
    """Starts a task, which runs beside the others from the reactor's next turn on. reactor: as in `connect`."""
    if not is_work(work):
        raise InvalidArgumentType(f"a task is made of a generator or a coroutine, not of {type(work).__name__}")
    return start(reactor or current_reactor(), work)


def run(work: Work[T], reactor: Reactor | None = None) -> T:
    """Runs the reactor until a task ends; returns the task's result, or raises its error. Other tasks run meanwhile."""
    on = reactor or current_reactor()
    task = spawn(work, on)
    release = on.hold()
    try:
        _run_to_end(task, on)
    except BaseException:
        # The exception is another callback's, or of Ctrl-C. The task gets Cancelled, and may close what it has open.
        task.cancel()
        _run_to_end(task, on)
        raise
    finally:
        release()
    on.run_once(0)  # the reactor still holds the last bytes that the task wrote
    return task.result()


def _run_to_end(task: Task[Any], reactor: Reactor) -> None:
    while not task.done:
        reactor.run_once()


def sleep(seconds: float) -> Promise[None]:
    """Returns a promise that is fulfilled after so many seconds."""
    reactor = current_reactor()
    promise: Promise[None] = Promise(reactor)
    timer = reactor.call_later(seconds, lambda: promise.settle(None, None))
    promise.when_settled(timer.cancel)
    return promise


def gather(*works: Promise[Any] | Work[Any] | Awaitable[Any]) -> Promise[list[Any]]:
    """Returns a promise of the results of all, in order. The first error rejects it, and the others go on.

    The results of the others stay with their own promises, so keep those of `basic_get`. To cancel the promise is to
    cancel them all; messages that have come already are given back."""
    reactor = current_reactor()
    promises = [work if isinstance(work, Promise) else spawn(cast("Work[Any]", work), reactor) for work in works]
    return Together(reactor, promises)


__all__ = [
    "Cancelled",
    "Promise",
    "Promises",
    "Task",
    "TaskChannel",
    "TaskConnection",
    "Work",
    "connect",
    "current_reactor",
    "gather",
    "run",
    "sleep",
    "spawn",
]
