"""An exception of a signal handler at every place where Python may run one while a task is under way: the exception
goes on to the program, and the task ends, with its result or an error. It never waits for ever (clause 4 of the law).
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import pytest

import cpspika
from cpspika import tasks
from cpspika.adapters import SelectReactor
from cpspika.broker import Broker
from tests.styles.test_interrupted_calls import broker as broker
from tests.support.injector import Injector, Interrupt
from tests.support.scripted import using
from tests.support.waiting import until

pytestmark = pytest.mark.slow


def work(channel: Any, queue: str) -> Generator[Any, Any, str]:
    yield channel.queue_declare(queue)
    yield channel.confirm_select()
    yield channel.basic_publish("", queue, "x")
    promises = [channel.basic_get(queue, no_ack=True), channel.queue_declare(queue)]
    yield tasks.gather(*promises)
    return "done"


def connected(url: str, reactor: Any, recovery: Any) -> Generator[Any, Any, Any]:
    connection = yield tasks.connect(url, reactor=reactor, recovery=recovery, heartbeat=0)
    return (yield connection.channel())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised while a generator is closed
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.long), 31])
@pytest.mark.parametrize("recovery", [None, cpspika.Recovery(backoff=(0.005, 0.02))], ids=["plain", "recovery"])
def test_a_task_ends_wherever_an_interrupt_comes(broker: Broker, recovery: Any, step: int) -> None:
    number, gaps, over = 0, list[str](), False
    while not over:
        number += step
        injector = Injector(number)
        with using(SelectReactor()) as reactor:
            channel = tasks.run(connected(broker.url, reactor, recovery), reactor=reactor)
            task: Any = None
            with injector.block(), suppress(Interrupt):
                task = tasks.spawn(work(channel, f"tasks {step}"), reactor)
                while not task.done:
                    reactor.run_once(0.05)
            if task is not None and not ends(task, reactor):
                gaps.append(injector.where)
            over = not injector.where
            assert not over or task.result() == "done"
            channel.connection.core.abort()
        del task, channel
        if number % 20 < step:
            gc.collect()
    assert number > 20, "nothing was interrupted"
    assert not gaps, f"{len(gaps)} of {number // step} places:\n" + "\n".join(gaps)


def ends(task: Any, reactor: Any) -> bool:
    def turn() -> bool:
        with suppress(Interrupt, cpspika.AMQPError, tasks.Cancelled):
            reactor.run_once(0.01)
        return bool(task.done)

    try:
        until(turn, "the end of the task")
    except AssertionError:
        return False
    with suppress(BaseException):
        task.result()  # asked for, so nobody reports it
    return True
