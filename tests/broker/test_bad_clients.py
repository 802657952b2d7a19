"""Nothing that a client sends may stop the broker, or touch another connection.

In memory a failure of the broker's comes out in the test itself, and a fault that a session catches shows in the log;
so every test ends with `well`: the log is empty, and a good connection of the same broker goes on working. A few are
repeated over sockets, where resets and half-open connections are real.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpspika.broker import serve
from cpspika.wire.frames import PROTOCOL_HEADERS
from tests.support.raw_client import MemoryWire, MemoryWorld, SocketWire, method, plain, publish
from tests.support.scripted import body_frame, frame, header_frame
from tests.support.waiting import until

fuzz = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Neighbourhood(MemoryWorld):
    """A broker with a good connection, which consumes what it publishes."""

    def __init__(self) -> None:
        super().__init__()
        self.good = self.opened()
        self.good.ask(1, "queue.declare", queue="good")
        self.good.ask(1, "basic.consume", queue="good", no_ack=True)

    def well(self) -> None:
        """Lets time pass, and tries the good connection."""
        self.reactor.advance(30)
        self.good.frames.clear()
        self.good.say(publish(1, "good", b"still here"))
        self.good.expect("basic.deliver")
        assert self.good.frames[-1][1] == b"still here"


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> Iterator[Neighbourhood]:
    made = Neighbourhood()
    yield made
    made.well()
    assert caplog.records == [], "the broker failed, and said so in the log"


# --- garbage at each stage --------------------------------------------------------------------------------------------


def new(wire: MemoryWire) -> None:
    pass


def greeted(wire: MemoryWire) -> None:
    wire.greet()


def logged_in(wire: MemoryWire) -> None:
    wire.greet().log_in()


def tuned(wire: MemoryWire) -> None:
    wire.greet().log_in().tune()


def opened(wire: MemoryWire) -> None:
    wire.shake_hands(channel=0)


def channelled(wire: MemoryWire) -> None:
    wire.shake_hands()


def amid_content(wire: MemoryWire) -> None:
    wire.shake_hands().say(method(1, "basic.publish", routing_key="good"))


def amid_a_body(wire: MemoryWire) -> None:
    amid_content(wire)
    wire.say(header_frame(1, 100), body_frame(1, b"half"))


def closing(wire: MemoryWire) -> None:
    wire.shake_hands().say(method(1, "basic.qos", prefetch_size=1))


STAGES = [new, greeted, logged_in, tuned, opened, channelled, amid_content, amid_a_body, closing]

numbers = st.sampled_from([0, 1, 2, 65535])
kinds = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 255])
frames_ = st.builds(frame, kinds, numbers, st.binary(max_size=60))
some_methods = st.builds(
    lambda number, ids, rest: frame(1, number, struct.pack(">HH", *ids) + rest),
    numbers,
    st.tuples(
        st.sampled_from([10, 20, 30, 40, 50, 60, 85, 90, 999]), st.sampled_from([*range(0, 125, 10), 11, 21, 51])
    ),
    st.one_of(st.just(b""), st.just(b"\0" * 30), st.binary(max_size=40)),
)
lying_frames = st.builds(
    lambda number, payload, size, end: frame(1, number, payload, size, end),
    numbers,
    st.binary(max_size=20),
    st.sampled_from([0, 5, 131072, 2**31, 2**32 - 1]),
    st.sampled_from([b"\xce", b"\0", b""]),
)
garbage = st.lists(st.one_of(st.binary(max_size=80), frames_, some_methods, lying_frames), max_size=5).map(b"".join)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
@fuzz
@given(said=garbage)
def test_garbage(stage: Any, said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    world = Neighbourhood()
    wire = world.wire()
    stage(wire)
    wire.say(said)
    world.reactor.settle()
    wire.vanish()
    world.well()
    assert caplog.records == []


@fuzz
@given(said=garbage, cut=st.integers(1, 7))
def test_garbage_in_small_pieces(said: bytes, cut: int) -> None:
    world = Neighbourhood()
    wire = world.opened()
    for at in range(0, len(said), cut):
        wire.say(said[at : at + cut])
        world.reactor.settle()
    world.well()


@fuzz
@given(properties=st.binary(max_size=60), flags=st.integers(0, 0xFFFF))
def test_properties_that_cannot_be_read(properties: bytes, flags: int) -> None:
    """They are the publisher's own fault; they go to queues that look into them, and where they die and are read."""
    world = Neighbourhood()
    setup = world.opened()
    dead = {"x-dead-letter-exchange": "amq.headers", "x-message-ttl": 10}
    setup.ask(1, "queue.declare", queue="q", arguments=dead)
    setup.ask(1, "queue.declare", queue="p", arguments={"x-max-priority": 3})
    setup.ask(1, "queue.bind", queue="p", exchange="amq.headers", arguments={"a": 1})
    for key, exchange in (("q", ""), ("p", ""), ("", "amq.headers")):
        wire = world.opened()
        wire.say(publish(1, key, b"x", exchange, properties=flags.to_bytes(2, "big") + properties))
        world.reactor.settle()
    world.well()
    assert not setup.hung_up


