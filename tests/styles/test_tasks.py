"""Tasks: how generators and coroutines are driven, and what they add to the operations."""

from __future__ import annotations

import gc
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any

import pytest

from cpspika import (
    ChannelClosed,
    ConnectionClosed,
    ConsumerCancelled,
    InvalidArgumentType,
    LocalError,
    MessageNacked,
    NotFound,
    tasks,
)
from cpspika.adapters import AsyncoreReactor, BlockingReactor, MemoryReactor, SelectReactor
from cpspika.broker import Served, serve
from cpspika.tasks import Cancelled, Promise
from tests.support.injector import Injector, Interrupt
from tests.support.scripted import Done, SocketBroker, deliver_three, opened

PATIENCE = 20.0
Work = Generator[Any, Any, Any]


@pytest.fixture(scope="module")
def broker() -> Iterator[Served]:
    """One of our own: these tests stall it, and cut its links."""
    with serve() as running:
        yield running


def asyncore() -> Any:
    pytest.importorskip("asyncore") if sys.version_info >= (3, 12) else None
    return AsyncoreReactor({})


@pytest.fixture(params=[SelectReactor, BlockingReactor, asyncore])
def real(request: Any) -> Iterator[Any]:
    reactor = request.param()
    yield reactor
    if hasattr(reactor, "close"):
        reactor.close()


@pytest.fixture
def reactor() -> Iterator[SelectReactor]:
    made = SelectReactor()
    made.call_later(PATIENCE, lambda: pytest.fail("it hangs"))
    yield made
    assert not made._watched, "a socket is left in the reactor"
    made.close()


def memory() -> MemoryReactor:
    return MemoryReactor()


async def opened_channel(broker: Served) -> Any:
    return await (await tasks.connect(broker.url)).channel()


async def filled(ch: Any, *bodies: str) -> str:
    queue: str = (await ch.queue_declare(exclusive=True)).queue
    for body in bodies:
        await ch.basic_publish("", queue, body)
    return queue


async def counts(ch: Any, queue: str, messages: int, consumers: int) -> None:
    """Waits for a queue to have so many."""
    deadline = time.monotonic() + PATIENCE
    while (found := await ch.queue_declare(queue, passive=True))[1:] != (messages, consumers):
        assert time.monotonic() < deadline, found
        await tasks.sleep(0.002)


# --- how a task is driven ---------------------------------------------------------------------------------------------


def test_a_generator_and_a_coroutine_on_each_reactor(real: Any, broker: Served) -> None:
    def generator() -> Work:
        connection = yield tasks.connect(broker.url)
        ch = yield connection.channel()
        queue = (yield ch.queue_declare(exclusive=True)).queue
        yield ch.basic_publish("", queue, "x")
        message = yield ch.basic_get(queue)
        assert message.channel is ch
        yield message.ack()
        yield connection.close()
        return message.body

    async def coroutine() -> bytes:
        async with await tasks.connect(broker.url) as connection, await connection.channel() as ch:
            queue = await filled(ch, "y")
            body: bytes = (await ch.basic_get(queue, no_ack=True)).body
            return body

    assert tasks.run(generator(), real) == b"x"
    assert tasks.run(coroutine(), real) == b"y"
    assert not real._has_transports()


def test_either_may_be_a_part_of_the_other() -> None:
    def inner() -> Work:
        yield tasks.sleep(0.001)
        return "inner"

    async def middle() -> str:
        return "middle " + await tasks.spawn(inner())

    def outer() -> Work:
        return f"outer {(yield middle())} {(yield inner())} {(yield from inner())}"

    assert tasks.run(outer(), memory()) == "outer middle inner inner inner"


