"""An exception of a signal handler at every place of the dispatch where Python may run one, on a connection that
recovers: each on_done and each handler of the end is still called once, and no recovery hangs (clauses 2, 4, 10)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

import cpspika
from tests.client.test_interrupted_dispatch import note
from tests.support.injector import Injector, Interrupt
from tests.support.recovering import RecoveryWorld
from tests.support.scripted import Done


def replies(world: RecoveryWorld, done: Callable[[str], Done]) -> None:
    pass


def cut(world: RecoveryWorld, done: Callable[[str], Done]) -> None:
    """The loss is told inside the block: no function of the test's may be on the stack, or it would be a callback's."""
    transport = world.connection._unwritten.transport
    world.reactor.call_soon(partial(transport.lost, ConnectionResetError("cut by the test")))


def closes(world: RecoveryWorld, done: Callable[[str], Done]) -> None:
    world.connection.close(on_done=done("close"))


def waits(world: RecoveryWorld, done: Callable[[str], Done]) -> None:
    """What waits for a link is sent inside the block."""
    (channel,) = world.connection._opened_channels
    world.down()
    world.cut()
    channel.basic_publish("", "q", "waited")
    channel.basic_publish("", "q", "waited too", on_done=done("the second that waits"))
    channel.queue_declare("s")
    world.up()


def loses_a_channel(world: RecoveryWorld, done: Callable[[str], Done]) -> None:
    (channel,) = world.connection._opened_channels
    channel.queue_declare("none", passive=True, on_done=done("declare none"))
    channel.queue_purge("q", on_done=done("purge"))


def closes_a_channel(world: RecoveryWorld, done: Callable[[str], Done]) -> None:
    (channel,) = world.connection._opened_channels
    channel.close(on_done=done("close the channel"))


def closes_a_channel_as_the_link_is_lost(world: RecoveryWorld, done: Callable[[str], Done]) -> None:
    closes_a_channel(world, done)
    cut(world, done)


def closes_without_a_link(world: RecoveryWorld, done: Callable[[str], Done]) -> None:
    world.down()
    world.cut()
    world.connection.close(on_done=done("close"))


def gives_up(world: RecoveryWorld, done: Callable[[str], Done]) -> None:
    world.down()
    world.cut()
    world.connection._give_up(cpspika.ConnectionLost("as a test wants"))


KEPT = {replies: [b"untold"], cut: [b"untold"], waits: [b"untold", b"waited", b"waited too"]}
"""Bodies that must be in the queue, where a program keeps its channel."""


def begun(program: Any) -> tuple[RecoveryWorld, list[Done], dict[str, list[Any]]]:
    """A world in which a publish and a declare are in flight, and its program has begun; the dones; the handlers'."""
    world, dones = RecoveryWorld(), []

    def done(name: str) -> Done:
        dones.append(Done(name))
        return dones[-1]

    channel = world.confirming()
    channel.queue_declare("q", on_done=done("declare"))
    world.settle()
    ends: dict[str, list[Any]] = {"on_close": world.closed, "state": [], "state of the channel": []}
    world.connection.add_state_change_handler(note(ends["state"]))
    channel.add_state_change_handler(note(ends["state of the channel"]))
    channel.basic_publish("", "q", "x", on_done=done("publish"))
    channel.basic_publish("", "q", "untold")
    channel.queue_declare("r", on_done=done("declare r"))
    program(world, done)
    return world, dones, ends


def go_on(world: RecoveryWorld, seconds: float = 0) -> None:
    for _ in range(3):
        with suppress(Interrupt, cpspika.AMQPError):
            world.reactor.advance(seconds)
            world.reactor.settle()


def interrupted(world: RecoveryWorld, number: int, seconds: float | None = None) -> str:
    """Goes on until the place with a number, and an exception there; "" if there is none. Returns where that was."""
    injector = Injector(number)
    with injector.block(), suppress(Interrupt, cpspika.AMQPError):  # one tells of the publish without on_done
        world.reactor.settle()
        if seconds is not None:
            world.reactor.advance(seconds)
    return injector.where


def faults(program: Any, world: RecoveryWorld, dones: list[Done], ends: dict[str, list[Any]]) -> list[str]:
    """What is wrong after a long time, and at the end."""
    go_on(world)
    go_on(world, 40)
    state = "connected" if world.connection.is_connected else "open" if world.connection.is_open else "ended"
    wrong = [f"{each.name}: not told, and {state}" for each in dones if not each.calls]
    if state == "connected" and program in KEPT:
        wrong += [f"{body!r} is lost" for body in KEPT[program] if body not in world.bodies("q")]
    with suppress(cpspika.AMQPError):
        world.connection.abort()
    go_on(world)
    wrong += [f"{each.name}: {len(each.calls)} times" for each in dones if len(each.calls) != 1]
    wrong += [f"{name}: {len(calls)} times" for name, calls in ends.items() if len(calls) != 1]
    if state == "open":
        wrong.append("it is open, and does not recover")
    return wrong


each_program = pytest.mark.parametrize(
    "program",
    [
        replies,
        cut,
        waits,
        loses_a_channel,
        closes_a_channel,
        closes_a_channel_as_the_link_is_lost,
        closes,
        closes_without_a_link,
        gives_up,
    ],
)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised while a generator is closed
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.long), 61])
@each_program
def test_each_on_done_is_called_once_wherever_an_interrupt_comes(program: Any, step: int) -> None:
    number, gaps = 0, []
    while True:
        number += step
        world, dones, ends = begun(program)
        where = interrupted(world, number, 1)
        wrong = faults(program, world, dones, ends)
        if not where:
            break
        if wrong:
            gaps.append(f"{where}: {', '.join(wrong)}")
    assert number > 20, "nothing was interrupted"
    assert not gaps, f"{len(gaps)} of {number // step} places:\n" + "\n".join(gaps)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.long
@each_program
def test_a_second_interrupt_may_come_while_the_first_is_dealt_with(program: Any) -> None:
    """At a choice of places."""
    count, gaps = 0, []
    number, where = 0, "at first"
    while where:
        number, again = number + 149, 0
        while where:
            again += 17
            world, dones, ends = begun(program)
            where = interrupted(world, number, 1)
            then = interrupted(world, again) if where else ""
            wrong = faults(program, world, dones, ends)
            if not then:
                break
            count += 1
            if wrong:
                gaps.append(f"{where}, then {then}: {', '.join(wrong)}")
    assert count, "nothing was interrupted twice"
    assert not gaps, f"{len(gaps)} of {count} pairs of places:\n" + "\n".join(gaps)
