"""The synchronous facade: each call turns the reactor until its continuation fires.

A call that waits runs input and output, and its own continuation, but no other code of the user's. Handlers and
consumers that are due meanwhile are deferred. They run when the program asks for them: in `drain_events`,
`start_consuming`, the iterator `consume`, or when the program runs the reactor itself. So no callback is entered while
another callback, or the program itself, is in the middle of a call.

An exception that comes out of the reactor during a call, and is not the call's own (another connection's error, a
timer's), never costs the call its result. It is kept, and raised by the next call, before that asks for anything; or by
the reactor's next turn, if the program turns it itself. Only `close`, which has no result to lose and is often the last
call, raises it after it has closed.

A call that ends without its result (OperationTimeout, Ctrl-C, an exception of a signal handler) gives back what the
late reply brings: a message is requeued, a consumer cancelled, a channel closed; a connection that is opening is
aborted.

One thread at a time may be inside a connection. Threads that share a connection hold `connection.lock` around each use.
A thread that comes in without the lock while another is inside gets ConcurrentUse; but an ack, nack, reject, a publish
that isn't confirmed and a close are handed over to the thread inside (`handed_over`).
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextvars import copy_context
from functools import partial
from threading import RLock, get_ident
from time import monotonic
from typing import Any

from ..client.channel import Channel
from ..client.connection import Connection, begin
from ..client.continuations import call_site, describe, ignore
from ..client.hooks import are_installed
from ..errors import AMQPError, ConcurrentUse, OperationTimeout
from ..interrupts import interrupts_work, is_of_signal_handler, repeatable
from ..parameters import ConnectionParameters, check_timeout
from ..reactor import Reactor
from ..recovery import Recovering, new_connection
from ..wire.message import Message
from . import watched
from .consumer import Arrived, Consuming
from .facade import ConnectionFacade, Facade, Scope, check_runs_at_once, is_stale
from .handed_over import HandedOver, checked, may_be_handed_over
from .pipelined import Pipelined, Pipelining
from .promises import Claims, GiveBack, give_back_for
from .sync_operations import ChannelOperations, ConnectionOperations

GRACE = 0.5  # seconds to wait for another thread to leave, before that is an error
TURN = 0.002  # seconds between two turns of the reactor in a block of publishes
BEHIND = 0.1  # seconds until callbacks are looked after again that the turns of another connection do not run
MANY = 100  # exceptions in one wait; so many come from the reactor itself, and the wait would never end


class _Spins:
    """Of one reactor: how many calls wait, one inside another, and which connections have deferred callbacks.

    turned: the connection whose `drain_events` or `turn` is under way. others_behind: connections beside that one that
    have deferred callbacks."""

    __slots__ = ("__weakref__", "behind", "depth", "others_behind", "strays", "turned")

    def __init__(self) -> None:
        self.depth = 0
        self.behind: dict[SyncConnection, None] = {}
        self.turned: SyncConnection | None = None
        self.others_behind: dict[SyncConnection, None] = {}
        self.strays: deque[Exception] = deque()  # came out of the reactor during a call that was not theirs

    def raise_stray(self) -> None:
        """Raises the oldest exception that waits."""
        if self.strays:
            raise self.strays.popleft()

    def are_told(self, *reasons: Exception | None) -> None:
        """These exceptions need not be raised any more: a call tells of them."""
        self.strays = deque(stray for stray in self.strays if stray not in reasons)

    def raise_in_turn(self, reactor: Reactor) -> None:
        """The same as a call of the reactor's, which the program turns itself. In a call's wait it comes too early."""
        if not self.depth and self.strays:
            if len(self.strays) > 1:
                reactor.call_soon(lambda: self.raise_in_turn(reactor))
            self.raise_stray()

    @classmethod
    def of(cls, reactor: Reactor) -> _Spins:
        return _spins.setdefault(reactor, cls())


_spins: weakref.WeakKeyDictionary[Reactor, _Spins] = weakref.WeakKeyDictionary()


class _Outcome(list[tuple["AMQPError | None", Any]]):
    """How the operation of a call ended: holds the error and the result, once they are known. A list, because a wait
    asks it after each turn, and its __len__ is no function of Python. `abandoned`: nobody waits any more; then
    `give_back` gets the result."""

    # Values of the class, so that a call need not set them.
    abandoned = False
    give_back: GiveBack | None = None

    @repeatable
    def settle(self, error: AMQPError | None, result: Any) -> None:
        """on_done."""
        self.append((error, result))
        if self.give_back is not None and error is None:
            self.give_back(result)

    def abandon(self, give_back: GiveBack | None) -> None:
        """Nobody waits any more: give_back gets the result, once, now or when it comes."""
        self.abandoned = True
        if give_back is not None:
            self.give_back = Claims(give_back)
            if self and self[0][0] is None:
                self.give_back(self[0][1])


class SyncConnection(Scope, ConnectionFacade, ConnectionOperations):
    """A connection whose calls return their results, or raise their errors. BlockingConnection, SelectConnection and
    AsyncoreConnection make one: each has a reactor of its own kind.

    `core`: the Connection below. `lock`: threads that share the connection hold it. `timeout`: seconds that a call may
    take, None for no limit; a call that takes longer raises OperationTimeout.
    """

    def __init__(
        self,
        reactor: Reactor,
        targets: Sequence[ConnectionParameters],
        timeout: float | None = None,
        on_close: Callable[[SyncConnection, AMQPError | None], object] | None = None,
        recovery: Recovering = None,
    ):
        check_timeout("timeout", timeout)
        self.timeout = timeout
        self.lock = RLock()
        self._spins = _Spins.of(reactor)
        self._reactor = reactor
        self._inbox: deque[Callable[[], object]] = deque()
        self._handed = HandedOver()
        closed = self._handler(on_close) if on_close is not None else None
        self.core: Connection

        def dial(self: SyncConnection, on_done: Any) -> None:
            self.core = new_connection(reactor, closed, recovery)
            begin(self.core, targets, on_done)

        try:
            self._wait("connect", dial, self)
        except BaseException:
            # Perhaps nobody will turn the reactor for a connection that nobody has: so abort, not close.
            if hasattr(self, "core"):
                self.core.abort()
            raise

    def _perform(self, operation: Callable[..., Any], args: Sequence[Any], timeout: float | None = None) -> Any:
        own = self._own(operation)

        def ask(core: Connection, *args: Any, on_done: Callable[[Any, Any], object]) -> None:
            # Made a facade here: a result that the wait has returned is in nobody's hands if an exception comes then.
            own(core, *args, on_done=partial(self._hand_out, on_done))

        give_back = give_back_for(operation)
        return self._wait(operation.__name__, ask, self.core, args, timeout, give_back=give_back)

    def _wait(
        self,
        name: str,
        operation: Callable[..., object],
        core: Any,
        args: Sequence[Any] = (),
        timeout: float | None = None,
        hands_over: bool = False,
        give_back: GiveBack | None = None,
    ) -> Any:
        """Calls `operation` of `core` with these arguments, and turns the reactor until the operation is done; returns
        the result or raises the error. `name`: the operation's name in an error. timeout: seconds; by default those of
        the connection. hands_over: a call that comes while another thread is inside is handed over to that thread.
        give_back(result): called with a result that this call does not return; by default the function that
        `give_back_for` knows."""
        limit = self.timeout if timeout is None else timeout
        spins, closes = self._spins, name == "close"
        if closes:
            if interrupts_work():
                # Its bytes would come in the middle of others. What was interrupted goes on, and closes at its end.
                self._handed.add_close(partial(operation, core, *args), self._reactor.call_soon_threadsafe)
                return None
            hands_over = True
        if (hands_over or not self.lock.acquire(False)) and not self._enter(hands_over):
            return self._ask_owner(name, operation, core, args, limit)
        outcome = _Outcome()
        try:
            try:
                if spins.strays and not closes:
                    spins.raise_stray()
                operation(core, *args, on_done=outcome.settle)
                if not self._spin(outcome.__len__, limit, finish=True):
                    raise _late(name, limit)
            except BaseException:
                outcome.abandon(give_back or give_back_for(operation, *self._asked(core, args)))
                raise
            finally:
                self._leave()
            error, result = outcome[0]
            if error is None and not (closes and spins.strays):
                return result
        except BaseException:
            if not outcome.abandoned:  # a signal handler raised this after the end: another thread may be inside
                late = give_back or give_back_for(operation, *self._asked(core, args))
                self._reactor.call_soon_threadsafe(partial(outcome.abandon, late))
            raise
        if error is not None:
            try:
                raise error
            finally:
                del error, outcome  # the error refers to this frame: with these the connection would wait for the gc
        spins.raise_stray()

    # --- threads ------------------------------------------------------------------------------------------------------

    def _enter(self, hands_over: bool = False) -> bool:
        """Goes inside. False: another thread is inside, and the call may be handed over to it. ConcurrentUse: it may
        not."""
        if self.lock.acquire(False):
            if not hands_over or self._reactor.thread in (None, get_ident()):
                return True
            self.lock.release()  # the other thread runs the reactor itself, or waits in another connection
        elif not hands_over and self.lock.acquire(timeout=GRACE):
            return True  # it was inside for a moment only, as to acknowledge a message
        if not hands_over:
            raise _concurrent()
        return False

    def _leave(self) -> None:
        """Comes out; and makes the calls that were handed over too late for this thread's last turn."""
        self.lock.release()
        handed = self._handed
        if handed.calls or handed.unfinished:
            self._make_handed()

    def _make_handed(self, over: Callable[[], bool] | None = None, limit: float | None = None) -> None:
        """Makes the calls that were handed over, if no other thread is inside, and turns the reactor until they are
        sent. over(): there is nothing more to wait for. limit: seconds; by default those of the connection."""
        handed, core = self._handed, self.core
        if self._reactor.thread in (None, get_ident()) and self.lock.acquire(False):
            try:
                try:
                    handed.make()
                except Exception as stray:
                    self._spins.strays.append(stray)

                def done() -> bool:
                    sent = not handed.unfinished and (not core._unsent or not core.is_open)
                    return sent and (over is None or over())

                self._spin(done, self.timeout if limit is None else limit, finish=True, flush=True)
            finally:
                self.lock.release()

    def _hand_over(self, core: Channel, operation: Callable[..., Any], args: Sequence[Any]) -> bool | None:
        """Has the thread inside perform an operation that the broker doesn't answer. Returns as the operation does."""
        given = checked(core, operation, args)
        call = partial(operation, core, **given, on_done=ignore)
        if are_installed():
            call = partial(copy_context().run, call)  # hooks see the context of the thread that asked
        self._handed.add(call, self._reactor.call_soon_threadsafe)
        self._make_handed()
        return core.writable if operation is _PUBLISH else None

    def _ask_owner(self, name: str, operation: Any, core: Any, args: Sequence[Any], limit: float | None) -> Any:
        """Has the thread inside perform an operation, and waits for it: returns the result or raises the error."""
        if name != "close":
            if not core.is_open:
                raise core._closed_error().of(f"basic.{name[6:]}", describe(call_site()))
            ask = partial(operation, core, **checked(core, operation, args))
        else:
            ask = partial(operation, core, *args)
        reactor = self._reactor
        outcome = self._handed.ask(ask, reactor.call_soon_threadsafe, limit, reactor.time, self._make_handed)
        if outcome is None:
            raise _late(name, limit)
        if outcome[0] is not None:
            raise outcome[0]
        return outcome[1]

    def _asked(self, core: Any, args: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments that `give_back_for` takes for an operation of a channel."""
        return (core, args) if isinstance(core, Channel) else ()

    def _error_of_end(self, core: Channel) -> AMQPError:
        """The error of a call during which a channel has ended. It tells the reason, so nothing else need do that."""
        self._spins.are_told(core.close_reason, self.core.close_reason)
        return core._closed_error()

    def _push(self, name: str, over: Callable[[], bool], timeout: float | None = None) -> None:
        """Gives unsent bytes to the kernel, and turns the reactor until the kernel has taken all, or over(). Mostly the
        kernel takes all at once, without a turn. `name`, timeout: as of `_wait`."""
        core, limit = self.core, self.timeout if timeout is None else timeout
        if not self._spin(lambda: over() or not core._unsent, limit, finish=True, flush=True):
            raise _late(name, limit)

    def _spin(
        self, done: Callable[[], object], timeout: float | None, finish: bool = False, flush: bool = False
    ) -> bool:
        """Turns the reactor until done(). The user's callbacks are deferred. False: that took longer than `timeout`
        seconds.

        An exception that comes out of the reactor meanwhile is raised. finish: it is kept for the next call, so that no
        operation is left half-way or loses its result. flush: unsent bytes are sent first, which may be enough.
        """
        reactor, spins = self._reactor, self._spins
        spins.depth += 1
        try:
            if flush:
                self.core._flush()
            return True if done() else self._turn_until(done, timeout, finish)
        finally:
            spins.depth -= 1
            if spins.depth:
                # A signal handler or a timer called amid another call's wait, and may have seen the end of that wait.
                reactor.call_soon_threadsafe(_nothing)
            else:
                if spins.behind:
                    behind, spins.behind = spins.behind, {}
                    for connection in behind:
                        reactor.call_soon(partial(_catch_up, weakref.ref(connection)))
                if spins.strays:
                    reactor.call_soon(lambda: spins.raise_in_turn(reactor))

    def _turn_until(self, done: Callable[[], object], timeout: float | None, finish: bool) -> bool:
        """Turns the reactor until done(), at least once. Arguments and result: as of `_spin`."""
        reactor, strays = self._reactor, 0
        deadline = None if timeout is None else reactor.time() + timeout
        left = timeout if timeout is None or timeout > 0 else 0
        while True:
            try:
                reactor.run_once(left)
            except ConcurrentUse:
                raise
            except Exception as stray:
                if is_of_signal_handler(stray):
                    raise  # as KeyboardInterrupt: the program wants out of this call
                strays += 1
                if not finish or strays == MANY:
                    raise
                self._spins.strays.append(stray)
            if done():
                return True
            if deadline is not None:
                left = deadline - reactor.time()
                if left <= 0:
                    return False

    def _spin_for_a_loop(self, done: Callable[[], object], timeout: float | None) -> None:
        """As `_spin`, in a call that a loop of the program's own may make whenever the reactor has something to do. It
        runs no callbacks of another connection. If these made the loop turn at once again, it would never rest."""
        spins = self._spins
        outer, spins.turned = spins.turned, self
        try:
            self._spin(done, timeout)
        finally:
            spins.turned = outer
            others, spins.others_behind = spins.others_behind, {}
            for connection in others:
                self._reactor.call_later(BEHIND, partial(_catch_up, weakref.ref(connection)))

    # --- dropped ------------------------------------------------------------------------------------------------------

    def __del__(
        self, warn: Callable[..., Any] = warnings.warn, is_finalizing: Callable[[], bool] = sys.is_finalizing
    ) -> None:
        # The core and its reactor refer to a facade only for a consumer. So nobody has this connection any more.
        core = getattr(self, "core", None)
        if core is not None and not core._is_gone and not is_finalizing():
            try:
                if not core._ended:
                    warn(f"unclosed {self!r}", ResourceWarning, source=self)
            finally:
                core._drop()

    def _held(self, facade: Any) -> Callable[[], Any]:
        return weakref.ref(facade)

    # --- callbacks ----------------------------------------------------------------------------------------------------

    def _callback(self, function: Callable[..., Any], no_ack: bool = False) -> Callable[..., Any]:
        check_runs_at_once(function)
        acknowledged = not no_ack

        def called_by_the_core(*args: Any) -> None:
            ours = [self._outward(arg) for arg in args]
            if self._spins.depth or self._inbox:
                self._inbox.append(lambda: None if acknowledged and is_stale(ours) else function(*ours))
                if self._spins.depth:
                    self._spins.behind[self] = None
            else:
                function(*ours)

        return called_by_the_core

    def _handler(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As of `Facade`. A handler does not keep the connection alive."""
        check_runs_at_once(function)
        mine = weakref.ref(self)

        def called_by_the_core(*args: Any) -> None:
            connection = mine()
            if connection is None:
                return
            for arg in args:
                if isinstance(arg, Message):
                    arg.channel = connection._outward(arg.channel)
            connection._callback(function)(*args)

        return called_by_the_core

    def _setup(self, function: Callable[..., Any]) -> Callable[[Channel], Any]:
        """As of `ConnectionFacade`. A channel that recovers holds its `on_ready`, which does not keep the connection
        alive."""
        check_runs_at_once(function)
        mine = weakref.ref(self)

        def called_by_the_core(core: Channel) -> None:
            connection = mine()
            if connection is not None:
                function(connection._view(core))

        return called_by_the_core

    def _channel_facade(self, core: Channel) -> SyncChannel:
        return SyncChannel(self, core)

    def _catch_up(self) -> None:
        """Runs the deferred callbacks, in the reactor's turn."""
        if self._spins.depth:
            if self._inbox:
                is_others = self._spins.turned not in (None, self)
                (self._spins.others_behind if is_others else self._spins.behind)[self] = None
            return
        try:
            self._empty_inbox()
        finally:
            if self._inbox:
                self.reactor.call_soon(partial(_catch_up, weakref.ref(self)))

    def _empty_inbox(self) -> None:
        while self._inbox:
            self._inbox.popleft()()

    def drain_events(self, timeout: float | None = None, limit: int | None = None) -> bool:
        """Runs the callbacks that are due, and returns whether there were any.

        timeout: seconds to wait for the first; None: without limit. limit: run at most so many, and leave the others
        for the next call; None: all. Errors: the error that ended the connection, once no callback is left. After a
        close of the program's own that is an error only if there was no callback.
        """
        check_timeout("timeout", timeout)
        with _Inside(self):
            ran = self._run_callbacks(lambda: not self.core.is_open, timeout, limit)
            core = self.core
            if not core.is_open and not self._inbox and (not ran or core.close_reason is not None):
                raise core._closed_error()
        return ran

    def turn(self, timeout: float | None = 0) -> None:
        """Makes one turn of the reactor: input, output and timers, such as heartbeats. Callbacks that become due are
        deferred, for `drain_events`.

        timeout: the longest wait in seconds, if there is nothing to do; 0 by default; None: without limit. While
        another thread is inside the connection it does nothing, since that thread turns the reactor. Errors: on a
        connection that is not open, the error that closed it.
        """
        check_timeout("timeout", timeout)
        if not self._enter(hands_over=True):
            return
        try:
            self._spins.raise_stray()
            before = iter((False,))
            self._spin_for_a_loop(lambda: next(before, True), timeout)
            if not self.core.is_open:
                raise self.core._closed_error()
        finally:
            self._leave()

    def _run_callbacks(self, over: Callable[[], bool], timeout: float | None, limit: int | None = None) -> bool:
        """Waits until callbacks are due, or over() says that none will come. Runs them, at most `limit`, and returns
        whether there were any."""
        self._spins.raise_stray()
        inbox = self._inbox
        if not inbox and not over():
            self._spin_for_a_loop(lambda: bool(inbox) or over(), timeout)
        if not inbox:
            return False
        for _ in range(len(inbox) if limit is None else min(len(inbox), limit)):
            if inbox:
                inbox.popleft()()
        return True

    @property
    def has_callbacks(self) -> bool:
        """Whether callbacks are deferred, which `drain_events` would run at once."""
        return bool(self._inbox)


class SyncChannel(Scope, Facade, Pipelining, Consuming[Iterator[Message]], ChannelOperations):
    """A channel whose calls return their results, or raise their errors. `core`: the Channel below; `connection`: the
    SyncConnection that it belongs to."""

    core: Channel

    def __init__(self, connection: SyncConnection, core: Channel):
        """Not for programs: `connection.channel()` opens a channel."""
        self.connection = connection
        self.core = core
        self._stopped = False
        self._blocks: dict[int, Pipelined] = {}

    def _perform_oneway(self, operation: Callable[..., Any], args: Sequence[Any], timeout: float | None = None) -> Any:
        core, connection = self.core, self.connection
        hands_over = may_be_handed_over(core, operation)
        if not core.writable or not core.is_open or (operation is _PUBLISH and core.is_confirming):
            return connection._wait(operation.__name__, operation, core, args, timeout, hands_over)
        if not connection._enter(hands_over):
            return connection._hand_over(core, operation, args)
        try:
            if connection._spins.strays:
                connection._spins.raise_stray()
            result = operation(core, *args)
            connection._push(operation.__name__, lambda: not core.is_open, timeout)
            if not core.is_open:
                raise connection._error_of_end(core)
        finally:
            connection._leave()
        return result

    # --- publishes in a block -----------------------------------------------------------------------------------------

    def _publish_in(self, block: Pipelined, args: Sequence[Any], timeout: float | None) -> bool:
        core, connection = self.core, self.connection
        if not connection.lock.acquire(False):
            connection._enter()
        try:
            if connection._spins.strays:
                connection._spins.raise_stray()
            if len(block._waiting) >= block.window:
                self._await_confirms(block, block.window - 1, timeout)
            if not core.is_open:
                raise block._refuse(core._closed_error())
            writable = block._publish(core, args)
            if not writable:
                connection._push("basic_publish", lambda: core.writable or not core.is_open, timeout)
                return core.writable
            now = monotonic()
            if now >= block._turn_due:
                block._turn_due = now + TURN
                connection._spin(_never, 0, finish=True)
        finally:
            connection._leave()
        return writable

    def _await_confirms(self, block: Pipelined, left: int, timeout: float | None) -> None:
        connection = self.connection
        limit = connection.timeout if timeout is None else timeout
        with _Inside(connection):
            if not connection._spin(lambda: block._has_left(left), limit, finish=True, flush=True):
                raise _late("basic_publish", limit)

    # --- callbacks ----------------------------------------------------------------------------------------------------

    def _callback(self, function: Callable[..., Any], no_ack: bool = False) -> Callable[..., Any]:
        return self.connection._callback(function, no_ack)

    def _handler(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self.connection._handler(function)

    def start_consuming(self) -> None:
        """Runs the callbacks of consumers and handlers until `stop_consuming`, or until the channel has no consumers.

        Errors: the error that ended the connection or the channel.
        """
        core, connection = self.core, self.connection
        was_open = core.is_open
        try:
            with _Inside(connection):
                while True:  # see `interrupts`
                    if self._stopped or not (core.has_consumers or connection.has_callbacks):
                        break
                    connection._run_callbacks(lambda: self._stopped or not core.has_consumers, None)
            of_connection = connection.core
            reason = core.close_reason if of_connection.is_open else of_connection.close_reason
            if not self._stopped and reason is not None:
                # A fresh one: the traceback of the one that is kept would grow with each call.
                if was_open:
                    raise reason.of(reason.method or "start_consuming", reason.asked_at) from reason
                raise core._closed_error().of("start_consuming", describe(call_site()))
        finally:
            self._stopped = False

    def stop_consuming(self) -> None:
        """Ends `start_consuming`. May be called anywhere: in a callback, a timer, a signal handler or another thread.
        Callbacks that are due already still run. The consumers stay.

        A call while no `start_consuming` runs ends the next one at once: so a signal that comes a moment too early is
        not lost.
        """
        self._stopped = True
        self.connection.core.reactor.call_soon_threadsafe(_nothing)

    def _iterate(self, queue: str, options: dict[str, Any], inactivity_timeout: float | None) -> Iterator[Message]:
        arrived = Arrived(self.core, options)
        start = partial(arrived.start, queue)
        try:
            # What this call doesn't return is given back by `close`, now or when the consumer starts.
            self.connection._wait("basic_consume", start, self.core, give_back=_nothing_left)
            messages = self._messages(arrived, inactivity_timeout)
            next(messages)
            return watched.messages(messages, options["no_ack"])
        except BaseException:
            arrived.close()
            raise

    def _next_message(self, arrived: Arrived, patience: float | None) -> Message | None:
        """Waits for a message, `patience` seconds at most, and runs the callbacks that are due. None: no message came.
        Errors: the one that ended the consumer."""
        connection, deadline = self.connection, None
        while True:
            left = None
            if patience is not None and not arrived.messages:  # mostly there are some, and no time is needed
                now = connection._reactor.time()
                deadline = now + patience if deadline is None else deadline
                left = max(0.0, deadline - now)
            with _Inside(connection):
                ran = connection._run_callbacks(lambda: bool(arrived.messages) or arrived.is_over, left)
            message = arrived.take()
            if message is not None:
                return message
            if arrived.is_over:
                raise arrived.end_reason()
            if deadline is not None and not ran and connection._reactor.time() >= deadline:
                return None

    def _messages(self, arrived: Arrived, patience: float | None) -> Generator[Any, Any, Any]:
        connection, core = self.connection, self.core
        try:
            yield None  # for _iterate: a generator that has not begun would not run what stands under "finally"
            while True:
                message = self._next_message(arrived, patience)
                if message is None:
                    return
                yield message
        finally:
            try:
                if core.is_open:
                    connection._wait("basic_cancel", lambda _, on_done: arrived.close(on_done), core)
                    with _Inside(connection):
                        connection._push("basic_nack", lambda: not core.is_open)
            except AMQPError:
                # A channel that ends meanwhile has no consumer left, and the next call says so. An iterator that the
                # program dropped could not raise it.
                if core.is_open:
                    raise
            except BaseException:
                connection._reactor.call_soon_threadsafe(arrived.close)  # a generator is not closed twice
                raise


_PUBLISH = Channel.basic_publish


def _late(name: str, limit: float | None) -> AMQPError:
    return OperationTimeout(f"no answer within {limit:g} s").of(name, describe(call_site()))


def _catch_up(connection: weakref.ref[SyncConnection]) -> None:
    """Runs the deferred callbacks, unless the program has dropped the connection."""
    alive = connection()
    if alive is not None:
        alive._catch_up()


def _nothing_left(tag: str) -> None:
    """`Arrived` gives back a consumer that starts for nobody."""


def _nothing() -> None:
    """A call that only wakes the reactor."""


def _never() -> bool:
    """The end of a wait that makes one turn."""
    return False


class _Inside:
    """A thread's stay inside a connection, as a block."""

    __slots__ = ("_connection",)

    def __init__(self, connection: SyncConnection):
        self._connection = connection

    def __enter__(self) -> None:
        self._connection._enter()

    def __exit__(self, *_: object) -> None:
        self._connection._leave()


def _concurrent() -> ConcurrentUse:
    return ConcurrentUse(
        "another thread is inside this connection: hold connection.lock around each use, or give each thread its own"
    )