def test_errors_are_raised_at_the_yield(reactor: SelectReactor, broker: Served) -> None:
    def declare(ch: Any) -> Work:
        yield ch.queue_declare("cpspika-nothing", passive=True)

    def main() -> Work:
        connection = yield tasks.connect(broker.url)
        ch = yield connection.channel()
        with pytest.raises(NotFound) as caught:
            yield declare(ch)
        assert caught.value.asked_at.endswith("in declare")
        with pytest.raises(ChannelClosed):
            yield ch.queue_declare()
        with pytest.raises(ZeroDivisionError):
            yield fail()
        yield connection.close()
        raise KeyError("the task's own")

    def fail() -> Work:
        yield tasks.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(KeyError, match="the task's own"):
        tasks.run(main(), reactor)


@pytest.mark.parametrize("nonsense", [None, 7, "text", [1], object(), print])
def test_yielding_nonsense_is_an_error_that_says_so(nonsense: Any) -> None:
    def main() -> Work:
        with pytest.raises(InvalidArgumentType, match=f"promises, generators and cor.*{type(nonsense).__name__}"):
            yield nonsense
        return "goes on"

    assert tasks.run(main(), memory()) == "goes on"
    with pytest.raises(InvalidArgumentType, match="made of a generator or a coroutine"):
        tasks.spawn(nonsense)


def test_a_future_of_asyncios_is_nonsense_too() -> None:
    import asyncio

    loop = asyncio.new_event_loop()

    async def main() -> None:
        await loop.create_future()

    with pytest.raises(InvalidArgumentType, match=r"not _?Future"):
        tasks.run(main(), memory())
    loop.close()


def test_several_tasks_take_turns(reactor: SelectReactor) -> None:
    log: list[str] = []

    def count(name: str, seconds: float) -> Work:
        for n in range(3):
            log.append(f"{name}{n}")
            yield tasks.sleep(seconds)
        return name

    def not_so() -> Work:
        task = tasks.spawn(count("a", 0.02))
        with pytest.raises(LocalError, match="isn't settled"):
            task.result()
        yield task, "not both at once"

    def both() -> Work:
        return (yield tasks.gather(count("a", 0.02), tasks.spawn(count("b", 0.02)), tasks.sleep(0.001)))

    assert tasks.run(both(), reactor) == ["a", "b", None]
    assert log == ["a0", "b0", "a1", "b1", "a2", "b2"] or log == ["b0", "a0", "b1", "a1", "b2", "a2"]
    with pytest.raises(InvalidArgumentType, match="not tuple"):
        tasks.run(not_so(), reactor)


def test_gather_is_rejected_by_the_first_error_and_the_others_go_on() -> None:
    ended: list[str] = []

    def late() -> Work:
        yield tasks.sleep(1)
        ended.append("late")

    def fail() -> Work:
        yield tasks.sleep(0.5)
        raise KeyError("first")

    def main() -> Work:
        with pytest.raises(KeyError, match="first"):
            yield tasks.gather(late(), fail(), late())
        assert ended == []
        assert (yield tasks.gather()) == []
        yield tasks.sleep(1)

    tasks.run(main(), memory())
    assert ended == ["late", "late"]


def test_a_promise_is_a_continuations_too() -> None:
    reactor = memory()
    promise: Promise[int] = Promise(reactor)
    first, second = Done(), Done()
    rejected: list[Any] = []
    promise.then(first)
    promise.settle(None, 7)
    promise.settle(None, 8)
    promise.then(second)
    assert second.pending, "never inside the call that takes it"
    failed: Promise[int] = Promise(reactor)
    error = KeyError("x")
    failed.settle(error, None)
    failed.then(lambda err, result: rejected.append((err, result)))
    reactor.run()
    assert (first.result, second.result, promise.result()) == (7, 7, 7)
    assert rejected == [(error, None)]
    with pytest.raises(InvalidArgumentType):
        promise.then(7)  # type: ignore[arg-type]


def test_a_continuation_that_raises_does_not_keep_the_others_from_hearing_of_it() -> None:
    reactor, heard = memory(), Done()
    promise: Promise[int] = Promise(reactor)

    def fail(err: Any, result: Any) -> None:
        raise KeyError

    promise.then(fail)
    promise.then(heard)
    with pytest.raises(KeyError):
        promise.settle(None, 1)
    reactor.run()
    assert heard.result == 1


