"""pika's adapters. Only BlockingConnection is here; the names of the others say what to use instead."""

from __future__ import annotations

import sys
from types import ModuleType

from .. import _workflow
from .._absent import absent_class, absent_module
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

utils = absent_module("adapters.utils", "BlockingConnection")
_made = absent_module("adapters.utils.connection_workflow", "BlockingConnection")
vars(_made).update({_name: getattr(_workflow, _name) for _name in _workflow.__all__})
vars(utils)["connection_workflow"] = _made

AsyncioConnection = globals()["asyncio_connection"].AsyncioConnection
BaseConnection = globals()["base_connection"].BaseConnection
SelectConnection = globals()["select_connection"].SelectConnection
IOLoop = globals()["select_connection"].IOLoop = absent_class("IOLoop", "cpspika.adapters.SelectReactor")
