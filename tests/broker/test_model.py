"""The model as a whole: dead letters and their history, and what a virtual host refuses."""

from __future__ import annotations

import inspect
import sys
from datetime import datetime, timezone
from typing import Any

import pytest

from cpspika import (
    AccessRefused,
    CommandInvalid,
    ConnectionClosed,
    InvalidArgument,
    Message,
    NotFound,
    PreconditionFailed,
)
from cpspika.broker import virtual_host
from cpspika.wire.fields import Seconds
from tests.support.broker_model import BrokerServices, QueueConsumer


@pytest.fixture
def model() -> BrokerServices:
    return BrokerServices()


def to(queue: str, **more: Any) -> dict[str, Any]:
    """Arguments: what dies goes to this queue."""
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue, **more}


# --- dead letters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["rejected", "expired", "maxlen"])
def test_what_dies_goes_to_the_dead_letter_exchange_with_its_history(model: BrokerServices, reason: str) -> None:
    model.queue("dead")
    limits: dict[str, Any] = {"expired": {"x-message-ttl": 50}, "maxlen": {"x-max-length": 0}}.get(reason, {})
    queue = model.queue("q", to("dead", **limits))
    model.bind("amq.topic", "q", "a.*")
    model.publish("amq.topic", "a.b", "x", content_type="text/plain", headers={"mine": 1}, message_id="7")
    if reason == "rejected":
        QueueConsumer(queue).reject()
    model.turn(1)
    (dead,) = model.vhost.queues["dead"].messages
    assert (dead.body, dead.exchange, dead.routing_key) == (b"x", "", "dead")
    properties = dead.properties
    assert (properties.content_type, properties.message_id) == ("text/plain", "7")
    (death,) = properties.headers.pop("x-death")
    assert abs((datetime.now(timezone.utc) - death.pop("time")).total_seconds()) < 60
    assert death == {
        "count": 1,
        "reason": reason,
        "queue": "q",
        "exchange": "amq.topic",
        "routing-keys": ["a.b"],
    }
    assert properties.headers == {
        "mine": 1,
        "x-first-death-exchange": "amq.topic",
        "x-first-death-queue": "q",
        "x-first-death-reason": reason,
    }


def test_without_a_dead_letter_exchange_it_is_dropped(model: BrokerServices) -> None:
    QueueConsumer(model.queue("q")).leave()
    model.publish("", "q", "x", expiration="1")
    model.turn(1)
    assert model.load.bytes == 0


def test_a_dead_letter_exchange_that_is_not_there_drops(model: BrokerServices) -> None:
    model.queue("q", {"x-dead-letter-exchange": "missing", "x-message-ttl": 1})
    model.publish("", "q", "x")
    model.turn(1)
    assert model.load.bytes == 0


def test_without_a_dead_letter_routing_key_it_keeps_its_own(model: BrokerServices) -> None:
    model.queue("q", {"x-dead-letter-exchange": "amq.direct", "x-message-ttl": 1}), model.queue("dead")
    model.bind("amq.direct", "dead", "q")
    model.publish("", "q", "x")
    model.turn(1)
    (dead,) = model.vhost.queues["dead"].messages
    assert (dead.exchange, dead.routing_key) == ("amq.direct", "q")


def test_the_expiration_is_taken_off_and_told(model: BrokerServices) -> None:
    """Else it would die again where it lies."""
    model.queue("dead"), model.queue("q", to("dead"))
    model.publish("", "q", "x", expiration="20")
    model.turn(100)
    (dead,) = model.vhost.queues["dead"].messages
    assert dead.properties.expiration is None
    assert dead.properties.headers["x-death"][0]["original-expiration"] == "20"


