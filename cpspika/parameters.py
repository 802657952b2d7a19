"""URLs, connection parameters, credentials and their SASL responses.

An option has the same name in the query of a URL, in ConnectionParameters and in connect(). Only the credentials hold
a secret. No repr, log or error shows it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypedDict
from urllib.parse import parse_qsl, unquote, urlsplit

from .errors import InvalidArgument, InvalidArgumentType, LoginError
from .pika_names import OPTIONS, instead
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

    An exception of either method settles connect() with a LoginError, whose cause it is.
    """

    @property
    def mechanism(self) -> str: ...

    def start(self) -> bytes | Mapping[str, str]:
        """The first response: bytes, or a mapping that is sent as a field table."""

    def respond(self, challenge: bytes) -> bytes:
        """The response to a challenge of the broker."""


def to_octets(text: str) -> bytes | None:
    """A text in UTF-8, or None if it cannot be encoded. Surrogates that stand for bytes become these bytes: os.environ
    and sys.argv have them where a value is not UTF-8. No exception, because a UnicodeEncodeError holds the text, which
    may be a secret."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None


def _login(name: str, value: Any) -> str:
    """A user's name or password. No error shows the value."""
    if not isinstance(value, str):
        hint = "; is an environment variable not set?" if value is None else ""
        raise InvalidArgumentType(f"{name} takes a str, not {type(value).__name__}{hint}")
    if to_octets(value) is None:
        raise InvalidArgument(f"{name} has characters that UTF-8 cannot encode")
    return value


class _Credentials:
    mechanism = ""

    def respond(self, challenge: bytes) -> bytes:
        """LoginError: the mechanism has no challenges."""
        raise LoginError(f"the broker sent a challenge, but {self.mechanism} has no response to a challenge")


class _PasswordCredentials(_Credentials):
    def __init__(self, username: str = "guest", password: str = "guest"):
        self.username = _login("username", username)
        self._password = _login("password", password)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.username!r}, ...)"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class PlainCredentials(_PasswordCredentials):
    """PLAIN (RFC 4616): sends name and password unencrypted. Use TLS for a broker on another machine.

    username, password: str, "guest" by default, sent in UTF-8; the surrogates by which os.environ shows other bytes are
    sent as these bytes. InvalidArgument: one contains a NUL. InvalidArgumentType: one is not a str."""

    mechanism = "PLAIN"

    def __init__(self, username: str = "guest", password: str = "guest"):
        super().__init__(username, password)
        if "\0" in username + password:
            raise InvalidArgument("username or password contains a NUL; PLAIN separates them by NUL, so neither may")

    def start(self) -> bytes:
        """The response with name and password."""
        return f"\0{self.username}\0{self._password}".encode("utf-8", "surrogateescape")


class AmqplainCredentials(_PasswordCredentials):
    """AMQPLAIN: as PLAIN, in a field table. The mechanism of brokers from the time of 0-8; RabbitMQ accepts it too.

    username, password: str, as of PlainCredentials, but a NUL is allowed."""

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


def check_timeout(name: str, value: Any) -> None:
    """InvalidArgumentType: it is no number of seconds, nor None. A negative number means that no time is left."""
    try:
        is_number = value is None or value + 0.0 == value
    except TypeError:
        is_number = False
    if not is_number:
        raise InvalidArgumentType(f"{name} takes a number of seconds or None, not {value!r}")


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


class _OwnContext(NamedTuple):
    """In place of the option `ssl`: TLS with a context that the library makes.

    context: the context that was made of `files`; None: none was made yet. files: cafile, certfile, keyfile."""

    context: Any = None
    files: tuple[str | None, ...] = ()


