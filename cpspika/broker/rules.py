"""Rules that a broker may be asked to follow: those of another version of RabbitMQ, or of other types of queues."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..errors import InvalidArgument
from ..parameters import FRAME_MIN

VERSIONS = ("3.10", "4.3")  # the versions of RabbitMQ that a broker can be like
PRETENDED = ("quorum",)  # the types of queues that a broker can pretend to have


class Rules(NamedTuple):
    """The differences between versions of RabbitMQ.

    pretended: types of queues that are accepted beside "classic". protocols: versions of AMQP. frame_min: bytes, the
    least frame_max. allows_transient: queues may be neither durable nor exclusive. has_global_qos: basic.qos may set
    the limit of a whole channel. delivery_limit: that of a quorum queue without x-delivery-limit; None for no limit.
    cancels_late: a consumer of a quorum queue that holds a delivery too long is cancelled, and other queues have no
    such limit; else the channel is closed, whatever the queue. counts_acquired: a quorum queue counts each return in
    x-acquired-count, and in x-delivery-count only those that a consumer failed to handle. any_delivery_mode: messages
    may have others than 1 and 2. like: the version whose behaviour this is; its arguments of queues and consumers are
    taken, and the server properties name it.
    """

    pretended: frozenset[str] = frozenset()
    protocols: tuple[str, ...] = ("0-9-1", "0-8")
    frame_min: int = FRAME_MIN
    allows_transient: bool = True
    has_global_qos: bool = True
    delivery_limit: int | None = None
    cancels_late: bool = False
    counts_acquired: bool = False
    any_delivery_mode: bool = False
    like: str = "3.10"


DEFAULT = Rules()


def rules(pretend: Iterable[str] = (), like: str = "3.10") -> Rules:
    """The rules of a broker that pretends to have these types of queues, like this version of RabbitMQ.

    Raises InvalidArgument for another type or version.
    """
    pretended = frozenset([pretend] if isinstance(pretend, str) else pretend)
    unknown = pretended - set(PRETENDED)
    if unknown:
        raise InvalidArgument(
            f"pretend={', '.join(sorted(unknown))}: the broker can pretend to have {', '.join(PRETENDED)} queues alone"
        )
    if like == "3.10":
        return Rules(pretended)
    if like == "4.3":
        return Rules(
            pretended,
            ("0-9-1",),
            8192,
            allows_transient=False,
            has_global_qos=False,
            delivery_limit=20,
            cancels_late=True,
            counts_acquired=True,
            any_delivery_mode=True,
            like=like,
        )
    raise InvalidArgument(f"like={like}: the broker can be like RabbitMQ {' and '.join(VERSIONS)}")
