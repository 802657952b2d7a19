"""All errors, in one tree under AMQPError.

A program that catches an error has two questions, and the class answers both. *Who caused it?* `LocalError`: the
caller made a mistake. `RemoteError`: the broker or the network. *What is lost?* `AMQPConnectionError`: the connection.
`AMQPChannelError`: at most the channel. Each reply code has a class too (`NotFound` for 404), so a program need not
compare numbers. The names are those of pika 0.5, as far as it has them.

An error that settles a continuation names the operation that it answers (`method`) and its call site (`asked_at`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

from . import spec

__all__ = [
    "AMQPChannelError",
    "AMQPConnectionError",
    "AMQPError",
    "AMQPNotImplemented",
    "AMQPSyntaxError",
    "AccessRefused",
    "BlockedConnectionTimeout",
    "BodyTooLongError",
    "BufferFull",
    "ChannelClosed",
    "ChannelError",
    "CommandInvalid",
    "ConcurrentUse",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionClosed",
    "ConnectionForced",
    "ConnectionForked",
    "ConnectionLost",
    "ConsumerCancelled",
    "ContentTooLarge",
    "ContentTransmissionForbidden",
    "DeliveryUnknown",
    "DuplicateConsumerTag",
    "FrameError",
    "HeartbeatTimeout",
    "InternalError",
    "InvalidArgument",
    "InvalidArgumentType",
    "InvalidFrameError",
    "InvalidPath",
    "InvalidProtocolHeader",
    "InvalidTableError",
    "LocalError",
    "LoginError",
    "MessageNacked",
    "MessageReturned",
    "NoConsumers",
    "NoFreeChannels",
    "NoRoute",
    "NotAllowed",
    "NotDelivered",
    "NotFound",
    "NotInThisVersion",
    "OperationTimeout",
    "OutcomeUnknown",
    "PreconditionFailed",
    "ProtocolSyntaxError",
    "ProtocolVersionMismatch",
    "PublishError",
    "PublishesFailed",
    "RemoteError",
    "ReplyError",
    "ResourceError",
    "ResourceLocked",
    "StaleDelivery",
    "UnexpectedFrame",
    "UnexpectedFrameError",
    "UnexpectedMethodError",
    "UnknownConsumerTag",
    "UnknownMethodError",
    "UnopenedChannelError",
    "VirtualHostRefused",
]

E = TypeVar("E", bound="AMQPError")
SHOWN = 3  # failures that the text of a PublishesFailed names


class AMQPError(Exception):
    """The base class of all errors.

    text: str, what happened.
    code: int, the reply code (0-9-1 §1.2), or None if there is none.
    method: str, the operation that the error answers, "queue.declare"; None if it answers none.
    asked_at: str, the call site of that operation, "file.py:12 in main"; None if it answers none.
    """

    code: int | None = None
    unspoken = False  # True: the server closes the link without a close method that names the error

    def __init__(
        self,
        text: str = "",
        *,
        code: int | None = None,
        method: str | None = None,
        asked_at: str | None = None,
    ):
        super().__init__(text)
        self.text = text
        if code is not None:
            self.code = code
        self.method = method
        self.asked_at = asked_at

    def plain(self) -> str:
        """Code and text, without the operation that it answers: for the text of another error."""
        text = self.text or type(self).__name__
        if self.code is not None and not text.startswith(str(self.code)):
            text = f"{self.code} {text}"
        return text

    def __str__(self) -> str:
        text = self.plain()
        call_site = f" asked for at {self.asked_at}" if self.asked_at else ""
        return f"{text} ({self.method}{call_site})" if self.method else text

    def of(self: E, method: str | None, asked_at: str | None) -> E:
        """A copy of this error, as the answer to one operation. A copy, because one event may settle many
        continuations. Arguments as of the class."""
        answer = copy.copy(self)
        answer.method = method
        answer.asked_at = asked_at
        answer.__cause__ = self.__cause__
        return answer

    def _fresh(self: E) -> E:
        """A copy of this error, to be raised. One that is kept and raised again and again would hold the frames of all
        its callers."""
        return self.of(self.method, self.asked_at)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (_bases(type(self)), self.args, self.__dict__)


class LocalError(AMQPError):
    """Base class: the caller made a mistake. Nothing was sent."""


class RemoteError(AMQPError):
    """Base class: the broker or the network caused the error."""


class InvalidArgument(LocalError, ValueError):
    """Raised at the call: an argument is too long, out of range, or unknown. The text names it."""


class InvalidArgumentType(LocalError, TypeError):
    """Raised at the call: an argument has the wrong type. The text names it."""


class NotInThisVersion(LocalError):
    """Raised at the call: the connection's version of the protocol has no such method."""