@pytest.mark.parametrize("key", ["q", "p"])
def test_headers_that_are_cut_off_end_who_sent_them(world: Neighbourhood, key: str) -> None:
    """RabbitMQ reads the properties when they are published, so nobody else ever meets them."""
    dead = {"x-dead-letter-exchange": "amq.fanout", "x-message-ttl": 10}
    world.good.ask(1, "queue.declare", queue="q", arguments=dead)
    world.good.ask(1, "queue.declare", queue="p", arguments={"x-max-priority": 3})
    wire = world.opened().say(publish(1, key, b"x", properties=b"\x20\0\0\0\xff\xff"))
    wire.expect("connection.close")
    assert world.bodies(key) == []


def test_a_rejection_of_what_somebody_else_malformed_is_no_fault_of_the_consumers(world: Neighbourhood) -> None:
    world.good.ask(1, "queue.declare", queue="q", arguments={"x-dead-letter-exchange": "amq.fanout"})
    world.opened().say(publish(1, "q", b"x", properties=b"\x20\0\0\0\xff\xff"))
    world.good.say(method(1, "basic.get", queue="q")).heard()
    if world.broker.queues["q"].unacknowledged:
        world.good.say(method(1, "basic.reject", delivery_tag=1, requeue=False))
    assert world.good.heard() == []


@pytest.mark.parametrize("history", [5, "text", [5], [{"queue": 7}], {"a": 1}])
def test_a_history_of_the_clients_own_making(world: Neighbourhood, history: Any) -> None:
    world.good.ask(1, "queue.declare", queue="dead")
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead", "x-message-ttl": 10}
    world.good.ask(1, "queue.declare", queue="q", arguments=dead)
    world.opened().say(publish(1, "q", b"x", headers={"x-death": history}))
    world.reactor.advance(1)
    assert world.bodies("q") == []


TABLE_WITH_NAN = b"\0\0\0\x0b\1kd\x7f\xf8" + bytes(6)


def test_a_header_that_is_not_finite_ends_who_sent_it(world: Neighbourhood) -> None:
    """With 541, as RabbitMQ does. Nobody else meets it: not the queue, nor the exchange where the message dies."""
    dead = {"x-dead-letter-exchange": "amq.fanout", "x-message-ttl": 10}
    world.good.ask(1, "queue.declare", queue="q", arguments=dead)
    wire = world.opened().say(publish(1, "q", b"x", properties=b"\x20\0" + TABLE_WITH_NAN))
    assert wire.expect("connection.close").reply_code == 541
    assert world.bodies("q") == []


def test_a_header_that_only_looks_not_finite_passes(world: Neighbourhood) -> None:
    world.good.ask(1, "queue.declare", queue="q")
    world.opened().say(publish(1, "q", b"x", headers={"k": b"d\x7f\xf8"}))
    world.reactor.settle()
    assert world.bodies("q") == [b"x"]


