"""The lifted operations, as this style has them: see the stub beside this."""

from collections.abc import Callable
from typing import Any

from ..client.channel import Channel
from ..client.connection import Connection
from .lifting import lift
from .pipelined import written_oneway
from .wording import CALLS


def _waiting(operation: Callable[..., Any]) -> str:
    """The body of a channel's method (`written`): a call of it is one call less deep than by `_perform`."""
    if getattr(operation, "__oneway__", False):
        return written_oneway(operation)
    return f"return self.connection._wait({operation.__name__!r}, {{operation}}, self.core, {{together}}, timeout)"


ConnectionOperations = lift(Connection, __name__, CALLS, waits=True)
ChannelOperations = lift(Channel, __name__, CALLS, _waiting, waits=True)

__all__ = ["ChannelOperations", "ConnectionOperations"]
