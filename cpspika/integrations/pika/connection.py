"""Where and as whom to connect, under pika's names: parameters, URLs and TLS."""

from __future__ import annotations

import ast
import copy
import ssl
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast
from urllib.parse import parse_qs, unquote, urlsplit

from ...connecting import all_targets
from ...parameters import EMBEDDED
from ...parameters import ConnectionParameters as CoreParameters
from . import credentials as _credentials
from . import spec
from ._absent import absent, absent_class

__all__ = ["ConnectionParameters", "Parameters", "SSLOptions", "URLParameters"]

T = TypeVar("T")
MAX_CHANNELS = 65535


class SSLOptions:
    """TLS. context: an ssl.SSLContext. server_hostname: the name in the broker's certificate; None: that of the
    host."""

    __slots__ = ("context", "server_hostname")

    def __init__(self, context: ssl.SSLContext, server_hostname: str | None = None):
        if not isinstance(context, ssl.SSLContext):
            raise TypeError(f"context takes an ssl.SSLContext, not {context!r}")
        self.context = context
        self.server_hostname = server_hostname


def _of(*kinds: type, low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """Makes the check of an option: an instance of one of these types, and within limits."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, kinds):
            raise TypeError(f"{name} takes {' or '.join(kind.__name__ for kind in kinds)}, not {value!r}")
        number: Any = value
        if value is not None and (
            (low is not None and number < low)
            or (high is not None and number > high)
            or (above is not None and number <= above)
        ):
            limits = [
                f"{word} {limit:,}"
                for word, limit in (("from", low), ("above", above), ("to", high))
                if limit is not None
            ]
            raise ValueError(f"{name}={value!r} is out of range: it takes numbers {' '.join(limits)}")
        return int(value) if isinstance(value, bool) else value  # the core takes no bool for a number

    return check


_NONE = type(None)


def _heartbeat(name: str, value: Any) -> Any:
    return value if callable(value) else _of(int, _NONE, low=0)(name, value)


def _port(name: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} takes an int, not {value!r}") from None


def _mechanism(name: str, value: Any) -> Any:
    return copy.deepcopy(_of(*_credentials.VALID_TYPES)(name, value))


def _table(name: str, value: Any) -> Any:
    return copy.deepcopy(_of(dict, _NONE)(name, value))


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "blocked_connection_timeout": _of(int, float, _NONE, low=0),
    "channel_max": _of(int, low=1, high=MAX_CHANNELS),
    "client_properties": _table,
    "connection_attempts": _of(int, low=1),
    "credentials": _mechanism,
    "frame_max": _of(int, low=spec.FRAME_MIN_SIZE, high=spec.FRAME_MAX_SIZE),
    "heartbeat": _heartbeat,
    "host": _of(str),
    "locale": _of(str),
    "port": _port,
    "retry_delay": _of(int, float),
    "socket_timeout": _of(int, float, _NONE, above=0),
    "stack_timeout": _of(int, float, _NONE, above=0),
    "ssl_options": _of(SSLOptions, _NONE),
    "virtual_host": _of(str),
    "tcp_options": _of(dict, _NONE),
}
_KEEPALIVE = {"TCP_KEEPIDLE": "idle", "TCP_KEEPINTVL": "interval", "TCP_KEEPCNT": "count"}


class Parameters:
    """All parameters, with their defaults; each is an attribute that may be set."""

    DEFAULT_USERNAME = "guest"
    DEFAULT_PASSWORD = "guest"
    DEFAULT_BLOCKED_CONNECTION_TIMEOUT: float | None = None
    DEFAULT_CHANNEL_MAX = MAX_CHANNELS
    DEFAULT_CLIENT_PROPERTIES: Mapping[str, Any] | None = None
    DEFAULT_CREDENTIALS = _credentials.PlainCredentials(DEFAULT_USERNAME, DEFAULT_PASSWORD)
    DEFAULT_CONNECTION_ATTEMPTS = 1
    DEFAULT_FRAME_MAX = spec.FRAME_MAX_SIZE
    DEFAULT_HEARTBEAT_TIMEOUT: int | None = None
    DEFAULT_HOST = "localhost"
    DEFAULT_LOCALE = "en_US"
    DEFAULT_PORT = 5672
    DEFAULT_RETRY_DELAY = 2.0
    DEFAULT_SOCKET_TIMEOUT: float | None = 10.0
    DEFAULT_STACK_TIMEOUT: float | None = 15.0
    DEFAULT_SSL = False
    DEFAULT_SSL_OPTIONS: SSLOptions | None = None
    DEFAULT_SSL_PORT = 5671
    DEFAULT_VIRTUAL_HOST = "/"
    DEFAULT_TCP_OPTIONS: Mapping[str, int] | None = None

    blocked_connection_timeout: float | None
    channel_max: int
    client_properties: dict[str, Any] | None
    connection_attempts: int
    credentials: Any
    frame_max: int
    heartbeat: int | None
    host: str
    locale: str
    port: int
    retry_delay: float
    socket_timeout: float | None
    stack_timeout: float | None
    ssl_options: SSLOptions | None
    virtual_host: str
    tcp_options: dict[str, int] | None

    _embedded = False  # the process's own broker, in place of host and port

    def __init__(self) -> None:
        for name in _CHECKS:
            setattr(self, name, getattr(self, "DEFAULT_HEARTBEAT_TIMEOUT" if name == "heartbeat" else _default(name)))

    def __setattr__(self, name: str, value: Any) -> None:
        check = _CHECKS.get(name)
        object.__setattr__(self, name, value if check is None else check(name, value))

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} host={self.host} port={self.port} virtual_host={self.virtual_host} "
            f"ssl={bool(self.ssl_options)}>"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Parameters):
            return NotImplemented
        return (self.host, self.port) == (other.host, other.port)

    __hash__ = None  # type: ignore[assignment]

    def to_core(self) -> list[CoreParameters]:
        """The same for the core. connection_timeout is one limit for all: the lower of socket_timeout and
        stack_timeout. NotImplementedError: heartbeat is a function."""
        if callable(self.heartbeat):
            raise absent("heartbeat as a function", "a number of seconds, or None for the broker's")
        tls, tcp = self.ssl_options, self.tcp_options or {}
        limits = [limit for limit in (self.socket_timeout, self.stack_timeout) if limit is not None]
        options: dict[str, Any] = {
            "virtual_host": self.virtual_host,
            "credentials": _credentials.CoreCredentials(copy.deepcopy(self.credentials)),
            "heartbeat": self.heartbeat,
            "frame_max": self.frame_max,
            "channel_max": self.channel_max,
            "connection_timeout": min(limits) if limits else None,
            "blocked_connection_timeout": self.blocked_connection_timeout,
            "tcp_keepalive": {ours: tcp[name] for name, ours in _KEEPALIVE.items() if name in tcp} or False,
            "client_properties": self.client_properties,
            "locale": self.locale,
        }
        if self._embedded:
            return all_targets(f"{EMBEDDED}://", options)
        if tls is not None:
            options.update(ssl=tls.context, server_hostname=tls.server_hostname)
        return [CoreParameters(self.host, self.port, **options)]


_METHODS = [
    "add_on_close_callback",
    "add_on_connection_blocked_callback",
    "add_on_connection_unblocked_callback",
    "add_on_open_callback",
    "add_on_open_error_callback",
    "basic_nack",
    "channel",
    "close",
    "consumer_cancel_notify",
    "exchange_exchange_bindings",
    "is_closed",
    "is_closing",
    "is_open",
    "publisher_confirms",
    "update_secret",
]

Connection = absent_class("connection.Connection", "BlockingConnection", _METHODS)


def _default(name: str) -> str:
    return f"DEFAULT_{name.upper()}"


class _Default:
    pass


_DEFAULT: Any = _Default


class ConnectionParameters(Parameters):
    """Parameters given one by one. Those that aren't given, or are `_DEFAULT`, have the class's defaults."""

    _DEFAULT = _DEFAULT

    def __init__(
        self,
        host: str = _DEFAULT,
        port: int = _DEFAULT,
        virtual_host: str = _DEFAULT,
        credentials: Any = _DEFAULT,
        channel_max: int = _DEFAULT,
        frame_max: int = _DEFAULT,
        heartbeat: int | None = _DEFAULT,
        ssl_options: SSLOptions | None = _DEFAULT,
        connection_attempts: int = _DEFAULT,
        retry_delay: float = _DEFAULT,
        socket_timeout: float | None = _DEFAULT,
        stack_timeout: float | None = _DEFAULT,
        locale: str = _DEFAULT,
        blocked_connection_timeout: float | None = _DEFAULT,
        client_properties: dict[str, Any] | None = _DEFAULT,
        tcp_options: dict[str, int] | None = _DEFAULT,
        **unknown: Any,
    ):
        given = {name: value for name, value in locals().items() if name in _CHECKS and value is not _DEFAULT}
        super().__init__()
        if unknown:
            raise TypeError(f"unknown parameters: {', '.join(sorted(unknown))}")
        for name, value in given.items():
            setattr(self, name, value)
        if port is _DEFAULT:
            self.port = self.DEFAULT_SSL_PORT if self.ssl_options else self.DEFAULT_PORT


class URLParameters(Parameters):
    """Parameters in a URL: amqp://user:password@host:port/virtual%20host?heartbeat=30, or amqps:// with TLS. Beside
    pika's, embedded:// is the process's own broker in memory."""

    def __init__(self, url: str):
        super().__init__()
        if not isinstance(url, str):
            raise TypeError(f"url takes a str, not {type(url).__name__}")
        parts = urlsplit(url)
        if parts.scheme not in ("amqp", "amqps", "http", "https", EMBEDDED, ""):
            raise ValueError(f"a URL begins with amqp:// or amqps://, not {parts.scheme!r}")
        self._embedded = parts.scheme == EMBEDDED
        if parts.scheme in ("amqps", "https"):
            self.ssl_options = SSLOptions(ssl.create_default_context())
        self.port = self.DEFAULT_SSL_PORT if self.ssl_options else self.DEFAULT_PORT
        if parts.hostname is not None:
            self.host = parts.hostname
        if parts.port is not None:
            self.port = parts.port
        if parts.username is not None:
            self.credentials = _credentials.PlainCredentials(unquote(parts.username), unquote(parts.password or ""))
        if len(parts.path) > 1:
            self.virtual_host = unquote(parts.path.split("/")[1])
        for name, values in parse_qs(parts.query).items():
            if name not in _OF_TEXT:
                raise ValueError(f"unknown parameter {name!r} in the URL")
            if len(values) != 1:
                raise ValueError(f"the URL has {len(values)} values of {name}; it takes one")
            try:
                value = _OF_TEXT[name](values[0])
            except (SyntaxError, ValueError) as error:
                raise ValueError(f"{name}={values[0]!r} in the URL is malformed: {error}") from error
            if name == "ssl_options":
                if value is None and self.ssl_options is not None:
                    raise ValueError("ssl_options=None in the URL contradicts amqps://")
                value = None if value is None else _tls(value)
            setattr(self, name, value)


_OF_TEXT: dict[str, Callable[[str], Any]] = {
    "blocked_connection_timeout": float,
    "channel_max": int,
    "client_properties": ast.literal_eval,
    "connection_attempts": int,
    "frame_max": int,
    "heartbeat": int,
    "locale": str,
    "retry_delay": float,
    "socket_timeout": float,
    "stack_timeout": float,
    "ssl_options": ast.literal_eval,
    "tcp_options": ast.literal_eval,
}


def _tls(options: Mapping[str, Any]) -> SSLOptions:
    """TLS by the dict that stands in a URL."""
    context = ssl.SSLContext(options.get("protocol", ssl.PROTOCOL_TLS_CLIENT))
    first: Callable[..., Any] = lambda *names: next((options[name] for name in names if options.get(name)), None)  # noqa: E731
    context.load_verify_locations(first("ca_certs", "cafile"), first("ca_path", "capath"), first("ca_data", "cadata"))
    if "certfile" in options:
        context.load_cert_chain(options["certfile"], options.get("keyfile"), options.get("password"))
    if "ciphers" in options:
        context.set_ciphers(options["ciphers"])
    return SSLOptions(context, cast("str | None", options.get("server_hostname")))
