"""Tasks and their promises: a generator or coroutine that continuations drive, on any reactor.

A task goes on from promise to promise and is never interrupted between two of them. Work that a task yields is kept on
a list, not on the interpreter's stack. The same holds for tasks that wait for one another. A promise that is settled
already is answered in a loop. So depth and length cost memory alone.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable
from contextvars import copy_context
from functools import partial
from threading import local
from typing import Any, Generic, TypeVar, cast

from ..client.continuations import check_callable
from ..client.hooks import are_installed
from ..errors import InvalidArgumentType, LocalError
from ..interrupts import repeatable
from ..reactor import Reactor
from .promises import Block, Claims, GiveBack, ResolvedPromises, Settle

T = TypeVar("T")
Work = Generator[Any, Any, T] | Coroutine[Any, Any, T]

_PENDING, _FULFILLED, _REJECTED, _CANCELLED = range(4)
_GONE = "the promise was cancelled before it was settled"
_CUT_OFF = "a signal handler's exception hid how the task ended"
_IGNORED = object()  # the value of a pending promise whose error will not be reported


class Cancelled(Exception):
    """Raised at the yield of a task that was cancelled, and in a task that waits for a cancelled promise."""


class _Rejection:
    """The error of a rejected promise. If nobody has asked for the error when this object goes, the reactor raises it:
    nothing else would show it. A promise has no `__del__` of its own, because every promise would pay for that."""

    __slots__ = ("_error", "_reactor", "asked_for")

    def __init__(self, error: BaseException, reactor: Reactor, ignored: bool):
        self._error = error
        self._reactor = reactor
        self.asked_for = ignored or isinstance(error, Cancelled)  # a cancel is as the program wanted

    def ask(self) -> BaseException:
        self.asked_for = True
        return self._error

    def __del__(self) -> None:
        if not getattr(self, "asked_for", True):  # it lacks this where an exception came while it was being made
            error = self._error

            def out_of_the_reactor() -> None:
                raise error

            self._reactor.call_soon_threadsafe(out_of_the_reactor)


class Promise(Block[T], Generic[T]):
    """The promise of an operation's result. In a task: `yield` or `await` it. Elsewhere: `then`."""

    __slots__ = ("_give_back", "_state", "_value", "_waiting", "reactor")

    def __init__(self, reactor: Reactor, give_back: GiveBack | None = None):
        self.reactor = reactor
        self._give_back = None if give_back is None else Claims(give_back)
        self._state = _PENDING
        self._value: Any = None  # the result, or a _Rejection; while it is pending, perhaps _IGNORED
        self._waiting: Any = None  # a call, or a list of calls: mostly there is one

    def __repr__(self) -> str:
        said = {_PENDING: "pending", _CANCELLED: "cancelled"}.get(self._state)
        if self._state == _FULFILLED:
            said = f"fulfilled: {self._value!r}"
        elif self._state == _REJECTED:
            said = f"rejected: {self._value._error!r}"
        return f"<{type(self).__name__}, {said}>"

    @property
    def done(self) -> bool:
        """Whether it is fulfilled, rejected or cancelled."""
        return self._state != _PENDING

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled before it was settled."""
        return self._state == _CANCELLED

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the result any more: an operation that was not sent yet is withdrawn."""
        return self._state == _CANCELLED

    def result(self) -> T:
        """The result; an error is raised. LocalError: the promise isn't settled yet."""
        if self._state == _FULFILLED:
            result: T = self._value
            return result
        if self._state == _PENDING:
            raise LocalError("the promise isn't settled yet")
        raise self._error()

    def _error(self) -> BaseException:
        """The error of a promise that is rejected or cancelled."""
        return cast("BaseException", self._value.ask()) if self._state == _REJECTED else Cancelled(_GONE)

    def then(self, on_done: Callable[[BaseException | None, Any], object]) -> None:
        """Calls on_done(err, result) when the promise is settled; in the next turn if it is settled already."""
        check_callable("on_done", on_done)
        self.tell(lambda promise: on_done(*outcome(promise)))

    def when_settled(self, call: Callable[[], object]) -> None:
        """Has call() called when the promise is settled or cancelled; in the next turn if it is so already."""
        self.tell(_Bare(call))

    def tell(self, call: Told) -> None:
        """Has call(promise) called when the promise is settled or cancelled; in the next turn if it is so already."""
        waiting = self._waiting
        if self._state != _PENDING:
            self.reactor.call_soon(partial(call, self))
        elif waiting is None:
            self._waiting = call
        elif waiting.__class__ is list:
            waiting.append(call)
        else:
            self._waiting = [waiting, call]

    def cancel(self) -> None:
        """Cancels the promise: all that wait for it get Cancelled, and a result that still comes is given back."""
        if self._state == _PENDING:
            self._finish(_CANCELLED, None)

    @repeatable
    def settle(self, err: BaseException | None, result: T | None) -> None:
        """Fulfils the promise with a result, or rejects it with an error. The result for a promise that was cancelled
        is given back."""
        if self._state == _PENDING:
            if err is not None:
                self._finish(_REJECTED, _Rejection(err, self.reactor, self._value is _IGNORED))
                return
            # As `_finish` does: each confirm comes this way.
            self._state = _FULFILLED
            self._value = result
            waiting = self._waiting
            if waiting is not None:
                self._waiting = None
                if waiting.__class__ is list:
                    self._call(waiting)
                else:
                    waiting(self)
        elif self._state == _CANCELLED and err is None and self._give_back is not None:
            self._give_back(result)

    def _finish(self, state: int, value: Any) -> None:
        self._state, self._value = state, value
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._call(waiting if waiting.__class__ is list else [waiting])

    @repeatable
    def _call(self, waiting: list[Told]) -> None:
        """Makes the calls, and removes them from the list."""
        try:
            while True:  # see `interrupts`
                if not waiting:
                    break
                call = waiting[0]
                del waiting[0]
                call(self)
        finally:
            left, waiting[:] = waiting[:], []
            for call in left:  # one that raises must not keep the others from being called
                self.reactor.call_soon(partial(call, self))

    def leave(self, call: Told | Callable[[], object]) -> None:
        """Takes back tell(call) or when_settled(call). If no other call waits, the promise is cancelled. Where it is
        settled, nothing happens."""
        waiting = self._waiting
        if waiting is None:
            return
        left = waiting if waiting.__class__ is list else [waiting]
        left.remove(call)
        if not left:
            self._waiting = None
            self.cancel()

    def claim(self) -> None:
        """A task begins to wait for the result. It takes the result, or calls `discard`."""
        if self._give_back is not None:
            self._give_back.claim()

    def discard(self) -> None:
        """A task that waited was cancelled, and will not see the result or error. The result is given back, if no other
        task waits for it or has it."""
        if self._give_back is not None and self._give_back.drop() and self._state == _FULFILLED:
            self._give_back(self._value)
        if self._state == _REJECTED:
            self._value.ask()

    def ignore_error(self) -> None:
        """If nobody asks for the promise, its error is not reported."""
        if self._state == _PENDING:
            self._value = _IGNORED
        elif self._state == _REJECTED:
            self._value.ask()

    def __await__(self) -> Generator[Promise[T], Any, T]:
        if self._state == _PENDING:
            yield self
        if self._state == _FULFILLED:  # as `result` does, without its call
            result: T = self._value
            return result
        return self.result()

    __iter__ = __await__


