"""The frame around a method, as pika returns it: `ok.method.queue`."""

from __future__ import annotations

from typing import Generic, TypeVar

from .amqp_object import AMQPObject

T = TypeVar("T")

__all__ = ["Frame", "Method"]

FRAME_METHOD = 1


class Frame(AMQPObject):
    """frame_type: 1 for a method. channel_number: 0 for the connection itself."""

    NAME = "Frame"

    def __init__(self, frame_type: int, channel_number: int):
        self.frame_type = frame_type
        self.channel_number = channel_number


class Method(Frame, Generic[T]):
    """A method, with the number of the channel that it belongs to."""

    NAME = "METHOD"

    def __init__(self, channel_number: int, method: T):
        super().__init__(FRAME_METHOD, channel_number)
        self.method = method