# --- depth and length -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_chain_of_a_million_steps() -> None:
    reactor = memory()
    fulfilled: Promise[int] = Promise(reactor)
    fulfilled.settle(None, 1)

    def nothing() -> Work:
        return 1
        yield

    def main() -> Work:
        total = 0
        for n in range(500_000):
            total += yield fulfilled
            total += yield nothing()
            if n % 50_000 == 0:
                yield tasks.sleep(0.001)
        return total

    assert tasks.run(main(), reactor) == 1_000_000


@pytest.mark.slow
def test_a_nesting_of_a_hundred_thousand() -> None:
    def down(depth: int) -> Work:
        if depth == 0:
            yield tasks.sleep(0.001)
            return 0
        return 1 + (yield down(depth - 1))

    def fail(depth: int) -> Work:
        if depth == 0:
            yield tasks.sleep(0.001)
            raise KeyError("from the bottom")
        yield fail(depth - 1)

    assert tasks.run(down(100_000), memory()) == 100_000
    with pytest.raises(KeyError, match="from the bottom"):
        tasks.run(fail(100_000), memory())


@pytest.mark.slow
def test_many_tasks_that_wait_for_one_another() -> None:
    async def down(depth: int) -> int:
        if depth == 0:
            await tasks.sleep(0.001)
            return 0
        return 1 + await tasks.spawn(down(depth - 1))

    async def gathered(depth: int) -> int:
        return 1 + sum(await tasks.gather(gathered(depth - 1))) if depth else 0

    assert tasks.run(down(20_000), memory()) == 20_000
    assert tasks.run(gathered(5_000), memory()) == 5_000


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_cancel_raises_at_the_yield_in_the_next_turn_and_the_task_may_clean_up() -> None:
    log: list[str] = []

    def work() -> Work:
        try:
            yield tasks.sleep(3600)
        except Cancelled:
            log.append("told")
            yield tasks.sleep(1)
            log.append("cleaned up")
            raise

    def main() -> Work:
        task = tasks.spawn(work())
        yield tasks.sleep(1)
        task.cancel()
        task.cancel()
        assert log == []
        with pytest.raises(Cancelled):
            yield task
        assert task.cancelled

    reactor = memory()
    tasks.run(main(), reactor)
    assert log == ["told", "cleaned up"]
    assert reactor.time() < 10, "the timer of what it slept is cancelled"


def test_a_task_may_go_on_after_it_was_cancelled() -> None:
    async def stubborn() -> str:
        try:
            await tasks.sleep(3600)
        except Cancelled:
            await tasks.sleep(1)
        return "done all the same"

    async def main() -> str:
        task = tasks.spawn(stubborn())
        await tasks.sleep(1)
        task.cancel()
        return await task

    assert tasks.run(main(), memory()) == "done all the same"


def test_a_task_that_never_began_can_be_cancelled() -> None:
    reactor = memory()
    told: list[Any] = []

    async def never() -> None:
        pytest.fail("it began")

    task = tasks.spawn(never(), reactor)
    task.cancel()
    task.then(lambda err, result: told.append(err))
    reactor.run()
    assert [type(error) for error in told] == [Cancelled]


def test_a_task_that_cancels_itself_stops_where_it_waits_next() -> None:
    def work() -> Work:
        task.cancel()
        reached.append("goes on")
        yield tasks.sleep(3600)
        reached.append("waited")

    reached: list[str] = []
    reactor = memory()
    task = tasks.spawn(work(), reactor)
    reactor.run()
    assert (reached, task.cancelled) == (["goes on"], True)
    assert reactor.time() == 0


def test_cancel_reaches_what_is_awaited() -> None:
    ended: list[str] = []

    def inner(name: str) -> Work:
        try:
            yield tasks.sleep(3600)
        finally:
            ended.append(name)

    def outer() -> Work:
        yield tasks.gather(inner("a"), tasks.spawn(inner("b")))

    def main() -> Work:
        task = tasks.spawn(outer())
        yield tasks.sleep(1)
        task.cancel()
        with pytest.raises(Cancelled):
            yield task
        yield tasks.sleep(1)
        assert sorted(ended) == ["a", "b"]

    tasks.run(main(), memory())


