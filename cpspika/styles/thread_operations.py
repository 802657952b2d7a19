"""The lifted operations, as this style has them: see the stub beside this."""

from ..client.channel import Channel
from ..client.connection import Connection
from .lifting import lift
from .wording import CALLS_OF_THREADS

ConnectionOperations, ChannelOperations = (
    lift(core, __name__, CALLS_OF_THREADS, waits=True) for core in (Connection, Channel)
)

__all__ = ["ChannelOperations", "ConnectionOperations"]
