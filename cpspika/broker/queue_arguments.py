"""The optional arguments of queue.declare and basic.consume ("x-..."): their checks and their values.

An argument that RabbitMQ doesn't know is kept with the queue and ignored, as in RabbitMQ. An argument that is only for
another type of queue is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .field_values import field_type, term
from .refusal import precondition_failed

MAX_PRIORITY = 255
MAX_TTL = 315_360_000_000  # milliseconds: ten years, RabbitMQ's limit of each time to live

Check = Callable[[Any], "str | None"]
"""Returns the reason why an argument cannot have this value, in RabbitMQ's words; None if it can."""


class QueueArguments(NamedTuple):
    """The arguments that the broker acts on; None where an argument is absent.

    ttl, expires: milliseconds. max_length: messages. max_bytes: bytes of bodies. overflow: "drop-head",
    "reject-publish" or "reject-publish-dlx". max_priority: 0 where the queue has no priorities. delivery_limit: how
    often a quorum queue delivers a message again. consumer_timeout: milliseconds for which a consumer may hold a
    delivery.
    """

    ttl: int | None
    expires: int | None
    max_length: int | None
    max_bytes: int | None
    overflow: str
    max_priority: int
    single_active: bool
    dead_letter_exchange: str | None
    dead_letter_routing_key: str | None
    delivery_limit: int | None = None
    consumer_timeout: int | None = None
    type: str = "classic"


def parse_arguments(
    arguments: Mapping[str, Any], described: str, pretended: frozenset[str] = frozenset(), version: str = "3.10"
) -> QueueArguments:
    """Checks a queue's arguments as RabbitMQ does, and returns their values.

    described: the queue, as error messages name it. pretended: types of queues beside "classic" that are accepted.
    version: that of RabbitMQ. Raises PreconditionFailed for an argument that RabbitMQ refuses.
    """
    type_ = arguments.get("x-queue-type", "classic")
    _refuse("x-queue-type", _type(type_), described)
    if type_ != "classic" and type_ not in pretended:
        why = f"this broker has only classic queues; a '{type_}' queue keeps copies on disk and on other nodes"
        _refuse("x-queue-type", why, described)
    tables = _VERSIONS[version]
    _check(arguments, described, tables.checks, tables.allowed[type_], type_)
    if "x-dead-letter-routing-key" in arguments and "x-dead-letter-exchange" not in arguments:
        _refuse("x-dead-letter-routing-key", "routing_key_but_no_dlx_defined", described)
    get = arguments.get
    return QueueArguments(
        ttl=get("x-message-ttl"),
        expires=get("x-expires"),
        max_length=get("x-max-length"),
        max_bytes=get("x-max-length-bytes"),
        overflow=get("x-overflow", "drop-head"),
        max_priority=get("x-max-priority", 0),
        single_active=get("x-single-active-consumer", False),
        dead_letter_exchange=get("x-dead-letter-exchange"),
        dead_letter_routing_key=get("x-dead-letter-routing-key"),
        delivery_limit=get("x-delivery-limit"),
        consumer_timeout=get("x-consumer-timeout") if "x-consumer-timeout" in tables.checks else None,
        type=type_,
    )


def check_consumer_arguments(arguments: Mapping[str, Any], described: str, type: str, version: str = "3.10") -> None:
    """Raises PreconditionFailed for an argument of basic.consume that RabbitMQ refuses. type: of the queue."""
    tables = _VERSIONS[version]
    _check(arguments, described, tables.consumer_checks, tables.consumer_allowed[type], type)


def compared_arguments(type: str, version: str = "3.10") -> tuple[str, ...]:
    """The arguments that must be equal when a queue of this type is declared again."""
    return _VERSIONS[version].allowed[type]


def _check(
    arguments: Mapping[str, Any],
    described: str,
    checks: Mapping[str, Check | None],
    allowed: tuple[str, ...],
    type: str,
) -> None:
    for name, check in checks.items():
        if name in arguments and name in allowed and check is not None:
            _refuse(name, check(arguments[name]), described)
    for name in arguments:
        if name in checks and name not in allowed:
            raise precondition_failed(f"invalid arg '{name}' for {described} of queue type rabbit_{type}_queue")


def _refuse(name: str, why: str | None, described: str) -> None:
    if why is not None:
        raise precondition_failed(f"invalid arg '{name}' for {described}: {why}")


def ttl_objection(number: int) -> str | None:
    """The reason why a time to live cannot have so many milliseconds; None if it can."""
    if number < 0:
        return f"{{value_negative,{number}}}"
    return f"{{value_too_large,{number}}}" if number > MAX_TTL else None


# --- checks -----------------------------------------------------------------------------------------------------------


def _integer(value: Any) -> str | None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return None if is_integer else f'"expected integer, got {field_type(value)}"'


def _natural(value: Any) -> str | None:
    return _integer(value) or (f"{{value_negative,{value}}}" if value < 0 else None)


def _positive(value: Any) -> str | None:
    return _natural(value) or ("{value_zero,0}" if value == 0 else None)


def _ttl(value: Any) -> str | None:
    return _integer(value) or ttl_objection(value)


def _expires(value: Any) -> str | None:
    return _integer(value) or ("{value_zero,0}" if value == 0 else ttl_objection(value))


