"""A call from another thread while one is inside: it raises ConcurrentUse, and nothing has changed (clause 5 of the
law). Every operation of the core, in each state of a channel and connection."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

import cpspika
from cpspika.styles.lifting import operations
from tests.support.scripted import Done, World, opened

NOBODY = -1  # the number of no thread, so the calling one is another

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "exchange_declare": ("e",),
    "exchange_delete": ("e",),
    "exchange_bind": ("e", "f"),
    "exchange_unbind": ("e", "f"),
    "queue_declare": ("another",),
    "queue_bind": ("q", "e"),
    "queue_unbind": ("q", "e"),
    "queue_purge": ("q",),
    "queue_delete": ("q",),
    "basic_qos": (),
    "basic_consume": ("q", print),
    "basic_cancel": ("starting",),
    "basic_get": ("q",),
    "basic_ack": (1,),
    "basic_nack": (1,),
    "basic_reject": (1,),
    "basic_recover": (),
    "basic_publish": ("", "q", "x"),
    "confirm_select": (),
    "drain": (),
    "tx_select": (),
    "tx_commit": (),
    "tx_rollback": (),
    "flow": (True,),
    "close": (),
}
OF_CONNECTION: dict[str, tuple[Any, ...]] = {"channel": (), "close": (), "update_secret": ("s",), "abort": ()}
assert ARGUMENTS.keys() == operations(cpspika.Channel).keys()
assert OF_CONNECTION.keys() == operations(cpspika.Connection).keys() | {"abort"}


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


def snapshot(thing: Any, depth: int = 4) -> Any:
    """All that an object of the library holds, as a comparable value."""
    if isinstance(thing, dict):
        return [(str(key), snapshot(value, depth)) for key, value in thing.items()]
    if isinstance(thing, (str, bytes, int, float, type(None), threading.Thread)) or callable(thing) or not depth:
        return thing if isinstance(thing, (str, bytes, int, float, type(None))) else id(thing)
    if hasattr(thing, "__iter__") and hasattr(thing, "__len__"):
        return [snapshot(each, depth - 1) for each in thing]
    if not type(thing).__module__.startswith("cpspika"):
        return id(thing)
    names = {name for cls in type(thing).__mro__ for name in getattr(cls, "__slots__", ())} | set(vars_of(thing))
    return [(name, snapshot(getattr(thing, name, None), depth - 1)) for name in sorted(names - UNCHANGING)]


UNCHANGING = {"__weakref__", "_encoder", "thread", "_dice", "_fast_sender", "_facade"}


def vars_of(thing: Any) -> dict[str, Any]:
    return getattr(thing, "__dict__", {})


def state_of(world: Any, channel: Any) -> Any:
    return [snapshot(thing) for thing in (world.connection, channel, world.reactor)]


def refused(before: Any, world: Any, channel: Any, call: Callable[[], object], told: bool) -> None:
    """before: the state. told: the call has an on_done. Without one, a call that has nothing to do may return, and one
    that fails whatever the thread raises its own error."""
    outer, world.reactor.thread = world.reactor.thread, NOBODY
    try:
        with pytest.raises(cpspika.ConcurrentUse) if told else suppress(cpspika.AMQPError):
            call()
    finally:
        world.reactor.thread = outer
    assert state_of(world, channel) == before


def asked(function: Any, arguments: tuple[Any, ...], told: bool) -> Callable[[], object]:
    done = Done()
    return lambda: function(*arguments, **({"on_done": done} if told else {}))


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_each_operation_is_refused_and_changes_nothing(state: Any) -> None:
    world, channel = plain()
    state(world, channel)
    before = state_of(world, channel)
    for told in (True, False):
        for name, arguments in ARGUMENTS.items():
            if name == "basic_cancel" and channel.is_open and state is not consumer_starts:
                continue  # there is no such consumer
            refused(before, world, channel, asked(getattr(channel, name), arguments, told), told)
        for options in ({"mandatory": True}, {"block_on_flow_control": True}):
            publish = partial(channel.basic_publish, "", "q", "x", **options)
            refused(before, world, channel, asked(publish, (), told), told)
        for name, arguments in OF_CONNECTION.items():
            if name != "abort" or not told:
                refused(before, world, channel, asked(getattr(world.connection, name), arguments, told), told)
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
