"""The broker's refusals: an error for each reply code, with RabbitMQ's text."""

from __future__ import annotations

from .. import errors, spec
from ..errors import AMQPError, ChannelClosed, ConnectionClosed


def refusal(code: int, text: str, hard: bool | None = None) -> AMQPError:
    """The error for a reply code.

    hard: True closes the connection, False closes the channel; None does as the specification says of the code.
    """
    row = spec.REPLY_CODES[code]
    scope: type[AMQPError] = ConnectionClosed if (row.hard if hard is None else hard) else ChannelClosed
    return errors.closed(scope, code, f"{row.name.upper().replace('-', '_')} - {text}")


def precondition_failed(text: str) -> AMQPError:
    return refusal(406, text)


def not_found(kind: str, name: str, vhost: str) -> AMQPError:
    return refusal(404, f"no {kind} '{name}' in vhost '{vhost}'")
