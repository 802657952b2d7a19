"""A program that goes on after an exception of a signal handler, on a connection with recovery: the exception may come
at every place of a call where Python may run a handler. The connection comes back, each publish of a block ends, and no
consumer is left with nobody (clauses 4, 9 and 10 of the law)."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import cpspika
from cpspika.broker import Broker
from tests.styles.test_cancelled_at_random import CALLED
from tests.styles.test_interrupted_calls import broker as broker
from tests.support.injector import Alarm, Injector
from tests.support.waiting import until

SECONDS = 10.0
RECOVERY = cpspika.Recovery(backoff=(0.005, 0.02))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # raised while a generator is closed
]
each_place = pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.long), 83])


def interrupt_everywhere(step: int, run: Callable[[Injector], str]) -> None:
    """Has run(injector) interrupted in one place after another; it returns what is wrong then, or ""."""
    number, gaps = 0, []
    while True:
        number += step
        injector = Injector(number, Alarm)
        gc.disable()  # what it would find is of runs before
        try:
            wrong = run(injector)
        finally:
            gc.enable()
        if not injector.where:
            break
        if wrong:
            gaps.append(f"{injector.where}: {wrong}")
        if number % 20 < step:
            gc.collect()
    assert number > 20, "nothing was interrupted"
    assert not gaps, f"{len(gaps)} of {number // step} places:\n" + "\n".join(gaps)


@each_place
@pytest.mark.parametrize("recovery", [None, RECOVERY], ids=["plain", "recovery"])
@pytest.mark.parametrize("kind", ["BlockingConnection", "SelectConnection"])
def test_each_publish_of_a_block_ends(broker: Broker, kind: str, recovery: Any, step: int) -> None:
    queue = f"block {kind} {recovery is None} {step}"
    with cpspika.BlockingConnection(broker.url) as watching, watching.channel() as watch:
        watch.queue_declare(queue)

        def run(injector: Injector) -> str:
            connection = CALLED[kind](broker.url, timeout=SECONDS, heartbeat=0, recovery=recovery)
            channel, returned, wrong = connection.channel(), list[int](), ""
            channel.confirm_select()
            block = channel.pipelined(window=2)
            try:
                with injector.block(), suppress(Alarm), block:
                    for number in range(5):
                        channel.basic_publish("", queue, str(number))
                        returned.append(number)
            except (cpspika.PublishesFailed, cpspika.ConnectionClosed):
                pass
            except cpspika.OperationTimeout as error:
                wrong = repr(error)
            if not settles(connection, block):
                wrong += f" {block.unconfirmed} unconfirmed for ever"
            failed = [index for index, _ in block.failures]
            try:
                connection.close()
            except cpspika.AMQPError as error:
                if recovery is not None or not isinstance(error, cpspika.ConnectionClosed):
                    wrong += repr(error)
            there = [int(message.body) for message in iter(lambda: watch.basic_get(queue, no_ack=True), None)]
            wrong += " failed twice" if len(set(failed)) != len(failed) else ""
            wrong += f" lost {set(returned) - set(failed) - set(there)}" if set(returned) - {*failed, *there} else ""
            return wrong + (" copies" if recovery is None and len(set(there)) != len(there) else "")

        interrupt_everywhere(step, run)


def settles(connection: Any, block: Any) -> bool:
    def turn() -> bool:
        with suppress(cpspika.AMQPError, Alarm):
            connection.drain_events(0.001)
        return not block.unconfirmed

    try:
        until(turn, "the confirms", SECONDS)
    except AssertionError:
        return False
    return True


@each_place
@pytest.mark.parametrize("kind", ["BlockingConnection", "SelectConnection"])
def test_no_consumer_of_an_iterator_is_left(broker: Broker, kind: str, step: int) -> None:
    queue, messages = f"iterate {kind} {step}", 3
    with cpspika.BlockingConnection(broker.url) as watching, watching.channel() as watch:
        watch.queue_declare(queue)
        for number in range(messages):
            watch.basic_publish("", queue, str(number))

        def run(injector: Injector) -> str:
            connection = CALLED[kind](broker.url, timeout=SECONDS, heartbeat=0, recovery=RECOVERY)
            channel, hands = connection.channel(), list[cpspika.Message]()
            with injector.block(), suppress(Alarm):
                for message in channel.consume(queue):
                    hands.append(message)
                    if len(hands) == 2:
                        break
            for message in hands:
                message.nack()
            found: Any = None

            def is_as_before() -> bool:
                nonlocal found
                with suppress(Alarm):
                    connection.drain_events(0.001)
                found = watch.queue_declare(queue, passive=True)
                return (found.message_count, found.consumer_count) == (messages, 0)

            try:
                if injector.where:  # else the injector still holds the iterator's frame
                    until(is_as_before, "the messages and no consumer", SECONDS)
            except AssertionError:
                return repr(found)
            finally:
                connection.close()
            return ""

        interrupt_everywhere(step, run)


def drop_links(broker: Broker) -> None:
    broker.drop_links()


def close_channels(broker: Broker) -> None:
    broker.close_channels(406, "PRECONDITION_FAILED - as a test wants")


@each_place
@pytest.mark.parametrize("lose", [drop_links, close_channels])
@pytest.mark.parametrize("kind", ["BlockingConnection", "SelectConnection"])
def test_what_was_lost_comes_back(broker: Broker, kind: str, lose: Any, step: int) -> None:
    queue = f"lose {kind} {lose.__name__} {step}"

    def run(injector: Injector) -> str:
        connection = CALLED[kind](broker.url, timeout=SECONDS, heartbeat=0, recovery=RECOVERY)
        channel, got = connection.channel(), list[bytes]()
        channel.queue_declare(queue)
        channel.basic_consume(queue, lambda message: got.append(message.body), no_ack=True)
        lose(broker)
        with injector.block(), suppress(Alarm):
            channel.queue_declare(queue, passive=True)
        try:
            for _ in range(2):
                with suppress(Alarm):
                    channel.queue_declare(queue)
            channel.basic_publish("", queue, "x")
            until(lambda: connection.drain_events(0.01) or got, "the message", SECONDS)
        except (cpspika.AMQPError, AssertionError) as error:
            return repr(error)
        finally:
            connection.close()
        return "" if got == [b"x"] else repr(got)

    interrupt_everywhere(step, run)


@each_place
@pytest.mark.parametrize("kind", ["BlockingConnection", "SelectConnection"])
def test_no_channel_is_left_with_nobody(broker: Broker, kind: str, step: int) -> None:
    options: Any = {"timeout": SECONDS, "heartbeat": 0, "recovery": RECOVERY, "channel_max": 1}
    with CALLED[kind](broker.url, **options) as connection:

        def run(injector: Injector) -> str:
            channel: Any = None
            with injector.block(), suppress(Alarm):
                channel = connection.channel()
            if channel is not None:
                channel.close()

            def may_open() -> bool:
                try:
                    connection.drain_events(0.001)
                    connection.channel().close()
                except (Alarm, cpspika.AMQPError):
                    return False
                return True

            try:
                until(may_open, "a channel that may be opened", 2.0)
            except AssertionError:
                for channel in list(connection.core._opened_channels):
                    channel.close()
                return "the only channel has nobody"
            return ""

        interrupt_everywhere(step, run)
