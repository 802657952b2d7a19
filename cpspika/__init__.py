"""AMQP 0-9-1 and 0-8 in continuation-passing style.

`connect` opens a connection whose every operation takes on_done(err, result). BlockingConnection, SelectConnection and
AsyncoreConnection have the same operations as calls that return. See README.md, and `help()` of each.
"""

# Layout, the lowest layer first (docs/architecture.md; a test holds imports to it):
#   spec, version                          the protocol as one table
#   errors, parameters, reactor            errors, targets and options, the contract of a reactor
#   wire/                                  bytes to events and back, without sockets
#   client/                                the core: connections, channels, continuations
#   broker/                                the embedded broker; shares only wire/ with the client
#   recovery/                              connections that outlive their links, around the core
#   styles/                                how a calling style is derived from the core
#   adapters/                              reactors, and the styles of foreign event loops
#   connecting, blocking, tasks, threads   what picks a default: connect(), facades, tasks
#   testing/, cli/                         conformance tests and a pytest plugin; the command line

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import errors
from .client.channel import Channel
from .client.connection import Connection
from .client.hooks import ConnectionEvent, instrument
from .client.operations import QueueDeclareOk
from .client.trace import trace
from .connecting import connect
from .errors import *  # noqa: F403 (errors.__all__ is every class of the tree)
from .parameters import AmqplainCredentials, ConnectionParameters, Credentials, ExternalCredentials, PlainCredentials
from .recovery import Recovery, RecoveryEvent, Resent
from .version import __version__
from .wire.message import BasicProperties, Message

if TYPE_CHECKING:
    from . import broker
    from .blocking import AsyncoreConnection, BlockingConnection, SelectConnection
    from .styles.sync import SyncChannel, SyncConnection

__all__ = [
    "AmqplainCredentials",
    "AsyncoreConnection",
    "BasicProperties",
    "BlockingConnection",
    "Channel",
    "Connection",
    "ConnectionEvent",
    "ConnectionParameters",
    "Credentials",
    "ExternalCredentials",
    "Message",
    "PlainCredentials",
    "QueueDeclareOk",
    "Recovery",
    "RecoveryEvent",
    "Resent",
    "SelectConnection",
    "SyncChannel",
    "SyncConnection",
    "__version__",
    "broker",
    "connect",
    "instrument",
    "trace",
    *errors.__all__,
]


# Imported at first use, so that a program pays only for the facades and the broker that it uses.
_LAZY = {
    "AsyncoreConnection": ".blocking",
    "BlockingConnection": ".blocking",
    "SelectConnection": ".blocking",
    "SyncChannel": ".styles.sync",
    "SyncConnection": ".styles.sync",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name == "broker":
        return importlib.import_module(".broker", __name__)
    if name in _LAZY:
        found = globals()[name] = getattr(importlib.import_module(_LAZY[name], __name__), name)
        return found
    from .pika_names import MODULE, instead

    said = filter(None, (f"module {__name__!r} has no attribute {name!r}", instead(name, MODULE)))
    raise AttributeError("; ".join(said))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"Any", "TYPE_CHECKING", "annotations"})
