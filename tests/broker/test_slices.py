"""Long work of one client is done in slices: what comes of it is the same, and no turn of the reactor is long.

The default run counts turns, on small slices. The long run measures the longest turn with many messages and bindings.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from cpspika.broker import channel as channel_module
from cpspika.broker import queues as queues_module
from cpspika.broker import session as session_module
from cpspika.broker import virtual_host as virtual_host_module
from tests.support.raw_client import MemoryWire, MemoryWorld, method, publish

SMALL = 20
MANY = 10 * SMALL
SEVERAL = 4  # turns, at least, of work in ten slices; a turn makes calls twice
CLOSE = {"reply_code": 200, "reply_text": "", "class_id": 0, "method_id": 0}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small slices."""
    monkeypatch.setattr(queues_module, "SLICE", SMALL)
    monkeypatch.setattr(channel_module, "SLICE", SMALL)
    monkeypatch.setattr(session_module, "QUEUES", SMALL)
    monkeypatch.setattr(virtual_host_module, "UNBINDINGS", SMALL)
    monkeypatch.setattr(virtual_host_module, "DEAD_LETTER_SLICE", SMALL)


def bodies(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def filled(count: int = MANY, **arguments: object) -> tuple[MemoryWorld, MemoryWire]:
    world = MemoryWorld(memory_high=4 << 30)
    wire = world.opened()
    wire.ask(1, "queue.declare", queue="q", arguments=arguments)
    for start in range(0, count, 1000):
        wire.say(*(publish(1, "q", body) for body in bodies(count)[start : start + 1000])).heard()
    return world, wire


def held(count: int = MANY, **arguments: object) -> tuple[MemoryWorld, MemoryWire]:
    """A client that holds all messages."""
    world, _ = filled(count, **arguments)
    wire = world.opened()
    wire.ask(1, "basic.consume", queue="q", consumer_tag="c")
    wire.heard()
    assert world.broker.queues["q"].unacknowledged == count
    wire.say(method(1, "basic.cancel", consumer_tag="c")).expect("basic.cancel-ok")
    return world, wire


def turns_until(world: MemoryWorld, done: Callable[[], bool]) -> int:
    turns = 0
    while not done():
        world.reactor.run_once(0)
        turns += 1
        assert turns < 10_000, "it does not end"
    return turns


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["queue.purge", "queue.delete"])
def test_dropped_messages_are_forgotten_in_slices(name: str) -> None:
    world, wire = filled()
    wire.say(method(1, name, queue="q"))
    other = world.opened()
    other.say(method(1, "queue.declare", queue="other"))
    wire.wait(lambda: any(getattr(what, "name", "") == f"{name}-ok" for _, what in wire.frames))
    assert wire.expect(f"{name}-ok").message_count == MANY
    assert turns_until(world, lambda: world.broker.memory.bytes == 0) <= MANY / SMALL + 5


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("how", ["nack", "recover", "close", "vanish"])
def test_many_messages_return_in_order(how: str) -> None:
    world, wire = held()
    if how == "nack":
        wire.say(method(1, "basic.nack", delivery_tag=0, multiple=True, requeue=True))
    elif how == "recover":
        wire.say(method(1, "basic.recover", requeue=True))
    elif how == "close":
        wire.say(method(1, "channel.close", **CLOSE))
    else:
        wire.transport.abort()
    queue = world.broker.queues["q"]
    assert turns_until(world, lambda: queue.unacknowledged == 0) >= SEVERAL
    assert world.bodies("q") == bodies(MANY)
    if how == "recover":
        wire.expect("basic.recover-ok")


@pytest.mark.usefixtures("small")
def test_no_message_overtakes_those_that_return() -> None:
    """A consumer waits while 200 messages return, and a later one is published meanwhile."""
    world, wire = held()
    other = world.opened()
    other.ask(1, "basic.consume", queue="q")
    wire.say(method(1, "basic.nack", delivery_tag=0, multiple=True, requeue=True))
    other.say(publish(1, "q", b"later"))
    world.reactor.settle()
    got = [what for _, what in other.frames if isinstance(what, bytes) and not what.startswith(b"\0\x3c")]
    assert got == [*bodies(MANY), b"later"]


