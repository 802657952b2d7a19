"""The types of exchanges."""

from __future__ import annotations

from enum import Enum

__all__ = ["ExchangeType"]


class ExchangeType(str, Enum):
    """The types of exchanges that AMQP 0-9-1 names."""

    direct = "direct"
    fanout = "fanout"
    headers = "headers"
    topic = "topic"
