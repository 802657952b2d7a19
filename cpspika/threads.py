"""One connection for many threads: the synchronous facade's calls, from any thread at any time.

    with ThreadedConnection("amqp://") as connection:
        channel = connection.channel()
        channel.basic_consume("work", on_message)     # runs on the connection's workers
        connection.join()                             # until the connection has ended

*Threads.* The connection's reactor has a thread of its own, so heartbeats go on whatever the program does. A call asks
the core in the thread that makes it (see `adapters.shared_reactor`), so a mistake raises there. Then the call waits for
the answer, and holds no other thread up. Consumers and handlers run on a bounded number of `workers`.

*Calls that don't wait.* A publish on a channel without confirms, an ack, a nack and a reject are handed over: the call
returns, and the bytes go out with the reactor's next turn. The calls of one thread keep their order all the same. The
broker may find such a call wrong later (an unknown delivery tag closes the channel). That error goes to the channel's
state handler, else to `on_error`, else to `threading.excepthook`, as every error does that answers no call. A publish
waits while the channel isn't `writable`, and all of these calls wait while the buffer of unsent bytes is full. So
memory is bounded however fast the threads are.

*Order.* The messages of one consumer are handled one after another, as they came. Different consumers run beside each
other. To work on one queue in parallel, start several consumers on it, on one channel or more. Handlers of one channel,
or of the connection, keep their order too.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .adapters.shared_reactor import SharedReactor
from .client.channel import Channel
from .client.connection import HIGH_WATER, Connection, begin
from .client.continuations import call_site, check_callable, describe
from .connecting import Target, all_targets, new_reactor
from .errors import AMQPError, ConcurrentUse, ConnectionLost, OperationTimeout
from .parameters import ConnectionOptions, check_timeout
from .recovery import Recovering, new_connection
from .registry import Registry
from .styles import watched
from .styles.consumer import Consuming
from .styles.facade import ConnectionFacade, Facade, Scope, check_runs_at_once
from .styles.pipelined import Pipelined, Pipelining
from .styles.promises import close_abandoned, give_back_for
from .styles.thread_consumer import ThreadConsumer
from .styles.thread_operations import ChannelOperations, ConnectionOperations
from .styles.workers import Workers
from .wire.message import Message

if TYPE_CHECKING:
    from typing_extensions import Unpack

OnThreadedClose = Callable[["ThreadedConnection", "AMQPError | None"], object]


class _Answer:
    """The answer that a thread waits for. give_back(result): called with a result that comes when no thread waits.
    outward(result): the result as the program sees it. `abandoned`: no thread waits."""

    __slots__ = ("_lock", "_outward", "abandoned", "error", "give_back", "result", "settled")

    def __init__(self, give_back: Callable[[Any], object] | None = None, outward: Callable[[Any], Any] | None = None):
        self._outward = outward
        self.error: AMQPError | None = None
        self.result: Any = None
        self.settled = False
        self.give_back = give_back
        self.abandoned = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def settle(self, error: AMQPError | None, result: Any) -> None:
        """on_done, inside the reactor."""
        if error is None and self._outward is not None:
            result = self._outward(result)
        self.settled, self.error, self.result = True, error, result
        if not self.abandoned:
            self._lock.release()
        elif error is None and self.give_back is not None:
            self.give_back(result)

    def wait(self, timeout: float | None) -> bool:
        return self._lock.acquire(timeout=-1 if timeout is None else max(0.0, min(timeout, threading.TIMEOUT_MAX)))

    def cancel(self) -> None:
        """Inside the reactor: the thread waits no longer."""
        if not self.settled:
            self.abandoned = True
        elif self.error is None and self.give_back is not None:
            self.give_back(self.result)


class _Shared(Scope, Facade):
    """The part that a connection and its channels have in common."""

    _connection: ThreadedConnection

    def _forward(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return self._connection._reactor.inside(self._own(function), self.core, *args, **kwargs)

    def _register(self, registration: Callable[..., Any], handler: Any) -> Any:
        """The registrations of pika 0.5 call the handler at once: in this thread, and before any later call of it."""
        if not callable(handler):
            return registration(self.core, handler)  # raises the error
        check_runs_at_once(handler)
        me, registering, returned = threading.get_ident(), True, threading.Event()
        at_once: list[tuple[Any, ...]] = []

        def after_the_first(*args: Any) -> None:
            returned.wait()
            handler(*args)

        later = self._callback(after_the_first)

        def called_by_the_core(*args: Any) -> None:
            if registering and threading.get_ident() == me:
                at_once.append(tuple(map(self._connection._outward, args)))
            else:
                later(*args)

        inside = self._connection._reactor.inside
        try:
            remove = inside(registration, self.core, called_by_the_core)
            registering = False
            for args in at_once:
                handler(*args)
        finally:
            returned.set()
        return None if remove is None else partial(inside, remove)


class ThreadedConnection(_Shared, ConnectionFacade, ConnectionOperations):
    """A connection whose calls return their results, or raise their errors, in the thread that makes them.

    target, options, on_close, recovery: as in `cpspika.connect`. timeout: seconds that a call may take, None for no
    limit; a call that takes longer raises OperationTimeout. workers: at most so many threads run consumers and
    handlers. on_error(error): called with an exception of a callback, and with an error that answers no call; without
    it, these go to threading.excepthook. `core`: the Connection below. `timeout`, `on_error`: may be changed.
    """

    def __init__(
        self,
        target: Target = "amqp://",
        *,
        timeout: float | None = None,
        workers: int = 8,
        on_close: OnThreadedClose | None = None,
        on_error: Callable[[BaseException], object] | None = None,
        recovery: Recovering = None,
        **options: Unpack[ConnectionOptions],
    ):
        targets = all_targets(target, options)
        check_callable("on_close", on_close)
        check_callable("on_error", on_error)
        check_runs_at_once(on_error)
        check_timeout("timeout", timeout)
        self._connection = self
        self.timeout = timeout
        self.on_error = on_error
        self._answers: set[_Answer] = set()
        self._workers = Workers(workers, "cpspika worker", self._report)
        self._reactor = reactor = new_reactor(SharedReactor)
        reactor.on_error = self._report
        closed = self._callback(on_close) if on_close is not None else None
        self.core: Connection = new_connection(reactor, closed, recovery)
        _connections.add(self)
        self._thread = threading.Thread(target=self._turn, name="cpspika reactor", daemon=True)

        def dial(on_done: Any) -> None:
            begin(self.core, targets, on_done)
            self._thread.start()

        try:
            self._wait("connect", dial)
        except BaseException:
            self._reactor.inside(close_abandoned, self.core)
            raise

    # --- the thread that turns the reactor ----------------------------------------------------------------------------

    def _turn(self) -> None:
        """Runs the reactor until the connection has ended: then nothing is left to wait for."""
        try:
            self._reactor.run()
        except BaseException as fault:
            self._reactor.inside(self._bury, fault)
        finally:
            self._reactor.close()
            self._workers.finish()

    def _bury(self, fault: BaseException) -> None:
        """The reactor's thread dies: every call that waits gets an error, and no later call waits."""
        died = ConnectionLost(f"the thread of the connection's reactor died of {fault!r}")
        died.__cause__ = fault
        try:
            self.core._abort()
            self.core._end(died)
            self._reactor.run_ready()
        finally:
            for answer in self._answers.copy():  # other threads change it
                if not answer.settled:
                    answer.settle(died, None)
            self._report(died)

    def _report(self, error: BaseException) -> None:
        """Reports an exception of a callback, or an error that answers no call."""
        on_error = self.on_error
        if on_error is None:
            _hook(error)
        else:
            tell = on_error
            self._workers.put(self, lambda: _tell(tell, error))

    def join(self, timeout: float | None = None) -> bool:
        """Waits until the connection and its threads have ended. False: that took longer than `timeout` seconds.

        Errors: the error that ended the connection; none if the program closed it.
        """
        self._check_may_wait("join")
        check_timeout("timeout", timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        self._thread.join(timeout)
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if self._thread.is_alive() or not self._workers.join(left):
            return False
        if self.core.close_reason is not None:
            raise self.core.close_reason._fresh()
        return True

    # --- asking -------------------------------------------------------------------------------------------------------

    def _wait(
        self,
        name: str,
        start: Callable[[Any], object],
        give_back: Callable[[Any], object] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Calls start(on_done) inside the reactor, and waits until on_done is called; returns the result or raises the
        error. give_back(result): called with a result that comes after the time. `name`: the operation's name in an
        error. timeout: seconds; by default those of the connection."""
        self._check_may_wait(name)
        return self._ask(self._reactor.inside, start, give_back, name, self.timeout if timeout is None else timeout)

    def _ask(
        self,
        inside: Callable[..., Any],
        start: Callable[[Any], object],
        give_back: Callable[[Any], object] | None,
        name: str = "",
        limit: float | None = None,
    ) -> Any:
        """The same; `inside` makes a call inside the reactor. limit: seconds; None for none, and then no name is
        needed."""
        answer = _Answer(give_back, self._outward)
        try:
            try:
                inside(self._start, start, answer)
                if not answer.wait(limit):
                    late = OperationTimeout(f"no answer within {limit:g} s")
                    raise late.of(name, describe(call_site()))
            finally:
                self._answers.discard(answer)
            if answer.error is None:
                return answer.result  # no call follows, behind which a signal handler might raise
        except BaseException:
            self._reactor.inside(answer.cancel)
            raise
        raise answer.error

    def _start(self, start: Callable[[Any], object], answer: _Answer) -> None:
        self._answers.add(answer)
        start(answer.settle)
        if self._reactor.over:
            self._reactor.run_ready()

    def _check_may_wait(self, name: str) -> None:
        if self._reactor.is_mine:
            raise ConcurrentUse(
                f"{name} would wait for ever: it is called in the reactor's own thread, which would bring the answer; "
                "call it in another thread, as in a consumer or handler"
            )

    def _perform(
        self,
        operation: Callable[..., Any],
        args: Sequence[Any],
        timeout: float | None = None,
    ) -> Any:
        return self._wait(
            operation.__name__,
            lambda on_done: self._own(operation)(self.core, *args, on_done=on_done),
            give_back_for(operation),
            timeout,
        )

    def _callback(self, function: Callable[..., Any], no_ack: bool = False) -> Callable[..., Any]:
        check_runs_at_once(function)

        def called_by_the_core(*args: Any) -> None:
            self._workers.put(self, partial(function, *[self._outward(arg) for arg in args]))

        return called_by_the_core

    def _setup(self, function: Callable[..., Any]) -> Callable[[Channel], Any]:
        check_runs_at_once(function)

        def called_by_the_core(core: Channel) -> Callable[[Callable[[Any, Any], object]], object]:
            view = self._view(core)
            return lambda on_done: self._workers.put((core, "on_ready"), partial(set_up, view, on_done))

        def set_up(view: ThreadedChannel, on_done: Callable[[Any, Any], object]) -> None:
            failure: Exception | None = None
            try:
                function(view)
            except Exception as error:
                failure = error
            self._reactor.inside(on_done, failure, None)

        return called_by_the_core

    def _channel_facade(self, core: Channel) -> ThreadedChannel:
        return ThreadedChannel(self, core)


class ThreadedChannel(_Shared, Pipelining, Consuming[ThreadConsumer], ChannelOperations):
    """A channel that any thread may use at any time. `core`: the Channel below; `connection`: the ThreadedConnection
    that it belongs to."""

    core: Channel

    def __init__(self, connection: ThreadedConnection, core: Channel):
        """Not for programs: `connection.channel()` opens a channel."""
        self.connection = self._connection = connection
        self.core = core
        self._blocks: dict[int, Pipelined] = {}

    def _perform(
        self,
        operation: Callable[..., Any],
        args: Sequence[Any],
        timeout: float | None = None,
    ) -> Any:
        return self.connection._wait(
            operation.__name__,
            lambda on_done: operation(self.core, *args, on_done=on_done),
            give_back_for(operation, self.core, args),
            timeout,
        )

    def _perform_oneway(
        self,
        operation: Callable[..., Any],
        args: Sequence[Any],
        timeout: float | None = None,
    ) -> Any:
        core, reactor = self.core, self.connection._reactor
        publishes = operation is _PUBLISH
        while not reactor.inside(_perform_oneway, core, operation, args):
            if reactor.is_mine and not core.is_confirming:
                operation(core, *args)  # the reactor's own thread must not wait
                break
            if not publishes or not core._is_fire_and_forget or core.writable:
                return self._perform(operation, args, timeout)
            self._wait_for_room(timeout)
        return True if publishes else None

    def _publish_in(self, block: Pipelined, args: Sequence[Any], timeout: float | None) -> bool:
        core, connection = self.core, self.connection
        if len(block._waiting) >= block.window:
            self._await_confirms(block, block.window - 1, timeout)
        if not core.is_open:
            raise block._refuse(core._closed_error())
        writable = connection._reactor.inside(block._publish, core, args)
        if not writable and connection.core._unsent >= HIGH_WATER:
            self._wait_for_room(timeout)
        return core.writable

    def _await_confirms(self, block: Pipelined, left: int, timeout: float | None) -> None:
        self.connection._wait("basic_publish", partial(block._when_left, left), timeout=timeout)

    def _wait_for_room(self, timeout: float | None) -> None:
        """Waits until the channel is writable."""

        def start(on_done: Any) -> None:
            self.core.drain(on_done=lambda err, _: on_done(err and err.of("basic.publish", err.asked_at), None))

        self.connection._wait("basic_publish", start, timeout=timeout)

    def _callback(self, function: Callable[..., Any], no_ack: bool = False) -> Callable[..., Any]:
        check_runs_at_once(function)
        core, outward, put = self.core, self.connection._outward, self.connection._workers.put

        def handle(message: Message) -> None:
            # If the channel has closed meanwhile, a message that was to be acknowledged is the broker's again.
            if no_ack or message.name != "basic.deliver" or not core._is_stale(message):
                function(message)

        def called_by_the_core(argument: Any, *more: Any) -> None:
            """Each consumer has a queue of its own, for messages and its cancel; the channel's handlers share one."""
            if isinstance(argument, Message):
                tag = argument.consumer_tag
                put(core if tag is None else (core, tag), partial(handle, argument))
            elif isinstance(argument, str):
                put((core, argument), partial(function, argument))
            else:
                put(core, partial(function, outward(argument), *more))

        return called_by_the_core

    def _iterate(self, queue: str, options: dict[str, Any], inactivity_timeout: float | None) -> ThreadConsumer:
        return watched.iterator(ThreadConsumer(self, queue, options, inactivity_timeout))


def _perform_oneway(core: Channel, operation: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Runs an operation without an answer, if it need not wait and no continuation would be called. False: not run."""
    done_with_the_call = core._is_fire_and_forget if operation is _PUBLISH else core.is_open
    if not done_with_the_call or not core.writable:
        return False
    operation(core, *args)
    return True


def _tell(on_error: Callable[[BaseException], object], error: BaseException) -> None:
    try:
        on_error(error)
    except BaseException as worse:
        _hook(worse)


def _hook(error: BaseException) -> None:
    told = type(error), error, error.__traceback__, threading.current_thread()
    threading.excepthook(threading.ExceptHookArgs(told))


_PUBLISH = Channel.basic_publish
_connections: Registry[ThreadedConnection] = Registry()


def _after_fork() -> None:
    for connection in _connections:
        connection._workers.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