def test_the_message_of_a_cancelled_basic_get_goes_back(reactor: SelectReactor, broker: Served) -> None:
    asked: list[bool] = []

    async def get(ch: Any, queue: str) -> None:
        promise = ch.basic_get(queue)
        asked.append(True)
        await promise
        pytest.fail("it was cancelled")

    async def main() -> None:
        ch = await opened_channel(broker)
        queue = await filled(ch, "x")
        broker.stall()
        task = tasks.spawn(get(ch, queue))
        while not asked:
            await tasks.sleep(0.001)
        task.cancel()
        broker.stall(False)
        with pytest.raises(Cancelled):
            await task
        while (message := await ch.basic_get(queue)) is None:
            pass
        assert (message.body, message.redelivered) == (b"x", True)
        await ch.connection.close()

    tasks.run(main(), reactor)


def test_what_came_too_late_for_its_task_is_given_back() -> None:
    """It is settled while another task runs, and so seen in the next turn; before that the task is cancelled."""
    reactor = memory()
    returned: list[str] = []
    promise: Promise[str] = Promise(reactor, returned.append)

    def wait() -> Work:
        yield promise

    def main() -> Work:
        task = tasks.spawn(wait())
        yield tasks.sleep(1)
        promise.settle(None, "a message")
        task.cancel()
        with pytest.raises(Cancelled):
            yield task

    tasks.run(main(), reactor)
    assert returned == ["a message"]


def test_other_operations_that_are_given_up_leave_the_channel_in_order(reactor: SelectReactor, broker: Served) -> None:
    async def main() -> None:
        ch = await opened_channel(broker)
        connection = ch.connection
        queue, other = await filled(ch), await filled(ch)
        await ch.confirm_select()
        broker.stall()
        asked = [
            ch.basic_consume(other, print),
            connection.channel(),
            ch.queue_declare("cpspika-given-up", exclusive=True),
            ch.basic_publish("", queue, "0"),
            tasks.connect(broker.url),
        ]
        published = [ch.basic_publish("", queue, str(n)) for n in range(1, 3)]
        declared = ch.queue_declare(queue, passive=True)
        for promise in asked:
            promise.cancel()
        broker.nack_next(2)  # 0, which nobody waits for, and 1
        broker.stall(False)
        assert (await declared).queue == queue
        with pytest.raises(MessageNacked):
            await published[0]
        assert await published[1] is True
        await counts(ch, queue, 3, 0)
        await counts(ch, other, 0, 0)
        while len(connection.core._channels) > 1:
            await tasks.sleep(0.002)
        while len(broker.connections) > 1:
            await tasks.sleep(0.002)
        await connection.close()

    tasks.run(main(), reactor)


# --- iterators and callbacks ------------------------------------------------------------------------------------------


def test_a_break_cancels_the_consumer_and_gives_back_the_rest(real: Any, broker: Served) -> None:
    async def main() -> None:
        ch = await opened_channel(broker)
        queue = await filled(ch, *"abcdef")
        async for message in ch.consume(queue):
            message.ack()
            if message.body == b"b":
                break
        await counts(ch, queue, 4, 0)
        async with ch.consume(queue) as messages:
            assert (await anext(messages)).body == b"c"
        assert await ch.queue_declare(queue, passive=True) == (queue, 3, 0)
        await ch.connection.close()

    tasks.run(main(), real)


