"""Libraries whose calls return when they are done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..job import Job, Measure
from ..meter import Meter
from . import make_body


class SyncClient(ABC):
    """A connection with one channel. `acknowledge`: called with the arguments of on_message."""

    acknowledge: Callable[..., object]

    @abstractmethod
    def connect(self, url: str) -> None: ...
    @abstractmethod
    def publisher(self, queue: str, body: bytes) -> Callable[[], object]:
        """Returns a function that publishes one message."""

    @abstractmethod
    def confirming(self, queue: str, body: bytes) -> Callable[[], object]:
        """The same on a channel that confirms: the function returns when the broker has confirmed."""

    def pipelined(self) -> AbstractContextManager[object]:
        """A block in which the function of `confirming` does not wait for its confirm: the end of the block does."""
        raise NotImplementedError

    @abstractmethod
    def declare(self, queue: str) -> int:
        """Declares the queue passively; returns its message count."""

    @abstractmethod
    def get(self, queue: str) -> object:
        """Gets from the queue, which is empty."""

    @abstractmethod
    def consume(self, queue: str, on_message: Callable[..., object], no_ack: bool) -> None: ...
    @abstractmethod
    def serve(self, done: Callable[[], bool]) -> None:
        """Runs the consumer until done() is true."""

    @abstractmethod
    def cancel(self) -> None:
        """Ends the consumer."""

    @abstractmethod
    def close(self) -> None:
        """Closes the connection, so that the process can end."""

    def perform(self, job: Job) -> Measure:
        self.connect(job.url)
        meter = Meter(job)
        _ACTIONS[job.action](self, job, meter)
        self.close()
        assert meter.result is not None
        return meter.result


def _publish(client: SyncClient, job: Job, meter: Meter) -> None:
    _publish_by(client, client.publisher(job.queue, make_body(job.size)), job, meter)


def _confirm_each(client: SyncClient, job: Job, meter: Meter) -> None:
    _publish_by(client, client.confirming(job.queue, make_body(job.size)), job, meter)


def _confirm(client: SyncClient, job: Job, meter: Meter) -> None:
    _publish_by(client, client.confirming(job.queue, make_body(job.size)), job, meter, client.pipelined)


def _publish_by(
    client: SyncClient,
    publish: Callable[[], object],
    job: Job,
    meter: Meter,
    block: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> None:
    with block():
        for _ in range(job.warmup):
            publish()
    client.declare(job.queue)
    meter.start()
    with block():
        for _ in range(job.count):
            publish()
    client.declare(job.queue)
    meter.stop()


def _consume(client: SyncClient, job: Job, meter: Meter, acknowledge: Callable[..., object] | None = None) -> None:
    left = job.warmup + job.count

    def on_message(*delivery: Any) -> None:
        nonlocal left
        if acknowledge is not None:
            acknowledge(*delivery)
        left -= 1
        if left == job.count:
            meter.start()

    if not job.warmup:
        meter.start()
    client.consume(job.queue, on_message, acknowledge is None)
    client.serve(lambda: left <= 0)
    client.cancel()
    meter.stop()


def _consume_ack(client: SyncClient, job: Job, meter: Meter) -> None:
    _consume(client, job, meter, client.acknowledge)


def _repeat(call: Callable[[str], object], job: Job, meter: Meter) -> None:
    for _ in range(job.warmup):
        call(job.queue)
    meter.start()
    for _ in range(job.count):
        call(job.queue)
    meter.stop()


def _connect(client: SyncClient, job: Job, meter: Meter) -> None:
    """Begins and ends with an open connection."""

    def rounds(count: int) -> None:
        for _ in range(count):
            client.close()
            client.connect(job.url)

    rounds(job.warmup)
    meter.start()
    rounds(job.count)
    meter.stop()


_ACTIONS: dict[str, Callable[[Any, Job, Meter], None]] = {
    "publish": _publish,
    "confirm": _confirm,
    "confirm_each": _confirm_each,
    "consume": _consume,
    "consume_ack": _consume_ack,
    "declare": lambda client, job, meter: _repeat(client.declare, job, meter),
    "get": lambda client, job, meter: _repeat(client.get, job, meter),
    "connect": _connect,
}
