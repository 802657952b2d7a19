"""The base classes of methods and properties, under pika's names."""

from __future__ import annotations

from typing import ClassVar

__all__ = ["AMQPObject", "Class", "Method", "Properties"]


class AMQPObject:
    """Compared and shown by its attributes. NAME: "Basic.Deliver". INDEX: its number in the protocol."""

    NAME: ClassVar[str] = "AMQPObject"
    INDEX: ClassVar[int | None] = None

    def __repr__(self) -> str:
        shown = sorted(f"{name}={value}" for name, value in vars(self).items())
        return f"<{self.NAME}({shown})>" if shown else f"<{self.NAME}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AMQPObject) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class Class(AMQPObject):
    """A class of the protocol; its methods are its attributes: Basic.Deliver."""

    NAME = "Class"


class Method(AMQPObject):
    """A method of the protocol, with its arguments as attributes. synchronous: whether the peer answers it."""

    NAME = "Method"
    synchronous: ClassVar[bool] = False


class Properties(AMQPObject):
    """The properties of a message."""

    NAME = "Properties"
