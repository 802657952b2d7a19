"""Calls that a thread leaves to the one that is inside a synchronous connection.

One thread at a time may be inside. It may wait there for hours, in `start_consuming`. Another thread may still
acknowledge a message, publish (without confirms) or close: such a call is checked, then handed over. The thread inside
makes it in the reactor's next turn, or when it leaves the connection.

A signal handler that interrupts the library in the middle of its own code hands a `close` over too. To make it there
could send bytes in the middle of others.
"""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ..client.channel import Channel
from ..client.publisher import encode_body
from ..errors import AMQPError, ConcurrentUse
from ..wire.message import encode_properties

LOOK = 0.1  # seconds between two checks whether the thread inside has left without making the call

_METHODS: dict[Callable[..., Any], str] = {
    Channel.basic_ack: "basic.ack",
    Channel.basic_nack: "basic.nack",
    Channel.basic_reject: "basic.reject",
}
_NAMES = {
    operation: [name for name in inspect.signature(operation).parameters if name not in ("self", "on_done")]
    for operation in (*_METHODS, Channel.basic_publish)
}


class HandedOver:
    """The calls of one connection that were handed over. `unfinished`: the number of closes that were handed over and
    are not done.

    call_soon(call): as of the reactor's call_soon_threadsafe."""

    def __init__(self) -> None:
        self.calls: deque[Callable[[], object]] = deque()
        self.unfinished = 0

    def add(self, call: Callable[[], object], call_soon: Callable[[Callable[[], object]], object]) -> None:
        """Hands a call over. It is made once, by whichever thread comes first to make it."""
        self.calls.append(call)
        call_soon(self.make)

    def add_close(self, close: Callable[..., object], call_soon: Callable[[Callable[[], object]], object]) -> None:
        """Hands over close(on_done=...), for which nobody waits."""

        def done(error: AMQPError | None, result: Any) -> None:
            self.unfinished -= 1

        def call() -> None:
            try:
                close(on_done=done)
            except BaseException:
                self.unfinished -= 1
                raise

        self.unfinished += 1
        self.add(call, call_soon)

    def make(self) -> None:
        """Makes the calls, in their order. In the thread that is inside."""
        while self.calls:
            try:
                call = self.calls.popleft()
            except IndexError:  # another thread was first
                return
            call()

    def ask(
        self,
        operation: Callable[..., object],
        call_soon: Callable[[Callable[[], object]], object],
        timeout: float | None,
        time: Callable[[], float],
        turn: Callable[[Callable[[], bool], float], object],
    ) -> tuple[AMQPError | None, Any] | None:
        """Hands over operation(on_done=...), and waits until it is done. Returns what on_done was told, or None after
        `timeout` seconds. turn(over, limit): makes the calls and turns the reactor until over(), at most `limit`
        seconds, if no thread is inside any more."""
        told = threading.Event()
        outcome: list[tuple[Any, Any]] = []

        def settle(error: BaseException | None, result: Any) -> None:
            outcome.append((error, result))
            told.set()

        def call() -> None:
            try:
                operation(on_done=settle)
            except Exception as mistake:
                settle(mistake, None)

        self.add(call, call_soon)
        deadline = None if timeout is None else time() + timeout
        while not told.wait(LOOK if deadline is None else max(0.0, min(LOOK, deadline - time()))):
            if deadline is not None and time() >= deadline:
                return None
            try:
                # The thread inside may leave between the call and its answer, as drain_events does when the connection
                # closes. Only so long, since it may come back.
                turn(told.is_set, LOOK)
            except ConcurrentUse:
                pass  # another thread turns the reactor, and will make the call
        return outcome[0]


def may_be_handed_over(core: Any, operation: Callable[..., Any]) -> bool:
    """Whether an operation need not wait for the broker: ack, nack, reject, and a publish that isn't confirmed."""
    return operation in _NAMES and (operation in _METHODS or not core.is_confirming)


def checked(core: Channel, operation: Callable[..., Any], args: Sequence[Any]) -> dict[str, Any]:
    """The arguments by name, of an operation that is made later. Raises what the operation would raise for them."""
    given = dict(zip(_NAMES[operation], args, strict=True))
    sender = core._sender
    if operation is Channel.basic_publish:
        given["body"] = encode_body(given["body"])  # the caller may change a bytearray
        method = {name: given[name] for name in ("exchange", "routing_key", "mandatory", "immediate")}
        sender.check("basic.publish", method, encode_properties(given["properties"]))
    else:
        sender.check(_METHODS[operation], given, b"")
    return given
