"""Spans and metrics for OpenTelemetry (extra `opentelemetry`).

    from cpspika.integrations.opentelemetry import CpspikaInstrumentor
    CpspikaInstrumentor().instrument()

`opentelemetry-instrument` finds the instrumentor by itself. It is one user of `cpspika.instrument`, and follows the
semantic conventions for messaging, and those for RabbitMQ, as of version 1.37 (they are not stable yet):

| span | kind | from | to |
|---|---|---|---|
| publish | producer (client: see below) | the call | its confirm; without confirms, the end of the call |
| process | consumer | the callback's begin, or an iterator's handing out | its end, or the next message asked for |
| receive | client | basic_get | the message |
| ack, nack, reject | client | the call | its end |

The context goes along in the headers (`traceparent` and what else the configured propagators write). If the headers
hold one already, the program's own, it stays; the publish span is of kind client then, and links to it. Process,
receive and settle spans link to the context in the message. The process span has the current span as its parent; if
there is none, that of the message. While the callback runs, and in the body of the loop, the process span is the
current one.

A span's name and the metrics name the exchange (publish) or the queue (process), without the routing key, which may
have many values: but on the default exchange the key is the queue's name, so it stands for that. A name that the broker
or the library made up is left out. The attributes name all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from time import perf_counter, time_ns
from typing import Any
from weakref import WeakKeyDictionary

from ..client.hooks import instrument
from ..errors import ProtocolSyntaxError
from ..interrupts import is_of_signal_handler
from ..logs import get_logger
from ..version import __version__
from ..wire.codec import property_codec
from ..wire.message import BASIC, BasicProperties

try:
    from opentelemetry import context, metrics, propagate, trace
    from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
    from opentelemetry.instrumentation.utils import is_instrumentation_enabled
    from opentelemetry.propagators.textmap import Getter
    from opentelemetry.trace import Link, SpanKind, Status, StatusCode
except ImportError as missing:
    raise ImportError(
        f"{missing.name or 'opentelemetry'} is not installed: pip install 'cpspika[opentelemetry]'"
    ) from missing

SYSTEM, OPERATION_NAME, OPERATION_TYPE = "messaging.system", "messaging.operation.name", "messaging.operation.type"
DESTINATION, ERROR = "messaging.destination.name", "error.type"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_GENERATED = ("amq.gen-", "cpspika.gen-", "amq.rabbitmq.reply-to")


class CpspikaInstrumentor(BaseInstrumentor):  # type: ignore[misc, unused-ignore]
    """Has cpspika make spans and metrics.

    Options of `instrument`: tracer_provider, meter_provider: by default the global ones. settle_spans: False makes none
    for acks, nacks and rejects; True by default. publish_hook(span, exchange, routing_key, properties),
    process_hook(span, message): called with each new span that is recorded, to add attributes.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        return ()  # it comes with what it instruments

    def _instrument(self, **options: Any) -> None:
        tracer = trace.get_tracer("cpspika", __version__, options.get("tracer_provider"))
        meter = metrics.get_meter("cpspika", __version__, options.get("meter_provider"))
        self._remove = instrument(
            _Hooks(
                tracer,
                _Metrics(meter),
                options.get("settle_spans", True),
                options.get("publish_hook"),
                options.get("process_hook"),
            )
        )

    def _uninstrument(self, **options: Any) -> None:
        self._remove()


class _Metrics:
    def __init__(self, meter: Any):
        self.sent = meter.create_counter(
            "messaging.client.sent.messages",
            unit="{message}",
            description="Number of messages producer attempted to send to the broker.",
        )
        self.consumed = meter.create_counter(
            "messaging.client.consumed.messages",
            unit="{message}",
            description="Number of messages that were delivered to the application.",
        )
        self.operation = meter.create_histogram(
            "messaging.client.operation.duration",
            unit="s",
            description="Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self.process = meter.create_histogram(
            "messaging.process.duration",
            unit="s",
            description="Duration of processing operation.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self.connections = meter.create_up_down_counter(
            "cpspika.connections", unit="{connection}", description="Number of open connections."
        )
        self.recoveries = meter.create_counter(
            "cpspika.recoveries", unit="{recovery}", description="Number of times that a lost link was restored."
        )


class _Sent(BasicProperties):
    """Properties to publish with, which carry their span to `published`."""

    __slots__ = ("attributes", "begun", "span")

    attributes: dict[str, Any]
    begun: float
    span: Any


