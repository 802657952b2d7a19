"""Libraries with callbacks and a loop of their own.

The client publishes in turns of the loop, so that each library may write its buffer, and may read in between.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

from ..job import Job, Measure
from ..meter import Meter
from . import make_body
from .pace import Pace

TURN = 500  # messages published in one turn...
TURN_BYTES = 1 << 20  # ...and about so many bytes
AT_ONCE = 1000  # calls pipelined
UNDER_WAY = 2000  # messages published and not yet consumed, if one client does both

Then = Callable[[], object]


class CallbackClient(ABC):
    """A connection with some channels; their type is the client's own, since some libraries have none.
    `acknowledge`: called with the arguments of on_message."""

    channels: list[Any]
    acknowledge: Callable[..., object]

    @abstractmethod
    def connect(self, url: str, channels: int, then: Then) -> None: ...
    @abstractmethod
    def run(self) -> None:
        """Runs the loop until `end`."""

    @abstractmethod
    def end(self) -> None: ...
    @abstractmethod
    def soon(self, then: Then) -> None:
        """Calls `then` in a later turn of the loop, when the library can take more publishes."""

    def from_thread(self, then: Then) -> None:
        """Calls `then` in the loop, asked by another thread. For the action "latency"."""
        raise NotImplementedError

    @abstractmethod
    def publisher(self, channel: Any, queue: str, body: bytes) -> Callable[[], object]:
        """Returns a function that publishes one message. It returns False if the publisher should wait."""

    @abstractmethod
    def confirming(self, channel: Any, queue: str, body: bytes, settled: Callable[..., object]) -> Callable[[], object]:
        """The same on a channel that confirms. It calls settled(n=1) when the broker has confirmed n more."""

    @abstractmethod
    def declare(self, channel: Any, queue: str, then: Callable[[int], object]) -> None:
        """Declares the queue passively; calls then(message count)."""

    @abstractmethod
    def get(self, channel: Any, queue: str, then: Callable[[Any], object]) -> None:
        """Gets from the queue, which is empty."""

    @abstractmethod
    def consume(
        self, channel: Any, queue: str, on_message: Callable[..., object], no_ack: bool, then: Then = lambda: None
    ) -> None:
        """Starts the channel's consumer; calls then() when the broker has answered."""

    @abstractmethod
    def cancel(self, channel: Any, then: Then) -> None:
        """Ends the channel's consumer."""

    def perform(self, job: Job) -> Measure:
        if job.action == "connect":
            return self._perform_connect(job)
        meters: list[Meter] = []

        def ready() -> None:
            meters.append(Meter(job))
            _ACTIONS[job.action](self, job, meters[0])

        self.connect(job.url, job.channels, ready)
        self.run()
        if not meters or meters[0].result is None:
            raise RuntimeError("the loop ended before the work did")
        return meters[0].result

    def _perform_connect(self, job: Job) -> Measure:
        """The loop runs once for each connection."""

        def rounds(count: int) -> None:
            for _ in range(count):
                self.connect(job.url, 1, self.end)
                self.run()

        rounds(max(1, job.warmup))
        meter = Meter(job)
        meter.start()
        rounds(job.count)
        meter.stop()
        assert meter.result is not None
        return meter.result


