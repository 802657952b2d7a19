"""An exception of a signal handler at every place of the dispatch where Python may run one: each on_done is still
called once, and each handler of the end (clauses 2, 4 and 10 of the law)."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import cpspika
from cpspika.adapters import BlockingReactor, MemoryReactor, SelectReactor
from tests.support.handshakes import STEPS
from tests.support.injector import Injector, Interrupt
from tests.support.scripted import Done, MemoryBroker, SocketBroker, World, opened, run_until, using


def replies(world: World, done: Callable[[str], Done]) -> None:
    channel = world.channel()
    for name in "abc":
        channel.queue_declare(name, on_done=done(f"declare {name}"))
    channel.basic_get("a", on_done=done("get"))
    channel.basic_publish("", "a", b"x", on_done=done("publish"))
    world.connection.channel(on_done=done("channel"))
    world.settle()
    peer = world.peer
    for name in "abc":
        peer.send(1, "queue.declare-ok", queue=name, message_count=0, consumer_count=0)
    peer.send(1, "basic.get-empty")
    peer.send(2, "channel.open-ok")


def confirms(world: World, done: Callable[[str], Done]) -> None:
    channel = world.confirming()
    for number in range(6):
        channel.basic_publish("", "a", b"x", on_done=done(f"publish {number}"))
    world.settle()
    world.peer.ack(1)
    world.peer.nack(2)
    world.peer.ack(5, multiple=True)


def overtaken(world: World, done: Callable[[str], Done]) -> None:
    channel = world.channel()
    channel.basic_consume("q", print, consumer_tag="c", on_done=done("consume"))
    channel.queue_declare("a", on_done=done("declare"))
    channel.queue_declare("b", on_done=done("declare b"))
    world.settle()
    world.peer.send(1, "queue.declare-ok", queue="a", message_count=0, consumer_count=0)
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")


def channel_closed(world: World, done: Callable[[str], Done]) -> None:
    channel = world.channel()
    for name in "ab":
        channel.queue_declare(name, on_done=done(name))
    channel.drain(on_done=done("drain"))
    world.settle()
    world.peer.close_channel(404, "NOT_FOUND", 50, 10)


def connection_closed(world: World, done: Callable[[str], Done]) -> None:
    channel = world.confirming()
    channel.basic_publish("", "a", b"x", on_done=done("publish"))
    channel.queue_declare("a", on_done=done("declare"))
    world.connection.update_secret("s", on_done=done("secret"))
    world.settle()
    world.peer.close_connection()


def link_lost(world: World, done: Callable[[str], Done]) -> None:
    channel = world.confirming()
    channel.basic_publish("", "a", b"x", on_done=done("publish"))
    channel.drain(on_done=done("drain"))
    world.connection.channel(on_done=done("channel"))
    world.settle()
    world.peer.cut()


def refused(world: World, done: Callable[[str], Done]) -> None:
    channel = world.channel()
    channel.close(on_done=done("close"))
    channel.queue_declare("a", on_done=done("declare"))
    channel.basic_publish("", "a", b"x", on_done=done("publish"))
    world.connection.close(on_done=done("close all"))
    world.connection.channel(on_done=done("channel"))


LOST = [connection_closed, link_lost]
UNCERTAIN = [confirms, *LOST]  # a publish of theirs that was cut off has perhaps reached a queue
PROGRAMS = [replies, confirms, overtaken, channel_closed, connection_closed, link_lost, refused]


def is_fate(done: Done) -> bool:
    """Whether the error of a publish tells its fate."""
    error = done.calls[0][0] if done.calls else None
    fates = (cpspika.DeliveryUnknown, cpspika.MessageNacked)
    return error is None or not done.name.startswith("publish") or isinstance(error, fates)


def watch_ends(world: World) -> dict[str, list[Any]]:
    """Registers handlers; returns what each was told of the end."""
    ends: dict[str, list[Any]] = {"on_close": world.closed, "state of the connection": []}
    world.connection.add_state_change_handler(note(ends["state of the connection"]))
    for number, channel in world.connection._channels.items():
        told = ends[f"state of channel {number}"] = []
        channel.add_state_change_handler(note(told))
    return ends


def note(told: list[Any]) -> Callable[[Any, bool], None]:
    def handler(thing: Any, is_open: bool) -> None:
        if not is_open:
            told.append(thing)

    return handler


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised while a generator is closed
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.long), 11])
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_on_done_is_called_once_wherever_an_interrupt_comes(program: Any, step: int) -> None:
    number, gaps = 0, []
    while True:
        number += step
        world, dones = opened(), []

        def done(name: str, dones: list[Done] = dones) -> Done:
            dones.append(Done(name))
            return dones[-1]

        program(world, done)
        ends = watch_ends(world)
        injector = Injector(number)
        with injector.block(), suppress(Interrupt):
            world.reactor.settle()
        for _ in range(3):
            with suppress(Interrupt, cpspika.AMQPError):
                world.reactor.settle()
        if not injector.where:
            break
        if program not in LOST:  # those end by themselves
            world.connection.abort()
            world.reactor.settle()
        wrong = [f"{each.name}: {len(each.calls)} times" for each in dones if len(each.calls) != 1]
        wrong += [f"{each.name}: {each.calls[0][0]!r}" for each in dones if program in UNCERTAIN and not is_fate(each)]
        if program in LOST and None in world.closed:
            wrong.append("on_close: no reason")
        wrong += [f"{name}: {len(calls)} times" for name, calls in ends.items() if len(calls) != 1]
        if wrong:
            gaps.append(f"{injector.where}: {', '.join(wrong)}")
    assert number > 20, "nothing was interrupted"
    assert not gaps, f"{len(gaps)} of {number // step} places:\n" + "\n".join(gaps)


def opens(first: MemoryBroker) -> None:
    first.peer.expect_open()


def hangs_up(first: MemoryBroker) -> None:
    first.peer.expect_header()
    first.peer.cut()


def refuses(first: MemoryBroker) -> None:
    first.peer.expect_header()
    first.peer.send(0, *STEPS[0][:1], **STEPS[0][1])
    first.peer.expect("connection.start-ok")
    first.peer.close_connection(403, "ACCESS_REFUSED")


def is_silent(first: MemoryBroker) -> None:
    first.peer.expect_header()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.long), 7])
@pytest.mark.parametrize("first_one", [opens, hangs_up, refuses, is_silent])
def test_connect_is_told_once_wherever_an_interrupt_comes(first_one: Any, step: int) -> None:
    number, gaps = 0, []
    while True:
        number += step
        reactor = MemoryReactor()
        first = MemoryBroker(reactor, "first", handshake=first_one is opens)
        MemoryBroker(reactor, "second")
        connected, closed = Done("connect"), list[Any]()
        injector = Injector(number)
        targets = ["amqp://first", "amqp://second"]
        connection = cpspika.connect(targets, reactor=reactor, on_done=connected, on_close=note_close(closed))
        try:
            with injector.block():
                first_one(first)
                reactor.advance(60)
        except Interrupt:
            with suppress(Interrupt, cpspika.AMQPError):
                reactor.advance(60)
        if not injector.where:
            break
        told, is_open = len(connected.calls), connection.is_open  # without our help
        connection.abort()
        reactor.settle()
        if told != 1 or len(connected.calls) != 1 or (is_open and len(closed) != 1):
            gaps.append(f"{injector.where}: connect {len(connected.calls)} times, on_close {len(closed)} times")
    assert number > 20, "nothing was interrupted"
    assert not gaps, f"{len(gaps)} of {number // step} places:\n" + "\n".join(gaps)


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.long), 7])
@pytest.mark.parametrize("reactor_type", [SelectReactor, BlockingReactor])
def test_the_loss_of_a_socket_is_told_wherever_an_interrupt_comes(reactor_type: Any, step: int) -> None:
    number, gaps = 0, []
    with SocketBroker() as broker:
        while True:
            number += step
            injector = Injector(number)
            with using(reactor_type()) as reactor:
                opened, declared, closed = Done("connect"), Done("declare"), list[Any]()
                cpspika.connect(broker.url, reactor=reactor, heartbeat=0, on_done=opened, on_close=note_close(closed))
                run_until(reactor, lambda: not opened.pending)  # noqa: B023
                channel = opened.result.channel()
                broker.peers[-1].answering = False
                channel.queue_declare("q", on_done=declared)
                run_until(reactor, lambda: bool(broker.peers[-1].came("queue.declare")))
                sock = broker.peers[-1].socket
                sock.shutdown(socket.SHUT_RDWR)
                gc.disable()  # what it would find is of runs before
                try:
                    with injector.block(), suppress(Interrupt):
                        turn_until_lost(reactor, opened.result)
                finally:
                    gc.enable()
                for _ in range(20):
                    if declared.calls and closed:
                        break
                    with suppress(Interrupt, cpspika.AMQPError):
                        reactor.run_once(0.001)
            if not injector.where:
                break
            if (len(declared.calls), len(closed)) != (1, 1):
                gaps.append(f"{injector.where}: declare {len(declared.calls)} times, on_close {len(closed)} times")
    assert number > 20, "nothing was interrupted"
    assert not gaps, f"{len(gaps)} of {number // step} places:\n" + "\n".join(gaps)


def note_close(closed: list[Any]) -> Callable[[Any, Any], None]:
    return lambda connection, error: closed.append(error)


def turn_until_lost(reactor: Any, connection: Any) -> None:
    end = time.monotonic() + 10
    while connection.is_open:
        assert time.monotonic() < end, "the loss was not noticed"
        reactor.run_once(0.001)
