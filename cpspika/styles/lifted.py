"""The operations of Connection and Channel, lifted, for every facade. What a type checker and an editor see of them
stands in a stub for each style (`sync_operations.pyi`...), which `python -m cpspika.styles.stubs` writes."""

from __future__ import annotations

from ..client.channel import Channel
from ..client.connection import Connection
from .lifting import lift

ConnectionOperations = lift(Connection, "ConnectionOperations", __name__)
ChannelOperations = lift(Channel, "ChannelOperations", __name__)