class ConcurrentUse(LocalError):
    """Raised at the call: another thread is inside this connection. Give each thread a connection of its own, or share
    one under its lock."""


class OperationTimeout(AMQPError, TimeoutError):
    """Raised when the broker did not answer within the timeout that the caller set. The broker may still carry out the
    operation."""


class BufferFull(LocalError):
    """Raised by a publish on a connection that recovers: it has no link, and its messages that wait have reached
    `buffer_limit`. The message is not kept."""


class OutcomeUnknown(RemoteError):
    """Raised on a connection that recovers: the link was lost while the operation was under way, and to ask again could
    do harm. The broker may have carried it out or not; the connection lives on."""


# --- the connection ---------------------------------------------------------------------------------------------------


class AMQPConnectionError(AMQPError):
    """Base class: the connection could not be opened, cannot do this, or is closed."""


class ConnectError(AMQPConnectionError, RemoteError):
    """Raised when a connection could not be opened: connection refused, name not found, certificate not trusted... The
    text names host, port and cause."""


class ConnectTimeout(ConnectError, TimeoutError):
    """Raised when TCP, TLS and AMQP handshake together took longer than connection_timeout."""


class LoginError(ConnectError):
    """Raised when the broker refused the credentials, or doesn't accept their SASL mechanism."""

    code = 403


class VirtualHostRefused(ConnectError):
    """Raised when the virtual host does not exist, or the user may not use it."""

    code = 530


class ConnectionClosed(AMQPConnectionError):
    """Raised, and passed to pending operations and close handlers, when the connection is closed: by the broker, by a
    lost link, or by the program."""


class ConnectionLost(ConnectionClosed, RemoteError):
    """Raised when the link broke without a close handshake."""


class HeartbeatTimeout(ConnectionLost):
    """Raised when the broker sent nothing for two heartbeat intervals (0-9-1 §4.2.7)."""


class BlockedConnectionTimeout(ConnectionClosed, RemoteError):
    """Raised when the broker blocked the connection (connection.blocked) for longer than blocked_connection_timeout."""


class ConnectionForked(ConnectionClosed, LocalError):
    """Raised in the child of a fork that uses a connection of its parent. The child must open its own."""


class NoFreeChannels(AMQPConnectionError, LocalError):
    """Raised when all channel numbers up to the negotiated channel_max are in use."""


class ContentTransmissionForbidden(AMQPConnectionError, RemoteError):
    """Raised by a publish while the broker has stopped the flow of the channel (channel.flow)."""


# --- the channel ------------------------------------------------------------------------------------------------------


class AMQPChannelError(AMQPError):
    """Base class: an operation failed, and at most its channel is closed."""


class ChannelClosed(AMQPChannelError):
    """Raised, and passed to pending operations and close handlers, when the channel is closed: by the broker, with its
    connection, or by the program."""


class DuplicateConsumerTag(AMQPChannelError, LocalError):
    """Raised when the channel has a consumer with this tag already."""


class UnknownConsumerTag(AMQPChannelError, LocalError):
    """Raised when the channel has no consumer with this tag."""


class StaleDelivery(AMQPChannelError):
    """Passed to the on_done of an ack, nack or reject on a channel that recovers: the message was delivered before the
    channel or link was lost. Nothing was sent; the broker delivers the message again."""


class ConsumerCancelled(AMQPChannelError, RemoteError):
    """Raised when the broker cancelled a consumer that has no on_cancel: its queue was deleted, or its node failed."""


class PublishError(RemoteError):
    """Base class: a publish was not confirmed."""


class MessageNacked(PublishError, AMQPChannelError):
    """Raised when the broker refused a message that was published (basic.nack). The channel goes on."""


