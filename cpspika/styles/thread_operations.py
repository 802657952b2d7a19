"""The lifted operations, as this style has them: see the stub beside this."""

from collections.abc import Callable
from typing import Any

from ..client.channel import Channel
from ..client.connection import Connection
from .lifting import lift
from .pipelined import written_oneway
from .wording import CALLS_OF_THREADS


def _waiting(operation: Callable[..., Any]) -> str:
    """The body of a channel's method (`written`)."""
    if getattr(operation, "__oneway__", False):
        return written_oneway(operation)
    return "return self._perform({operation}, {together}, timeout)"


ConnectionOperations = lift(Connection, __name__, CALLS_OF_THREADS, waits=True)
ChannelOperations = lift(Channel, __name__, CALLS_OF_THREADS, _waiting, waits=True)

__all__ = ["ChannelOperations", "ConnectionOperations"]
