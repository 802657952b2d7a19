"""Facades that hand back promises: what tasks, asyncio, Twisted and their like have in common.

A style says in one object what its promise is (`Promises`): how one is made and settled, and how a callback's coroutine
is run. The operations are the core's, lifted. A promise may be ignored, as with `message.ack()`.

What the broker doesn't answer is a promise kept at once, since its bytes are on their way with the turn: an ack, and a
publish without confirms while the channel is writable. While it isn't, a publish's promise is kept when it is again. So
awaiting each of them costs next to nothing, and yet holds a publisher back.

A promise that its holder gives up (by cancelling what awaits it) leaves the channel in order: the operation was asked
for and its answer still comes, and what it brings for nobody is given back. The message of a basic_get is requeued, the
consumer of a basic_consume cancelled, a channel or connection closed.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from ..client.channel import Channel
from ..client.connection import Connection, connect
from ..errors import AMQPError
from ..parameters import ConnectionParameters
from ..reactor import Reactor
from ..wire.message import Message
from .facade import ConnectionFacade, Facade, end_reason
from .lifting import lift
from .wording import promising

Settle = Callable[[AMQPError | None, Any], object]
"""on_done, from a promise's side."""
GiveBack = Callable[[Any], object]
OnClose = Callable[[Any, AMQPError | None], object]
"""on_close(connection, err) of `connect`, with a style's connection."""

S = TypeVar("S", bound="_Scope")
T = TypeVar("T")


class Promises(Protocol):
    """A style's promises."""

    def make(self, give_back: GiveBack | None = None) -> tuple[Any, Settle]:
        """A promise, and what settles it, which is called once. A result that comes when the holder has given the
        promise up goes to give_back."""

    def fulfilled(self, result: Any) -> Any:
        """A promise that is kept already; it may be the same each time."""

    def ignore_error(self, promise: Any) -> object:
        """If nobody asks for this promise, its error is no news."""

    def spawn(self, coroutine: Any) -> object:
        """Runs the coroutine (or generator) that a user's callback returned."""


class ResolvedPromises(dict[Any, Any]):
    """Promises that are kept, by result; make(result) makes one. They are shared: to ask for one changes nothing about
    it."""

    def __init__(self, make: Callable[[Any], Any]):
        self._make = make

    def __missing__(self, result: Any) -> Any:
        promise = self[result] = self._make(result)
        return promise


class _Scope:
    """A context manager that closes what it is at the end."""

    async def __aenter__(self: S) -> S:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.aclose()
        except AMQPError:
            if error is None:
                raise  # else the error that is under way tells more

    async def aclose(self) -> None:
        closing: Any = self
        await closing.close()


