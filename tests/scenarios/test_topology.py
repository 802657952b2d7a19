"""Exchanges, queues and bindings: declared, used, refused and deleted."""

from __future__ import annotations

from typing import Any

import pytest

from cpspika import AccessRefused, ChannelClosed, NotFound, PreconditionFailed, ResourceLocked
from tests.support.styles import Scenario, Style, scenario


def bodies(ch: Any, queue: str) -> Any:
    """What a queue holds, taken off it: `found = yield from bodies(ch, queue)`."""
    found = []
    while True:
        message = yield ch.basic_get(queue, no_ack=True)
        if message is None:
            return found
        found.append(message.body.decode())


def bodies_of_each(ch: Any, names: list[str]) -> Any:
    found = []
    for name in names:
        found.append((yield from bodies(ch, name)))
    return found


def queues(ch: Any, count: int) -> Any:
    """Names of new queues, of this connection alone."""
    declared = yield [ch.queue_declare(exclusive=True) for _ in range(count)]
    return [ok.queue for ok in declared]


@scenario()
def test_declare_bind_publish_consume_ack(s: Style) -> Scenario:
    ch = yield from s.channel()
    exchange, queue, got = s.name(), s.name(), []
    yield ch.exchange_declare(exchange, type="fanout", auto_delete=True)
    ok = yield ch.queue_declare(queue, exclusive=True)
    assert ok == (queue, 0, 0)
    assert (ok.queue, ok.message_count, ok.consumer_count) == ok
    yield ch.queue_bind(queue, exchange)
    yield ch.basic_publish(exchange, "key", "Hello World!")
    tag = yield ch.basic_consume(queue, got.append)
    yield s.until(lambda: got)
    (message,) = got
    assert (message.body, message.exchange, message.routing_key) == (b"Hello World!", exchange, "key")
    assert (message.consumer_tag, message.redelivered) == (tag, False)
    message.ack()
    yield ch.basic_cancel(tag)
    yield ch.basic_recover()
    assert (yield ch.queue_declare(queue, passive=True)).message_count == 0


@scenario(recovers=False)
def test_server_named_queue(s: Style) -> Scenario:
    ch = yield from s.channel()
    first = yield ch.queue_declare(exclusive=True)
    second = yield ch.queue_declare("", exclusive=True)
    assert first.queue.startswith("amq.gen")
    assert first.queue != second.queue


@scenario()
def test_the_same_declaration_twice_is_no_error(s: Style) -> Scenario:
    ch = yield from s.channel()
    exchange, queue = s.name(), s.name()
    for _ in range(2):
        yield ch.exchange_declare(exchange, type="topic", auto_delete=True, arguments={"x-own": [1, "two"]})
        yield ch.queue_declare(queue, durable=True, auto_delete=True, arguments={"x-message-ttl": 60000})
        yield ch.queue_bind(queue, exchange, "a.*")
    yield ch.exchange_declare(exchange, type="topic", passive=True)
    yield ch.queue_delete(queue)


@scenario()
def test_the_channels_last_queue_is_bound_and_consumed_by_an_empty_name(s: Style) -> Scenario:
    ch = yield from s.channel()
    ok = yield ch.queue_declare(exclusive=True)
    yield ch.queue_bind("", "amq.direct", ok.queue)
    yield ch.basic_publish("amq.direct", ok.queue, "x")
    assert (yield from bodies(ch, "")) == ["x"]
    yield ch.basic_publish("amq.direct", ok.queue, "y")
    assert (yield ch.queue_purge("")) == 1
    assert (yield ch.queue_delete("")) == 0


@scenario()
def test_fanout(s: Style) -> Scenario:
    ch = yield from s.channel()
    one, two, three = yield from queues(ch, 3)
    yield ch.queue_bind(one, "amq.fanout")
    yield ch.queue_bind(two, "amq.fanout", "whatever")
    yield ch.basic_publish("amq.fanout", "key", "x")
    assert (yield from bodies_of_each(ch, [one, two, three])) == [["x"], ["x"], []]
    yield ch.queue_unbind(one, "amq.fanout")
    yield ch.basic_publish("amq.fanout", "key", "y")
    assert (yield from bodies_of_each(ch, [one, two])) == [[], ["y"]]


