"""Facades that hand back promises: what tasks, asyncio, Twisted and their like have in common.

A style says in one object what its promise is (`Promises`): how one is made and settled, and how a callback's coroutine
is run. The operations are the core's, lifted. A promise may be ignored, as with `message.ack()`.

What the broker doesn't answer (a publish without confirms, an ack) is a promise kept at once while the channel is
writable, since its bytes are on their way with the turn; and while it isn't, one that is kept when it is again. So
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
from typing import Any, Protocol, TypeVar

from .channel import Channel
from .connection import Connection, connect
from .errors import AMQPError, ConsumerCancelled
from .facade import ConnectionFacade, Facade
from .message import Message
from .parameters import ConnectionParameters
from .reactor import Reactor

Settle = Callable[[AMQPError | None, Any], object]
"""on_done, from a promise's side."""
GiveBack = Callable[[Any], object]

S = TypeVar("S", bound="_Scope")


class Promises(Protocol):
    """A style's promises."""

    def make(self, give_back: GiveBack | None = None) -> tuple[Any, Settle]:
        """A promise, and what settles it, which is called once. A result that comes when the holder has given the
        promise up goes to give_back."""

    def kept(self, result: Any) -> Any:
        """A promise that is kept already; it may be the same each time."""

    def spawn(self, coroutine: Any) -> object:
        """Runs the coroutine (or generator) that a user's callback returned."""


class _Scope(Facade):
    """A context manager that closes what it is at the end."""

    async def __aenter__(self: S) -> S:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except AMQPError:
            if error is None:
                raise  # else the error that is under way tells more


