"""AMQP 0-9-1 and 0-8 in continuation-passing style.

`connect` opens a connection whose every operation takes on_done(err, result); BlockingConnection, SelectConnection and
AsyncoreConnection are the same operations as calls that return. See README.md, and `help()` of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import errors
from .channel import Channel, QueueDeclareOk
from .connection import Connection
from .doors import AsyncoreConnection, BlockingConnection, SelectConnection, connect
from .errors import *  # noqa: F403 (errors.__all__ is every class of the tree)
from .message import BasicProperties, Message
from .parameters import (
    AmqplainCredentials,
    ConnectionParameters,
    Credentials,
    ExternalCredentials,
    PlainCredentials,
)
from .sync import SyncChannel, SyncConnection
from .version import __version__

if TYPE_CHECKING:
    from . import broker

__all__ = [
    "AmqplainCredentials",
    "AsyncoreConnection",
    "BasicProperties",
    "BlockingConnection",
    "Channel",
    "Connection",
    "ConnectionParameters",
    "Credentials",
    "ExternalCredentials",
    "Message",
    "PlainCredentials",
    "QueueDeclareOk",
    "SelectConnection",
    "SyncChannel",
    "SyncConnection",
    "__version__",
    "broker",
    "connect",
    *errors.__all__,
]


def __getattr__(name: str) -> Any:
    # A program that doesn't ask for the broker doesn't pay for its import.
    if name == "broker":
        import importlib

        return importlib.import_module(".broker", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
