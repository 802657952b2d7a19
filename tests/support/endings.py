"""The ways in which a channel ends, and operations that wait for one."""

from __future__ import annotations

from typing import Any

from tests.support.scripted import Done, World


class Boom(Exception):
    """What a user's callback raises."""


def ignore(*_: Any) -> None:
    pass


def fill(world: World, channel: Any, log: list[Any]) -> list[str]:
    """Asks for requests, publishes to be confirmed and acks whose bytes are still ours, mixed."""
    asked = []

    def done(name: str) -> Done:
        asked.append(name)
        return Done(name, log)

    channel.queue_declare("a", on_done=done("declare a"))
    channel.basic_publish(routing_key="q", body="1", on_done=done("publish 1"))
    channel.basic_ack(1, on_done=done("ack 1"))
    channel.queue_declare("b", on_done=done("declare b"))
    channel.basic_ack(2, on_done=done("ack 2"))
    channel.basic_publish(routing_key="q", body="2", mandatory=True, on_done=done("publish 2"))
    channel.queue_purge("a", on_done=done("purge"))
    return asked


def end_by_fault(world: World) -> None:
    world.peer.send_raw(b"\x01\0\0\0\0\0\0\xff")


ENDS = {
    "channel closed": lambda world: world.peer.close_channel(406, "PRECONDITION_FAILED - told so"),
    "connection closed": lambda world: world.peer.close_connection(320, "CONNECTION_FORCED - told so"),
    "hung up": lambda world: world.peer.hang_up(),
    "fault": end_by_fault,
    "cut": lambda world: world.peer.cut(),
}