class PromisingConnection(_Scope, ConnectionFacade):
    """A connection whose operations return promises. To be inherited together with the operations."""

    def __init__(self, promises: Promises, core: Connection):
        self.promises = promises
        self.core = core

    def _perform(self, operation: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        promise, settle = self.promises.make(_GIVE_BACK.get(operation.__name__))
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


class PromisingChannel(_Scope):
    """A channel whose operations return promises. To be inherited together with the operations."""

    def __init__(self, connection: PromisingConnection, core: Channel):
        self.connection = connection
        self.core = core
        self._promises = connection.promises

    def _perform(self, operation: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        give_back = _GIVE_BACK.get(operation.__name__)
        promise, settle = self._promises.make(give_back and partial(give_back, self.core, args, kwargs))
        operation(self.core, *args, **kwargs, on_done=settle)
        return promise

    def _hand_over(self, operation: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        core = self.core
        if not core.is_open or (operation is _PUBLISH and core.is_confirming):
            return self._perform(operation, args, kwargs)
        if core.hands_over:
            return self._promises.kept(None if operation(core, *args, **kwargs) is None else True)
        promise, settle = self._promises.make()

        def written(err: AMQPError | None, result: Any) -> None:
            if err is None and not core.writable and core.is_open:
                core.drain(on_done=lambda err, _: settle(err, None if err else result))
            else:
                settle(err, result)

        operation(core, *args, **kwargs, on_done=written)
        return promise

    def _callback(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            return lambda message: run_callback(self._promises, function, message)
        return function

    def consume(
        self,
        queue: str,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> Messages:
        """A consumer, as an iterator: `async for message in ch.consume(queue)`. It is started when the first message is
        asked for, and cancelled when the iterator is closed or goes (as after a `break`); messages that came and
        weren't handed out go back to the queue then. Set basic_qos before, or the whole queue comes at once. If the
        broker cancels the consumer, ConsumerCancelled is raised."""
        return Messages(self, queue, {"no_ack": no_ack, "exclusive": exclusive, "arguments": arguments})


class _Arrived:
    """What has come to a consumer, apart from its iterator: the channel holds this, and the iterator can go."""

    __slots__ = ("cancelled", "messages", "no_ack", "waiting")

    def __init__(self, no_ack: bool) -> None:
        self.no_ack = no_ack
        self.messages: deque[Message] = deque()
        self.cancelled: list[str] = []
        self.waiting: Settle | None = None

    def on_message(self, message: Message) -> None:
        self.messages.append(message)
        self.wake()

    def on_cancel(self, tag: str) -> None:
        self.cancelled.append(tag)
        self.wake()

    def on_state(self, channel: Any, is_open: bool) -> None:
        self.wake()

    def wake(self) -> None:
        if self.waiting is not None:
            settle, self.waiting = self.waiting, None
            settle(None, None)

    def give_back(self, core: Channel) -> None:
        """Requeues what nobody asked for."""
        while self.messages and core.is_open and not self.no_ack:
            core.basic_reject(self.messages.popleft().delivery_tag, requeue=True)


class Messages:
    """The messages of a consumer, one after another; `PromisingChannel.consume` makes them. Also an asynchronous
    context manager, which ends when the consumer is known to be cancelled."""

    def __init__(self, channel: PromisingChannel, queue: str, options: dict[str, Any]):
        self.channel = channel
        self.consumer_tag: str | None = None
        self._queue = queue
        self._options = options
        self._arrived = _Arrived(options["no_ack"])
        self._forget: Callable[[], object] | None = None
        self._closed = False

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> Message:
        arrived, core = self._arrived, self.channel.core
        if self._closed:
            raise StopAsyncIteration
        if self.consumer_tag is None:
            await self._start()
        while not arrived.messages:
            if arrived.cancelled:
                raise ConsumerCancelled(
                    f"the broker cancelled consumer {self.consumer_tag!r}, as when its queue is deleted"
                )
            if not core.is_open:
                raise core.close_reason or core.closed_error()
            promise, arrived.waiting = self.channel._promises.make()
            await promise
        return arrived.messages.popleft()

    async def _start(self) -> None:
        arrived, channel = self._arrived, self.channel
        self._forget = channel.core.add_state_change_handler(arrived.on_state)
        self.consumer_tag = await channel._perform(
            Channel.basic_consume,
            (self._queue, arrived.on_message),
            {"on_cancel": arrived.on_cancel, **self._options},
        )

    async def aclose(self) -> None:
        """Cancels the consumer, and gives back what came and wasn't handed out."""
        core, tag = self.channel.core, self.consumer_tag
        if self._end() and core.is_open:
            promise, settle = self.channel._promises.make()
            core.basic_cancel(tag, on_done=settle)
            await promise
            self._arrived.give_back(core)

    async def __aenter__(self) -> Messages:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.aclose()
        except AMQPError:
            if error is None:
                raise

    def _end(self) -> bool:
        """Ends the iteration; whether there is a consumer to be cancelled."""
        running = self.consumer_tag is not None and not self._closed and not self._arrived.cancelled
        self._closed = True
        if self._forget is not None:
            self._forget()
        return running

    def __del__(self) -> None:
        # Nobody awaits it; the reactor carries it out, and an error has been told to whoever has the channel.
        arrived, core = self._arrived, self.channel.core
        if self._end() and core.is_open:
            core.basic_cancel(self.consumer_tag, on_done=lambda err, _: None if err else arrived.give_back(core))


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
    on_close: Callable[[Any, AMQPError | None], object] | None = None,
    begun: Callable[[Connection], object] | None = None,
) -> Any:
    """A promise of a connection; make(core) makes its facade. on_close(connection, err) as of `connect`. begun(core) is
    called at once, for a style that can hang up on an attempt whose promise is given up."""
    promise, settle = promises.make(lambda facade: facade.core.close(on_done=_ignore))
    facades: list[Any] = []

    def connected(err: AMQPError | None, core: Connection | None) -> None:
        if core is not None:
            facades.append(make(core))
        settle(err, facades[0] if facades else None)

    def closed(core: Connection, err: AMQPError | None) -> None:
        if on_close is not None and facades:
            run_callback(promises, on_close, facades[0], err)

    core = connect(reactor, targets, connected, closed if on_close is not None else None)
    if begun is not None:
        begun(core)
    return promise


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
