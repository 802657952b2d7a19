"""The place of an error is the innermost line of the program's, at every door: neither the library's, nor its caller's.

The library knows how many frames of its own lie between (`client.continuations.call_site`)."""

from __future__ import annotations

import _thread
import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import cpspika
from cpspika import AMQPError, BlockingConnection, NotFound, PublishesFailed, SelectConnection, tasks
from cpspika.adapters import SelectReactor, asyncio_adapter
from cpspika.broker import Served, serve
from cpspika.threads import ThreadedConnection
from tests.support.scripted import Done, opened
from tests.support.waiting import until

KINDS: list[Any] = [SelectConnection, BlockingConnection, ThreadedConnection]
RECOVERING: list[Any] = [None, True]
both = pytest.mark.parametrize("recovery", RECOVERING, ids=["plain", "recovery"])


@pytest.fixture(scope="module")
def broker() -> Iterator[Served]:
    with serve() as served:
        yield served


def asks(call: Callable[[], Any]) -> Any:
    return call()


def asks_here(channel: Any) -> Any:
    return channel.queue_declare("nothing", passive=True)


def publishes_here(channel: Any, **more: Any) -> Any:
    return channel.basic_publish("nowhere", "key", "body", **more)


def calls(function: Callable[..., Any], channel: Any) -> Any:
    """One frame of the program's more, which is not the place."""
    return function(channel)


@both
@pytest.mark.parametrize("kind", KINDS)
def test_where_calls_wait(broker: Served, kind: Any, recovery: Any) -> None:
    with kind(broker.url, timeout=20, recovery=recovery) as connection:
        with pytest.raises(NotFound) as caught:
            calls(asks_here, connection.channel())
        assert str(caught.value.asked_at).endswith("in asks_here")
        channel = connection.channel()
        channel.confirm_select()
        with pytest.raises(AMQPError) as failed:
            calls(publishes_here, channel)
        assert str(failed.value.asked_at).endswith("in publishes_here")


@both
@pytest.mark.parametrize("kind", KINDS)
def test_in_a_block_of_publishes(broker: Served, kind: Any, recovery: Any) -> None:
    with kind(broker.url, timeout=20, recovery=recovery) as connection:
        channel = connection.channel()
        channel.confirm_select()
        with pytest.raises(PublishesFailed) as failed, channel.pipelined():
            calls(publishes_here, channel)
        (_, error), *_ = failed.value.failures
        assert str(error.asked_at).endswith("in publishes_here")


async def _promised(connecting: Any) -> list[Any]:
    connection = await connecting
    places = []
    with pytest.raises(NotFound) as caught:
        await calls(asks_here, await connection.channel())
    places.append(caught.value.asked_at)
    channel = await connection.channel()
    await channel.confirm_select()
    with pytest.raises(AMQPError) as failed:
        await calls(publishes_here, channel)
    places.append(failed.value.asked_at)
    await connection.close()
    return places


@both
def test_of_promises(broker: Served, recovery: Any) -> None:
    async def main() -> Any:
        return await _promised(asyncio_adapter.connect(broker.url, recovery=recovery))

    reactor = SelectReactor()
    connecting = tasks.connect(broker.url, reactor=reactor, recovery=recovery)
    for places in asyncio.run(main()), tasks.run(_promised(connecting), reactor):
        assert [str(place).rpartition(" ")[2] for place in places] == ["asks_here", "publishes_here"]
    reactor.close()


def test_in_the_core() -> None:
    world = opened()
    channel, declared, published, watched = world.confirming(), Done(), Done(), Done()
    calls(lambda channel: asks(partial(channel.queue_declare, "q", on_done=declared)), channel)
    calls(partial(publishes_here, on_done=published), channel)
    calls(partial(publishes_here, mandatory=True, on_done=watched), channel)
    world.peer.close_connection()
    world.settle()
    places = [str(done.error.asked_at).rpartition(" ")[2] for done in (declared, published, watched)]
    assert places == ["asks", "publishes_here", "publishes_here"]


def test_an_operation_that_a_thread_itself_runs_has_no_place() -> None:
    """No frame of the program's is below it."""
    world = opened()
    channel, declared, published = world.confirming(), Done(), Done()
    _thread.start_new_thread(partial(channel.queue_declare, "q", on_done=declared), ())
    until(lambda: bool(channel._pending), "a queue.declare of the first thread")
    _thread.start_new_thread(partial(channel.basic_publish, "", "q", "body", on_done=published), ())
    until(lambda: bool(list(channel._publisher._window or ())), "a publish of the second thread")
    world.peer.close_connection()
    world.settle()
    assert (declared.error.asked_at, published.error.asked_at) == (None, None)
    assert isinstance(published.error, cpspika.DeliveryUnknown)


def test_what_recovery_asks_for_has_no_place() -> None:
    """The reactor's turn asks for it, whatever the program does at that time."""
    with serve() as broker:
        errors = list[AMQPError]()

        def note(_: Any, event: cpspika.RecoveryEvent) -> None:
            if event.kind == "retrying" and event.error is not None:
                errors.append(event.error)

        with BlockingConnection(broker.url, recovery=cpspika.Recovery(backoff=(0.01, 0.02))) as connection:
            connection.add_recovery_handler(note)
            broker.crash()
            until(lambda: connection.drain_events(0.01) and len(errors) > 2, "errors of reconnecting")
            broker.restart()
    assert [error.asked_at for error in errors if isinstance(error, cpspika.ConnectError)] == [None] * (len(errors) - 1)


def test_behind_the_standard_library() -> None:
    async def first_of(messages: Any) -> Any:
        return await asyncio.wait_for(anext(messages), 5)

    async def main(url: str) -> Any:
        async with asyncio_adapter.connect(url) as connection, await connection.channel() as channel:
            with pytest.raises(NotFound) as caught:
                await first_of(channel.consume("nothing"))
            return caught.value.asked_at

    with serve() as broker:
        place = asyncio.run(main(broker.url))
    assert place is None or str(place).endswith("in first_of")
