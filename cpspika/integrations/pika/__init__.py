"""pika 1.x's BlockingConnection on cpspika, for programs that were written for pika.

    import cpspika.integrations.pika as pika

    connection = pika.BlockingConnection(pika.ConnectionParameters("localhost"))
    channel = connection.channel()

Names, arguments, results and exceptions are pika's. The connection is cpspika's: a thread of its own sends heartbeats
while a callback works. `install` enters this package into sys.modules as `pika`, for libraries that import pika
themselves. What pika has beside BlockingConnection is not here; its names raise errors that say what to use instead.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from . import adapters, compat, credentials, delivery_mode, exceptions, exchange_type, frame, spec, validators
from ._absent import absent, absent_class, absent_module
from .adapters import BaseConnection, BlockingConnection, SelectConnection
from .connection import ConnectionParameters, SSLOptions, URLParameters
from .credentials import PlainCredentials
from .delivery_mode import DeliveryMode
from .spec import BasicProperties

__all__ = [
    "AMQPConnectionWorkflow",
    "BaseConnection",
    "BasicProperties",
    "BlockingConnection",
    "ConnectionParameters",
    "DeliveryMode",
    "PlainCredentials",
    "SSLOptions",
    "SelectConnection",
    "URLParameters",
    "adapters",
    "compat",
    "credentials",
    "delivery_mode",
    "exceptions",
    "exchange_type",
    "frame",
    "install",
    "spec",
    "validators",
]

__version__ = "1.4.4"  # the version of pika whose behaviour the tests compare this with

_MODULES = (
    "adapters",
    "adapters.blocking_connection",
    *(f"adapters.{name}" for name in adapters._ABSENT),
    "adapters.utils",
    "adapters.utils.connection_workflow",
    "amqp_object",
    "channel",
    "compat",
    "connection",
    "credentials",
    "delivery_mode",
    "exceptions",
    "exchange_type",
    "frame",
    "spec",
    "validators",
)
_ABSENT = {
    "callback": "cpspika's handlers, such as add_return_handler",
    "data": "cpspika.wire.fields",
    "diagnostic_utils": "the standard library's logging",
    "heartbeat": "the parameter heartbeat",
    "tcp_socket_opts": "the parameter tcp_options",
}

for _name, _instead in _ABSENT.items():
    absent_module(_name, _instead)

AMQPConnectionWorkflow = absent_class("AMQPConnectionWorkflow", "BlockingConnection([first, second])")
channel = import_module(f"{__name__}.channel")
connection = import_module(f"{__name__}.connection")


def install() -> None:
    """Enters this package and its modules into sys.modules as `pika`, before anything imports pika: a library that does
    then gets this one. ImportError: the real pika is loaded already."""
    own = sys.modules[__name__]
    loaded = sys.modules.get("pika")
    if loaded is not None and loaded is not own:
        raise ImportError(
            f"pika is loaded already, from {getattr(loaded, '__file__', 'an unknown place')}; call "
            "cpspika.integrations.pika.install() before the first module imports pika",
            name="pika",
        )
    sys.modules["pika"] = own
    for name in (*_MODULES, *_ABSENT):
        sys.modules[f"pika.{name}"] = import_module(f"{__name__}.{name}")


def __getattr__(name: str) -> Any:
    if name in _ABSENT:
        raise AttributeError(str(absent(f"module {name}", _ABSENT[name])))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
