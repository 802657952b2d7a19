"""The reactor on asyncio's loops, driven by itself: held to the tests of the other reactors, and what is its own."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cpspika
from cpspika import ConcurrentUse, LocalError, tasks
from cpspika.adapters.asyncio_adapter import AsyncioReactor
from tests.reactors import test_reactors
from tests.support.hiding import WithoutAddReader
from tests.support.scripted import SocketBroker, run_until
from tests.support.style_asyncio import on_uvloop
from tests.support.waiting import DEADLINE

NOT_OURS = {
    "test_the_heap_does_not_grow_with_cancelled_timers",  # the heap is the loop's
    "test_a_run_inside_a_run_leaves_the_outer_one_stoppable",  # is an error here
}
globals().update(
    {
        name: test
        for name, test in vars(test_reactors).items()
        if name.startswith("test_")
        and name not in NOT_OURS
        and inspect.signature(test).parameters.keys() in ({"reactor"}, {"real"}, {"shared"})
    }
)


@pytest.fixture(
    params=[
        asyncio.new_event_loop,
        pytest.param(WithoutAddReader, marks=pytest.mark.slow),
        pytest.param(on_uvloop, marks=pytest.mark.slow),
    ],
    ids=["asyncio", "without-add_reader", "uvloop"],
)
def reactor(request: Any) -> Iterator[AsyncioReactor]:
    loop = request.param()
    yield AsyncioReactor(loop)
    loop.close()


@pytest.fixture
def real(reactor: AsyncioReactor) -> AsyncioReactor:
    return reactor


@pytest.fixture
def shared(reactor: AsyncioReactor) -> Iterator[AsyncioReactor]:
    yield reactor
    reactor.on_error = lambda error: None
    for connection in list(cpspika.client.connection._connections):
        if connection.reactor is reactor:
            connection.close()
    run_until(reactor, lambda: not reactor._watched and not reactor._held)


def test_a_loop_of_its_own_is_closed_with_it() -> None:
    own = AsyncioReactor()
    own.call_soon(lambda: log.append(1))
    log: list[int] = []
    own.run()
    own.close()
    assert log == [1]
    assert own.loop.is_closed()
    theirs = AsyncioReactor(asyncio.new_event_loop())
    theirs.close()
    assert not theirs.loop.is_closed()
    theirs.loop.close()


def test_the_programs_own_tasks_run_beside_and_do_not_keep_run_from_ending(reactor: AsyncioReactor) -> None:
    async def for_ever() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turns = 0
    task = reactor.loop.create_task(for_ever())
    reactor.call_later(0.01, lambda: None)
    reactor.run()
    assert turns > 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        reactor.loop.run_until_complete(task)


def test_run_ends_when_the_programs_own_callback_takes_away_the_last_work(reactor: AsyncioReactor) -> None:
    release = reactor.hold()
    reactor.loop.call_later(0.01, release)
    reactor.run()
    timer = reactor.call_later(3600, print)
    reactor.loop.call_later(0.01, timer.cancel)
    reactor.run()


@pytest.mark.parametrize("way", ["run", "run_once"])
def test_a_loop_that_is_running_cannot_be_driven(reactor: AsyncioReactor, way: str) -> None:
    async def main() -> None:
        reactor.call_later(0, lambda: None)
        with pytest.raises(LocalError, match=r"running here.*await"):
            getattr(reactor, way)()
        with pytest.raises(LocalError, match="running here"):
            tasks.run(never(), reactor)
        with pytest.raises(LocalError, match="running here"):
            cpspika.SelectConnection("embedded://", reactor=reactor)
        await asyncio.sleep(0.02)

    async def never() -> None:
        raise AssertionError("it is cancelled before it begins")

    reactor.loop.run_until_complete(main())


def test_another_thread_cannot_drive_it_meanwhile(reactor: AsyncioReactor) -> None:
    raised: list[Exception] = []

    def drive() -> None:
        try:
            reactor.run_once(0)
        except Exception as error:
            raised.append(error)

    async def main() -> None:
        thread = threading.Thread(target=drive)
        thread.start()
        thread.join(DEADLINE)

    reactor.loop.run_until_complete(main())
    assert [type(error) for error in raised] == [ConcurrentUse]


def test_stop_leaves_a_loop_alone_that_the_program_runs(reactor: AsyncioReactor) -> None:
    async def main() -> str:
        reactor.stop()
        await asyncio.sleep(0)
        return "to its end"

    assert reactor.loop.run_until_complete(main()) == "to its end"


def test_the_core_runs_on_it(reactor: AsyncioReactor) -> None:
    log: list[Any] = []
    with SocketBroker() as broker:

        def opened(error: Any, connection: cpspika.Connection) -> None:
            channel = connection.channel()
            assert channel is not None
            channel.queue_declare("q", on_done=lambda error, ok: (log.append(ok.queue), connection.close()))

        cpspika.connect(broker.url, reactor=reactor, on_done=opened)
        reactor.run()
    assert log == ["q"]
    assert not reactor._watched


def test_the_synchronous_facade_and_tasks_run_on_it(reactor: AsyncioReactor, embedded: Any) -> None:
    with (
        cpspika.SelectConnection(embedded.url, reactor=reactor, timeout=DEADLINE) as connection,
        connection.channel() as ch,
    ):
        queue = ch.queue_declare(exclusive=True).queue
        ch.basic_publish("", queue, "x")
        assert next(ch.consume(queue, no_ack=True)).body == b"x"

    async def main() -> Any:
        async with await tasks.connect(embedded.url) as connection, await connection.channel() as ch:
            queue = (await ch.queue_declare(exclusive=True)).queue
            await ch.basic_publish("", queue, "y")
            return (await ch.basic_get(queue, no_ack=True)).body

    assert tasks.run(main(), reactor) == b"y"


def test_a_name_is_looked_up_in_a_thread(reactor: AsyncioReactor) -> None:
    found: list[Any] = []
    take: Callable[..., Any] = lambda error, addresses: found.append((error, addresses))  # noqa: E731
    reactor.resolve(cpspika.reactor.Endpoint("localhost", 5672), take)
    reactor.resolve(cpspika.reactor.Endpoint("cpspika.invalid", 5672), take)
    reactor.run()
    assert sorted(error is None for error, _ in found) == [False, True]


def test_two_stops_in_one_turn_end_one_run_alone() -> None:
    """uvloop keeps the second stop for the next run, which would end before its work is done."""
    uvloop = pytest.importorskip("uvloop")
    reactor = AsyncioReactor(uvloop.new_event_loop())
    try:
        for _ in range(2):
            called: list[str] = []
            reactor.call_soon(lambda: (reactor.loop.call_soon(reactor.stop), reactor.stop()))
            reactor.run()
            reactor.call_later(0.01, lambda called=called: called.append("timer"))
            reactor.run()
            assert called == ["timer"]
    finally:
        reactor.loop.close()