@pytest.mark.parametrize(("no_ack", "rejected"), [(True, []), (False, [2, 3])])
def test_a_left_iterator_rejects_only_what_was_to_be_acknowledged(
    reactor: SelectReactor, no_ack: bool, rejected: list[int]
) -> None:
    async def main(broker: Any) -> None:
        ch = await opened_channel(broker)
        peer = broker.peers[0]
        peer.when("basic.consume", deliver_three)
        async with ch.consume("q", no_ack=no_ack) as messages:
            assert (await anext(messages)).body == b"0"
            await ch.queue_declare("q")  # behind its answer the others are here, too
        await ch.queue_declare("q")
        assert [reject.delivery_tag for reject in peer.came("basic.nack")] == rejected
        await ch.connection.close()

    with SocketBroker() as broker:
        tasks.run(main(broker), reactor)


def test_an_iterator_raises_what_ends_it(reactor: SelectReactor, broker: Served) -> None:
    async def main() -> None:
        ch = await opened_channel(broker)
        other = await ch.connection.channel()
        queue = await filled(ch)
        waiting = tasks.spawn(ch.consume(queue).__anext__())
        await counts(other, queue, 0, 1)
        await other.queue_delete(queue)
        with pytest.raises(ConsumerCancelled):
            await waiting
        with pytest.raises(NotFound):
            await ch.consume("cpspika-nothing").__anext__()
        with pytest.raises(ChannelClosed):
            await ch.consume(queue).__anext__()
        await ch.connection.close()

    tasks.run(main(), reactor)


def test_a_callback_may_be_a_generator_or_a_coroutine(reactor: SelectReactor, broker: Served) -> None:
    got: list[Any] = []

    def by_generator(message: Any) -> Work:
        yield tasks.sleep(0.001)
        got.append(message.body)
        yield message.ack()

    async def by_coroutine(message: Any) -> None:
        await tasks.sleep(0.001)
        got.append(message.body)
        await message.ack()

    async def on_close(connection: Any, error: Any) -> None:
        await tasks.sleep(0.001)
        got.append((connection, error))

    async def main() -> None:
        connection = await tasks.connect(broker.url, on_close=on_close)
        ch = await connection.channel()
        ch.addFlowChangeHandler(lambda channel, permitted: got.append(channel is ch))
        for on_message in (by_generator, by_coroutine, lambda message: by_coroutine(message)):
            queue = await filled(ch, "x")
            await ch.basic_consume(queue, on_message)
            await counts(ch, queue, 0, 1)
        while len(got) < 4:
            await tasks.sleep(0.002)
        await connection.close()
        while len(got) < 5:
            await tasks.sleep(0.002)
        assert got == [True, b"x", b"x", b"x", (connection, None)]

    tasks.run(main(), reactor)


# --- errors that nobody asks for --------------------------------------------------------------------------------------


def test_an_error_that_nobody_asked_for_leaves_the_reactor() -> None:
    reactor = memory()

    def fail() -> Work:
        yield tasks.sleep(1)
        raise KeyError("nobody's")

    tasks.spawn(fail(), reactor)
    with pytest.raises(KeyError, match="nobody's"):
        reactor.run()
    errors: list[BaseException] = []
    reactor.on_error = errors.append
    tasks.spawn(fail(), reactor)
    reactor.run()
    assert [type(error) for error in errors] == [KeyError]


def test_an_error_that_was_asked_for_or_a_cancel_leaves_nobody_uneasy() -> None:
    reactor = memory()

    def fail() -> Work:
        yield tasks.sleep(1)
        raise KeyError

    reactor.call_later(0.5, tasks.spawn(fail(), reactor).cancel)

    def main() -> Work:
        with pytest.raises(KeyError):
            yield tasks.spawn(fail())
        with pytest.raises(KeyError):
            yield tasks.gather(fail(), fail())

    tasks.run(main(), reactor)
    gc.collect()
    reactor.run()


