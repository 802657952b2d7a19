"""One process of `bench`: producers and consumers, each with a connection of its own, on one reactor.

A message begins with the time when it was due, in nanoseconds of the machine's monotonic clock. At a fixed rate that is
the time of the schedule, however late the producer was; else the time of the publish. Consumers take the time from
there, so the clock must be one for all processes: it is, on one machine.

The process tells its parent through a pipe: ("ready",), a Sample every interval, ("failed", text). The parent says
("start", time in ns) and ("stop",). If the parent is gone, the process ends.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from array import array
from functools import partial
from typing import Any, NamedTuple

from ..adapters import SelectReactor
from ..connecting import connect
from ..errors import AMQPError
from ..wire.message import BasicProperties, Message
from .shared import told
from .terminal import note_log

STAMP = 8  # bytes of the time in a body
SECOND = 10**9  # ns


class Load(NamedTuple):
    """The load of each producer and consumer.

    rate: messages per second of a producer, None for as many as it can. size: bytes of a body. confirm: messages
    unconfirmed at a time, 0 for no confirms. interval: seconds between samples."""

    url: str
    timeout: float
    seconds: float
    rate: float | None
    size: int
    confirm: int
    prefetch: int
    no_ack: bool
    persistent: bool
    interval: float


class Role(NamedTuple):
    """A producer or consumer, and its queue."""

    produces: bool
    queue: str


class Sample(NamedTuple):
    """The figures of one process since its last sample. delays, confirm_delays: an array of ns, as bytes."""

    published: int
    confirmed: int
    refused: int
    received: int
    delays: bytes
    confirm_delays: bytes
    is_blocked: bool


class _Worker:
    def __init__(self, pipe: Any, load: Load, roles: list[Role]):
        self.load = load
        self.reactor = SelectReactor()
        self.published = self.confirmed = self.refused = self.received = 0
        self.delays: list[int] = []
        self.confirm_delays: list[int] = []
        self._pipe = pipe
        self._roles = roles
        self._ready = 0
        self._stopping = False
        self._connections: list[Any] = []
        self._producers: list[_Producer] = []

    def run(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        release = self.reactor.hold()
        for role in self._roles:
            self._connections.append(
                connect(
                    self.load.url,
                    reactor=self.reactor,
                    on_done=partial(self._connected, role),
                    on_close=self._closed,
                    connection_timeout=self.load.timeout,
                    client_properties={"connection_name": "cpspika bench"},
                )
            )
        self._release = release
        self.reactor.run()

    def _listen(self) -> None:
        """Hears the parent, in a thread of its own."""
        try:
            while True:
                word, *details = self._pipe.recv()
                self.reactor.call_soon_threadsafe(partial(getattr(self, f"_{word}"), *details))
        except (EOFError, OSError):
            if not self._stopping:
                os._exit(1)

    # --- the beginning ------------------------------------------------------------------------------------------------

    def _connected(self, role: Role, error: AMQPError | None, connection: Any) -> None:
        if error is not None:
            raise error
        load, channel = self.load, connection.channel()
        if role.produces:
            self._producers.append(_Producer(self, channel, role.queue))
            if load.confirm:
                channel.confirm_select(on_done=self._one_ready)
            else:
                channel.basic_qos(on_done=self._one_ready)
        else:
            channel.basic_qos(prefetch_count=load.prefetch)
            received = self._received_last if load.no_ack else self._received
            channel.basic_consume(role.queue, received, no_ack=load.no_ack, on_done=self._one_ready)

    def _one_ready(self, error: AMQPError | None, _: Any) -> None:
        if error is not None:
            raise error
        self._ready += 1
        if self._ready == len(self._roles):
            self._pipe.send(("ready",))

    def _start(self, begin: int) -> None:
        end = begin + int(self.load.seconds * SECOND)
        for producer in self._producers:
            producer.start(begin, end)
        self._next_sample = begin
        self._schedule_sample()

    # --- messages -----------------------------------------------------------------------------------------------------

    def _received(self, message: Message) -> None:
        self._received_last(message)
        message.ack()

    def _received_last(self, message: Message) -> None:
        self.delays.append(time.monotonic_ns() - int.from_bytes(message.body[:STAMP], "big"))
        self.received += 1

    # --- the figures --------------------------------------------------------------------------------------------------

    def _schedule_sample(self) -> None:
        self._next_sample += int(self.load.interval * SECOND)
        self.reactor.call_later(max(0.0, (self._next_sample - time.monotonic_ns()) / SECOND), self._sample)

    def _sample(self) -> None:
        if self._stopping:
            return
        self._tell()
        self._schedule_sample()

    def _tell(self) -> None:
        blocked = any(connection.is_blocked for connection in self._connections)
        counts = self.published, self.confirmed, self.refused, self.received
        delays, confirm_delays = (array("q", one).tobytes() for one in (self.delays, self.confirm_delays))
        self._pipe.send(("sample", Sample(*counts, delays, confirm_delays, blocked)))
        self.published = self.confirmed = self.refused = self.received = 0
        self.delays.clear()
        self.confirm_delays.clear()

    # --- the end ------------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._stopping = True
        for producer in self._producers:
            producer.stop()
        self._tell()
        for connection in self._connections:
            connection.close(on_done=lambda error, _: None)
        self._release()

    def _closed(self, connection: Any, error: AMQPError | None) -> None:
        if error is not None and not self._stopping:
            raise error


class _Producer:
    """Publishes until its time is over."""

    def __init__(self, worker: _Worker, channel: Any, queue: str):
        load = worker.load
        self._worker, self._channel, self._queue = worker, channel, queue
        self._window = load.confirm or None
        self._rate = load.rate
        self._padding = b"x" * (load.size - STAMP)
        self._properties = BasicProperties(delivery_mode=2 if load.persistent else 1)
        self._unconfirmed = 0
        self._number = 0  # of the next message
        self._begin = self._end = 0
        self._timer: Any = None
        channel.add_writable_handler(lambda _: self._push())

    def start(self, begin: int, end: int) -> None:
        self._begin, self._end = begin, end
        self._wait_until(begin)

    def stop(self) -> None:
        self._end = 0

    def _wait_until(self, due: int) -> None:
        if self._timer is None:
            left = (due - time.monotonic_ns()) / SECOND
            self._timer = self._worker.reactor.call_later(max(0.0, left), self._is_due)

    def _is_due(self) -> None:
        self._timer = None
        self._push()

    def _push(self) -> None:
        """Publishes what is due, as far as the window and the link have room."""
        worker, window, rate, channel = self._worker, self._window, self._rate, self._channel
        while (window is None or self._unconfirmed < window) and channel.writable:
            due = now = time.monotonic_ns()
            if rate is not None:
                due = self._begin + int(self._number * SECOND / rate)
                if due >= self._end:
                    return
                if due > now:
                    self._wait_until(due)
                    return
            elif now >= self._end:
                return
            elif now < self._begin:
                self._wait_until(self._begin)
                return
            self._number += 1
            on_done = None
            if window is not None:
                self._unconfirmed += 1
                on_done = partial(self._confirmed, due)
            worker.published += 1
            body = due.to_bytes(STAMP, "big") + self._padding
            channel.basic_publish("", self._queue, body, self._properties, on_done=on_done)

    def _confirmed(self, due: int, error: AMQPError | None, _: Any) -> None:
        worker = self._worker
        self._unconfirmed -= 1
        if error is None:
            worker.confirmed += 1
            worker.confirm_delays.append(time.monotonic_ns() - due)
        else:
            worker.refused += 1
        if self._channel.is_open:
            self._push()


def work(pipe: Any, load: Load, roles: list[Role]) -> None:
    """The process: until the parent says that it may end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the parent ends this one
    note_log()
    worker = _Worker(pipe, load, roles)
    try:
        worker.run()
    except BaseException as error:
        text = told(error) if isinstance(error, AMQPError) else f"{type(error).__name__}: {error}"
        try:
            pipe.send(("failed", text))
        except OSError:
            pass
