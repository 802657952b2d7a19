"""Frames. pika returns a method in one: `ok.method.queue`. The others are here for annotations."""

from __future__ import annotations

from typing import Generic, TypeVar

from . import spec
from .amqp_object import AMQPObject

T = TypeVar("T")

__all__ = ["Body", "Frame", "Header", "Heartbeat", "Method", "ProtocolHeader"]


class Frame(AMQPObject):
    """frame_type: 1 for a method (`spec.FRAME_METHOD`). channel_number: 0 for the connection itself."""

    NAME = "Frame"

    def __init__(self, frame_type: int, channel_number: int):
        self.frame_type = frame_type
        self.channel_number = channel_number


class Method(Frame, Generic[T]):
    """A method, with the number of the channel that it belongs to."""

    NAME = "METHOD"

    def __init__(self, channel_number: int, method: T):
        super().__init__(spec.FRAME_METHOD, channel_number)
        self.method = method


class Header(Frame):
    """The properties of a message, and the size of its body in bytes."""

    NAME = "Header"

    def __init__(self, channel_number: int, body_size: int, props: spec.BasicProperties):
        super().__init__(spec.FRAME_HEADER, channel_number)
        self.body_size = body_size
        self.properties = props


class Body(Frame):
    """A piece of a message's body."""

    NAME = "Body"

    def __init__(self, channel_number: int, fragment: bytes):
        super().__init__(spec.FRAME_BODY, channel_number)
        self.fragment = fragment


class Heartbeat(Frame):
    """A heartbeat."""

    NAME = "Heartbeat"

    def __init__(self) -> None:
        super().__init__(spec.FRAME_HEARTBEAT, 0)


class ProtocolHeader(AMQPObject):
    """The first bytes of a connection: a version of AMQP, by default 0-9-1."""

    NAME = "ProtocolHeader"

    def __init__(self, major: int | None = None, minor: int | None = None, revision: int | None = None):
        self.frame_type = -1
        version = zip((major, minor, revision), spec.PROTOCOL_VERSION, strict=True)
        self.major, self.minor, self.revision = (given or default for given, default in version)