# --- frames and contents ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (frame(1, 1, b"\0\x32\0\x0a", end=b"\0"), 501),
        (frame(9, 1, b""), 501),
        (frame(1, 1, b"", size=200_000), 501),
        (frame(1, 1, b"\0\x32"), None),
        (frame(1, 1, struct.pack(">HH", 60, 999)), 540),
        (frame(1, 1, struct.pack(">HH", 999, 10)), 540),
        (header_frame(1, 5), 505),
        (body_frame(1, b"x"), 505),
        (method(1, "basic.publish", routing_key="q") + method(1, "basic.qos"), 505),
        (method(1, "basic.publish", routing_key="q") + body_frame(1, b"x"), 505),
        (method(1, "basic.publish", routing_key="q") + header_frame(1, 1) + body_frame(1, b"too long"), 501),
        (method(1, "basic.publish", routing_key="q") + header_frame(1, 1, class_index=50), 505),
        (method(1, "basic.deliver", consumer_tag="t"), None),
        (method(1, "connection.open"), None),
        (method(0, "queue.declare"), None),
        (frame(8, 1, b""), None),
    ],
)
def test_what_is_wrong_has_a_code(world: Neighbourhood, said: bytes, code: int | None) -> None:
    wire = world.opened().say(said)
    close = wire.expect("connection.close")
    if code is not None:
        assert close.reply_code == code
    wire.say(method(0, "connection.close-ok"))
    world.reactor.advance(10)  # one that was deaf to close-ok hangs up after a while
    wire.expect_hang_up()


def test_frames_of_a_little_more_than_was_agreed_are_taken(world: Neighbourhood) -> None:
    """Some clients (amqpstorm) forget the 8 bytes around a payload; RabbitMQ lets them."""
    wire = world.opened(frame_max=4096)
    wire.ask(1, "queue.declare", queue="q", auto_delete=True)
    wire.say(method(1, "basic.publish", routing_key="q"), header_frame(1, 4096), body_frame(1, b"x" * 4096))
    assert wire.heard() == []
    assert len(world.bodies("q")[0]) == 4096
    wire.say(method(1, "basic.publish", routing_key="q"), header_frame(1, 4097), body_frame(1, b"x" * 4097))
    assert wire.expect("connection.close").reply_code == 501


@pytest.mark.parametrize("size", [2**31, 2**40, 2**64 - 1])
def test_a_body_of_any_announced_size(world: Neighbourhood, size: int) -> None:
    wire = world.opened().say(method(1, "basic.publish", routing_key="good"), header_frame(1, size))
    wire.say(body_frame(1, b"x" * 1000) * 3)
    assert wire.expect("channel.close").reply_code in (311, 406)


def test_a_body_that_never_ends_goes_with_its_client(world: Neighbourhood) -> None:
    wire = world.opened().say(method(1, "basic.publish", routing_key="good"), header_frame(1, 10_000_000))
    wire.say(body_frame(1, b"x" * 100_000))
    wire.vanish()
    assert world.broker.memory.bytes == 0


@pytest.mark.parametrize(
    "said",
    [
        [("connection.tune-ok", {})],
        [("connection.open", {"virtual_host": "/"})],
        [("connection.secure-ok", {"response": b"x"})],
        [("channel.open", {})],
        [("connection.close", {})],
        [("connection.close-ok", {})],
    ],
    ids=lambda said: said[0][0],
)
@pytest.mark.parametrize("stage", [greeted, logged_in, tuned], ids=lambda stage: stage.__name__)
def test_methods_out_of_their_turn(world: Neighbourhood, stage: Any, said: list[tuple[str, dict[str, Any]]]) -> None:
    wire = world.wire()
    stage(wire)
    for name, arguments in said:
        wire.say(method(1 if name.startswith("channel") else 0, name, **arguments))
    if (stage, said[0][0]) in ((logged_in, "connection.tune-ok"), (tuned, "connection.open")):
        return
    world.reactor.advance(20)
    wire.expect_hang_up()


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [
        ("PLAIN", b""),
        ("PLAIN", b"\0\0\0\0"),
        ("PLAIN", b"\xff\0\xff\0\xff"),
        ("AMQPLAIN", b"garbage"),
        ("AMQPLAIN", b"\5LOGINI\0\0\0\1"),
        ("EXTERNAL", b""),
        ("", b""),
        ("\udcff", b""),
    ],
)
def test_logins_that_make_no_sense(world: Neighbourhood, mechanism: str, response: bytes) -> None:
    wire = world.wire().greet().log_in(mechanism, response)
    assert "connection.tune" not in wire.heard()
    world.reactor.advance(20)
    wire.expect_hang_up()


