"""The features that only some versions of RabbitMQ have. A test that needs one says so: `@pytest.mark.needs(NAME)`.

The running node is asked once. What it lacks is one line of the tests' summary.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from cpspika.wire.frames import PROTOCOL_HEADERS

OLD_PROTOCOL = "0-8"
GLOBAL_QOS = "global qos"
TRANSIENT_QUEUES = "transient non-exclusive queues"
CONSUMER_TIMEOUT = "consumer timeouts by basic.cancel"
TRANSIENT_DENIED = "a setting that denies transient queues"
QUEUE_TIMEOUT = "x-consumer-timeout"
ANSWERS_OF_3_10 = "the very answers of 3.10"


def _speaks_0_8(node: Any) -> bool:
    """It answers the protocol header with connection.start, and not with a header of its own."""
    with socket.create_connection((node.host, node.port), timeout=20) as sock:
        sock.sendall(PROTOCOL_HEADERS["0-8"])
        return sock.recv(1) == b"\x01"


def _permits(name: str) -> Callable[[Any], bool]:
    """Whether a deprecated feature is still permitted; a version that doesn't know the question has it."""
    question = f"try rabbit_deprecated_features:is_permitted({name}) catch error:undef -> true end"
    return lambda node: node.eval(question) == "true"


def _since(*version: int) -> Callable[[Any], bool]:
    return lambda node: version_of(node) >= version


FEATURES: dict[str, Callable[[Any], bool]] = {
    OLD_PROTOCOL: _speaks_0_8,
    GLOBAL_QOS: _permits("global_qos"),
    TRANSIENT_QUEUES: _permits("transient_nonexcl_queues"),
    CONSUMER_TIMEOUT: _since(4, 3),
    TRANSIENT_DENIED: _since(3, 13),
    QUEUE_TIMEOUT: _since(3, 12),
    ANSWERS_OF_3_10: lambda node: version_of(node)[:2] == (3, 10),
}


def version_of(node: Any) -> tuple[int, ...]:
    """(4, 3, 6)."""
    return tuple(int(part) for part in node.eval("rabbit_misc:version()").strip('"').split(".")[:3])


def lacking(node: Any) -> Sequence[str]:
    """The names of FEATURES that a node has not."""
    return [name for name, has in FEATURES.items() if not has(node)]
