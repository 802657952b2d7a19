"""Facades that hand back promises: what tasks, asyncio, Twisted and their like have in common.

A style describes its promises in one object (`Promises`): how a promise is made and settled, and how the coroutine of a
callback is run. The operations are the core's, lifted. A program may ignore a promise, as in `message.ack()`.

An operation that the broker doesn't answer gives a promise that is fulfilled at once, since the bytes go out in the
same turn. Such operations are an ack, and a publish without confirms while the channel is writable. While the channel
is not writable, the promise of a publish is fulfilled when the channel is writable again. So a program may await each
of them: this costs little, and holds a publisher back.

A cancelled promise leaves the channel in order. The operation was asked for already, and its answer still comes. A
result that comes for nobody is given back: the message of a basic_get is requeued, the consumer of a basic_consume is
cancelled, a channel or connection is closed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from functools import partial
from threading import get_ident
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from ..client.channel import Channel
from ..client.connection import Connection, begin
from ..client.continuations import ignore, is_abandoned
from ..client.handlers import Waiting
from ..errors import AMQPError, ChannelClosed
from ..interrupts import no_work_is_below, repeatable
from ..parameters import ConnectionParameters
from ..reactor import Reactor
from ..recovery import Recovering, new_connection
from ..wire.message import Message
from . import watched
from .consumer import Arrived, Consuming
from .facade import ConnectionFacade, Facade, check_can_be_run
from .lifting import lift
from .wording import promising

GRACE = 5.0  # seconds that closing may take when an error or a cancellation ends the block

Settle = Callable[[AMQPError | None, Any], object]
"""on_done, from a promise's side."""
GiveBack = Callable[[Any], object]
OnClose = Callable[[Any, AMQPError | None], object]
"""on_close(connection, err) of `connect`, with a style's connection."""

S = TypeVar("S", bound="_Scope")
T = TypeVar("T")


class Promises(Protocol):
    """A style's promises. They may have `sent`: one promise, fulfilled(True), for all publishes that went out."""

    def make(self, give_back: GiveBack | None = None) -> tuple[Any, Settle]:
        """Makes a promise, and the function that settles it; that is called once. A result that comes for a cancelled
        promise goes to give_back."""

    def fulfilled(self, result: Any) -> Any:
        """A promise that is fulfilled already; it may be the same each time."""

    def ignore_error(self, promise: Any) -> object:
        """If nobody asks for this promise, its error is not reported."""

    def spawn(self, coroutine: Any) -> object:
        """Runs the coroutine (or generator) that a user's callback returned."""


class ResolvedPromises(dict[Any, Any]):
    """Fulfilled promises, by result; make(result) makes one. They are shared, which is right where asking for a promise
    does not change it."""

    def __init__(self, make: Callable[[Any], Any]):
        self._make = make

    def __missing__(self, result: Any) -> Any:
        promise = self[result] = self._make(result)
        return promise


class Claims:
    """Counts those who wait for a result that must not get lost, or have it. A call gives the result back, once."""

    __slots__ = ("_claims", "_give_back")

    def __init__(self, give_back: GiveBack):
        self._give_back: GiveBack | None = give_back
        self._claims = 0

    def claim(self) -> None:
        """One more waits."""
        self._claims += 1

    def drop(self) -> bool:
        """One that waited will not see the result. True: nobody else waits for it or has it."""
        self._claims -= 1
        return self._claims <= 0

    def __call__(self, result: Any) -> None:
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(result)


class _Scope:
    """An asynchronous context manager that closes itself at the end."""

    async def __aenter__(self: S) -> S:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.aclose()
        except AMQPError:
            if error is None:
                raise  # otherwise the error of the block says more

    async def aclose(self) -> None:
        """As `close`, under the name that `contextlib.aclosing` calls."""
        closing: Any = self
        await closing.close()


class Block(Generic[T]):
    """Makes the promise of a connection or channel an asynchronous context manager: the block begins when the
    connection or channel is open, and its end closes it."""

    __slots__ = ()

    async def __aenter__(self) -> T:
        promise: Any = self
        opened: T = await promise
        return opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        promise: Any = self
        await promise.result().__aexit__(kind, error, trace)


