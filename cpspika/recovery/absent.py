"""Consumers that cannot start again yet: their queue is away, or locked by the link that was lost.

A question is asked on a channel of its own until the broker says yes (`probe`). Only the consumer's channel waits.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ..client.channel import Channel
from ..client.continuations import OnDone, Request
from ..client.operations import Consumer
from ..errors import AMQPError
from .operations import Consume
from .probe import Ask
from .roles import Consuming

ABSENT_SECONDS = 2.0  # in which the queue of a consumer must come back


def refused(channel: Consuming, tag: str, error: AMQPError) -> None:
    """The broker closed a channel for a consumer that recovery has asked for."""
    consume = channel._consumers_known.get(tag)
    if consume is None:
        return
    if error.code in (403, 405):
        _hold(channel, tag, partial(_consume_and_cancel, consume), (403, 405), channel._connection._lock_seconds())
    elif error.code == 404:
        _hold(channel, tag, partial(_exists, consume), (404,), ABSENT_SECONDS)
    else:
        channel._consumer_failed(tag, error)


def look_after(channel: Consuming, consume: Consume) -> None:
    """The broker has cancelled a consumer: starts it again as soon as its queue exists."""

    def found(error: AMQPError | None) -> None:
        if error is None:
            channel._consume_again(consume)
        else:
            channel._consumer_failed(consume.tag, error)

    channel._connection._probe(partial(_exists, consume), (404,), ABSENT_SECONDS, found)


def _hold(channel: Consuming, tag: str, ask: Ask, codes: tuple[int, ...], seconds: float) -> None:
    """Restores a channel only when a consumer of it can start again, or cannot."""

    def answered(error: AMQPError | None) -> None:
        channel._held -= 1
        if error is not None:
            channel._consumer_failed(tag, error)
        channel._restore()

    channel._held += 1
    channel._connection._probe(ask, codes, seconds, answered)


def _exists(consume: Consume, channel: Channel, on_done: OnDone[Any]) -> None:
    channel.queue_declare(consume.arguments["queue"], passive=True, on_done=on_done)


def _consume_and_cancel(consume: Consume, channel: Channel, on_done: OnDone[Any]) -> None:
    """Whether a consumer would be accepted: it is started where nobody takes a message, and cancelled."""

    def started(err: AMQPError | None, tag: Any) -> None:
        if err is not None:
            on_done(err, None)
        elif channel.is_open:
            channel.basic_cancel(tag, on_done=on_done)

    channel.basic_qos(prefetch_count=1)
    arguments = {**consume.arguments, "no_ack": False}
    request = Request("basic.consume", started, ("basic.consume-ok",))
    channel._ask_consume(request, Consumer(_ignore_message, None), arguments)


def _ignore_message(message: Any) -> None:
    """It goes back to its queue when the channel is closed."""