@pytest.mark.usefixtures("small")
def test_the_clients_next_methods_wait_for_long_work() -> None:
    _, wire = held()
    wire.say(
        method(1, "basic.nack", delivery_tag=0, multiple=True, requeue=True),
        method(1, "basic.get", queue="q", no_ack=True),
    )
    assert wire.expect("basic.get-ok").message_count == MANY - 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("outcome", ["ack", "nack"])
def test_many_settlements(outcome: str) -> None:
    world, wire = held(**{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    wire.ask(1, "queue.declare", queue="dead")
    arguments = {"requeue": False} if outcome == "nack" else {}
    wire.say(method(1, f"basic.{outcome}", delivery_tag=0, multiple=True, **arguments))
    queue = world.broker.queues["q"]
    assert turns_until(world, lambda: queue.unacknowledged == 0) >= SEVERAL
    world.reactor.settle()
    assert world.bodies("dead") == (bodies(MANY) if outcome == "nack" else [])
    assert bool(world.broker.memory.bytes) == (outcome == "nack")


@pytest.mark.usefixtures("small")
def test_two_clients_return_messages_that_lay_between_each_other() -> None:
    world, _ = filled()
    wires = [world.opened(), world.opened()]
    for wire in wires:
        wire.ask(1, "basic.qos", prefetch_count=MANY // 2)
        wire.say(method(1, "basic.consume", queue="q", consumer_tag="c"))
    world.reactor.settle()
    for wire in wires:
        wire.say(method(1, "basic.cancel", consumer_tag="c"), method(1, "basic.recover", requeue=True))
    world.reactor.settle()
    assert world.bodies("q") == bodies(MANY)


@pytest.mark.usefixtures("small")
def test_a_long_transaction() -> None:
    world, wire = filled(0, **{"x-max-length": MANY - 1, "x-overflow": "reject-publish"})
    wire.ask(1, "tx.select")
    wire.say(*(publish(1, "q", body) for body in bodies(MANY - 1))).heard()
    wire.ask(1, "tx.commit")
    assert world.bodies("q") == bodies(MANY - 1)
    wire.say(*(publish(1, "q", body) for body in bodies(MANY)), method(1, "tx.commit"))
    assert wire.expect("channel.close").reply_text == "PRECONDITION_FAILED - partial tx completion"


@pytest.mark.usefixtures("small")
def test_a_client_that_leaves_amid_its_transaction_has_committed_it() -> None:
    world, wire = filled(0)
    wire.ask(1, "tx.select")
    wire.say(*(publish(1, "q", body) for body in bodies(MANY))).heard()
    wire.say(method(1, "tx.commit"))
    world.reactor.run_once(0)
    wire.transport.abort()
    world.reactor.settle()
    assert world.bodies("q") == bodies(MANY)
    assert not world.broker.sessions


@pytest.mark.usefixtures("small")
def test_many_messages_expire_in_slices() -> None:
    world, _ = filled(**{"x-message-ttl": 1000})
    world.reactor.advance(2)
    world.reactor.settle()
    assert world.bodies("q") == []
    assert world.broker.memory.bytes == 0


def bound(count: int, type: str = "direct", exclusive: bool = False) -> tuple[MemoryWorld, MemoryWire]:
    world = MemoryWorld()
    wire = world.opened()
    wire.ask(1, "exchange.declare", exchange="x", type=type)
    wire.ask(1, "queue.declare", queue="b", exclusive=exclusive)
    for start in range(0, count, 1000):
        numbers = range(start, min(start + 1000, count))
        named = {"queue": "b", "exchange": "x", "no_wait": True}
        wire.say(*(method(1, "queue.bind", routing_key=f"k.{n}", arguments={"n": n}, **named) for n in numbers)).heard()
    return world, wire


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("type", ["direct", "fanout", "topic", "headers"])
def test_the_bindings_of_a_deleted_queue_are_gone_at_once(type: str) -> None:
    """A new queue of the same name gets none of them, though they are still being forgotten."""
    world, wire = bound(MANY, type)
    again = method(1, "queue.delete", queue="b") + method(1, "queue.declare", queue="b")
    again += method(1, "queue.bind", queue="b", exchange="x", routing_key="new", arguments={"n": -1})
    last = publish(1, f"k.{0}", b"old", "x", headers={"n": 0}) + publish(1, "new", b"new", "x", headers={"n": -1})
    wire.say(again + last).heard()
    assert world.bodies("b") == ([b"old", b"new"] if type == "fanout" else [b"new"])
    world.reactor.settle()
    exchange = world.broker.exchanges["x"]
    assert (len(exchange.bindings), exchange.gone) == (1, set())


@pytest.mark.usefixtures("small")
def test_many_exclusive_queues_end_with_their_connection() -> None:
    world = MemoryWorld()
    wire = world.opened()
    wire.say(*(method(1, "queue.declare", queue=f"q{n}", exclusive=True, no_wait=True) for n in range(MANY))).heard()
    assert len(world.broker.queues) == MANY
    wire.transport.abort()
    assert turns_until(world, lambda: not world.broker.queues) >= SEVERAL


# --- how long a turn is -----------------------------------------------------------------------------------------------

LONGEST = 0.1  # seconds of the processor, by which nobody else waits longer


def longest_turn(world: MemoryWorld, act: Callable[[], object]) -> float:
    """The longest turn of the reactor, in seconds of the processor, until nothing is left to do."""
    started = time.process_time()
    act()
    longest = time.process_time() - started
    while world.reactor._ready:
        started = time.process_time()
        world.reactor.run_once(0)
        longest = max(longest, time.process_time() - started)
    return longest


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("basic.ack", {"delivery_tag": 0, "multiple": True}),
        ("basic.nack", {"delivery_tag": 0, "multiple": True, "requeue": True}),
        ("basic.nack", {"delivery_tag": 0, "multiple": True, "requeue": False}),
        ("basic.recover", {"requeue": True}),
        ("channel.close", CLOSE),
    ],
)
def test_many_held_messages_hold_up_nobody(name: str, arguments: dict[str, object]) -> None:
    world, wire = held(30_000, **{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    wire.ask(1, "queue.declare", queue="dead")
    assert longest_turn(world, lambda: wire.say(method(1, name, **arguments))) < LONGEST


@pytest.mark.long
@pytest.mark.parametrize("name", ["queue.purge", "queue.delete"])
def test_many_dropped_messages_hold_up_nobody(name: str) -> None:
    world, wire = filled(300_000)
    assert longest_turn(world, lambda: wire.say(method(1, name, queue="q"))) < LONGEST


@pytest.mark.long
def test_a_big_transaction_holds_up_nobody() -> None:
    world, wire = filled(0)
    wire.ask(1, "tx.select")
    for _ in range(100):
        wire.say(publish(1, "q", b"x") * 1000).heard()
    assert longest_turn(world, lambda: wire.say(method(1, "tx.commit"))) < LONGEST


@pytest.mark.long
@pytest.mark.parametrize("type", ["direct", "topic", "headers"])
@pytest.mark.parametrize("what", ["queue", "exchange", "connection"])
def test_many_bindings_hold_up_nobody(type: str, what: str) -> None:
    world, wire = bound(50_000, type, exclusive=what == "connection")
    ends = {
        "queue": lambda: wire.say(method(1, "queue.delete", queue="b")),
        "exchange": lambda: wire.say(method(1, "exchange.delete", exchange="x")),
        "connection": wire.transport.abort,
    }
    assert longest_turn(world, ends[what]) < LONGEST
