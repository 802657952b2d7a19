"""The operations of Connection and Channel, lifted for the synchronous facade. What a type checker and an editor see of
them stands in the stub beside this, which `python -m cpspika.stubs` writes."""

from __future__ import annotations

from .channel import Channel
from .connection import Connection
from .lifting import lift

ConnectionOperations = lift(Connection, "ConnectionOperations", __name__)
ChannelOperations = lift(Channel, "ChannelOperations", __name__)