class _Hooks:
    """The hooks of `cpspika.instrument`."""

    def __init__(self, tracer: Any, meters: _Metrics, settle_spans: bool, publish_hook: Any, process_hook: Any):
        self._tracer = tracer
        self._meters = meters
        self._settle_spans = settle_spans
        self._publish_hook = publish_hook
        self._process_hook = process_hook
        # Connections that were counted, and under which server: one with recovery may move to another.
        self._open: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()

    def publishing(self, channel: Any, exchange: str, routing_key: str, properties: Any) -> Any:
        if not is_instrumentation_enabled():
            return properties
        given = BasicProperties(**properties) if isinstance(properties, Mapping) else properties
        sent = _Sent(**(given._present() if given is not None else {}))
        headers = dict(sent.headers or {})
        links = _links(headers)
        place = exchange or _known(routing_key) or ("" if routing_key else "amq.default")
        sent.attributes, attributes = _attributes("publish", "send", place, channel)
        _describe(attributes, exchange, routing_key, "", sent.message_id, sent.correlation_id)
        sent.begun = perf_counter()
        sent.span = self._tracer.start_span(
            f"publish {place}".strip(),
            kind=SpanKind.CLIENT if links else SpanKind.PRODUCER,
            attributes=attributes,
            links=links,
        )
        if not links:
            propagate.inject(headers, context=trace.set_span_in_context(sent.span))
        sent.headers = headers or None
        _call_hook("publish_hook", self._publish_hook, sent.span, exchange, routing_key, sent)
        return sent

    def published(self, properties: Any, error: BaseException | None) -> None:
        if not isinstance(properties, _Sent):
            return
        attributes = _failed(properties.span, properties.attributes, error)
        self._meters.operation.record(perf_counter() - properties.begun, attributes)
        self._meters.sent.add(1, attributes)
        properties.span.end()

    def delivering(self, message: Any) -> _Processing:
        return _Processing(self, message)

    def fetched(self, message: Any, seconds: float) -> None:
        if not is_instrumentation_enabled():
            return
        of_metrics, attributes = _attributes("receive", "receive", message.exchange, message.channel)
        links, properties = _origin(message)
        _describe_message(attributes, message, "", properties)
        name = f"receive {message.exchange or _known(message.routing_key)}".strip()
        begun = time_ns() - int(seconds * 1e9)
        self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes, links=links, start_time=begun).end()
        self._meters.operation.record(seconds, of_metrics)
        self._meters.consumed.add(1, of_metrics)

    def settled(self, message: Any, how: str) -> None:
        if not self._settle_spans or not is_instrumentation_enabled():
            return
        queue = _queue(message)
        place = _known(queue) or message.exchange
        _, attributes = _attributes(how, "settle", place, message.channel)
        links, properties = _origin(message)
        _describe_message(attributes, message, queue, properties)
        self._tracer.start_span(
            f"{how} {place}".strip(), kind=SpanKind.CLIENT, attributes=attributes, links=links
        ).end()

    def connection(self, connection: Any, event: Any) -> None:
        server = _server(connection.parameters)
        if event.kind in ("opened", "restored", "closed"):
            counted = self._open.pop(connection, None)
            if counted is not None:
                self._meters.connections.add(-1, counted)
        if event.kind in ("opened", "restored"):
            self._open[connection] = server
            self._meters.connections.add(1, server)
        if event.kind == "restored":
            self._meters.recoveries.add(1, server)


class _Processing:
    """The span of a message that is in hand, and the current one meanwhile."""

    def __init__(self, hooks: _Hooks, message: Any):
        self._hooks = hooks
        self._message = message
        self._token: Any = None
        self._span: Any = None
        self._begun = 0.0
        self._attributes: dict[str, Any] = {}

    def __enter__(self) -> None:
        if not is_instrumentation_enabled():
            return
        hooks, message = self._hooks, self._message
        queue = _queue(message)
        place = _known(queue) or message.exchange
        self._attributes, attributes = _attributes("process", "process", place, message.channel)
        links, properties = _origin(message)
        _describe_message(attributes, message, queue, properties)
        base = context.get_current()
        if not trace.get_current_span().get_span_context().is_valid:
            base = propagate.extract(properties.get("headers") or {}, base, _getter)
        self._begun = perf_counter()
        self._span = hooks._tracer.start_span(
            f"process {place}".strip(), context=base, kind=SpanKind.CONSUMER, attributes=attributes, links=links
        )
        self._token = context.attach(trace.set_span_in_context(self._span, base))
        hooks._meters.consumed.add(1, self._attributes)
        _call_hook("process_hook", hooks._process_hook, self._span, message)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._span is None:
            return
        context.detach(self._token)
        attributes = _failed(self._span, self._attributes, error)
        self._hooks._meters.process.record(perf_counter() - self._begun, attributes)
        self._span.end()


