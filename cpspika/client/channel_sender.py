"""What a channel may ask of whoever carries it: the seam between `channel` and `connection`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from ..errors import AMQPError, ProtocolSyntaxError
from .continuations import Call, Continuation, PendingCalls


class Sender(Protocol):
    """The way out for one channel."""

    version: str

    @property
    def writable(self) -> bool: ...
    def send(self, name: str, arguments: dict[str, Any]) -> None: ...
    def send_content(self, name: str, arguments: dict[str, Any], properties: bytes, body: bytes) -> None: ...
    def send_publish(self, exchange: str, routing_key: str, properties: bytes, body: bytes) -> bool:
        """`send_content` of a basic.publish without flags, made to be fast; returns `writable`."""

    def send_ack(self, delivery_tag: int, multiple: bool) -> None:
        """`send` of a basic.ack, made to be fast."""

    def check(self, name: str, arguments: dict[str, Any], properties: bytes) -> None:
        """Raises what `send_content` would raise for these."""

    def when_written(self, continuation: Continuation) -> None:
        """Settles it when all that was sent up to now has gone to the kernel."""

    def take_unwritten(self) -> list[Continuation]:
        """This channel's that wait for that."""

    def call_soon(self, call: Call) -> object: ...
    def in_turn(self, calls: Iterable[Call | PendingCalls]) -> None:
        """Makes calls one after another, before whatever arrived later is looked at."""

    def method_name(self, class_index: int, method_index: int) -> str | None: ...
    def fault(self, error: ProtocolSyntaxError) -> None:
        """The peer broke the protocol: closes the connection."""

    def report(self, error: AMQPError) -> None:
        """An error with nobody to tell."""

    def release(self) -> None:
        """The channel's number is free."""
