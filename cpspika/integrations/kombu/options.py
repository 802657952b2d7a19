"""kombu's options of a connection as ConnectionParameters."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

from ...errors import InvalidArgument
from ...parameters import AmqplainCredentials, ConnectionParameters, ExternalCredentials, PlainCredentials

_PASSED_ON = (
    "frame_max",
    "channel_max",
    "blocked_connection_timeout",
    "protocol",
    "tcp_keepalive",
    "client_properties",
    "locale",
    "server_hostname",
    "via",
)
_TLS_OPTIONS = {
    "ca_certs",
    "cert_reqs",
    "certfile",
    "check_hostname",
    "ciphers",
    "context",
    "keyfile",
    "server_hostname",
    "ssl_version",
    "tls_maximum_version",
    "tls_minimum_version",
}
_OF_THE_SOCKET = {"server_side", "do_handshake_on_connect", "suppress_ragged_eofs"}  # py-amqp passes these to ssl
_KEEPALIVE = {"TCP_KEEPIDLE": "idle", "TCP_KEEPINTVL": "interval", "TCP_KEEPCNT": "count"}


def parameters(client: Any, options: dict[str, Any]) -> ConnectionParameters:
    """The parameters of a kombu.Connection. options: its transport_options. Names that neither cpspika nor py-amqp
    knows are ignored: they may be kombu's own."""
    host, port = _address(client, options)
    given: dict[str, Any] = {name: options[name] for name in _PASSED_ON if options.get(name) is not None}
    heartbeat = options.get("heartbeat", client.heartbeat)
    timeout = options.get("connect_timeout", client.connect_timeout)
    tls = options.get("ssl", client.ssl)
    if tls:
        given["ssl"], server_hostname = _context(tls)
        given.setdefault("server_hostname", server_hostname)
    named = {_option_name(option): value for option, value in (options.get("socket_settings") or {}).items()}
    keepalive = {ours: named[theirs] for theirs, ours in _KEEPALIVE.items() if theirs in named}
    if keepalive:
        given.setdefault("tcp_keepalive", keepalive)
    return ConnectionParameters(
        host,
        port,
        options.get("virtual_host") or client.virtual_host or "/",
        _credentials(client, options),
        # A heartbeat that is not asked for is off, as in py-amqp: perhaps nobody calls heartbeat_check.
        heartbeat=round(heartbeat) if heartbeat else 0,
        connection_timeout=timeout or None,
        **given,
    )


def _option_name(option: Any) -> str:
    """py-amqp takes the number of a socket option, or its name."""
    if isinstance(option, str):
        return option
    return next((name for name in _KEEPALIVE if getattr(socket, name, None) == option), "")


def _address(client: Any, options: dict[str, Any]) -> tuple[str, int | None]:
    host, port = client.hostname or "localhost", client.port
    if options.get("host"):
        host, colon, after = str(options["host"]).rpartition(":")
        if colon and after.isdecimal():
            return host.strip("[]"), int(after)
        return str(options["host"]).strip("[]"), port
    return host, int(port) if port else None


def _credentials(client: Any, options: dict[str, Any]) -> Any:
    if options.get("credentials") is not None:
        return options["credentials"]
    username, password = options.get("userid", client.userid), options.get("password", client.password)
    if callable(password):
        password = password()  # anew at each attempt: it may be a token that expires
    method = options.get("login_method", client.login_method) or "PLAIN"
    if method == "EXTERNAL":
        return ExternalCredentials()
    username = "guest" if username is None else username
    password = "guest" if password is None else password
    if method == "PLAIN":
        return PlainCredentials(username, password)
    if method == "AMQPLAIN":
        return AmqplainCredentials(username, password)
    raise InvalidArgument(
        f"login_method={method!r} is not one of PLAIN, AMQPLAIN and EXTERNAL; any other mechanism is an object of your "
        "own in transport_options={'credentials': ...}"
    )


def _context(tls: Any) -> tuple[ssl.SSLContext, str | None]:
    """(the context, the name that the certificate must have or None for the host's) of kombu's option `ssl`.

    True, an SSLContext, or a dict with the names of py-amqp: ca_certs, certfile, keyfile, cert_reqs, ciphers,
    ssl_version, server_hostname, tls_minimum_version, tls_maximum_version, check_hostname; or context, a dict of the
    arguments of ssl.create_default_context."""
    if isinstance(tls, ssl.SSLContext):
        return tls, None
    given = dict(tls) if isinstance(tls, dict) else {}
    server_hostname = given.pop("server_hostname", None)
    of_context = dict(given.pop("context", None) or {})
    check_hostname = of_context.pop("check_hostname", given.pop("check_hostname", None))
    context = ssl.create_default_context(**of_context) if of_context else _own_context(given)
    if check_hostname is not None and context.verify_mode != ssl.CERT_NONE:
        context.check_hostname = bool(check_hostname)
    return context, server_hostname


def _own_context(given: dict[str, Any]) -> ssl.SSLContext:
    # Names begin with "ssl_" where they come from a URL, as for other transports of kombu.
    named = {name if name == "ssl_version" else name.removeprefix("ssl_"): value for name, value in given.items()}
    get: Callable[..., Any] = {name: value for name, value in named.items() if value is not None}.get
    unknown = named.keys() - _TLS_OPTIONS - _OF_THE_SOCKET
    if unknown:
        raise InvalidArgument(
            f"ssl has unknown names: {', '.join(sorted(unknown))}; it takes {', '.join(sorted(_TLS_OPTIONS))}"
        )
    context = ssl.SSLContext(get("ssl_version", ssl.PROTOCOL_TLS_CLIENT))
    verify = get("cert_reqs", ssl.CERT_REQUIRED)
    context.check_hostname = verify != ssl.CERT_NONE
    context.verify_mode = verify
    for version in ("minimum_version", "maximum_version"):
        limit = get(f"tls_{version}")
        if limit is not None:
            setattr(context, version, limit)
    certificate, authorities, ciphers = get("certfile"), get("ca_certs"), get("ciphers")
    if certificate is not None:
        context.load_cert_chain(certificate, get("keyfile"))
    if authorities is not None:
        context.load_verify_locations(authorities)
    elif verify != ssl.CERT_NONE:
        context.load_default_certs()
    if ciphers is not None:
        context.set_ciphers(ciphers)
    return context