class _Fulfilled(Promise[T]):
    """The promise of a result that is known already. Each publish without confirms is awaited by one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Promise, fulfilled: {self._value!r}>"

    def __await__(self) -> Generator[Promise[T], Any, T]:
        result: T = self._value
        return result
        yield self  # type: ignore[unreachable, unused-ignore]  # makes it a generator

    __iter__ = __await__


Told = Callable[[Promise[Any]], object]
"""call(promise), when the promise is settled or cancelled."""


class _Bare:
    """A call without the promise. It equals that call, so that `leave` finds it."""

    __slots__ = ("_call",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, call: Callable[[], object]):
        self._call = call

    def __call__(self, _: Promise[Any]) -> object:
        return self._call()

    def __eq__(self, other: object) -> bool:
        return self is other or self._call == other


class Together(Promise[list[Any]]):
    """The promise of the results of several promises, see `tasks.gather`."""

    __slots__ = ("_left", "_promises")

    def __init__(self, reactor: Reactor, promises: list[Promise[Any]]):
        # Results that must not get lost, as of `basic_get`: they are given back if this promise is cancelled, or the
        # task that waits for it.
        precious = [promise for promise in promises if promise._give_back is not None]
        super().__init__(reactor, partial(_discard, precious) if precious else None)
        self._promises = promises
        self._left = set(promises)  # those that are not fulfilled yet
        told = self._told
        for promise in promises:
            promise.claim()
            promise.tell(told)
        self.when_settled(self._let_go)
        if not promises:
            self.settle(None, [])

    @repeatable
    def _told(self, promise: Promise[Any]) -> None:
        """A promise of these is settled."""
        if promise._state != _FULFILLED:
            self.settle(promise._error(), None)
            return
        self._left.discard(promise)
        if not self._left:
            self.settle(None, [each._value for each in self._promises])

    def _let_go(self) -> None:
        """This promise is settled. If it was cancelled, the others are cancelled too."""
        promises, self._promises = self._promises, []
        if self._state == _CANCELLED:
            for promise in promises:
                promise.cancel()
            _discard(promises)
        elif self._state == _REJECTED:
            self._give_back = None  # it holds promises, whose results stay with them


def _discard(promises: Iterable[Promise[Any]], _: object = None) -> None:
    for promise in promises:
        promise.discard()


_of_thread = local()


class _Turn:
    """A task's turn to go on, when the promise that it waits for (`wanted`) is settled. A turn does nothing if
    the task no longer waits for that promise.

    A turn drops its reference to the task when it is called. The callers' frames are in the traceback of an error that
    the task ends with. A reference there would keep the task alive, and its error is reported only when it goes.
    """

    __slots__ = ("_now", "_task", "_wanted")

    def __init__(self, task: Task[Any], wanted: Promise[Any] | None):
        self._task: Task[Any] | None = task
        self._wanted = wanted
        self._now = wanted is None  # it comes from the reactor itself

    @repeatable
    def __call__(self, _: object = None) -> None:
        task, outer = self._task, getattr(_of_thread, "task", None)
        if task is None or not task.waits_for(self._wanted):
            return
        if not self._now and (outer is not None or task.cancelling):
            # Called by another task, which has ended: tasks that wait for one another run in turn, not one inside the
            # other. Or called by `cancel`: its caller goes on first.
            self._now = True
            task.reactor.call_soon(self)
            return
        self._task = self._wanted = None
        _of_thread.task = task
        try:
            task.go_on()
        except BaseException:
            if not task.done:
                task.reactor.call_soon(task.cancel)  # of a signal handler: nobody knows where the task stands
            raise
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
        self.cancelling = False  # cancelled, and Cancelled was not raised in it yet
        reactor.call_soon(_Turn(self, None))

    def cancel(self) -> None:
        """Cancels the promise that the task waits for, and in the next turn raises Cancelled there. The task may clean
        up, and even go on."""
        if not self.done and not self.cancelling:
            self.cancelling = True
            # A signal handler's exception may have cost the task the turn that it had.
            self.reactor.call_soon(_Turn(self, self._wanted))
            if self._wanted is not None:
                self._wanted.cancel()

    def waits_for(self, wanted: Promise[Any] | None) -> bool:
        """Whether the task waits for this promise. None: for no promise, since it has not begun."""
        return self._wanted is wanted and self._state == _PENDING

    def go_on(self) -> None:
        """Runs the task from the promise that is settled to one that isn't."""
        wanted, self._wanted = self._wanted, None
        error, value = outcome(wanted) if wanted is not None else (None, None)
        if self.cancelling and wanted is not None:
            wanted.discard()  # it was settled between the cancel and this turn
        while True:
            if not self._stack:
                self._end(Cancelled(_CUT_OFF), None)
                return
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
                self.ignore_error()  # it leaves the reactor now, and must not be reported too
                self._end(ends_the_program, None)
                raise
            else:
                if isinstance(asked, Promise) and not asked.done and not self.cancelling:
                    self._wanted = asked
                    asked.claim()
                    asked.tell(_Turn(self, asked))
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
        """Deals with a yielded object that need not be waited for; (error, result) for the task."""
        if isinstance(asked, Promise):
            if asked.done:
                return outcome(asked)
            asked.cancel()  # the task was cancelled, by itself, and will not wait
        elif is_work(asked):
            self._stack.append(asked)
        else:
            told = "a task yields promises, generators and coroutines"
            return InvalidArgumentType(f"{told}, not {type(asked).__name__}"), None
        return None, None

    def _end(self, error: BaseException | None, result: Any) -> None:
        if isinstance(error, Cancelled):
            self._finish(_CANCELLED, None)  # as the program wanted: no error to report
        else:
            self.settle(error, result)


