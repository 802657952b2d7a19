"""Messages as kombu has them, made of cpspika's; and the other way."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from kombu import message as kombu_message

from ...client.hooks import are_installed
from ...wire.codec import property_codec
from ...wire.message import BASIC, BasicProperties
from ...wire.message import Message as Delivery

# py-amqp's name for the headers, by which kombu and Celery ask for them.
HEADERS = "application_headers"
_NAMES = {name: name for name in property_codec(BASIC).names if name != "headers"} | {HEADERS: "headers"}
_NESTED = (datetime, dict, list)


class Message(kombu_message.Message):
    """A message that arrived. `properties` is a dict with py-amqp's names and types; a body whose content_encoding is a
    character set is a str."""

    def __init__(self, delivery: Delivery, channel: Any = None, delivery_tag: int = 0, **options: Any):
        properties = property_codec(BASIC).decode(delivery.encoded, 0)
        headers = properties.pop("headers", None)
        if headers is not None:
            properties[HEADERS] = headers = _plain(headers)
        sent_at = properties.get("timestamp")
        if isinstance(sent_at, datetime):  # else it is a number already, of a date beyond datetime's
            properties["timestamp"] = int(sent_at.timestamp())
        encoding = properties.get("content_encoding")
        super().__init__(
            body=_decoded(delivery.body, encoding) if encoding is not None else delivery.body,
            channel=channel,
            delivery_tag=delivery_tag,
            content_type=properties.get("content_type"),
            content_encoding=encoding,
            delivery_info=_delivery_info(delivery, delivery_tag),
            properties=properties,
            headers=headers,
            **options,
        )


def _delivery_info(delivery: Delivery, delivery_tag: int) -> dict[str, Any]:
    envelope = delivery.envelope
    if envelope.name == "basic.deliver":
        return {
            "consumer_tag": envelope.consumer_tag,
            "delivery_tag": delivery_tag,
            "redelivered": envelope.redelivered,
            "exchange": envelope.exchange,
            "routing_key": envelope.routing_key,
        }
    return {**delivery.details, "delivery_tag": delivery_tag}


def _decoded(body: bytes, encoding: str) -> str | bytes:
    try:
        return body.decode(encoding)
    except (LookupError, UnicodeDecodeError):
        return body  # "binary", or compressed


def _plain(headers: dict[str, Any]) -> dict[str, Any]:
    """Headers with the times that py-amqp gives: in UTC, without a zone."""
    for name, value in headers.items():
        if value.__class__ in _NESTED:
            headers[name] = _plain_value(value)
    return headers


def _plain_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).replace(tzinfo=None)
    if isinstance(value, dict):
        return _plain(value)
    if isinstance(value, list):
        return [_plain_value(item) for item in value]
    return value


class Outgoing:
    """A message to publish. `properties`: a dict with py-amqp's names."""

    __slots__ = ("body", "properties")

    def __init__(self, body: Any, properties: dict[str, Any]):
        self.body = body
        self.properties = properties


def encoded(message: Any) -> tuple[bytes, BasicProperties]:
    """Body and properties of a message to publish, for cpspika. `message`: Outgoing, a Message of py-amqp, or the body
    alone. Names that are none of AMQP's properties are left out, as in py-amqp."""
    if isinstance(message, (str, bytes)):
        message = Outgoing(message, {})
    properties = {
        _NAMES[name]: value for name, value in message.properties.items() if value is not None and name in _NAMES
    }
    reply_to = properties.get("reply_to")
    if reply_to is not None and not isinstance(reply_to, (str, bytes)):
        properties["reply_to"] = reply_to.name  # a kombu.Queue
    body = message.body
    if isinstance(body, str):
        body = body.encode(properties.setdefault("content_encoding", "utf-8"))
    elif body is None:
        body = b""
    headers = properties.get("headers")
    if headers is not None and not isinstance(headers, Mapping):
        properties["headers"] = dict(headers)
    if are_installed():
        return body, BasicProperties.from_dict(properties)  # hooks look at them
    # Encoded at once, since they go out at once and never change.
    made = BasicProperties.__new__(BasicProperties)
    object.__setattr__(made, "_encoded", property_codec(BASIC).encode(properties))
    return body, made
