"""Long work of one client is done in slices: what comes of it is the same, and no turn of the reactor is long.

The default run counts turns, on small slices. The long run measures the longest turn with many messages and bindings.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import pytest

from cpspika.broker import channel as channel_module
from cpspika.broker import methods as methods_module
from cpspika.broker import queues as queues_module
from cpspika.broker import session as session_module
from cpspika.broker import virtual_host as virtual_host_module
from cpspika.broker.store import NULL_STORE
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
    monkeypatch.setattr(methods_module, "SLICE", SMALL)
    monkeypatch.setattr(virtual_host_module, "SLICE", SMALL)
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
        wire.say(*(publish(1, "q", b"%d" % number) for number in range(start, min(start + 1000, count)))).heard()
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


def fan_out(count: int, **options: object) -> tuple[MemoryWorld, MemoryWire]:
    """Many queues, each bound to amq.fanout."""
    world = MemoryWorld(**options)
    wire = world.opened()
    for number in range(count):
        wire.say(
            method(1, "queue.declare", queue=f"q{number}", no_wait=True),
            method(1, "queue.bind", queue=f"q{number}", exchange="amq.fanout", no_wait=True),
        )
    wire.heard()
    return world, wire


def in_all(world: MemoryWorld, count: int = MANY) -> set[tuple[bytes, ...]]:
    return {tuple(world.bodies(f"q{number}")) for number in range(count)}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("mode", ["confirm", "tx"])
def test_a_publish_to_many_queues(mode: str) -> None:
    world, wire = fan_out(MANY)
    wire.ask(1, f"{mode}.select")
    commit = [method(1, "tx.commit")] if mode == "tx" else []
    wire.say(*(publish(1, "", body, "amq.fanout", mandatory=True) for body in (b"1", b"2")), *commit)
    last = world.broker.queues[f"q{MANY - 1}"]
    assert turns_until(world, lambda: bool(len(last))) >= SEVERAL
    assert not wire.frames, "the answer came before the last queue had the message"
    answers = wire.heard()
    assert "basic.return" not in answers
    assert answers[-1] == ("tx.commit-ok" if mode == "tx" else "basic.ack")
    assert in_all(world) == {(b"1", b"2")}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("mode", ["confirm", "tx"])
def test_one_of_many_queues_refuses_a_message(mode: str) -> None:
    world, wire = fan_out(MANY - 1)
    wire.ask(1, "queue.declare", queue="full", arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    wire.ask(1, "queue.bind", queue="full", exchange="amq.fanout")
    wire.ask(1, f"{mode}.select")
    wire.say(publish(1, "", b"1", "amq.fanout"), *([method(1, "tx.commit")] if mode == "tx" else []))
    wire.expect("channel.close" if mode == "tx" else "basic.nack")
    assert in_all(world, MANY - 1) == {(b"1",)}


@pytest.mark.usefixtures("small")
def test_queues_that_end_while_a_message_goes_to_many() -> None:
    world, wire = fan_out(MANY)
    other = world.opened()
    other.say(publish(1, "", b"x", "amq.fanout"))
    turns_until(world, lambda: bool(len(world.broker.queues["q0"])))
    last = world.broker.queues[f"q{MANY - 1}"]
    wire.ask(1, "queue.delete", queue=last.name)
    assert len(last) == 0
    for number in range(MANY - 1):
        wire.ask(1, "queue.purge", queue=f"q{number}")
    world.reactor.settle()
    assert world.broker.memory.bytes == 0


@pytest.mark.usefixtures("small")
def test_a_client_that_leaves_while_its_message_goes_to_many_queues() -> None:
    world, _ = fan_out(MANY)
    other = world.opened()
    other.say(publish(1, "", b"x", "amq.fanout"))
    turns_until(world, lambda: bool(len(world.broker.queues["q0"])))
    other.vanish()
    assert in_all(world) == {(b"x",)}


class _LateStore(type(NULL_STORE)):  # type: ignore[misc]
    """A store that has nothing safe until `calls` are made."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def flush(self, on_safe: Callable[[], object]) -> None:
        self.calls.append(on_safe)


@pytest.mark.usefixtures("small")
def test_the_confirm_waits_for_the_store_though_others_publish_between_the_slices() -> None:
    world, _ = fan_out(MANY)
    world.broker.store = store = _LateStore()
    wire, other = world.opened(), world.opened()
    for each in (wire, other):
        each.ask(1, "confirm.select")
    wire.say(publish(1, "", b"x", "amq.fanout"))
    turns_until(world, lambda: bool(len(world.broker.queues["q0"])))
    store.taken = True  # a queue of the second slice writes the message
    world.reactor.run_once(0)
    other.say(publish(1, "q0", b"y"))
    assert other.heard() == ["basic.ack"]
    assert wire.heard() == []
    (safe,) = store.calls
    safe()
    assert wire.heard() == ["basic.ack"]


