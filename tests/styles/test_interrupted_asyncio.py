"""An exception of a signal handler at every place of the library's code where Python may run one, on asyncio with
recovery, in a program that goes on: each Future is done, and the connection comes back (clauses 4 and 10 of the law).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

import cpspika
from cpspika.adapters import asyncio_adapter
from cpspika.adapters.asyncio_adapter import AsyncioReactor
from cpspika.broker import Broker
from cpspika.recovery import dialling
from tests.styles.test_interrupted_calls import broker as broker
from tests.styles.test_interrupted_recovery import RECOVERY, interrupt_everywhere
from tests.support.hiding import WithoutAddReader
from tests.support.injector import Alarm, Injector

SECONDS = 5.0
OPTIONS: Any = {"recovery": RECOVERY, "heartbeat": 0, "connection_timeout": 2}
Futures = dict[str, "asyncio.Future[Any]"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # raised while a generator is closed
]


def asks(broker: Broker, connection: Any, channel: Any, queue: str) -> Futures:
    channel.basic_publish("", queue, "nobody awaits it")
    return {
        "publish": channel.basic_publish("", queue, "x"),
        "declare": channel.queue_declare(queue),
        "get": channel.basic_get(queue, no_ack=True),
        "consume": channel.basic_consume(queue, lambda message: None, no_ack=True),
    }


def loses_the_link(broker: Broker, connection: Any, channel: Any, queue: str) -> Futures:
    futures = asks(broker, connection, channel, queue)
    broker.drop_links()
    return futures


def opens_channels(broker: Broker, connection: Any, channel: Any, queue: str) -> Futures:
    return {"open": connection.channel(), "open another": connection.channel()}


def closes_the_channel(broker: Broker, connection: Any, channel: Any, queue: str) -> Futures:
    return {**asks(broker, connection, channel, queue), "close": channel.close()}


def connect(broker: Broker) -> Any:
    return asyncio_adapter.connect(broker.url, **OPTIONS)


def connects(broker: Broker, connection: Any, channel: Any, queue: str) -> Futures:
    return {"connect": connect(broker)}


async def opened(connect: Callable[[Broker], Any], broker: Broker, queue: str) -> Any:
    connection = await connect(broker)
    channel = await connection.channel()
    await channel.confirm_select()
    await channel.queue_declare(queue)
    await channel.queue_purge(queue)
    return connection, channel


async def called(function: Callable[..., Futures], *args: Any) -> Futures:
    return function(*args)


async def ended(futures: Futures) -> list[str]:
    """Those that are not done in time."""
    if futures:
        await asyncio.wait(futures.values(), timeout=SECONDS)
    return [name for name, future in futures.items() if not future.done()]


async def another_channel(connection: Any) -> list[str]:
    return await ended({"another channel": connection.channel()})


@pytest.mark.parametrize("step", [pytest.param(5, marks=pytest.mark.long), 47])
@pytest.mark.parametrize("ask", [asks, loses_the_link, opens_channels, closes_the_channel, connects])
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, WithoutAddReader], ids=["add_reader", "transports"])
def test_each_future_is_done(broker: Broker, monkeypatch: Any, new_loop: Any, ask: Any, step: int) -> None:
    queue = f"asyncio {new_loop.__name__} {ask.__name__} {step}"
    monkeypatch.setattr(dialling, "LOOK", 0.3)
    monkeypatch.setattr(dialling, "LATE", 0.2)

    def run(injector: Injector) -> str:
        loop = new_loop()
        loop.set_exception_handler(lambda *_: None)  # asyncio tells it of the exception
        connection, channel = loop.run_until_complete(opened(connect, broker, queue))
        futures = loop.run_until_complete(called(ask, broker, connection, channel, queue))
        ending = loop.create_task(ended(futures))
        with injector.block(), suppress(Alarm):
            loop.run_until_complete(ending)
        try:
            # Where the exception cost the loop one of the reactor's handles, what is asked next brings the calls.
            late = loop.run_until_complete(another_channel(connection))
            late += loop.run_until_complete(ended(futures))
            wrong = f"{late} never done, and connected: {connection.is_connected}" if late else ""
            for name, future in futures.items():
                error = future.exception() if future.done() else None
                wrong += "" if error is None or isinstance(error, cpspika.AMQPError) else f" {name}: {error!r}"
            if ask is connects and not wrong:
                with suppress(cpspika.AMQPError):  # an exception amid the first connecting ends it
                    futures["connect"].result().core.abort()
            connection.core.abort()
            loop.run_until_complete(ended({}))
        finally:
            loop.close()
        return wrong

    interrupt_everywhere(step, run)


def test_calls_are_made_though_the_loop_has_lost_a_handle() -> None:
    """asyncio takes a handle out of its queue before it calls it. An exception in between costs it the handle."""
    loop = asyncio.new_event_loop()
    reactor, made = AsyncioReactor(loop), list[int]()
    for number in range(2):
        reactor.call_soon(partial(made.append, number))
    loop._ready.popleft()  # type: ignore[attr-defined]
    loop.run_until_complete(asyncio.sleep(0.01))
    assert made == [0, 1]
    reactor.call_soon(partial(made.append, 2))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    assert made == [0, 1, 2]
