"""Every error there is, in one tree under AMQPError.

Two questions matter to whoever catches one, so the tree answers both: *whose fault* (`LocalError`, a mistake of the
caller; `RemoteError`, the broker's word) and *what is gone* (`AMQPConnectionError`: the connection;
`AMQPChannelError`: at most the channel). Each reply code has a class as well (`NotFound` for 404), so that a caller
names what went wrong without comparing numbers. The names of pika 0.5 are kept.

An error that settles a continuation is told which one: `method`, the operation that it answers, and `asked_at`, the
file and line where that was asked for.
"""

from __future__ import annotations

import copy
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
    "PreconditionFailed",
    "ProtocolSyntaxError",
    "ProtocolVersionMismatch",
    "PublishError",
    "RemoteError",
    "ReplyError",
    "ResourceError",
    "ResourceLocked",
    "UnexpectedFrame",
    "UnexpectedFrameError",
    "UnexpectedMethodError",
    "UnknownConsumerTag",
    "UnknownMethodError",
    "UnopenedChannelError",
    "VirtualHostRefused",
]

E = TypeVar("E", bound="AMQPError")


class AMQPError(Exception):
    """Above all others. `code`: the reply code or None; `text`: what happened; `method`: the operation that it
    answers ("queue.declare") or None; `asked_at`: "file.py:12 in main", where that was asked for, or None."""

    code: int | None = None
    unspoken = False  # the peer is hung up on, without a close that says why

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

    def __str__(self) -> str:
        told = self.text or type(self).__name__
        if self.code is not None and not told.startswith(str(self.code)):
            told = f"{self.code} {told}"
        where = f" asked for at {self.asked_at}" if self.asked_at else ""
        return f"{told} ({self.method}{where})" if self.method else told

    def of(self: E, method: str, asked_at: str | None) -> E:
        """This error as the answer to one operation: a copy, since one event may settle many continuations."""
        mine = copy.copy(self)
        mine.method = method
        mine.asked_at = asked_at
        mine.__cause__ = self.__cause__
        return mine

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (_bases(type(self)), self.args, self.__dict__)


class LocalError(AMQPError):
    """A mistake of the caller; nothing was sent."""


class RemoteError(AMQPError):
    """What the broker, or the network between, did."""


class InvalidArgument(LocalError, ValueError):
    """An argument that cannot be sent: too long, out of range, or unknown. Raised at the call."""


class InvalidArgumentType(LocalError, TypeError):
    """An argument of the wrong type. Raised at the call."""


class NotInThisVersion(LocalError):
    """The connection's version of the protocol has no such method. Raised at the call."""


class ConcurrentUse(LocalError):
    """Two threads were inside one connection at the same moment. Give each its own, or share it under its lock."""


class OperationTimeout(AMQPError, TimeoutError):
    """No answer within the time that the caller set. The operation may yet be carried out by the broker."""


# --- the connection ---------------------------------------------------------------------------------------------------


class AMQPConnectionError(AMQPError):
    """The connection could not be made, cannot do this, or is gone."""


class ConnectError(AMQPConnectionError, RemoteError):
    """No connection to a host: refused, unknown name, certificate not trusted... It names host, port and cause."""


class ConnectTimeout(ConnectError, TimeoutError):
    """TCP, TLS and handshake together took longer than connection_timeout."""


class LoginError(ConnectError):
    """The broker refused the credentials, or takes none of our mechanisms."""

    code = 403


class VirtualHostRefused(ConnectError):
    """The virtual host does not exist, or this user may not use it."""

    code = 530


class ConnectionClosed(AMQPConnectionError):
    """The connection is closed: by the broker, by a lost link, or by us."""


class ConnectionLost(ConnectionClosed, RemoteError):
    """The link broke without a close handshake."""


class HeartbeatTimeout(ConnectionLost):
    """Nothing was heard for two heartbeat intervals."""


class BlockedConnectionTimeout(ConnectionClosed, RemoteError):
    """The broker kept the connection blocked for longer than blocked_connection_timeout."""


class ConnectionForked(ConnectionClosed, LocalError):
    """A connection belongs to the process that made it; after a fork the child must make its own."""


class NoFreeChannels(AMQPConnectionError, LocalError):
    """All channel numbers up to the negotiated channel_max are in use."""


class ContentTransmissionForbidden(AMQPConnectionError, RemoteError):
    """The broker stopped the flow of this channel (channel.flow): a publish now is refused."""


