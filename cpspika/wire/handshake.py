"""Opening a connection, told once for each role (0-9-1 §2.2.4).

Either side is a generator: it yields the methods that it sends, is sent the method that came, and returns what was
agreed. The link drives it and has checked by `states` that each method comes in its turn, so what is left here is the
conversation itself.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

from ..errors import AMQPError, LoginError, NotAllowed, ProtocolSyntaxError
from ..parameters import FRAME_MIN, ConnectionParameters
from . import fields
from .codec import Method

# What we can do that a broker should know of (RabbitMQ's extensions): it then tells of a consumer's cancel, sends
# close instead of dropping the link at a failed login, and tells when it blocks us.
CAPABILITIES = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}


class Negotiated(NamedTuple):
    """What both sides agreed on. frame_max in bytes, 0 for none; heartbeat in seconds, 0 for off; `user` is what the
    server's authentication gave (a client has None); peer_properties are the other side's."""

    frame_max: int
    channel_max: int
    heartbeat: int
    virtual_host: str
    peer_properties: dict[str, Any]
    user: Any = None


Handshake = Generator[tuple[Method, ...], Method, Negotiated]


def client(parameters: ConnectionParameters, product: dict[str, Any]) -> Handshake:
    """The client's side; `product` are the properties of its own, beside the user's client_properties."""
    credentials = parameters.credentials
    start = yield ()
    offered = start.mechanisms.decode("utf-8", "replace").split()
    if credentials.mechanism not in offered:
        raise LoginError(
            f"the broker takes {', '.join(offered) or 'no mechanism'}; the credentials are for {credentials.mechanism}"
        )
    answer = Method(
        "connection.start-ok",
        {
            "client_properties": {"capabilities": _capabilities(parameters), **product, **parameters.client_properties},
            "mechanism": credentials.mechanism,
            "response": _response(credentials.start()),
            "locale": parameters.locale,
        },
    )
    method = yield (answer,)
    while method.name == "connection.secure":
        if not hasattr(credentials, "respond"):
            raise LoginError(f"the broker sent a challenge, and {credentials.mechanism} has no answer to one")
        method = yield (Method("connection.secure-ok", {"response": credentials.respond(method.challenge)}),)
    if 0 < method.frame_max < FRAME_MIN:
        raise ProtocolSyntaxError(f"the broker tunes to a frame_max of {method.frame_max}; the least is {FRAME_MIN}")
    agreed = Negotiated(
        frame_max=_lower(parameters.frame_max, method.frame_max),
        channel_max=_lower(parameters.channel_max, method.channel_max) or 65535,
        heartbeat=method.heartbeat if parameters.heartbeat is None else parameters.heartbeat,
        virtual_host=parameters.virtual_host,
        peer_properties=start.server_properties,
    )
    yield tune("tune-ok", agreed), Method("connection.open", {"virtual_host": parameters.virtual_host})
    return agreed


def check(parameters: ConnectionParameters) -> None:
    """Raises InvalidArgument or InvalidArgumentType if client_properties cannot be sent as a field table."""
    fields.encode_table("client_properties", parameters.client_properties, parameters.protocol)


def _response(response: bytes | Mapping[str, str]) -> bytes:
    """A SASL response as it is sent. AMQPLAIN's is the content of a field table, without the table's size."""
    return fields.encode_table("response", response)[4:] if isinstance(response, Mapping) else response


def _capabilities(parameters: ConnectionParameters) -> dict[str, bool]:
    """What we tell the broker that we can do. RabbitMQ cuts an 0-8 client off when it blocks one that says it could
    hear of it, since that version has no such method."""
    if parameters.protocol == "0-8":
        return {name: able for name, able in CAPABILITIES.items() if name in _CAPABILITIES_OF_0_8}
    return CAPABILITIES


_CAPABILITIES_OF_0_8 = ("consumer_cancel_notify", "authentication_failure_close")


def _lower(ours: int, theirs: int) -> int:
    """The lower of two limits, where 0 is no limit."""
    return min(ours, theirs) if ours and theirs else ours or theirs


def tune(name: str, limits: Negotiated) -> Method:
    """connection.tune or tune-ok with these limits."""
    shown = {key: getattr(limits, key) for key in ("channel_max", "frame_max", "heartbeat")}
    return Method(f"connection.{name}", shown)


def _can(properties: dict[str, Any], capability: str) -> bool:
    """Whether the peer's properties tell of a capability."""
    capabilities = properties.get("capabilities")
    return isinstance(capabilities, dict) and bool(capabilities.get(capability))


class Host(NamedTuple):
    """What a server needs to open connections. `authenticate(mechanism, response, answers)` returns a user, or the next
    challenge as bytes, or raises; `answers` are the earlier responses. `enter(user, virtual_host)` raises where the
    user may not."""

    version: str
    properties: dict[str, Any]
    mechanisms: str
    limits: Negotiated
    authenticate: Callable[[str, list[bytes]], Any]
    enter: Callable[[Any, str], None]


def server(host: Host) -> Handshake:
    """The server's side, after the protocol header."""
    major, minor = (8, 0) if host.version == "0-8" else (0, 9)
    start = {"version_major": major, "version_minor": minor, "server_properties": host.properties}
    method = yield (Method("connection.start", {**start, "mechanisms": host.mechanisms, "locales": "en_US"}),)
    mechanism, properties = method.mechanism, method.client_properties
    answers = [method.response]
    try:
        user = host.authenticate(mechanism, answers)
        while isinstance(user, bytes):
            method = yield (Method("connection.secure", {"challenge": user}),)
            answers.append(method.response)
            user = host.authenticate(mechanism, answers)
    except AMQPError as refusal:
        # A client that doesn't expect a close here is hung up on, as the specification had it.
        refusal.unspoken = not _can(properties, "authentication_failure_close")
        raise
    tuned = yield (tune("tune", host.limits),)
    agreed = Negotiated(tuned.frame_max, tuned.channel_max, tuned.heartbeat, "", properties, user)
    for name in ("frame_max", "channel_max"):
        # 0 is no limit, which is more than we offered, unless that was none either (0-9-1 §1.4.2.6).
        offered, chosen = getattr(host.limits, name), getattr(agreed, name)
        if (offered and not 0 < chosen <= offered) or (name == "frame_max" and 0 < chosen < FRAME_MIN):
            raise NotAllowed(f"NOT_ALLOWED - {name} of {chosen} was not offered")
    # tune-ok is not answered; the client sends open next.
    opened = yield ()
    host.enter(user, opened.virtual_host)
    yield (Method("connection.open-ok", {}),)
    return agreed._replace(virtual_host=opened.virtual_host)
