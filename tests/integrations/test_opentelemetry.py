"""`cpspika.integrations.opentelemetry` with the SDK's in-memory exporters: spans, links, context and metrics."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest

pytest.importorskip("opentelemetry.instrumentation")
pytest.importorskip("opentelemetry.sdk")

from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import cpspika
from cpspika.adapters import asyncio_adapter
from cpspika.broker import serve
from cpspika.client import hooks
from cpspika.integrations.opentelemetry import CpspikaInstrumentor
from tests.support import ROOT
from tests.support.recovering import RecoveryWorld
from tests.support.scripted import content, opened
from tests.support.styles import Broker, Scenario, Style, scenario

SERVER = {"messaging.system": "rabbitmq", "network.protocol.name": "amqp", "network.protocol.version": "0.9.1"}


class Telemetry:
    """What was exported. `tracer`: of the program."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])
        self.tracer = self.tracers.get_tracer("program")

    def options(self) -> dict[str, Any]:
        return {"tracer_provider": self.tracers, "meter_provider": self.meters}

    @property
    def spans(self) -> list[Any]:
        """In the order of their ends."""
        return list(self._spans.get_finished_spans())

    def span(self, name: str) -> Any:
        (found,) = [span for span in self.spans if span.name.partition(" ")[0] == name]
        return found

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        metrics = [
            metric
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]


@pytest.fixture
def telemetry(caplog: Any) -> Iterator[Telemetry]:
    made = Telemetry()
    instrumentor = CpspikaInstrumentor()
    instrumentor.instrument(**made.options())
    try:
        yield made
    finally:
        instrumentor.uninstrument()
    assert not hooks.are_installed()
    assert [record.message for record in caplog.get_records("call") if record.levelname == "ERROR"] == []


@pytest.fixture
def channel() -> Iterator[Any]:
    with cpspika.BlockingConnection("embedded://", timeout=10) as connection, connection.channel() as channel:
        channel.queue_declare("tasks", exclusive=True)
        yield channel


def context_of(link: Any) -> tuple[int, int]:
    return link.context.trace_id, link.context.span_id


def ids(span: Any) -> tuple[int, int]:
    made = span.get_span_context()
    return made.trace_id, made.span_id


def handle(channel: Any, queue: str = "tasks", work: Any = None) -> Any:
    """Has a callback handle one message."""
    got: list[Any] = []

    def on_message(message: Any) -> None:
        got.append(message)
        channel.stop_consuming()
        if work is not None:
            work(message)
        message.ack()

    tag = channel.basic_consume(queue, on_message)
    try:
        channel.start_consuming()
    finally:
        channel.basic_cancel(tag)
    return got[0]


def test_publish_process_and_settle(channel: Any, telemetry: Telemetry) -> None:
    own = cpspika.BasicProperties(message_id="m1", correlation_id="c1", headers={"own": 1})
    with telemetry.tracer.start_as_current_span("program") as program:
        channel.basic_publish("", "tasks", "hello", own)
    assert own.headers == {"own": 1}
    current: list[Any] = []
    message = handle(channel, work=lambda message: current.append(ids(trace.get_current_span())))
    publish, process, ack = telemetry.span("publish"), telemetry.span("process"), telemetry.span("ack")

    assert (publish.name, publish.kind, publish.parent.span_id) == ("publish tasks", SpanKind.PRODUCER, ids(program)[1])
    assert dict(publish.attributes) == {
        **SERVER,
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "tasks",
        "messaging.rabbitmq.destination.routing_key": "tasks",
        "messaging.message.id": "m1",
        "messaging.message.conversation_id": "c1",
        "server.address": "embedded",
    }
    assert message.properties.headers["own"] == 1
    assert f"{ids(publish)[1]:016x}" in message.properties.headers["traceparent"]

    assert (process.name, process.kind) == ("process tasks", SpanKind.CONSUMER)
    assert [context_of(link) for link in process.links] == [ids(publish)]
    assert (process.context.trace_id, process.parent.span_id) == ids(publish), "no span was current: the message's"
    assert current == [ids(process)]
    assert dict(process.attributes) == {
        **dict(publish.attributes),
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.rabbitmq.message.delivery_tag": 1,
        "messaging.message.body.size": 5,
    }

    assert (ack.name, ack.kind, ack.attributes["messaging.operation.type"]) == ("ack tasks", SpanKind.CLIENT, "settle")
    assert [context_of(link) for link in ack.links] == [ids(publish)]
    assert ack.parent.span_id == ids(process)[1]
    assert [span.status.status_code for span in telemetry.spans] == [StatusCode.UNSET] * 4


