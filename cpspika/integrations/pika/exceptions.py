"""pika's errors, in pika's tree. None of them is an error of `cpspika.errors`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class AMQPError(Exception):
    """An error of AMQP. Nearly all others are of this class."""

    def __repr__(self) -> str:
        # With a sentence, as pika's: programs log it. The first sentence of the docstring says what happened.
        says = (type(self).__doc__ or "").partition(".")[0]
        return ": ".join(filter(None, (type(self).__name__, says, str(self.args) if self.args else "")))


class _Closed(AMQPError):
    """A close with a reply code."""

    def __init__(self, reply_code: int, reply_text: str):
        super().__init__(int(reply_code), str(reply_text))

    def __repr__(self) -> str:
        return f"{type(self).__name__}: ({self.reply_code}) {self.reply_text!r}"

    @property
    def reply_code(self) -> int:
        """The code of the close: 320, 404."""
        code: int = self.args[0]
        return code

    @property
    def reply_text(self) -> str:
        """The text of the close."""
        text: str = self.args[1]
        return text


# --- the connection ---------------------------------------------------------------------------------------------------


class AMQPConnectionError(AMQPError):
    """The connection could not be opened, or is gone."""


class ConnectionOpenAborted(AMQPConnectionError):
    """The program closed the connection before it was open."""


class StreamLostError(AMQPConnectionError):
    """The link broke."""


class IncompatibleProtocolError(AMQPConnectionError):
    """The peer speaks another protocol."""


class AuthenticationError(AMQPConnectionError):
    """The broker doesn't offer the mechanism of the credentials."""


class ProbableAuthenticationError(AMQPConnectionError):
    """The broker refused the credentials."""


class ProbableAccessDeniedError(AMQPConnectionError):
    """The broker refused the virtual host."""


class NoFreeChannels(AMQPConnectionError):
    """The connection has no free channels."""


class ConnectionWrongStateError(AMQPConnectionError):
    """The connection is closed."""


class ConnectionClosed(_Closed, AMQPConnectionError):
    """The connection was closed in order."""


class ConnectionClosedByBroker(ConnectionClosed):
    """The broker closed the connection."""


class ConnectionClosedByClient(ConnectionClosed):
    """The program closed the connection."""


class ConnectionBlockedTimeout(AMQPConnectionError):
    """The broker blocked the connection for longer than blocked_connection_timeout."""


class AMQPHeartbeatTimeout(AMQPConnectionError):
    """Nothing came from the broker for too long."""


# --- the channel ------------------------------------------------------------------------------------------------------


class AMQPChannelError(AMQPError):
    """At most the channel is gone."""


class ChannelWrongStateError(AMQPChannelError):
    """The channel is closed."""


class ChannelClosed(_Closed, AMQPChannelError):
    """The channel was closed in order."""


class ChannelClosedByBroker(ChannelClosed):
    """The broker closed the channel."""


class ChannelClosedByClient(ChannelClosed):
    """The program closed the channel."""


class DuplicateConsumerTag(AMQPChannelError):
    """The channel has a consumer of this tag."""


class ConsumerCancelled(AMQPChannelError):
    """The broker cancelled a consumer."""


class _Undelivered(AMQPChannelError):
    _what = ""

    def __init__(self, messages: Sequence[Any]):
        """messages: ReturnedMessage objects."""
        super().__init__(f"{len(messages)} {self._what}")
        self.messages = messages


class UnroutableError(_Undelivered):
    """The broker returned a message that was published on a confirming channel."""

    _what = "unroutable message(s) returned"


class NackError(_Undelivered):
    """The broker refused a message that was published on a confirming channel."""

    _what = "message(s) NACKed"


# --- the rest ---------------------------------------------------------------------------------------------------------


class InvalidChannelNumber(AMQPError):
    """No channel can have this number."""


class ProtocolSyntaxError(AMQPError):
    """The peer broke the protocol."""


class UnexpectedFrameError(ProtocolSyntaxError):
    """A frame came out of order."""


class ProtocolVersionMismatch(ProtocolSyntaxError):
    """The peer speaks another version of AMQP."""


class BodyTooLongError(ProtocolSyntaxError):
    """More bytes of a body came than were announced."""


class InvalidFrameError(ProtocolSyntaxError):
    """A frame cannot be decoded."""


class InvalidFieldTypeException(ProtocolSyntaxError):
    """A field of a table has an unknown type."""


class UnsupportedAMQPFieldException(ProtocolSyntaxError):
    """A value has no type in a field table."""


class MethodNotImplemented(AMQPError):
    """The broker has no such method."""


class ShortStringTooLong(AMQPError):
    """A short string has more than 255 bytes."""


class ChannelError(Exception):
    """A mistake in using a channel."""


class ReentrancyError(Exception):
    """A call that cannot be made inside a callback."""


class DuplicateGetOkCallback(ChannelError):
    """basic_get was called before the last one had ended."""