class MessageReturned(PublishError, AMQPChannelError):
    """Raised when the broker returned a message that it could not route or deliver (basic.return, 0-9-1 §1.8.3.8).

    message: the Message; it pickles without its channel. code: the reason, 312 for no route, 313 for no consumers."""

    def __init__(self, text: str = "", *, message: Any = None, **details: Any):
        super().__init__(text, **details)
        self.message = message


class DeliveryUnknown(PublishError):
    """Raised when the connection or channel ended before the broker confirmed or refused the message: the broker may
    have accepted it or not. The error is also a ConnectionClosed or a ChannelClosed, by what ended, and of the class of
    the reply code."""


class PublishesFailed(PublishError):
    """Raised at the end of a block of publishes (`channel.pipelined`), when one or more of them failed.

    failures: a list of (index, error), in the order of the indices: the number of the publish in the block, from 0, and
    its fate, such as MessageNacked. If the connection or channel has ended, the error is also a ConnectionClosed or a
    ChannelClosed, as DeliveryUnknown is."""

    def __init__(self, text: str = "", *, failures: Sequence[tuple[int, AMQPError]] = (), **details: Any):
        super().__init__(text, **details)
        self.failures = list(failures)


# --- the protocol -----------------------------------------------------------------------------------------------------


class ProtocolSyntaxError(AMQPError):
    """Raised when the peer sent bytes or methods that the protocol does not allow. Base class of such errors."""

    code: int | None = 502


class UnexpectedFrameError(ProtocolSyntaxError):
    """Raised when the peer sent a frame or method out of order."""

    code = 505


class UnexpectedMethodError(UnexpectedFrameError):
    """Raised when the peer sent a reply without a request, or a method that its role never sends."""

    code = 503


class UnopenedChannelError(UnexpectedFrameError):
    """Raised when the peer sent a frame on a channel that is not open."""

    code = 504


class InvalidFrameError(ProtocolSyntaxError):
    """Raised when the peer sent a frame that is too large, of no known type, or without the frame end."""

    code = 501


class BodyTooLongError(InvalidFrameError):
    """Raised when the peer sent more bytes of a body than its content header announced."""


class InvalidTableError(ProtocolSyntaxError):
    """Raised when the peer sent a field table that cannot be decoded."""


class UnknownMethodError(ProtocolSyntaxError):
    """Raised when the peer sent a class or method that this version of the protocol does not have."""

    code = 540


class ProtocolVersionMismatch(ProtocolSyntaxError, AMQPConnectionError):
    """Raised when the peer speaks another version of AMQP. The text names both versions."""

    code = None


class InvalidProtocolHeader(ProtocolSyntaxError, AMQPConnectionError):
    """Raised when the peer does not speak AMQP."""

    code = None


# --- reply codes ------------------------------------------------------------------------------------------------------


class ReplyError(RemoteError):
    """Base class: the broker sent a reply code. An error that closed a channel is also a `ChannelClosed`, and an error
    that closed the connection also a `ConnectionClosed`. The class of the code catches both."""


def _reply(code: int, name: str = "") -> type[ReplyError]:
    """The class of a reply code. name: for a code whose name in `spec` Python uses for a class of its own."""
    row = spec.REPLY_CODES[code]
    name = name or row.name.title().replace("-", "")
    doc = f"Raised for reply code {code}, {row.name}{' (closes the connection)' if row.hard else ''}."
    return type(name, (ReplyError,), {"code": code, "__doc__": doc, "__module__": __name__})


NotDelivered: type[ReplyError] = _reply(310)
ContentTooLarge: type[ReplyError] = _reply(311)
NoRoute: type[ReplyError] = _reply(312)
NoConsumers: type[ReplyError] = _reply(313)
ConnectionForced: type[ReplyError] = _reply(320)
InvalidPath: type[ReplyError] = _reply(402)
AccessRefused: type[ReplyError] = _reply(403)
NotFound: type[ReplyError] = _reply(404)
ResourceLocked: type[ReplyError] = _reply(405)
PreconditionFailed: type[ReplyError] = _reply(406)
FrameError: type[ReplyError] = _reply(501)
AMQPSyntaxError: type[ReplyError] = _reply(502, "AMQPSyntaxError")
CommandInvalid: type[ReplyError] = _reply(503)
ChannelError: type[ReplyError] = _reply(504)
UnexpectedFrame: type[ReplyError] = _reply(505)
ResourceError: type[ReplyError] = _reply(506)
NotAllowed: type[ReplyError] = _reply(530)
AMQPNotImplemented: type[ReplyError] = _reply(540, "AMQPNotImplemented")
InternalError: type[ReplyError] = _reply(541)