def test_the_error_of_a_promise_is_reported_once_and_only_if_nobody_asked() -> None:
    reactor = memory()
    for ask in (
        lambda promise: promise.ignore_error(),
        lambda promise: promise.then(lambda err, result: None),
    ):
        before: Promise[int] = Promise(reactor)
        ask(before)
        before.settle(KeyError("pending when it was asked for"), None)
        after: Promise[int] = Promise(reactor)
        after.settle(KeyError("rejected when it was asked for"), None)
        ask(after)
        del before, after
        gc.collect()
        reactor.run()
    unasked: Promise[int] = Promise(reactor)
    unasked.settle(KeyError("nobody's"), None)
    assert repr(unasked) == '<Promise, rejected: KeyError("nobody\'s")>'
    del unasked
    with pytest.raises(KeyError, match="nobody's"):
        reactor.run()
    reactor.run()


def test_the_last_that_leaves_a_promise_cancels_it() -> None:
    promise: Promise[int] = Promise(memory())
    told: list[Any] = []

    def one(settled: Promise[int]) -> None:
        told.append(("one", settled))

    def two(settled: Promise[int]) -> None:
        told.append(("two", settled))

    for call in (one, two):
        promise.tell(call)
    promise.leave(one)
    assert not promise.cancelled
    promise.tell(one)
    promise.leave(two)
    promise.ignore_error()
    promise.leave(one)
    assert promise.cancelled
    assert told == []
    promise = Promise(memory())
    event = threading.Event()
    promise.when_settled(event.set)
    promise.tell(one)
    promise.leave(event.set)
    with pytest.raises(ValueError, match="not in list"):
        promise.leave(two)
    promise.leave(one)
    assert promise.cancelled
    assert (told, event.is_set()) == ([], False)
    other: Promise[int] = Promise(memory())
    other.tell(one)
    other.tell(two)
    other.settle(None, 1)
    assert told == [("one", other), ("two", other)]
    other.leave(one)
    assert other.result() == 1
    other.tell(one)
    assert len(told) == 2, "never inside the call that takes it"
    other.reactor.run_once(0)
    assert told[2:] == [("one", other)]


def test_a_result_is_given_back_once_and_only_if_nobody_has_it() -> None:
    for takes in (False, True):
        given: list[str] = []
        promise: Promise[str] = Promise(memory(), given.append)
        for _ in range(3):
            promise.claim()
        promise.settle(None, "message")
        promise.discard()
        promise.discard()
        assert given == []
        if takes:
            assert promise.result() == "message"
        else:
            promise.discard()
            promise.discard()
        assert given == ([] if takes else ["message"])


def result_of(promise: Promise[str]) -> Work:
    return (yield promise)


def precious() -> tuple[MemoryReactor, Promise[str], list[str]]:
    """A promise on a reactor, and a list of what it has given back."""
    reactor, given = memory(), []
    return reactor, Promise(reactor, given.append), given


def test_one_of_two_tasks_that_wait_for_the_same_result_is_cancelled_as_it_comes() -> None:
    reactor, promise, given = precious()

    def main() -> Work:
        one, two = tasks.spawn(result_of(promise)), tasks.spawn(result_of(promise))
        yield tasks.sleep(1)
        promise.settle(None, "message")  # in a task, so these go on in the next turn
        one.cancel()
        return (yield two)

    assert tasks.run(main(), reactor) == "message"
    assert given == []


@pytest.mark.parametrize("came", ["before", "between", "with the last", "after"])
def test_results_of_a_gather_that_is_cancelled_are_given_back(came: str) -> None:
    reactor = memory()
    given: list[str] = []
    promises: list[Promise[str]] = [Promise(reactor, given.append) for _ in range(2)]
    plain: Promise[str] = Promise(reactor)

    def wait() -> Work:
        yield tasks.gather(plain, *promises)
        pytest.fail("it was cancelled")

    def main() -> Work:
        if came == "before":
            promises[0].settle(None, "0")
        task = tasks.spawn(wait())
        yield tasks.sleep(1)
        if came == "between":
            promises[1].settle(None, "1")
        if came == "with the last":
            for promise, result in (plain, "plain"), (promises[1], "1"), (promises[0], "0"):
                promise.settle(None, result)
        task.cancel()
        for promise, result in (plain, "plain"), (promises[0], "0"), (promises[1], "1"):
            promise.settle(None, result)
        with pytest.raises(Cancelled):
            yield task

    tasks.run(main(), reactor)
    assert sorted(given) == ["0", "1"]


