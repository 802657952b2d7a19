"""Tasks: generators and coroutines driven by continuations, on any reactor, without asyncio.

    def main():                                          async def main():
        conn = yield tasks.connect("embedded://")            conn = await tasks.connect("embedded://")
        ch = yield conn.channel()                            ch = await conn.channel()
        ok = yield ch.queue_declare("q")                     ok = await ch.queue_declare("q")
        yield conn.close()                                   await conn.close()

    tasks.run(main())

A task asks for something by yielding (or awaiting) a promise, and is resumed with its result, or with its error raised
there. It may yield another generator or coroutine, which runs as a part of it. What is yielded so is kept on a list,
not on the interpreter's stack, as are tasks that wait for one another, and what is settled already is handed back in a
loop: depth and length cost memory alone. (A coroutine that another awaits, the interpreter nests itself, as it does
calls: a thousand deep. Deeper, `await tasks.spawn(...)`.) A task runs from promise to promise and is never interrupted
between; each is bound to one reactor.

An error that nobody asked for leaves the reactor as an exception, when its promise goes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from threading import local
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from .client.connection import Connection
from .client.continuations import check_callable
from .connecting import Target, all_targets, thread_reactor
from .errors import AMQPError, InvalidArgumentType, LocalError
from .parameters import ConnectionOptions
from .reactor import Reactor
from .styles.promises import (
    Block,
    GiveBack,
    PromisingChannel,
    PromisingConnection,
    ResolvedPromises,
    Settle,
    close_abandoned,
    promised_connection,
)
from .styles.task_operations import ChannelOperations, ConnectionOperations

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")
Work = Generator[Any, Any, T] | Coroutine[Any, Any, T]
OnTaskClose = Callable[["TaskConnection", AMQPError | None], object]

_PENDING, _FULFILLED, _REJECTED, _CANCELLED = range(4)
_GONE = "it was cancelled before anything came of it"


class Cancelled(Exception):
    """Raised at the yield of a task that was cancelled, and by whoever waits for it."""


class Promise(Block[T], Generic[T]):
    """What an operation will come to. In a task: `yield` or `await` it. Elsewhere: `then`."""

    __slots__ = ("_asked_for", "_give_back", "_state", "_value", "_waiting", "reactor")

    def __init__(self, reactor: Reactor, give_back: GiveBack | None = None):
        self.reactor = reactor
        self._give_back = give_back
        self._state = _PENDING
        self._value: Any = None
        self._waiting: list[Callable[[], object]] | None = None
        self._asked_for = False

    def __repr__(self) -> str:
        said = ("pending", f"kept: {self._value!r}", f"broken: {self._value!r}", "given up")[self._state]
        return f"<{type(self).__name__}, {said}>"

    @property
    def done(self) -> bool:
        return self._state != _PENDING

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled before anything came of it."""
        return self._state == _CANCELLED

    def result(self) -> T:
        """What came of it; its error is raised. LocalError: nothing yet."""
        self._asked_for = True
        if self._state == _FULFILLED:
            return cast("T", self._value)
        if self._state == _REJECTED:
            raise self._value
        if self._state == _PENDING:
            raise LocalError("the promise isn't settled yet")
        raise Cancelled(_GONE)

    def then(self, on_done: Callable[[BaseException | None, Any], object]) -> None:
        """Calls on_done(err, result), as a continuation; in the next turn, where it is settled already."""
        check_callable("on_done", on_done)
        self._asked_for = True

        def tell() -> None:
            if self._state == _FULFILLED:
                on_done(None, self._value)
            else:
                on_done(self._value or Cancelled(_GONE), None)

        if self.done:
            self.reactor.call_soon(tell)
        else:
            self.when_settled(tell)

    def when_settled(self, call: Callable[[], object]) -> None:
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(call)

    def cancel(self) -> None:
        """Gives it up: whoever waits gets Cancelled, and what still comes of it is given back."""
        if self._state == _PENDING:
            self._finish(_CANCELLED, None)

    def settle(self, err: BaseException | None, result: T | None) -> None:
        if self._state == _PENDING:
            self._finish(_FULFILLED if err is None else _REJECTED, result if err is None else err)
        elif self._state == _CANCELLED and err is None and self._give_back is not None:
            self._give_back(result)

    def _finish(self, state: int, value: Any) -> None:
        self._state, self._value = state, value
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._call(waiting)

    def _call(self, waiting: list[Callable[[], object]]) -> None:
        done = 0
        try:
            for call in waiting:
                done += 1
                call()
        finally:
            for call in waiting[done:]:  # one that raises does not keep the others from hearing of it
                self.reactor.call_soon(call)

    def leave(self, call: Callable[[], object]) -> None:
        """Who waited by when_settled(call) waits no longer. If nobody else does, the promise is given up."""
        if self._waiting is not None:
            self._waiting.remove(call)
            if not self._waiting:
                self.cancel()

    def discard(self) -> None:
        """Who asked for it was cancelled, and will not see what came of it."""
        if self._state == _FULFILLED and self._give_back is not None:
            self._give_back(self._value)

    def ignore_error(self) -> None:
        """If nobody asks for it, its error is no news."""
        self._asked_for = True

    def __await__(self) -> Generator[Promise[T], Any, T]:
        if self._state == _PENDING:
            yield self
        return self.result()

    __iter__ = __await__

    def __del__(self) -> None:
        if self._state == _REJECTED and not self._asked_for and not isinstance(self._value, Cancelled):
            error = self._value

            def out_of_the_reactor() -> None:
                raise error

            self.reactor.call_soon_threadsafe(out_of_the_reactor)