class PromisingConnection(_Scope, ConnectionFacade):
    """A connection whose operations return promises. To be inherited together with the operations. `channels`: the
    class of its channels."""

    core: Connection
    channels: type[PromisingChannel]

    def __init__(self, promises: Promises, core: Connection):
        """For adapters; programs call `connect`. promises: of the style. core: the Connection below."""
        self._promises = promises
        self.core = core

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        limit = self.core.reactor.call_later(GRACE, self.core.abort) if error is not None else None
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            if limit is not None:
                limit.cancel()

    def _channel_facade(self, core: Channel) -> Any:
        return self.channels(self, core)

    def wait_closed(self) -> Any:
        """Returns a promise that is fulfilled when the connection has ended, after a close of the program's own. Any
        other end rejects it, with the error that ended the connection.

        A program that only waits for an event of its own does not notice that the link is lost. It waits for this too.
        """
        core = self.core
        core._check_thread()
        promise, settle = self._promises.make()
        ended = _Ended(core, settle)
        if core._ended:
            core.reactor.call_soon(ended.tell)
        else:
            core.add_state_change_handler(ended)
        return promise

    def _perform(self, operation: Callable[..., Any], args: Sequence[Any]) -> Any:
        promise, settle = self._promises.make(give_back_for(operation))
        self._own(operation)(self.core, *args, on_done=partial(self._hand_out, settle))
        return promise

    def _callback(self, function: Callable[..., Any], no_ack: bool = False) -> Callable[..., Any]:
        def called_by_the_core(*args: Any) -> None:
            run_callback(self._promises, function, *[self._outward(arg) for arg in args])

        return called_by_the_core

    def _setup(self, function: Callable[..., Any]) -> Callable[[Channel], Any]:
        def called_by_the_core(core: Channel) -> Any:
            returned = function(self._view(core))
            if isinstance(returned, Generator):
                return lambda on_done: self._promises.spawn(_followed(returned, on_done))
            if inspect.isawaitable(returned):
                return lambda on_done: self._promises.spawn(_awaited(returned, on_done))
            return None

        return called_by_the_core


class _Ended(Waiting):
    """The handler that settles a promise of `wait_closed`."""

    __slots__ = ("_core", "_settle")

    def __init__(self, core: Connection, settle: Settle):
        self._core = core
        self._settle = settle

    @property
    def abandoned(self) -> bool:  # type: ignore[override]
        return is_abandoned(self._settle)

    def __call__(self, core: Connection, is_open: bool) -> None:
        if not is_open:
            self.tell()

    def tell(self) -> None:
        reason = self._core.close_reason
        self._settle(reason and reason._fresh(), None)


def _followed(work: Generator[Any, Any, Any], on_done: Callable[[Any, Any], object]) -> Generator[Any, Any, None]:
    """Runs a generator, and tells how it ended."""
    try:
        yield from work
    except Exception as error:
        on_done(error, None)
    else:
        on_done(None, None)


async def _awaited(work: Any, on_done: Callable[[Any, Any], object]) -> None:
    """Awaits a coroutine or a promise, and tells how it ended."""
    try:
        await work
    except Exception as error:
        on_done(error, None)
    except BaseException:
        on_done(ChannelClosed("on_ready was cancelled"), None)
        raise
    else:
        on_done(None, None)


