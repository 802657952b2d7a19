"""Hooks around what the styles hand out: callbacks that may be coroutine functions, and iterators.

Without hooks each function here returns what it was given. It is called when a consumer starts, not for each message.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Generator, Iterator
from contextvars import ContextVar, copy_context
from functools import cache, partial, update_wrapper
from typing import Any, TypeVar

from ..client import hooks
from ..client.hooks import HandedOut
from ..wire.message import Message

T = TypeVar("T")


def callback(function: Any, no_ack: bool) -> Any:
    """A consumer's callback with the hooks around it, of the same kind: a function, a coroutine function or a generator
    function."""
    if not hooks.are_installed() or not callable(function):
        return function
    acknowledged = not no_ack

    async def coroutine(message: Message) -> Any:
        with HandedOut(message, acknowledged):
            return await function(message)

    def generator(message: Message) -> Generator[Any, Any, Any]:
        with HandedOut(message, acknowledged):
            return (yield from function(message))

    kind = _kind(function)
    if kind is None:
        return _named(hooks.around(function, no_ack), function)
    if kind == "asyncgen":
        return function  # no style takes it
    return _named(coroutine if kind == "coroutine" else generator, function)


def deferring(function: Any, no_ack: bool) -> Any:
    """The same where a function may return a Deferred: the message is in hand until that has fired. The callback has a
    context of its own (`contextvars`), since the reactor makes other calls meanwhile."""
    if not hooks.are_installed() or not callable(function) or _kind(function) is not None:
        return callback(function, no_ack)
    acknowledged = not no_ack

    def with_hooks(message: Message) -> Any:
        held, context = HandedOut(message, acknowledged), copy_context()
        context.run(held.__enter__)
        try:
            returned = context.run(function, message)
        except BaseException as error:
            context.run(held.__exit__, type(error), error, error.__traceback__)
            raise
        if not hasattr(returned, "addBoth"):
            context.run(held.__exit__, None, None, None)
            return returned

        def fired(result: Any) -> Any:
            error = getattr(result, "value", None) if hasattr(result, "getErrorMessage") else None
            context.run(held.__exit__, *((type(error), error, None) if error is not None else (None, None, None)))
            return result

        return returned.addBoth(fired)

    return _named(with_hooks, function)


def _kind(function: Any) -> str | None:
    """Whether a callback is a coroutine function or the like; None: a plain function."""
    called: Any = function if inspect.isroutine(function) or isinstance(function, partial) else type(function).__call__
    if inspect.iscoroutinefunction(called):
        return "coroutine"
    if inspect.isgeneratorfunction(called):
        return "generator"
    return "asyncgen" if inspect.isasyncgenfunction(called) else None


def _named(wrapper: Any, function: Any) -> Any:
    update_wrapper(wrapper, function)
    del wrapper.__wrapped__
    return wrapper


def messages(iterator: Generator[Message, Any, Any], no_ack: bool) -> Iterator[Message]:
    """A generator of messages, with the hooks around the time between two of them."""
    if not hooks.are_installed():
        return iterator
    watched = _watched(iterator, not no_ack)
    next(watched)
    return watched


def _watched(iterator: Generator[Message, Any, Any], acknowledged: bool) -> Iterator[Any]:
    try:
        yield None  # for `messages`: a generator that has not begun would not run what stands under "finally"
        for message in iterator:
            with HandedOut(message, acknowledged):
                yield message
    finally:
        iterator.close()


# The iterators of other styles may be shared by tasks or by threads. Each of these has a context of its own, and in it
# the message that it has in hand.
_in_hand: ContextVar[tuple[tuple[int, HandedOut], ...]] = ContextVar("cpspika messages in hand", default=())
_numbers = itertools.count()


def iterator(plain: T) -> T:
    """An iterator of the styles that have a class for it; with hooks, of a class that calls them."""
    if hooks.are_installed():
        watched: Any = plain
        kind: Any = type(plain)
        watched.__class__ = _calling(kind)
        watched._number = next(_numbers)
    return plain


class _HandsOut:
    """The part that hands messages out."""

    _arrived: Any
    _number: int

    def _leave(self) -> None:
        """The message before is done with."""
        in_hand = _in_hand.get()
        mine = [held for owner, held in in_hand if owner == self._number]
        if mine:
            _in_hand.set(tuple(each for each in in_hand if each[0] != self._number))
        for held in mine:
            held.__exit__(None, None, None)

    def _enter(self, message: Message) -> Message:
        held = HandedOut(message, not self._arrived._options["no_ack"])
        _in_hand.set((*_in_hand.get(), (self._number, held)))
        held.__enter__()
        return message

    def __del__(self) -> None:
        self._leave()
        parent: Any = super()
        parent.__del__()


class _Hands(_HandsOut):
    def __next__(self) -> Message:
        self._leave()
        parent: Any = super()
        return self._enter(parent.__next__())

    def close(self) -> None:
        self._leave()
        parent: Any = super()
        parent.close()


class _HandsLater(_HandsOut):
    async def __anext__(self) -> Message:
        self._leave()
        parent: Any = super()
        return self._enter(await parent.__anext__())

    async def aclose(self) -> None:
        self._leave()
        parent: Any = super()
        await parent.aclose()


@cache
def _calling(kind: Any) -> Any:
    """The subclass of an iterator's class that calls the hooks."""
    mixin = _HandsLater if hasattr(kind, "__anext__") else _Hands
    return type(f"Watched{kind.__name__}", (mixin, kind), {})