_of_thread = local()


class _Turn:
    """A task's turn to go on, when what it waits for is settled. It lets go of the task when it takes place: those who
    call it are in the traceback of an error that the task ends with, and must not keep alive, and so untold, what
    nobody asks for."""

    __slots__ = ("_now", "_task")

    def __init__(self, task: Task[Any], now: bool):
        self._task: Task[Any] | None = task
        self._now = now

    def __call__(self) -> None:
        task, outer = self._task, getattr(_of_thread, "task", None)
        if task is None:
            return
        if not self._now and (outer is not None or task.cancelling):
            # By another task, which ended: tasks that wait for one another run in turn, not one inside the other. Or
            # by `cancel`, whose caller goes on first.
            self._now = True
            task.reactor.call_soon(self)
            return
        self._task = None
        _of_thread.task = task
        try:
            task.go_on()
        finally:
            _of_thread.task = outer
            task = None


class Task(Promise[T]):
    """A generator or coroutine under way; itself a promise of what it returns. `spawn` makes them."""

    __slots__ = ("_stack", "_wanted", "cancelling")

    def __init__(self, reactor: Reactor, work: Work[T]):
        super().__init__(reactor)
        self._stack: list[Any] = [work]  # the innermost last
        self._wanted: Promise[Any] | None = None
        self.cancelling = False  # and wasn't told yet
        reactor.call_soon(_Turn(self, now=True))

    def cancel(self) -> None:
        """Gives up what the task waits for, and in the next turn raises Cancelled there. It may clean up, and even go
        on."""
        if not self.done and not self.cancelling:
            self.cancelling = True
            if self._wanted is not None:
                self._wanted.cancel()

    def go_on(self) -> None:
        """From the promise that is settled to one that isn't."""
        wanted, self._wanted = self._wanted, None
        error, value = _outcome(wanted) if wanted is not None else (None, None)
        if self.cancelling and wanted is not None:
            wanted.discard()  # what came of it between the settling and this turn
        while True:
            if self.cancelling:
                self.cancelling, error = False, Cancelled("the task was cancelled")
            here = self._stack[-1]
            try:
                asked = here.send(value) if error is None else here.throw(error)
            except StopIteration as returned:
                error, value = None, returned.value
            except Exception as raised:
                error, value = raised, None
            except BaseException as ends_the_program:
                self._stack.clear()
                self._end(ends_the_program, None)
                raise
            else:
                if isinstance(asked, Promise) and not asked.done and not self.cancelling:
                    self._wanted = asked
                    asked.when_settled(_Turn(self, now=False))
                    return
                error, value = self._resolve(asked)
                continue
            self._stack.pop()
            if not self._stack:
                self._end(error, value)
                error = value = None
                del self  # as in _Turn
                return

    def _resolve(self, asked: Any) -> tuple[BaseException | None, Any]:
        """What was yielded, and need not be waited for."""
        if isinstance(asked, Promise):
            if asked.done:
                return _outcome(asked)
            asked.cancel()  # the task was cancelled, by itself, and will not wait
        elif _is_work(asked):
            self._stack.append(asked)
        else:
            told = "a task yields promises, generators and coroutines"
            return InvalidArgumentType(f"{told}, not {type(asked).__name__}"), None
        return None, None

    def _end(self, error: BaseException | None, result: Any) -> None:
        if isinstance(error, Cancelled):
            self._finish(_CANCELLED, None)  # as was wanted: no error, should nobody ask
        else:
            self.settle(error, result)


def _outcome(promise: Promise[Any]) -> tuple[BaseException | None, Any]:
    promise.ignore_error()
    if promise._state == _FULFILLED:
        return None, promise._value
    return promise._value or Cancelled(_GONE), None