class Block(Generic[T]):
    """Makes an awaitable promise of a connection, or of a channel, a context manager: it waits for the opening, and
    closes what was opened at the block's end."""

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
        self.promises = promises
        self.core = core

    def _channel_facade(self, core: Channel) -> Any:
        return self.channels(self, core)

    def _perform(self, operation: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        promise, settle = self.promises.make(give_back_for(operation))
        operation(
            self.core,
            *args,
            **kwargs,
            on_done=lambda err, result: settle(err, None if err else self._outward(result)),
        )
        return promise

    def _callback(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called_by_the_core(*args: Any) -> None:
            run_callback(self.promises, function, *[self._outward(arg) for arg in args])

        return called_by_the_core


class PromisingChannel(_Scope, Facade):
    """A channel whose operations return promises. To be inherited together with the operations."""

    core: Channel

    def __init__(self, connection: PromisingConnection, core: Channel):
        self.connection = connection
        self.core = core
        self._promises = connection.promises

    def _perform(self, operation: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        promise, settle = self._promises.make(give_back_for(operation, self.core, args, kwargs))
        operation(self.core, *args, **kwargs, on_done=settle)
        return promise

    def _perform_oneway(self, operation: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What is not kept at once, see `_handing_over`."""
        promise, settle = self._promises.make()
        if operation is not _PUBLISH:
            # An ack that came to nothing since the channel is gone: the broker has the message again, and no harm is
            # done. Whoever wants to know awaits it.
            self._promises.ignore_error(promise)
        operation(self.core, *args, **kwargs, on_done=settle)
        return promise

    def _callback(self, function: Callable[..., Any]) -> Callable[..., Any]:
        # What is an ordinary function is called by the core itself: this is the way of each delivery.
        if _is_work(function) or _is_work(getattr(function, "__call__", None)):  # noqa: B004
            return lambda message: run_callback(self._promises, function, message)
        return function

    def _handler(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called_by_the_core(*args: Any) -> None:
            run_callback(self._promises, function, *[self if arg is self.core else arg for arg in args])

        return called_by_the_core

    def consume(
        self,
        queue: str,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> AsyncConsumer:
        """A consumer, as an iterator: `async for message in ch.consume(queue)`. It is started when the first message is
        asked for, and cancelled when the iterator is closed, or goes (as after a `break`: from the next turn on; with
        `async with ch.consume(queue) as messages` the block's end waits for it). Messages that came and weren't handed
        out go back to the queue then. Set basic_qos before, or the whole queue comes at once. If the broker cancels the
        consumer, ConsumerCancelled is raised."""
        return AsyncConsumer(self, queue, {"no_ack": no_ack, "exclusive": exclusive, "arguments": arguments})


def _oneway_method(operation: Callable[..., Any]) -> Callable[..., Any]:
    """A channel's operation that the broker doesn't answer. All messages come this way, out by publish and in by ack,
    so it is one call deep."""
    if operation is _PUBLISH:

        def hand_over(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            core = self.core
            if not core._is_fire_and_forget:
                return self._perform_oneway(operation, args, kwargs)
            if operation(core, *args, **kwargs):
                return self._promises.fulfilled(True)
            promise, settle = self._promises.make()
            core.drain(on_done=lambda err, _: settle(err, None if err else True))
            return promise

    else:

        def hand_over(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            core = self.core
            if core.is_open:
                operation(core, *args, **kwargs)
                return self._promises.fulfilled(None)
            return self._perform_oneway(operation, args, kwargs)

    return hand_over


def lift_promising(module: str, promise: str = "promise") -> tuple[type, type]:
    """The operations of Connection and Channel for a style whose promises have this name in docstrings; `module` is the
    name of the module that they are for."""
    wording = promising(promise)
    return lift(Connection, module, wording), lift(Channel, module, wording, _oneway_method)


class _Arrived:
    """What has come to a consumer, apart from its iterator: the channel holds this, and the iterator can go."""

    __slots__ = ("_call_soon", "_waking", "cancelled", "messages", "no_ack", "waiting")

    def __init__(self, no_ack: bool, call_soon: Callable[[Callable[[], object]], object]) -> None:
        self.no_ack = no_ack
        self._call_soon = call_soon
        self._waking = False
        self.messages: deque[Message] = deque()
        self.cancelled: list[str] = []
        self.waiting: list[Settle] = []

    def on_message(self, message: Message) -> None:
        self.messages.append(message)
        if self.waiting and not self._waking:
            # When all that came with it is here as well: whoever waits is woken once.
            self._waking = True
            self._call_soon(self.wake)

    def on_cancel(self, tag: str) -> None:
        self.cancelled.append(tag)
        self.wake()

    def on_state(self, channel: Any, is_open: bool) -> None:
        self.wake()

    def wake(self) -> None:
        self._waking = False
        waiting, self.waiting = self.waiting, []
        for settle in waiting:
            settle(None, None)

    def end(self, core: Channel, tag: str | None, on_done: Settle) -> None:
        """Cancels the consumer, and requeues what nobody asked for."""

        def cancelled(err: AMQPError | None, _: Any) -> None:
            if err is None:
                self._give_back(core)
            on_done(err, None)

        if tag is None or self.cancelled or not core.is_open:
            self._give_back(core)
            on_done(None, None)
        else:
            core.basic_cancel(tag, on_done=cancelled)

    def _give_back(self, core: Channel) -> None:
        while self.messages and core.is_open and not self.no_ack:
            core.basic_reject(self.messages.popleft().delivery_tag, requeue=True)
        self.messages.clear()


class AsyncConsumer(_Scope):
    """The messages of a consumer, one after another; `PromisingChannel.consume` makes them. Several tasks may share
    one. Also an asynchronous context manager, which ends when the consumer is known to be cancelled."""

    def __init__(self, channel: PromisingChannel, queue: str, options: dict[str, Any]):
        self.channel = channel
        self.consumer_tag: str | None = None
        self._queue = queue
        self._options = options
        self._arrived = _Arrived(options["no_ack"], channel.connection.core.reactor.call_soon)
        self._forget: Callable[[], object] | None = None
        self._started = False
        self._closed = False

    def __aiter__(self) -> AsyncConsumer:
        return self

    async def __anext__(self) -> Message:
        arrived, core = self._arrived, self.channel.core
        while self._closed or not arrived.messages:
            if self._closed:
                raise StopAsyncIteration
            if not self._started:
                await self._start()
            elif arrived.cancelled or not core.is_open:
                raise end_reason(core, self.consumer_tag, bool(arrived.cancelled))
            else:
                promise, settle = self.channel._promises.make()
                arrived.waiting.append(settle)
                await promise
        return arrived.messages.popleft()

    async def _start(self) -> None:
        arrived, channel = self._arrived, self.channel
        self._started = True
        if self._forget is None:
            self._forget = channel.core.add_state_change_handler(arrived.on_state)
        try:
            self.consumer_tag = await channel._perform(
                Channel.basic_consume,
                (self._queue, arrived.on_message),
                {"on_cancel": arrived.on_cancel, **self._options},
            )
        except BaseException:
            self._started = False  # who asks next, or waits beside, tries again
            arrived.wake()
            raise
        if self._closed:  # meanwhile
            arrived.end(channel.core, self.consumer_tag, _ignore)

    async def aclose(self) -> None:
        """Cancels the consumer, and gives back what came and wasn't handed out."""
        if not self._closed:
            promise, settle = self.channel._promises.make()
            self._close()(settle)
            await promise

    def _close(self) -> Callable[[Settle], object]:
        """Ends the iteration; what is still to be done about the consumer."""
        self._closed = True
        self._arrived.wake()
        if self._forget is not None:
            self._forget()
        return partial(self._arrived.end, self.channel.core, self.consumer_tag)

    def __del__(self) -> None:
        # Nobody awaits it, and an error is told to whoever has the channel. The garbage collector may come by in any
        # thread, and amid anything, so the reactor carries it out.
        if self._started and not self._closed:
            self.channel.connection.core.reactor.call_soon_threadsafe(partial(self._close(), _ignore))


def _is_work(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function)


def run_callback(promises: Promises, function: Callable[..., Any], *args: Any) -> None:
    """Calls a user's callback; one that is a coroutine (or a generator) is run."""
    returned = function(*args)
    if inspect.iscoroutine(returned) or isinstance(returned, Generator):
        promises.spawn(returned)


def promised_connection(
    promises: Promises,
    make: Callable[[Connection], Any],
    reactor: Reactor,
    targets: Sequence[ConnectionParameters],
    on_close: OnClose | None = None,
) -> tuple[Any, Connection]:
    """A promise of a connection, and the core's, which is opening: whoever gives up the promise may close it, and need
    not wait. make(core) makes its facade. on_close(connection, err) as of `connect`."""
    promise, settle = promises.make(lambda facade: close_abandoned(facade.core))
    facades: list[Any] = []

    def connected(err: AMQPError | None, core: Connection | None) -> None:
        if core is not None:
            facades.append(make(core))
        settle(err, facades[0] if facades else None)

    def closed(core: Connection, err: AMQPError | None) -> None:
        if on_close is not None and facades:
            run_callback(promises, on_close, facades[0], err)

    return promise, connect(reactor, targets, connected, closed if on_close is not None else None)


def close_abandoned(core: Connection) -> None:
    """Hangs up on a connection that nobody waits for any more."""
    core.close(on_done=_ignore)


def give_back_for(operation: Callable[..., Any], *asked: Any) -> GiveBack | None:
    """What becomes of a result that comes when its holder has given it up; `asked`: the channel that was asked, with
    what arguments and keywords."""
    give_back = _GIVE_BACK.get(operation.__name__)
    return None if give_back is None else partial(give_back, *asked)


def _ignore(err: AMQPError | None, result: Any) -> None:
    pass


def _requeue(core: Channel, args: Sequence[Any], kwargs: Mapping[str, Any], message: Message | None) -> None:
    no_ack = _GET.bind(core, *args, **kwargs).arguments.get("no_ack", False)
    if message is not None and core.is_open and not no_ack:
        core.basic_reject(message.delivery_tag, requeue=True)


def _cancel(core: Channel, args: Sequence[Any], kwargs: Mapping[str, Any], tag: str) -> None:
    if core.is_open:
        core.basic_cancel(tag, on_done=_ignore)


_PUBLISH = Channel.basic_publish
_GET = inspect.signature(Channel.basic_get)
_GIVE_BACK: dict[str, Callable[..., object]] = {
    "basic_get": _requeue,
    "basic_consume": _cancel,
    "channel": lambda facade: facade.core.close(on_done=_ignore),
}