def test_the_destination_names_exchange_key_and_queue(channel: Any, telemetry: Telemetry) -> None:
    channel.exchange_declare("logs", "topic", auto_delete=True)
    channel.queue_bind("tasks", "logs", "#")
    channel.basic_publish("logs", "kern.42", "x")
    handle(channel)
    told = [(span.name, span.attributes["messaging.destination.name"]) for span in telemetry.spans]
    assert told == [
        ("publish logs", "logs:kern.42"),
        ("ack tasks", "logs:kern.42:tasks"),
        ("process tasks", "logs:kern.42:tasks"),
    ]


def test_names_that_were_made_up_are_in_no_span_s_name_and_no_metric(channel: Any, telemetry: Telemetry) -> None:
    queue = channel.queue_declare(exclusive=True).queue
    assert queue.startswith("amq.gen-")
    channel.basic_publish("", queue, "x")
    handle(channel, queue)
    assert [span.name for span in telemetry.spans] == ["publish", "ack", "process"]
    assert {span.attributes["messaging.destination.name"] for span in telemetry.spans} == {queue}
    (point,) = telemetry.points("messaging.client.sent.messages")
    assert "messaging.destination.name" not in point.attributes


def test_a_span_that_is_current_is_the_parent_of_process(channel: Any, telemetry: Telemetry) -> None:
    channel.basic_publish("", "tasks", "hello")
    with telemetry.tracer.start_as_current_span("program") as program:
        handle(channel)
    process, publish = telemetry.span("process"), telemetry.span("publish")
    assert process.parent.span_id == ids(program)[1]
    assert [context_of(link) for link in process.links] == [ids(publish)]


def test_basic_get(channel: Any, telemetry: Telemetry) -> None:
    channel.basic_publish("", "tasks", "hello")
    with telemetry.tracer.start_as_current_span("program") as program:
        channel.basic_get("tasks").nack(requeue=False)
    assert channel.basic_get("tasks") is None
    receive, nack = telemetry.span("receive"), telemetry.span("nack")
    assert (receive.name, receive.kind) == ("receive tasks", SpanKind.CLIENT)
    assert receive.parent.span_id == nack.parent.span_id == ids(program)[1]
    publish = ids(telemetry.span("publish"))
    assert [context_of(link) for link in (*receive.links, *nack.links)] == [publish, publish]
    assert receive.end_time >= receive.start_time


def test_a_context_of_the_program_s_own_stays(channel: Any, telemetry: Telemetry) -> None:
    own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    channel.basic_publish("", "tasks", "hello", {"headers": {"traceparent": own}})
    message = handle(channel)
    assert message.properties.headers == {"traceparent": own}
    publish, process = telemetry.span("publish"), telemetry.span("process")
    creation = (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)
    assert [context_of(link) for link in (*publish.links, *process.links)] == [creation, creation]
    assert publish.kind == SpanKind.CLIENT


@pytest.mark.parametrize("headers", [None, {"traceparent": b"\xff"}, {"traceparent": 5, "other": [1]}])
def test_headers_that_hold_no_context(channel: Any, telemetry: Telemetry, headers: Any) -> None:
    with suppress_instrumentation():
        channel.basic_publish("", "tasks", "hello", {"headers": headers} if headers else None)
    handle(channel)
    assert [span.name for span in telemetry.spans] == ["ack tasks", "process tasks"]
    assert telemetry.span("process").links == ()
    assert telemetry.span("process").parent is None


def test_suppressed(channel: Any, telemetry: Telemetry) -> None:
    with suppress_instrumentation():
        channel.basic_publish("", "tasks", "hello")
        handle(channel)
        assert channel.basic_get("tasks") is None
    assert telemetry.spans == []


def test_baggage_goes_along(channel: Any, telemetry: Telemetry) -> None:
    token = context.attach(baggage.set_baggage("tenant", "blue"))
    channel.basic_publish("", "tasks", "hello")
    context.detach(token)
    found = []
    handle(channel, work=lambda message: found.append(baggage.get_baggage("tenant")))
    assert found == ["blue"]
    assert baggage.get_baggage("tenant") is None