# --- the channel ------------------------------------------------------------------------------------------------------


class AMQPChannelError(AMQPError):
    """An operation failed, and at most its channel is gone."""


class ChannelClosed(AMQPChannelError):
    """The channel is closed: by the broker, with its connection, or by us."""


class DuplicateConsumerTag(AMQPChannelError, LocalError):
    """A consumer with this tag is there already."""


class UnknownConsumerTag(AMQPChannelError, LocalError):
    """There is no consumer with this tag on the channel."""


class ConsumerCancelled(AMQPChannelError, RemoteError):
    """The broker ended a consumer that had no on_cancel: its queue was deleted, or its node failed."""


class PublishError(RemoteError):
    """Above the fates of a publish that was not confirmed."""


class MessageNacked(PublishError, AMQPChannelError):
    """The broker refused responsibility for the message (basic.nack). The channel goes on."""


class MessageReturned(PublishError, AMQPChannelError):
    """The message could not be routed and came back (basic.return): `message` is it, `code` says why."""

    def __init__(self, text: str = "", *, message: Any = None, **details: Any):
        super().__init__(text, **details)
        self.message = message


class DeliveryUnknown(PublishError):
    """The connection or channel ended before the broker decided: it may have taken the message or not.

    The error is also a ConnectionClosed or a ChannelClosed, by what ended, and of the class of the reply code."""


# --- the protocol -----------------------------------------------------------------------------------------------------


class ProtocolSyntaxError(AMQPError):
    """Bytes or methods that the protocol does not allow."""

    code: int | None = 502


class UnexpectedFrameError(ProtocolSyntaxError):
    """A frame, or a method, that cannot come now."""

    code = 505


class UnexpectedMethodError(UnexpectedFrameError):
    """A method that nobody asked for, or that this side never receives."""

    code = 503


class UnopenedChannelError(UnexpectedFrameError):
    """A frame for a channel that is not open."""

    code = 504


class InvalidFrameError(ProtocolSyntaxError):
    """A frame that is too large, of no known type, or badly ended."""

    code = 501


class BodyTooLongError(InvalidFrameError):
    """More body than its header announced."""


class InvalidTableError(ProtocolSyntaxError):
    """A field table that cannot be read, or written."""


class UnknownMethodError(ProtocolSyntaxError):
    """A class or method that this version of the protocol does not have."""

    code = 540


class ProtocolVersionMismatch(ProtocolSyntaxError, AMQPConnectionError):
    """The peers speak different versions; the text names both."""

    code = None


class InvalidProtocolHeader(ProtocolSyntaxError, AMQPConnectionError):
    """The peer does not speak AMQP at all."""

    code = None


# --- reply codes ------------------------------------------------------------------------------------------------------


class ReplyError(RemoteError):
    """Above the classes of reply codes. One that closed a channel is a `ChannelClosed` too, one that closed the
    connection a `ConnectionClosed`; whichever it was, the class of its code catches it."""


def _reply(code: int, name: str = "") -> type[ReplyError]:
    """The class of a code, by the name of its row, or another where Python has one of that name."""
    row = spec.REPLY_CODES[code]
    name = name or row.name.title().replace("-", "")
    doc = f"Reply code {code}, {row.name}{' (closes the connection)' if row.hard else ''}."
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
    """A class under all of these. It has the name of the first, and is made when it is first needed."""
    bases: tuple[type[AMQPError], ...] = ()
    for base in (base for cls in classes for base in _bases(cls)):
        if not any(issubclass(known, base) for known in bases):
            bases = (*(known for known in bases if not issubclass(base, known)), base)
    if len(bases) == 1:
        return bases[0]
    known = _combinations.get(bases)
    if known is None:
        name, doc = classes[0].__name__, classes[0].__doc__
        known = type(name, bases, {"__doc__": doc, "__module__": __name__, "_combines": bases})
        _combinations[bases] = known
    return known


def _bases(cls: type[AMQPError]) -> tuple[type[AMQPError], ...]:
    """The importable classes that a class combines, or the class itself."""
    combines: tuple[type[AMQPError], ...] = getattr(cls, "_combines", ())
    return combines or (cls,)


def closed(scope: type[E], code: int, text: str) -> E:
    """The error of a close. Its class is `scope` (ChannelClosed, ConnectionClosed, VirtualHostRefused...) and also the
    class of the reply code, if the code is known."""
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