def test_a_gather_gives_nothing_back_that_another_task_has() -> None:
    reactor, promise, given = precious()

    def main() -> Work:
        together, alone = tasks.gather(promise, Promise(reactor)), tasks.spawn(result_of(promise))
        yield tasks.sleep(1)
        promise.settle(None, "message")
        together.cancel()
        return (yield alone)

    assert tasks.run(main(), reactor) == "message"
    assert given == []


def test_a_settled_gather_does_not_keep_its_promises() -> None:
    reactor = memory()

    class Result: ...

    promises = [Promise[Any](reactor, lambda result: None), Promise[Any](reactor)]
    together, told = tasks.gather(*promises), Done()
    together.then(told)
    result = Result()
    kept = weakref.ref(result)
    promises[0].settle(None, result)
    promises[1].settle(ChannelClosed("x"), None)
    assert isinstance(told.error, ChannelClosed)
    del promises, result
    gc.collect()
    assert kept() is None


def test_an_ignored_ack_says_nothing_when_the_link_is_lost(reactor: SelectReactor, broker: Served) -> None:
    async def main() -> None:
        ended: list[Any] = []
        connection = await tasks.connect(broker.url, on_close=lambda connection, error: ended.append(error))
        ch = await connection.channel()
        message = await ch.basic_get(await filled(ch, "x"))
        broker.drop_links()
        while not ended:
            message.ack()
            await tasks.sleep(0.001)
        message.ack()
        with pytest.raises(ConnectionClosed):
            await message.ack()

    tasks.run(main(), reactor)


# --- run --------------------------------------------------------------------------------------------------------------


def test_run_inside_a_callback_or_a_task_and_of_on_error(reactor: SelectReactor) -> None:
    log: list[str] = []

    def inner(name: str) -> Work:
        yield tasks.spawn(work(name))
        log.append(f"{name} ends")

    def work(name: str) -> Work:
        yield tasks.sleep(0.001)
        log.append(f"{name} works")

    def main() -> Work:
        yield tasks.sleep(0)
        tasks.run(inner("in a task"))
        reactor.call_soon(lambda: tasks.run(inner("in a callback"), reactor))
        yield tasks.sleep(0.02)
        reactor.on_error = lambda error: tasks.run(inner("of on_error"), reactor)
        reactor.call_soon(lambda: {}["missing"])
        yield tasks.sleep(0.02)
        assert tasks.current_reactor() is reactor

    tasks.run(main(), reactor)
    assert log == [
        f"{name} {does}" for name in ("in a task", "in a callback", "of on_error") for does in ("works", "ends")
    ]


def test_anothers_exception_leaves_run_and_the_task_is_cancelled_and_cleans_up(
    reactor: SelectReactor, broker: Served
) -> None:
    async def main() -> None:
        async with await tasks.connect(broker.url) as connection:
            connections.append(connection)
            reactor.call_soon(lambda: {}["another's"])
            await tasks.sleep(3600)

    connections: list[Any] = []
    with pytest.raises(KeyError, match="another's"):
        tasks.run(main(), reactor)
    assert not connections[0].is_open


@pytest.mark.parametrize("ends", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_ends_run(ends: type[BaseException]) -> None:
    def main() -> Work:
        yield tasks.sleep(1)
        raise ends

    reactor = memory()
    with pytest.raises(ends):
        tasks.run(main(), reactor)
    tasks.run(iter_once(), reactor)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.long), 7])
