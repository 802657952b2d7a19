"""Waiting for the end of a connection: `wait_closed` in each style with promises, `join` with threads."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

import cpspika
from cpspika.broker import Served, serve
from cpspika.threads import ThreadedConnection
from tests.support.awaiting import STYLES, Awaiting

DEADLINE = 20.0
QUICK = cpspika.Recovery(backoff=(0.001, 0.05))
each_style = pytest.mark.parametrize("make", STYLES.values(), ids=STYLES.keys())
either = pytest.mark.parametrize("recovery", [None, QUICK], ids=["without recovery", "with recovery"])


@pytest.fixture
def broker() -> Iterator[Served]:
    with serve() as running:
        yield running


def handlers(connection: Any) -> int:
    return len(connection.core._handlers.get("state", ()))


async def waiting(style: Awaiting, connection: Any, outcomes: list[Any]) -> None:
    try:
        outcomes.append(await connection.wait_closed())
    except cpspika.AMQPError as error:
        outcomes.append(error)


async def until(style: Awaiting, condition: Any, missing: str) -> None:
    for _ in range(int(DEADLINE / 0.005)):
        if condition():
            return
        await style.sleep(0.005)
    raise AssertionError(f"{missing} did not come within {DEADLINE:g} s")


@each_style
@either
def test_a_close_fulfils_it(make: Any, broker: Served, recovery: Any) -> None:
    async def main(style: Awaiting) -> None:
        outcomes: list[Any] = []
        async with style.connect(broker.url, recovery=recovery) as connection:
            style.start(waiting(style, connection, outcomes))
            await connection.close()
            await until(style, lambda: outcomes, "the end")
            assert await connection.wait_closed() is None  # it has ended already
        assert await connection.wait_closed() is None  # and nothing of it turns any more
        assert outcomes == [None]

    make().run(main)


@each_style
def test_a_lost_link_rejects_it(make: Any, broker: Served) -> None:
    async def main(style: Awaiting) -> None:
        outcomes: list[Any] = []
        async with style.connect(broker.url) as connection:
            style.start(waiting(style, connection, outcomes))
            style.start(waiting(style, connection, outcomes))
            await style.sleep(0)
            broker.drop_links()
            await until(style, lambda: len(outcomes) == 2, "the loss")
            with pytest.raises(cpspika.ConnectionLost):
                await connection.wait_closed()
        with pytest.raises(cpspika.ConnectionLost):
            await connection.wait_closed()
        assert [type(error) for error in outcomes] == [cpspika.ConnectionLost] * 2

    make().run(main)


@each_style
def test_with_recovery_a_lost_link_is_no_end_and_giving_up_is(make: Any) -> None:
    async def main(style: Awaiting) -> None:
        outcomes: list[Any] = []
        events: list[str] = []
        options = cpspika.Recovery(backoff=(0.001, 0.05), give_up_after=0.3)
        with serve() as broker:
            async with style.connect(broker.url, recovery=options) as connection:
                connection.add_recovery_handler(lambda connection, event: events.append(event.kind))
                style.start(waiting(style, connection, outcomes))
                await style.sleep(0)
                broker.drop_links()
                await until(style, lambda: "restored" in events, "the new link")
                assert outcomes == []
                broker.stop()
                await until(style, lambda: outcomes, "the end")
                assert isinstance(outcomes[0], cpspika.ConnectionClosed)
                assert "gave_up" in events

    make().run(main)


@each_style
@either
def test_one_that_is_cancelled_leaves_nothing(make: Any, broker: Served, recovery: Any) -> None:
    async def main(style: Awaiting) -> None:
        async with style.connect(broker.url, recovery=recovery) as connection:
            before = handlers(connection)
            for _ in range(20):
                outcomes: list[Any] = []
                work = style.start(waiting(style, connection, outcomes))
                await style.sleep(0.001)
                await style.cancel(work)
                assert outcomes == []
            assert handlers(connection) <= before + 1

    make().run(main)


@each_style
def test_one_that_is_cancelled_does_not_hide_the_loss_of_the_link(make: Any, broker: Served) -> None:
    """Nobody is told of the loss then, so it comes out of the reactor."""

    async def main(style: Awaiting) -> None:
        async with style.connect(broker.url) as connection:
            if hasattr(connection.reactor, "on_error"):
                connection.reactor.on_error = lost.append
            work = style.start(waiting(style, connection, []))
            await style.sleep(0.001)
            await style.cancel(work)
            broker.drop_links()
            await until(style, lambda: not connection.is_open, "the loss")
            await until(style, lambda: lost, "the error")

    lost: list[BaseException] = []
    make().run(main)
    assert isinstance(lost[0], cpspika.ConnectionLost)


@each_style
def test_the_error_is_a_fresh_one_each_time(make: Any, broker: Served) -> None:
    """One that is raised again and again would hold more frames each time."""

    async def main(style: Awaiting) -> None:
        async with style.connect(broker.url) as connection:
            broker.drop_links()
            lengths = []
            for _ in range(5):
                with pytest.raises(cpspika.ConnectionLost) as raised:
                    await connection.wait_closed()
                lengths.append(len(traceback.extract_tb(raised.value.__traceback__)))
            assert len(set(lengths[1:])) == 1, lengths

    make().run(main)


# --- threads ----------------------------------------------------------------------------------------------------------


@either
def test_join_ends_with_a_close(broker: Served, recovery: Any) -> None:
    with ThreadedConnection(broker.url, recovery=recovery) as connection:
        assert connection.join(0.01) is False
        closing = threading.Timer(0.05, connection.close)
        closing.start()
        assert connection.join(DEADLINE) is True
        closing.join()
    assert connection.join(DEADLINE) is True


def test_join_raises_the_loss_of_the_link_fresh_each_time(broker: Served) -> None:
    connection = ThreadedConnection(broker.url, on_error=lambda error: None)
    broker.drop_links()
    lengths = []
    for _ in range(5):
        with pytest.raises(cpspika.ConnectionLost) as raised:
            connection.join(DEADLINE)
        lengths.append(len(traceback.extract_tb(raised.value.__traceback__)))
    assert len(set(lengths)) == 1, lengths


def test_join_with_recovery_outlives_a_link_and_ends_with_giving_up() -> None:
    events: list[str] = []
    restored = threading.Event()
    options = cpspika.Recovery(backoff=(0.001, 0.05), give_up_after=0.3)

    def on_event(connection: Any, event: cpspika.RecoveryEvent) -> None:
        events.append(event.kind)
        if event.kind == "restored":
            restored.set()

    with serve() as broker:
        connection = ThreadedConnection(broker.url, recovery=options, on_error=lambda error: None)
        connection.add_recovery_handler(on_event)
        broker.drop_links()
        assert restored.wait(DEADLINE), "the link did not come back"
        assert connection.join(0.01) is False
    with pytest.raises(cpspika.ConnectionClosed):
        connection.join(DEADLINE)
    assert "gave_up" in events


def test_join_in_a_callback_waits_for_the_other_threads(broker: Served) -> None:
    joined: list[Any] = []
    done = threading.Event()
    with ThreadedConnection(broker.url) as connection:
        channel = connection.channel()

        def on_message(message: Any) -> None:
            connection.close()
            joined.append(connection.join(DEADLINE))
            done.set()

        queue = channel.queue_declare(exclusive=True).queue
        channel.basic_consume(queue, on_message, no_ack=True)
        channel.basic_publish("", queue, "m")
        assert done.wait(DEADLINE), "join did not return"
    assert joined == [True]
