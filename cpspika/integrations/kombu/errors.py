"""The errors of cpspika as kombu and its programs know them: those of py-amqp, and OSError for the network.

kombu needs py-amqp for these classes whatever the transport, and catches them by name in places. The error of cpspika
is the cause of each.
"""

from __future__ import annotations

import errno
import socket
from ssl import SSLError
from typing import Any, NoReturn

from amqp import exceptions as amqp

from ... import errors
from ...parameters import Remedy

CONNECTION_ERRORS: tuple[type[Exception], ...] = (amqp.ConnectionError, OSError)
CHANNEL_ERRORS: tuple[type[Exception], ...] = (amqp.ChannelError,)
RECOVERABLE_CONNECTION_ERRORS: tuple[type[Exception], ...] = (
    amqp.RecoverableConnectionError,
    amqp.MessageNacked,
    OSError,
)
RECOVERABLE_CHANNEL_ERRORS: tuple[type[Exception], ...] = (amqp.RecoverableChannelError,)

# "queue.declare": (50, 10)
_SIGNATURES = {
    name.lower().replace("_", "-"): signature
    for signature, name in amqp.METHOD_NAME_MAP.items()
    if isinstance(signature, tuple)  # a number stands there too
}


def raise_translated(error: errors.AMQPError) -> NoReturn:
    """Raises the error for a program of kombu. A mistake of the caller is raised as it is."""
    translation: Exception = _translated(error)
    if translation is error:
        raise error
    raise translation from error


def _translated(error: errors.AMQPError) -> Any:
    if isinstance(error, errors.ConnectError):
        return _of_connecting(error)
    if isinstance(error, errors.OperationTimeout):
        return TimeoutError(str(error))
    if isinstance(error, errors.MessageNacked):
        return amqp.MessageNacked(error.text)
    if isinstance(error, errors.ConsumerCancelled):
        return amqp.ConsumerCancelled(error.text, (60, 30))
    if isinstance(error, errors.MessageReturned):
        return by_code(error, amqp.ChannelError)
    if isinstance(error, errors.HeartbeatTimeout):
        return amqp.ConnectionForced(f"Too many heartbeats missed: {error.text}", reply_code=320)
    if isinstance(error, errors.ConnectionLost):
        return ConnectionResetError(errno.ECONNRESET, error.text)
    if isinstance(error, errors.NoFreeChannels):
        return amqp.ResourceError(error.text, (20, 10))
    if isinstance(error, errors.ConnectionClosed):
        return by_code(error, amqp.RecoverableConnectionError)
    if isinstance(error, errors.DuplicateConsumerTag):
        return amqp.NotAllowed(error.text, (60, 20))
    if isinstance(error, errors.LocalError):
        return error
    if isinstance(error, errors.AMQPChannelError):
        return by_code(error, amqp.RecoverableChannelError)
    return by_code(error, amqp.ConnectionError)


def by_code(error: errors.AMQPError, otherwise: Any) -> Exception:
    """The error of the reply code, or one of another class."""
    signature, text = _SIGNATURES.get(error.method or ""), _reworded(error.text)
    if error.code is None:
        made: Exception = otherwise(text, signature)
    else:
        made = amqp.error_for_code(error.code, text, signature, otherwise)
    return made


_IN_KOMBU = {
    Remedy.AUTHORITY: "give its certificate as ssl={'ca_certs': 'ca.pem'}",
    Remedy.CERTIFICATE: "give ssl={'certfile': ..., 'keyfile': ...}",
    Remedy.WITHOUT_TLS: "leave out ssl (Celery: broker_use_ssl)",
    Remedy.WITH_TLS: "give ssl=True (Celery: broker_use_ssl), or take SSLTransport",
    Remedy.NAME: "give the name in it as ssl={'server_hostname': ...}",
}


def _reworded(text: str) -> str:
    for remedy, here in _IN_KOMBU.items():
        text = text.replace(remedy, here)
    return text


def _of_connecting(error: errors.AMQPError) -> Any:
    if error.code is not None:
        return by_code(error, amqp.ConnectionError)
    text = _reworded(error.text)
    if isinstance(error, errors.ConnectTimeout):
        return TimeoutError(text)
    cause = error.__cause__
    while isinstance(cause, errors.AMQPError):
        cause = cause.__cause__
    if isinstance(cause, SSLError):
        return type(cause)(*cause.args[:1], text)
    if isinstance(cause, OSError) and cause.errno is not None:
        text = text.replace(f"[Errno {cause.errno}] ", "")  # the error shows its number itself
        if isinstance(cause, socket.gaierror):
            return socket.gaierror(cause.errno, text)
        return OSError(cause.errno, text)  # of the class of the number: ConnectionRefusedError...
    if isinstance(error, errors.LoginError):
        return amqp.ConnectionError(text)  # no mechanism that both sides have
    return ConnectionResetError(errno.ECONNRESET, text)