def test_run_ends_wherever_an_interrupt_comes(step: int) -> None:
    """A signal handler's exception may cost a task the turn that it had."""

    def wait(seconds: int) -> Work:
        yield tasks.sleep(seconds)
        return seconds

    def main() -> Work:
        yield tasks.gather(tasks.sleep(1), wait(2), tasks.spawn(wait(1)))
        with pytest.raises(KeyError):
            yield tasks.spawn(fail())

    def fail() -> Work:
        yield tasks.sleep(1)
        raise KeyError

    def late() -> None:
        raise AssertionError("run did not end")

    number, gaps = 0, []
    while True:
        number += step
        injector, reactor = Injector(number), memory()
        limit = reactor.call_later(100, late)
        try:
            with injector.block(), suppress(Interrupt, KeyError):  # KeyError: main was cut off, and nobody asks for it
                tasks.run(main(), reactor)
        except AssertionError as error:
            gaps.append(f"{injector.where}: {error}")
        if not injector.where:
            break
        limit.cancel()
    assert number > 20, "nothing was interrupted"
    assert not gaps, f"{len(gaps)} of {number // step} places:\n" + "\n".join(gaps)


def test_what_ends_a_program_leaves_run_once() -> None:
    def exits() -> Work:
        yield tasks.sleep(1)
        raise SystemExit

    def main() -> Work:
        tasks.spawn(exits(), reactor)
        yield tasks.sleep(5)

    reactor = memory()
    for work in (exits, main):
        with pytest.raises(SystemExit):
            tasks.run(work(), reactor)
        gc.collect()  # the task that raised goes here
        tasks.run(iter_once(), reactor)


def iter_once() -> Work:
    yield tasks.sleep(0)


def test_what_the_task_wrote_last_is_sent(reactor: SelectReactor, broker: Served) -> None:
    async def main() -> Any:
        ch = await opened_channel(broker)
        queue = await filled(ch)
        ch.basic_publish("", queue, "the last word")
        return ch

    ch = tasks.run(main(), reactor)
    transport = ch.connection.core._backlog.transport
    assert transport.written == transport.queued

    async def close() -> None:
        await ch.connection.close()

    tasks.run(close(), reactor)


def test_each_thread_has_a_reactor_of_its_own(broker: Served) -> None:
    def main() -> Work:
        connection = yield tasks.connect(broker.url)
        yield tasks.sleep(0.01)
        yield connection.close()
        return connection.reactor

    reactors: list[Any] = []
    threads = [threading.Thread(target=lambda: reactors.append(tasks.run(main()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(set(reactors)) == 3
    for reactor in reactors:
        reactor.close()


def test_a_publisher_waits_while_the_channel_is_not_writable(reactor: SelectReactor, broker: Served) -> None:
    async def main() -> None:
        ch = await opened_channel(broker)
        queue = await filled(ch)
        broker.block()
        while ch.writable:
            await tasks.sleep(0.001)
        publish = ch.basic_publish("", queue, "x")
        await ch.queue_declare(queue, passive=True)
        assert not publish.done
        broker.unblock()
        assert await publish is True
        await ch.connection.close()

    tasks.run(main(), reactor)


def test_an_iterator_that_goes_in_another_thread_is_cancelled_by_the_reactor() -> None:
    """As by the garbage collector, which comes by in any thread."""
    world = opened()
    core = world.channel()
    sent: list[Any] = []
    facade: Any = tasks.TaskConnection(tasks.Promises(world.reactor), world.connection)._outward(core)
    messages = facade.consume("q")
    reading = tasks.spawn(messages.__anext__(), world.reactor)
    world.settle()
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    world.settle()
    reading.cancel()
    world.settle()
    holder = [messages]
    del messages, reading
    thread = threading.Thread(target=lambda: (gc.collect(), holder.clear(), sent.append("gone")))
    thread.start()
    thread.join(PATIENCE)
    world.settle()
    assert sent == ["gone"]
    assert world.peer.expect("basic.cancel").consumer_tag == "c"


def test_no_warning_comes_of_a_task(reactor: SelectReactor, broker: Served) -> None:
    async def main() -> None:
        async with await tasks.connect(broker.url) as connection, await connection.channel() as ch:
            async for message in ch.consume(await filled(ch, "x")):
                message.ack()
                break

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tasks.run(main(), reactor)
        gc.collect()
