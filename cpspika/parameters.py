"""URLs, connection parameters, credentials and their SASL responses.

An option has the same name in the query of a URL, in ConnectionParameters and in connect(). Only the credentials hold
a secret. No repr, log or error shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict
from urllib.parse import parse_qsl, unquote, urlsplit

from .errors import InvalidArgument, InvalidArgumentType, LoginError
from .spec import CONSTANTS, VERSIONS

if TYPE_CHECKING:
    import ssl as tls

    from typing_extensions import Unpack  # typing has it since Python 3.11

DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
EMBEDDED = "embedded"
FRAME_MIN = CONSTANTS["frame-min-size"]  # bytes
SHORTSTR_MAX = 255  # bytes


class Credentials(Protocol):
    """The contract of credentials (0-9-1 §1.4.2.2 to §1.4.2.5). A class of the user's own needs only these names.

    mechanism: the name of the SASL mechanism, "PLAIN".
    start(): the first response (connection.start-ok), as bytes; a mapping is sent as a field table, for AMQPLAIN.
    respond(challenge): the response to a challenge of the broker (connection.secure), as bytes. A mechanism without
    challenges needs no `respond`.

    An exception of either method settles connect() with that exception.
    """

    @property
    def mechanism(self) -> str: ...
    def start(self) -> bytes | Mapping[str, str]: ...
    def respond(self, challenge: bytes) -> bytes: ...


class _Credentials:
    mechanism = ""

    def respond(self, challenge: bytes) -> bytes:
        """LoginError: the mechanism has no challenges."""
        raise LoginError(f"the broker sent a challenge, but {self.mechanism} has no response to a challenge")


class _PasswordCredentials(_Credentials):
    def __init__(self, username: str = "guest", password: str = "guest"):
        self.username = username
        self._password = password

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.username!r}, ...)"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class PlainCredentials(_PasswordCredentials):
    """PLAIN (RFC 4616): sends name and password unencrypted. Use TLS for a broker on another machine.

    username, password: str, "guest" by default. InvalidArgument: one contains a NUL."""

    mechanism = "PLAIN"

    def __init__(self, username: str = "guest", password: str = "guest"):
        if "\0" in username + password:
            raise InvalidArgument("username or password contains a NUL; PLAIN separates them by NUL, so neither may")
        super().__init__(username, password)

    def start(self) -> bytes:
        """The response with name and password."""
        return f"\0{self.username}\0{self._password}".encode()


class AmqplainCredentials(_PasswordCredentials):
    """AMQPLAIN: as PLAIN, in a field table. The mechanism of brokers from the time of 0-8; RabbitMQ accepts it too.

    username, password: str, "guest" by default."""

    mechanism = "AMQPLAIN"

    def start(self) -> dict[str, str]:
        """The response with name and password."""
        return {"LOGIN": self.username, "PASSWORD": self._password}


class ExternalCredentials(_Credentials):
    """EXTERNAL: the broker identifies the client by other means, as a rule by its TLS certificate."""

    mechanism = "EXTERNAL"

    def start(self) -> bytes:
        """The response: empty."""
        return b""

    def __repr__(self) -> str:
        return "ExternalCredentials()"


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidArgumentType(f"{name} takes a number of seconds or None, not {value!r}") from None
    if not 0 <= number < float("inf"):
        raise InvalidArgument(f"{name}={value} is not a number of seconds from 0; without a limit it is None")
    return number


def _heartbeat(name: str, value: Any) -> int | None:
    seconds = _seconds(name, value)
    if seconds is not None and (seconds > 65535 or seconds % 1):
        raise InvalidArgument(f"{name}={value} is not a whole number of seconds from 0 to 65535")
    return None if seconds is None else int(seconds)


def _integer(low: int, high: int) -> Any:
    def check(name: str, value: Any) -> int:
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise InvalidArgumentType(f"{name} takes an int, not {value!r}") from None
        if not low <= number <= high:
            raise InvalidArgument(f"{name}={value} is not between {low} and {high}")
        return number

    return check


def _protocol(name: str, value: Any) -> str:
    if value not in VERSIONS:
        raise InvalidArgument(f"{name}={value!r} is not one of {', '.join(map(repr, VERSIONS))}")
    return str(value)


def _ssl(name: str, value: Any) -> tls.SSLContext | None:
    # By the class's name, because the module ssl takes long to import, and without a context it isn't needed.
    if value is None or "SSLContext" in {cls.__name__ for cls in type(value).__mro__}:
        context: tls.SSLContext | None = value
        return context
    raise InvalidArgumentType(f"{name} takes an ssl.SSLContext or None, not {type(value).__name__}")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidArgumentType(f"{name} takes a str, not {type(value).__name__}")
    size = len(value.encode("utf-8", "surrogatepass"))
    if size > SHORTSTR_MAX:
        raise InvalidArgument(f"{name} is {size} bytes long; AMQP allows {SHORTSTR_MAX}")
    return value


def _table(name: str, value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise InvalidArgumentType(f"{name} takes a dict, not {type(value).__name__}")
    return dict(value or {})


def _credentials(name: str, value: Any) -> Credentials:
    if value is None:
        return PlainCredentials()
    if not hasattr(value, "mechanism") or not callable(getattr(value, "start", None)):
        raise InvalidArgumentType(f"{name} takes an object with mechanism and start(), not {type(value).__name__}")
    checked: Credentials = value
    return checked


def _via(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise InvalidArgumentType(f"{name} takes a callable, not {type(value).__name__}")
    return value


# name: (default, check). check(name, value) returns the value to store; a value from a URL's query is a str.
_OPTIONS: dict[str, tuple[Any, Any]] = {
    "host": ("localhost", _text),
    "port": (None, lambda name, value: value if value is None else _integer(1, 65535)(name, value)),
    "virtual_host": ("/", _text),
    "credentials": (None, _credentials),
    "heartbeat": (None, _heartbeat),
    "frame_max": (
        131072,
        lambda name, value: _integer(0, 2**32 - 1)(name, value) and _integer(FRAME_MIN, 2**32 - 1)(name, value),
    ),
    "channel_max": (0, _integer(0, 65535)),
    "connection_timeout": (15.0, _seconds),
    "blocked_connection_timeout": (None, _seconds),
    "protocol": ("0-9-1", _protocol),
    "ssl": (None, _ssl),
    "client_properties": (None, _table),
    "locale": ("en_US", _text),
    "via": (None, _via),
}
_NOT_IN_URL_QUERY = {"host", "port", "credentials", "ssl", "client_properties", "via"}


class LinkOptions(TypedDict, total=False):
    """The options of ConnectionParameters that are keywords only, for type checkers and editors."""

    heartbeat: float | None
    frame_max: int
    channel_max: int
    connection_timeout: float | None
    blocked_connection_timeout: float | None
    protocol: Literal["0-9-1", "0-8"]
    ssl: tls.SSLContext | None
    client_properties: Mapping[str, Any] | None
    locale: str
    via: Any


class ConnectionOptions(LinkOptions, total=False):
    """All options of ConnectionParameters: every `connect` takes them too, and sets them over its target's."""

    host: str
    port: int | None
    virtual_host: str
    credentials: Credentials | None


