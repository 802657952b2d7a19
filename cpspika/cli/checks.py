"""The steps of `doctor`: each is tried by itself, and says what to do if it fails.

Name, TCP, TLS and the protocol header are tried on sockets of this module, so that each failure is seen apart from the
next. From the login on the library's own connection is used.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from ..client import rabbitmq
from ..client.hints import LEAST_FRAME_MAX, UNKNOWN_AUTHORITY, WRONG_NAME
from ..errors import (
    AccessRefused,
    AMQPError,
    ConnectionClosed,
    InternalError,
    LoginError,
    NotInThisVersion,
    OperationTimeout,
    ResourceLocked,
    VirtualHostRefused,
)
from ..parameters import ConnectionParameters
from ..wire.codec import Method
from ..wire.link import Link
from . import certificates
from .shared import close
from .shared import told as told_with_hint

if TYPE_CHECKING:
    import ssl

    from ..blocking import SelectConnection

SOON = timedelta(days=30)  # before a certificate ends
LONG_HEARTBEAT = 300  # seconds
EXPIRED, NOT_YET = 10, 9  # OpenSSL's verify codes

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


class Finding(NamedTuple):
    """The result of a step. status: OK, WARNING, FAILED or SKIPPED. advice: what to do, "" for nothing."""

    step: str
    status: str
    detail: str
    advice: str = ""


class Failed(Exception):
    """A step failed."""

    def __init__(self, detail: str, advice: str = "", status: str = FAILED):
        super().__init__(detail)
        self.detail, self.advice, self.status = detail, advice, status


class Examination:
    """The steps for one broker. timeout: seconds for each. probe: the name of the queue that tries the permissions;
    None for a new one."""

    def __init__(self, parameters: ConnectionParameters, timeout: float, probe: str | None = None):
        self.parameters = parameters
        self.timeout = timeout
        self.probe = probe or f"cpspika-doctor-{secrets.token_hex(4)}"
        self._addresses: list[Any] = []
        self._start: Method | None = None
        self._connection: SelectConnection | None = None
        self._refusal: AMQPError | None = None
        self._blocked: str | None = None  # the reason
        self._can_probe = True

    def findings(self) -> Iterator[Finding]:
        """Makes the steps in order. After the failure of one that the others need, these are skipped."""
        broken = ""
        for name, step, is_needed in self._steps():
            if broken:
                yield Finding(name, SKIPPED, f"after {broken}")
                continue
            try:
                detail, advice = step()
                yield Finding(name, WARNING if advice else OK, detail, advice)
            except Failed as failed:
                broken = name if is_needed and failed.status == FAILED else ""
                yield Finding(name, failed.status, failed.detail, failed.advice)

    def close(self) -> None:
        if self._connection is not None:
            close(self._connection)

    def _steps(self) -> list[tuple[str, Callable[[], tuple[str, str]], bool]]:
        """(name, step, whether the later ones need it). A step returns a detail, and an advice for a warning."""
        on_socket = [
            ("name", self._name, True),
            ("tcp", self._tcp, True),
            ("tls", self._tls, True),
            ("header", self._header, True),
            ("mechanisms", self._mechanisms, True),
        ]
        connected = [
            ("login", self._login, True),
            ("vhost", self._vhost, True),
            ("permissions", self._permissions, False),
            ("heartbeat", self._heartbeat, False),
            ("frame_max", self._frame_max, False),
            ("blocked", self._is_blocked, False),
            ("deprecated", self._deprecated, False),
        ]
        return connected if self.parameters.via is not None else on_socket + connected

    # --- sockets ------------------------------------------------------------------------------------------------------

    def _name(self) -> tuple[str, str]:
        host, port = self.parameters.host, self.parameters.port
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Failed(
                f"{host}: {getattr(error, 'strerror', None) or error}",
                "check the spelling; ask the name server with 'getent hosts NAME'; or use the address itself",
            ) from None
        self._addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        return f"{host} is {', '.join(str(address[0]) for _, address in self._addresses)}", ""

    def _tcp(self) -> tuple[str, str]:
        errors, reached = [], []
        for family, address in self._addresses:
            began = time.perf_counter()
            try:
                self._dial(family, address).close()
            except OSError as error:
                errors.append((address, error))
            else:
                reached.append(((family, address), f"{address[0]} in {1000 * (time.perf_counter() - began):.1f} ms"))
        port = self.parameters.port
        if not reached:
            refused = any(isinstance(error, ConnectionRefusedError) for _, error in errors)
            raise Failed(
                "; ".join(f"{address[0]}, port {port}: {_reason(error)}" for address, error in errors),
                f"nothing listens there: start the broker, or correct the port {port}; a container must publish it"
                if refused
                else "a firewall, a security group or the route may be in the way; is the host up?",
            )
        self._addresses = [address for address, _ in reached]
        detail = f"port {port}: {', '.join(text for _, text in reached)}"
        failing = "; ".join(f"{address[0]}: {_reason(error)}" for address, error in errors)
        # Of "localhost" IPv6 is often not listened at, and the library tries the other address.
        return detail + (f" ({failing}; the other address is used)" if failing else ""), ""

    def _dial(self, family: int, address: Any) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock

    def _dial_tls(self, context: ssl.SSLContext | None) -> Any:
        sock = self._dial(*self._addresses[0])
        if context is None:
            return sock
        try:
            return context.wrap_socket(sock, server_hostname=self.parameters.server_hostname or self.parameters.host)
        except BaseException:
            sock.close()
            raise

    def _tls(self) -> tuple[str, str]:
        context = self.parameters.ssl
        if context is None:
            if _is_loopback(self._addresses[0][1][0]):
                return "not used; the link does not leave this machine", ""
            return "not used", "passwords and messages can be read on the way: use amqps:// if the broker offers it"
        try:
            with self._dial_tls(context) as sock:
                version, cipher = sock.version(), sock.cipher()[0]
                certificate = _certificate(sock)
        except OSError as error:  # ssl.SSLError too
            raise self._tls_failure(error) from None
        about = _about(certificate)
        left = certificate.end - datetime.now(timezone.utc) if certificate else SOON
        advice = f"the certificate ends in {left.days} days: renew it" if left < SOON else ""
        return f"{version}, {cipher}; {about}", advice

    def _tls_failure(self, error: OSError) -> Failed:
        """The failure, with the certificate that the broker showed, and by the reason."""
        certificate = self._untrusted_certificate()
        about = f"; {_about(certificate)}" if certificate else ""
        detail = f"{getattr(error, 'verify_message', '') or _reason(error)}{about}"
        code = getattr(error, "verify_code", 0)
        if code == EXPIRED:
            advice = "renew the broker's certificate; is this machine's clock right?"
        elif code == NOT_YET:
            advice = "the certificate counts later only: is this machine's clock right?"
        elif code in WRONG_NAME:
            names = ", ".join(certificate.names) if certificate else "another name"
            advice = f"connect to a name of the certificate ({names}), or add ?server_hostname=NAME to the URL"
        elif code in UNKNOWN_AUTHORITY:
            advice = "add ?cafile=FILE to the URL, a PEM file with the certificate of the authority that signed it"
        elif certificate is None:
            advice = "the port may be one without TLS: amqp:// and port 5672; TLS has amqps:// and port 5671"
        else:
            advice = "the broker's log says more; both sides must have a TLS version and a cipher in common"
        return Failed(detail, advice)

    def _untrusted_certificate(self) -> certificates.Certificate | None:
        """The certificate that the broker shows, whether it can be trusted or not."""
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with self._dial_tls(context) as sock:
                return _certificate(sock)
        except OSError:
            return None

    def _header(self) -> tuple[str, str]:
        link = Link("client", self.parameters.protocol, None)
        first = b""
        try:
            with self._dial_tls(self.parameters.ssl) as sock:
                sock.sendall(link.take_answers())
                events: list[Any] = []
                while not events:
                    data = sock.recv(65536)
                    if not data:
                        raise self._no_greeting("the peer hung up", first)
                    first = first or data
                    events = link.receive(data)
        except OSError as error:
            raise self._no_greeting(_reason(error), first) from None
        event = events[0][1]
        if isinstance(event, AMQPError):
            raise self._no_greeting(told(event), first)
        self._start = event
        properties = event.server_properties
        broker = " ".join(str(properties[name]) for name in ("product", "version") if name in properties)
        return f"AMQP {self.parameters.protocol}, {broker or 'a broker without a name'}", ""

    def _no_greeting(self, detail: str, first: bytes) -> Failed:
        if first.startswith(b"HTTP/"):
            return Failed("the port speaks HTTP", "the management interface is there; AMQP has port 5672, TLS 5671")
        if first.startswith(b"AMQP"):
            return Failed(detail, "leave ?protocol= out of the URL: the broker has another version")
        if first[:1] == b"\x15" or (self.parameters.ssl is None and self.parameters.port == 5671):
            return Failed(detail, "the port speaks TLS: write amqps://")
        if self.parameters.ssl is not None:
            return Failed(detail, "the broker may want a certificate of the client: ?certfile=FILE&keyfile=FILE")
        return Failed(detail, "is this the port of an AMQP broker? 5672 is usual; a proxy may have no broker behind it")

    def _mechanisms(self) -> tuple[str, str]:
        assert self._start is not None
        offered = self._start.mechanisms.decode("utf-8", "replace").split()
        ours = self.parameters.credentials.mechanism
        if ours not in offered:
            raise Failed(
                f"the broker offers {', '.join(offered) or 'none'}; the URL means {ours}",
                f"have the broker accept {ours} (RabbitMQ: auth_mechanisms), or log in by a program of your own",
            )
        return f"{ours} is one of {', '.join(offered)}", ""

    # --- the library's connection -------------------------------------------------------------------------------------

    def _connect(self) -> SelectConnection:
        from ..adapters import SelectReactor
        from ..blocking import SelectConnection

        return SelectConnection(self.parameters, timeout=self.timeout, reactor=SelectReactor())

    def _login(self) -> tuple[str, str]:
        user = getattr(self.parameters.credentials, "username", "the certificate's user")
        try:
            self._connection = self._connect()
        except VirtualHostRefused as refusal:
            self._refusal = refusal
        except LoginError as error:
            raise Failed(
                told(error),
                f"check name and password of {user!r}; in a URL other characters than letters and digits are "
                "percent-encoded. RabbitMQ lets 'guest' in from the broker's own machine alone",
            ) from None
        except AMQPError as error:
            small = 0 < self.parameters.frame_max < LEAST_FRAME_MAX
            advice = "leave ?frame_max= out of the URL" if small else "the broker's log says why it hung up"
            raise Failed(told(error), advice) from None
        return f"as {user!r}", ""

    def _vhost(self) -> tuple[str, str]:
        vhost, user = self.parameters.virtual_host, getattr(self.parameters.credentials, "username", "USER")
        if self._refusal is None:
            self._core.add_blocked_handler(self._note_blocked)
            return repr(vhost), ""
        if "not found" in self._refusal.text.lower():
            advice = f"create it (rabbitmqctl add_vhost {vhost!r}), or correct the URL; there / is /%2F"
        else:
            advice = f"permit it: rabbitmqctl set_permissions -p {vhost!r} {user!r} '.*' '.*' '.*'"
        raise Failed(told(self._refusal), advice)

    @property
    def _core(self) -> Any:
        assert self._connection is not None
        return self._connection.core

    def _note_blocked(self, _: Any, blocked: bool, reason: str) -> None:
        self._blocked = reason if blocked else None

    def _permissions(self) -> tuple[str, str]:
        assert self._connection is not None
        name, can = self.probe, []
        try:
            channel = self._connection.channel()
            channel.queue_declare(name, exclusive=True)
            can.append("configure")
            with suppress(NotInThisVersion):
                channel.confirm_select()
            channel.basic_publish("", name, b"cpspika doctor", mandatory=True)
            can.append("write")
            channel.basic_get(name, no_ack=True)
            can.append("read")
            channel.queue_delete(name)
            channel.close()
        except AccessRefused as error:
            self._can_probe = False
            raise self._not_permitted(error, can) from None
        except OperationTimeout as error:
            if self._core.is_blocked:
                raise Failed(f"{', '.join(can)}; the rest not tried: the broker is blocked", status=WARNING) from None
            raise Failed(told(error), "the broker does not answer in time; give it more with --timeout") from None
        except ResourceLocked as error:
            raise Failed(told(error), "another connection has the queue; name a new one with --probe") from None
        except AMQPError as error:
            self._can_probe = False
            raise Failed(told(error), "the broker's log says more") from None
        return f"{', '.join(can)}, tried with the queue {name!r}", ""

    def _not_permitted(self, error: AMQPError, can: list[str]) -> Failed:
        lacking = ("configure", "write", "read")[len(can)]
        vhost, user = self.parameters.virtual_host, getattr(self.parameters.credentials, "username", "USER")
        return Failed(
            f"no permission to {lacking}{' (can ' + ', '.join(can) + ')' if can else ''}: {told(error)}",
            f"rabbitmqctl set_permissions -p {vhost!r} {user!r} CONFIGURE WRITE READ takes three patterns of names; if "
            "they shall exclude the queue that was tried, name one that they permit: --probe NAME",
        )

    def _heartbeat(self) -> tuple[str, str]:
        seconds = self._core.heartbeat
        if not seconds:
            return "off", "a dead link stays unnoticed: add ?heartbeat=60 to the URL, or set it on the broker"
        detail = f"{seconds} s; a dead link is noticed after {2 * seconds} s"
        if seconds > LONG_HEARTBEAT:
            return detail, "proxies cut links that are idle for so long: add ?heartbeat=60 to the URL"
        return detail, ""

    def _frame_max(self) -> tuple[str, str]:
        size = self._core.frame_max
        if 0 < size < LEAST_FRAME_MAX:
            return f"{size} bytes", "RabbitMQ 4.1 and later hang up on less than 8192: leave ?frame_max= out"
        return f"{size} bytes" if size else "no limit", ""

    def _is_blocked(self) -> tuple[str, str]:
        if self._core.is_blocked:
            raise Failed(
                f"the broker takes no messages: {self._blocked or 'no reason given'}",
                "free memory or disk of the broker ('rabbitmq-diagnostics alarms' says which); consumers go on",
            )
        return "no: the broker takes messages", ""

    # --- deprecated ---------------------------------------------------------------------------------------------------

    def _deprecated(self) -> tuple[str, str]:
        properties = self._core.server_properties
        version = rabbitmq.version(properties)
        if properties.get("product") != "RabbitMQ" or not version:
            return "nothing is known of this broker", ""
        shown = ".".join(map(str, version))
        if version < (3, 13):
            gone = "4.0 has no AMQP 0-8 and no mirrored classic queues; 4.3 has no basic.qos with global"
            return f"RabbitMQ {shown}: nothing that it can deny yet; {gone}, nor transient queues unless permitted", ""
        ignored = " (ignored here)" if version >= (4, 3) else ""
        return (
            f"RabbitMQ {shown} deprecates queues that are neither durable nor exclusive ({self._transient()} here) and "
            f"basic.qos with global{ignored}",
            "",
        )

    def _transient(self) -> str:
        """Whether the broker denies such queues: tried on a connection of its own, which it closes if it does."""
        if not self._can_probe:
            return "not tried"
        name = f"{self.probe}-transient"
        connection = self._connect()
        try:
            with suppress(ConnectionClosed), connection:
                channel = connection.channel()
                try:
                    channel.queue_declare(name, auto_delete=True)
                except InternalError:
                    return "denied"
                channel.queue_delete(name)
        except AMQPError:
            return "not tried"
        return "permitted"


def told(error: AMQPError) -> str:
    """The error in one line, without the hint at this very command."""
    return told_with_hint(error, hint=False)


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "reason", None) or error.strerror or str(error)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _certificate(sock: Any) -> certificates.Certificate | None:
    der = sock.getpeercert(binary_form=True)
    try:
        return certificates.read(der) if der else None
    except ValueError:
        return None


def _about(certificate: certificates.Certificate | None) -> str:
    if certificate is None:
        return "the certificate could not be read"
    names = ", ".join(certificate.names) or certificate.subject
    return (
        f"certificate for {names}, of {certificate.issuer}, {certificate.begin:%Y-%m-%d} to {certificate.end:%Y-%m-%d}"
    )