def _make_context(cafile: str | None, certfile: str | None, keyfile: str | None) -> tls.SSLContext:
    """A context that verifies the broker's certificate and the host's name. InvalidArgument: a file cannot be used."""
    import ssl

    what = f"cafile={cafile!r}"
    try:
        context = ssl.create_default_context(cafile=cafile)
        if certfile is not None:
            what = f"certfile={certfile!r}" if keyfile is None else f"certfile={certfile!r} with keyfile={keyfile!r}"
            context.load_cert_chain(certfile, keyfile, password=_no_password)
    except _EncryptedKey:
        raise InvalidArgument(
            f"{what}: the private key is encrypted; load it into an SSLContext with its password, and pass that as ssl="
        ) from None
    except OSError as error:  # ssl.SSLError too
        raise InvalidArgument(f"{what}: {error.strerror or error}; a PEM file is needed") from error
    return context


class _EncryptedKey(Exception):
    pass


def _no_password() -> bytes:
    # Without this OpenSSL asks for the password at the terminal, and waits.
    raise _EncryptedKey


def _path(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise InvalidArgumentType(f"{name} takes the path of a file or None, not {type(value).__name__}")
    path = os.fsdecode(value)
    if not path or "\0" in path:
        raise InvalidArgument(f"{name}={path!r} is not the path of a file")
    return path


def _server_hostname(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not (isinstance(value, str) and value):
        raise InvalidArgumentType(f"{name} takes the name in the broker's certificate or None, not {value!r}")
    try:
        possible = not value.startswith(".") and "\0" not in value and bool(value.encode("idna"))
    except UnicodeError:
        possible = False
    if not possible:  # ssl would find out when the link is open, and leave a socket behind
        raise InvalidArgument(f"no certificate can have the name {value!r} ({name})")
    return value


_KEEPALIVE = ("idle", "interval", "count")
_SWITCHES = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False, "none": None}


def _keepalive(name: str, value: Any) -> bool | int | dict[str, int]:
    given = value
    if isinstance(value, str):  # in a URL
        text = value.strip().lower()
        parts = (part.partition("=")[::2] for part in text.split(","))
        value = dict(parts) if "=" in text else _SWITCHES.get(text, text)
    if value is None or isinstance(value, bool):
        return bool(value)
    what = f"{name} takes True, False, a number of seconds, or a dict with idle, interval or count; not {given!r}"
    if not isinstance(value, (str, int, float, Mapping)):
        raise InvalidArgumentType(what)
    try:
        numbers = {str(k): int(v) for k, v in (value if isinstance(value, Mapping) else {"idle": value}).items()}
    except (TypeError, ValueError, OverflowError):
        raise InvalidArgumentType(what) from None
    if not isinstance(value, Mapping):
        return numbers["idle"] if _integer(0, 32767)(name, value) else False
    if (
        not numbers
        or not set(numbers) <= set(_KEEPALIVE)
        or not all(1 <= number <= 32767 for number in numbers.values())
    ):
        raise InvalidArgument(f"{what}; each is a whole number from 1 to 32767")
    return numbers


def _host(name: str, value: Any) -> str:
    """A name or address. No error shows a URL, because it may contain a password."""
    host = _text(name, value)
    if not host:
        raise InvalidArgument(f"{name} is empty; it takes a name or an address")
    if "://" in host:
        raise InvalidArgument(
            f"{name} takes a name or an address, not a URL: write ConnectionParameters.from_url(url), or pass the URL "
            "itself to connect"
        )
    if "@" in host or "/" in host:
        raise InvalidArgument(
            f"{name} takes a name or an address alone: user and password go into credentials, the virtual host into "
            "virtual_host"
        )
    before, colon, after = host.rpartition(":")
    if colon and not _is_ipv6(host):
        plain = before[1:-1] if before[:1] == "[" else before
        if after.isdecimal() and (":" not in plain or _is_ipv6(plain)):
            raise InvalidArgument(f"{name}={host!r} has a port in it: write ConnectionParameters({plain!r}, {after})")
        raise InvalidArgument(f"{name} has a colon, but is no IPv6 address; an address is written without brackets")
    return host


def _is_ipv6(host: str) -> bool:
    import ipaddress

    try:
        ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _ssl(name: str, value: Any) -> tls.SSLContext | _OwnContext | None:
    # By the class's name, because the module ssl takes long to import, and without a context it isn't needed.
    if value is None or isinstance(value, _OwnContext) or "SSLContext" in {cls.__name__ for cls in type(value).__mro__}:
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
    "host": ("localhost", _host),
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
    "cafile": (None, _path),
    "certfile": (None, _path),
    "keyfile": (None, _path),
    "server_hostname": (None, _server_hostname),
    "tcp_keepalive": (False, _keepalive),
    "client_properties": (None, _table),
    "locale": ("en_US", _text),
    "via": (None, _via),
}
_ANEW = dict.fromkeys(("credentials", "client_properties"))  # their defaults are objects, and each has its own
_DEFAULTS = {name: check(name, default) for name, (default, check) in _OPTIONS.items() if name not in _ANEW}
_TLS_FILES = ("cafile", "certfile", "keyfile")
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
    cafile: str | os.PathLike[str] | None
    certfile: str | os.PathLike[str] | None
    keyfile: str | os.PathLike[str] | None
    server_hostname: str | None
    tcp_keepalive: bool | float | Mapping[str, int]
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
    port: int, 1 to 65535; by default 5672, with TLS 5671.
    virtual_host: str, "/" by default.
    credentials: see `Credentials`; by default PlainCredentials("guest", "guest").
    heartbeat: int, seconds; 0: off; None (default): what the server suggests.
    frame_max: int, bytes of the largest frame, from 4096; 0: no limit on our side; 131072 by default.
    channel_max: int, the highest channel number, up to 65535; 0 (default): what the server suggests.
    connection_timeout: float, seconds for TCP, TLS and handshake together; None: no limit; 15.0 by default.
    blocked_connection_timeout: float, seconds for which the broker may block the connection before it is closed; None
    (default): no limit.
    protocol: "0-9-1" (default) or "0-8".
    ssl: an ssl.SSLContext; None (default): no TLS, but with cafile or certfile TLS with a context that is made of them.
    cafile: path of a PEM file with the certificates of the authorities to trust, in place of the system's.
    certfile: path of a PEM file with the client's own certificate and the certificates above it.
    keyfile: path of a PEM file with the private key of certfile; None (default): certfile has it.
    server_hostname: str, the name that the broker's certificate must have; None (default): that of host.
    tcp_keepalive: whether the kernel probes an idle link (SO_KEEPALIVE). True; False or 0 (default); a number of
    seconds, for which a link is idle before the first probe; or a dict {"idle": seconds, "interval": seconds between
    probes, "count": probes without answer until the link counts as lost}. In a URL: "true", "60", or
    "idle=60,interval=10,count=3". The system sets what is not given.
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
    cafile: str | None
    certfile: str | None
    keyfile: str | None
    server_hostname: str | None
    tcp_keepalive: bool | int | dict[str, int]
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
                said = filter(None, (f"unknown option {name!r}", instead(name, OPTIONS)))
                raise InvalidArgument(f"{'; '.join(said)}; the options are {', '.join(_OPTIONS)}")
        vars(self).update(_DEFAULTS)
        for name, value in {**_ANEW, **given}.items():
            setattr(self, name, _OPTIONS[name][1](name, value))
        self._own_context = self._make_context()
        if given.get("port") is None:
            self.port = DEFAULT_PORTS["amqps" if self.ssl else "amqp"]

    def _make_context(self) -> bool:
        """Makes the context of TLS, where the program gives none. Returns whether it did."""
        asked: Any = self.ssl
        files = (self.cafile, self.certfile, self.keyfile)
        given = [name for name in _TLS_FILES if getattr(self, name) is not None]
        if self.keyfile is not None and self.certfile is None:
            raise InvalidArgument("keyfile is the private key of certfile: give certfile too")
        if asked is not None and not isinstance(asked, _OwnContext):
            if given:
                raise InvalidArgument(
                    f"{given[0]} cannot be given together with ssl: load the file into the SSLContext, or leave ssl out"
                )
            return False
        if asked is None and not given:
            return False
        earlier = asked or _OwnContext()
        reusable = earlier.context is not None and earlier.files == files
        self.ssl = earlier.context if reusable else _make_context(*files)
        return True

    @classmethod
    def from_url(cls, url: str, **options: Unpack[ConnectionOptions]) -> ConnectionParameters:
        """The parameters in a URL: amqp://user:password@host:port/virtual%20host?heartbeat=30, or amqps:// with TLS.

        url: str. Characters other than letters and digits are percent-encoded in names and passwords. No path, or "/"
        alone, is the virtual host "/". The query has options by name. amqps:// without the option `ssl` makes an
        SSLContext, which verifies the broker's certificate, by `cafile` if it is given. An embedded:// URL needs the
        option `via`, which `cpspika.connect` adds.
        options: override those of the URL.

        InvalidArgument: the URL is malformed or has an unknown option. Other errors as of ConnectionParameters. No
        error shows the URL, because it may contain a password."""
        scheme, user, given = _read(url)
        if user is not None:
            given = {**given, "credentials": PlainCredentials(*user)}
        if scheme == "amqps" and options.get("ssl") is None:
            options = {**options, "ssl": _OwnContext()}  # type: ignore[typeddict-item]
        return cls(**{**given, **options})

    def replace(self, **options: Unpack[ConnectionOptions]) -> ConnectionParameters:
        """A copy with these options changed. A port that is the default stays the default, also where TLS comes or
        goes. Errors as of ConnectionParameters."""
        given = {name: getattr(self, name) for name in _OPTIONS}
        if self._own_context:
            given["ssl"] = _OwnContext(self.ssl, (self.cafile, self.certfile, self.keyfile))
        if self.port == DEFAULT_PORTS["amqps" if self.ssl else "amqp"]:
            given["port"] = None  # the default, which may be another with these options
        return type(self)(**{**given, **options})

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