def test_errors(channel: Any, telemetry: Telemetry) -> None:
    channel.confirm_select()
    with pytest.raises(cpspika.MessageReturned):
        channel.basic_publish("", "nowhere", "hello", mandatory=True)
    channel.basic_publish("", "tasks", "hello")

    def work(message: Any) -> None:
        raise ZeroDivisionError("no")

    with pytest.raises(ZeroDivisionError):
        handle(channel, work=work)
    failed = [span for span in telemetry.spans if span.status.status_code is StatusCode.ERROR]
    assert [(span.name, span.attributes["error.type"]) for span in failed] == [
        ("publish nowhere", "cpspika.errors.MessageReturned"),
        ("process tasks", "ZeroDivisionError"),
    ]
    assert failed[1].events[0].name == "exception"
    errors = [point.attributes.get("error.type") for point in telemetry.points("messaging.process.duration")]
    assert errors == ["ZeroDivisionError"]


def test_metrics(channel: Any, telemetry: Telemetry) -> None:
    channel.basic_publish("", "tasks", "hello")
    handle(channel)
    for _ in range(2):
        channel.basic_publish("", "tasks", "hello")
    channel.basic_get("tasks").ack()
    both = {"messaging.system": "rabbitmq", "server.address": "embedded", "messaging.destination.name": "tasks"}

    def of(name: str, kind: str) -> dict[str, Any]:
        return {**both, "messaging.operation.name": name, "messaging.operation.type": kind}

    (sent,) = telemetry.points("messaging.client.sent.messages")
    assert (sent.value, dict(sent.attributes)) == (3, of("publish", "send"))
    consumed = {point.attributes["messaging.operation.name"]: point for point in telemetry.points(
        "messaging.client.consumed.messages")}  # fmt: skip
    assert {name: point.value for name, point in consumed.items()} == {"process": 1, "receive": 1}
    assert dict(consumed["process"].attributes) == of("process", "process")
    (process,) = telemetry.points("messaging.process.duration")
    assert (process.count, process.explicit_bounds[0]) == (1, 0.005)
    operations = telemetry.points("messaging.client.operation.duration")
    assert {point.attributes["messaging.operation.name"]: point.count for point in operations} == {
        "publish": 3,
        "receive": 1,
    }


def test_connections_and_recoveries(telemetry: Telemetry) -> None:
    world = RecoveryWorld()
    world.cut()
    world.restored()
    (connections,) = telemetry.points("cpspika.connections")
    assert (connections.value, dict(connections.attributes)) == (
        1,
        {"server.address": "broker", "server.port": 5672},
    )
    (recoveries,) = telemetry.points("cpspika.recoveries")
    assert recoveries.value == 1
    world.connection.close()
    world.settle()
    assert telemetry.points("cpspika.connections")[0].value == 0


def test_a_connection_that_moves_is_counted_where_it_is(telemetry: Telemetry) -> None:
    def counted() -> dict[Any, Any]:
        points = telemetry.points("cpspika.connections")
        return {point.attributes["server.port"]: point.value for point in points}

    with serve() as first, serve() as second:
        quickly = cpspika.Recovery(backoff=(0.01, 0.05))
        connection = cpspika.SelectConnection([first.url, second.url], recovery=quickly, timeout=20)
        channel = connection.channel()
        assert counted() == {first.port: 1}
        first.stop()
        channel.queue_declare("q")  # waits for the second
        assert counted() == {first.port: 0, second.port: 1}
        connection.close()
        assert counted() == {first.port: 0, second.port: 0}


def test_a_publish_that_is_sent_again_is_one_span(telemetry: Telemetry) -> None:
    world = RecoveryWorld()
    channel = world.confirming()
    channel.queue_declare("q")
    world.settle()
    done = world.ask(channel.basic_publish, "", "q", "hello")
    world.cut()
    assert telemetry.spans == []
    world.until(lambda: not done.pending, "the confirm")
    assert done.result.times == 1
    assert [span.name for span in telemetry.spans] == ["publish q"]


def test_hooks_of_the_program_s_and_no_settle_spans(channel: Any) -> None:
    telemetry = Telemetry()
    instrumentor = CpspikaInstrumentor()
    instrumentor.instrument(
        **telemetry.options(),
        settle_spans=False,
        publish_hook=lambda span, exchange, routing_key, properties: span.set_attribute("key", routing_key),
        process_hook=lambda span, message: span.set_attribute("body", message.body.decode()),
    )
    try:
        channel.basic_publish("", "tasks", "hello")
        handle(channel)
    finally:
        instrumentor.uninstrument()
    assert [span.name for span in telemetry.spans] == ["publish tasks", "process tasks"]
    assert telemetry.span("publish").attributes["key"] == "tasks"
    assert telemetry.span("process").attributes["body"] == "hello"