@scenario()
def test_direct(s: Style) -> Scenario:
    ch = yield from s.channel()
    exchange = s.name()
    yield ch.exchange_declare(exchange, auto_delete=True)
    one, two = yield from queues(ch, 2)
    yield [
        ch.queue_bind(one, exchange, "red"),
        ch.queue_bind(one, exchange, "blue"),
        ch.queue_bind(two, exchange, "red"),
    ]
    for key in ("red", "blue", "green", ""):
        yield ch.basic_publish(exchange, key, key)
    assert (yield from bodies(ch, one)) == ["red", "blue"]
    assert (yield from bodies(ch, two)) == ["red"]


@scenario()
def test_topic(s: Style) -> Scenario:
    ch = yield from s.channel()
    exchange = s.name()
    yield ch.exchange_declare(exchange, type="topic", auto_delete=True)
    patterns = ["#", "*.orange.*", "*.*.rabbit", "lazy.#", "lazy", ""]
    names = yield from queues(ch, len(patterns))
    yield [ch.queue_bind(queue, exchange, pattern) for queue, pattern in zip(names, patterns, strict=True)]
    keys = ["quick.orange.rabbit", "lazy.brown.fox", "lazy", "quick.rabbit", "", "a.b.c.d"]
    for key in keys:
        yield ch.basic_publish(exchange, key, key)
    found = yield from bodies_of_each(ch, names)
    assert dict(zip(patterns, found, strict=True)) == {
        "#": keys,
        "*.orange.*": ["quick.orange.rabbit"],
        "*.*.rabbit": ["quick.orange.rabbit"],
        "lazy.#": ["lazy.brown.fox", "lazy"],
        "lazy": ["lazy"],
        "": [""],
    }


@scenario()
def test_headers_exchange(s: Style) -> Scenario:
    ch = yield from s.channel()
    every, some = yield from queues(ch, 2)
    mark = s.name()
    yield ch.queue_bind(every, "amq.headers", arguments={"x-match": "all", "mark": mark, "n": 1})
    yield ch.queue_bind(some, "amq.headers", arguments={"x-match": "any", "mark": mark, "m": 2})
    for body, headers in {"both": {"mark": mark, "n": 1}, "one": {"mark": mark}, "none": {"n": 2}}.items():
        yield ch.basic_publish("amq.headers", "", body, {"headers": headers})
    assert (yield from bodies(ch, every)) == ["both"]
    assert (yield from bodies(ch, some)) == ["both", "one"]
    yield ch.queue_unbind(some, "amq.headers", arguments={"x-match": "any", "mark": mark, "m": 2})
    yield ch.basic_publish("amq.headers", "", "after", {"headers": {"mark": mark}})
    assert (yield from bodies(ch, some)) == []


@scenario(only="0-9-1")
def test_exchange_to_exchange(s: Style) -> Scenario:
    ch = yield from s.channel()
    source, destination = s.name(), s.name()
    yield ch.exchange_declare(source, type="topic", auto_delete=True)
    yield ch.exchange_declare(destination, type="fanout", internal=True)
    (queue,) = yield from queues(ch, 1)
    yield ch.queue_bind(queue, destination)
    yield ch.exchange_bind(destination, source, "a.#", {"x-own": True})
    yield ch.basic_publish(source, "a.b", "in")
    yield ch.basic_publish(source, "b.a", "out")
    yield ch.exchange_unbind(destination, source, "a.#", {"x-own": True})
    yield ch.exchange_delete(destination)
    assert (yield from bodies(ch, queue)) == ["in"]


@scenario(only="0-9-1")
def test_an_internal_exchange_takes_no_publishes(s: Style) -> Scenario:
    ch = yield from s.channel()
    exchange = s.name()
    yield ch.exchange_declare(exchange, internal=True, auto_delete=True)
    yield ch.confirm_select()
    with pytest.raises(AccessRefused):
        yield ch.basic_publish(exchange, "", "x")


@scenario()
def test_get_and_get_empty(s: Style) -> Scenario:
    ch = yield from s.channel()
    (queue,) = yield from queues(ch, 1)
    assert (yield ch.basic_get(queue)) is None
    yield ch.basic_publish("", queue, "one")
    yield ch.basic_publish("", queue, "two")
    first = yield ch.basic_get(queue)
    assert (first.body, first.message_count, first.consumer_tag) == (b"one", 1, None)
    first.ack()
    second = yield ch.basic_get(queue, no_ack=True)
    assert (second.body, second.message_count, second.routing_key) == (b"two", 0, queue)
    assert (yield ch.basic_get(queue)) is None


@scenario()
def test_purge(s: Style) -> Scenario:
    ch = yield from s.channel()
    (queue,) = yield from queues(ch, 1)
    for _ in range(3):
        yield ch.basic_publish("", queue, "x")
    assert (yield ch.queue_purge(queue)) == 3
    assert (yield ch.queue_purge(queue)) == 0
    assert (yield ch.basic_get(queue)) is None


