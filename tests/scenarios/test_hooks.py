"""`cpspika.instrument`: what hooks see, the same in every style."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import cpspika
from tests.support.hooked import Noting, inside, noting
from tests.support.styles import Scenario, Style, scenario

WATCHING = tuple(
    f"cpspika/{name}.py" for name in ("client/hooks", "client/watching", "client/trace", "styles/watched", "wire/words")
)


@pytest.fixture
def hooks() -> Iterator[Noting]:
    with noting() as noted:
        yield noted


@scenario()
def test_a_message_from_publish_to_ack(s: Style, hooks: Noting) -> Scenario:
    connection = yield s.connect()
    ch = yield connection.channel()
    queue = (yield ch.queue_declare(exclusive=True)).queue
    got: list[Any] = []
    own = cpspika.BasicProperties(headers={"own": 1})

    def on_message(message: Any) -> None:
        got.append((inside.get(), message.properties.headers))
        message.ack()

    yield ch.basic_publish("", queue, "x", own)
    yield ch.basic_consume(queue, on_message)
    yield s.until(lambda: hooks.of("settled") and hooks.of("delivered"))
    assert got == [("x", {"own": 1, "noted": 1})]
    assert own.headers == {"own": 1}, "the program's properties are its own"
    assert hooks.of("publishing") == [("publishing", type(ch.subject).__name__, "", queue)]
    assert hooks.of("published") == [("published", 1, type(None))]
    assert sorted(hooks.of("delivering", "delivered", "settled", "raised")) == [
        ("delivered", b"x"),
        ("delivering", b"x"),
        ("settled", b"x", "ack"),
    ]
    assert hooks.seen.index(("delivering", b"x")) < hooks.seen.index(("settled", b"x", "ack"))
    assert hooks.of("connection") == [("connection", "opened")]
    yield connection.close()
    yield s.until(lambda: len(hooks.of("connection")) == 2)
    assert hooks.of("connection") == [("connection", "opened"), ("connection", "closed")]


@scenario()
def test_basic_get_and_every_way_to_settle(s: Style, hooks: Noting) -> Scenario:
    ch = yield from s.channel()
    queue = (yield ch.queue_declare(exclusive=True)).queue
    yield [ch.basic_publish("", queue, body) for body in ("1", "2", "3")]
    first, second = (yield ch.basic_get(queue)), (yield ch.basic_get(queue))
    second.reject(requeue=False)
    first.nack(requeue=False)
    third = yield ch.basic_get(queue, no_ack=True)
    assert third.body == b"3"
    assert (yield ch.basic_get(queue)) is None
    assert hooks.of("fetched") == [("fetched", b"1"), ("fetched", b"2"), ("fetched", b"3")]
    nack = "reject" if s.protocol == "0-8" else "nack"
    assert hooks.of("settled") == [("settled", b"2", "reject"), ("settled", b"1", nack)]


@scenario()
def test_an_ack_of_several_settles_each_message(s: Style, hooks: Noting) -> Scenario:
    ch = yield from s.channel()
    queue = (yield ch.queue_declare(exclusive=True)).queue
    yield [ch.basic_publish("", queue, body) for body in "12345"]
    got = []
    for _ in range(5):
        got.append((yield ch.basic_get(queue)))
    yield ch.basic_ack(got[1].delivery_tag)
    yield ch.basic_ack(got[2].delivery_tag, multiple=True)
    assert [body for _, body, _ in hooks.of("settled")] == [b"2", b"1", b"3"]
    yield ch.basic_ack(0, multiple=True)
    assert [body for _, body, _ in hooks.of("settled")] == [b"2", b"1", b"3", b"4", b"5"]


@scenario(only="0-9-1")
def test_a_publish_ends_as_its_confirm_says(s: Style, hooks: Noting) -> Scenario:
    ch = yield from s.channel()
    yield ch.confirm_select()
    queue = (yield ch.queue_declare(exclusive=True)).queue
    assert (yield ch.basic_publish("", queue, "x"))
    with pytest.raises(cpspika.MessageReturned):
        yield ch.basic_publish("", s.name(), "x", mandatory=True)
    assert hooks.of("published") == [("published", 1, type(None)), ("published", 2, cpspika.MessageReturned)]


class Raising:
    """Each hook fails, in each way that it can."""

    def publishing(self, *details: Any) -> Any:
        raise RuntimeError("publishing")

    published = delivering = settled = fetched = connection = publishing


class Wrong:
    def publishing(self, channel: Any, exchange: str, routing_key: str, properties: Any) -> Any:
        return {"headers": {"way too long a key" * 20: object()}}

    def delivering(self, message: Any) -> Any:
        return None


class KeepsBack:
    def delivering(self, message: Any) -> Any:
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *error: Any) -> bool:
        return True


BLAMED: dict[type, tuple[str, ...]] = {
    Raising: ("publishing", "published", "delivering", "settled", "fetched", "connection"),
    Wrong: ("publishing", "delivering"),
    KeepsBack: (),
}


@pytest.mark.parametrize("kind", [Raising, Wrong, KeepsBack])
@scenario(recovers=False)
def test_a_hook_that_fails_costs_no_message(s: Style, kind: Any, caplog: Any) -> Scenario:
    remove = cpspika.instrument(kind())
    try:
        ch = yield from s.channel()
        queue = (yield ch.queue_declare(exclusive=True)).queue
        got: list[Any] = []
        yield ch.basic_publish("", queue, "x", {"headers": {"own": 1}})
        yield ch.basic_publish("", queue, "y", {"headers": {"own": 1}})
        message = yield ch.basic_get(queue)
        message.ack()
        yield ch.basic_consume(queue, lambda message: (got.append(message), message.ack()))
        yield s.until(lambda: got)
        assert [each.body for each in (message, *got)] == [b"x", b"y"]
        assert message.properties.headers == got[0].properties.headers == {"own": 1}
        assert (yield ch.queue_declare(queue, passive=True)).message_count == 0
    finally:
        remove()
    blamed = {record.message.partition(" ")[0] for record in caplog.records if record.levelname == "ERROR"}
    assert blamed == {f"hooks.{name}" for name in BLAMED[kind]}


@scenario()
def test_without_hooks_nothing_of_theirs_is_called(s: Style) -> Scenario:
    """As a profiler sees it: not one function of the modules that watch, in any thread."""
    recording, called = [False], set()

    def profile(frame: Any, event: str, _: Any) -> None:
        if recording[0] and event == "call" and frame.f_code.co_filename.endswith(WATCHING):
            called.add((frame.f_code.co_filename, frame.f_code.co_name))

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        ch = yield from s.channel()
        queue = (yield ch.queue_declare(exclusive=True)).queue
        got: list[Any] = []
        yield ch.basic_consume(queue, lambda message: (got.append(message), message.ack()))
        recording[0] = True
        yield [ch.basic_publish("", queue, "x") for _ in range(3)]
        yield s.until(lambda: len(got) == 3)
        if s.protocol == "0-9-1":
            yield ch.confirm_select()
            yield ch.basic_publish("", queue, "x")
            yield s.until(lambda: len(got) == 4)
        recording[0] = False
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    assert called == set()


@scenario(recovers=False)
def test_a_channel_that_is_open_calls_hooks_from_then_on_and_no_more_when_they_go(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue = (yield ch.queue_declare(exclusive=True)).queue
    core = getattr(ch.subject, "core", ch.subject)
    parts = [type(part) for part in (core, core._publisher, core._sender)]
    with noting() as one:
        yield ch.basic_publish("", queue, "1")
        with noting() as other:
            yield ch.basic_publish("", queue, "2")
        yield ch.basic_publish("", queue, "3")
    yield ch.basic_publish("", queue, "4")
    assert len(one.of("publishing")) == 3
    assert len(other.of("publishing")) == 1
    assert [type(part) for part in (core, core._publisher, core._sender)] == parts, "unused, hooks cost nothing"
