"""The optional arguments of queue.declare ("x-..."): their checks and their values.

An argument that the broker doesn't know is kept with the queue and ignored, as in RabbitMQ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .refusal import precondition_failed

MAX_PRIORITY = 255

# The arguments that must be equal when a queue is declared again.
COMPARED_ARGUMENTS = (
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-overflow",
    "x-max-priority",
    "x-single-active-consumer",
    "x-queue-type",
)

# Arguments that are numbers, each with its least value.
_NUMBERS = {
    "x-message-ttl": 0,
    "x-expires": 1,
    "x-max-length": 0,
    "x-max-length-bytes": 0,
    "x-max-priority": 0,
}
_TEXTS = ("x-dead-letter-exchange", "x-dead-letter-routing-key", "x-overflow", "x-queue-mode", "x-queue-type")
_OVERFLOWS = ("drop-head", "reject-publish", "reject-publish-dlx")
_MODES = ("default", "lazy")
_TYPES = {bool: "bool", int: "signedint", str: "longstr", list: "array", dict: "table"}


class QueueArguments(NamedTuple):
    """The arguments that the broker acts on; None where an argument is absent.

    ttl, expires: milliseconds. max_length: messages. max_bytes: bytes of bodies. overflow: "drop-head",
    "reject-publish" or "reject-publish-dlx". max_priority: 0 where the queue has no priorities.
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


def parse_arguments(arguments: Mapping[str, Any], described: str) -> QueueArguments:
    """Checks a queue's arguments as RabbitMQ does, and returns their values.

    described: the queue, as error messages name it. Raises PreconditionFailed for an argument that RabbitMQ refuses.
    """
    for name, value in arguments.items():
        why = _objection(name, value)
        if why is not None:
            raise precondition_failed(f"invalid arg '{name}' for {described}: {why}")
    if "x-dead-letter-routing-key" in arguments and "x-dead-letter-exchange" not in arguments:
        why = "routing_key_but_no_dlx_defined"
        raise precondition_failed(f"invalid arg 'x-dead-letter-routing-key' for {described}: {why}")
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
    )


def field_type(value: Any) -> str:
    """The type of a field's value, as RabbitMQ names it."""
    return _TYPES.get(type(value), type(value).__name__)


def _objection(name: str, value: Any) -> str | None:
    """The reason why a queue cannot have this argument, in RabbitMQ's words; None if it can."""
    if name in _NUMBERS:
        return _objection_to_number(name, value)
    if name == "x-single-active-consumer":
        return None if isinstance(value, bool) else f"{{unacceptable_type,{field_type(value)}}}"
    if name in _TEXTS:
        return _objection_to_text(name, value)
    return None


def _objection_to_number(name: str, value: Any) -> str | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return f'"expected integer, got {field_type(value)}"'
    if value < _NUMBERS[name]:
        return "{value_zero,0}" if value == 0 else f"{{value_negative,{value}}}"
    if name == "x-max-priority" and value > MAX_PRIORITY:
        return f"{{max_value_exceeded,{value}}}"
    return None


def _objection_to_text(name: str, value: Any) -> str | None:
    if not isinstance(value, str):
        return f"{{unacceptable_type,{field_type(value)}}}"
    if name == "x-overflow" and value not in _OVERFLOWS:
        return "invalid_overflow"
    if name == "x-queue-mode" and value not in _MODES:
        return f"\"unsupported queue mode '{value}'\""
    if name == "x-queue-type" and value in ("quorum", "stream"):
        return f"this broker has only classic queues; a '{value}' queue keeps copies on disk and on other nodes"
    if name == "x-queue-type" and value != "classic":
        return f"\"unsupported queue type '{value}'\""
    return None
