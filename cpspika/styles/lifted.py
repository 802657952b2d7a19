"""The operations of Connection and Channel, lifted for a style of your own whose calls return promises.

The styles here have a module each (`sync_operations`, ...), whose stub shows a type checker and an editor what it
holds; `python -m cpspika.styles.stubs` writes these.
"""

from __future__ import annotations

from .promises import lift_promising

ConnectionOperations, ChannelOperations = lift_promising(__name__)

__all__ = ["ChannelOperations", "ConnectionOperations"]