def test_deaths_are_told_newest_first_and_counted_by_queue_and_reason(model: BrokerServices) -> None:
    model.queue("end")
    model.queue("slow", to("q", **{"x-message-ttl": 50}))
    queue = model.queue("q", to("slow"))
    taker = QueueConsumer(queue, prefetch=1)
    model.publish("", "q", "x")
    for _ in range(3):
        taker.reject()  # to "slow", where it expires, and comes back
        model.turn(1)
    assert taker.held[0].message.properties.headers["x-first-death-queue"] == "q"
    deaths = taker.held[0].message.properties.headers["x-death"]
    assert [(death["queue"], death["reason"], death["count"]) for death in deaths] == [
        ("slow", "expired", 3),
        ("q", "rejected", 3),
    ]


def test_a_message_is_not_led_in_a_circle_that_nobody_broke(model: BrokerServices) -> None:
    """One that only ever expired doesn't come back to a queue that it died in (RabbitMQ)."""
    model.queue("a", to("b", **{"x-message-ttl": 10}))
    model.queue("b", to("a", **{"x-message-ttl": 10}))
    model.publish("", "a", "x")
    model.turn(0.015)
    assert model.bodies("b") == ["x"]
    model.turn(0.01)
    assert (model.bodies("a"), model.bodies("b"), model.load.bytes) == ([], [], 0)


def test_a_queue_that_is_its_own_dead_letter_queue(model: BrokerServices) -> None:
    model.queue("q", to("q", **{"x-max-length": 1}))
    for body in "abc":
        model.publish("", "q", body)
    assert model.bodies("q") == ["c"]
    assert "x-death" not in (model.vhost.queues["q"].messages[0].properties.headers or {})


def test_a_rejected_one_comes_round_as_often_as_it_is_rejected(model: BrokerServices) -> None:
    queue = model.queue("q", to("q"))
    taker = QueueConsumer(queue, prefetch=1)
    model.publish("", "q", "x")
    for _ in range(5):
        taker.reject()
    assert taker.got == ["x"] * 6
    assert taker.held[0].message.properties.headers["x-death"][0]["count"] == 5


def test_dead_letters_keep_their_order(model: BrokerServices) -> None:
    model.queue("dead"), model.queue("q", to("dead", **{"x-message-ttl": 10}))
    for body in "abcde":
        model.publish("", "q", body)
    model.turn(1)
    assert model.bodies("dead") == list("abcde")


def test_dead_letters_go_through_bindings_to_several_queues(model: BrokerServices) -> None:
    model.exchange("dlx")
    for name in ("one", "two"):
        model.queue(name), model.bind("dlx", name)
    model.queue("q", {"x-dead-letter-exchange": "dlx", "x-max-length": 0})
    model.publish("", "q", "x")
    assert (model.bodies("one"), model.bodies("two")) == (["x"], ["x"])


def test_copies_by_cc_are_told_and_not_made_again(model: BrokerServices) -> None:
    for name in ("dead", "copy"):
        model.queue(name)
    model.queue("q", to("dead", **{"x-message-ttl": 10}))
    model.publish("", "q", "x", headers={"CC": ["copy"], "BCC": ["nobody"]})
    model.turn(1)
    assert model.bodies("copy") == ["x"]
    (dead,) = model.vhost.queues["dead"].messages
    assert "CC" not in dead.properties.headers
    assert dead.properties.headers["x-death"][0]["routing-keys"] == ["q", "copy"]


def test_a_chain_of_queues_is_handled_in_slices(model: BrokerServices) -> None:
    """The table of deaths grows with each queue; others are served meanwhile."""
    length = 60
    for number in range(length):
        model.queue(f"q{number}", to(f"q{number + 1}", **{"x-message-ttl": 0}))
    model.queue(f"q{length}"), model.queue("other")
    model.publish("", "q0", "x")
    assert model.load.bytes > 0, "a dead letter that waits counts as memory"
    turns = 0
    while not model.bodies(f"q{length}"):
        model.publish("", "other", "served")
        assert model.bodies("other")[-1] == "served"
        turns += 1
        assert turns < length, "the dead letter did not arrive"
        model.clock.run_once(0)
    assert turns >= length**2 // 2 // virtual_host.DEAD_LETTER_SLICE // 2, "a turn makes two slices at most"
    (dead,) = model.vhost.queues[f"q{length}"].messages
    assert [death["queue"] for death in dead.properties.headers["x-death"]] == [
        f"q{n}" for n in reversed(range(length))
    ]


