"""The special cases of the client for some versions of RabbitMQ. docs/rabbitmq.md lists what changed for a program."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..logs import get_logger

NO_GLOBAL_QOS = (4, 3)
CANCELS_LATE = (4, 3)  # since then a consumer that timed out stays with the channel until the client cancels it


def version(properties: Mapping[str, Any]) -> tuple[int, ...]:
    """The version of RabbitMQ in the server's properties, as (4, 3, 6); () for another broker.

    Of the embedded broker: the version that it answers as."""
    product, number = properties.get("product"), properties.get("version")
    if product == "cpspika":
        product, _, number = str(properties.get("like")).partition(" ")
    if product != "RabbitMQ":
        return ()
    return tuple(int(number) for number in re.findall(r"\d+", str(number))[:3])


def warn_of_global_qos(properties: Mapping[str, Any], asked_at: str | None) -> None:
    """Logs a warning where RabbitMQ ignores the flag of basic.qos, since its qos-ok does not say so."""
    if version(properties) >= NO_GLOBAL_QOS:
        get_logger().warning(
            "basic_qos(global_=True), asked for at %s: RabbitMQ %s ignores global_, unless its configuration permits "
            "it; the prefetch_count is then each consumer's",
            asked_at,
            ".".join(map(str, version(properties))),
        )