def _unquote(text: str) -> str:
    """Percent-decoded. Bytes that are not UTF-8 become surrogates, which stand for these bytes."""
    return unquote(text, errors="surrogateescape") if "%" in text else text


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


@lru_cache(32)  # as urlsplit keeps what it has read
def _read(url: str) -> tuple[str, tuple[str, str] | None, dict[str, Any]]:
    """(scheme, (user, password) or None, the other options that a URL gives by name)."""
    parts = _split(url)
    given: dict[str, Any] = {"host": _unquote(parts.hostname or "localhost")}
    port, user = parts.port, parts.username  # each is parsed anew when it is read
    if port is not None:
        given["port"] = port
    if parts.path not in ("", "/"):
        given["virtual_host"] = _unquote(parts.path[1:])
    query = parse_qsl(parts.query, keep_blank_values=True, errors="surrogateescape") if parts.query else ()
    for name, text in query:
        if name in _NOT_IN_URL_QUERY or name not in _OPTIONS:
            options_of_url = ", ".join(option for option in _OPTIONS if option not in _NOT_IN_URL_QUERY)
            # A name that is no identifier isn't shown: it may be the end of a password with a "?" in it.
            shown = f" {name!r}" if name.isidentifier() else " (a '?' in a password is written %3F)"
            raise InvalidArgument(f"unknown option{shown} in the URL; the options there are {options_of_url}")
        given[name] = text
    if parts.scheme == EMBEDDED:
        given["host"] = EMBEDDED
    return parts.scheme, None if user is None else (_unquote(user), _unquote(parts.password or "")), given


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


class Remedy:
    """The advice in an error of connecting: the option to change. An integration whose options have other names says it
    in its own words."""

    WITH_TLS = "use amqps://"
    WITHOUT_TLS = "write amqp:// (without cafile, certfile and ssl)"
    AUTHORITY = "pass its certificate as cafile='ca.pem', or an SSLContext that trusts it as ssl="
    CERTIFICATE = "pass certfile= and keyfile=, or as ssl= an SSLContext that has it"
    NAME = "give the name in it as server_hostname="
