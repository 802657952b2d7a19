"""`on_ready`, the program's function that sets a new channel up: on_done waits for what it has asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import cpspika
from tests.support.scripted import Done, World, opened


def setting_up(on_ready: Callable[[Any], object]) -> tuple[World, Done]:
    """A world in which a channel is open at the broker, and on_ready was called."""
    world, done = opened(), Done("channel")
    with done.not_inside():
        world.connection.channel(on_ready, on_done=done)
    world.peer.answering = False
    world.peer.open_channel(1)
    world.settle()
    return world, done


def declares(channel: Any) -> None:
    channel.queue_declare("a")
    channel.queue_bind("a", "e")


def test_it_waits_for_all_that_was_asked_for() -> None:
    world, done = setting_up(declares)
    world.peer.send(1, "queue.declare-ok", queue="a")
    world.settle()
    assert done.pending
    world.peer.send(1, "queue.bind-ok")
    world.settle()
    assert done.result.number == 1


def test_nothing_asked_for_is_ready_at_once() -> None:
    _, done = setting_up(lambda channel: None)
    assert done.result.number == 1


def test_a_channel_that_the_broker_closes_meanwhile_has_not_been_opened() -> None:
    world, done = setting_up(declares)
    world.peer.send(1, "queue.declare-ok", queue="a")
    world.peer.close_channel(404, "NOT_FOUND - no exchange 'e'", 50, 20)
    world.settle()
    assert isinstance(done.error, cpspika.NotFound)
    assert "no exchange 'e'" in str(done.error)


def test_a_link_that_is_lost_meanwhile() -> None:
    world, done = setting_up(declares)
    world.peer.cut()
    world.settle()
    assert isinstance(done.error, cpspika.ConnectionLost)


@pytest.mark.parametrize("asks", [False, True])
def test_an_on_ready_that_closes_its_channel(asks: bool) -> None:
    def on_ready(channel: Any) -> None:
        if asks:
            declares(channel)
        channel.close()

    world, done = setting_up(on_ready)
    world.peer.answer()
    world.settle()
    assert isinstance(done.error, cpspika.ChannelClosed)


def test_an_on_ready_that_raises_closes_its_channel() -> None:
    def on_ready(channel: Any) -> None:
        raise ZeroDivisionError("in setup")

    world, done = setting_up(on_ready)
    assert isinstance(done.error, cpspika.ChannelClosed)
    assert isinstance(done.error.__cause__, ZeroDivisionError)
    world.peer.expect("channel.close", 1)