def test_dead_letters_keep_their_order_over_several_slices(
    model: BrokerServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(virtual_host, "DEAD_LETTER_SLICE", 3)
    model.queue("dead"), model.queue("q", to("dead", **{"x-message-ttl": 10}))
    for number in range(20):
        model.publish("", "q", str(number))
    model.turn(1)
    assert model.bodies("dead") == [str(number) for number in range(20)]
    model.vhost.delete_queue(model.vhost.queues["dead"])
    assert model.load.bytes == 0


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else "core"


POISON = [
    {"x-death": [{"queue": "q", "reason": "expired", "count": 2**63 - 1}]},
    {"x-death": [{"queue": "q", "reason": "expired", "count": Seconds(2**63 - 1)}]},
    {"since": datetime(1960, 1, 1, tzinfo=timezone.utc)},
    {"since": Seconds(-(2**63))},
    {"CC": [nested(98)]},
    {"x-death": [{"routing-keys": nested(97)}]},
]


@pytest.mark.parametrize("headers", POISON, ids=range(len(POISON)))
def test_a_message_that_is_hard_to_write_again_is_dead_lettered_all_the_same(
    model: BrokerServices, headers: dict[str, Any]
) -> None:
    model.queue("dead"), model.queue("q", to("dead", **{"x-message-ttl": 10}))
    model.publish("", "q", "hard", headers=headers)
    model.publish("", "q", "next")
    model.turn(1)
    assert model.bodies("dead") == ["hard", "next"]
    kept = model.vhost.queues["dead"].messages[0].properties.headers
    assert kept["x-death"][0]["count"] == (2**63 - 1 if "count" in str(headers) else 1)
    assert all(kept[name] == value for name, value in headers.items() if name not in ("CC", "x-death"))


def test_a_dead_letter_that_fails_is_dropped_alone(
    model: BrokerServices, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model.queue("dead"), model.queue("q", to("dead", **{"x-message-ttl": 10}))
    with_death = virtual_host.with_death

    def fails(message: Message, *rest: Any) -> Any:
        if message.body == b"poison":
            raise InvalidArgument("it cannot be encoded")
        return with_death(message, *rest)

    monkeypatch.setattr(virtual_host, "with_death", fails)
    for body in ("poison", "next"):
        model.publish("", "q", body)
    model.turn(1)
    assert model.bodies("dead") == ["next"]
    assert "cannot be encoded" in caplog.text


@pytest.mark.parametrize(
    "history", [5, "text", {"a": 1}, [5], [None], [{}], [{"queue": "q", "reason": "expired", "count": "many"}], [[]]]
)
def test_a_history_of_the_publishers_own_making_does_no_harm(model: BrokerServices, history: Any) -> None:
    """What RabbitMQ makes of each isn't told here; it must only not fail, since it may fail in a timer."""
    model.queue("dead"), model.queue("q", to("dead", **{"x-message-ttl": 10}))
    model.publish("", "q", "x", headers={"x-death": history})
    model.publish("", "q", "y")
    model.turn(1)
    assert model.bodies("dead")[-1] == "y"
    assert model.bodies("q") == []


@pytest.mark.slow
def test_a_chain_of_dead_letter_queues_longer_than_the_stack(model: BrokerServices) -> None:
    for number in range(150):
        model.queue(f"q{number}", to(f"q{number + 1}", **{"x-max-length": 0}))
    model.queue("q150")
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        model.publish("", "q0", "x")
        model.turn(1)
    finally:
        sys.setrecursionlimit(usual)
    assert model.bodies("q150") == ["x"]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_exchanges_that_may_not_be_touched(model: BrokerServices) -> None:
    vhost = model.vhost
    default = r"ACCESS_REFUSED - operation not permitted on the default exchange"
    with pytest.raises(AccessRefused, match=default):
        model.exchange("")
    with pytest.raises(AccessRefused, match=default):
        vhost.delete_exchange("", False)
    model.queue("q")
    with pytest.raises(AccessRefused, match=default):
        model.bind("", "q", "k")
    with pytest.raises(AccessRefused, match=default):
        model.unbind("", "q", "q")
    with pytest.raises(AccessRefused, match=r"deletion of system exchange 'amq.direct' in vhost '/' not allowed"):
        vhost.delete_exchange("amq.direct", False)
    with pytest.raises(AccessRefused, match=r"exchange name 'amq.foo' contains reserved prefix 'amq\.\*'"):
        model.exchange("amq.foo")
    with pytest.raises(AccessRefused, match=r"queue name 'amq.foo' contains reserved prefix 'amq\.\*'"):
        model.queue("amq.foo")


def test_what_is_not_there(model: BrokerServices) -> None:
    with pytest.raises(NotFound, match=r"NOT_FOUND - no queue 'missing' in vhost '/'"):
        model.bind("amq.direct", "missing")
    model.queue("q")
    with pytest.raises(NotFound, match=r"NOT_FOUND - no exchange 'missing' in vhost '/'"):
        model.bind("missing", "q")
    with pytest.raises(NotFound):
        model.join("amq.direct", "missing")


def test_to_unbind_what_is_not_there_is_no_error(model: BrokerServices) -> None:
    model.queue("q")
    model.unbind("missing", "q")
    model.unbind("amq.direct", "missing")
    model.part("missing", "missing too")


def test_an_unknown_type_of_exchange_ends_the_connection(model: BrokerServices) -> None:
    with pytest.raises(CommandInvalid, match="COMMAND_INVALID - unknown exchange type 'bogus'") as caught:
        model.exchange("e", "bogus")
    assert isinstance(caught.value, ConnectionClosed)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"type": "direct"}, "arg 'type' for exchange 'e' in vhost '/': received 'direct' but current is 'fanout'"),
        ({"durable": True}, "arg 'durable' for exchange 'e' in vhost '/': received 'true' but current is 'false'"),
        ({"internal": True}, "arg 'internal' for exchange 'e' in vhost '/': received 'true' but current is 'false'"),
    ],
)
def test_an_exchange_that_differs_is_refused(model: BrokerServices, change: dict[str, Any], why: str) -> None:
    model.exchange("e")
    model.exchange("e")
    declared = {"type": "fanout", "durable": False, "auto_delete": False, "internal": False, **change}
    with pytest.raises(PreconditionFailed) as caught:
        model.vhost.declare_exchange("e", passive=False, arguments={}, **declared)
    assert caught.value.text == f"PRECONDITION_FAILED - inequivalent {why}"


def test_passive_looks_at_the_name_alone(model: BrokerServices) -> None:
    model.exchange("e")
    model.vhost.declare_exchange("e", "direct", True, True, True, True, {"x": 1})
    with pytest.raises(NotFound):
        model.vhost.declare_exchange("missing", "direct", True, False, False, False, {})


def test_the_predeclared_exchanges_are_there(model: BrokerServices) -> None:
    kinds = {name: exchange.type for name, exchange in model.vhost.exchanges.items()}
    assert kinds == {
        "": "direct",
        "amq.direct": "direct",
        "amq.fanout": "fanout",
        "amq.topic": "topic",
        "amq.headers": "headers",
        "amq.match": "headers",
        "amq.rabbitmq.trace": "topic",
    }


def test_it_tells_what_it_is(model: BrokerServices) -> None:
    model.queue("q"), model.bind("amq.topic", "q", "a.*", {"n": 1})
    assert repr(model.vhost) == "<VirtualHost '/': 7 exchanges, 1 queues>"
    assert repr(model.vhost.exchanges["amq.topic"]) == "<Exchange 'amq.topic', topic, 1 bindings>"
    (binding,) = model.vhost.bindings
    assert binding == ("amq.topic", "q", "queue", "a.*", {"n": 1})
