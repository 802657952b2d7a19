"""The door of the core: `connect`, which picks a reactor if the program names none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from .adapters import AsyncoreReactor, SelectReactor
from .client.connection import Connection, OnClose, begin
from .client.continuations import OnDone
from .client.hints import takes_no_on_done
from .errors import ConnectError
from .parameters import ConnectionOptions, ConnectionParameters, targets
from .reactor import Reactor, Transport, TransportOwner
from .recovery import Recovering, new_connection

if TYPE_CHECKING:
    from typing_extensions import Unpack

Target = str | ConnectionParameters | Iterable[str | ConnectionParameters]

_of_thread = threading.local()
_shared: list[AsyncoreReactor] = []


def all_targets(target: Target, options: ConnectionOptions | dict[str, Any]) -> list[ConnectionParameters]:
    """Every broker that `target` names, with `options` set over each."""
    if "on_done" in options:  # of a facade's connect; the core's takes it
        raise takes_no_on_done("connect")
    return targets(target, options, _connect_embedded)


def _connect_embedded(reactor: Reactor, owner: TransportOwner) -> Transport:
    # Imported here, so that a program without an embedded broker does not pay for it.
    from .broker import connect_embedded

    return connect_embedded(reactor, owner)


R = TypeVar("R", bound=Reactor)


def new_reactor(kind: Callable[[], R]) -> R:
    """A new reactor. ConnectError: the process has no file descriptor left for it."""
    try:
        return kind()
    except OSError as error:
        raise ConnectError(f"no reactor for the connection: {error}") from error


def thread_reactor() -> SelectReactor:
    """The calling thread's own SelectReactor. ConnectError: as of `new_reactor`."""
    reactor: SelectReactor | None = getattr(_of_thread, "reactor", None)
    if reactor is None:
        reactor = _of_thread.reactor = new_reactor(SelectReactor)
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
    recovery: Recovering = None,
    **options: Unpack[ConnectionOptions],
) -> Connection:
    """Begins to connect to a broker. The reactor must run for it to happen.

    target: a URL (amqp://user:password@host:port/vhost?heartbeat=30, amqps:// for TLS, or embedded:// for the process's
    own broker in memory), ConnectionParameters, or a sequence of these, tried in order. on_done(err, connection):
    called when the connection is open, or could not be opened. reactor: by default the calling thread's own
    SelectReactor, which is at `connection.reactor`. on_close(connection, err): called when the connection has ended;
    err is None if the program closed it. recovery: True, or a Recovery with options of its own: the connection and its
    channels outlive a lost link, see docs/recovery.md. options: those of ConnectionParameters; they replace the
    target's.

    Errors: InvalidArgument or InvalidArgumentType, raised at the call, for a mistake in the target or the options.
    """
    to = all_targets(target, options)
    return begin(new_connection(reactor or thread_reactor(), on_close, recovery), to, on_done)
