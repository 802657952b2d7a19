"""cpspika by itself: no socket, no other process, no waiting. The core, and what two styles add to it.

Its output is dropped, and its input is prepared. So the figures contain the library's own code, without the kernel's
calls and the waking up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from itertools import cycle, islice
from typing import Any, ClassVar

import cpspika
from cpspika import tasks
from cpspika.adapters import MemoryReactor, asyncio_adapter
from cpspika.wire import handshake
from cpspika.wire.codec import Method
from cpspika.wire.handshake import Host, Negotiated
from cpspika.wire.link import Link
from cpspika.wire.message import NO_PROPERTIES

from ..job import Job, Measure
from ..meter import Meter
from ..styles import make_body
from .cpspika_promises import in_order

PIECE = 14  # deliveries in one piece; RabbitMQ writes about so many of 100 bytes at once
TURN = 500  # publishes in one turn
CONFIRMED = 5  # publishes that one ack confirms
LIMITS = Negotiated(frame_max=131072, channel_max=2047, heartbeat=0, virtual_host="", peer_properties={})
KEY = "benchmark"


class _Sink:
    """A transport that takes all bytes. `listening`: a peer answers them."""

    queued = written = 0

    def __init__(self, owner: Any, reactor: Any):
        self.owner = owner
        self._reactor = reactor
        self.listening = True
        self._link = Link("server", None, None)

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        if self.listening:
            said = b"".join(chunks)
            self._reactor.call_soon(lambda: self._hear(said))

    def _hear(self, data: bytes) -> None:
        link = self._link
        greeting = link.greet_back(data) if not link.version else None
        if greeting is not None:
            version, data = greeting
            host = Host(version, {}, "PLAIN", LIMITS, lambda mechanism, answers: "user", lambda user, vhost: None)
            link.begin(version, handshake.server(host))
        answers = [self._answer(number, event) for number, event in link.receive(data)]
        self.owner.data_received(link.take_answers() + b"".join(answers))

    def _answer(self, number: int, event: Any) -> bytes:
        replies = self._link.codec.row(event.name).replies if isinstance(event, Method) else ()
        if not number or not replies:
            return b""
        tag = {"consumer_tag": f"amq.ctag-{number:022}"} if replies[0] == "basic.consume-ok" else {}
        return self._link.send(number, replies[0], tag)

    def method(self, number: int, name: str, **arguments: Any) -> bytes:
        return self._link.send(number, name, arguments)

    def acks(self, number: int) -> Callable[[int, bool], bytes]:
        return self._link.fast_sender(number).ack

    def delivery(self, number: int, delivery_tag: int, body: bytes) -> bytes:
        arguments = {"consumer_tag": f"amq.ctag-{number:022}", "delivery_tag": delivery_tag, "routing_key": KEY}
        return b"".join(self._link.send_content(number, "basic.deliver", arguments, NO_PROPERTIES, body))

    def pause_reading(self, paused: bool) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def detach(self) -> None: ...


class _OpensSinks:
    """A reactor whose connections lead to sinks. `sink`: the last of all."""

    sink: ClassVar[_Sink]
    call_soon: Callable[..., Any]

    def resolve(self, endpoint: Any, on_done: Callable[..., object]) -> None:
        self.call_soon(lambda: on_done(None, [None]))

    def open(self, endpoint: Any, address: Any, owner: Any) -> Any:
        _OpensSinks.sink = sink = _Sink(owner, self)
        self.call_soon(owner.transport_ready)
        return sink


class _Reactor(_OpensSinks, MemoryReactor): ...


class _OnLoop(_OpensSinks, asyncio_adapter.AsyncioReactor): ...


class _Confirming:
    """The peer's acks of the first channel's publishes, each of some publishes."""

    def __init__(self, sink: _Sink):
        self._sink = sink
        self._ack = sink.acks(1)
        self._last = 0

    def __call__(self, count: int) -> None:
        acks = range(self._last + CONFIRMED, self._last + count + 1, CONFIRMED)
        self._last += count
        self._sink.owner.data_received(b"".join([self._ack(tag, True) for tag in acks]))


class Alone:
    recovery: Any = None  # of `cpspika.connect`

    def perform(self, job: Job) -> Measure:
        self.reactor = _Reactor()
        self.connection = cpspika.connect(
            "amqp://nowhere", reactor=self.reactor, on_done=_check, recovery=self.recovery
        )
        self.reactor.settle()
        self.channels = [self.connection.channel() for _ in range(job.channels)]
        self.reactor.settle()
        self.count = 0
        body = make_body(job.size)
        steps = _ACTIONS[job.action](self, body)
        self._run(steps, job.warmup)
        meter = Meter(job)
        meter.start()
        self._run(steps, job.count)
        meter.stop()
        assert meter.result is not None
        return meter.result

    def _run(self, step: Callable[[], int], count: int) -> None:
        """Makes steps in turns of the reactor, as a program's callbacks are made."""
        left = count

        def turn() -> None:
            nonlocal left
            left -= step()

        while left > 0:
            self.reactor.call_soon(turn)
            self.reactor.run_once(0)

    def _publish(self, body: bytes) -> Callable[[], int]:
        publish = self.channels[0].basic_publish
        self.reactor.sink.listening = False

        def step() -> int:
            for _ in range(TURN):
                publish("", KEY, body)
            return TURN

        return step

    def _confirm(self, body: bytes) -> Callable[[], int]:
        channel, sink = self.channels[0], self.reactor.sink
        channel.confirm_select()
        self.reactor.settle()
        sink.listening = False
        confirm = _Confirming(sink)

        def step() -> int:
            for _ in range(TURN):
                channel.basic_publish("", KEY, body, on_done=_check)
            confirm(TURN)
            return TURN

        return step

    def _consume(self, body: bytes, on_message: Callable[[Any], object] = lambda message: None) -> Callable[[], int]:
        for channel in self.channels:
            channel.basic_consume("q", on_message, consumer_tag=f"amq.ctag-{channel.number:022}")
        self.reactor.settle()
        sink = self.reactor.sink
        sink.listening = False
        numbers = cycle(channel.number for channel in self.channels)
        pieces = cycle(
            [
                b"".join(sink.delivery(number, tag + 1, body) for tag, number in enumerate(islice(numbers, PIECE)))
                for _ in range(max(1, len(self.channels)))
            ]
        )

        def step() -> int:
            sink.owner.data_received(next(pieces))
            return PIECE

        return step

    def _consume_ack(self, body: bytes) -> Callable[[], int]:
        return self._consume(body, cpspika.Message.ack)

    def _call(self, body: bytes) -> Callable[[], int]:
        channel, sink = self.channels[0], self.reactor.sink
        sink.listening = False
        answer = sink.method(1, "queue.declare-ok", queue="q", message_count=1, consumer_count=1)

        def step() -> int:
            channel.queue_declare("q", passive=True, on_done=_check)
            sink.owner.data_received(answer)
            return 1

        return step


