"""Writes the stubs of what is lifted: `python -m cpspika.styles.stubs`, after an operation's signature has changed.

An adapter of your own may have one too: make a `Style` of it, and write `stub(style)` beside its operations.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import NamedTuple

from ..client.channel import Channel
from ..client.connection import Connection
from .lifting import (
    as_text,
    attributes,
    operations,
    other_methods,
    registrations,
    signature,
    timed,
    written_signature,
)


class Style(NamedTuple):
    """A row for each style.

    `module`: the module of its operations, in this folder. `channel`, `connection`, `reactor`: the names of its
    classes. `imports`: the import statements that its classes and its promise need. `promise`: the type of a promise of
    {}. `opening`: the type of a promise of a channel, if that is another. `waits`: a call takes `timeout`.
    """

    module: str
    channel: str
    connection: str
    reactor: str
    imports: str
    promise: str = "{}"
    opening: str | None = None
    waits: bool = False


STYLES = [
    Style(
        "thread_operations",
        "ThreadedChannel",
        "ThreadedConnection",
        "SharedReactor",
        "from cpspika.adapters.shared_reactor import SharedReactor\n"
        "from cpspika.threads import ThreadedChannel, ThreadedConnection",
        waits=True,
    ),
    Style(
        "sync_operations",
        "SyncChannel",
        "SyncConnection",
        "Reactor",
        "from cpspika.styles.sync import SyncChannel, SyncConnection",
        waits=True,
    ),
    Style(
        "task_operations",
        "TaskChannel",
        "TaskConnection",
        "Reactor",
        "from cpspika.tasks import Promise, TaskChannel, TaskConnection",
        "Promise[{}]",
    ),
    Style(
        "trio_operations",
        "TrioChannel",
        "TrioConnection",
        "TrioReactor",
        "from cpspika.adapters.trio_adapter import Promise, TrioChannel, TrioConnection, TrioReactor",
        "Promise[{}]",
    ),
    Style(
        "twisted_operations",
        "TwistedChannel",
        "TwistedConnection",
        "TwistedReactor",
        "from twisted.internet.defer import Deferred\n\n"
        "from cpspika.adapters.twisted_adapter import TwistedChannel, TwistedConnection, TwistedReactor",
        "Deferred[{}]",
    ),
    Style(
        "asyncio_operations",
        "AsyncioChannel",
        "AsyncioConnection",
        "AsyncioReactor",
        "from asyncio import Future\n\n"
        "from cpspika.adapters.asyncio_adapter import AsyncioChannel, AsyncioConnection, AsyncioReactor, Wanted",
        "Future[{}]",
        "Wanted[{}]",
    ),
]

_HEAD = '''\
"""Written by `python -m cpspika.styles.stubs`: the operations of the core, as this style has them."""

from collections.abc import Callable
from typing import Any

from cpspika.client.channel import Channel
from cpspika.client.handlers import Remove
from cpspika.client.operations import Arguments, OnCancel, OnMessage, QueueDeclareOk
from cpspika.client.setup import OnReady
from cpspika.client.connection import Connection
from cpspika.errors import AMQPError
from cpspika.parameters import ConnectionParameters
from cpspika.reactor import Reactor
from cpspika.wire.message import Message, Properties
'''


def stub(style: Style) -> str:
    """The text of a style's stub."""
    parts = [_HEAD, style.imports, "\n\n"]
    for core, name in ((Connection, "ConnectionOperations"), (Channel, "ChannelOperations")):
        parts.append(f"class {name}:\n    core: {core.__name__}\n")
        for member, text in attributes(core).items():
            parts.append(f"    @property\n    def {member}(self) -> {_facade(style, text)}: ...\n")
        for member, method in other_methods(core).items():
            shown = written_signature(method)
            parts.append(_line(style, member, shown, _facade(style, shown.return_annotation)))
        for member, operation in operations(core).items():
            shown = signature(operation)
            opens = style.opening if shown.return_annotation == "Channel" else None
            result = (opens or style.promise).format(_facade(style, shown.return_annotation))
            parts.append(_line(style, member, timed(shown) if style.waits else shown, result))
        for member, taker in registrations(core).items():
            shown = written_signature(taker)
            parts.append(_line(style, member, shown, shown.return_annotation))
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def _line(style: Style, name: str, shown: inspect.Signature, result: str) -> str:
    names = []
    for parameter in list(shown.parameters.values())[1:]:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in names:
            names.append("*")
        names.append(_parameter(style, parameter))
    parameters = ", ".join(["self", *names])
    return f"    def {name}({parameters}) -> {result}: ...\n"


def _parameter(style: Style, parameter: inspect.Parameter) -> str:
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    return f"{parameter.name}: {_facade(style, parameter.annotation)}{default}"


def _facade(style: Style, annotation: str) -> str:
    """An annotation of the core's, with the facade's classes."""
    classes = {
        "Channel": style.channel,
        "ChannelT": style.channel,
        "Connection": style.connection,
        "Reactor": style.reactor,
    }
    return re.sub(r"\w+", lambda found: classes.get(found[0], found[0]), as_text(annotation))


def path(style: Style) -> Path:
    return Path(__file__).parent / f"{style.module}.pyi"


if __name__ == "__main__":
    for each in STYLES:
        path(each).write_text(stub(each))
