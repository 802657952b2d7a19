"""An exception of a signal handler at every place of a call where Python may run one: what the call was to bring is in
the program's hands, or with the broker again, or the link is dropped (clauses 9 and 10 of the law)."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest

import cpspika
from cpspika.broker import Broker, serve
from tests.styles.test_cancelled_at_random import CALLED
from tests.support.injector import Injector, Interrupt

pytestmark = pytest.mark.slow
MESSAGES = 5
SECONDS = 10.0


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with serve() as broker:
        yield broker


class Hands:
    """What the program has got from its calls."""

    def __init__(self) -> None:
        self.messages: list[cpspika.Message] = []
        self.tags: list[str] = []
        self.channels: list[Any] = []


def get(channel: Any, queue: str, hands: Hands) -> None:
    hands.messages.append(channel.basic_get(queue))


def iterate(channel: Any, queue: str, hands: Hands) -> None:
    with closing(channel.consume(queue)) as messages:
        hands.messages.append(next(messages))


def consume(channel: Any, queue: str, hands: Hands) -> None:
    # A message that came back at once would be delivered again and again, as long as the call waits.
    hands.tags.append(channel.basic_consume(queue, hands.messages.append))


def open_channel(channel: Any, queue: str, hands: Hands) -> None:
    hands.channels.append(channel.connection.channel())


def close_channel(channel: Any, queue: str, hands: Hands) -> None:
    other = channel.connection.channel()
    hands.channels.append(other)
    other.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised while a generator is closed
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.long), 13])
@pytest.mark.parametrize("use", [get, iterate, consume, open_channel, close_channel])
@pytest.mark.parametrize("kind", CALLED)
def test_nothing_is_lost_wherever_an_interrupt_comes(broker: Broker, kind: str, use: Any, step: int) -> None:
    queue = f"{kind} {use.__name__} {step}"
    with cpspika.BlockingConnection(broker.url) as filling, filling.channel() as channel:
        channel.queue_declare(queue)
        channel.confirm_select()
        for _ in range(MESSAGES):
            channel.basic_publish("", queue, b"x")
    number, gaps = 0, []
    while True:
        number += step
        injector = Injector(number)  # before a connection is open: it may skip
        connection = CALLED[kind](broker.url, timeout=SECONDS, heartbeat=0)
        channel, watch, hands = connection.channel(), connection.channel(), Hands()
        with injector.block(), suppress(Interrupt):
            use(channel, queue, hands)
        if injector.where:
            with suppress(cpspika.ConnectionClosed):
                wrong = left_behind(channel, watch, queue, hands)
                if wrong:
                    gaps.append(f"{injector.where}: {wrong}")
        with suppress(cpspika.ConnectionClosed):  # the end of a link that was dropped, of which no call has told
            connection.close()
        if not injector.where:
            break
        # The exception keeps the connection. Its callbacks that were put by would take time in each later run.
        del connection, channel, watch, hands
        if number % 20 < step:
            gc.collect()
    assert number > 20, "nothing was interrupted"
    assert not gaps, f"{len(gaps)} of {number // step} places:\n" + "\n".join(gaps)


def left_behind(channel: Any, watch: Any, queue: str, hands: Hands) -> str:
    """What is with nobody, on a connection that still works."""
    for other in hands.channels:
        other.close()
    for tag in hands.tags:
        channel.basic_cancel(tag)
    deadline = time.monotonic() + SECONDS
    connection = channel.connection
    while True:
        if hasattr(connection, "drain_events"):
            connection.drain_events(0)
        while hands.messages:
            hands.messages.pop().reject()
        found = watch.queue_declare(queue, passive=True)
        open_now = len(connection.core._channels)
        if (found.message_count, found.consumer_count, open_now) == (MESSAGES, 0, 2):
            return ""
        if time.monotonic() > deadline:
            return f"{found}, {open_now} channels of 2"
        time.sleep(0.005)
