"""The doors of the synchronous facade: one class for each reactor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .adapters import BlockingReactor
from .connecting import Target, all_targets, asyncore_reactor, new_reactor, thread_reactor
from .errors import AMQPError
from .parameters import ConnectionOptions
from .reactor import Reactor
from .recovery import Recovering
from .styles.sync import SyncConnection

if TYPE_CHECKING:
    from typing_extensions import Unpack

OnSyncClose = Callable[[SyncConnection, AMQPError | None], object]


class BlockingConnection(SyncConnection):
    """The synchronous facade over a blocking socket of its own, for scripts.

    target, options, on_close, recovery: as in `cpspika.connect`. timeout: seconds that each call may take; None for no
    limit.
    """

    def __init__(
        self,
        target: Target = "amqp://",
        *,
        timeout: float | None = None,
        on_close: OnSyncClose | None = None,
        recovery: Recovering = None,
        **options: Unpack[ConnectionOptions],
    ):
        super().__init__(new_reactor(BlockingReactor), all_targets(target, options), timeout, on_close, recovery)


class SelectConnection(SyncConnection):
    """The synchronous facade over a SelectReactor: by default the calling thread's own.

    Arguments: as of BlockingConnection, and `reactor`.
    """

    def __init__(
        self,
        target: Target = "amqp://",
        *,
        timeout: float | None = None,
        on_close: OnSyncClose | None = None,
        reactor: Reactor | None = None,
        recovery: Recovering = None,
        **options: Unpack[ConnectionOptions],
    ):
        super().__init__(reactor or thread_reactor(), all_targets(target, options), timeout, on_close, recovery)


class AsyncoreConnection(SyncConnection):
    """The synchronous facade over asyncore: `asyncore.loop()` drives its consumers beside other dispatchers.

    Arguments: as of BlockingConnection.
    """

    def __init__(
        self,
        target: Target = "amqp://",
        *,
        timeout: float | None = None,
        on_close: OnSyncClose | None = None,
        recovery: Recovering = None,
        **options: Unpack[ConnectionOptions],
    ):
        super().__init__(asyncore_reactor(), all_targets(target, options), timeout, on_close, recovery)