class ConnectionParameters:
    """The parameters of a connection to one broker.

    host: str, name or address; "localhost" by default.
    port: int, 1 to 65535; by default 5672, with ssl 5671.
    virtual_host: str, "/" by default.
    credentials: see `Credentials`; by default PlainCredentials("guest", "guest").
    heartbeat: int, seconds; 0: off; None (default): what the server suggests.
    frame_max: int, bytes of the largest frame, from 4096; 0: no limit on our side; 131072 by default.
    channel_max: int, the highest channel number, up to 65535; 0 (default): what the server suggests.
    connection_timeout: float, seconds for TCP, TLS and handshake together; None: no limit; 15.0 by default.
    blocked_connection_timeout: float, seconds for which the broker may block the connection before it is closed; None
    (default): no limit.
    protocol: "0-9-1" (default) or "0-8".
    ssl: an ssl.SSLContext; None (default): no TLS.
    client_properties: dict, a field table for the broker to show, {"connection_name": "..."}; None (default): none.
    locale: str, "en_US" by default.
    via: a function via(reactor, owner) that makes the transport in place of TCP; None (default): TCP. `embedded://`
    uses it.

    Errors, which name the option: InvalidArgument (a ValueError) for an unknown option or a value out of range,
    InvalidArgumentType (a TypeError) for a value of the wrong type.
    """

    host: str
    port: int
    virtual_host: str
    credentials: Credentials
    heartbeat: int | None
    frame_max: int
    channel_max: int
    connection_timeout: float | None
    blocked_connection_timeout: float | None
    protocol: str
    ssl: tls.SSLContext | None
    client_properties: dict[str, Any]
    locale: str
    via: Any

    def __init__(
        self,
        host: str = "localhost",
        port: int | None = None,
        virtual_host: str = "/",
        credentials: Credentials | None = None,
        **options: Unpack[LinkOptions],
    ):
        self._set({"host": host, "port": port, "virtual_host": virtual_host, "credentials": credentials, **options})

    def _set(self, given: Mapping[str, Any]) -> None:
        for name in given:
            if name not in _OPTIONS:
                raise InvalidArgument(f"unknown option {name!r}; the options are {', '.join(_OPTIONS)}")
        for name, (default, check) in _OPTIONS.items():
            setattr(self, name, check(name, given.get(name, default)))
        if given.get("port") is None:
            self.port = DEFAULT_PORTS["amqps" if self.ssl else "amqp"]

    @classmethod
    def from_url(cls, url: str, **options: Unpack[ConnectionOptions]) -> ConnectionParameters:
        """The parameters in a URL: amqp://user:password@host:port/virtual%20host?heartbeat=30, or amqps:// with TLS.

        url: str. Characters other than letters and digits are percent-encoded in names and passwords. No path, or "/"
        alone, is the virtual host "/". The query has options by name. amqps:// without the option `ssl` makes a default
        SSLContext, which verifies the broker's certificate. An embedded:// URL needs the option `via`, which
        `cpspika.connect` adds.
        options: override those of the URL.

        InvalidArgument: the URL is malformed or has an unknown option. Other errors as of ConnectionParameters. No
        error shows the URL, because it may contain a password."""
        parts = _split(url)
        given: dict[str, Any] = {"host": unquote(parts.hostname or "localhost")}
        if parts.port is not None:
            given["port"] = parts.port
        if parts.path not in ("", "/"):
            given["virtual_host"] = unquote(parts.path[1:])
        if parts.username is not None:
            given["credentials"] = PlainCredentials(unquote(parts.username), unquote(parts.password or ""))
        for name, text in parse_qsl(parts.query, keep_blank_values=True):
            if name in _NOT_IN_URL_QUERY or name not in _OPTIONS:
                options_of_url = ", ".join(option for option in _OPTIONS if option not in _NOT_IN_URL_QUERY)
                # A name that is no identifier isn't shown: it may be the end of a password with a "?" in it.
                shown = f" {name!r}" if name.isidentifier() else " (a '?' in a password is written %3F)"
                raise InvalidArgument(f"unknown option{shown} in the URL; the options there are {options_of_url}")
            given[name] = text
        if parts.scheme == "amqps" and "ssl" not in options:
            import ssl

            given["ssl"] = ssl.create_default_context()
        if parts.scheme == EMBEDDED:
            given["host"] = EMBEDDED
        return cls(**{**given, **options})

    def replace(self, **options: Unpack[ConnectionOptions]) -> ConnectionParameters:
        """A copy with these options changed. Errors as of ConnectionParameters."""
        return type(self)(**{**vars(self), **options})

    def __repr__(self) -> str:
        shown = (
            f"{name}={getattr(self, name)!r}"
            for name, (default, check) in _OPTIONS.items()
            if getattr(self, name) != check(name, default)
        )
        return f"ConnectionParameters({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConnectionParameters) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


