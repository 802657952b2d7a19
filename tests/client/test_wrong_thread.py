"""A call from another thread while one is inside, and a call with a mistake: it raises, and nothing has changed (clause
5 of the law). Every operation of the core, in each state of a channel and connection."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import cpspika
from tests.support.scripted import Done, World, opened
from tests.support.unchanged import (
    ARGUMENTS,
    NOBODY,
    OF_CONNECTION,
    differences,
    mistakes,
    refused_in_another_thread,
    snapshot,
    told_or_not,
)


def plain() -> tuple[World, Any]:
    world = opened()
    channel = world.channel()
    world.peer.serve()
    return world, channel


def is_open(world: Any, channel: Any) -> None:
    pass


def consumer_starts(world: Any, channel: Any) -> None:
    channel.basic_consume("q", print, consumer_tag="starting")


def stops_flow(world: Any, channel: Any) -> None:
    world.peer.send(channel.number, "channel.flow", active=False)
    world.settle()


def channel_closes(world: Any, channel: Any) -> None:
    channel.close()


def channel_closed(world: Any, channel: Any) -> None:
    channel.close()
    world.settle()


def connection_closes(world: Any, channel: Any) -> None:
    world.connection.close()


def connection_closed(world: Any, channel: Any) -> None:
    world.connection.close()
    world.settle()


STATES = [
    is_open,
    consumer_starts,
    stops_flow,
    channel_closes,
    channel_closed,
    connection_closes,
    connection_closed,
]


def state_of(world: Any, channel: Any) -> Any:
    return snapshot([world.connection, channel, world.reactor])


def refused(world: Any, channel: Any, call: Callable[[], object], told: bool) -> None:
    refused_in_another_thread(world.reactor, partial(state_of, world, channel), call, told)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_each_operation_is_refused_and_changes_nothing(state: Any) -> None:
    world, channel = plain()
    state(world, channel)
    for told in (True, False):
        for name, arguments in ARGUMENTS.items():
            if name == "basic_cancel" and channel.is_open and state is not consumer_starts:
                continue  # there is no such consumer
            refused(world, channel, told_or_not(getattr(channel, name), arguments, told), told)
        for options in ({"mandatory": True}, {"block_on_flow_control": True}):
            publish = partial(channel.basic_publish, "", "q", "x", **options)
            refused(world, channel, told_or_not(publish, (), told), told)
        for name, arguments in OF_CONNECTION.items():
            if name != "abort" or not told:
                refused(world, channel, told_or_not(getattr(world.connection, name), arguments, told), told)
    world.settle()


def test_a_connection_that_dials_is_left_alone() -> None:
    world = World()
    for call in (world.connection.close, world.connection.abort):
        outer, world.reactor.thread = world.reactor.thread, NOBODY
        try:
            with pytest.raises(cpspika.ConcurrentUse):
                call()
        finally:
            world.reactor.thread = outer
    world.settle()
    assert world.connected.result.is_open


def test_a_call_with_a_mistake_changes_nothing() -> None:
    world, channel = plain()
    count = 0
    for thing, of, names in (
        (channel, cpspika.Channel, ARGUMENTS),
        (world.connection, cpspika.Connection, OF_CONNECTION.keys() - {"abort"}),
    ):
        for name, arguments in mistakes(names, of):
            before = state_of(world, channel)
            try:
                getattr(thing, name)(**arguments)
            except cpspika.LocalError:
                count += 1
                assert differences(before, state_of(world, channel)) == [], f"{name}({arguments})"
            else:  # it was no mistake, and another world goes on
                world, channel = plain()
                thing = channel if of is cpspika.Channel else world.connection
    assert count > 300
    declared = Done()
    channel.queue_declare("q", on_done=declared)
    world.settle()
    assert declared.result.queue == "q"