def test_a_hook_of_the_program_s_that_raises_costs_no_span(channel: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: object) -> None:
        raise ValueError("a mistake of the program")

    telemetry = Telemetry()
    instrumentor = CpspikaInstrumentor()
    instrumentor.instrument(**telemetry.options(), settle_spans=False, publish_hook=fails, process_hook=fails)
    try:
        channel.basic_publish("", "tasks", "hello")
        handle(channel)
    finally:
        instrumentor.uninstrument()
    assert [span.name for span in telemetry.spans] == ["publish tasks", "process tasks"]
    assert context_of(telemetry.span("process").links[0]) == context_of(telemetry.span("publish"))
    assert not trace.get_current_span().get_span_context().is_valid
    assert [record.message.partition(" ")[0] for record in caplog.records] == ["publish_hook", "process_hook"]


def test_a_malformed_header_costs_no_connection(telemetry: Telemetry) -> None:
    world = opened()
    channel = world.channel()
    got: list[Any] = []
    channel.basic_consume("q", got.append, consumer_tag="c")
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    world.peer.send_raw(
        content(1, "basic.deliver", b"x", b"\xff\xff", consumer_tag="c", delivery_tag=1, routing_key="q")
    )
    world.settle()
    assert [message.body for message in got] == [b"x"]
    assert world.connection.is_open


@scenario()
def test_in_every_style(s: Style, telemetry: Telemetry) -> Scenario:
    ch = yield from s.channel()
    queue = s.name()
    yield ch.queue_declare(queue, exclusive=True)
    current: list[Any] = []

    def on_message(message: Any) -> None:
        current.append(ids(trace.get_current_span()))
        message.ack()

    yield ch.basic_consume(queue, on_message)
    yield ch.basic_publish("", queue, "hello")
    yield s.until(lambda: len(telemetry.spans) == 3)
    publish, process = telemetry.span("publish"), telemetry.span("process")
    assert current == [ids(process)]
    assert (process.context.trace_id, process.parent.span_id) == ids(publish)
    assert telemetry.span("ack").parent.span_id == ids(process)[1]
    assert process.attributes["network.protocol.version"] == s.protocol.replace("-", ".")
    assert not trace.get_current_span().get_span_context().is_valid


def test_the_body_of_async_for(broker: Broker, telemetry: Telemetry) -> None:
    """On RabbitMQ too: the headers are as it passes them on."""

    async def main() -> None:
        async with (
            asyncio_adapter.connect(broker.url()) as connection,
            connection.channel() as channel,
        ):
            one = (await channel.queue_declare("one-" + str(id(telemetry)), exclusive=True)).queue
            two = (await channel.queue_declare("two-" + str(id(telemetry)), exclusive=True)).queue
            await channel.confirm_select()
            await channel.basic_publish("", one, "hello")
            async for message in channel.consume(one):
                await channel.basic_publish("", two, message.body)  # a child of the process span
                message.ack()
                break
            async for message in channel.consume(two):
                message.ack()
                break

    asyncio.run(asyncio.wait_for(main(), 20))
    names = [span.name.partition("-")[0] for span in telemetry.spans]
    assert sorted(names) == sorted(["publish one", "publish two", "ack one", "ack two", "process one", "process two"])
    assert len({span.context.trace_id for span in telemetry.spans}) == 1, "one trace from the first to the last"
    parents = {span.context.span_id: span.name.partition("-")[0] for span in telemetry.spans}
    by_name = {span.name.partition("-")[0]: parents.get(span.parent.span_id) if span.parent else None
               for span in telemetry.spans}  # fmt: skip
    assert by_name == {
        "publish one": None,
        "process one": "publish one",
        "publish two": "process one",
        "ack one": "process one",
        "process two": "publish two",
        "ack two": "process two",
    }


def test_opentelemetry_finds_the_instrumentor() -> None:
    found = {each.value for each in entry_points(group="opentelemetry_instrumentor") if each.name == "cpspika"}
    assert found == {"cpspika.integrations.opentelemetry:CpspikaInstrumentor"}


def test_without_the_extra_the_error_names_it() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "try: import cpspika.integrations.opentelemetry\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "pip install 'cpspika[opentelemetry]'" in done.stdout
