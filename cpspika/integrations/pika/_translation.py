"""The core's errors and messages, as pika has them."""

from __future__ import annotations

from typing import Any, NamedTuple

from ... import errors
from ...wire.message import Message
from . import exceptions, spec
from ._workflow import AMQPConnectorStackTimeout


class ReturnedMessage(NamedTuple):
    """A message that the broker returned. method: a Basic.Return."""

    method: Any
    properties: spec.BasicProperties
    body: bytes


def returned(message: Message) -> ReturnedMessage:
    """A message that the broker returned."""
    method = spec.Basic.Return(message.reply_code or 0, message.reply_text or "", message.exchange, message.routing_key)
    return ReturnedMessage(method, spec.BasicProperties.arrived(message.encoded), message.body)


def undelivered(error: errors.PublishError) -> Exception | None:
    """The error of a publish that the broker decided against; None if its fate is unknown."""
    if isinstance(error, errors.MessageReturned):
        return exceptions.UnroutableError([returned(error.message)])
    return exceptions.NackError([]) if isinstance(error, errors.MessageNacked) else None


class StackTimeout(AMQPConnectorStackTimeout, exceptions.AMQPConnectionError):
    """The connection did not open in time. In pika this is no AMQPConnectionError, which programs forget."""


_HUNG_UP = {
    "begun": exceptions.IncompatibleProtocolError,
    "securing": exceptions.ProbableAuthenticationError,
    "challenged": exceptions.ProbableAuthenticationError,
    "opening": exceptions.ProbableAccessDeniedError,
}
"""What pika takes for the reason if the peer hangs up in this state of the handshake."""


def of_connecting(error: errors.AMQPError) -> Exception:
    """The error of a connection that could not be opened."""
    by_broker = "code" in vars(error)  # in a close; the text has the address before it
    told = f"ConnectionClosedByBroker: ({error.code}) {error.text.partition(': ')[2]!r}" if by_broker else error.text
    if isinstance(error, errors.LoginError):
        return (exceptions.ProbableAuthenticationError if by_broker else exceptions.AuthenticationError)(told)
    if isinstance(error, errors.VirtualHostRefused):
        return exceptions.ProbableAccessDeniedError(told)
    if isinstance(error, (errors.ProtocolVersionMismatch, errors.InvalidProtocolHeader)):
        return exceptions.IncompatibleProtocolError(told)
    last = error.__cause__ if isinstance(error.__cause__, errors.ConnectError) else error  # of several addresses
    if isinstance(last, errors.ConnectTimeout):
        return StackTimeout(told)
    if not by_broker and isinstance(last.__cause__, (type(None), ConnectionResetError, BrokenPipeError)):
        return _HUNG_UP.get(vars(error).get("state", ""), exceptions.AMQPConnectionError)(told)
    return exceptions.AMQPConnectionError(told)


def of_connection(reason: errors.AMQPError) -> Exception:
    """The error of an open connection that has ended."""
    text, cause = reason.text, reason.__cause__
    if isinstance(reason, errors.HeartbeatTimeout):
        return exceptions.AMQPHeartbeatTimeout(text)
    if isinstance(reason, errors.BlockedConnectionTimeout):
        return exceptions.ConnectionBlockedTimeout(text)
    if isinstance(reason, errors.ConnectionLost):
        return exceptions.StreamLostError(f"Stream connection lost: {cause!r}" if cause is not None else text)
    if isinstance(reason, errors.UnexpectedFrameError):
        return exceptions.UnexpectedFrameError(text)
    if isinstance(reason, errors.InvalidFrameError):
        return exceptions.InvalidFrameError(text)
    if isinstance(reason, errors.ProtocolSyntaxError):
        return exceptions.ProtocolSyntaxError(text)
    if reason.code is not None and isinstance(reason, errors.ConnectionClosed):
        return exceptions.ConnectionClosedByBroker(reason.code, text)
    if isinstance(reason, errors.LocalError):
        return exceptions.ConnectionWrongStateError(text)
    return exceptions.AMQPConnectionError(text)


def of_local(error: errors.AMQPError) -> Exception:
    """The error of an operation that failed at the call, on an open channel."""
    if isinstance(error, errors.DuplicateConsumerTag):
        return exceptions.DuplicateConsumerTag(error.text)
    if isinstance(error, errors.NoFreeChannels):
        return exceptions.NoFreeChannels()
    if isinstance(error, errors.InvalidArgumentType) and "] takes bool, int, " in error.text:  # in a table
        return exceptions.UnsupportedAMQPFieldException(error.text)
    if isinstance(error, errors.InvalidArgument) and error.text.endswith("AMQP allows 255"):
        return exceptions.ShortStringTooLong(error.text)
    return error
