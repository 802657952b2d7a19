"""Messages as JSON, and properties as options: one form for --json, for dump and for load.

A message is an object:

    {"queue": "tasks", "exchange": "", "routing_key": "tasks", "redelivered": false,
     "properties": {"delivery_mode": 2, "headers": {"id": 7}}, "body": "hello"}

A body that is not UTF-8 is base64, and then "body_encoding" is "base64". JSON has no form for some values of AMQP's
tables. Each of these is an object with one name: {"$timestamp": "2026-01-31T12:00:00Z"} (or the number of seconds since
1970, outside the years 1 to 9999), {"$decimal": "1.50"}, {"$bytes": base64}, {"$float": "nan"}. A table that looks like
one of them is {"$table": {...}}. The property `timestamp` needs no "$timestamp".
"""

from __future__ import annotations

import argparse
import base64
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Any, NamedTuple

from ..errors import AMQPError
from ..wire.codec import property_codec
from ..wire.fields import EPOCH, Seconds
from ..wire.message import BASIC, BasicProperties, Message

PROPERTIES = tuple(property_codec(BASIC).names)


class FormError(ValueError):
    """An object is not of the form of a message; the text says where and why."""


class Stored(NamedTuple):
    """A message in a file: where it was, and what it is. queue: None if it was in none that is known."""

    queue: str | None
    exchange: str
    routing_key: str
    properties: BasicProperties
    body: bytes


# --- to JSON ----------------------------------------------------------------------------------------------------------


def to_form(message: Message, queue: str | None = None) -> dict[str, Any]:
    """The object of a message. queue: the queue that it came from."""
    form: dict[str, Any] = {} if queue is None else {"queue": queue}
    form["exchange"] = message.exchange
    form["routing_key"] = message.routing_key
    form["redelivered"] = message.redelivered
    values = ((name, getattr(message.properties, name)) for name in PROPERTIES)
    form["properties"] = {
        name: _time_form(value) if name == "timestamp" else value_form(value)
        for name, value in values
        if value is not None
    }
    try:
        form["body"] = message.body.decode("utf-8")
    except UnicodeDecodeError:
        form["body"] = _base64(message.body)
        form["body_encoding"] = "base64"
    return form


def value_form(value: Any) -> Any:
    """The JSON value of a value of a field table."""
    if isinstance(value, Mapping):
        form = {name: value_form(item) for name, item in value.items()}
        return {"$table": form} if len(form) == 1 and next(iter(form)) in _TAGS else form
    if isinstance(value, (list, tuple)):
        return [value_form(item) for item in value]
    if isinstance(value, (datetime, Seconds)):
        return {"$timestamp": _time_form(value)}
    if isinstance(value, Decimal):
        return {"$decimal": str(value)}
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": _base64(value)}
    if isinstance(value, float) and not isfinite(value):
        return {"$float": str(value)}
    return value


def _time_form(value: Any) -> str | int:
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).replace(tzinfo=None).isoformat() + "Z"
    return int(value)


def _base64(data: bytes | bytearray) -> str:
    return base64.b64encode(data).decode("ascii")


# --- from JSON --------------------------------------------------------------------------------------------------------


def from_form(form: Any) -> Stored:
    """The message of an object. FormError: it has another form."""
    if not isinstance(form, dict):
        raise FormError("a message is a JSON object")
    texts = {name: form.get(name, "") for name in ("exchange", "routing_key")}
    for name, text in [*texts.items(), ("queue", form.get("queue") or "")]:
        if not isinstance(text, str):
            raise FormError(f"{name!r} is a text, not {_shown(text)}")
    return Stored(form.get("queue"), **texts, properties=_properties(form.get("properties", {})), body=_body(form))


def _properties(form: Any) -> BasicProperties:
    if not isinstance(form, dict):
        raise FormError(f"'properties' is an object, not {_shown(form)}")
    unknown = form.keys() - set(PROPERTIES)
    if unknown:
        raise FormError(f"unknown properties {', '.join(sorted(unknown))}; there are {', '.join(PROPERTIES)}")
    values = {name: from_value_form(value) for name, value in form.items()}
    if not isinstance(values.get("headers", {}), dict):
        raise FormError(f"'headers' is an object, not {_shown(form['headers'])}")
    if "timestamp" in values:
        values["timestamp"] = time_of(values["timestamp"])
    return BasicProperties(**values)


def _body(form: dict[str, Any]) -> bytes:
    body, encoding = form.get("body"), form.get("body_encoding", "utf-8")
    if not isinstance(body, str):
        raise FormError(f"'body' is a text, not {_shown(body)}" if "body" in form else "an object without 'body'")
    if encoding not in ("utf-8", "base64"):
        raise FormError(f"'body_encoding' is \"base64\", or there is none; not {_shown(encoding)}")
    try:
        return body.encode("utf-8") if encoding == "utf-8" else _from_base64(body)
    except UnicodeEncodeError:
        raise FormError("'body' has characters that UTF-8 cannot encode") from None


