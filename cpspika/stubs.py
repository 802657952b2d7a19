"""Writes the stubs of what is lifted: `python -m cpspika.stubs`, after an operation's signature has changed."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from .channel import Channel
from .connection import Connection
from .lifting import operations, registrations, signature

PLACE = Path(__file__).with_name("sync_operations.pyi")

_HEAD = '''\
"""Written by `python -m cpspika.stubs`: the operations of the core, as the synchronous facade has them."""

from collections.abc import Callable

from .channel import Arguments, Channel, OnMessage, QueueDeclareOk, Remove
from .connection import Connection
from .message import Message, Properties
from .sync import SyncChannel, SyncConnection

'''
_FACADES = {"Channel": "SyncChannel", "Connection": "SyncConnection"}


def sync_stub() -> str:
    """The text of sync_operations.pyi."""
    parts = [_HEAD]
    for core, name in ((Connection, "ConnectionOperations"), (Channel, "ChannelOperations")):
        parts.append(f"class {name}:\n    core: {core.__name__}\n")
        parts += [_line(member, signature(operation)) for member, operation in operations(core).items()]
        parts += [_line(member, inspect.signature(taker)) for member, taker in registrations(core).items()]
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def _line(name: str, shown: inspect.Signature) -> str:
    parameters = ", ".join(["self", *(_parameter(p) for p in list(shown.parameters.values())[1:])])
    return f"    def {name}({parameters}) -> {_facade(shown.return_annotation)}: ...\n"


def _parameter(parameter: inspect.Parameter) -> str:
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    return f"{parameter.name}: {_facade(parameter.annotation)}{default}"


def _facade(annotation: str) -> str:
    """An annotation of the core's, with the facade's classes."""
    return re.sub(r"\b(Channel|Connection)\b", lambda found: _FACADES[found[0]], annotation)


if __name__ == "__main__":
    PLACE.write_text(sync_stub())