def _check_brackets(parts: Any) -> None:
    """ValueError: the text in brackets is not an IPv6 address. Python 3.10 doesn't check it."""
    if "[" in parts.netloc:
        import ipaddress

        ipaddress.IPv6Address(unquote(parts.hostname or "").partition("%")[0])


def _split(url: str) -> Any:
    # No error may show the URL, because it contains the password.
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (reading it checks it)
        _check_brackets(parts)
    except ValueError:
        parts = None
    if parts is None or "://" not in url or parts.fragment:
        raise InvalidArgument(
            "the URL is malformed; a URL looks like amqp://user:password@host:port/vhost, and characters in a name or "
            "password other than letters and digits must be percent-encoded"
        )
    if parts.scheme not in (*DEFAULT_PORTS, EMBEDDED):
        raise InvalidArgument(f"a URL begins with amqp://, amqps:// or embedded://, not {parts.scheme!r}")
    return parts


def targets(target: Any, options: Mapping[str, Any], embedded: Any = None) -> list[ConnectionParameters]:
    """The parameters of each broker that a target names, in order.

    target: a URL, ConnectionParameters, or an iterable of these. options: override those of each. embedded: the option
    `via` for an embedded:// URL. Errors as of ConnectionParameters."""
    if isinstance(target, str):
        via = {"via": embedded} if target.startswith(EMBEDDED + ":") else {}
        return [ConnectionParameters.from_url(target, **via, **options)]
    if isinstance(target, ConnectionParameters):
        return [target.replace(**options) if options else target]
    if isinstance(target, Iterable) and not isinstance(target, (bytes, Mapping)):
        found = [parameters for item in target for parameters in targets(item, options, embedded)]
        if found:
            return found
        raise InvalidArgument("target is an empty sequence; it takes at least one URL or ConnectionParameters")
    raise InvalidArgumentType(
        f"target takes a URL, ConnectionParameters or a sequence of them, not {type(target).__name__}"
    )
