"""The same small programs against RabbitMQ and the embedded broker: both must give the same lines.

`SCRIPTS` is a table of programs for a raw client (`tests.support.comparison`). The lines of each are recorded in
comparison_lines.json. One test compares RabbitMQ with the record, another the embedded broker, so that the second says
something on a machine without RabbitMQ too. A script with a `reason` gives other lines on purpose: docs/broker.md has
the reason in its list, and the record has the lines of both.

To record again what RabbitMQ answers: CPSPIKA_RECORD=1 python -m pytest -n 0 tests/broker/test_comparison.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cpspika.broker import Served, serve
from cpspika.wire.frames import PROTOCOL_HEADERS
from tests.support.comparison import Play
from tests.support.rabbitmq import RabbitNode
from tests.support.rabbitmq_features import ANSWERS_OF_3_10
from tests.support.raw_client import SocketWire, amqplain, method, plain, publish

RECORD = Path(__file__).with_name("comparison_lines.json")
LIST = Path(__file__).parents[2] / "docs" / "broker.md"


class Script(NamedTuple):
    """A program. `reason`: why the embedded broker gives other lines on purpose, in the words of docs/broker.md."""

    play: Callable[[Play], object]
    version: str = "0-9-1"
    reason: str = ""


SCRIPTS: dict[str, Script] = {}
Login = tuple[str, bytes, "dict[str, bool] | None"]  # mechanism, response, capabilities of the client


def script(name: str, version: str = "0-9-1", reason: str = "") -> Callable[[Callable[[Play], object]], None]:
    def add(play: Callable[[Play], object]) -> None:
        SCRIPTS[name] = Script(play, version, reason)

    return add


# --- bindings ---------------------------------------------------------------------------------------------------------


@script("a binding with its arguments in another order")
def _(p: Play) -> None:
    one, other = {"a": 1, "b": 2, "c": {"x": 1, "y": 2}}, {"b": 2, "c": {"x": 1, "y": 2}, "a": 1}
    p.ask("queue.declare", queue="q")
    for exchange in ("amq.headers", "amq.direct"):
        p.ask("queue.bind", queue="q", exchange=exchange, routing_key="k", arguments=one)
        p.ask("queue.unbind", queue="q", exchange=exchange, routing_key="k", arguments=other)
    p.publish("k", b"by headers", "amq.headers", headers={"a": 1, "b": 2, "c": {"x": 1, "y": 2}})
    p.publish("k", b"by key", "amq.direct")
    p.ask("basic.get", queue="q", no_ack=True)


@script("unbinding with an argument of another type")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    for other in (1.0, True, "1", {"a": 1}):
        p.ask("queue.bind", queue="q", exchange="amq.fanout", arguments={"a": 1})
        p.ask("queue.unbind", queue="q", exchange="amq.fanout", arguments={"a": other})
        p.publish("", str(other).encode(), "amq.fanout")
        p.ask("basic.get", queue="q", no_ack=True)


@script("unbinding what isn't bound")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    p.ask("queue.unbind", queue="q", exchange="amq.direct", routing_key="never")
    p.ask("queue.unbind", queue="missing", exchange="amq.direct", routing_key="never")
    p.ask("queue.unbind", queue="q", exchange="missing", routing_key="never")
    p.ask("exchange.unbind", destination="missing", source="missing", routing_key="never")


@script("the default exchange is neither bound nor unbound")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    for name in ("queue.bind", "queue.unbind"):
        p.ask(name, queue="q", exchange="", routing_key="q")
        p.ask(name, queue="missing", exchange="", routing_key="q")
    for name in ("exchange.bind", "exchange.unbind"):
        p.ask(name, destination="", source="amq.direct", routing_key="q")
        p.ask(name, destination="amq.direct", source="", routing_key="q")
        p.ask(name, destination="", source="missing", routing_key="q")
        p.ask(name, destination="missing", source="", routing_key="q")


@script("binding what doesn't exist")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    p.ask("queue.bind", queue="missing", exchange="amq.direct")
    p.ask("queue.bind", queue="q", exchange="missing")
    p.ask("queue.bind", queue="missing", exchange="absent")
    p.ask("exchange.bind", destination="missing", source="amq.direct")
    p.ask("exchange.bind", destination="amq.direct", source="missing")
    p.ask("queue.bind", queue="", exchange="amq.direct")


@script("an empty queue name is the one declared last")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    p.ask("queue.bind", queue="", exchange="amq.direct", routing_key="")
    p.publish("q", b"x", "amq.direct")
    p.ask("basic.get", queue="", no_ack=True)
    p.ask("queue.purge", queue="")
    p.ask("queue.declare", queue="", passive=True)
    p.ask("queue.delete", queue="q")


# --- transactions -----------------------------------------------------------------------------------------------------


@script("tx.commit of publishes that a full queue refuses")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    p.ask("tx.select")
    for body in (b"1", b"2", b"3"):
        p.publish("full", body)
    p.ask("tx.commit")
    p.ask("basic.get", queue="full", no_ack=True)
    p.ask("basic.get", queue="full", no_ack=True)


@script("a transaction publishes first and acknowledges then")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    p.publish("q", b"first")
    p.ask("basic.get", queue="q")
    p.ask("tx.select")
    p.note("basic.nack", delivery_tag=1, requeue=True)
    p.publish("q", b"second")
    p.ask("tx.commit")
    p.ask("basic.get", queue="q", no_ack=True)
    p.ask("basic.get", queue="q", no_ack=True)


@script("a mandatory message in a transaction returns at the commit")
def _(p: Play) -> None:
    p.ask("tx.select")
    p.say(publish(1, "nowhere", b"x", mandatory=True))
    p.barrier()
    p.ask("tx.commit")


@script("modes of a channel")
def _(p: Play) -> None:
    p.ask("tx.commit")
    p.ask("tx.rollback")
    p.ask("tx.select")
    p.ask("tx.select")
    p.ask("confirm.select")
    p.ask("confirm.select")
    p.ask("tx.select")


# --- declaring again --------------------------------------------------------------------------------------------------

EQUAL_OR_NOT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"x-queue-type": "classic"}),
    ({"x-queue-type": "classic"}, {}),
    ({"x-max-length": 5}, {"x-max-length": 5}),
    ({"x-max-length": 5}, {"x-max-length": 6}),
    ({"x-max-length": 5}, {}),
    ({}, {"x-max-length": 5}),
    ({"x-max-length": 5}, {"x-max-length": 5.0}),
    ({"x-max-length": 1}, {"x-max-length": True}),
    ({"x-max-length": 5}, {"x-max-length": "5"}),
    ({"x-max-length": 5}, {"x-max-length": None}),
    ({}, {"x-max-length": None}),
    ({"x-max-length": 5}, {"x-max-length": [5]}),
    ({"x-max-length": 5}, {"x-max-length": {"a": 5}}),
    ({"x-queue-mode": "lazy"}, {}),
    ({"x-queue-mode": "lazy"}, {"x-queue-mode": "default"}),
    ({}, {"x-queue-mode": "default"}),
    ({"x-queue-version": 1}, {"x-queue-version": 2}),
    ({}, {"x-queue-version": 1}),
    ({"x-single-active-consumer": True}, {"x-single-active-consumer": False}),
    ({"x-single-active-consumer": True}, {"x-single-active-consumer": 1}),
    ({}, {"x-single-active-consumer": False}),
    ({"x-dead-letter-exchange": "a"}, {"x-dead-letter-exchange": b"a"}),
    ({"x-queue-master-locator": "min-masters"}, {"x-queue-master-locator": "random"}),
    ({"x-unknown": 1}, {"x-unknown": 2}),
    ({"x-queue-type": "classic"}, {"x-queue-type": "quorum"}),
]
for number, (one, other) in enumerate(EQUAL_OR_NOT):

    @script(f"a queue declared again {number}: {one} and {other}")
    def _(p: Play, one: dict[str, Any] = one, other: dict[str, Any] = other) -> None:
        p.ask("queue.declare", queue="again", arguments=one)
        p.ask("queue.declare", queue="again", arguments=other)


@script("a queue declared again with other flags")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    p.ask("queue.declare", queue="q", durable=True)
    p.ask("queue.declare", queue="q", auto_delete=True)
    p.ask("queue.declare", queue="q", exclusive=True)
    p.ask("queue.declare", queue="mine", exclusive=True)
    p.ask("queue.declare", queue="mine", exclusive=True, durable=True)
    p.ask("queue.declare", queue="mine")
    p.ask("queue.declare", queue="mine", exclusive=True, auto_delete=True)
    other = p.other()
    other.ask("queue.declare", queue="mine", exclusive=True)
    other.ask("queue.declare", queue="mine", passive=True)
    other.ask("queue.delete", queue="mine")
    other.ask("queue.purge", queue="mine")
    other.ask("queue.bind", queue="mine", exchange="amq.direct")
    other.ask("basic.get", queue="mine")
    other.ask("basic.consume", queue="mine")


@script("an exclusive queue declared as durable, then not")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="mine", exclusive=True, durable=True)
    p.ask("queue.declare", queue="mine", exclusive=True)


@script("an exchange declared again")
def _(p: Play) -> None:
    p.ask("exchange.declare", exchange="x", type="topic", durable=True, arguments={"alternate-exchange": "amq.fanout"})
    same = {"exchange": "x", "type": "topic", "durable": True}
    p.ask("exchange.declare", **same, arguments={"alternate-exchange": "amq.fanout"})
    p.ask("exchange.declare", **same, arguments={"alternate-exchange": "amq.fanout", "other": 1})
    p.ask("exchange.declare", **same)
    p.ask("exchange.declare", **same, arguments={"alternate-exchange": "amq.direct"})
    p.ask("exchange.declare", **same, arguments={"alternate-exchange": 5})
    p.ask("exchange.declare", exchange="x", type="direct", durable=True)
    p.ask("exchange.declare", exchange="x", type="topic")
    p.ask("exchange.declare", exchange="x", type="nonsense")
    p.ask("exchange.declare", exchange="x", type="topic", durable=True, internal=True)
    p.ask("exchange.declare", exchange="x", passive=True)
    p.ask("exchange.declare", exchange="missing", passive=True)
    p.ask("exchange.declare", exchange="y", type="fanout", arguments={"alternate-exchange": 5})
    p.ask("exchange.declare", exchange="", type="direct")
    p.ask("exchange.declare", exchange="", passive=True)
    p.ask("exchange.declare", exchange="amq.direct", type="direct", durable=True)
    p.ask("exchange.declare", exchange="amq.nosuch", type="direct", durable=True)
    p.ask("exchange.declare", exchange="amq.nosuch", passive=True)
    p.ask("exchange.delete", exchange="")
    p.ask("exchange.delete", exchange="amq.direct")
    p.ask("exchange.delete", exchange="amq.nosuch")
    p.ask("exchange.delete", exchange="nosuch")


# --- names ------------------------------------------------------------------------------------------------------------


@script("reserved and empty names of queues")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="amq.mine")
    p.ask("queue.declare", queue="amq.gen-mine")
    p.ask("queue.declare", queue="", passive=True)
    p.ask("queue.declare", queue="")
    p.ask("queue.declare", queue="", passive=True)
    p.ask("queue.declare", queue="", exclusive=True)
    name = p.wire.ask(1, "queue.declare", queue="").queue
    p.wire.say(method(1, "queue.declare", queue=name))
    code, text = (close := p.wire.expect("channel.close")).reply_code, close.reply_text
    p.lines.append(f"{code} {text.replace(name, 'NAME')}")
    p.say(method(1, "channel.close-ok"))
    p.ask("channel.open")
    p.ask("queue.declare", queue=name, passive=True)
    p.ask("queue.delete", queue=name)
    p.ask("queue.delete", queue="amq.nosuch")
    p.ask("queue.delete", queue="nosuch")
    p.ask("queue.delete", queue="")


@script("line ends in names")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="a\r\nb")
    p._declared["queue", "ab"] = None
    p.ask("queue.declare", queue="ab", passive=True)
    p.ask("queue.declare", queue="a\nb", passive=True)
    p.ask("queue.bind", queue="a\nb", exchange="amq.\ndirect", routing_key="k\n")
    p.publish("k\n", b"x", "amq.direct")
    p.ask("basic.get", queue="ab", no_ack=True)
    p.ask("basic.get", queue="a\nb", no_ack=True)
    p.ask("queue.purge", queue="a\nb")
    p.ask("queue.unbind", queue="a\nb", exchange="amq.\ndirect", routing_key="k\n")
    p.ask("queue.delete", queue="a\nb")
    p.ask("queue.declare", queue="ab", passive=True)
    p.ask("queue.declare", queue="\n")
    p.ask("exchange.declare", exchange="e\nf", type="direct")
    p._declared["exchange", "ef"] = None
    p.ask("exchange.declare", exchange="ef", passive=True)
    p.ask("exchange.delete", exchange="e\nf")
    p.ask("exchange.declare", exchange="ef", passive=True)
    p.ask("exchange.declare", exchange="\n", type="direct")


NOT_UTF_8 = b"\xff\xfe"
for name, arguments in {
    "queue.declare": {"queue": NOT_UTF_8},
    "queue.bind": {"queue": "q", "exchange": NOT_UTF_8, "routing_key": "k"},
    "queue.delete": {"queue": NOT_UTF_8},
    "exchange.declare": {"exchange": NOT_UTF_8, "type": "direct"},
    "exchange.bind": {"destination": NOT_UTF_8, "source": "amq.direct"},
    "basic.consume": {"queue": "q", "consumer_tag": NOT_UTF_8},
    "basic.get": {"queue": NOT_UTF_8},
}.items():

    @script(f"a name that is not UTF-8: {name}")
    def _(p: Play, name: str = name, arguments: dict[str, Any] = arguments) -> None:
        p.ask("queue.declare", queue="q")
        p.say(method(1, name, **arguments))
        p.wait(name + "-ok")


@script("routing keys that are not UTF-8")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    p.ask("queue.bind", queue="q", exchange="amq.direct", routing_key=NOT_UTF_8)
    p.publish(NOT_UTF_8, b"x", "amq.direct")  # type: ignore[arg-type]
    p.ask("basic.get", queue="q", no_ack=True)


@script("a publish to an exchange whose name is not UTF-8", reason="A reply text is always valid UTF-8")
def _(p: Play) -> None:
    p.say(publish(1, "k", b"x", NOT_UTF_8))  # type: ignore[arg-type]
    p.wait("basic.return")


# --- arguments that are refused ---------------------------------------------------------------------------------------

REFUSED: list[tuple[str, Any]] = [
    ("x-message-ttl", -1),
    ("x-message-ttl", 2**32),
    ("x-message-ttl", 315360000000),
    ("x-message-ttl", 315360000001),
    ("x-message-ttl", 2**62),
    ("x-message-ttl", 1.0),
    ("x-message-ttl", "1"),
    ("x-message-ttl", None),
    ("x-message-ttl", True),
    ("x-message-ttl", b"1"),
    ("x-message-ttl", [1]),
    ("x-message-ttl", {"a": 1}),
    ("x-expires", 0),
    ("x-expires", -1),
    ("x-expires", 2**32),
    ("x-expires", 315360000001),
    ("x-expires", None),
    ("x-max-length", -1),
    ("x-max-length", "many"),
    ("x-max-length-bytes", -1),
    ("x-max-priority", 256),
    ("x-max-priority", -1),
    ("x-max-priority", 255),
    ("x-queue-version", 1),
    ("x-queue-version", 2),
    ("x-queue-version", 3),
    ("x-queue-version", 0),
    ("x-queue-version", -1),
    ("x-queue-version", "2"),
    ("x-queue-mode", "lazy"),
    ("x-queue-mode", "eager"),
    ("x-queue-mode", 1),
    ("x-queue-mode", None),
    ("x-queue-type", "nonsense"),
    ("x-queue-type", 1),
    ("x-queue-type", None),
    ("x-overflow", "spill"),
    ("x-overflow", 1),
    ("x-overflow", None),
    ("x-single-active-consumer", 1),
    ("x-single-active-consumer", "true"),
    ("x-single-active-consumer", None),
    ("x-dead-letter-exchange", 1),
    ("x-dead-letter-exchange", None),
    ("x-dead-letter-exchange", b"bytes"),
    ("x-dead-letter-routing-key", "k"),
    ("x-dead-letter-routing-key", 1),
    ("x-dead-letter-strategy", "at-most-once"),
    ("x-delivery-limit", 5),
    ("x-max-in-memory-length", 5),
    ("x-max-in-memory-bytes", 5),
    ("x-quorum-initial-group-size", 3),
    ("x-initial-cluster-size", 3),
    ("x-max-age", "1D"),
    ("x-stream-max-segment-size-bytes", 500),
    ("x-queue-leader-locator", "balanced"),
    ("x-queue-master-locator", "client-local"),
    ("x-unknown", 5),
]
for name, value in REFUSED:

    @script(f"an argument of a queue: {name}={value!r}")
    def _(p: Play, name: str = name, value: Any = value) -> None:
        p.ask("queue.declare", queue="refused", arguments={name: value})


@script("an argument that RabbitMQ fails with", reason="RabbitMQ ends the connection with 541")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="refused", arguments={"x-queue-master-locator": 5})


@script("arguments of a consumer")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    for arguments in (
        {"x-priority": "high"},
        {"x-priority": 1.0},
        {"x-priority": None},
        {"x-priority": True},
        {"x-priority": -5},
        {"x-stream-offset": "first"},
        {"x-stream-offset": 5},
        {"x-cancel-on-ha-failover": True},
        {"x-cancel-on-ha-failover": 1},
        {"x-credit": {"credit": 1, "drain": False}},
        {"x-unknown": 1},
    ):
        p.ask("basic.consume", queue="q", arguments=arguments)


# --- messages ---------------------------------------------------------------------------------------------------------

PROPERTIES: list[dict[str, Any]] = [
    {"delivery_mode": 0},
    {"delivery_mode": 1},
    {"delivery_mode": 2},
    {"delivery_mode": 3},
    {"delivery_mode": 255},
    {"expiration": ""},
    {"expiration": "soon"},
    {"expiration": "-1"},
    {"expiration": "+60000"},
    {"expiration": "60000x"},
    {"expiration": "60000.5"},
    {"expiration": "4294967296"},
    {"expiration": "315360000000"},
    {"expiration": "315360000001"},
    {"user_id": "guest"},
    {"user_id": "somebody"},
    {"headers": {"CC": "q"}},
    {"headers": {"CC": ["q"]}},
    {"headers": {"CC": [1, "q"]}},
    {"headers": {"BCC": "q"}},
    {"headers": {"BCC": None}},
    {"headers": {"CC": 1, "BCC": 2}},
    {"headers": {"CC": 1}, "delivery_mode": 3},
    {"reply_to": "amq.rabbitmq.reply-to"},
    {"priority": 255},
]
for named in PROPERTIES:

    @script(f"a publish with {named}")
    def _(p: Play, named: dict[str, Any] = named) -> None:
        p.ask("queue.declare", queue="q")
        p.publish("q", b"x", **named)
        p.ask("basic.get", queue="q", no_ack=True)


@script("the weight of a content header", reason="Malformed frames: the reply code is RabbitMQ's")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    p.publish_frames("q", b"none", 0)
    p.publish_frames("q", b"some", 7)
    p.ask("basic.get", queue="q", no_ack=True)
    p.ask("basic.get", queue="q", no_ack=True)


@script("immediate")
def _(p: Play) -> None:
    p.say(method(1, "basic.publish", routing_key="q", immediate=True) + publish(1, "q")[-22:])
    p.wait("basic.return")


@script("publishes to an internal exchange, and to a missing one")
def _(p: Play) -> None:
    p.ask("exchange.declare", exchange="inner", type="fanout", internal=True)
    p.publish("", b"x", "inner")
    p.publish("", b"x", "missing")


@script("an alternate exchange")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    p.ask("queue.bind", queue="q", exchange="amq.fanout")
    for alternate in ("amq.fanout", "", "missing"):
        p.ask("exchange.declare", exchange=f"x{alternate}", type="direct", arguments={"alternate-exchange": alternate})
        p.say(publish(1, "q", b"x", f"x{alternate}", mandatory=True))
        p.barrier()
        p.ask("basic.get", queue="q", no_ack=True)


@script("a dead-letter exchange that is the default one")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    p.ask("queue.declare", queue="from", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"})
    p.publish("from", b"x")
    p.ask("basic.get", queue="from")
    p.note("basic.reject", delivery_tag=1, requeue=False)
    p.ask("basic.consume", queue="q", no_ack=True)
    p.wait("basic.deliver")


# --- the headers exchange ---------------------------------------------------------------------------------------------

MATCHES: list[tuple[Any, Any]] = [
    (1, 1),
    (1, 1.0),
    (1.0, 1),
    (1, True),
    (True, True),
    (1, "1"),
    (0, False),
    ("a", "a"),
    ("a", b"a"),
    (b"a", "a"),
    (2**40, float(2**40)),
    (2**53 + 1, float(2**53)),
    (None, 5),
    (5, None),
    ([1, 2], [1, 2]),
    ([1, 2], [2, 1]),
    ([1], [1.0]),
    ([1], [True]),
    (["a"], [b"a"]),
    ({"a": 1}, {"a": 1}),
    ({"a": 1}, {"a": 1.0}),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({"a": {"b": [1]}}, {"a": {"b": [1]}}),
    ([None], [None]),
    ([None], [1]),
    ([], {}),
    ([], []),
    ({}, {}),
    ([], ""),
]


@script("values that a headers exchange takes for equal")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    for wanted, given in MATCHES:
        p.ask("queue.bind", queue="q", exchange="amq.headers", arguments={"v": wanted})
        p.publish("", f"{wanted!r}, {given!r}".encode(), "amq.headers", headers={"v": given, "w": 1})
        p.ask("basic.get", queue="q", no_ack=True)
        p.ask("queue.unbind", queue="q", exchange="amq.headers", arguments={"v": wanted})


@script("timestamps and decimals in a headers exchange")
def _(p: Play) -> None:
    from datetime import datetime, timezone
    from decimal import Decimal

    p.ask("queue.declare", queue="q")
    time = datetime(1970, 1, 1, 0, 0, 7, tzinfo=timezone.utc)
    for wanted, given in (
        (time, time),
        (7, time),
        (time, 7),
        (7.0, time),
        ([7], [time]),
        (Decimal("1.5"), Decimal("1.5")),
        (Decimal("1.5"), Decimal("1.50")),
        (Decimal("1.5"), 1.5),
        (Decimal(7), 7),
        ([Decimal("1.5")], [Decimal("1.5")]),
    ):
        p.ask("queue.bind", queue="q", exchange="amq.headers", arguments={"v": wanted})
        p.publish("", f"{wanted!r}, {given!r}".encode(), "amq.headers", headers={"v": given})
        p.ask("basic.get", queue="q", no_ack=True)
        p.ask("queue.unbind", queue="q", exchange="amq.headers", arguments={"v": wanted})


@script("x-match")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    for match in ("all", "any", "all-with-x", "any-with-x", "some", 5, None, True, b"all"):
        arguments = {"x-match": match, "a": 1, "x-b": 2}
        p.ask("queue.bind", queue="q", exchange="amq.headers", arguments=arguments)
        for headers in ({}, {"a": 1}, {"x-b": 2}, {"a": 1, "x-b": 2}):
            p.publish("", f"{match} {headers}".encode(), "amq.headers", headers=headers)
            p.ask("basic.get", queue="q", no_ack=True)
        p.ask("queue.unbind", queue="q", exchange="amq.headers", arguments=arguments)
        empty = {"x-match": match}
        p.ask("queue.bind", queue="q", exchange="amq.headers", arguments=empty)
        p.publish("", f"{match}, empty".encode(), "amq.headers")
        p.ask("basic.get", queue="q", no_ack=True)
        p.ask("queue.unbind", queue="q", exchange="amq.headers", arguments=empty)


# --- consuming --------------------------------------------------------------------------------------------------------


def consumers(p: Play, *priorities: int) -> None:
    for number, priority in enumerate(priorities):
        tag = f"c{number}"
        p.ask("basic.consume", queue="q", consumer_tag=tag, no_ack=True, arguments={"x-priority": priority})


@script("single active consumer, with priorities")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q", arguments={"x-single-active-consumer": True})
    consumers(p, 0, 5, 10, 10, -1)
    for tag in ("c0", "c2", "c1", "c3"):
        p.say(publish(1, "q", b"before " + tag.encode()))
        p.wait("basic.deliver")
        p.ask("basic.cancel", consumer_tag=tag)
    p.say(publish(1, "q", b"the last"))
    p.wait("basic.deliver")


@script("single active consumer: a newcomer of higher priority waits")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q", arguments={"x-single-active-consumer": True})
    consumers(p, 1)
    p.say(publish(1, "q", b"1"))
    p.wait("basic.deliver")
    p.ask("basic.consume", queue="q", consumer_tag="high", no_ack=True, arguments={"x-priority": 9})
    p.say(publish(1, "q", b"2"))
    p.wait("basic.deliver")
    p.ask("basic.cancel", consumer_tag="high")
    p.say(publish(1, "q", b"3"))
    p.wait("basic.deliver")


@script("exclusive consumers")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    p.ask("basic.consume", queue="q", consumer_tag="c", exclusive=True)
    other = p.other()
    other.ask("basic.consume", queue="q")
    other.ask("basic.consume", queue="q", exclusive=True)
    p.ask("basic.cancel", consumer_tag="c")
    p.ask("basic.consume", queue="q", consumer_tag="c")
    other.ask("basic.consume", queue="q", exclusive=True)
    p.ask("basic.consume", queue="q", consumer_tag="c")


@script("an exclusive consumer of a queue with a single active one")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q", arguments={"x-single-active-consumer": True})
    p.ask("basic.consume", queue="q", exclusive=True)


@script("deletes with conditions")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    p.publish("q", b"x")
    p.ask("queue.delete", queue="q", if_empty=True)
    p.ask("basic.consume", queue="q", consumer_tag="c", no_ack=True)
    p.wait("basic.deliver")
    p.ask("queue.delete", queue="q", if_unused=True)
    p.ask("queue.bind", queue="q", exchange="amq.fanout")
    p.ask("exchange.declare", exchange="x", type="fanout")
    p.ask("queue.bind", queue="q", exchange="x")
    p.ask("exchange.delete", exchange="x", if_unused=True)
    p.ask("queue.delete", queue="q")
    p.ask("exchange.delete", exchange="x", if_unused=True)


@script("what cannot be acknowledged")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    for name in ("basic.ack", "basic.nack", "basic.reject"):
        p.note(name, delivery_tag=1)
    p.note("basic.ack", delivery_tag=0)
    p.note("basic.ack", delivery_tag=0, multiple=True)
    p.note("basic.ack", delivery_tag=5, multiple=True)
    p.publish("q", b"x")
    p.ask("basic.get", queue="q")
    p.note("basic.ack", delivery_tag=1)
    p.note("basic.ack", delivery_tag=1)


@script("methods that RabbitMQ doesn't implement")
def _(p: Play) -> None:
    p.ask("basic.qos", prefetch_size=1)
    p.ask("channel.flow", active=False)
    p.ask("basic.recover", requeue=False)
    p.ask("basic.recover", requeue=True)
    p.note("basic.recover-async", requeue=True)
    p.note("basic.recover-async", requeue=False)


# --- direct reply-to --------------------------------------------------------------------------------------------------


@script("the queue of direct reply-to")
def _(p: Play) -> None:
    for passive in (True, False):
        p.ask("queue.declare", queue="amq.rabbitmq.reply-to", passive=passive)
        p.ask("queue.declare", queue="amq.rabbitmq.reply-to.nobody", passive=passive)
        p.ask("queue.declare", queue="amq.rabbitmq.reply-tomorrow", passive=passive)
    p._declared.clear()
    p.ask("basic.consume", queue="amq.rabbitmq.reply-to", no_ack=False)
    p.ask("basic.consume", queue="amq.rabbitmq.reply-to", consumer_tag="r", no_ack=True)
    p.ask("basic.consume", queue="amq.rabbitmq.reply-to", consumer_tag="s", no_ack=True)


@script("replies by CC and BCC, and mandatory ones")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    p.ask("basic.consume", queue="amq.rabbitmq.reply-to", consumer_tag="r", no_ack=True)
    p.say(publish(1, "q", b"request", reply_to="amq.rabbitmq.reply-to"))
    p.barrier()
    p.say(method(1, "basic.get", queue="q", no_ack=True))
    p.wire.wait(lambda: len(p.wire.frames) > 2)
    header = p.wire.frames[1][1]
    p.wire.frames.clear()
    at = header.index(b"amq.rabbitmq.reply-to.")
    token = header[at : at + header[at - 1]].decode()
    server = p.other()
    server.ask("queue.declare", queue=token, passive=True)
    for copies in ({"CC": [token]}, {"BCC": [token]}, {"CC": [token, "q"]}):
        server.publish("nowhere", repr(sorted(copies)).encode(), headers=copies)
        p.wait("basic.deliver")
    server.publish(token, b"reply")
    p.wait("basic.deliver")
    server.publish("nowhere", b"by another exchange", "amq.direct", headers={"CC": [token]})
    server.say(publish(1, token, b"mandatory", mandatory=True))
    p.wait("basic.deliver")
    p.barrier()
    server.say(publish(1, token, b"twice", headers={"CC": [token]}))
    p.wait("basic.deliver")
    p.barrier()
    p.lines[:] = [text.replace(token, "TOKEN") for text in p.lines]


# --- opening and closing a connection ---------------------------------------------------------------------------------


def greet(p: Play, version: str = "0-9-1") -> SocketWire:
    wire = SocketWire(p._broker, version)
    wire.say(PROTOCOL_HEADERS[version])
    return wire


@script("logging in")
def _(p: Play) -> None:
    logins: list[Login] = []
    for mechanism, response in (
        ("PLAIN", plain()),
        ("PLAIN", plain(password="wrong")),
        ("PLAIN", b"\0guest\0"),
        ("AMQPLAIN", amqplain("guest", "guest")),
        ("AMQPLAIN", amqplain("guest", "wrong")),
    ):
        logins += [(mechanism, response, None), (mechanism, response, {})]
    log_in(p, logins)


MALFORMED = [b"guest" + plain(), b"\0guest", plain() + b"\0", b"nonsense", b""]


@script("malformed logins")
def _(p: Play) -> None:
    log_in(p, [*(("PLAIN", response, {}) for response in MALFORMED), ("NONSENSE", plain(), {})])


@script(
    "malformed logins of a client that expects to be told", reason="A malformed login is refused with 403, in words"
)
def _(p: Play) -> None:
    log_in(p, [*(("PLAIN", response, None) for response in MALFORMED), ("NONSENSE", plain(), None)])


def log_in(p: Play, logins: list[Login]) -> None:
    """Logs in in each of these ways: all at once, since RabbitMQ refuses with a delay of one to three seconds."""
    wires = []
    for mechanism, response, capabilities in logins:
        wire = greet(p)
        wire.expect("connection.start")
        wire.log_in(mechanism, response, capabilities)
        wires.append(wire)
    for wire, (mechanism, response, capabilities) in zip(wires, logins, strict=True):
        wire.wait(lambda: bool(wire.frames))  # noqa: B023
        seen = [what for _, what in wire.frames]
        name = seen[0].name if seen else "the link is lost"
        told = f" {seen[0].reply_code} {seen[0].reply_text}" if name == "connection.close" else ""
        p.lines.append(f"{mechanism} {response!r} {capabilities}: {name}{told}")
        wire.socket.close()


@script("virtual hosts")
def _(p: Play) -> None:
    for vhost in ("/", "missing"):
        wire = greet(p)
        wire.expect("connection.start")
        wire.log_in().tune().enter(vhost)
        wire.wait(lambda: bool(wire.frames))  # noqa: B023
        p.lines.append(str(wire.frames[0][1]))
        wire.socket.close()


@script("what comes behind connection.close is discarded, and the client hangs up")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    body = b"x" * 100_000
    close = method(0, "connection.close", reply_code=200, reply_text="", class_id=0, method_id=0)
    p.say(publish(1, "q", b"before"), close, *[publish(1, "q", body)] * 20)
    p.wait("connection.close-ok")
    for _ in range(200):  # more than the buffers of the kernel hold
        p.say(publish(1, "q", body))
    p.lines.append(f"hung up: {p.wire.hung_up}")
    other = p.other()
    other.ask("queue.declare", queue="q", passive=True)


@script("what a channel that the broker closes ignores until close-ok")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    p.publish("q", b"unacknowledged")
    p.ask("basic.get", queue="q")
    p.say(method(1, "basic.ack", delivery_tag=99))
    p.say(method(1, "basic.ack", delivery_tag=1), method(1, "basic.ack", delivery_tag=98))
    p.say(method(1, "queue.declare", queue="unheard"), publish(1, "q", b"unheard"))
    p.say(method(1, "exchange.declare", exchange="x", type="nonsense"))
    p.lines.append(str(p.wire.expect("channel.close")))
    p.say(method(1, "channel.close-ok"))
    p.ask("channel.open")
    p.ask("queue.declare", queue="unheard", passive=True)
    p.ask("basic.get", queue="q", no_ack=True)
    p.ask("basic.get", queue="q", no_ack=True)


@script("channel.close of both ends at once")
def _(p: Play) -> None:
    p.say(method(1, "basic.ack", delivery_tag=99))
    p.say(method(1, "channel.close", reply_code=200, reply_text="", class_id=0, method_id=0))
    p.lines.append(p.wire.expect("channel.close").name)
    p.wait("channel.close-ok")
    p.say(method(1, "channel.close-ok"))
    p.ask("channel.open")


# --- quorum queues, which the embedded broker pretends to have --------------------------------------------------------

QUORUM = {"x-queue-type": "quorum"}


@script("declaring quorum queues")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="qq", arguments=QUORUM)
    p.ask("queue.declare", queue="qq", durable=True, exclusive=True, arguments=QUORUM)
    p.ask("queue.declare", queue="qq", durable=True, auto_delete=True, arguments=QUORUM)
    p.ask("queue.declare", queue="", durable=True, arguments=QUORUM)
    p.ask("queue.declare", queue="qq", durable=True, arguments={**QUORUM, "x-max-priority": 5})
    p.ask("queue.declare", queue="qq", durable=True, arguments={**QUORUM, "x-queue-mode": "lazy"})
    p.ask("queue.declare", queue="qq", durable=True, arguments={**QUORUM, "x-queue-version": 2})
    p.ask("queue.declare", queue="qq", durable=True, arguments={**QUORUM, "x-max-age": "1D"})
    p.ask("queue.declare", queue="qq", durable=True, arguments={**QUORUM, "x-delivery-limit": 2})
    p.ask("queue.declare", queue="qq", durable=True, arguments={**QUORUM, "x-delivery-limit": 2})
    p.ask("queue.declare", queue="qq", durable=True, arguments={**QUORUM, "x-delivery-limit": 3})
    p.ask("queue.declare", queue="qq", durable=True, arguments=QUORUM)
    p.ask("queue.declare", queue="qq", durable=True)
    p.ask("queue.declare", queue="qq", durable=True, passive=True)


@script("the delivery limit of a quorum queue")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="dead")
    limited = {"x-delivery-limit": 2, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    p.ask("queue.declare", queue="qq", durable=True, arguments={**QUORUM, **limited})
    p.ask("confirm.select")
    p.say(publish(1, "qq", b"x", headers={"a": "b"}))
    p.wait("basic.ack")
    p.ask("basic.consume", queue="dead", consumer_tag="d", no_ack=True)
    p.ask("basic.consume", queue="qq", consumer_tag="c")
    for tag in (1, 2, 3):
        p.wait("basic.deliver", header="x-delivery-count")
        p.say(method(1, "basic.nack", delivery_tag=tag, requeue=True))
    p.wait("basic.deliver", header="x-first-death-reason")


@script("basic.get of a quorum queue counts from 0")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="qq", durable=True, arguments=QUORUM)
    p.ask("confirm.select")

    def get(**arguments: Any) -> None:
        p.say(method(1, "basic.get", queue="qq", **arguments))
        p.wait("basic.get-ok", header="x-delivery-count")

    for headers in (None, {"a": 1}, {"x-delivery-count": 7}):
        p.say(publish(1, "qq", b"x", headers=headers))
        p.wait("basic.ack")
        get()
        p.ask("basic.recover", requeue=True)
        get()
        p.ask("basic.recover", requeue=True)
        get(no_ack=True)
    p.ask("queue.declare", queue="dead")
    to_dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    p.ask("queue.declare", queue="q2", durable=True, arguments={**QUORUM, **to_dead})
    p.ask("basic.consume", queue="dead", consumer_tag="d", no_ack=True)
    p.say(publish(1, "q2", b"x"))
    p.wait("basic.ack")
    p.ask("basic.get", queue="q2")
    p.say(method(1, "basic.nack", delivery_tag=10, requeue=False))
    p.wait("basic.deliver", header="x-delivery-count")


@script("global qos and a quorum queue")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="qq", durable=True, arguments=QUORUM)
    p.ask("basic.qos", prefetch_count=5, **{"global": True})
    p.ask("basic.consume", queue="qq", consumer_tag="c")


# --- 0-8 --------------------------------------------------------------------------------------------------------------


@script("0-8: what the server says of itself", version="0-8")
def _(p: Play) -> None:
    wire = greet(p, "0-8")
    start = wire.expect("connection.start")
    p.lines.append(f"{start.version_major} {start.version_minor} {start.server_properties['capabilities']}")
    wire.socket.close()


@script("0-8: basic.recover", version="0-8")
def _(p: Play) -> None:
    p.ask("queue.declare", queue="q")
    p.publish("q", b"x")
    p.ask("basic.get", queue="q")
    p.say(RECOVER_OF_0_8[100])
    p.barrier()
    p.ask("basic.get", queue="q")
    p.say(RECOVER_OF_0_8[110])
    p.wait("basic.recover-ok")
    p.ask("basic.get", queue="q")


def _recover(number: int) -> bytes:
    payload = bytes((0, 60, 0, number, 1))
    return b"\x01\x00\x01" + len(payload).to_bytes(4, "big") + payload + b"\xce"


RECOVER_OF_0_8 = {number: _recover(number) for number in (100, 110)}


# --- the tests --------------------------------------------------------------------------------------------------------


def lines_of(script: Script, broker: Any) -> list[str]:
    play = Play(broker, script.version)
    try:
        script.play(play)
        return play.lines
    finally:
        play.end()


def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORD.read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def pretending() -> Iterator[Served]:
    """An embedded broker that pretends to have quorum queues."""
    with serve(pretend="quorum") as running:
        yield running


@pytest.mark.needs(ANSWERS_OF_3_10)
@pytest.mark.parametrize(
    "name",
    # RabbitMQ answers a failed login after three seconds.
    [
        pytest.param(name, marks=pytest.mark.long) if "logging in" in name or "logins" in name else name
        for name in SCRIPTS
    ],
)
def test_rabbitmq_gives_the_recorded_lines(node: RabbitNode, name: str) -> None:
    lines = lines_of(SCRIPTS[name], node)
    if os.environ.get("CPSPIKA_RECORD"):
        known = recorded() if RECORD.exists() else {}
        known[name] = {**known.get(name, {}), "rabbitmq": lines}
        kept = {one: known[one] for one in SCRIPTS if one in known}
        RECORD.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    assert lines == recorded()[name]["rabbitmq"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_embedded_broker_gives_the_same_lines(pretending: Served, name: str) -> None:
    found, record = SCRIPTS[name], recorded()[name]
    lines = lines_of(found, pretending)
    if not found.reason:
        assert lines == record["rabbitmq"]
        return
    if os.environ.get("CPSPIKA_RECORD"):
        known = recorded()
        known[name]["embedded"] = lines
        RECORD.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    assert lines == recorded()[name]["embedded"]
    assert lines != record["rabbitmq"], "both brokers agree, so there is no difference to give a reason for"
    assert found.reason in " ".join(LIST.read_text("utf-8").split()), "docs/broker.md has the list of differences"