@pytest.mark.parametrize("capabilities", [{"consumer_cancel_notify": "yes"}, 5, [], None])
def test_capabilities_that_make_no_sense(world: Neighbourhood, capabilities: Any) -> None:
    start_ok = {"mechanism": "PLAIN", "response": plain(), "client_properties": {"capabilities": capabilities}}
    wire = world.wire().greet().say(method(0, "connection.start-ok", **start_ok)).tune().enter()
    wire.expect("connection.open-ok")
    world.broker.block()


def test_names_that_are_not_utf_8(world: Neighbourhood) -> None:
    wire = world.opened()
    name = "\udcff\udcfe"
    wire.ask(1, "queue.declare", queue="q")
    wire.ask(1, "queue.bind", queue="q", exchange="amq.topic", routing_key="#", arguments={"a": name})
    wire.say(publish(1, name, b"x", "amq.topic"), method(1, "basic.get", queue="q")).expect("basic.get-ok")
    wire.say(method(1, "queue.declare", queue=name), method(1, "queue.declare", queue="unheard"))
    wire.expect_close(501, "FRAME_ERROR - Malformed UTF-8 in shortstr")
    assert set(world.broker.queues) == {"good", "q"}


# --- chains that are deeper than the stack ----------------------------------------------------------------------------


def test_a_chain_of_exchanges_that_falls_with_its_client(world: Neighbourhood) -> None:
    wire = world.opened()
    for number in range(600):
        wire.say(method(1, "exchange.declare", exchange=f"e{number}", type="fanout", auto_delete=True))
        if number:
            wire.say(method(1, "exchange.bind", source=f"e{number - 1}", destination=f"e{number}"))
    wire.ask(1, "queue.declare", queue="mine", exclusive=True)
    wire.ask(1, "queue.bind", queue="mine", exchange="e599")
    wire.vanish()
    assert "mine" not in world.broker.queues
    assert "e0" not in world.broker.exchanges


@pytest.mark.slow
def test_a_chain_of_queues_that_die_into_each_other(world: Neighbourhood) -> None:
    wire = world.opened()
    for number in range(400):
        dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"q{number + 1}", "x-message-ttl": 0}
        wire.say(method(1, "queue.declare", queue=f"q{number}", arguments=dead))
    wire.ask(1, "queue.declare", queue="q400")
    wire.say(publish(1, "q0", b"x"))
    world.reactor.advance(1)
    assert world.bodies("q400") == [b"x"]


# --- clients that go --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES[:4], ids=lambda stage: stage.__name__)
def test_a_half_open_connection_is_dropped(world: Neighbourhood, stage: Any) -> None:
    wire = world.wire()
    stage(wire)
    world.reactor.settle()
    assert len(world.broker.sessions) == 2
    world.reactor.advance(9)
    assert not wire.hung_up
    world.reactor.advance(2)
    assert wire.hung_up
    assert len(world.broker.sessions) == 1


def test_one_that_was_told_to_close_and_does_not_is_dropped(world: Neighbourhood) -> None:
    wire = world.opened()
    wire.say(method(1, "basic.qos", prefetch_size=1))
    wire.expect("connection.close")
    world.reactor.advance(10)
    assert wire.hung_up
    assert len(world.broker.sessions) == 1