def _check(err: Any, result: Any) -> None:
    if err:
        raise err


_ACTIONS: dict[str, Callable[[Alone, bytes], Callable[[], int]]] = {
    "alone publish": Alone._publish,
    "alone confirm": Alone._confirm,
    "alone consume": Alone._consume,
    "alone consume+ack": Alone._consume_ack,
    "alone call": Alone._call,
}


class _InStyle:
    """The same in a style whose operations are awaited."""

    async def _perform(self, job: Job, connecting: Any, soon: Callable[..., object]) -> Measure:
        connection = await connecting
        channel = await connection.channel()
        if job.action == "alone confirm":
            await channel.confirm_select()
        sink = _OpensSinks.sink
        sink.listening = False
        step = {"alone publish": self._publish, "alone confirm": self._confirm}[job.action]
        self._confirm_soon = partial(soon, partial(_Confirming(sink), TURN))
        body = make_body(job.size)
        meter = Meter(job)
        await self._run(step, channel.basic_publish, body, job.warmup)
        meter.start()
        await self._run(step, channel.basic_publish, body, job.count)
        meter.stop()
        assert meter.result is not None
        return meter.result

    async def _run(self, step: Callable[..., Any], publish: Callable[..., Any], body: bytes, count: int) -> None:
        for _ in range(0, count, TURN):
            await step(publish, body)

    async def _publish(self, publish: Callable[..., Any], body: bytes) -> None:
        for _ in range(TURN):
            await publish("", KEY, body)

    async def _confirm(self, publish: Callable[..., Any], body: bytes) -> None:
        confirms = [publish("", KEY, body) for _ in range(TURN)]
        self._confirm_soon()
        await self._together(confirms)

    def _together(self, promises: list[Any]) -> Any:
        raise NotImplementedError


class OnAsyncio(_InStyle):
    _together = staticmethod(in_order)

    def perform(self, job: Job) -> Measure:
        asyncio_adapter.AsyncioReactor = _OnLoop  # type: ignore[misc]  # the adapter makes its reactor itself

        async def main() -> Measure:
            loop = asyncio.get_running_loop()
            return await self._perform(job, asyncio_adapter.connect("amqp://nowhere"), loop.call_soon)

        return asyncio.run(main())


class OnTasks(_InStyle):
    def perform(self, job: Job) -> Measure:
        reactor = _Reactor()
        connecting = tasks.connect("amqp://nowhere", reactor=reactor)
        return tasks.run(self._perform(job, connecting, reactor.call_soon), reactor)

    def _together(self, promises: list[Any]) -> Any:
        return tasks.gather(*promises)