class PromisingChannel(_Scope, Facade, Consuming["AsyncConsumer"]):
    """A channel whose operations return promises. To be inherited together with the operations."""

    core: Channel

    def __init__(self, connection: PromisingConnection, core: Channel):
        """Not for programs: `connection.channel()` opens a channel."""
        self.connection = connection
        self.core = core
        self._promises = connection._promises
        self._sent = getattr(self._promises, "sent", None)

    def _perform(self, operation: Callable[..., Any], args: Sequence[Any]) -> Any:
        promise, settle = self._promises.make(give_back_for(operation, self.core, args))
        operation(self.core, *args, on_done=settle)
        return promise

    def _perform_oneway(self, operation: Callable[..., Any], args: Sequence[Any]) -> Any:
        """Runs an acknowledgement on a closed channel. It does nothing, and no harm: the broker has the message again.
        A program that wants the error awaits the promise."""
        promise, settle = self._promises.make()
        self._promises.ignore_error(promise)
        operation(self.core, *args, on_done=settle)
        return promise

    def _when_writable(self) -> Any:
        """A promise that is fulfilled when the channel is writable again."""
        promise, settle = self._promises.make()
        self.core.drain(on_done=partial(_is_writable, settle))
        return promise

    def _callback(self, function: Callable[..., Any], no_ack: bool = False) -> Callable[..., Any]:
        check_can_be_run(function)
        promises = self._promises

        def called_by_the_core(argument: Any) -> None:
            # As run_callback, without its call. The result tells, not the kind of function: a decorator may hide that.
            returned = function(argument)
            if returned is not None:
                run(promises, returned)

        return called_by_the_core

    def _handler(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called_by_the_core(*args: Any) -> None:
            run_callback(self._promises, function, *[self if arg is self.core else arg for arg in args])

        return called_by_the_core

    def _iterate(self, queue: str, options: dict[str, Any], inactivity_timeout: float | None) -> AsyncConsumer:
        return watched.iterator(AsyncConsumer(self, queue, options, inactivity_timeout))


def _handing_over(operation: Callable[..., Any]) -> str:
    """The body of an operation's method (`written`). Each publish and each ack comes this way, so it is one call deep
    where the broker doesn't answer."""
    if operation is _PUBLISH:
        return _HAND_OVER_PUBLISH
    return _HAND_OVER if getattr(operation, "__oneway__", False) else _ASK


_ASK = "return self._perform({operation}, {together})"
_HAND_OVER = """\
core = self.core
if not core.is_open:
    return self._perform_oneway({operation}, {together})
{operation}(core, {arguments})
return self._promises.fulfilled(None)"""
_HAND_OVER_PUBLISH = """\
core = self.core
publisher = core._publisher
if not publisher.is_fire_and_forget or not core.is_open:
    promise, settle = self._promises.make()
    publisher.publish({arguments}, settle)  # all that the core's basic_publish does
    return promise
if publisher.publish({arguments}, None):
    return self._sent or self._promises.fulfilled(True)
return self._when_writable()"""


def lift_promising(module: str, promise: str = "promise") -> tuple[type, type]:
    """The operations of Connection and Channel for a style whose promises have this name in docstrings; `module` is the
    name of the module that they are for."""
    wording = promising(promise)
    return lift(Connection, module, wording), lift(Channel, module, wording, _handing_over)


@repeatable
def _is_writable(settle: Settle, err: AMQPError | None, _: Any) -> None:
    settle(err, None if err else True)


class _Arrived(Arrived):
    """`waiting`: settle the promises of those who wait for a message."""

    def __init__(self, core: Channel, options: dict[str, Any], reactor: Reactor):
        super().__init__(core, options)
        self.on_message = self._on_message
        self.waiting: list[Settle] = []
        self._call_soon = reactor.call_soon
        self._waking = False

    def _on_message(self, message: Message) -> None:
        self.messages.append(message)
        if self.waiting and not self._waking:
            # Later in the turn, when the messages that came with this one are here too: so the waiting are woken once.
            self._call_soon(self.wake)
            self._waking = True

    @repeatable
    def wake(self) -> None:
        self._waking = False
        waiting = self.waiting
        for _ in range(len(waiting)):  # no more: one that is woken may wait again
            if not waiting:
                break
            settle = waiting[0]
            del waiting[0]  # not by a call: see CallQueue
            settle(None, False)

    def give_up(self, settle: Settle) -> None:
        """No message came for so long: wakes one that waits, with the result True."""
        if settle in self.waiting:
            self.waiting.remove(settle)
            settle(None, True)


class AsyncConsumer(_Scope):
    """The messages of a consumer, one after another; `PromisingChannel.consume` makes them. Several tasks may share
    one. It is also an asynchronous context manager; the end of the block waits until the consumer is cancelled."""

    def __init__(self, channel: PromisingChannel, queue: str, options: dict[str, Any], patience: float | None):
        self.channel = channel
        self._queue = queue
        self._patience = patience
        self._reactor = channel.connection.core.reactor
        self._arrived = _Arrived(channel.core, options, self._reactor)
        self._started = False

    @property
    def consumer_tag(self) -> str | None:
        return self._arrived.tag

    def __aiter__(self) -> AsyncConsumer:
        return self

    async def __anext__(self) -> Message:
        arrived = self._arrived
        while not arrived.closed:
            message = arrived.take()
            if message is not None:
                return message
            if not self._started:
                await self._start()
            elif arrived.is_over:
                raise arrived.end_reason()
            elif await self._wait() and not arrived.messages:
                await self.aclose()
        raise StopAsyncIteration

    async def _wait(self) -> bool:
        """Waits until something has happened; True: nothing did for `inactivity_timeout`."""
        self.channel.core._sender.check_thread()
        promise, settle = self.channel._promises.make()
        self._arrived.waiting.append(settle)
        if self._patience is None:
            return bool(await promise)
        timer = self._reactor.call_later(self._patience, lambda: self._arrived.give_up(settle))
        try:
            return bool(await promise)
        finally:
            timer.cancel()

    async def _start(self) -> None:
        arrived = self._arrived
        core = self.channel.core
        self._started = True
        arrived.watch()
        # A consumer that starts when nobody waits for it any more: `arrived` is closed then, and cancels it.
        promise, settle = self.channel._promises.make(lambda tag: None)

        try:
            arrived.start(self._queue, core, settle)
            await promise
        except BaseException:
            if not arrived.closed:
                # The next that asks, or one that waits beside, tries again, with a consumer of its own. What this one
                # still brings is given back.
                self._arrived = _Arrived(core, arrived._options, self._reactor)
                self._started = False
            arrived.close()
            raise

    async def aclose(self) -> None:
        """Cancels the consumer, and gives back messages that came and were not handed out."""
        if not self._arrived.closed:
            promise, settle = self.channel._promises.make()
            self._arrived.close(settle)
            await promise

    def __del__(self) -> None:
        if not self._started or self._arrived.closed:
            return
        try:
            # Where the program itself drops it, as by `break`, the cancel goes out before what is asked for next.
            if self._reactor.thread == get_ident() and no_work_is_below():
                self._arrived.close()
        finally:
            # The garbage collector runs in any thread, and amid anything: the reactor does the work. Nobody awaits it.
            if not self._arrived.closed:
                self._reactor.call_soon_threadsafe(self._arrived.close)


def run_callback(promises: Promises, function: Callable[..., Any], *args: Any) -> None:
    """Calls a user's callback. If the callback returns a coroutine or a generator, that is run."""
    run(promises, function(*args))


def run(promises: Promises, returned: Any) -> None:
    """Runs what a user's callback has returned, if it is a coroutine or a generator."""
    if inspect.iscoroutine(returned) or isinstance(returned, Generator):
        promises.spawn(returned)


def promised_connection(
    promises: Promises,
    make: Callable[[Connection], Any],
    reactor: Reactor,
    targets: Sequence[ConnectionParameters],
    on_close: OnClose | None = None,
    recovery: Recovering = None,
) -> tuple[Any, Connection]:
    """Returns a promise of a connection, and the core's Connection, which is opening: if the promise is cancelled, the
    caller can close that. make(core) makes the facade. on_close(connection, err): as in `connect`."""
    promise, settle = promises.make(lambda facade: close_abandoned(facade.core))
    facades: list[Any] = []

    def closed(core: Connection, err: AMQPError | None) -> None:
        if on_close is not None and facades:
            run_callback(promises, on_close, facades[0], err)

    core = new_connection(reactor, closed if on_close is not None else None, recovery)
    return promise, begin(core, targets, partial(_connected, settle, make, facades))


@repeatable
def _connected(
    settle: Settle, make: Callable[[Connection], Any], facades: list[Any], err: AMQPError | None, core: Any
) -> None:
    """on_done of a connection's opening."""
    if core is not None and not facades:
        facades.append(make(core))
    settle(err, facades[0] if facades else None)


def close_abandoned(core: Connection) -> None:
    """Closes a connection that nobody waits for any more."""
    core.close(on_done=ignore)


def give_back_for(operation: Callable[..., Any], *asked: Any) -> GiveBack | None:
    """The function that gives back a result of `operation` that comes for a cancelled promise, or None. `asked`: the
    channel that was asked, and the arguments in their order."""
    give_back = _GIVE_BACK.get(operation.__name__)
    return None if give_back is None else partial(give_back, *asked)


def _requeue(core: Channel, args: Sequence[Any], message: Message | None) -> None:
    _, no_ack = args
    if message is not None and core.is_open and not no_ack:
        core._give_back(message.delivery_tag)


def _cancel(core: Channel, args: Sequence[Any], tag: str) -> None:
    if core.is_open:
        core.basic_cancel(tag, on_done=ignore)


def _close_channel(channel: Any) -> None:
    """channel: a facade or the core's."""
    getattr(channel, "core", channel).close(on_done=ignore)


_PUBLISH = Channel.basic_publish
_GIVE_BACK: dict[str, Callable[..., object]] = {
    "basic_get": _requeue,
    "basic_consume": _cancel,
    "channel": _close_channel,
}
