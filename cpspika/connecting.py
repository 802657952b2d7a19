"""The door of the core: `connect`, which picks a reactor for whoever doesn't."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .adapters import AsyncoreReactor, SelectReactor
from .client.connection import Connection, OnClose
from .client.connection import connect as connect_on
from .client.continuations import OnDone
from .parameters import ConnectionOptions, ConnectionParameters, targets
from .reactor import Reactor, Transport, TransportOwner

if TYPE_CHECKING:
    from typing_extensions import Unpack

Target = str | ConnectionParameters | Iterable[str | ConnectionParameters]

_of_thread = threading.local()
_shared: list[AsyncoreReactor] = []


def all_targets(target: Target, options: ConnectionOptions | dict[str, Any]) -> list[ConnectionParameters]:
    """Every broker that `target` names, with `options` set over each."""
    return targets(target, options, _connect_embedded)


def _connect_embedded(reactor: Reactor, owner: TransportOwner) -> Transport:
    # A program that never asks for the broker doesn't pay for its import.
    from .broker import connect_embedded

    return connect_embedded(reactor, owner)


def thread_reactor() -> SelectReactor:
    """The calling thread's own SelectReactor."""
    reactor: SelectReactor | None = getattr(_of_thread, "reactor", None)
    if reactor is None:
        reactor = _of_thread.reactor = SelectReactor()
    return reactor


def asyncore_reactor() -> AsyncoreReactor:
    """The one AsyncoreReactor on asyncore's own map."""
    if not _shared:
        _shared.append(AsyncoreReactor())
    return _shared[0]


def connect(
    target: Target,
    *,
    on_done: OnDone[Connection] | None = None,
    reactor: Reactor | None = None,
    on_close: OnClose | None = None,
    **options: Unpack[ConnectionOptions],
) -> Connection:
    """Begins to connect to a broker; on_done(err, connection) tells how that ended. Run the reactor for it to happen.

    target: a URL (amqp://user:password@host:port/vhost?heartbeat=30, amqps:// for TLS, or embedded:// for the process's
    own broker in memory), ConnectionParameters, or a sequence of these, tried in order. reactor: by default the calling
    thread's own SelectReactor, which is at `connection.reactor`. on_close(connection, err): the connection ended; err
    is None after a close of our own.
    options: those of ConnectionParameters, set over the target's. A mistake in them raises at the call.
    """
    return connect_on(reactor or thread_reactor(), all_targets(target, options), on_done, on_close)
