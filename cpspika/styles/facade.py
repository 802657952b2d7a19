"""The base of every facade: a connection or channel in another style, around the core.

A facade inherits the operations and attributes that `lifting` made, and says how its style performs the operations.
This module has the rest that all styles share.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from ..client.channel import Channel
from ..client.hints import HintsNames
from ..errors import AMQPError, InvalidArgumentType, ProtocolSyntaxError
from ..interrupts import repeatable
from ..wire.message import Message
from . import watched

S = TypeVar("S", bound="Scope")


class Scope:
    """A context manager that closes itself at the end."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        closing: Any = self
        try:
            closing.close()
        except AMQPError:
            if error is None:
                raise  # otherwise the error of the block says more


class Facade(HintsNames):
    """A connection or channel in another style. `core`: the Connection or Channel below."""

    core: Any

    def _callback(self, function: Callable[..., Any], no_ack: bool = False) -> Callable[..., Any]:
        """Makes the function that the core calls in place of a user's callback. no_ack: its messages are not to be
        acknowledged, so nobody else has them."""
        raise NotImplementedError

    def _watched(self, function: Any, no_ack: bool) -> Any:
        """A user's callback for messages, with the hooks around it if there are any."""
        return watched.callback(function, no_ack)

    def _handler(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same for a handler; its first argument is the connection or channel that it is registered on."""
        return self._callback(function)

    def _own(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function of this name of the core's own class: a connection that recovers has its own."""
        own: Callable[..., Any] = getattr(type(self.core), function.__name__)
        return own

    def _forward(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Calls a function of the core that is no operation."""
        return self._own(function)(self.core, *args, **kwargs)

    def _malformed(self, error: ProtocolSyntaxError) -> None:
        """Messages call this on their channel: a message's header turned out to be malformed when it was read."""
        self._forward(Channel._malformed, (error,), {})

    def _register(self, registration: Callable[..., Any], handler: Any) -> Any:
        return registration(self.core, self._handler(handler) if callable(handler) else handler)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.core!r}>"


class ConnectionFacade(Facade):
    """A connection, whose channels are of one class of facades."""

    def _setup(self, function: Callable[..., Any]) -> Callable[[Channel], Any]:
        """Makes the function that the core calls in place of a user's `on_ready`. If it returns a function, the setup
        goes on: that function is called with on_done(err, result), which is to be called at its end."""
        check_runs_at_once(function)

        def called_by_the_core(core: Channel) -> None:
            function(self._view(core))

        return called_by_the_core

    def _view(self, core: Channel) -> Any:
        """The facade of a channel for `on_ready`. Under recovery that channel is one opening of the program's."""
        return self._channel_facade(core) if core._is_view else self._outward(core)

    def _channel_facade(self, core: Channel) -> Any:
        """Makes a channel's facade."""
        raise NotImplementedError

    def _held(self, facade: Any) -> Callable[[], Any]:
        """A function that returns a channel's facade, for the core to hold."""
        return lambda: facade

    @repeatable
    def _hand_out(self, on_done: Callable[[Any, Any], object], err: AMQPError | None, result: Any) -> None:
        """on_done of an operation: hands on its result as the style has it."""
        on_done(err, None if err else self._outward(result))

    def _outward(self, value: Any) -> Any:
        """The facade of a Connection or Channel of the core; any other value as it is."""
        if isinstance(value, Channel):
            facade = value._facade() if value._facade is not None else None
            if facade is None:
                facade = self._channel_facade(value)
                value._facade = self._held(facade)
            return facade
        if value is not None and value is getattr(self, "core", None):
            return self
        return value


def check_can_be_run(function: Any) -> None:
    """InvalidArgumentType: an asynchronous generator function as callback. No style could run what it returns."""
    if inspect.isasyncgenfunction(function):
        raise InvalidArgumentType(
            f"the callback {function.__qualname__} is an asynchronous generator function, which nothing would run: "
            "write a coroutine function without yield"
        )


def check_runs_at_once(function: Any) -> None:
    """InvalidArgumentType: a coroutine function or a generator function as callback of a facade that only calls it. The
    call would make an object that nobody runs."""
    called = function if inspect.isroutine(function) or isinstance(function, partial) else type(function).__call__
    for kind, is_kind in _RUN_LATER:
        if is_kind(called):
            name = getattr(function, "__qualname__", None) or repr(function)
            raise InvalidArgumentType(
                f"the callback {name} is {kind}, which nothing would run here: write a plain function (def, without "
                "await or yield). In cpspika.adapters.asyncio_adapter and trio_adapter a callback may be a coroutine "
                "function, in cpspika.tasks also a generator function"
            )


_RUN_LATER: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    ("a coroutine function", inspect.iscoroutinefunction),
    ("a generator function", inspect.isgeneratorfunction),
    ("an asynchronous generator function", inspect.isasyncgenfunction),
)


def is_stale(arguments: list[Any]) -> bool:
    """Whether a deferred callback comes too late: the channel of its delivery has closed or was lost. A message that
    was to be acknowledged is the broker's again."""
    return any(
        isinstance(argument, Message)
        and argument.name == "basic.deliver"
        and getattr(argument.channel, "core", argument.channel)._is_stale(argument)
        for argument in arguments
    )