def test_a_client_that_vanishes_gives_everything_back(world: Neighbourhood) -> None:
    wire = world.opened()
    wire.ask(1, "queue.declare", queue="mine", exclusive=True)
    wire.ask(1, "queue.declare", queue="ours")
    wire.say(*(publish(1, "ours", body) for body in (b"1", b"2", b"3")), publish(1, "mine", b"x"))
    wire.ask(1, "basic.qos", prefetch_count=2)
    wire.ask(1, "basic.consume", queue="ours")
    wire.say(method(1, "basic.get", queue="mine")).expect("basic.get-ok")
    assert world.broker.queues["ours"].unacknowledged == 2
    wire.vanish()
    assert "mine" not in world.broker.queues
    assert world.bodies("ours") == [b"1", b"2", b"3"]
    assert (world.broker.queues["ours"].unacknowledged, world.broker.queues["ours"].consumer_count) == (0, 0)
    world.good.say(method(1, "basic.get", queue="ours"))
    assert world.good.expect("basic.get-ok").redelivered is True
    world.good.ask(1, "queue.delete", queue="ours")
    world.good.say(method(1, "channel.close")).heard()
    assert world.broker.memory.bytes == 0
    world.good.ask(1, "channel.open"), world.good.ask(1, "basic.consume", queue="good", no_ack=True)


def test_a_silent_client_is_dropped_after_two_heartbeats(world: Neighbourhood) -> None:
    wire = world.opened(heartbeat=5)
    wire.ask(1, "queue.declare", queue="mine", exclusive=True)
    world.reactor.advance(9)
    assert not wire.hung_up
    world.reactor.advance(4)
    assert wire.hung_up
    assert "mine" not in world.broker.queues


# --- answers that nobody reads ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("flood", ["returns", "answers", "gets"])
def test_a_client_that_reads_nothing_costs_a_bounded_memory(flood: str) -> None:
    """What the broker says back to it must not gather without end: then the broker reads no more of it either."""
    body, name = b"x" * 100_000, "q" * 200
    floods = {
        "returns": publish(1, "nowhere", body, mandatory=True),
        "answers": method(1, "queue.declare", queue=name, passive=True) * 500,
        "gets": publish(1, name, body) + method(1, "basic.get", queue=name, no_ack=True),
    }
    bound = 8 * 1024 * 1024
    with serve() as broker, SocketWire(broker, receive_buffer=4096) as wire:
        wire.shake_hands()
        wire.ask(1, "queue.declare", queue=name)
        (session,) = broker.connections

        def backlog() -> int:
            transport = session.backlog.transport
            return transport.queued - transport.written if transport is not None else 0

        wire.socket.settimeout(1)
        sent = 0
        try:
            while sent < 60_000_000 and backlog() < bound:
                wire.socket.sendall(floods[flood])
                sent += len(floods[flood])
        except TimeoutError:
            pass  # the broker reads no more: that is the point
        assert backlog() < bound


# --- over sockets -----------------------------------------------------------------------------------------------------


@pytest.fixture
def broker() -> Iterator[Any]:
    with serve() as running:
        yield running


def test_bad_clients_over_sockets(broker: Any, caplog: pytest.LogCaptureFixture) -> None:
    with SocketWire(broker) as good:
        good.shake_hands()
        good.ask(1, "queue.declare", queue="good")
        for said in (
            b"",
            b"GET / HTTP/1.0\r\n\r\n",
            PROTOCOL_HEADERS["0-9-1"] + b"\xff" * 100,
            PROTOCOL_HEADERS["0-9-1"] + frame(1, 0, b"", size=2**32 - 1),
        ):
            with SocketWire(broker) as wire:
                wire.say(said)
        for _ in range(3):
            wire = SocketWire(broker)
            wire.shake_hands()
            wire.ask(1, "queue.declare", queue="mine", exclusive=True)
            wire.say(publish(1, "good", b"x"), frame(1, 1, b"\0\x32", end=b"\0"))
            wire.vanish()
            until(lambda: "mine" not in broker.queues, "the return of the exclusive queue")
        until(lambda: len(broker.sessions) == 1, "the end of the bad ones")
        good.say(publish(1, "good", b"still here"), method(1, "basic.get", queue="good"))
        good.expect("basic.get-ok")
    assert caplog.records == []
