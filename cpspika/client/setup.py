"""Runs `on_ready`: the program's function that sets a new channel up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..errors import AMQPError, ChannelClosed
from .continuations import Request

OnReady = Callable[[Any], object]
"""on_ready(channel). It may return a function of its own: that is called with on_done(err, result), and the setup goes
on until this on_done is called."""


class Fence(Request):
    """Stands in a channel's queue of requests behind those of the setup, and is settled when they are answered."""

    __slots__ = ("_channel",)

    def __init__(self, channel: SetUp, on_done: Any):
        super().__init__("channel.open", on_done)
        self._channel = channel
        self.answer = True  # no reply belongs to it: it is answered as soon as it is the oldest

    def reply(self, reply: Any) -> None:
        if self._channel.is_open:
            self.done()
        else:
            self.fail(self._channel.close_reason or self._channel._closed_error())


class SetUp(Protocol):
    """The parts of a channel that this module uses."""

    is_open: bool
    close_reason: AMQPError | None
    _pending: Any

    def _closed_error(self) -> AMQPError: ...


def run_setup(on_ready: OnReady, channel: SetUp, on_done: Callable[[AMQPError | None, Any], object]) -> None:
    """Calls on_ready(channel). on_done(err, None) is called once: when on_ready is done and each request that it has
    asked for is answered. err: ChannelClosed with the exception of on_ready as its cause, or the reason for which the
    channel ended meanwhile."""

    def returned(err: Any, _: Any = None) -> None:
        if err is not None:
            on_done(_failure(err), None)
            return
        fence = Fence(channel, on_done)
        if channel._pending and channel.is_open:
            channel._pending.append(fence)
        else:
            fence.reply(True)

    try:
        goes_on = on_ready(channel)
    except BaseException as error:
        returned(error)
        if isinstance(error, Exception):
            return
        raise  # Ctrl-C, or the end of a greenlet, while on_ready waited
    if callable(goes_on):
        goes_on(returned)
    else:
        returned(None)


def _failure(error: BaseException) -> AMQPError:
    if isinstance(error, AMQPError):
        return error
    failure = ChannelClosed(f"on_ready raised {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
