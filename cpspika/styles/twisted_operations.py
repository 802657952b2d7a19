"""The lifted operations, as this style has them: see the stub beside this."""

from .promises import lift_promising

ConnectionOperations, ChannelOperations = lift_promising(__name__, "Deferred")

__all__ = ["ChannelOperations", "ConnectionOperations"]
