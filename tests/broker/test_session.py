"""What a session answers, method by method and in which order; codes and texts are those of RabbitMQ 3.10."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from cpspika import Message
from cpspika.broker.session import LINGER
from cpspika.wire.frames import HEARTBEAT
from cpspika.wire.message import Envelope
from tests.support.raw_client import MemoryWire, MemoryWorld, amqplain, method, plain, publish
from tests.support.scripted import body_frame, frame, header_frame


@pytest.fixture
def world() -> MemoryWorld:
    return MemoryWorld()


@pytest.fixture
def wire(world: MemoryWorld) -> MemoryWire:
    return world.opened()


def body_in_frames(number: int, key: str, body: bytes) -> list[bytes]:
    """A publish, in frames of the usual size."""
    parts = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
    ask = method(number, "basic.publish", routing_key=key)
    return [ask, header_frame(number, len(body)), *(body_frame(number, part) for part in parts)]


def queue(wire: MemoryWire, name: str, *bodies: bytes, **options: Any) -> None:
    wire.ask(1, "queue.declare", queue=name, **options)
    wire.say(*(publish(1, name, body) for body in bodies)).heard()


# --- refusals ---------------------------------------------------------------------------------------------------------

HELD = ("queue.declare", {"queue": "q"})
MINE = ("queue.declare", {"queue": "mine", "exclusive": True})
INTERNAL = ("exchange.declare", {"exchange": "iint", "type": "fanout", "internal": True})


@pytest.mark.parametrize(
    ("before", "name", "arguments", "code", "text"),
    [
        (None, "basic.ack", {"delivery_tag": 99}, 406, "PRECONDITION_FAILED - unknown delivery tag 99"),
        (None, "basic.reject", {"delivery_tag": 7}, 406, "PRECONDITION_FAILED - unknown delivery tag 7"),
        (None, "basic.consume", {"queue": "missing"}, 404, "NOT_FOUND - no queue 'missing' in vhost '/'"),
        (None, "basic.get", {"queue": "missing"}, 404, "NOT_FOUND - no queue 'missing' in vhost '/'"),
        (None, "queue.purge", {"queue": "missing"}, 404, "NOT_FOUND - no queue 'missing' in vhost '/'"),
        (None, "basic.get", {"queue": ""}, 404, "NOT_FOUND - no previously declared queue"),
        (
            None,
            "queue.declare",
            {"queue": "", "passive": True},
            404,
            "NOT_FOUND - no queue '' in vhost '/'",
        ),
        (
            HELD,
            "queue.declare",
            {"queue": "q", "durable": True},
            406,
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': "
            "received 'true' but current is 'false'",
        ),
        (
            None,
            "queue.declare",
            {"queue": "amq.foo"},
            403,
            "ACCESS_REFUSED - queue name 'amq.foo' contains reserved prefix 'amq.*'",
        ),
        (
            INTERNAL,
            "exchange.delete",
            {"exchange": ""},
            403,
            "ACCESS_REFUSED - operation not permitted on the default exchange",
        ),
        (
            HELD,
            "basic.consume",
            {"queue": "q", "arguments": {"x-priority": "high"}},
            406,
            "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'q' in vhost '/': "
            '"expected integer, got longstr"',
        ),
        (None, "tx.commit", {}, 406, "PRECONDITION_FAILED - channel is not transactional"),
        (None, "tx.rollback", {}, 406, "PRECONDITION_FAILED - channel is not transactional"),
        (("tx.select", {}), "confirm.select", {}, 406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode"),
        (("confirm.select", {}), "tx.select", {}, 406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode"),
        (
            None,
            "basic.consume",
            {"queue": "amq.rabbitmq.reply-to"},
            406,
            "PRECONDITION_FAILED - reply consumer cannot acknowledge",
        ),
    ],
)
def test_what_closes_the_channel(
    world: MemoryWorld, wire: MemoryWire, before: Any, name: str, arguments: dict[str, Any], code: int, text: str
) -> None:
    if before is not None:
        wire.ask(1, before[0], **before[1])
    wire.say(method(1, name, **arguments))
    close = wire.expect("channel.close", 1)
    row = wire._codec.by_name[name]
    assert (close.reply_code, close.reply_text) == (code, text)
    assert (close.class_id, close.method_id) == (row.class_index, row.method_index)
    wire.say(method(1, "channel.close-ok"))
    wire.ask(1, "channel.open")  # the connection is well, and the number is free again


@pytest.mark.parametrize(
    ("published", "code", "text"),
    [
        (publish(1, "k", exchange="nox"), 404, "NOT_FOUND - no exchange 'nox' in vhost '/'"),
        (publish(1, "k", exchange="iint"), 403, "ACCESS_REFUSED - cannot publish to internal exchange 'iint' in vhost"),
        (publish(1, "q", expiration="abc"), 406, "PRECONDITION_FAILED - invalid expiration 'abc': no_integer"),
        (
            publish(1, "q", user_id="abc"),
            406,
            "PRECONDITION_FAILED - user_id property set to 'abc' but authenticated user was 'guest'",
        ),
        (
            publish(1, "q", headers={"CC": "x"}),
            406,
            'PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,"CC",longstr}',
        ),
        (
            publish(1, "q", reply_to="amq.rabbitmq.reply-to"),
            406,
            "PRECONDITION_FAILED - fast reply consumer does not exist",
        ),
    ],
)
def test_publishes_that_close_the_channel(wire: MemoryWire, published: bytes, code: int, text: str) -> None:
    wire.ask(1, *INTERNAL[:1], **INTERNAL[1])
    queue(wire, "q")
    wire.say(published)
    close = wire.expect("channel.close", 1)
    assert (close.reply_code, close.reply_text[: len(text)]) == (code, text)
    assert (close.class_id, close.method_id) == (60, 40)


def test_a_bad_expiration_is_refused_at_its_publish_in_a_transaction_too(wire: MemoryWire) -> None:
    queue(wire, "q")
    wire.ask(1, "tx.select")
    wire.say(publish(1, "q", expiration="abc"))
    close = wire.expect("channel.close", 1)
    assert (close.reply_code, close.class_id, close.method_id) == (406, 60, 40)


@pytest.mark.parametrize(
    ("name", "arguments", "code", "text"),
    [
        ("basic.qos", {"prefetch_size": 1}, 540, "NOT_IMPLEMENTED - prefetch_size!=0 (1)"),
        ("channel.flow", {"active": False}, 540, "NOT_IMPLEMENTED - active=false"),
        ("basic.recover", {"requeue": False}, 540, "NOT_IMPLEMENTED - requeue=false"),
        (
            "exchange.declare",
            {"exchange": "e", "type": "bogus"},
            503,
            "COMMAND_INVALID - unknown exchange type 'bogus'",
        ),
        ("basic.consume", {"queue": "q", "consumer_tag": "t"}, 530, "NOT_ALLOWED - attempt to reuse consumer tag 't'"),
    ],
)
def test_what_ends_the_connection(
    world: MemoryWorld, wire: MemoryWire, name: str, arguments: dict[str, Any], code: int, text: str
) -> None:
    queue(wire, "q")
    wire.ask(1, "basic.consume", queue="q", consumer_tag="t")
    wire.say(method(1, name, **arguments))
    wire.expect_close(code, text)
    assert world.broker.connections == []


def test_immediate_is_not_implemented(wire: MemoryWire) -> None:
    asked = method(1, "basic.publish", routing_key="q", immediate=True)
    wire.say(asked, publish(1, "q")[len(method(1, "basic.publish", routing_key="q")) :])
    wire.expect_close(540, "NOT_IMPLEMENTED - immediate=true")


def test_a_channel_that_is_not_open(wire: MemoryWire) -> None:
    wire.say(method(5, "queue.declare", queue="q"))
    wire.expect_close(504, "CHANNEL_ERROR - expected 'channel.open'")


def test_a_channel_that_is_open_already(wire: MemoryWire) -> None:
    wire.say(method(1, "channel.open"))
    wire.expect_close(504, "CHANNEL_ERROR - second 'channel.open' seen")


def test_more_channels_than_agreed(world: MemoryWorld) -> None:
    wire = world.opened(channel_max=2)
    wire.ask(2, "channel.open")
    wire.say(method(3, "channel.open"))
    wire.expect_close(530, "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)")


def test_an_exclusive_queue_of_another_connection(world: MemoryWorld, wire: MemoryWire) -> None:
    wire.ask(1, "queue.declare", queue="q", exclusive=True)
    other = world.opened().say(method(1, "queue.declare", queue="q"))
    assert other.expect("channel.close").reply_text == (
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally "
        "declared on another connection or the exclusive property value does not match that of the original "
        "declaration."
    )


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)])
def test_an_exclusive_consumer_suffers_no_other(wire: MemoryWire, first: bool, second: bool) -> None:
    queue(wire, "q")
    wire.ask(1, "basic.consume", queue="q", exclusive=first)
    wire.say(method(1, "basic.consume", queue="q", exclusive=second))
    close = wire.expect("channel.close")
    assert (close.reply_code, close.reply_text) == (403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use")


def test_what_is_no_error(wire: MemoryWire) -> None:
    queue(wire, "q")
    for name, arguments in (
        ("basic.cancel", {"consumer_tag": "unknown"}),
        ("queue.unbind", {"queue": "q", "exchange": "amq.direct", "routing_key": "never bound"}),
        ("queue.unbind", {"queue": "missing", "exchange": "amq.direct"}),
        ("exchange.unbind", {"source": "missing", "destination": "missing too"}),
        ("queue.delete", {"queue": "missing"}),
        ("exchange.delete", {"exchange": "missing"}),
        ("channel.flow", {"active": True}),
    ):
        wire.ask(1, name, **arguments)
    wire.say(method(1, "basic.ack", delivery_tag=0, multiple=True))  # all there are: none
    assert wire.heard() == []


def test_a_tag_that_is_settled_cannot_be_settled_with_those_before_it(wire: MemoryWire) -> None:
    queue(wire, "q", b"1", b"2", b"3")
    for _ in range(3):
        wire.say(method(1, "basic.get", queue="q")).heard()
    wire.say(method(1, "basic.ack", delivery_tag=2), method(1, "basic.ack", delivery_tag=2, multiple=True))
    assert wire.expect("channel.close").reply_text == "PRECONDITION_FAILED - unknown delivery tag 2"


# --- opening ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mechanism", "answer"), [("PLAIN", plain), ("AMQPLAIN", amqplain)])
def test_logins(world: MemoryWorld, mechanism: str, answer: Any) -> None:
    world.wire().greet().log_in(mechanism, answer("guest", "guest")).expect("connection.tune")
    refused = world.wire().greet().log_in(mechanism, answer("guest", "wrong"))
    refused.expect_close(
        403,
        f"ACCESS_REFUSED - Login was refused using authentication mechanism {mechanism}. "
        "For details see the broker logfile.",
    )


def test_a_login_that_fails_just_ends_for_who_cannot_hear_why(world: MemoryWorld) -> None:
    wire = world.wire().greet().log_in(response=plain("guest", "wrong"), capabilities={})
    assert wire.heard() == []
    world.reactor.advance(10)
    assert wire.hung_up


def test_an_unknown_vhost(world: MemoryWorld) -> None:
    world.wire().greet().log_in().tune().enter("nope").expect_close(530, "NOT_ALLOWED - vhost nope not found")


@pytest.mark.parametrize(
    "tune",
    [{"frame_max": 131073}, {"frame_max": 0}, {"channel_max": 2048}, {"channel_max": 0}, {"frame_max": 100}],
)
def test_what_was_not_offered_ends_the_link(
    world: MemoryWorld, caplog: pytest.LogCaptureFixture, tune: dict[str, int]
) -> None:
    wire = world.wire().greet().log_in().tune(**tune).enter()
    assert "connection.open-ok" not in wire.heard()
    world.reactor.advance(10)
    assert wire.hung_up
    assert caplog.records == []


@pytest.mark.parametrize(
    "header", [b"AMQP\0\0\x09\x02", b"AMQP\0\1\0\0", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0\1\0\1", b"\0" * 8]
)
def test_a_wrong_protocol_header_is_answered_by_the_right_one(world: MemoryWorld, header: bytes) -> None:
    wire = world.wire().say(header)
    wire.expect_hang_up()
    assert wire.raw == b"AMQP\0\0\x09\x01"


@pytest.mark.parametrize(
    ("header", "major"),
    [(b"AMQP\x01\x01\x08\0", 8), (b"AMQP\x01\x01\x09\x01", 8), (b"AMQP\x01\x01\0\x09", 0), (b"AMQP\0\0\x09\x01", 0)],
)
def test_what_is_taken_for_which_version(world: MemoryWorld, header: bytes, major: int) -> None:
    wire = world.wire("0-9-1" if major == 0 else "0-8").say(header)
    assert wire.expect("connection.start").version_major == major


def test_a_header_in_single_bytes(world: MemoryWorld) -> None:
    wire = world.wire()
    for byte in b"AMQP\0\0\x09\x01":
        wire.say(bytes([byte])).heard()
    wire.log_in().expect("connection.tune")


# --- in which order ---------------------------------------------------------------------------------------------------


def test_a_return_comes_before_its_ack(wire: MemoryWire) -> None:
    wire.ask(1, "confirm.select")
    wire.say(publish(1, "nowhere", b"x", mandatory=True)).wait(lambda: False)
    returned = wire.frames[0][1]
    assert (returned.name, returned.reply_code, returned.reply_text) == ("basic.return", 312, "NO_ROUTE")
    assert wire.heard() == ["basic.return", "basic.ack"]


def test_confirms_are_put_together(wire: MemoryWire) -> None:
    queue(wire, "q")
    wire.ask(1, "confirm.select")
    wire.say(*(publish(1, "q") for _ in range(5)))
    ack = wire.expect("basic.ack")
    assert (ack.delivery_tag, ack.multiple) == (5, True)
    wire.say(publish(1, "q"))
    ack = wire.expect("basic.ack")
    assert (ack.delivery_tag, ack.multiple) == (6, False)


def test_what_a_full_queue_refuses_is_nacked(wire: MemoryWire) -> None:
    queue(wire, "q", arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    wire.ask(1, "confirm.select")
    wire.say(*(publish(1, "q") for _ in range(4))).wait(lambda: False)
    assert [(what.name, what.delivery_tag) for _, what in wire.frames] == [("basic.ack", 2), ("basic.nack", 4)]


def test_the_deleter_hears_delete_ok_before_its_consumers_end(wire: MemoryWire) -> None:
    queue(wire, "q")
    wire.ask(1, "basic.consume", queue="q")
    wire.say(method(1, "queue.delete", queue="q"))
    assert wire.heard() == ["queue.delete-ok", "basic.cancel"]


def test_consumers_that_cannot_hear_of_it_are_not_told_of_their_end(world: MemoryWorld, wire: MemoryWire) -> None:
    queue(wire, "q")
    quiet = world.opened(capabilities={})
    quiet.ask(1, "basic.consume", queue="q")
    wire.ask(1, "queue.delete", queue="q")
    assert quiet.heard() == []


def test_operations_and_close_in_one_piece(world: MemoryWorld, wire: MemoryWire) -> None:
    wire.say(method(1, "queue.declare", queue="q"), publish(1, "q", b"x"), method(1, "channel.close"))
    assert wire.heard() == ["queue.declare-ok", "channel.close-ok"]
    assert world.bodies("q") == [b"x"]


def test_confirmed_publishes_and_close_in_one_piece(world: MemoryWorld, wire: MemoryWire) -> None:
    queue(wire, "q")
    wire.ask(1, "confirm.select")
    wire.say(publish(1, "q", b"x"), method(1, "channel.close"))
    assert wire.heard()[-1] == "channel.close-ok"
    assert not wire.hung_up
    assert world.bodies("q") == [b"x"]


def test_a_refusal_and_the_clients_close_in_one_piece(wire: MemoryWire) -> None:
    """They cross: the client gets the refusal, and close-ok for its own."""
    wire.say(publish(1, "k", exchange="nox"), method(1, "channel.close"))
    heard = wire.heard()
    assert "connection.close" not in heard
    assert set(heard) <= {"channel.close", "channel.close-ok"}
    assert not wire.hung_up


def test_operations_and_the_connections_close_in_one_piece(world: MemoryWorld, wire: MemoryWire) -> None:
    wire.say(method(1, "queue.declare", queue="q"), publish(1, "q", b"x"), method(0, "connection.close"))
    assert wire.heard() == ["queue.declare-ok", "connection.close-ok"]
    assert not wire.hung_up
    wire.say(publish(1, "q", b"too late"), b"even nonsense" * 100).heard()
    assert world.bodies("q") == [b"x"]
    assert world.broker.connections == []
    world.reactor.advance(LINGER)
    assert wire.hung_up
    assert not world.broker.sessions


def test_the_client_hangs_up_after_close_ok(world: MemoryWorld, wire: MemoryWire) -> None:
    wire.ask(1, "queue.declare", queue="mine", exclusive=True)
    wire.say(method(0, "connection.close")).expect("connection.close-ok")
    assert "mine" not in world.broker.queues
    wire.vanish()
    assert not world.broker.sessions
    world.reactor.advance(2 * LINGER)


def test_heartbeats_go_out_at_half_the_interval(world: MemoryWorld) -> None:
    wire = world.wire()
    wire.shake_hands(heartbeat=10)
    wire.say(frame(HEARTBEAT, 0, b"")).heard()
    beats = []
    for _ in range(6):
        world.reactor.advance(5)
        wire.say(frame(HEARTBEAT, 0, b""))
        wire.wait(lambda: False)
        beats.append(len(wire.frames))
        wire.frames.clear()
    assert beats[1:] == [1] * 5  # the first half interval had the handshake


# --- a channel that the broker closes ---------------------------------------------------------------------------------


def test_deliveries_go_on_until_the_client_answers_channel_close(world: MemoryWorld, wire: MemoryWire) -> None:
    """RabbitMQ sends on what is under way to the channel; a client must expect it."""
    queue(wire, "q")
    wire.say(method(1, "basic.qos", prefetch_count=2), method(1, "basic.consume", queue="q", consumer_tag="c"))
    wire.say(method(1, "basic.ack", delivery_tag=99)).expect("channel.close")
    other = world.opened()
    other.say(*(publish(1, "q", body) for body in (b"1", b"2", b"3"))).heard()
    assert wire.heard() == ["basic.deliver"] * 2
    # The client's methods are ignored, also acknowledgements and mistakes.
    wire.say(method(1, "basic.ack", delivery_tag=1), method(1, "basic.ack", delivery_tag=98))
    assert wire.heard() == []
    world.broker.flow(False)
    world.broker.close_channels(406, "PRECONDITION_FAILED - again")
    assert wire.heard() == []
    wire.say(method(1, "channel.close-ok")).heard()
    assert world.bodies("q") == [b"1", b"2", b"3"]
    assert world.broker.queues["q"].consumer_count == 0
    wire.ask(1, "channel.open")
    assert wire.say(method(1, "basic.get", queue="q")).expect("basic.get-ok").redelivered


def test_large_deliveries_go_on_too_until_channel_close_ok(world: MemoryWorld, wire: MemoryWire) -> None:
    queue(wire, "q")
    wire.say(method(1, "basic.consume", queue="q", no_ack=True), method(1, "basic.get", queue="missing"))
    wire.expect("channel.close")
    body = b"x" * 500_000
    world.opened().say(*(body_in_frames(1, "q", body)))
    wire.expect("basic.deliver")
    assert b"".join(payload for _, payload in wire.frames[1:]) == body


def test_a_channel_closed_from_both_ends_gets_no_more(world: MemoryWorld, wire: MemoryWire) -> None:
    queue(wire, "q")
    wire.say(method(1, "basic.consume", queue="q"), method(1, "basic.ack", delivery_tag=99))
    wire.expect("channel.close")
    wire.say(method(1, "channel.close")).expect("channel.close-ok")
    world.opened().say(publish(1, "q", b"x")).heard()
    assert wire.heard() == []
    wire.say(method(1, "channel.close-ok"))
    wire.ask(1, "channel.open")
    assert world.bodies("q") == [b"x"]


def test_a_connection_lost_before_channel_close_ok_gives_everything_back(world: MemoryWorld, wire: MemoryWire) -> None:
    queue(wire, "q", b"x")
    wire.say(method(1, "basic.consume", queue="q")).expect("basic.deliver")
    wire.say(method(1, "basic.ack", delivery_tag=99)).expect("channel.close")
    wire.vanish()
    assert world.bodies("q") == [b"x"]
    assert world.broker.queues["q"].consumer_count == 0
    assert world.bodies("q") == [b"x"]


def test_what_follows_the_connections_end_in_one_piece(
    world: MemoryWorld, wire: MemoryWire, caplog: pytest.LogCaptureFixture
) -> None:
    wire.say(method(1, "basic.qos", prefetch_size=1), method(2, "channel.open"), method(1, "queue.declare", queue="q"))
    wire.expect_close(540, "NOT_IMPLEMENTED - prefetch_size!=0 (1)")
    assert "q" not in world.broker.queues
    assert caplog.records == []


def test_what_follows_a_channels_end_in_one_piece(world: MemoryWorld, wire: MemoryWire) -> None:
    wire.say(method(1, "basic.ack", delivery_tag=99), method(1, "queue.declare", queue="q"), publish(1, "q"))
    assert wire.heard() == ["channel.close"]
    assert "q" not in world.broker.queues


# --- transactions -----------------------------------------------------------------------------------------------------


def got(world: MemoryWorld) -> MemoryWire:
    """A transactional channel that holds the one message of "q", and has acknowledged it."""
    wire = world.opened()
    queue(wire, "q", b"x")
    wire.say(method(1, "basic.get", queue="q")).heard()
    wire.ask(1, "tx.select")
    wire.say(method(1, "basic.ack", delivery_tag=1))
    return wire


def test_a_commit_carries_out_publishes_and_acks_together(world: MemoryWorld) -> None:
    wire = got(world).say(publish(1, "q", b"y"))
    assert wire.heard() == []
    assert (world.bodies("q"), world.broker.queues["q"].unacknowledged) == ([], 1)
    wire.ask(1, "tx.commit")
    assert (world.bodies("q"), world.broker.queues["q"].unacknowledged) == ([b"y"], 0)


def test_a_rollback_takes_back_publishes_and_acks(world: MemoryWorld) -> None:
    wire = got(world)
    wire.say(publish(1, "q", b"y"))
    wire.ask(1, "tx.rollback")
    assert (world.bodies("q"), world.broker.queues["q"].unacknowledged) == ([], 1)
    wire.ask(1, "basic.recover", requeue=True)
    assert world.bodies("q") == [b"x"]


@pytest.mark.parametrize("end", ["channel", "connection", "link"])
def test_what_was_not_committed_never_was(world: MemoryWorld, end: str) -> None:
    wire = got(world)
    wire.heard()
    if end == "link":
        wire.vanish()
    else:
        wire.ask(1 if end == "channel" else 0, f"{end}.close")
    assert world.bodies("q") == [b"x"]
    assert world.broker.queues["q"].unacknowledged == 0


# --- consuming --------------------------------------------------------------------------------------------------------


def deliveries(wire: MemoryWire) -> list[bytes]:
    """The bodies that came."""
    wire.wait(lambda: False)
    bodies = [what for _, what in wire.frames if isinstance(what, bytes) and not what.startswith(b"\0\x3c")]
    wire.frames.clear()
    return bodies


def test_prefetch_of_each_consumer_is_that_of_its_start(wire: MemoryWire) -> None:
    queue(wire, "a", *b"123".split()), queue(wire, "b", b"4", b"5", b"6")
    wire.ask(1, "basic.qos", prefetch_count=1)
    wire.ask(1, "basic.consume", queue="b")
    assert deliveries(wire) == [b"4"]
    wire.ask(1, "basic.qos", prefetch_count=2)
    assert deliveries(wire) == []
    wire.ask(1, "basic.consume", queue="b")
    assert deliveries(wire) == [b"5", b"6"]


def test_prefetch_of_the_channel_is_shared(wire: MemoryWire) -> None:
    queue(wire, "a", b"1", b"2", b"3"), queue(wire, "b", b"4", b"5", b"6")
    wire.ask(1, "basic.qos", prefetch_count=2, **{"global": True})
    wire.ask(1, "basic.consume", queue="a"), wire.ask(1, "basic.consume", queue="b")
    wire.say(method(1, "basic.ack", delivery_tag=2, multiple=True))
    wire.heard()
    wire.ask(1, "basic.qos", prefetch_count=3, **{"global": True})
    assert len(deliveries(wire)) == 1


def test_what_was_got_does_not_count_against_the_channels_prefetch(wire: MemoryWire) -> None:
    queue(wire, "q", b"1", b"2", b"3")
    wire.say(method(1, "basic.get", queue="q")).heard()
    wire.ask(1, "basic.qos", prefetch_count=1, **{"global": True})
    wire.ask(1, "basic.consume", queue="q")
    assert deliveries(wire) == [b"2"]


@pytest.mark.parametrize("version", ["0-9-1", "0-8"])
def test_a_channel_that_ends_gives_back_before_others_get_more(world: MemoryWorld, version: str) -> None:
    """With a single active consumer this is what order hangs on."""
    one, two = world.opened(version), world.opened()
    queue(two, "q", b"1", b"2", b"3", arguments={"x-single-active-consumer": True})
    one.ask(1, "basic.qos", prefetch_count=2)
    one.ask(1, "basic.consume", queue="q"), two.ask(1, "basic.consume", queue="q")
    assert (deliveries(one), deliveries(two)) == ([b"1", b"2"], [])
    one.ask(1, "channel.close")
    assert deliveries(two) == [b"1", b"2", b"3"]


def test_an_exclusive_consumer_on_a_single_active_queue_is_refused(wire: MemoryWire) -> None:
    queue(wire, "q", arguments={"x-single-active-consumer": True})
    wire.say(method(1, "basic.consume", queue="q", exclusive=True))
    assert wire.expect("channel.close").reply_code == 403


def test_a_short_lived_exclusive_queue_is_not_kept(world: MemoryWorld, wire: MemoryWire) -> None:
    name = wire.ask(1, "queue.declare", exclusive=True, auto_delete=True).queue
    kept = weakref.ref(world.broker.queues[name])
    wire.ask(1, "basic.consume", queue=name, consumer_tag="t")
    wire.ask(1, "basic.cancel", consumer_tag="t")
    assert name not in world.broker.queues
    wire.ask(1, "queue.declare")
    gc.collect()
    assert kept() is None


# --- direct reply-to --------------------------------------------------------------------------------------------------


def test_direct_reply_to(world: MemoryWorld, wire: MemoryWire) -> None:
    reply_to = "amq.rabbitmq.reply-to"
    server = world.opened()
    queue(server, "rpc")
    server.ask(1, "basic.consume", queue="rpc", no_ack=True)
    wire.ask(1, "basic.consume", queue=reply_to, no_ack=True, consumer_tag="replies")
    wire.say(publish(1, "rpc", b"question", reply_to=reply_to)).heard()
    address = reply_to_of(server)
    assert address.startswith(reply_to + ".")
    ok = server.ask(1, "queue.declare", queue=address, passive=True)
    assert (ok.queue, ok.message_count, ok.consumer_count) == (address, 0, 1)
    server.say(publish(1, address, b"answer"))
    assert server.heard() == []
    assert deliveries(wire) == [b"answer"]
    # To RabbitMQ it is no queue: a mandatory message is delivered, and returned all the same.
    server.say(publish(1, address, b"again", mandatory=True))
    assert server.heard() == ["basic.return"]
    assert deliveries(wire) == [b"again"]
    wire.ask(1, "channel.close")
    server.say(publish(1, address, b"too late", mandatory=True))
    assert server.heard() == ["basic.return"]


def reply_to_of(wire: MemoryWire) -> str:
    """The reply_to of the one message that came."""
    wire.wait(lambda: False)
    header = next(what for _, what in wire.frames if isinstance(what, bytes))
    wire.frames.clear()
    reply_to = Message(Envelope("basic.deliver", encoded=header[12:]), 0, b"").properties.reply_to
    assert reply_to is not None
    return reply_to


def test_a_reply_consumer_may_be_cancelled_and_started_again(wire: MemoryWire) -> None:
    wire.ask(1, "basic.consume", queue="amq.rabbitmq.reply-to", no_ack=True, consumer_tag="t")
    wire.ask(1, "basic.cancel", consumer_tag="t")
    wire.ask(1, "basic.consume", queue="amq.rabbitmq.reply-to", no_ack=True)
    wire.say(method(1, "basic.consume", queue="amq.rabbitmq.reply-to", no_ack=True))
    assert wire.expect("channel.close").reply_text == "PRECONDITION_FAILED - reply consumer already set"


# --- 0-8 --------------------------------------------------------------------------------------------------------------


def test_0_8_everyday(world: MemoryWorld) -> None:
    wire = world.opened("0-8")
    assert wire.ask(1, "access.request", realm="/data").ticket == 1
    wire.ask(1, "queue.declare", queue="q")
    wire.ask(1, "queue.bind", queue="q", exchange="amq.direct", routing_key="k")
    old = method(1, "basic.publish", "0-8", exchange="amq.direct", routing_key="k")
    new = method(1, "basic.publish", exchange="amq.direct", routing_key="k")
    wire.say(old + publish(1, "k", b"x", exchange="amq.direct")[len(new) :])
    wire.ask(1, "basic.consume", queue="q", no_ack=True)
    assert deliveries(wire) == [b"x"]
    wire.ask(0, "connection.close")


@pytest.mark.parametrize("name", ["exchange.bind", "basic.nack", "confirm.select", "connection.update-secret"])
def test_0_8_does_not_have_what_came_later(world: MemoryWorld, name: str) -> None:
    wire = world.opened("0-8")
    number = 0 if name.startswith("connection") else 1
    arguments = {"destination": "amq.direct", "source": "amq.direct"} if name == "exchange.bind" else {}
    wire.say(method(number, name, **arguments)).expect("connection.close")


def test_what_an_0_8_client_is_not_told(world: MemoryWorld) -> None:
    wire = world.opened("0-8")
    world.broker.block()
    assert wire.heard() == []


# --- what a message carries -------------------------------------------------------------------------------------------


def test_a_header_passes_through_untouched(wire: MemoryWire) -> None:
    table = b"".join(
        b"\1" + kind + kind + value
        for kind, value in [
            (b"t", b"\1"),
            (b"b", b"\xff"),
            (b"B", b"\xff"),
            (b"s", b"\xff\xfe"),
            (b"u", b"\xff\xfe"),
            (b"I", b"\xff\xff\xff\xfe"),
            (b"i", b"\xff\xff\xff\xfe"),
            (b"l", b"\xff" * 8),
            (b"f", b"\x3f\x80\0\1"),
            (b"d", b"\x3f\xf0" + b"\0" * 6),
            (b"D", b"\2\0\0\0\5"),
            (b"S", b"\0\0\0\2\xff\xfe"),
            (b"x", b"\0\0\0\2ab"),
            (b"T", b"\0" * 8),
            (b"V", b""),
            (b"F", b"\0\0\0\0"),
            (b"A", b"\0\0\0\2VV"),
        ]
    )
    properties = b"\x20\0" + len(table).to_bytes(4, "big") + table
    queue(wire, "q")
    wire.say(publish(1, "q", b"x", properties=properties), method(1, "basic.get", queue="q", no_ack=True))
    wire.expect("basic.get-ok")
    assert wire.frames[0][1][12:] == properties
