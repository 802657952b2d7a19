"""Publishes many messages, a window of them unconfirmed at a time, and knows what became of each."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from functools import partial
from queue import Queue
from typing import TYPE_CHECKING, Any

from ..errors import AMQPError, DeliveryUnknown, MessageReturned
from ..reactor import Reactor
from ..wire.message import BasicProperties
from .shared import Failure, told
from .terminal import Progress, note

if TYPE_CHECKING:
    from ..blocking import SelectConnection

WINDOW = 1000  # messages unconfirmed at a time
AHEAD = 1000  # lines that are read before they are published
CHUNK = 65536  # bytes of one read


class Outbox:
    """Publishes on a channel of its own. A message has a number, which the program chooses in rising order.

    confirms: wait for the broker to confirm each. mandatory: a message that reaches no queue is a failure. timeout:
    seconds without any confirm after which the broker counts as lost. patient: not while it blocks publishers.

    `failed`: by number, the errors of messages, each with how many were published before it. `confirmed`: how many have
    succeeded.
    """

    def __init__(
        self,
        connection: SelectConnection,
        progress: Progress,
        timeout: float,
        patient: bool,
        confirms: bool = True,
        mandatory: bool = True,
    ):
        self.failed: dict[int, tuple[AMQPError, int]] = {}
        self.confirmed = 0
        self._progress = progress
        self._channel = connection.channel()
        self._core = self._channel.core
        self._connection = connection.core
        self.reactor: Reactor = connection.reactor
        self._timeout, self._patient = timeout, patient
        self._confirms, self._mandatory = confirms, mandatory
        self._waiting = 0
        if confirms:
            self._channel.confirm_select()
        self._told_blocked = False
        self._connection.add_blocked_handler(lambda *_: self._tell_blocked())
        self._tell_blocked()

    def _tell_blocked(self) -> None:
        blocked = self._connection.is_blocked
        if blocked != self._told_blocked:
            self._told_blocked = blocked
            note("the broker blocks publishers; waiting" if blocked else "the broker takes messages again")

    def publish(self, number: int, exchange: str, routing_key: str, body: bytes, properties: BasicProperties) -> None:
        """Publishes a message, when there is room for it. AMQPError: it cannot be encoded."""
        self._turn_until(lambda: self._waiting < WINDOW and self._core.writable)
        if self.failed:
            return
        before = self.confirmed + self._waiting
        self._waiting += 1
        try:
            self._core.basic_publish(
                exchange, routing_key, body, properties, self._mandatory, on_done=partial(self._done, number, before)
            )
        except BaseException:
            self._waiting -= 1
            raise

    def _done(self, number: int, before: int, error: AMQPError | None, _: Any) -> None:
        self._waiting -= 1
        if error is None:
            self.confirmed += 1
            self._progress.advance()
        else:
            self.failed[number] = error, before

    def finish(self) -> None:
        """Waits until each message has succeeded or failed."""
        self._turn_until(lambda: not self._waiting)
        if not self._confirms and not self.failed:
            self._channel.basic_qos()  # the broker has seen all before its answer, or has closed the channel

    def _turn_until(self, done: Callable[[], bool]) -> None:
        """Turns the reactor until done(), or a message has failed and none waits."""
        reactor, settled = self.reactor, self._settled()
        deadline = reactor.time() + self._timeout
        while not done() and (self._waiting or not self.failed):
            left = deadline - reactor.time()
            if self._settled() != settled or (self._connection.is_blocked and self._patient):
                settled, deadline = self._settled(), reactor.time() + self._timeout
            elif left <= 0:
                raise Failure(
                    f"the broker has confirmed nothing for {self._timeout:g} s; {self.confirmed} are confirmed"
                )
            reactor.run_once(max(left, 0.01))

    def _settled(self) -> int:
        return self.confirmed + len(self.failed)

    def first_failure(self, noun: str | None) -> str:
        """The first failure, in words, and what is certain of the other messages. noun: "line"; None: there was one
        message alone."""
        number = min(self.failed)
        error, before = self.failed[number]
        if noun is None:
            return _reason(error)
        after = self.confirmed - before
        certain = f"the {before} before it are confirmed" if before else "none is confirmed before it"
        return f"{noun} {number}: {_reason(error)}; {certain}" + (f", and {after} after it" if after else "")


def _reason(error: AMQPError) -> str:
    """Why a message has failed."""
    if isinstance(error, MessageReturned) and error.message is not None:
        exchange, key = error.message.exchange, error.message.routing_key
        way = f"exchange {exchange!r} leads to no queue with routing key {key!r}" if exchange else f"no queue {key!r}"
        return f"{error.plain()}: {way}"
    cause = error.__cause__ if isinstance(error, DeliveryUnknown) else None
    return told(cause if isinstance(cause, AMQPError) else error)


def lines_of(file: Any, outbox: Outbox) -> Iterator[bytes]:
    """The lines of a binary file, without their ends. While a pipe or terminal has none, the connection goes on
    working: its heartbeats too."""
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        for line in file:
            yield line.removesuffix(b"\n")
        return
    lines: Queue[Any] = Queue(AHEAD)
    reader = threading.Thread(target=_read, args=(file.fileno(), lines, outbox.reactor), daemon=True)
    reader.start()
    while True:
        while lines.empty() and not outbox.failed:
            outbox.reactor.run_once(None)
        line = None if outbox.failed else lines.get()
        if line is None:
            return
        if isinstance(line, OSError):
            raise line
        yield line


def _read(number: int, lines: Queue[Any], reactor: Reactor) -> None:
    """Reads lines in a thread of its own. By file descriptor: a thread inside a buffered file would hold its lock when
    the interpreter ends."""

    def put(item: Any) -> None:
        lines.put(item)
        reactor.call_soon_threadsafe(lambda: None)

    rest: list[bytes] = []  # of a line whose end has not come
    try:
        while chunk := os.read(number, CHUNK):
            first, *others = chunk.split(b"\n")
            rest.append(first)
            for line in others:
                put(b"".join(rest))
                rest = [line]
    except OSError as error:
        put(error)
        return
    if any(rest):
        put(b"".join(rest))
    put(None)