def _call_hook(name: str, hook: Any, span: Any, *details: Any) -> None:
    """Calls a hook of the program with a span that is recorded. An exception of it is logged: it costs no span. One of
    a signal handler goes on to the program."""
    if hook is None or not span.is_recording():
        return
    try:
        hook(span, *details)
    except Exception as error:
        if is_of_signal_handler(error):
            raise
        get_logger().exception("%s raised; the span goes on without it", name)


class _HeaderGetter(Getter[Mapping[str, Any]]):  # type: ignore[misc, unused-ignore]
    """Reads the context from headers, whose values may be of any type."""

    def get(self, carrier: Mapping[str, Any], key: str) -> list[str] | None:
        value = carrier.get(key)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        return [value] if isinstance(value, str) else None

    def keys(self, carrier: Mapping[str, Any]) -> list[str]:
        return list(carrier)


_getter = _HeaderGetter()


def _links(headers: Mapping[str, Any]) -> list[Any]:
    """A link to the context in headers, if they hold one."""
    remote = propagate.extract(headers, context.Context(), _getter)
    of_creation = trace.get_current_span(remote).get_span_context()
    return [Link(of_creation)] if of_creation.is_valid else []


def _origin(message: Any) -> tuple[list[Any], dict[str, Any]]:
    """Links to the context in a message, and the message's properties. Malformed properties count as none: to read them
    from the message would close the connection."""
    try:
        properties = property_codec(BASIC).decode(message.encoded, 0)
    except ProtocolSyntaxError:
        properties = {}
    return _links(properties.get("headers") or {}), properties


def _queue(message: Any) -> str:
    """The name of the queue that a message came from; "" if it is not known."""
    if message.consumer_tag is None:
        return ""
    queue: str = getattr(message.channel, "core", message.channel)._queue_of(message.consumer_tag)
    return queue


def _known(name: str) -> str:
    """A name that a program has chosen; "" for one that was made up, of which there may be any number."""
    return "" if name.startswith(_GENERATED) else name


def _server(parameters: Any) -> dict[str, Any]:
    server = {"server.address": parameters.host}
    if parameters.via is None:
        server["server.port"] = parameters.port
    return server


def _attributes(name: str, kind: str, place: str, channel: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The attributes that metrics have, and with more those that spans have."""
    parameters = getattr(channel, "core", channel)._sender.parameters
    both = {SYSTEM: "rabbitmq", OPERATION_NAME: name, OPERATION_TYPE: kind, **_server(parameters)}
    of_metrics = {**both, DESTINATION: place} if place else both
    version = parameters.protocol.replace("-", ".")
    return of_metrics, {**both, "network.protocol.name": "amqp", "network.protocol.version": version}


def _describe(
    attributes: dict[str, Any], exchange: str, routing_key: str, queue: str, message_id: Any, correlation_id: Any
) -> None:
    attributes[DESTINATION] = _joined((exchange, routing_key, queue if queue != routing_key else "")) or "amq.default"
    told = {
        "messaging.rabbitmq.destination.routing_key": routing_key,
        "messaging.message.id": message_id,
        "messaging.message.conversation_id": correlation_id,
    }
    attributes.update({name: value for name, value in told.items() if value})


def _describe_message(attributes: dict[str, Any], message: Any, queue: str, properties: Mapping[str, Any]) -> None:
    ids = properties.get("message_id"), properties.get("correlation_id")
    _describe(attributes, message.exchange, message.routing_key, queue, *ids)
    attributes["messaging.rabbitmq.message.delivery_tag"] = message.delivery_tag
    attributes["messaging.message.body.size"] = len(message.body)


def _joined(names: Iterable[str]) -> str:
    return ":".join(name for name in names if name)


def _failed(span: Any, attributes: dict[str, Any], error: BaseException | None) -> dict[str, Any]:
    """Notes an error on a span; returns the attributes for the metrics."""
    if error is None:
        return attributes
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    span.record_exception(error)
    span.set_attribute(ERROR, name)
    span.set_status(Status(StatusCode.ERROR, f"{kind.__name__}: {error}"))
    return {**attributes, ERROR: name}
