"""What the broker refuses, by reply code; the text is RabbitMQ's way of putting it."""

from __future__ import annotations

from .. import errors, spec
from ..errors import AMQPError, ChannelClosed, ConnectionClosed


def refusal(code: int, text: str, hard: bool | None = None) -> AMQPError:
    """The error that closes the channel, or the connection where the code is a hard one (or `hard` says so)."""
    row = spec.REPLY_CODES[code]
    scope: type[AMQPError] = ConnectionClosed if (row.hard if hard is None else hard) else ChannelClosed
    return errors.closed(scope, code, f"{row.name.upper().replace('-', '_')} - {text}")


def precondition_failed(text: str) -> AMQPError:
    return refusal(406, text)


def not_found(kind: str, name: str, vhost: str) -> AMQPError:
    return refusal(404, f"no {kind} '{name}' in vhost '{vhost}'")
