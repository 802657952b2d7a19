"""Where to connect and as whom: URLs, parameters, credentials and their SASL answers.

An option has one name, whether it stands in a URL's query, in ConnectionParameters or in connect(). A secret is held by
its credentials and shown by nothing: not by a repr, a log or an error.
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
    """What a way to log in answers; a user's own class needs just these.

    `mechanism`: the name of the SASL mechanism. `start()`: the first response (connection.start-ok); a mapping is sent
    as a field table, as AMQPLAIN wants it. `respond(challenge)`: the response to each challenge of the broker
    (connection.secure). A mechanism without challenges leaves `respond` out.
    """

    @property
    def mechanism(self) -> str: ...
    def start(self) -> bytes | Mapping[str, str]: ...
    def respond(self, challenge: bytes) -> bytes: ...


class _Credentials:
    mechanism = ""

    def respond(self, challenge: bytes) -> bytes:
        raise LoginError(f"the broker sent a challenge, and {self.mechanism} has no answer to one")


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
    """PLAIN (RFC 4616): name and password, readable by whoever reads the link; use TLS beyond your own machine."""

    mechanism = "PLAIN"

    def __init__(self, username: str = "guest", password: str = "guest"):
        if "\0" in username + password:
            raise InvalidArgument("PLAIN separates name and password by NUL, which therefore cannot stand in them")
        super().__init__(username, password)

    def start(self) -> bytes:
        return f"\0{self.username}\0{self._password}".encode()


class AmqplainCredentials(_PasswordCredentials):
    """AMQPLAIN: the same in a field table; the mechanism of 0-8's time, which RabbitMQ still takes."""

    mechanism = "AMQPLAIN"

    def start(self) -> dict[str, str]:
        return {"LOGIN": self.username, "PASSWORD": self._password}


class ExternalCredentials(_Credentials):
    """EXTERNAL: the broker knows us from elsewhere, by the TLS certificate as a rule."""

    mechanism = "EXTERNAL"

    def start(self) -> bytes:
        return b""

    def __repr__(self) -> str:
        return "ExternalCredentials()"


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidArgumentType(f"{name} takes seconds, not {value!r}") from None
    if not 0 <= number < float("inf"):
        raise InvalidArgument(f"{name}={value} is not a number of seconds, zero or more")
    return number


def _heartbeat(name: str, value: Any) -> int | None:
    seconds = _seconds(name, value)
    if seconds is not None and (seconds > 65535 or seconds % 1):
        raise InvalidArgument(f"{name}={value} is not a whole number of seconds up to 65535")
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
    # Who has no context has no need of the module either, which takes long to import.
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


# name: (default, check). A check also reads the text of a URL's query.
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
    """How to reach one broker.

    heartbeat: seconds; None takes the server's, 0 is off.
    frame_max: bytes, 0 for no limit of ours; channel_max: 0 for the server's.
    connection_timeout: seconds for TCP, TLS and handshake together; None waits without end.
    blocked_connection_timeout: seconds that the broker may keep the connection blocked; None: as long as it likes.
    protocol: "0-9-1" or "0-8". ssl: an SSLContext, or None for no TLS. port: by default 5672, with ssl 5671.
    via: makes the transport in a way of its own, via(reactor, owner); `embedded://` is made of it.

    A mistake is an InvalidArgument (a ValueError) or InvalidArgumentType (a TypeError) that names the option.
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
                raise InvalidArgument(f"unknown option {name!r}; there are {', '.join(_OPTIONS)}")
        for name, (default, check) in _OPTIONS.items():
            setattr(self, name, check(name, given.get(name, default)))
        if given.get("port") is None:
            self.port = DEFAULT_PORTS["amqps" if self.ssl else "amqp"]

    @classmethod
    def from_url(cls, url: str, **options: Unpack[ConnectionOptions]) -> ConnectionParameters:
        """Reads amqp://user:password@host:port/virtual%20host?heartbeat=30 (or amqps://, with TLS). No path, or "/"
        alone, is the virtual host "/". `options` go before the URL's own. An embedded:// one is for `cpspika.connect`,
        which says by `via` how to get there."""
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
                known = ", ".join(option for option in _OPTIONS if option not in _NOT_IN_URL_QUERY)
                # What isn't a name may be the rest of a password with a "?" in it.
                what = f"unknown option {name!r}" if name.isidentifier() else 'an unknown option (is a "?" unquoted?)'
                raise InvalidArgument(f"{what} in the URL; there are {known}")
            given[name] = text
        if parts.scheme == "amqps" and "ssl" not in options:
            import ssl

            given["ssl"] = ssl.create_default_context()
        if parts.scheme == EMBEDDED:
            given["host"] = EMBEDDED
        return cls(**{**given, **options})

    def replace(self, **options: Unpack[ConnectionOptions]) -> ConnectionParameters:
        """A copy with other options."""
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
    """ValueError: what stands in brackets is no IPv6 address. Python 3.10 doesn't look."""
    if "[" in parts.netloc:
        import ipaddress

        ipaddress.IPv6Address(unquote(parts.hostname or "").partition("%")[0])


def _split(url: str) -> Any:
    # No error may quote the URL, since it holds the password.
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (reading it checks it)
        _check_brackets(parts)
    except ValueError:
        parts = None
    if parts is None or "://" not in url or parts.fragment:
        raise InvalidArgument(
            "the URL cannot be read; it looks like amqp://user:password@host:port/vhost, and what isn't a letter or a "
            "digit in a name or password is percent-encoded"
        )
    if parts.scheme not in (*DEFAULT_PORTS, EMBEDDED):
        raise InvalidArgument(f"a URL begins with amqp://, amqps:// or embedded://, not {parts.scheme!r}")
    return parts


def targets(target: Any, options: Mapping[str, Any], embedded: Any = None) -> list[ConnectionParameters]:
    """Every broker that a target names (a URL, parameters, or a sequence of these), with `options` set over each.
    `embedded`: the `via` of an embedded:// one."""
    if isinstance(target, str):
        via = {"via": embedded} if target.startswith(EMBEDDED + ":") else {}
        return [ConnectionParameters.from_url(target, **via, **options)]
    if isinstance(target, ConnectionParameters):
        return [target.replace(**options) if options else target]
    if isinstance(target, Iterable) and not isinstance(target, (bytes, Mapping)):
        found = [parameters for item in target for parameters in targets(item, options, embedded)]
        if found:
            return found
        raise InvalidArgument("a sequence of targets without any")
    raise InvalidArgumentType(
        f"a target is a URL, ConnectionParameters or a sequence of them, not {type(target).__name__}"
    )
