"""Whether a broker keeps a message on disk."""

from __future__ import annotations

from enum import Enum

__all__ = ["DeliveryMode"]


class DeliveryMode(Enum):
    """The values of the property delivery_mode."""

    Transient = 1
    Persistent = 2