@scenario()
def test_delete_tells_how_many_messages_went(s: Style) -> Scenario:
    ch = yield from s.channel()
    (queue,) = yield from queues(ch, 1)
    yield ch.basic_publish("", queue, "x")
    yield ch.basic_publish("", queue, "y")
    assert (yield ch.queue_delete(queue)) == 2
    with pytest.raises(NotFound):
        yield ch.queue_declare(queue, passive=True)


@scenario(recovers=False)
def test_delete_if_empty_and_if_unused(s: Style) -> Scenario:
    connection = yield s.connect()
    queue, exchange = s.name(), s.name()
    ch = yield connection.channel()
    yield ch.queue_declare(queue, exclusive=True)
    yield ch.basic_publish("", queue, "x")
    with pytest.raises(PreconditionFailed):
        yield ch.queue_delete(queue, if_empty=True)
    ch = yield connection.channel()
    assert (yield ch.queue_purge(queue)) == 1
    yield ch.basic_consume(queue, lambda message: None)
    with pytest.raises(PreconditionFailed):
        yield ch.queue_delete(queue, if_unused=True)
    ch = yield connection.channel()
    yield ch.exchange_declare(exchange)
    yield ch.queue_bind(queue, exchange)
    with pytest.raises(PreconditionFailed):
        yield ch.exchange_delete(exchange, if_unused=True)
    ch = yield connection.channel()
    assert (yield ch.queue_delete(queue, if_unused=True, if_empty=True)) == 0
    yield ch.exchange_delete(exchange, if_unused=True)


@scenario()
def test_an_exclusive_queue_is_locked_for_others_and_goes_with_its_connection(s: Style) -> Scenario:
    owner = yield s.connect()
    other = yield s.connect()
    queue = s.name()
    ch = yield owner.channel()
    yield ch.queue_declare(queue, exclusive=True)
    locked = yield other.channel()
    with pytest.raises(ResourceLocked) as caught:
        yield locked.queue_declare(queue, passive=True)
    assert caught.value.code == 405
    yield owner.close()
    free = yield other.channel()
    with pytest.raises(NotFound):
        yield free.queue_declare(queue, passive=True)


@scenario(recovers=False)
def test_not_found_closes_the_channel_alone(s: Style) -> Scenario:
    connection = yield s.connect()
    bystander = yield connection.channel()
    queue = (yield bystander.queue_declare(exclusive=True)).queue
    for ask in (
        lambda ch: ch.queue_declare("cpspika-nothing", passive=True),
        lambda ch: ch.exchange_declare("cpspika-nothing", passive=True),
        lambda ch: ch.queue_bind(queue, "cpspika-nothing"),
        lambda ch: ch.basic_consume("cpspika-nothing", lambda message: None),
        lambda ch: ch.basic_get("cpspika-nothing"),
    ):
        ch = yield connection.channel()
        with pytest.raises(NotFound) as caught:
            yield ask(ch)
        error = caught.value
        assert isinstance(error, ChannelClosed)
        assert error.code == 404
        assert "cpspika-nothing" in error.text
        assert not ch.is_open
        assert isinstance(ch.close_reason, NotFound)
        with pytest.raises(ChannelClosed, match="cpspika-nothing"):
            yield ch.queue_declare(exclusive=True)
    assert connection.is_open
    yield bystander.basic_publish("", queue, "still here")
    assert (yield from bodies(bystander, queue)) == ["still here"]


@scenario()
def test_a_different_declaration_is_refused(s: Style) -> Scenario:
    connection = yield s.connect()
    queue, exchange = s.name(), s.name()
    ch = yield connection.channel()
    yield ch.queue_declare(queue, exclusive=True)
    yield ch.exchange_declare(exchange, auto_delete=True)
    with pytest.raises(PreconditionFailed, match="x-max-length") as caught:
        yield ch.queue_declare(queue, exclusive=True, arguments={"x-max-length": 5})
    assert caught.value.code == 406
    assert caught.value.method == "queue.declare"
    ch = yield connection.channel()
    with pytest.raises(PreconditionFailed, match="type"):
        yield ch.exchange_declare(exchange, type="fanout", auto_delete=True)


@scenario()
def test_a_name_of_the_brokers_own_is_refused(s: Style) -> Scenario:
    ch = yield from s.channel()
    with pytest.raises(AccessRefused) as caught:
        yield ch.queue_declare("amq.mine")
    assert caught.value.code == 403
