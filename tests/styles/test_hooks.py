"""Hooks around iterators and callbacks, in each style: what is current where (`contextvars`), and who is left when."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

import cpspika
import cpspika.integrations.pika as pika
from cpspika import tasks
from cpspika.adapters import asyncio_adapter
from cpspika.threads import ThreadedConnection
from tests.support.hooked import Noting, inside, noting

DELIVERED = [("delivering", b"0"), ("delivered", b"0"), ("delivering", b"1"), ("delivered", b"1")]


@pytest.fixture
def hooks(caplog: Any) -> Iterator[Noting]:
    # These tests collect often. Each collection would go through all that earlier tests have left: half a second.
    gc.collect()
    gc.freeze()
    with noting() as noted:
        yield noted
    assert [record for record in caplog.get_records("call") if record.levelname == "ERROR"] == [], "a hook has failed"


@pytest.fixture(params=[cpspika.BlockingConnection, ThreadedConnection], ids=lambda cls: cls.__name__)
def channel(request: pytest.FixtureRequest) -> Iterator[Any]:
    with request.param("embedded://", timeout=10) as connection, connection.channel() as channel:
        yield channel


def filled(channel: Any, count: int = 2) -> str:
    queue: str = channel.queue_declare().queue
    for number in range(count):
        channel.basic_publish("", queue, str(number))
    return queue


# --- calls that return ------------------------------------------------------------------------------------------------


def test_an_iterator_has_a_message_in_hand_until_the_next_is_asked_for(channel: Any, hooks: Noting) -> None:
    seen = []
    for message in channel.consume(filled(channel), inactivity_timeout=0.05):
        seen.append((inside.get(), hooks.of("delivering", "delivered")[-1]))
        message.ack()
    assert seen == [("0", ("delivering", b"0")), ("1", ("delivering", b"1"))]
    assert hooks.of("delivering", "delivered") == DELIVERED
    assert hooks.of("settled") == [("settled", b"0", "ack"), ("settled", b"1", "ack")]
    assert inside.get() == ""


def test_an_iterator_that_is_left_early_lets_go(channel: Any, hooks: Noting) -> None:
    for message in channel.consume(filled(channel, 3)):
        message.ack()
        break
    del message
    gc.collect()
    assert hooks.of("delivering", "delivered", "raised") == DELIVERED[:2]
    assert inside.get() == ""
    assert hooks.of("settled") == [("settled", b"0", "ack")], "what was not handed out, the program has not settled"


def test_a_closed_iterator_lets_go(channel: Any, hooks: Noting) -> None:
    messages = channel.consume(filled(channel, 3))
    next(messages)
    assert inside.get() == "0"
    messages.close()
    assert inside.get() == ""
    assert hooks.of("delivering", "delivered", "raised") == DELIVERED[:2]


def test_two_iterators_one_in_the_other(channel: Any, hooks: Noting) -> None:
    one, two = filled(channel, 1), filled(channel, 2)
    seen = []
    for _ in channel.consume(one, inactivity_timeout=0.05):
        for _ in channel.consume(two, inactivity_timeout=0.05):
            seen.append(inside.get())
        seen.append(inside.get())
    assert seen == ["0", "1", "0"]


def test_threads_that_share_an_iterator_have_each_its_own_message(hooks: Noting) -> None:
    seen: dict[str, str] = {}
    with ThreadedConnection("embedded://", timeout=10) as connection, connection.channel() as channel:
        messages = channel.consume(filled(channel, 2))
        both, done = threading.Barrier(2, timeout=10), threading.Barrier(3, timeout=10)

        def work() -> None:
            message = next(messages)
            both.wait()
            seen[message.body.decode()] = inside.get()
            done.wait()
            for _ in messages:
                pass

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        done.wait()
        messages.close()
        for thread in threads:
            thread.join(10)
    assert seen == {"0": "0", "1": "1"}
    assert sorted(hooks.of("delivering", "delivered")) == sorted(DELIVERED)


def test_a_callback_on_a_worker(hooks: Noting) -> None:
    seen, called = [], threading.Event()

    def on_message(message: Any) -> None:
        seen.append(inside.get())
        message.ack()
        called.set()

    with ThreadedConnection("embedded://", timeout=10) as connection, connection.channel() as channel:
        channel.basic_consume(filled(channel, 1), on_message)
        assert called.wait(10)
    assert seen == ["0"]


def test_a_callback_that_raises(hooks: Noting) -> None:
    def on_message(message: Any) -> None:
        raise ZeroDivisionError

    with cpspika.BlockingConnection("embedded://", timeout=10) as connection, connection.channel() as channel:
        channel.basic_consume(filled(channel, 1), on_message)
        with pytest.raises(ZeroDivisionError):
            connection.drain_events(10)
    assert hooks.of("raised") == [("raised", b"0", ZeroDivisionError)]


def test_a_publish_that_is_handed_over_is_seen_in_the_context_of_who_asked(hooks: Noting) -> None:
    where = []

    class Where:
        def publishing(self, channel: Any, exchange: str, routing_key: str, properties: Any) -> Any:
            where.append(inside.get())
            return properties

    remove = cpspika.instrument(Where())
    try:
        with cpspika.BlockingConnection("embedded://", timeout=10) as connection, connection.channel() as channel:
            queue = channel.queue_declare().queue

            def other_thread() -> None:
                inside.set("other")
                channel.basic_publish("", queue, "x")

            thread = threading.Thread(target=other_thread)
            channel.basic_consume(queue, lambda message: channel.stop_consuming())
            connection.reactor.call_soon(thread.start)  # when this thread is inside
            channel.start_consuming()
            thread.join(10)
        assert where == ["other"]
    finally:
        remove()


def test_the_face_of_pika(hooks: Noting) -> None:
    with pika.BlockingConnection(pika.URLParameters("embedded://")) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        for number in range(4):
            channel.basic_publish("", queue, str(number))
        seen = []

        def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            seen.append((inside.get(), properties.headers))
            channel.basic_ack(method.delivery_tag)
            if body == b"1":
                channel.stop_consuming()

        channel.basic_qos(prefetch_count=1)
        tag = channel.basic_consume(queue, on_message)
        channel.start_consuming()
        channel.basic_cancel(tag)
        for method, _, _ in channel.consume(queue):
            seen.append((inside.get(), None))
            channel.basic_ack(method.delivery_tag)
            break
        channel.cancel()
        method, _, body = channel.basic_get(queue)
        channel.basic_ack(method.delivery_tag)
        assert body == b"3"
    gc.collect()
    assert seen == [("0", {"noted": 1}), ("1", {"noted": 2}), ("2", None)]
    assert [body for _, body, _ in hooks.of("settled")] == [b"0", b"1", b"2", b"3"]
    assert hooks.of("fetched") == [("fetched", b"3")]


# --- promises ---------------------------------------------------------------------------------------------------------


async def consumed(connection: Any, sleep: Any, together: Any) -> list[tuple[str, str]]:
    """Two consumers whose work takes turns; (the message, the one that is current) at each of their steps."""
    seen: list[tuple[str, str]] = []
    channel = await connection.channel()

    async def work(queue: str) -> None:
        left = 3
        async for message in channel.consume(queue):
            for _ in range(3):
                seen.append((message.body.decode(), inside.get()))
                await sleep()
            message.ack()
            left -= 1
            if not left:
                break
        gc.collect()
        seen.append(("", inside.get()))

    queues = []
    for first in (0, 10):
        queues.append((await channel.queue_declare(exclusive=True)).queue)
        for number in range(first, first + 3):
            await channel.basic_publish("", queues[-1], str(number))
    await together(*[work(queue) for queue in queues])
    return seen


def check_consumed(seen: list[tuple[str, str]], hooks: Noting) -> None:
    assert len(seen) == 20
    assert [each for each in seen if each[0] != each[1]] == []
    assert len(hooks.of("delivering")) == len(hooks.of("delivered")) == len(hooks.of("settled")) == 6
    assert hooks.of("raised") == []


async def worked(connection: Any, sleep: Any, until: Any) -> list[Any]:
    """A callback that is a coroutine function; what is current in it, before and after a wait."""
    seen: list[Any] = []
    channel = await connection.channel()
    queue = (await channel.queue_declare(exclusive=True)).queue

    async def on_message(message: Any) -> None:
        before = inside.get()
        await sleep()
        seen.append((before, inside.get()))
        message.ack()

    await channel.basic_consume(queue, on_message)
    for number in range(2):
        await channel.basic_publish("", queue, str(number))
    await until(lambda: len(seen) == 2)
    return seen


BOTH = [("0", "0"), ("1", "1")]


def test_asyncio(hooks: Noting) -> None:
    async def until(condition: Any) -> None:
        while not condition():
            await asyncio.sleep(0.001)

    async def main() -> None:
        async with asyncio_adapter.connect("embedded://") as connection:
            check_consumed(await consumed(connection, lambda: asyncio.sleep(0), asyncio.gather), hooks)
            assert sorted(await worked(connection, lambda: asyncio.sleep(0), until)) == BOTH

    asyncio.run(asyncio.wait_for(main(), 20))


def test_tasks(hooks: Noting) -> None:
    async def until(condition: Any) -> None:
        while not condition():
            await tasks.sleep(0.001)

    async def main() -> None:
        async with tasks.connect("embedded://") as connection:
            seen = await consumed(connection, lambda: tasks.sleep(0), lambda *works: tasks.gather(*works))
            check_consumed(seen, hooks)
            assert sorted(await worked(connection, lambda: tasks.sleep(0), until)) == BOTH

    tasks.run(main())


def test_a_generator_as_a_callback(hooks: Noting) -> None:
    seen: list[str] = []

    def on_message(message: Any) -> Any:
        yield tasks.sleep(0)
        seen.append(inside.get())

    def main() -> Any:
        connection = yield tasks.connect("embedded://")
        channel = yield connection.channel()
        queue = (yield channel.queue_declare(exclusive=True)).queue
        yield channel.basic_consume(queue, on_message, no_ack=True)
        yield channel.basic_publish("", queue, "0")
        while not seen:
            yield tasks.sleep(0.001)
        yield connection.close()

    tasks.run(main())
    assert seen == ["0"]


def test_the_error_of_a_task_that_nobody_waits_for_is_reported_with_hooks_too(hooks: Noting) -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        tasks.spawn(fails())
        await tasks.sleep(0.05)

    with pytest.raises(ZeroDivisionError):
        tasks.run(main())


@pytest.mark.skipif(find_spec("trio") is None, reason="no trio here")
def test_trio(hooks: Noting) -> None:
    import trio

    from cpspika.adapters import trio_adapter

    async def together(*works: Any) -> None:
        async with trio.open_nursery() as nursery:
            for work in works:
                nursery.start_soon(lambda work=work: work)

    async def until(condition: Any) -> None:
        while not condition():
            await trio.sleep(0.001)

    async def main() -> None:
        with trio.fail_after(20):
            async with trio_adapter.connect("embedded://") as connection:
                check_consumed(await consumed(connection, lambda: trio.sleep(0), together), hooks)
                assert sorted(await worked(connection, lambda: trio.sleep(0), until)) == BOTH

    trio.run(main)


@pytest.mark.skipif(find_spec("twisted") is None, reason="no Twisted here")
def test_twisted(hooks: Noting) -> None:
    from twisted.internet.defer import Deferred, DeferredList
    from twisted.internet.task import deferLater

    from cpspika.adapters import twisted_adapter
    from tests.support.style_twisted import outcome, private_reactor

    def sleep() -> Any:
        return deferLater(private_reactor(), 0.001)

    async def until(condition: Any) -> None:
        while not condition():
            await sleep()

    connection = outcome(twisted_adapter.connect("embedded://", reactor=private_reactor()))
    together = lambda *works: DeferredList([Deferred.fromCoroutine(work) for work in works], fireOnOneErrback=True)  # noqa: E731
    check_consumed(outcome(Deferred.fromCoroutine(consumed(connection, sleep, together))), hooks)
    assert sorted(outcome(Deferred.fromCoroutine(worked(connection, sleep, until)))) == BOTH
    outcome(connection.close())


@pytest.mark.skipif(find_spec("twisted") is None, reason="no Twisted here")
def test_a_callback_that_returns_a_deferred_has_the_message_until_it_fires(hooks: Noting) -> None:
    from twisted.internet.defer import Deferred

    from cpspika.adapters import twisted_adapter
    from tests.support.style_twisted import outcome, private_reactor, spin

    connection = outcome(twisted_adapter.connect("embedded://", reactor=private_reactor()))
    channel = outcome(connection.channel())
    queue = outcome(channel.queue_declare(exclusive=True)).queue
    waiting: list[Any] = []

    def on_message(message: Any) -> Any:
        assert inside.get() == message.body.decode()
        waiting.append(Deferred())
        return waiting[-1]

    outcome(channel.basic_consume(queue, on_message, no_ack=True))
    outcome(channel.basic_publish("", queue, "0"))
    spin(lambda: waiting, "the message did not come")
    assert hooks.of("delivering", "delivered") == DELIVERED[:1]
    assert inside.get() == ""
    waiting[0].callback(None)
    assert hooks.of("delivering", "delivered") == DELIVERED[:2]
    outcome(connection.close())
