"""The lifted operations, as this style has them: see the stub beside this."""

from .lifted import ChannelOperations, ConnectionOperations

__all__ = ["ChannelOperations", "ConnectionOperations"]