def expired_behind_one(world: MemoryWorld, wire: MemoryWire, count: int, behind: list[bytes]) -> None:
    """The queue q has a message, many expired ones behind it, and then these."""
    wire.ask(1, "queue.declare", queue="q")
    wire.say(publish(1, "q", b"first"))
    for _ in range(0, count, 10):
        wire.say(*[publish(1, "q", b"late", expiration="10")] * 10).heard()
    wire.say(*(publish(1, "q", body) for body in behind))
    world.reactor.advance(1)
    assert len(world.broker.queues["q"]) == 1 + count + len(behind)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("behind", [[], [b"last"]])
def test_basic_get_meets_many_expired_messages(behind: list[bytes]) -> None:
    world = MemoryWorld()
    wire = world.opened()
    expired_behind_one(world, wire, MANY, behind)
    assert wire.say(method(1, "basic.get", queue="q", no_ack=True)).heard() == ["basic.get-ok"]
    wire.say(method(1, "basic.get", queue="q", no_ack=True))
    assert turns_until(world, lambda: bool(wire.frames)) >= SEVERAL
    assert wire.heard() == (["basic.get-ok"] if behind else ["basic.get-empty"])
    assert world.broker.memory.bytes == 0


@pytest.mark.usefixtures("small")
def test_the_queue_ends_while_basic_get_drops_expired_messages() -> None:
    world = MemoryWorld()
    wire, other = world.opened(), world.opened()
    expired_behind_one(world, wire, MANY, [])
    wire.say(method(1, "basic.get", queue="q", no_ack=True), method(1, "basic.get", queue="q", no_ack=True))
    turns_until(world, lambda: len(world.broker.queues["q"]) < MANY)
    other.say(method(1, "queue.delete", queue="q"))
    assert wire.expect("channel.close").reply_code == 404


@pytest.mark.usefixtures("small")
def test_a_consumer_meets_many_expired_messages() -> None:
    world = MemoryWorld()
    wire = world.opened()
    expired_behind_one(world, wire, MANY, [b"last"])
    wire.say(method(1, "basic.consume", queue="q", no_ack=True))
    assert turns_until(world, lambda: not len(world.broker.queues["q"])) >= SEVERAL
    assert wire.heard() == ["basic.consume-ok", "basic.deliver", "basic.deliver"]


def test_methods_that_take_long_wait_for_the_next_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    world = MemoryWorld()
    wire, other = world.opened(), world.opened()
    wire.ask(1, "queue.declare", queue="q")
    now = world.reactor.time()

    def time() -> float:
        nonlocal now
        now += session_module.TURN / 10
        return now

    monkeypatch.setattr(world.reactor, "time", time)
    wire.say(*(publish(1, "q", body) for body in bodies(MANY)))
    other.say(method(1, "queue.declare", queue="q", passive=True))
    turns_until(world, lambda: bool(other.frames))
    assert other.expect("queue.declare-ok").message_count < MANY / 2
    world.reactor.settle()
    assert world.bodies("q") == bodies(MANY)


# --- how long a turn is -----------------------------------------------------------------------------------------------

LONGEST = 0.1  # seconds of the processor, by which nobody else waits longer


def longest_turn(world: MemoryWorld, act: Callable[[], object]) -> float:
    """The longest turn of the reactor, in seconds of the processor, until nothing is left to do.

    Python's garbage collector is off: its pauses depend on all objects of the process, not on what the turn does.
    """
    gc.collect()
    gc.disable()
    try:
        started = time.process_time()
        act()
        longest = time.process_time() - started
        while world.reactor._ready:
            started = time.process_time()
            world.reactor.run_once(0)
            longest = max(longest, time.process_time() - started)
        return longest
    finally:
        gc.enable()


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
    world, wire = held(100_000, **{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
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
@pytest.mark.parametrize("first", [0, 1])
def test_messages_that_return_among_many_others_hold_up_nobody(first: int) -> None:
    """Two clients hold 65,535 messages each. The second to return them finds those of the first ready."""
    each = 65_535
    world, _ = filled(2 * each)
    wires = [world.opened(), world.opened()]
    for wire in wires:
        wire.ask(1, "basic.qos", prefetch_count=each)
        wire.say(method(1, "basic.consume", queue="q", consumer_tag="c")).heard()
        wire.say(method(1, "basic.cancel", consumer_tag="c")).heard()
    assert world.broker.queues["q"].unacknowledged == 2 * each
    back = method(1, "basic.nack", delivery_tag=0, multiple=True, requeue=True)
    wires[first].say(back).heard()
    assert longest_turn(world, lambda: wires[1 - first].say(back)) < LONGEST


@pytest.mark.long
def test_a_publish_to_many_queues_holds_up_nobody() -> None:
    world, wire = fan_out(10_000)
    assert longest_turn(world, lambda: wire.say(publish(1, "", b"x", "amq.fanout"))) < LONGEST


@pytest.mark.long
def test_many_expired_messages_hold_up_nobody() -> None:
    world = MemoryWorld()
    wire = world.opened()
    expired_behind_one(world, wire, 100_000, [b"last"])
    wire.say(method(1, "basic.get", queue="q", no_ack=True)).heard()
    assert longest_turn(world, lambda: wire.say(method(1, "basic.get", queue="q", no_ack=True))) < LONGEST


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
