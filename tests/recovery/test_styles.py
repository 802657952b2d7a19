"""Recovery in every style, on a broker that cuts its links."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest

import cpspika
from cpspika import tasks
from cpspika.adapters import MemoryReactor, asyncio_adapter
from cpspika.adapters.asyncio_reactor import AsyncioReactor
from cpspika.broker import Served, serve
from cpspika.client.continuations import is_abandoned
from cpspika.styles import tasks as tasks_style
from cpspika.threads import ThreadedConnection
from tests.support.styles import RECOVERING, Broker, Scenario, Style

every_style = pytest.mark.parametrize("recovering", RECOVERING.values(), ids=RECOVERING.keys())
QUICK = cpspika.Recovery(backoff=(0.001, 0.05))


@pytest.fixture
def broker() -> Iterator[Served]:
    with serve() as running:
        yield running


def run(style: Callable[..., Style], broker: Served, steps: Callable[[Style], Scenario]) -> None:
    made = style(Broker("embedded", broker.host, broker.port), "0-9-1")
    made.recovery = QUICK
    try:
        made.run(steps(made))
    finally:
        made.close()


@every_style
def test_publishes_consumers_and_acknowledgements_outlive_links(recovering: Any, broker: Served) -> None:
    got: list[Any] = []
    events: list[str] = []

    def steps(s: Style) -> Scenario:
        connection = yield s.connect()
        connection.add_recovery_handler(lambda connection, event: events.append(event.kind))
        ch = yield connection.channel()
        yield ch.confirm_select()
        queue = (yield ch.queue_declare("", exclusive=True)).queue
        assert queue.startswith("cpspika.gen-")
        yield ch.basic_qos(prefetch_count=1)
        yield ch.basic_consume(queue, got.append)
        for round in range(1, 4):
            assert (yield ch.basic_publish("", queue, f"message {round}"))
            yield s.until(lambda round=round: len(got) == round)
            broker.drop_links()
            got[-1].ack()  # on either side of the loss: it raises nothing, and settles nothing else
            yield s.until(lambda round=round: events.count("restored") == round)
        assert (yield ch.queue_declare(queue, exclusive=True)).consumer_count == 1
        assert connection.is_open
        assert ch.is_open

    run(recovering, broker, steps)
    assert [message.body for message in got] == [b"message 1", b"message 2", b"message 3"]
    assert events.count("lost") == 3


@every_style
def test_operations_asked_for_without_a_link_wait_for_the_next(recovering: Any, broker: Served) -> None:
    def steps(s: Style) -> Scenario:
        connection = yield s.connect()
        ch = yield connection.channel()
        yield ch.confirm_select()
        yield ch.queue_declare("q", durable=True)
        for round in range(3):
            broker.drop_links()
            outcomes = yield [ch.basic_publish("", "q", f"{round}-{n}") for n in range(5)]
            assert all(outcomes), outcomes
        yield ch.queue_bind("q", "amq.direct", "key")
        with pytest.raises(cpspika.PreconditionFailed):
            yield ch.queue_declare("q", durable=False)
        ok = yield ch.queue_declare("q", passive=True)
        assert ok.message_count >= 15

    run(recovering, broker, steps)
    bodies = [message.body.decode() for message in broker.queues["q"].messages]
    assert {*bodies} == {f"{round}-{n}" for round in range(3) for n in range(5)}


@every_style
def test_the_end_is_told_once(recovering: Any, broker: Served) -> None:
    states: list[bool] = []

    def steps(s: Style) -> Scenario:
        connection = yield s.connect()
        ch = yield connection.channel()
        ch.add_state_change_handler(lambda channel, is_open: states.append(is_open))
        broker.drop_links()
        yield ch.queue_declare("q", exclusive=True)
        assert states == []
        yield connection.close()
        yield s.until(lambda: states == [False])
        with pytest.raises(cpspika.ConnectionClosed):
            yield ch.queue_declare("r")

    run(recovering, broker, steps)


# --- on_ready: a function, a coroutine function or a generator function -----------------------------------------------


def check_setup(log: list[str], broker: Served) -> None:
    assert log == ["open", "declared"] * 2
    assert "work" in broker.queues


@pytest.mark.parametrize("kind", [cpspika.BlockingConnection, cpspika.SelectConnection, cpspika.AsyncoreConnection])
def test_on_ready_of_the_synchronous_facade_runs_nested(kind: Any, broker: Served) -> None:
    log: list[str] = []

    def set_up(channel: cpspika.SyncChannel) -> None:
        log.append("open")
        assert channel.queue_declare("work").queue == "work"
        log.append("declared")

    with kind(broker.url, recovery=QUICK) as connection:
        channel = connection.channel(on_ready=set_up)
        assert isinstance(channel, cpspika.SyncChannel)
        broker.drop_links()
        channel.confirm_select()
        assert channel.basic_publish("", "work", "hello", mandatory=True)
        check_setup(log, broker)


def test_on_ready_runs_on_a_worker_with_threads(broker: Served) -> None:
    import threading

    from cpspika.threads import ThreadedConnection

    log: list[str] = []
    threads: set[str] = set()

    def set_up(channel: Any) -> None:
        log.append("open")
        threads.add(threading.current_thread().name)
        channel.queue_declare("work")
        log.append("declared")

    with ThreadedConnection(broker.url, recovery=QUICK) as connection:
        channel = connection.channel(on_ready=set_up)
        channel.confirm_select()
        broker.drop_links()
        assert channel.basic_publish("", "work", "hello", mandatory=True)
        check_setup(log, broker)
    assert all(name.startswith("cpspika worker") for name in threads)


def test_on_ready_may_be_a_coroutine_function_in_asyncio(broker: Served) -> None:
    import asyncio

    from cpspika.adapters import asyncio_adapter

    log: list[str] = []

    async def set_up(channel: Any) -> None:
        log.append("open")
        await channel.queue_declare("work")
        log.append("declared")

    async def main() -> None:
        async with asyncio_adapter.connect(broker.url, recovery=QUICK) as connection:
            channel = await connection.channel(on_ready=set_up)
            await channel.confirm_select()
            broker.drop_links()
            assert await channel.basic_publish("", "work", "hello", mandatory=True)

    asyncio.run(main())
    check_setup(log, broker)


@pytest.mark.parametrize("generator", [False, True])
def test_on_ready_may_be_a_task(generator: bool, broker: Served) -> None:
    log: list[str] = []

    async def set_up(channel: Any) -> None:
        log.append("open")
        await channel.queue_declare("work")
        log.append("declared")

    def set_up_by_generator(channel: Any) -> Iterator[Any]:
        log.append("open")
        yield channel.queue_declare("work")
        log.append("declared")

    async def main() -> None:
        connection = await tasks.connect(broker.url, recovery=QUICK)
        channel = await connection.channel(on_ready=set_up_by_generator if generator else set_up)
        await channel.confirm_select()
        broker.drop_links()
        assert await channel.basic_publish("", "work", "hello", mandatory=True)
        await connection.close()

    tasks.run(main())
    check_setup(log, broker)


def test_on_ready_may_be_an_async_function_in_trio(broker: Served) -> None:
    trio = pytest.importorskip("trio")
    from cpspika.adapters import trio_adapter

    log: list[str] = []

    async def set_up(channel: Any) -> None:
        log.append("open")
        await channel.queue_declare("work")
        log.append("declared")

    async def main() -> None:
        async with trio_adapter.connect(broker.url, recovery=QUICK) as connection:
            channel = await connection.channel(on_ready=set_up)
            await channel.confirm_select()
            broker.drop_links()
            assert await channel.basic_publish("", "work", "hello", mandatory=True)

    trio.run(main)
    check_setup(log, broker)


def test_on_ready_may_return_a_deferred_in_twisted(broker: Served) -> None:
    pytest.importorskip("twisted")
    from cpspika.adapters import twisted_adapter
    from tests.support.style_twisted import private_reactor, spin

    log: list[str] = []

    def set_up(channel: Any) -> Any:
        log.append("open")
        return channel.queue_declare("work").addCallback(lambda ok: log.append("declared"))

    async def main() -> None:
        connection = await twisted_adapter.connect(broker.url, reactor=private_reactor(), recovery=QUICK)
        channel = await connection.channel(on_ready=set_up)
        await channel.confirm_select()
        broker.drop_links()
        assert await channel.basic_publish("", "work", "hello", mandatory=True)
        await connection.close()

    from twisted.internet.defer import Deferred

    ended: list[Any] = []
    Deferred.fromCoroutine(main()).addBoth(ended.append)
    spin(lambda: ended, "the end of main")
    assert ended == [None]
    check_setup(log, broker)


def test_an_on_ready_that_fails_at_the_first_opening_fails_the_channel(broker: Served) -> None:
    def set_up(channel: cpspika.SyncChannel) -> None:
        raise ValueError("wrong")

    def declare(channel: cpspika.SyncChannel) -> None:
        channel.queue_declare("missing", passive=True)

    with cpspika.BlockingConnection(broker.url, recovery=QUICK) as connection:
        with pytest.raises(cpspika.ChannelClosed, match="wrong") as told:
            connection.channel(on_ready=set_up)
        assert isinstance(told.value.__cause__, ValueError)
        with pytest.raises(cpspika.NotFound):
            connection.channel(on_ready=declare)
        assert connection.channel().queue_declare(exclusive=True)


def test_without_recovery_on_ready_is_called_once(broker: Served) -> None:
    log: list[Any] = []

    def set_up(channel: cpspika.SyncChannel) -> None:
        log.append(channel)
        channel.queue_declare("work")

    with cpspika.BlockingConnection(broker.url) as connection:
        channel = connection.channel(on_ready=set_up)
        assert log == [channel]
        assert "work" in broker.queues
        with pytest.raises(cpspika.ChannelClosed, match="wrong"):
            connection.channel(on_ready=_fail)


def _fail(channel: Any) -> None:
    raise ValueError("wrong")


@pytest.mark.parametrize("kind", [cpspika.BlockingConnection, cpspika.SelectConnection, ThreadedConnection])
def test_a_call_that_times_out_withdraws_what_was_not_sent(kind: Any, broker: Served) -> None:
    connection = kind(f"amqp://{broker.host}:{broker.port}", recovery=QUICK)
    ch = connection.channel()
    ch.confirm_select()
    ch.queue_declare("kept")
    broker.refuse_logins()
    broker.drop_links()
    connection.timeout = 0.1
    with pytest.raises(cpspika.OperationTimeout):
        ch.queue_declare("in flight")  # if the loss is not known yet
    with pytest.raises(cpspika.OperationTimeout):
        ch.queue_declare("withdrawn")
    with pytest.raises(cpspika.OperationTimeout):
        ch.basic_publish("", "kept", "withdrawn")
    connection.timeout = 20
    broker.refuse_logins(False)
    assert ch.basic_publish("", "kept", "kept")
    assert ch.queue_declare("kept", passive=True).message_count == 1
    with pytest.raises(cpspika.NotFound):
        ch.queue_declare("withdrawn", passive=True)
    connection.close()


def test_a_cancelled_promise_withdraws_what_was_not_sent(broker: Served) -> None:
    async def main() -> None:
        connection = await asyncio_adapter.connect(url, recovery=QUICK)
        ch = await connection.channel()
        await ch.confirm_select()
        await ch.queue_declare("kept")
        broker.refuse_logins()
        lost = asyncio.get_running_loop().create_future()
        connection.add_recovery_handler(lambda _, event: lost.done() or lost.set_result(None))
        broker.drop_links()
        await lost
        declared, published = ch.queue_declare("withdrawn"), ch.basic_publish("", "kept", "withdrawn")
        declared.cancel()
        published.cancel()
        broker.refuse_logins(False)
        assert await ch.basic_publish("", "kept", "kept")
        assert (await ch.queue_declare("kept", passive=True)).message_count == 1
        with pytest.raises(cpspika.NotFound):
            await ch.queue_declare("withdrawn", passive=True)
        await connection.close()

    url = f"amqp://{broker.host}:{broker.port}"
    asyncio.run(main())


def test_a_promise_of_each_style_says_that_nobody_waits_for_it() -> None:
    def check(promises: Any) -> None:
        for give_back in (None, lambda result: None):
            promise, settle = promises.make(give_back)
            assert not is_abandoned(settle)
            promise.cancel()
            assert is_abandoned(settle)

    async def in_asyncio() -> None:
        check(asyncio_adapter._Promises(AsyncioReactor()))

    check(tasks_style.Promises(MemoryReactor()))
    asyncio.run(in_asyncio())
    if find_spec("trio") is not None:
        from cpspika.adapters import trio_adapter

        check(tasks_style.Promises(MemoryReactor(), trio_adapter.Promise))
    if find_spec("twisted") is not None:
        from cpspika.adapters import twisted_adapter

        promises = object.__new__(twisted_adapter._Promises)
        promise, settle = promises.make()
        assert not is_abandoned(settle)
        promise.addErrback(lambda failure: None)
        promise.cancel()
        assert is_abandoned(settle)
