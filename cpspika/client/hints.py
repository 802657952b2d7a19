"""Remedies that the text of an error names: of a link lost in the handshake, of a close by the broker, of a name of
pika."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ..errors import InvalidArgumentType
from ..parameters import ConnectionParameters, Remedy
from ..pika_names import ARGUMENTS, NAMES, instead
from ..wire.handshake import can

F = TypeVar("F", bound=Callable[..., Any])

LEAST_FRAME_MAX = 8192  # bytes; RabbitMQ 4.1 and later take no less, and reset the link in place of a refusal


def hint(error: Exception | None, state: str, parameters: ConnectionParameters, properties: Mapping[str, Any]) -> str:
    """A remedy to append to the error of a link that was lost in the handshake; "" if none is known.

    error: the transport's; None: the peer hung up. state: the link's (wire.states); "": its transport is not ready
    yet. properties: of the server."""
    if state == "opening" and 0 < parameters.frame_max < LEAST_FRAME_MAX:
        return (
            f"; frame_max={parameters.frame_max} may be the reason: RabbitMQ 4.1 and later hang up on less than "
            f"{LEAST_FRAME_MAX}"
        )
    if error is None and state in ("securing", "challenged") and not can(properties, "authentication_failure_close"):
        return (
            "; a broker without authentication_failure_close, as this one, also hangs up if it refuses the credentials"
        )
    if error is None and state == "opening":
        return f"; the broker may refuse the virtual host {parameters.virtual_host!r} by that"
    if parameters.ssl is None or state not in ("", "begun"):
        return ""
    kind, reason = type(error).__name__, getattr(error, "reason", None) or ""
    if kind == "SSLCertVerificationError":
        return _untrusted(getattr(error, "verify_code", 0), parameters)
    if (kind == "SSLEOFError" and not state) or reason in _NOT_TLS:
        return f"; the port may be one without TLS: for that {Remedy.WITHOUT_TLS}"
    # With TLS 1.3 the broker looks at the client's certificate behind the handshake. RabbitMQ 3.10 then just hangs up.
    hung_up = state == "begun" and (error is None or kind == "SSLEOFError" or isinstance(error, ConnectionError))
    if parameters.certfile is None and (hung_up or reason in _NO_CERTIFICATE):
        return f"; the broker may ask for the client's certificate: {Remedy.CERTIFICATE}"
    if parameters.certfile is not None and (hung_up or reason in _BAD_CERTIFICATE):
        return "; the broker may not trust the authority that signed the certificate in certfile"
    return ""


def remedy(text: str) -> str:
    """A remedy to append to the reply text with which the broker closed a channel or the connection; "" if none is
    known. RabbitMQ cuts its text at 255 bytes, mostly before a remedy of its own."""
    return next((what_to_write for part, what_to_write in _REMEDIES if part in text), "")


_REMEDIES = (
    (
        "`transient_nonexcl_queues` is deprecated",
        "; declare the queue with durable=True, or with exclusive=True if only this connection uses it",
    ),
    ("consumer prefetch count is not set for", "; call basic_qos(prefetch_count=...) before basic_consume"),
    ("is larger than configured max size", "; the limit is max_message_size in the broker's configuration"),
)


# OpenSSL's names for an answer that is not TLS, in its versions.
_NOT_TLS = (
    "WRONG_VERSION_NUMBER",
    "RECORD_LAYER_FAILURE",
    "UNKNOWN_PROTOCOL",
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
    "UNEXPECTED_MESSAGE",
)
_NO_CERTIFICATE = ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE")
_BAD_CERTIFICATE = ("TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_BAD_CERTIFICATE", "TLSV1_ALERT_DECRYPT_ERROR")
WRONG_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21)  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT and its like


def _untrusted(code: int, parameters: ConnectionParameters) -> str:
    if code in WRONG_NAME:
        return f"; if the certificate is the broker's all the same, {Remedy.NAME}"
    if code in UNKNOWN_AUTHORITY:
        if parameters.cafile is not None:
            return "; cafile has no certificate of the authority that signed the broker's"
        return f"; for a private authority {Remedy.AUTHORITY}"
    return ""


# --- pika's names -----------------------------------------------------------------------------------------------------


def for_arguments(error: TypeError, given: Iterable[str]) -> TypeError:
    """The error of a call with unknown arguments. If there are pika's among those that were `given`, the text names the
    ones to use."""
    ours = [said for name in given if (said := instead(name, ARGUMENTS))]
    return TypeError("; ".join([str(error), *ours])) if ours else error


def hinting(method: F) -> F:
    """Has a TypeError for arguments of pika name those to use. Not for the fast paths: it costs a call."""

    @functools.wraps(method)
    def hinted(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except TypeError as error:
            explained = for_arguments(error, kwargs)
            if explained is error:
                raise
            raise explained from None

    return hinted  # type: ignore[return-value]


class _PikaName:
    """A name of pika in a class of ours: it is as if it was not there, but the AttributeError says what to use."""

    def __init__(self, name: str):
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        what = f"{owner.__name__!r} object" if instance is not None else f"type object {owner.__name__!r}"
        text = f"{what} has no attribute {self._name!r}; {instead(self._name, NAMES)}"
        raise AttributeError(text, name=self._name, obj=instance if instance is not None else owner)


class _HidesNames(type):
    """The class of classes with names of pika: `dir` and `help` do not list those."""

    def __dir__(cls) -> list[str]:
        return [name for name in super().__dir__() if not _is_hint(cls, name)]


class HintsNames(metaclass=_HidesNames):
    """Has the AttributeError for a name of pika say what to use.

    Not by `__getattr__`: where a class has one, CPython looks up every attribute of its objects the slow way, those
    that are there too. That took 6 % of a publish."""

    __slots__ = ()

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not _is_hint(type(self), name)]


for _name in NAMES:
    setattr(HintsNames, _name, _PikaName(_name))


def _is_hint(cls: type, name: str) -> bool:
    found = next((base.__dict__[name] for base in cls.__mro__ if name in base.__dict__), None)
    return isinstance(found, _PikaName)


def takes_no_on_done(name: str) -> InvalidArgumentType:
    """The error of a facade's call that was given the core's on_done."""
    return InvalidArgumentType(
        f"{name} takes no on_done in this style, whose calls give their results themselves; connections of "
        "cpspika.connect call on_done"
    )
