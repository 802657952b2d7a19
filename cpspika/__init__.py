"""AMQP 0-9-1 and 0-8 in continuation-passing style.

`connect` opens a connection whose every operation takes on_done(err, result); BlockingConnection, SelectConnection and
AsyncoreConnection are the same operations as calls that return. See README.md, and `help()` of each.
"""

from __future__ import annotations

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
    "connect",
    *errors.__all__,
]
