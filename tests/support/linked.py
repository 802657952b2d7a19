"""Two links in a loop, client and server, for the tests of the link: no reactor, no socket, no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cpspika.errors import AMQPError
from cpspika.parameters import ConnectionParameters
from cpspika.wire import handshake
from cpspika.wire.frames import PROTOCOL_HEADERS
from cpspika.wire.handshake import Host, Negotiated
from cpspika.wire.link import Link

Events = list[tuple[int, Any]]

LIMITS = Negotiated(frame_max=8192, channel_max=100, heartbeat=60, virtual_host="", peer_properties={})


def let_in(mechanism: str, answers: list[bytes]) -> Any:
    return "guest"


class Pair:
    """A client and a server that meet. What each heard is in `heard`, by role; `host` is made for the version that the
    client asks for."""

    def __init__(
        self,
        version: str = "0-9-1",
        *,
        limits: Negotiated = LIMITS,
        mechanisms: str = "PLAIN AMQPLAIN",
        authenticate: Callable[[str, list[bytes]], Any] = let_in,
        enter: Callable[[Any, str], None] = lambda user, virtual_host: None,
        **parameters: Any,
    ):
        chosen = ConnectionParameters(protocol=version, **parameters)
        self.client = Link("client", version, handshake.client(chosen, {"product": "tests"}))
        self.server = Link("server", None, None)
        self.heard: dict[str, Events] = {"client": [], "server": []}
        greeting = self.server.greet_back(self.client.take_answers())
        assert greeting == (version, b"")
        host = Host(version, {"product": "server"}, mechanisms, limits, authenticate, enter)
        self.server.begin(version, handshake.server(host))

    def other(self, link: Link) -> Link:
        return self.server if link is self.client else self.client

    def talk(self) -> Pair:
        """Carries to and fro what the links say by themselves, until both are silent."""
        while self.carry(self.client, self.client.take_answers()) + self.carry(self.server, self.server.take_answers()):
            pass
        return self

    def carry(self, sender: Link, data: bytes) -> int:
        """Gives bytes of the sender to the other end; returns how many."""
        receiver = self.other(sender)
        if data:
            self.heard[receiver.role] += receiver.receive(data)
        return len(data)

    def say(self, sender: Link, number: int, name: str, **arguments: Any) -> Events:
        """Sends a method and lets the ends talk; returns what the other end heard meanwhile."""
        heard = self.heard[self.other(sender).role]
        before = len(heard)
        self.carry(sender, sender.send(number, name, arguments))
        self.talk()
        return heard[before:]

    def open_channel(self, number: int = 1) -> Pair:
        self.say(self.client, number, "channel.open")
        self.say(self.server, number, "channel.open-ok")
        return self


def opened(version: str = "0-9-1", channels: int = 1, **options: Any) -> Pair:
    """A pair after the handshake, with channels open, and nothing in `heard`."""
    pair = Pair(version, **options).talk()
    for number in range(1, channels + 1):
        pair.open_channel(number)
    pair.heard["client"].clear()
    pair.heard["server"].clear()
    return pair


def bare(role: Any, version: str) -> Link:
    """One end that has said and heard nothing of the handshake; the test sets its state."""
    if role == "client":
        link = Link("client", version, None)
    else:
        link = Link("server", None, None)
        link.greet_back(PROTOCOL_HEADERS[version])
        link.begin(version, None)
    link.take_answers()
    return link


def plain(events: Events) -> list[Any]:
    """Events in a form that compares: messages by what they hold, errors by class, code and text."""
    return [(number, _plain(event)) for number, event in events]


def _plain(event: Any) -> Any:
    if isinstance(event, AMQPError):
        return type(event).__name__, event.code, event.text
    if hasattr(event, "body"):
        return event.name, event.details, event.encoded, event.body
    return event