def from_value_form(form: Any) -> Any:
    """The value of a field table that a JSON value stands for. FormError: it stands for none."""
    if isinstance(form, list):
        return [from_value_form(item) for item in form]
    if not isinstance(form, dict):
        return form
    tag = next(iter(form)) if len(form) == 1 else ""
    if tag not in _TAGS:
        return {name: from_value_form(item) for name, item in form.items()}
    try:
        return _TAGS[tag](form[tag])
    except (TypeError, ValueError, InvalidOperation, AttributeError):
        raise FormError(f"{_shown(form)} is no {tag[1:]}") from None


def time_of(form: Any) -> datetime | Seconds:
    """A timestamp: "2026-01-31T12:00:00Z", or seconds since 1970. FormError: it is neither."""
    if isinstance(form, (datetime, Seconds)):
        return form
    if isinstance(form, int) and not isinstance(form, bool):
        try:
            return EPOCH + timedelta(seconds=form)
        except OverflowError:
            return Seconds(form)
    try:
        time = datetime.fromisoformat(re.sub("Z$", "+00:00", form))  # Python 3.10 does not read a Z
    except (TypeError, ValueError):
        raise FormError(f"{_shown(form)} is no time, as 2026-01-31T12:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise FormError("the base64 of 'body' or of a header is malformed") from None


def _decimal(form: Any) -> Decimal:
    if not isinstance(form, str):  # Decimal takes numbers too, and 1.5 has lost its number of digits
        raise TypeError
    return Decimal(form)


_TAGS: dict[Any, Any] = {
    "$timestamp": time_of,
    "$decimal": _decimal,
    "$bytes": _from_base64,
    "$float": float,
    "$table": lambda form: {name: from_value_form(item) for name, item in form.items()},
}


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


# --- options ----------------------------------------------------------------------------------------------------------


def header(text: str) -> tuple[str, Any]:
    """The type of an option: NAME=TEXT or NAME:=JSON."""
    return _named(text, lambda value: value)


def argument(text: str) -> tuple[str, Any]:
    """The type of an option: as `header`, but a whole number, true or false after "=" is one: brokers want them so."""

    def guessed(value: str) -> Any:
        return json.loads(value) if re.fullmatch(r"-?(0|[1-9]\d{0,18})|true|false", value) else value

    return _named(text, guessed)


def _named(text: str, read: Any) -> tuple[str, Any]:
    found = re.match(r"(?s)(.+?)(:?=)(.*)$", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=TEXT or NAME:=JSON")
    name, sign, value = found.groups()
    if sign == "=":
        return name, read(value)
    try:
        return name, from_value_form(json.loads(value))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"the value of {name} is no JSON: {error}") from None


def add_argument_option(parser: Any, what: str) -> None:
    """Adds --argument. what: whose arguments they are, and an example."""
    parser.add_argument("--argument", action="append", type=argument, default=[], metavar="NAME=VALUE", help=what)


def add_property_options(parser: Any) -> None:
    """Adds an option for each property of a message."""
    group = parser.add_argument_group("properties of the message")
    group.add_argument(
        "--header",
        action="append",
        type=header,
        default=[],
        metavar="NAME=TEXT",
        help="a header; NAME:=JSON for a number, true, a list, an object; may be repeated",
    )
    group.add_argument("--transient", action="store_true", help="the broker need not store it on disk")
    for name in PROPERTIES:
        if name in ("headers", "delivery_mode", "cluster_id"):
            continue
        option = "--" + name.replace("_", "-")
        if name == "priority":
            group.add_argument(option, type=int, metavar="NUMBER")
        elif name == "timestamp":
            group.add_argument(option, type=_time_option, metavar="TIME", help="2026-01-31T12:00:00Z, or 'now'")
        else:
            text = "milliseconds after which the broker drops it" if name == "expiration" else None
            group.add_argument(option, metavar="TEXT", help=text)


def _time_option(text: str) -> datetime | Seconds:
    if text == "now":
        return datetime.now(timezone.utc)
    try:
        return time_of(int(text) if re.fullmatch(r"-?\d+", text) else text)
    except FormError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def properties_of(arguments: argparse.Namespace) -> BasicProperties:
    """The properties that the options give. Ends with a usage error if one cannot be encoded."""
    given = {name: getattr(arguments, name, None) for name in PROPERTIES}
    given["headers"] = table_of(arguments.header)
    given["delivery_mode"] = 1 if arguments.transient else 2
    properties = BasicProperties(**given)
    try:
        properties.encode()
    except AMQPError as error:
        arguments.parser.error(str(error))
    return properties


def table_of(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any] | None:
    return dict(pairs) or None
