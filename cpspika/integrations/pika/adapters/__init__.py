"""pika's adapters. Only BlockingConnection is here; the names of the others say what to use instead."""

from __future__ import annotations

import sys
from types import ModuleType

from .._absent import absent_class, absent_module
from ..exceptions import AMQPConnectionError
from .blocking_connection import BlockingConnection

__all__ = ["AsyncioConnection", "BaseConnection", "BlockingConnection", "IOLoop", "SelectConnection"]

_CALLBACKS = "cpspika.connect, whose operations take on_done(err, result)"
_ABSENT = {
    "asyncio_connection": ("AsyncioConnection", "cpspika.adapters.asyncio_adapter.connect"),
    "base_connection": ("BaseConnection", _CALLBACKS),
    "gevent_connection": ("GeventConnection", "BlockingConnection, after gevent's monkey.patch_all()"),
    "select_connection": ("SelectConnection", _CALLBACKS),
    "tornado_connection": (
        "TornadoConnection",
        "cpspika.adapters.asyncio_adapter.connect, in Tornado too",
    ),
    "twisted_connection": ("TwistedProtocolConnection", "cpspika.adapters.twisted_adapter.connect"),
}

for _module, (_name, _instead) in _ABSENT.items():
    _made = ModuleType(f"{__name__}.{_module}", f"{_name} is not here; use {_instead}.")
    setattr(_made, _name, absent_class(_name, _instead))
    globals()[_module] = sys.modules[_made.__name__] = _made

# Programs catch these beside AMQPConnectionError, which is all that comes here.
utils = absent_module("adapters.utils", "BlockingConnection")
_workflow = absent_module("adapters.utils.connection_workflow", "BlockingConnection")
for _name in ("AMQPConnectorException", "AMQPConnectorStackTimeout", "AMQPConnectionWorkflowFailed"):
    setattr(_workflow, _name, AMQPConnectionError)
vars(utils)["connection_workflow"] = _workflow

AsyncioConnection = globals()["asyncio_connection"].AsyncioConnection
BaseConnection = globals()["base_connection"].BaseConnection
SelectConnection = globals()["select_connection"].SelectConnection
IOLoop = globals()["select_connection"].IOLoop = absent_class("IOLoop", "cpspika.adapters.SelectReactor")
