"""Tells the events of a connection to the logger "cpspika" and to hooks.

`logging` is imported only for a warning, or if the program has imported it: before that nobody can have asked for the
lines of a lower level.
"""

from __future__ import annotations

import sys
from typing import Any

from ..logs import get_logger
from . import hooks
from .hooks import ConnectionEvent

DEBUG, INFO, WARNING = 10, 20, 30  # as of `logging`


def logs(level: int) -> bool:
    """Whether the logger takes lines of a level."""
    if level < WARNING and "logging" not in sys.modules:
        return False
    return get_logger().isEnabledFor(level)


def log(level: int, text: str, *details: Any) -> None:
    """Logs a line."""
    if logs(level):
        get_logger().log(level, text, *details)


def happened(connection: Any, event: Any) -> None:
    """Something happened to a connection. event: a ConnectionEvent or a RecoveryEvent."""
    level, text = _LINES[event.kind]
    if logs(level):
        log(level, text, *_DETAILS.get(event.kind, _error)(connection, event))
    if hooks.are_installed():
        hooks.call("connection", connection, event)


def reactor_was_idle(where: str, idle: float, heartbeat: int) -> None:
    """Nothing turned the reactor for so long that heartbeats were missed."""
    log(
        WARNING,
        "%s: nothing turned the reactor for %.0f s, with a heartbeat of %d s; the broker drops a connection that it "
        "does not hear. Turn the reactor more often, move long work to another thread, or ask for a longer heartbeat",
        where,
        idle,
        heartbeat,
    )


def deprecated(where: str, told: str) -> None:
    """Logs the broker's words, if they tell of a deprecated feature."""
    if "deprecat" in told.lower():
        log(WARNING, "%s: the broker tells of a deprecated feature: %s", where, told)


def _opened(connection: Any, event: ConnectionEvent) -> tuple[Any, ...]:
    told = connection.server_properties
    broker = f"{told.get('product', 'a broker')} {told.get('version', '')}".strip()
    limits = connection.heartbeat, connection.frame_max, connection.channel_max
    return (connection._where(), broker, connection.parameters.virtual_host, *limits)


def _closed(connection: Any, event: ConnectionEvent) -> tuple[Any, ...]:
    return connection._where(), event.error or "closed by the program"


def _error(connection: Any, event: Any) -> tuple[Any, ...]:
    return connection._where(), event.error


_LINES = {
    "opened": (INFO, "%s: connected to %s, virtual host %r; heartbeat %s s, frame_max %s, channel_max %s"),
    "failed": (INFO, "%s: no connection: %s"),
    "closed": (INFO, "%s: the connection has ended: %s"),
    "blocked": (WARNING, "%s: the broker takes no publishes for now: %s"),
    "unblocked": (INFO, "%s: the broker takes publishes again"),
    "lost": (INFO, "%s: %s was lost, and is made again: %s"),
    "retrying": (INFO, "%s: try %d follows in %.1f s"),
    "restored": (INFO, "%s: restored after the loss; %d publishes were sent again"),
    "entity_failed": (WARNING, "%s: %s could not be declared again: %s"),
    "consumer_failed": (WARNING, "%s: consumer %r could not be started again: %s"),
    "channel_failed": (WARNING, "%s: channel %d could not be opened again: %s"),
    "gave_up": (WARNING, "%s: recovery has given up: %s"),
}
_DETAILS: dict[str, Any] = {
    "opened": _opened,
    "closed": _closed,
    "blocked": lambda connection, event: (connection._where(), event.reason),
    "unblocked": lambda connection, event: (connection._where(),),
    "lost": lambda connection, event: (
        connection._where(),
        "the link" if event.channel is None else f"channel {event.channel.number}",
        event.error,
    ),
    "retrying": lambda connection, event: (connection._where(), event.attempt, event.delay),
    "restored": lambda connection, event: (connection._where(), event.resent),
    "entity_failed": lambda connection, event: (connection._where(), " ".join(event.entity), event.error),
    "consumer_failed": lambda connection, event: (connection._where(), event.consumer_tag, event.error),
    "channel_failed": lambda connection, event: (connection._where(), event.channel.number, event.error),
}