def _is_work(value: Any) -> bool:
    """Whether it is a generator or a coroutine, or what can be driven like one; not any awaitable, such as asyncio's
    future, which yields what only its own loop understands."""
    return hasattr(value, "send") and hasattr(value, "throw")


class Promises:
    """Tasks' promises, of one reactor (see `promises.Promises`). Other loops' promises may be of a `kind` of their own,
    whose `__await__` waits there, and callbacks' coroutines run as that loop's do: `spawn(coroutine)`."""

    def __init__(
        self,
        reactor: Reactor,
        kind: type[Promise[Any]] = Promise,
        spawn: Callable[[Any], object] | None = None,
    ):
        self.reactor = reactor
        self.fulfilled = ResolvedPromises(self._fulfil).__getitem__
        self._kind = kind
        self.spawn = spawn or partial(Task, reactor)

    def make(self, give_back: GiveBack | None = None) -> tuple[Promise[Any], Settle]:
        promise = self._kind(self.reactor, give_back)
        return promise, promise.settle

    def _fulfil(self, result: Any) -> Promise[Any]:
        promise, settle = self.make()
        settle(None, result)
        return promise

    def ignore_error(self, promise: Promise[Any]) -> None:
        promise.ignore_error()


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
    **options: Unpack[ConnectionOptions],
) -> Promise[TaskConnection]:
    """A promise of a connection; target and options as of `cpspika.connect`. reactor: by default the one of the task
    that calls, else the calling thread's own."""
    promises = Promises(reactor or current_reactor())

    def facade(core: Connection) -> TaskConnection:
        return TaskConnection(promises, core)

    promise: Promise[TaskConnection]
    promise, core = promised_connection(promises, facade, promises.reactor, all_targets(target, options), on_close)
    promise.when_settled(lambda: close_abandoned(core) if promise.cancelled else None)
    return promise


def current_reactor() -> Reactor:
    """The reactor of the task that is running, else the calling thread's own."""
    task: Task[Any] | None = getattr(_of_thread, "task", None)
    return task.reactor if task is not None else thread_reactor()


def spawn(work: Work[T], reactor: Reactor | None = None) -> Task[T]:
    """Starts a task, which runs beside the others from the reactor's next turn on. reactor: as of `connect`."""
    if not _is_work(work):
        raise InvalidArgumentType(f"a task is made of a generator or a coroutine, not of {type(work).__name__}")
    return Task(reactor or current_reactor(), work)


def run(work: Work[T], reactor: Reactor | None = None) -> T:
    """Runs a task to its end, turning the reactor; returns what it returns, or raises what it raises. Other tasks run
    meanwhile."""
    on = reactor or current_reactor()
    task = spawn(work, on)
    release = on.hold()
    try:
        while not task.done:
            on.run_once()
    except BaseException:
        # Another callback's, or ^C. The task is told, and may yet close what it has open.
        task.cancel()
        while not task.done:
            on.run_once()
        raise
    finally:
        release()
    on.run_once(0)  # what the task wrote last, or closed, is still in the reactor's hands
    return task.result()


def sleep(seconds: float) -> Promise[None]:
    """A promise that is kept after so many seconds."""
    reactor = current_reactor()
    promise: Promise[None] = Promise(reactor)
    timer = reactor.call_later(seconds, lambda: promise.settle(None, None))
    promise.when_settled(timer.cancel)
    return promise


def gather(*works: Promise[Any] | Work[Any] | Awaitable[Any]) -> Promise[list[Any]]:
    """A promise of the results of all, in order; it is broken with the first error, and then the others go on. To
    cancel it is to cancel them all."""
    reactor = current_reactor()
    together: Promise[list[Any]] = Promise(reactor)
    promises = [work if isinstance(work, Promise) else spawn(cast("Work[Any]", work), reactor) for work in works]
    results: list[Any] = [None] * len(promises)
    left = len(promises)

    def settled(index: int, err: BaseException | None, result: Any) -> None:
        nonlocal left
        results[index] = result
        left -= 1
        if err is not None:
            together.settle(err, None)
        elif not left:
            together.settle(None, results)

    for index, promise in enumerate(promises):
        promise.then(lambda err, result, index=index: settled(index, err, result))  # type: ignore[misc]

    def cancelled() -> None:
        for promise in promises if together.cancelled else ():
            promise.cancel()

    together.when_settled(cancelled)
    if not promises:
        together.settle(None, [])
    return together


__all__ = [
    "Cancelled",
    "Promise",
    "Task",
    "TaskChannel",
    "TaskConnection",
    "connect",
    "current_reactor",
    "gather",
    "run",
    "sleep",
    "spawn",
]
