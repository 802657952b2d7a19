"""The reactor on Twisted's, driven by itself: held to the tests of the other reactors, and what is its own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("twisted")

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import Clock

import cpspika
from cpspika import tasks
from cpspika.adapters.twisted_adapter import TwistedReactor, connect
from tests.reactors import test_reactors
from tests.support.scripted import SocketBroker, run_until
from tests.support.style_twisted import outcome, private_reactor
from tests.support.waiting import DEADLINE

NOT_OURS = {
    "test_the_heap_does_not_grow_with_cancelled_timers",  # the heap is Twisted's
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


@pytest.fixture
def reactor() -> Iterator[TwistedReactor]:
    reactor = TwistedReactor(private_reactor())
    yield reactor
    for delayed in reactor.twisted.getDelayedCalls():
        delayed.cancel()


@pytest.fixture
def real(reactor: TwistedReactor) -> TwistedReactor:
    return reactor


@pytest.fixture
def shared(reactor: TwistedReactor) -> Iterator[TwistedReactor]:
    yield reactor
    reactor.on_error = lambda error: None
    for connection in list(cpspika.client.connection._connections):
        if connection.reactor is reactor:
            connection.close()
    run_until(reactor, lambda: not reactor._watched)


@pytest.mark.parametrize("by", ["socket", "endpoint"])
def test_the_core_runs_on_it(reactor: TwistedReactor, by: str) -> None:
    """`run` ends when the connection is closed, whichever way it went."""
    log: list[Any] = []
    with SocketBroker() as broker:

        def opened(error: Any, connection: cpspika.Connection) -> None:
            channel = connection.channel()
            assert channel is not None
            channel.queue_declare("q", on_done=lambda error, ok: (log.append(ok.queue), connection.close()))

        if by == "socket":
            cpspika.connect(broker.url, reactor=reactor, on_done=opened)
        else:
            endpoint = TCP4ClientEndpoint(reactor.twisted, "127.0.0.1", broker.port)
            connect(broker.url, reactor=reactor, endpoint=endpoint).addCallback(
                lambda facade: opened(None, facade.core)
            )
        reactor.run()
    assert log == ["q"]


def test_a_time_that_has_passed_has_come(reactor: TwistedReactor) -> None:
    """As other reactors have it; Twisted's own refuses it."""
    called: list[int] = []
    reactor.call_later(-1, lambda: called.append(1))
    run_until(reactor, lambda: called)


def test_a_turn_does_not_wait_when_it_makes_a_call_from_a_thread(
    reactor: TwistedReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a call may come when Twisted has made those of a turn, and has not read the wake-ups yet: then nothing is
    left to wake the next turn, and what the call plans would wait for other input."""
    told: list[str] = []
    waits: list[float] = []
    poll = reactor.twisted.doIteration
    monkeypatch.setattr(reactor.twisted, "doIteration", lambda delay: (waits.append(delay), poll(0)))
    later = lambda: reactor.call_later(0, lambda: told.append("later"))  # noqa: E731
    reactor.twisted.threadCallQueue.append((later, (), {}))
    reactor.run_once(20)
    assert set(waits) == {0}
    reactor.run_once(0)
    assert told == ["later"]


def test_the_synchronous_facade_and_tasks_run_on_it(reactor: TwistedReactor, embedded: Any) -> None:
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


def test_a_broker_lives_on_it_too(reactor: TwistedReactor) -> None:
    broker = cpspika.broker.Broker(reactor)
    listener = broker.listen("127.0.0.1", 0)
    connection = outcome(connect(f"amqp://guest:guest@127.0.0.1:{listener.port}/", reactor=reactor.twisted))
    channel = outcome(connection.channel())
    queue = outcome(channel.queue_declare(exclusive=True)).queue
    outcome(channel.basic_publish(routing_key=queue, body=b"x" * 2**20))
    assert len(outcome(channel.basic_get(queue, no_ack=True)).body) == 2**20
    outcome(connection.close())
    broker.end()
    reactor.run()


def test_a_reactor_without_sockets_says_what_to_do() -> None:
    clock = Clock()
    errors: list[Any] = []
    connect("amqp://127.0.0.1", reactor=clock).addErrback(errors.append)
    for _ in range(10):
        clock.advance(0)
    assert isinstance(errors[0].value, cpspika.ConnectError)
    assert "a Clock, cannot watch sockets" in str(errors[0].value)
    assert "endpoint=" in str(errors[0].value)
