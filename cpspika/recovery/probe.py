"""A question that is asked on a channel of its own, again and again, until the broker answers it with yes, or too much
time has passed. Each no closes that channel and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from ..client.channel import Channel
from ..client.connection import Connection
from ..client.continuations import ignore
from ..errors import AMQPError
from ..reactor import Timer
from .backoff import Backoff

Ask = Callable[[Channel, Callable[[Any, Any], object]], object]


class Probe:
    """ask(channel, on_done): asks. codes: reply codes that mean "not yet". seconds: after this time from the first no,
    a no is the answer. over(probe): called when the probe is over, on_done(err): before that, with None for yes."""

    __slots__ = (
        "_ask",
        "_backoff",
        "_channel",
        "_codes",
        "_deadline",
        "_link",
        "_on_done",
        "_over",
        "_seconds",
        "_timer",
    )

    def __init__(
        self,
        link: Connection,
        ask: Ask,
        codes: tuple[int, ...],
        seconds: float,
        dice: Random,
        over: Callable[[Probe], object],
        on_done: Callable[[AMQPError | None], object],
    ):
        self._link = link
        self._ask = ask
        self._codes = codes
        self._seconds = seconds
        self._deadline: float | None = None
        self._backoff = Backoff(0.05, 1.0, dice)
        self._over: Callable[[Probe], object] | None = over
        self._on_done = on_done
        self._timer: Timer | None = None
        self._channel: Channel | None = None

    def begin(self) -> None:
        self._timer = None
        channel = self._channel = self._link.channel(on_done=self._opened)
        if channel is not None:
            self._ask(channel, self._answered)

    def _opened(self, err: AMQPError | None, channel: Any) -> None:
        if err is not None:
            self._finish(err)

    def _answered(self, err: AMQPError | None, _: Any) -> None:
        if self._over is None or not self._link.is_open:
            return  # the link's end tells the rest
        if err is None:
            self._finish(None)
            return
        now = self._link.reactor.time()
        if self._deadline is None:
            self._deadline = now + self._seconds
        if err.code in self._codes and now < self._deadline:
            self._timer = self._link.reactor.call_later(self._backoff.next(), self.begin)
        else:
            self._finish(err)

    def _finish(self, err: AMQPError | None) -> None:
        if self._over is not None and self._link.is_open:
            self.cancel()
            self._on_done(err)

    def cancel(self) -> None:
        """Ends it without an answer."""
        over, self._over = self._over, None
        if self._timer is not None:
            self._timer.cancel()
        if self._channel is not None and self._channel.is_open and self._link.is_open:
            self._channel.close(on_done=ignore)
        if over is not None:
            over(self)
