"""The handshake that opens a connection, once for each role (0-9-1 §2.2.4).

Each role is a generator. It yields the methods to send, receives the method that arrived, and returns what both sides
agreed on (`Negotiated`). The link drives the generator. Before that, the link has checked the order of the methods by
`states`, so this module has only the exchange itself.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

from ..errors import AMQPError, LoginError, NotAllowed, ProtocolSyntaxError
from ..interrupts import is_of_signal_handler
from ..parameters import FRAME_MIN, ConnectionParameters
from . import fields, peer_properties
from .codec import Method

# RabbitMQ's extensions that the client announces. A broker that reads them sends basic.cancel to a consumer that it
# cancels, answers a failed login with a close in place of a lost link, and sends connection.blocked when it blocks us.
CAPABILITIES = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}


class Negotiated(NamedTuple):
    """The result of a handshake: the values that both sides agreed on.

    frame_max: bytes of the largest frame; 0: no limit. channel_max: the highest channel number. heartbeat: seconds; 0:
    off. virtual_host: its name. peer_properties: the other side's. user: the result of the server's `authenticate`;
    None for a client."""

    frame_max: int
    channel_max: int
    heartbeat: int
    virtual_host: str
    peer_properties: dict[str, Any]
    user: Any = None


Handshake = Generator[tuple[Method, ...], Method, Negotiated]


def client(parameters: ConnectionParameters, product: dict[str, str]) -> Handshake:
    """The client's side. product: client properties of the library, to which the user's client_properties are added.

    LoginError: the broker offers no mechanism of the credentials. ProtocolSyntaxError: frame_max is too small."""
    credentials = parameters.credentials
    start = yield ()
    offered = start.mechanisms.decode("utf-8", "replace").split()
    if credentials.mechanism not in offered:
        raise LoginError(
            f"the broker accepts {', '.join(offered) or 'no mechanism'}; the credentials are for "
            f"{credentials.mechanism}: choose other credentials"
        )
    answer = Method(
        "connection.start-ok",
        {
            "client_properties": _client_properties(parameters, product),
            "mechanism": credentials.mechanism,
            "response": _response(_ask(credentials, "start")),
            "locale": parameters.locale,
        },
    )
    method = yield (answer,)
    while method.name == "connection.secure":
        if not hasattr(credentials, "respond"):
            raise LoginError(
                f"the broker sent a challenge, but the credentials for {credentials.mechanism} have no method respond"
            )
        method = yield (Method("connection.secure-ok", {"response": _ask(credentials, "respond", method.challenge)}),)
    if 0 < method.frame_max < FRAME_MIN:
        raise ProtocolSyntaxError(f"the broker tunes frame_max to {method.frame_max}; the smallest is {FRAME_MIN}")
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


def _ask(credentials: Any, method: str, *arguments: Any) -> Any:
    """A response of the credentials, which may be a class of the user's. LoginError: it raised."""
    try:
        return getattr(credentials, method)(*arguments)
    except LoginError:
        raise
    except Exception as error:
        if is_of_signal_handler(error):
            raise
        raise LoginError(
            f"the credentials for {credentials.mechanism} have no response: {method} raised {type(error).__name__}"
        ) from error


def _response(response: bytes | Mapping[str, str]) -> bytes:
    """A SASL response as bytes. The response of AMQPLAIN is the content of a field table, without the table's size."""
    return fields.encode_table("response", response)[4:] if isinstance(response, Mapping) else response


def _client_properties(
    parameters: ConnectionParameters, product: dict[str, str]
) -> Mapping[str, Any] | fields.EncodedTable:
    capabilities = _capabilities(parameters)
    if not parameters.client_properties:
        return peer_properties.encode(product, capabilities, parameters.protocol)
    return {"capabilities": capabilities, **product, **parameters.client_properties}


def _capabilities(parameters: ConnectionParameters) -> dict[str, bool]:
    """The capabilities that the client announces. On 0-8 without connection.blocked, because that version has no such
    method: RabbitMQ closes the link of an 0-8 client that announced it, when it blocks the client."""
    if parameters.protocol == "0-8":
        return {name: able for name, able in CAPABILITIES.items() if name in _CAPABILITIES_OF_0_8}
    return CAPABILITIES


_CAPABILITIES_OF_0_8 = ("consumer_cancel_notify", "authentication_failure_close")


def _lower(ours: int, theirs: int) -> int:
    """The lower of two limits; 0 is no limit."""
    return min(ours, theirs) if ours and theirs else ours or theirs


def tune(name: str, limits: Negotiated) -> Method:
    """connection.tune or tune-ok with these limits."""
    shown = {key: getattr(limits, key) for key in ("channel_max", "frame_max", "heartbeat")}
    return Method(f"connection.{name}", shown)


def can(properties: Mapping[str, Any], capability: str) -> bool:
    """Whether the peer's properties announce a capability."""
    capabilities = properties.get("capabilities")
    return isinstance(capabilities, dict) and bool(capabilities.get(capability))


class Host(NamedTuple):
    """The broker's part of a server's handshake.

    version: "0-9-1" or "0-8". properties: of the server. mechanisms: SASL names, separated by spaces. limits: the
    values of connection.tune.
    authenticate(mechanism, responses): returns a user, or the next challenge as bytes; an AMQPError refuses.
    `responses` are all responses so far.
    enter(user, virtual_host): raises an AMQPError if the user may not use the virtual host.
    frame_min: bytes, the least frame_max that a client may choose."""

    version: str
    properties: dict[str, Any]
    mechanisms: str
    limits: Negotiated
    authenticate: Callable[[str, list[bytes]], Any]
    enter: Callable[[Any, str], None]
    frame_min: int = FRAME_MIN


def server(host: Host) -> Handshake:
    """The server's side, after the protocol header. AMQPError: the server refuses the client."""
    major, minor = (8, 0) if host.version == "0-8" else (0, 9)
    start = {"version_major": major, "version_minor": minor, "server_properties": host.properties}
    method = yield (Method("connection.start", {**start, "mechanisms": host.mechanisms, "locales": "en_US"}),)
    mechanism, properties = method.mechanism, method.client_properties
    responses = [method.response]
    try:
        user = host.authenticate(mechanism, responses)
        while isinstance(user, bytes):
            method = yield (Method("connection.secure", {"challenge": user}),)
            responses.append(method.response)
            user = host.authenticate(mechanism, responses)
    except AMQPError as refusal:
        # By the specification the server closes the link without a word. A close is only for clients that expect it.
        refusal.unspoken = not can(properties, "authentication_failure_close")
        raise
    tuned = yield (tune("tune", host.limits),)
    agreed = Negotiated(tuned.frame_max, tuned.channel_max, tuned.heartbeat, "", properties, user)
    for name in ("frame_max", "channel_max"):
        # 0 is no limit. That is more than the server offered, unless it offered no limit (0-9-1 §1.4.2.6).
        offered, chosen = getattr(host.limits, name), getattr(agreed, name)
        if (offered and not 0 < chosen <= offered) or (name == "frame_max" and 0 < chosen < host.frame_min):
            raise NotAllowed(f"NOT_ALLOWED - {name}={chosen} is more than the server offered ({offered}), or too small")
    # tune-ok has no answer; the client sends open next.
    opened = yield ()
    host.enter(user, opened.virtual_host)
    yield (Method("connection.open-ok", {}),)
    return agreed._replace(virtual_host=opened.virtual_host)