def _pump(client: CallbackClient, publish: Callable[[], object], count: int, size: int, then: Then) -> None:
    """Publishes `count` messages, in turns."""
    left = count
    most = max(1, min(TURN, TURN_BYTES // (size + 1)))

    def turn() -> None:
        nonlocal left
        for _ in range(min(most, left)):
            left -= 1
            if publish() is False:
                break
        if left:
            client.soon(turn)
        else:
            then()

    turn()


def _publish(client: CallbackClient, job: Job, meter: Meter) -> None:
    channel = client.channels[0]
    publish = client.publisher(channel, job.queue, make_body(job.size))

    def begin(_: int) -> None:
        meter.start()
        _pump(client, publish, job.count, job.size, lambda: client.declare(channel, job.queue, end))

    def end(_: int) -> None:
        meter.stop()
        client.end()

    _pump(client, publish, job.warmup, job.size, lambda: client.declare(channel, job.queue, begin))


def _confirm(client: CallbackClient, job: Job, meter: Meter) -> None:
    channel = client.channels[0]
    left = job.warmup + job.count

    def settled(count: int = 1) -> None:
        nonlocal left
        before, left = left, left - count
        if left <= job.count < before:
            meter.start()
            _pump(client, publish, job.count, job.size, lambda: None)
        elif not left:
            client.declare(channel, job.queue, end)

    def end(_: int) -> None:
        meter.stop()
        client.end()

    publish = client.confirming(channel, job.queue, make_body(job.size), settled)
    _pump(client, publish, job.warmup, job.size, lambda: None)


def _consume(client: CallbackClient, job: Job, meter: Meter, acknowledge: Callable[..., object] | None = None) -> None:
    channel = client.channels[0]
    left = job.warmup + job.count

    def on_message(*delivery: Any) -> None:
        nonlocal left
        if acknowledge is not None:
            acknowledge(*delivery)
        left -= 1
        if left == job.count:
            meter.start()
        elif not left:
            client.cancel(channel, end)

    def end() -> None:
        meter.stop()
        client.end()

    if not job.warmup:
        meter.start()
    client.consume(channel, job.queue, on_message, acknowledge is None)


def _consume_ack(client: CallbackClient, job: Job, meter: Meter) -> None:
    _consume(client, job, meter, client.acknowledge)


def _repeat(call: Callable[..., object], client: CallbackClient, job: Job, meter: Meter) -> None:
    channel = client.channels[0]
    left = job.warmup + job.count

    def answered(_: Any) -> None:
        nonlocal left
        left -= 1
        if left == job.count:
            meter.start()
        if left:
            call(channel, job.queue, answered)
        else:
            meter.stop()
            client.end()

    call(channel, job.queue, answered)


def _pipelined(client: CallbackClient, job: Job, meter: Meter) -> None:
    """Calls that don't wait for each other, AT_ONCE of them."""
    channel = client.channels[0]
    left = job.warmup + job.count

    def answered(_: Any) -> None:
        nonlocal left
        left -= 1
        if left == job.count:
            meter.start()
        if not left:
            meter.stop()
            client.end()
        elif (job.count - left) % AT_ONCE == 0:
            ask(min(AT_ONCE, left))

    def ask(count: int) -> None:
        for _ in range(count):
            client.declare(channel, job.queue, answered)

    ask(job.warmup)


def _through(client: CallbackClient, job: Job, meter: Meter) -> None:
    """Publishes to a queue and consumes from it, on all channels, with at most UNDER_WAY messages between."""
    step = job.count // max(1, job.samples)
    under_way = consumed = 0
    waiting = False
    publishers = [client.publisher(channel, job.queue, make_body(job.size)) for channel in client.channels]
    turns = 0

    def refill() -> None:
        nonlocal under_way, turns, waiting
        waiting = False
        for _ in range(min(UNDER_WAY - under_way, job.warmup + job.count - consumed - under_way)):
            under_way += 1
            turns += 1
            if publishers[turns % len(publishers)]() is False:
                break

    def on_message(*delivery: Any) -> None:
        nonlocal under_way, consumed, waiting
        under_way -= 1
        consumed += 1
        measured = consumed - job.warmup
        if measured == 0:
            meter.start()
        elif measured > 0 and job.samples and measured % step == 0:
            meter.sample(measured)
        if measured == job.count:
            meter.stop()
            client.end()
        if under_way <= UNDER_WAY // 2 and not waiting:
            waiting = True
            client.soon(refill)

    starting = len(client.channels)

    def started() -> None:
        nonlocal starting
        starting -= 1
        if not starting:
            refill()

    for channel in client.channels:
        client.consume(channel, job.queue, on_message, True, started)


def _latency(client: CallbackClient, job: Job, meter: Meter) -> None:
    channel = client.channels[0]
    publish = client.publisher(channel, job.queue, make_body(job.size))

    def publish_due() -> None:
        for _ in range(pace.take()):
            publish()

    def on_message(*_: Any) -> None:
        if pace.arrived():
            client.cancel(channel, client.end)

    pace = Pace(job, meter, partial(client.from_thread, publish_due))
    client.consume(channel, job.queue, on_message, True, pace.start)


_ACTIONS: dict[str, Callable[[Any, Job, Meter], None]] = {
    "publish": _publish,
    "confirm": _confirm,
    "consume": _consume,
    "consume_ack": _consume_ack,
    "declare": lambda client, job, meter: _repeat(client.declare, client, job, meter),
    "get": lambda client, job, meter: _repeat(client.get, client, job, meter),
    "pipelined": _pipelined,
    "through": _through,
    "latency": _latency,
}