_BY_CODE = {cls.code: cls for cls in list(globals().values()) if isinstance(cls, type) and issubclass(cls, ReplyError)}


_combinations: dict[tuple[type[AMQPError], ...], Any] = {}


def _combined(*classes: type[AMQPError]) -> Any:
    """The subclass of all these classes, with the name of the first; made when it is first needed."""
    bases: tuple[type[AMQPError], ...] = ()
    for base in (base for cls in classes for base in _bases(cls)):
        if not any(issubclass(known, base) for known in bases):
            bases = (*(known for known in bases if not issubclass(base, known)), base)
    if len(bases) == 1:
        return bases[0]
    cached = _combinations.get(bases)
    if cached is None:
        name, doc = classes[0].__name__, classes[0].__doc__
        cached = type(name, bases, {"__doc__": doc, "__module__": __name__, "_combines": bases})
        _combinations[bases] = cached
    return cached


def _bases(cls: type[AMQPError]) -> tuple[type[AMQPError], ...]:
    """The importable classes that a class combines, or the class itself."""
    combines: tuple[type[AMQPError], ...] = getattr(cls, "_combines", ())
    return combines or (cls,)


def closed(scope: type[E], code: int, text: str) -> E:
    """The error for a close with a reply code. Its class is a subclass of `scope` (ChannelClosed, ConnectionClosed,
    VirtualHostRefused...) and of the code's class, if the code has one."""
    reply = _BY_CODE.get(code)
    cls = _combined(reply, scope) if reply else scope
    error: E = cls(text, code=code)
    return error


def ended(error: AMQPError) -> AMQPError:
    """The error that ended a connection, of a class that is also a ConnectionClosed."""
    return error if isinstance(error, ConnectionClosed) else _as(_combined(type(error), ConnectionClosed), error)


def unknown_fate(reason: AMQPError) -> AMQPError:
    """The error of a publish whose fate stays unknown, since `reason` ended its channel or connection."""
    cls = _combined(DeliveryUnknown, type(reason))
    unknown: AMQPError = cls(f"the broker may have taken the message or not: {reason.text}", code=reason.code)
    unknown.__cause__ = reason
    return unknown


def publishes_failed(failures: Sequence[tuple[int, AMQPError]]) -> PublishesFailed:
    """The error of a block of publishes. Its class is also that of the end of the connection or channel, if that ended.
    The first failure is its cause."""
    errors = [error for _, error in failures]
    gone = [error for kind in (ConnectionClosed, ChannelClosed) for error in errors if isinstance(error, kind)]
    ends = [cls for cls in _bases(type(gone[0])) if not issubclass(cls, PublishError)] if gone else []
    told = [f"{index} ({type(error).__name__}: {error.plain()})" for index, error in failures[:SHOWN]]
    more = [f"and {len(failures) - SHOWN} more"] if len(failures) > SHOWN else []
    text = f"{len(failures)} of the block's publishes failed, by their index: {', '.join([*told, *more])}"
    failed: PublishesFailed = _combined(PublishesFailed, *ends)(text, failures=failures)
    failed.__cause__ = errors[0]
    return failed


def _as(cls: Any, error: AMQPError) -> AMQPError:
    other: AMQPError = cls(*error.args)
    other.__dict__.update(error.__dict__)
    other.__cause__ = error.__cause__
    return other


def _rebuild(classes: tuple[type[AMQPError], ...], args: tuple[Any, ...], state: dict[str, Any]) -> AMQPError:
    """Unpickles an error. A combined class cannot be imported by its name, so its bases are pickled."""
    error: AMQPError = _combined(*classes)(*args)
    error.__dict__.update(state)
    return error
