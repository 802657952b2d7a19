"""A handshake that a test says step by step, as the broker, to credentials that answer challenges."""

from __future__ import annotations

from typing import Any

from tests.support.scripted import World

START = {"version_major": 0, "version_minor": 9, "mechanisms": "PLAIN AMQPLAIN", "locales": "en_US"}
TUNE = {"channel_max": 2047, "frame_max": 131072, "heartbeat": 0}

# The broker's steps of the handshake; each is met by one answer of the client's.
STEPS = [
    ("connection.start", START, ["connection.start-ok"]),
    ("connection.secure", {"challenge": b"who?"}, ["connection.secure-ok"]),
    ("connection.tune", TUNE, ["connection.tune-ok", "connection.open"]),
    ("connection.open-ok", {}, []),
]


class Answering:
    """A user's own credentials, with challenges."""

    mechanism = "PLAIN"

    def __init__(self) -> None:
        self.challenges: list[bytes] = []

    def start(self) -> bytes:
        return b"begin"

    def respond(self, challenge: bytes) -> bytes:
        self.challenges.append(challenge)
        return b"answer to " + challenge


def by_hand(**options: Any) -> World:
    """A world whose handshake the test says."""
    world = World({"handshake": False}, credentials=options.pop("credentials", Answering()), **options)
    world.peer.expect_header()
    return world


def say(world: World, count: int, start: dict[str, Any] | None = None) -> None:
    """The first steps of the handshake. `start`: the arguments of connection.start, if they are others."""
    for name, arguments, answers in STEPS[:count]:
        world.peer.send(0, name, **(start if start is not None and name == "connection.start" else arguments))
        for answer in answers:
            world.peer.expect(answer)


def causes(error: BaseException | None) -> list[BaseException]:
    """An error and what caused it. Where "localhost" is ::1 too, a connect's error tells of both addresses, and its
    causes are those of the last."""
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__
    return found
