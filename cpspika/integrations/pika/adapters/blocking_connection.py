"""BlockingConnection and BlockingChannel, under their module's name in pika."""

from __future__ import annotations

from .._channel import BlockingChannel
from .._connection import BlockingConnection
from .._translation import ReturnedMessage

__all__ = ["BlockingChannel", "BlockingConnection", "ReturnedMessage"]