class ContextTask(Task[T]):
    """A task with a context of its own (`contextvars`), as it was at the spawn. So a span that one task has open is not
    another's."""

    __slots__ = ("_context",)

    def __init__(self, reactor: Reactor, work: Work[T]):
        super().__init__(reactor, work)
        self._context = copy_context()

    def go_on(self) -> None:
        run, held = self._context.run, [self]
        del self  # as in _Turn
        run(_go_on, held)


def _go_on(held: list[Any]) -> None:
    Task.go_on(held.pop())


def start(reactor: Reactor, work: Work[T]) -> Task[T]:
    """Starts a task. While there are hooks, it has a context of its own."""
    return ContextTask(reactor, work) if are_installed() else Task(reactor, work)


def outcome(promise: Promise[Any]) -> tuple[BaseException | None, Any]:
    """(error, result) of a promise that is settled."""
    if promise._state == _FULFILLED:
        return None, promise._value
    return promise._error(), None


def is_work(value: Any) -> bool:
    """Whether it is a generator or a coroutine, or can be driven like one. Another awaitable is not enough: asyncio's
    future yields an object that only its own loop understands."""
    return hasattr(value, "send") and hasattr(value, "throw")


class Promises:
    """The promises of tasks on one reactor (see `promises.Promises`).

    Another loop passes a `kind` of Promise whose `__await__` waits in that loop, and spawn(coroutine), which runs the
    coroutine of a callback there.
    """

    def __init__(
        self,
        reactor: Reactor,
        kind: type[Promise[Any]] = Promise,
        spawn: Callable[[Any], object] | None = None,
    ):
        self.reactor = reactor
        self._kind = kind
        self.fulfilled = ResolvedPromises(self._fulfil).__getitem__
        self.sent = self.fulfilled(True)
        self.spawn = spawn or partial(start, reactor)

    def make(self, give_back: GiveBack | None = None) -> tuple[Promise[Any], Settle]:
        promise = self._kind(self.reactor, give_back)
        return promise, promise.settle

    def _fulfil(self, result: Any) -> Promise[Any]:
        promise = _Fulfilled[Any](self.reactor)
        promise.settle(None, result)
        return promise

    def ignore_error(self, promise: Promise[Any]) -> None:
        promise.ignore_error()


def running() -> Task[Any] | None:
    """The task that is running in the calling thread."""
    task: Task[Any] | None = getattr(_of_thread, "task", None)
    return task
