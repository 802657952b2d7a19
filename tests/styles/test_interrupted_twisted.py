"""An exception of a signal handler at every place of the library's code where Python may run one, on Twisted with
recovery, in a program that goes on: each Deferred fires, and the connection comes back (clauses 4 and 10 of the law).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest

import cpspika
from cpspika.broker import Broker
from cpspika.recovery import dialling
from tests.styles.test_interrupted_asyncio import (
    OPTIONS,
    SECONDS,
    asks,
    closes_the_channel,
    loses_the_link,
    opened,
    opens_channels,
)
from tests.styles.test_interrupted_calls import broker as broker
from tests.styles.test_interrupted_recovery import interrupt_everywhere
from tests.support.injector import Alarm, Injector

pytest.importorskip("twisted")

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.python.failure import Failure

from cpspika.adapters import twisted_adapter
from tests.support.style_twisted import outcome, private_reactor, twisted_reactor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # raised while a generator is closed
]


def by_socket(broker: Broker) -> Any:
    return twisted_adapter.connect(broker.url, reactor=private_reactor(), **OPTIONS)


def by_endpoint(broker: Broker) -> Any:
    endpoint = TCP4ClientEndpoint(private_reactor(), "127.0.0.1", urlsplit(broker.url).port)
    return twisted_adapter.connect(broker.url, reactor=private_reactor(), endpoint=endpoint, **OPTIONS)


class Fired:
    """What Deferreds came to, by name."""

    def __init__(self, deferreds: dict[str, Deferred[Any]]):
        self.outcomes: dict[str, Any] = {}
        self.names = list(deferreds)
        for name, deferred in deferreds.items():
            deferred.addBoth(self.note, name)

    def note(self, outcome: Any, name: str) -> None:
        self.outcomes[name] = outcome

    def late(self) -> list[str]:
        """Turns Twisted's reactor as Twisted does. Returns those that have not fired in time."""
        deadline = time.monotonic() + SECONDS
        while len(self.outcomes) < len(self.names) and time.monotonic() < deadline:
            private_reactor().iterate(0.02)
        return [name for name in self.names if name not in self.outcomes]


@pytest.mark.parametrize("step", [pytest.param(11, marks=pytest.mark.long), 97])
@pytest.mark.parametrize("connect", [by_socket, by_endpoint])
@pytest.mark.parametrize("ask", [asks, loses_the_link, opens_channels, closes_the_channel, None])
def test_each_deferred_fires(
    broker: Broker, monkeypatch: Any, ask: Callable[..., Any] | None, connect: Callable[[Broker], Any], step: int
) -> None:
    queue = f"Twisted {connect.__name__} {ask} {step}"
    monkeypatch.setattr(dialling, "LOOK", 0.3)
    monkeypatch.setattr(dialling, "LATE", 0.2)

    def run(injector: Injector) -> str:
        connection, channel = outcome(Deferred.fromCoroutine(opened(connect, broker, queue)))
        fired = Fired({"connect": connect(broker)} if ask is None else ask(broker, connection, channel, queue))
        with injector.block(), suppress(Alarm):
            fired.late()
        another = Fired({"another channel": connection.channel()})
        late = another.late() + fired.late()
        wrong = f"{late} never fired, and connected: {connection.is_connected}" if late else ""
        for name, result in fired.outcomes.items():
            if isinstance(result, Failure) and not result.check(cpspika.AMQPError, Alarm):
                wrong += f" {name}: {result.value!r}"
        for each in (connection, fired.outcomes.get("connect")):
            if isinstance(each, twisted_adapter.TwistedConnection):
                each.core.abort()
        private_reactor().iterate(0)
        return wrong

    interrupt_everywhere(step, run)


def turned(reactor: Any, made: list[int], count: int) -> list[int]:
    """Turns Twisted's reactor until so many calls were made."""
    deadline = time.monotonic() + SECONDS
    while len(made) < count and time.monotonic() < deadline:
        reactor.twisted.iterate(0.01)
    return made


def test_calls_are_made_though_twisted_has_lost_one() -> None:
    """Twisted takes a call out of its queue before it makes it. An exception in between costs it the call."""
    reactor, made = twisted_reactor(), list[int]()
    reactor.call_soon(partial(made.append, 0))
    reactor._scheduled.func = lambda *_: None
    reactor.twisted.iterate(0.01)
    assert made == []
    reactor.call_soon(partial(made.append, 1))
    assert turned(reactor, made, 2) == [0, 1]


def test_calls_of_threads_are_made_though_twisted_has_lost_one() -> None:
    reactor, made = twisted_reactor(), list[int]()
    reactor.call_soon_threadsafe(partial(made.append, 0))
    reactor.twisted.threadCallQueue.clear()
    reactor.twisted.iterate(0.01)
    assert made == []
    reactor.call_soon(partial(made.append, 1))
    assert turned(reactor, made, 2) == [0, 1]
    reactor.call_soon_threadsafe(partial(made.append, 2))
    assert turned(reactor, made, 3) == [0, 1, 2]


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_result_that_is_told_twice_counts_once(cancelled: bool) -> None:
    """A call that an exception cut off is made again."""
    given_back, fired = list[str](), list[str]()
    promise, settle = twisted_adapter._Promises(twisted_reactor()).make(given_back.append)
    if cancelled:
        promise.addErrback(lambda _: None)
        promise.cancel()
    promise.addCallback(lambda result: fired.append(result))
    for _ in range(2):
        settle(None, "message")
    assert (given_back, fired) == ((["message"], [None]) if cancelled else ([], ["message"]))