def _priority(value: Any) -> str | None:
    return _natural(value) or (f"{{max_value_exceeded,{value}}}" if value > MAX_PRIORITY else None)


def _version(value: Any) -> str | None:
    return _natural(value) or (None if value in (1, 2) else f"\"unsupported queue version '{value}'\"")


def _bool(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"{{unacceptable_type,{field_type(value)}}}"


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else f"{{unacceptable_type,{field_type(value)}}}"


def _one_of(why: str, *values: str) -> Check:
    def check(value: Any) -> str | None:
        return _text(value) or (None if value in values else why.format(value))

    return check


def _max_age(value: Any) -> str | None:
    return _text(value) or (None if re.fullmatch("[0-9]*[1-9][0-9]*[YMDhms]", value) else "invalid_max_age")


def _offset(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return None
    named = isinstance(value, str) and re.fullmatch("first|last|next|[0-9]+[YMDhms]", value)
    known = named or field_type(value) == "timestamp"
    return None if known else f"{{invalid_stream_offset_arg,{{{field_type(value)},{term(value)}}}}}"


_type = _one_of("\"unsupported queue type '{}'\"", "classic", "quorum", "stream")

# RabbitMQ's arguments of all types of queues, in the order of its checks; None where it has no check.
_CHECKS: dict[str, Check | None] = {
    "x-expires": _expires,
    "x-message-ttl": _ttl,
    "x-dead-letter-exchange": _text,
    "x-dead-letter-routing-key": _text,
    "x-dead-letter-strategy": _one_of("invalid_dlx_strategy", "at-most-once", "at-least-once"),
    "x-max-length": _natural,
    "x-max-length-bytes": _natural,
    "x-max-in-memory-length": _natural,
    "x-max-in-memory-bytes": _natural,
    "x-max-priority": _priority,
    "x-overflow": _one_of("invalid_overflow", "drop-head", "reject-publish", "reject-publish-dlx"),
    "x-queue-mode": _one_of("\"unsupported queue mode '{}'\"", "default", "lazy"),
    "x-queue-version": _version,
    "x-single-active-consumer": _bool,
    "x-queue-type": _type,
    "x-quorum-initial-group-size": _positive,
    "x-max-age": _max_age,
    "x-stream-max-segment-size-bytes": _natural,
    "x-initial-cluster-size": _positive,
    "x-queue-leader-locator": _one_of(
        "invalid_queue_locator_arg", "client-local", "balanced", "least-leaders", "random"
    ),
    "x-delivery-limit": None,
    "x-queue-master-locator": _text,
}

# The arguments of each type of queue. The same ones are compared when the queue is declared again.
_ALLOWED: dict[str, tuple[str, ...]] = {
    "classic": (
        "x-expires",
        "x-message-ttl",
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-max-length",
        "x-max-length-bytes",
        "x-max-priority",
        "x-overflow",
        "x-queue-mode",
        "x-queue-version",
        "x-single-active-consumer",
        "x-queue-type",
        "x-queue-master-locator",
    ),
    "quorum": (
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-dead-letter-strategy",
        "x-expires",
        "x-max-length",
        "x-max-length-bytes",
        "x-max-in-memory-length",
        "x-max-in-memory-bytes",
        "x-overflow",
        "x-single-active-consumer",
        "x-queue-type",
        "x-quorum-initial-group-size",
        "x-delivery-limit",
        "x-message-ttl",
        "x-queue-leader-locator",
    ),
}

_CONSUMER_CHECKS: dict[str, Check | None] = {
    "x-priority": _integer,
    "x-cancel-on-ha-failover": _bool,
    "x-stream-offset": _offset,
    "x-credit": None,
}
_CONSUMER_ALLOWED = {
    "classic": ("x-priority", "x-cancel-on-ha-failover", "x-credit"),
    "quorum": ("x-priority", "x-credit"),
}


class _Tables(NamedTuple):
    """The arguments of one version of RabbitMQ: their checks, and those that each type of queue allows."""

    checks: Mapping[str, Check | None]
    allowed: Mapping[str, tuple[str, ...]]
    consumer_checks: Mapping[str, Check | None]
    consumer_allowed: Mapping[str, tuple[str, ...]]


def _version_2(value: Any) -> str | None:
    return _natural(value) or (None if value == 2 else f"\"unsupported queue version '{value}'\"")


_NOT_CHECKED = ("x-queue-mode", "x-queue-master-locator")

_VERSIONS = {
    "3.10": _Tables(_CHECKS, _ALLOWED, _CONSUMER_CHECKS, _CONSUMER_ALLOWED),
    "4.3": _Tables(
        {
            **{name: check for name, check in _CHECKS.items() if name not in _NOT_CHECKED},
            "x-queue-version": _version_2,
            "x-consumer-timeout": _natural,
        },
        {
            "classic": (*_ALLOWED["classic"], "x-queue-leader-locator"),
            "quorum": (*_ALLOWED["quorum"], "x-consumer-timeout"),
        },
        {"x-priority": _integer, "x-stream-offset": _offset, "x-consumer-timeout": _natural},
        {"classic": ("x-priority",), "quorum": ("x-priority", "x-consumer-timeout")},
    ),
}
