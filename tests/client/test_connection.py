"""Opening a connection, keeping it, and closing it: time-outs, refusals, targets, heartbeats, channels' numbers."""

from __future__ import annotations

import random
import socket
import struct
import time
from typing import Any

import pytest

import cpspika
from cpspika import ConnectionParameters, PlainCredentials
from cpspika.adapters import BlockingReactor, MemoryReactor, SelectReactor
from cpspika.styles.sync import SyncConnection
from cpspika.wire import frames
from tests.support.scripted import (
    Done,
    MemoryBroker,
    SocketBroker,
    World,
    frame,
    free_port,
    method_frame,
    opened,
    run_until,
    said,
    using,
)

START = {"version_major": 0, "version_minor": 9, "mechanisms": "PLAIN AMQPLAIN", "locales": "en_US"}
TUNE = {"channel_max": 2047, "frame_max": 131072, "heartbeat": 0}

# The broker's steps of the handshake; each is met by one answer of the client's.
STEPS = [
    ("connection.start", START, ["connection.start-ok"]),
    ("connection.secure", {"challenge": b"who?"}, ["connection.secure-ok"]),
    ("connection.tune", TUNE, ["connection.tune-ok", "connection.open"]),
    ("connection.open-ok", {}, []),
]


class Answering:
    """A user's own credentials, with challenges."""

    mechanism = "PLAIN"

    def __init__(self) -> None:
        self.challenges: list[bytes] = []

    def start(self) -> bytes:
        return b"begin"

    def respond(self, challenge: bytes) -> bytes:
        self.challenges.append(challenge)
        return b"answer to " + challenge


def by_hand(**options: Any) -> World:
    """A world whose handshake the test says."""
    world = World({"handshake": False}, credentials=options.pop("credentials", Answering()), **options)
    world.peer.expect_header()
    return world


def say(world: World, count: int) -> None:
    """The first steps of the handshake."""
    for name, arguments, answers in STEPS[:count]:
        world.peer.send(0, name, **arguments)
        for answer in answers:
            world.peer.expect(answer)


# --- connection_timeout -----------------------------------------------------------------------------------------------


def test_a_silent_broker_is_given_up_after_connection_timeout() -> None:
    world = World({"handshake": False}, connection_timeout=7)
    world.reactor.advance(6.9)
    assert world.connected.pending
    world.reactor.advance(0.2)
    error = world.connected.error
    assert isinstance(error, cpspika.ConnectTimeout)
    assert isinstance(error, TimeoutError)
    assert "broker:5672" in str(error)
    assert "7" in str(error)
    assert error.method == "connect"
    assert "scripted.py" in error.asked_at
    world.peer.expect_hang_up()
    assert not world.connection.is_open


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_broker_that_stops_amid_the_handshake_is_given_up(steps: int) -> None:
    """The time is one for all steps: each step's progress doesn't begin it anew."""
    world = by_hand(connection_timeout=10)
    for i in range(steps):
        world.reactor.advance(2)
        name, arguments, answers = STEPS[i]
        world.peer.send(0, name, **arguments)
        for answer in answers:
            world.peer.expect(answer)
    world.reactor.advance(10 - 2 * steps - 0.1)
    assert world.connected.pending
    world.reactor.advance(0.2)
    assert isinstance(world.connected.error, cpspika.ConnectTimeout)
    world.peer.expect_hang_up()
    world.reactor.run()


def test_connection_timeout_ends_with_the_handshake() -> None:
    world = by_hand(connection_timeout=10)
    say(world, 4)
    world.settle()
    assert world.connected.result is world.connection
    world.reactor.advance(1000)
    assert world.connection.is_open


def test_half_a_frame_is_a_silent_broker_too() -> None:
    world = by_hand(connection_timeout=3)
    world.peer.send_raw(method_frame(0, "connection.start", **START)[:-1])
    world.reactor.advance(4)
    assert isinstance(world.connected.error, cpspika.ConnectTimeout)


def test_heartbeats_alone_do_not_open_a_connection() -> None:
    world = by_hand(connection_timeout=5)
    say(world, 1)
    for _ in range(10):
        world.peer.heartbeat()
        world.reactor.advance(0.6)
    assert isinstance(world.connected.error, cpspika.ConnectTimeout)


def test_no_connection_timeout_waits_without_end() -> None:
    world = by_hand(connection_timeout=None)
    world.reactor.advance(100_000)
    assert world.connected.pending
    say(world, 4)
    world.settle()
    assert world.connected.result is world.connection


def test_a_connection_timeout_of_zero_is_told_as_an_error_of_ours() -> None:
    reactor = MemoryReactor()
    MemoryBroker(reactor)
    done = Done()
    try:
        with done.not_inside():
            cpspika.connect("amqp://broker", reactor=reactor, on_done=done, connection_timeout=0)
    except cpspika.InvalidArgument:
        return
    reactor.run()
    assert isinstance(done.error, cpspika.AMQPError)


# --- several targets --------------------------------------------------------------------------------------------------


def several(reactor: MemoryReactor, *hosts: str, **options: Any) -> tuple[Any, Done]:
    done = Done("connect")
    connection = cpspika.connect(
        [f"amqp://{host}" for host in hosts], reactor=reactor, on_done=done, heartbeat=0, **options
    )
    return connection, done


def test_targets_are_tried_in_order_and_share_the_timeout() -> None:
    reactor = MemoryReactor()
    dead = [MemoryBroker(reactor, host, handshake=False) for host in ("first", "second")]
    alive = MemoryBroker(reactor, "third")
    connection, done = several(reactor, "first", "second", "third", connection_timeout=9)
    run_until(reactor, lambda: not done.pending)
    assert done.result is connection
    assert reactor.time() < 9, "a dead one cannot use up what the living one needs"
    assert dead[0].times < dead[1].times < alive.times
    assert connection.parameters.host == "third"
    assert dead[0].peer.hung_up


def test_all_dead_targets_together_take_no_longer_than_the_timeout() -> None:
    reactor = MemoryReactor()
    for host in ("first", "second", "third"):
        MemoryBroker(reactor, host, handshake=False)
    _, done = several(reactor, "first", "second", "third", connection_timeout=9)
    reactor.advance(8.9)
    assert done.pending
    reactor.advance(0.2)
    assert isinstance(done.error, cpspika.ConnectTimeout)
    for host in ("first", "second", "third"):
        assert f"{host}:5672" in str(done.error)


def test_time_that_one_target_did_not_need_is_left_to_the_others() -> None:
    reactor = MemoryReactor()
    MemoryBroker(reactor, "second", handshake=False)
    _, done = several(reactor, "nobody", "second", connection_timeout=10)
    reactor.advance(9.9)
    assert done.pending
    reactor.advance(0.2)
    assert isinstance(done.error, cpspika.ConnectError)
    assert "nobody:5672" in str(done.error)
    assert "second:5672" in str(done.error)


def test_a_target_that_refuses_or_hangs_up_is_passed_over() -> None:
    reactor = MemoryReactor()
    MemoryBroker(reactor, "second", handshake=False, script=lambda peer: peer.hang_up())
    MemoryBroker(reactor, "third")
    connection, done = several(reactor, "nobody", "second", "third")
    reactor.settle()
    assert done.result is connection
    assert connection.parameters.host == "third"


def test_a_target_that_speaks_something_else_is_passed_over() -> None:
    reactor = MemoryReactor()
    MemoryBroker(reactor, "web", handshake=False, script=lambda peer: peer.send_raw(b"HTTP/1.1 400 Bad Request\r\n"))
    MemoryBroker(reactor, "broker")
    connection, done = several(reactor, "web", "broker")
    reactor.settle()
    assert done.result is connection


def test_a_target_that_fails_twice_in_one_breath_costs_the_next_one_nothing() -> None:
    """A close and a frame after it come in one piece: that is one failed attempt, not two."""
    reactor = MemoryReactor()
    going = method_frame(0, "connection.close", reply_code=320, reply_text="CONNECTION_FORCED")
    bad = frame(frames.METHOD, 0, struct.pack(">HH", 10, 999))
    start = method_frame(0, "connection.start", **START)
    first = MemoryBroker(reactor, "first", handshake=False, script=lambda peer: peer.send_raw(start + going + bad * 2))
    second = MemoryBroker(reactor, "second")
    connection, done = several(reactor, "first", "second")
    reactor.settle()
    assert first.peers
    assert second.peers, "the second target was skipped"
    assert done.result is connection


@pytest.mark.parametrize(("code", "at", "kind"), [(403, 1, cpspika.LoginError), (530, 3, cpspika.VirtualHostRefused)])
def test_a_brokers_no_is_the_last_word(code: int, at: int, kind: type[Exception]) -> None:
    """Trying the same password elsewhere would only lock the account sooner."""
    reactor = MemoryReactor()
    first = MemoryBroker(reactor, "first", handshake=False)
    second = MemoryBroker(reactor, "second")
    done = Done()
    targets = ["amqp://first", "amqp://second"]
    cpspika.connect(targets, reactor=reactor, on_done=done, credentials=Answering())
    first.peer.expect_header()
    for name, arguments, answers in STEPS[:at]:
        first.peer.send(0, name, **arguments)
        for answer in answers:
            first.peer.expect(answer)
    first.peer.close_connection(code, "no")
    reactor.settle()
    assert isinstance(done.error, kind)
    assert not second.peers


def test_two_addresses_of_a_name_are_both_tried() -> None:
    with SocketBroker() as broker, using(SelectReactor()) as reactor:
        addresses = [
            (socket.AF_INET, ("127.0.0.1", free_port())),
            (socket.AF_INET, ("127.0.0.1", broker.port)),
        ]
        reactor.resolve = (  # type: ignore[method-assign]
            lambda endpoint, on_done: reactor.call_soon(lambda: on_done(None, addresses))
        )
        done = Done()
        connection = cpspika.connect("amqp://two.example", reactor=reactor, on_done=done)
        run_until(reactor, lambda: not done.pending)
        assert done.result is connection


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_a_login_error_at_once() -> None:
    world = by_hand(credentials=PlainCredentials("me", "hush-hush"))
    say(world, 1)
    world.peer.close_connection(403, "ACCESS_REFUSED - Login was refused using PLAIN")
    world.settle()
    error = world.connected.error
    assert world.reactor.time() == 0
    assert isinstance(error, cpspika.LoginError)
    assert isinstance(error, cpspika.AccessRefused)
    assert error.code == 403
    assert "broker:5672" in str(error)
    assert "ACCESS_REFUSED" in str(error)
    assert "hush" not in repr(error) + said(error)
    world.peer.expect("connection.close-ok")
    world.peer.expect_hang_up()


@pytest.mark.parametrize("steps", [1, 2])
def test_a_broker_that_hangs_up_on_the_credentials_is_a_login_error_too(steps: int) -> None:
    world = by_hand()
    say(world, steps)
    world.peer.hang_up()
    world.settle()
    assert isinstance(world.connected.error, cpspika.LoginError)
    assert "broker:5672" in str(world.connected.error)


def test_mechanisms_that_do_not_meet_are_a_login_error_that_names_both() -> None:
    world = by_hand(credentials=PlainCredentials())
    world.peer.send(0, "connection.start", **{**START, "mechanisms": "EXTERNAL SCRAM"})
    world.settle()
    error = world.connected.error
    assert isinstance(error, cpspika.LoginError)
    for word in ("EXTERNAL", "SCRAM", "PLAIN", "broker:5672"):
        assert word in str(error)
    world.peer.expect_hang_up()


@pytest.mark.parametrize("code", [402, 403, 530])
def test_an_unknown_virtual_host_has_an_error_of_its_own(code: int) -> None:
    world = by_hand(virtual_host="nowhere")
    say(world, 3)
    world.peer.close_connection(code, "NOT_ALLOWED - vhost nowhere not found")
    world.settle()
    error = world.connected.error
    assert isinstance(error, cpspika.VirtualHostRefused)
    assert not isinstance(error, cpspika.LoginError)
    assert error.code == code
    assert "vhost nowhere not found" in str(error)


def test_a_hang_up_on_the_virtual_host_names_it() -> None:
    world = by_hand(virtual_host="nowhere")
    say(world, 3)
    world.peer.hang_up()
    world.settle()
    assert isinstance(world.connected.error, cpspika.VirtualHostRefused)
    assert "nowhere" in str(world.connected.error)


def test_another_version_is_an_error_that_names_both() -> None:
    world = World({"handshake": False})
    world.peer.expect_header()
    world.peer.send_raw(b"AMQP\x01\x01\x08\x00")
    world.peer.hang_up()
    world.settle()
    error = world.connected.error
    assert isinstance(error, cpspika.ProtocolVersionMismatch)
    assert "0-8" in str(error)
    assert "0-9-1" in str(error)
    assert "broker:5672" in str(error)


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n", b"SSH-2.0-OpenSSH_9\r\n", b"\x15\x03\x01\0\2\2\x46"])
def test_something_that_is_no_broker_is_an_error_that_says_so(data: bytes) -> None:
    world = World({"handshake": False})
    world.peer.expect_header()
    world.peer.send_raw(data)
    world.settle()
    error = world.connected.error
    assert isinstance(error, cpspika.InvalidProtocolHeader)
    assert isinstance(error, cpspika.AMQPConnectionError)
    assert "broker:5672" in str(error)
    assert repr(data[:8])[2:6] in str(error)
    world.peer.expect_hang_up()


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_lost_link_amid_the_handshake_tells_host_port_and_cause(steps: int) -> None:
    world = by_hand()
    say(world, steps)
    world.peer.cut(ConnectionResetError(104, "Connection reset by peer"))
    world.settle()
    error = world.connected.error
    assert isinstance(error, cpspika.ConnectError)
    assert "broker:5672" in str(error)
    assert "Connection reset by peer" in str(error)


@pytest.mark.parametrize("reactor_type", [SelectReactor, BlockingReactor])
def test_a_refused_port_names_host_port_and_cause(reactor_type: Any) -> None:
    done, port = Done(), free_port()
    with using(reactor_type()) as reactor:
        cpspika.connect(f"amqp://127.0.0.1:{port}", reactor=reactor, on_done=done)
        assert done.pending
        run_until(reactor, lambda: not done.pending)
        reactor.run()
    error = done.error
    assert isinstance(error, cpspika.ConnectError)
    assert f"127.0.0.1:{port}" in str(error)
    assert "refused" in str(error).lower()
    assert isinstance(error.__cause__, ConnectionRefusedError)


def test_an_unknown_name_names_host_port_and_cause() -> None:
    done = Done()
    with using(SelectReactor()) as reactor:
        cpspika.connect("amqp://no.such.host.invalid:1234", reactor=reactor, on_done=done, connection_timeout=60)
        run_until(reactor, lambda: not done.pending, 60)
    error = done.error
    assert isinstance(error, cpspika.ConnectError)
    assert "no.such.host.invalid:1234" in str(error)
    assert isinstance(error.__cause__, OSError)


def test_the_facade_raises_what_kept_it_from_connecting() -> None:
    port = free_port()
    with pytest.raises(cpspika.ConnectError, match=f"127.0.0.1:{port}"):
        cpspika.BlockingConnection(f"amqp://127.0.0.1:{port}")


@pytest.mark.parametrize("option", ["hartbeat", "Heartbeat", "timeout_", "user"])
def test_an_unknown_option_is_an_error_that_names_it(option: str) -> None:
    reactor = MemoryReactor()
    calls: list[Any] = [
        lambda: cpspika.connect("amqp://broker", reactor=reactor, **{option: 1}),
        lambda: ConnectionParameters("broker", **{option: 1}),
        lambda: cpspika.connect(f"amqp://broker?{option}=1", reactor=reactor),
    ]
    for call in calls:
        with pytest.raises(cpspika.InvalidArgument, match=option):
            call()


# --- what a broker says in the handshake ------------------------------------------------------------------------------


def test_the_client_tells_who_it_is_and_what_it_can() -> None:
    world = by_hand(credentials=PlainCredentials("me", "secret"), client_properties={"name": "mine"}, locale="de_DE")
    world.peer.send(0, "connection.start", **START)
    ok = world.peer.expect("connection.start-ok")
    assert (ok.mechanism, ok.response, ok.locale) == ("PLAIN", b"\0me\0secret", "de_DE")
    assert ok.client_properties["product"] == "cpspika"
    assert ok.client_properties["name"] == "mine"
    assert ok.client_properties["capabilities"]["consumer_cancel_notify"] is True


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [
        ({}, {"frame_max": 8192}, {"frame_max": 8192, "channel_max": 2047}),
        ({"frame_max": 8192}, {}, {"frame_max": 8192}),
        ({}, {"frame_max": 0}, {"frame_max": 131072}),
        ({"channel_max": 5}, {}, {"channel_max": 5}),
        ({"channel_max": 5}, {"channel_max": 0}, {"channel_max": 5}),
        ({}, {"channel_max": 0}, {"channel_max": 65535}),
        ({"heartbeat": None}, {"heartbeat": 60}, {"heartbeat": 60}),
        ({"heartbeat": 30}, {"heartbeat": 60}, {"heartbeat": 30}),
        ({"heartbeat": 0}, {"heartbeat": 60}, {"heartbeat": 0}),
    ],
)
def test_the_lower_of_two_limits_is_agreed_on(
    ours: dict[str, Any], theirs: dict[str, Any], agreed: dict[str, Any]
) -> None:
    world = by_hand(**ours)
    say(world, 2)
    world.peer.send(0, "connection.tune", **{**TUNE, **theirs})
    ok = world.peer.expect("connection.tune-ok")
    world.peer.expect("connection.open")
    world.peer.send(0, "connection.open-ok")
    world.settle()
    assert world.connected.result is world.connection
    for name, value in agreed.items():
        assert getattr(ok, name) == value
        assert getattr(world.connection, name) == value


@pytest.mark.parametrize("frame_max", [1, 8, 20, 4095])
def test_a_frame_max_under_the_least_is_refused(frame_max: int) -> None:
    """Both sides must take frames of 4096 bytes (§4.2.3); with less nothing could be sent at all."""
    world = by_hand(connection_timeout=5)
    say(world, 2)
    world.peer.send(0, "connection.tune", **{**TUNE, "frame_max": frame_max})
    world.reactor.advance(6)
    error = world.connected.error
    assert isinstance(error, cpspika.AMQPError)
    assert not isinstance(error, cpspika.ConnectTimeout)
    assert "frame_max" in str(error)
    world.peer.expect_hang_up()


def test_a_users_credentials_answer_challenges() -> None:
    credentials = Answering()
    world = by_hand(credentials=credentials)
    world.peer.send(0, "connection.start", **START)
    assert world.peer.expect("connection.start-ok").response == b"begin"
    for challenge in (b"one", b"two"):
        world.peer.send(0, "connection.secure", challenge=challenge)
        assert world.peer.expect("connection.secure-ok").response == b"answer to " + challenge
    assert credentials.challenges == [b"one", b"two"]
    world.peer.send(0, "connection.tune", **TUNE)
    world.peer.expect("connection.tune-ok")
    world.peer.expect("connection.open")
    world.peer.send(0, "connection.open-ok")
    world.settle()
    assert world.connected.result is world.connection


class WithoutAnswers:
    """As the documentation allows: a mechanism that has no challenges leaves `respond` out."""

    mechanism = "PLAIN"

    def start(self) -> bytes:
        return b""


@pytest.mark.parametrize("credentials", [PlainCredentials(), WithoutAnswers()], ids=["PLAIN", "a user's"])
def test_a_challenge_that_nobody_can_answer_is_a_login_error(credentials: Any) -> None:
    world = by_hand(credentials=credentials)
    world.peer.send(0, "connection.start", **START)
    world.peer.expect("connection.start-ok")
    world.peer.send(0, "connection.secure", challenge=b"who?")
    world.settle()
    assert isinstance(world.connected.error, cpspika.LoginError)
    world.peer.expect_hang_up()


@pytest.mark.parametrize("where", ["start", "respond"])
def test_credentials_that_raise_come_out_of_run_and_the_connect_still_ends_once(where: str) -> None:
    class Raising(Answering):
        def start(self) -> bytes:
            return b"" if where == "respond" else self.fail()

        def respond(self, challenge: bytes) -> bytes:
            return self.fail()

        def fail(self) -> bytes:
            raise RuntimeError("the token server is away")

    world = by_hand(credentials=Raising(), connection_timeout=5)
    world.peer.send(0, "connection.start", **START)
    try:
        world.settle()
        if where == "respond":
            world.peer.expect("connection.start-ok")
            world.peer.send(0, "connection.secure", challenge=b"?")
            world.settle()
        raised = None
    except RuntimeError as error:
        raised = error
    world.peer.send(0, "connection.close", reply_code=320, reply_text="CONNECTION_FORCED")
    world.reactor.advance(6)
    error = world.connected.error
    assert isinstance(error, cpspika.AMQPError)
    assert raised is not None or "the token server is away" in said(error)
    world.peer.expect_hang_up()


def test_a_redirect_of_0_8_is_an_error_that_names_the_other_host() -> None:
    world = by_hand(protocol="0-8")
    assert world.peer.version == "0-8"
    world.peer.send(0, "connection.start", **{**START, "version_major": 8, "version_minor": 0})
    world.peer.expect("connection.start-ok")
    world.peer.send(0, "connection.tune", **TUNE)
    world.peer.expect("connection.tune-ok")
    world.peer.expect("connection.open")
    world.peer.send(0, "connection.redirect", host="other:5673", known_hosts="")
    world.settle()
    assert isinstance(world.connected.error, cpspika.ConnectError)
    assert "other:5673" in str(world.connected.error)
    assert "broker:5672" in str(world.connected.error)
    world.peer.expect_hang_up()


def test_the_servers_properties_are_there() -> None:
    world = opened()
    assert world.connection.server_properties["product"] == "scripted"
    assert world.connection.parameters.host == "broker"


# --- heartbeats -------------------------------------------------------------------------------------------------------


def test_two_silent_intervals_end_the_connection() -> None:
    world = opened({"heartbeat": 10}, heartbeat=10)
    channel, pending = world.channel(), Done()
    channel.queue_declare("q", on_done=pending)
    world.settle()
    world.peer.silent()
    begin = world.reactor.time()
    world.reactor.advance(19)
    assert world.connection.is_open
    world.reactor.advance(6.1)
    assert not world.connection.is_open
    assert isinstance(world.closed[0], cpspika.HeartbeatTimeout)
    assert isinstance(world.closed[0], cpspika.ConnectionLost)
    assert "broker:5672" in str(world.closed[0])
    assert "10 s" in str(world.closed[0])
    assert isinstance(pending.error, cpspika.AMQPError)
    assert "heartbeat" in said(pending.error)
    assert world.reactor.time() - begin <= 25.2
    world.peer.expect_hang_up()


def test_anything_that_is_heard_keeps_the_connection() -> None:
    world = opened({"heartbeat": 10}, heartbeat=10)
    for i in range(20):
        world.reactor.advance(15)
        assert world.connection.is_open
        if i % 2:
            world.peer.heartbeat()
        else:
            world.peer.send_raw(b"\x08")  # the beginning of a frame is a sign of life as well
            world.settle()
            world.peer.send_raw(frames.HEARTBEAT_FRAME[1:])
        world.settle()
    assert world.connection.is_open


def test_heartbeats_are_sent_when_idle_and_not_when_busy() -> None:
    world = opened({"heartbeat": 10}, heartbeat=10)
    channel = world.channel()
    before = len(world.peer.raw)
    for _ in range(10):
        world.peer.heartbeat()
        world.reactor.advance(10)
    idle = bytes(world.peer.raw[before:])
    assert idle == frames.HEARTBEAT_FRAME * (len(idle) // 8)
    assert 10 <= len(idle) // 8 <= 20, "at least one in each interval"
    before = len(world.peer.raw)
    for _ in range(100):
        world.peer.heartbeat()
        channel.basic_ack(1)
        world.reactor.advance(1)
    assert frames.HEARTBEAT_FRAME not in world.peer.raw[before:]


def test_heartbeat_0_sends_none_and_never_gives_up() -> None:
    world = opened({"heartbeat": 10}, heartbeat=0)
    before = len(world.peer.raw)
    world.reactor.advance(100_000)
    assert len(world.peer.raw) == before
    assert world.connection.is_open


def test_the_servers_interval_is_taken_where_none_is_given() -> None:
    world = opened({"heartbeat": 4}, heartbeat=None)
    assert world.connection.heartbeat == 4
    world.peer.silent()
    world.reactor.advance(11)
    assert isinstance(world.closed[0], cpspika.HeartbeatTimeout)


def test_a_closed_connection_has_no_heartbeat_left() -> None:
    world = opened({"heartbeat": 4}, heartbeat=4)
    world.connection.close()
    world.settle()
    world.reactor.run()
    assert world.reactor.time() < 1, "the reactor has nothing to wait for"


def test_a_process_that_slept_finds_what_came_meanwhile() -> None:
    """Its clock leaps an hour; the broker's heartbeats are in the kernel, and are read before it despairs."""
    done, leap = Done(), [0.0]
    closed: list[Any] = []
    with SocketBroker(heartbeat=2) as broker, using(SelectReactor()) as reactor:
        reactor.time = lambda: time.monotonic() + leap[0]  # type: ignore[method-assign]
        connection = cpspika.connect(
            broker.url, reactor=reactor, on_done=done, on_close=lambda *args: closed.append(args[1])
        )
        run_until(reactor, lambda: not done.pending)
        assert connection.heartbeat == 2
        for _ in range(10):
            broker.peers[0].heartbeat()
            leap[0] += 3600
            for _ in range(5):
                reactor.run_once(0)
        assert connection.is_open, said(closed[0])


def test_a_stopped_peer_on_a_real_socket_is_noticed() -> None:
    """It holds the socket open and says nothing: only heartbeats can tell."""
    closed: list[Any] = []
    stopped = SocketBroker(lambda peer: (peer.expect_open(), peer.wait(lambda: peer.hung_up, 8)), heartbeat=1)
    with stopped as broker, using(SelectReactor()) as reactor:
        cpspika.connect(broker.url, reactor=reactor, on_close=lambda connection, error: closed.append(error))
        begin = time.monotonic()
        run_until(reactor, lambda: bool(closed))
        assert isinstance(closed[0], cpspika.HeartbeatTimeout)
        assert 1.5 <= time.monotonic() - begin <= 6


# --- blocked ----------------------------------------------------------------------------------------------------------


def test_blocked_for_longer_than_its_timeout_ends_the_connection() -> None:
    world = opened(blocked_connection_timeout=30)
    channel, pending = world.channel(), Done()
    channel.queue_declare("q", on_done=pending)
    world.peer.send(0, "connection.blocked", reason="low on memory")
    world.reactor.advance(20)
    world.peer.send(0, "connection.blocked", reason="low on disk")  # a second reason begins nothing anew
    world.reactor.advance(9)
    assert world.connection.is_open
    world.reactor.advance(2)
    assert isinstance(world.closed[0], cpspika.BlockedConnectionTimeout)
    assert "30" in str(world.closed[0])
    assert isinstance(pending.error, cpspika.AMQPError)
    world.peer.expect_hang_up()


def test_unblocked_in_time_keeps_the_connection() -> None:
    world = opened(blocked_connection_timeout=30)
    for _ in range(3):
        world.peer.send(0, "connection.blocked", reason="r")
        world.reactor.advance(29)
        world.peer.send(0, "connection.unblocked")
        world.reactor.advance(29)
    assert world.connection.is_open


# --- closing ----------------------------------------------------------------------------------------------------------


def test_close_says_goodbye_and_hangs_up() -> None:
    world = opened()
    channel, done = world.channel(), Done()
    world.connection.close(320, "maintenance", on_done=done)
    assert not world.connection.is_open
    assert not channel.is_open
    close = world.peer.expect("connection.close")
    assert (close.reply_code, close.reply_text) == (320, "maintenance")
    world.settle()
    assert done.result is None
    assert world.closed == [None]
    assert world.connection.close_reason is None
    world.peer.expect_hang_up()
    world.reactor.run()


@pytest.mark.parametrize("steps", [None, 0, 1, 3])
def test_close_while_connecting_ends_it(steps: int | None) -> None:
    world = World({"handshake": False}, credentials=Answering())
    done = Done("close")
    if steps is not None:
        world.peer.expect_header()
        say(world, steps)
    with done.not_inside(), world.connected.not_inside():
        world.connection.close(on_done=done)
    world.settle()
    assert done.result is None
    assert isinstance(world.connected.error, cpspika.ConnectionClosed)
    if steps is not None:
        world.peer.expect_hang_up()
    world.reactor.advance(60)
    assert len(world.closed) == 1


def test_a_close_that_is_not_answered_ends_after_a_time() -> None:
    world = opened(connection_timeout=6)
    channel, done, pending = world.channel(), Done("close"), Done("pending")
    world.peer.silent()
    channel.queue_declare("q", on_done=pending)
    world.connection.close(on_done=done)
    world.reactor.advance(5.9)
    assert done.pending
    world.reactor.advance(0.2)
    assert isinstance(done.error, cpspika.OperationTimeout)
    assert "broker:5672" in str(done.error)
    assert isinstance(pending.error, cpspika.ChannelClosed)
    world.peer.expect_hang_up()
    world.reactor.run()


def test_several_closes_are_one_and_each_is_told() -> None:
    world = opened()
    done = [Done(i) for i in range(3)]
    for on_done in done:
        world.connection.close(on_done=on_done)
    world.settle()
    assert [on_done.result for on_done in done] == [None] * 3
    world.peer.expect("connection.close")
    world.peer.expect_nothing()
    late = Done()
    world.connection.close(on_done=late)
    world.settle()
    assert late.result is None
    assert len(world.closed) == 1


@pytest.mark.parametrize("after", ["hang up", "close-ok", "nothing"])
def test_closes_that_cross_end_once(after: str) -> None:
    world = opened()
    done = Done()
    world.peer.answering = False
    world.connection.close(on_done=done)
    world.peer.close_connection()
    world.settle()
    if after == "hang up":
        world.peer.hang_up()
    elif after == "close-ok":
        world.peer.answer()
    world.reactor.advance(60)
    assert not done.pending
    assert len(world.closed) == 1
    world.peer.expect("connection.close")
    world.peer.expect("connection.close-ok")


def test_a_broker_that_hangs_up_instead_of_close_ok_has_closed() -> None:
    world = opened()
    done = Done()
    world.peer.answering = False
    world.connection.close(on_done=done)
    world.peer.expect("connection.close")
    world.peer.hang_up()
    world.settle()
    assert done.result is None
    assert world.closed == [None]


def test_the_brokers_close_is_answered_and_tells_code_and_text() -> None:
    world = opened()
    channel = world.channel()
    states: list[Any] = []
    world.connection.add_state_change_handler(lambda connection, is_open: states.append((connection, is_open)))
    world.peer.close_connection(320, "CONNECTION_FORCED - shutdown")
    world.settle()
    world.peer.expect("connection.close-ok")
    world.peer.expect_hang_up()
    assert isinstance(world.closed[0], cpspika.ConnectionForced)
    assert isinstance(world.closed[0], cpspika.ConnectionClosed)
    assert world.connection.close_reason is world.closed[0]
    assert states == [(world.connection, False)]
    with pytest.raises(cpspika.ConnectionClosed, match="CONNECTION_FORCED"):
        world.connection.channel()
    with pytest.raises(cpspika.AMQPError, match="CONNECTION_FORCED"):
        channel.queue_declare("q")


def test_state_handlers_hear_of_the_opening_and_the_closing() -> None:
    world = World()
    states: list[Any] = []
    world.connection.add_state_change_handler(lambda connection, is_open: states.append((is_open, connection.is_open)))
    world.settle()
    world.connection.close()
    world.settle()
    assert states == [(True, True), (False, False)]


def test_a_connection_that_never_opened_tells_no_state_handler_of_a_closing() -> None:
    world = World({"handshake": False}, connection_timeout=1)
    states: list[Any] = []
    world.connection.add_state_change_handler(lambda connection, is_open: states.append(is_open))
    world.reactor.advance(2)
    assert world.connected.error
    assert states == []


def test_update_secret() -> None:
    world = opened()
    first, second = Done(), Done()
    world.connection.update_secret("new", "it was time", on_done=first)
    world.connection.update_secret(b"newer", on_done=second)
    asked = world.peer.expect("connection.update-secret")
    assert (asked.new_secret, asked.reason) == (b"new", "it was time")
    assert "new" not in repr(asked).replace("new_secret", "")
    world.peer.send(0, "connection.update-secret-ok")
    world.settle()
    assert first.result is None
    assert second.pending
    world.peer.close_connection(530, "NOT_ALLOWED - token expired")
    world.settle()
    assert "token expired" in said(second.error)
    assert second.error.method == "connection.update-secret"


# --- channels ---------------------------------------------------------------------------------------------------------


def test_no_free_channels_is_told_and_numbers_are_used_again() -> None:
    world = opened({"channel_max": 3})
    channels = [world.channel() for _ in range(3)]
    assert [channel.number for channel in channels] == [1, 2, 3]
    full = Done()
    with full.not_inside():
        assert world.connection.channel(on_done=full) is None
    with pytest.raises(cpspika.NoFreeChannels, match="3"):
        world.connection.channel()
    world.settle()
    assert isinstance(full.error, cpspika.NoFreeChannels)
    channels[1].close()
    with pytest.raises(cpspika.NoFreeChannels):
        world.connection.channel()  # its number is free with the close-ok, not before
    world.settle()
    world.peer.expect("channel.close", 2)
    assert world.channel().number == 2
    assert world.connection.is_open


def test_the_lowest_free_number_is_used_and_the_old_channel_stays_closed() -> None:
    world = opened()
    channels = [world.channel() for _ in range(4)]
    for index in (2, 0):
        channels[index].close()
        world.settle()
        world.peer.expect("channel.close")
    again = [world.channel() for _ in range(3)]
    assert [channel.number for channel in again] == [1, 3, 5]
    assert not channels[0].is_open
    with pytest.raises(cpspika.ChannelClosed):
        channels[0].queue_declare("q")
    world.peer.expect_nothing()


def test_thousands_of_channels_come_and_go() -> None:
    world = opened()
    random.seed(1)
    alive: list[Any] = []
    for _ in range(500):
        if alive and random.random() < 0.5:
            alive.pop(random.randrange(len(alive))).close()
            world.settle()
            world.peer.expect("channel.close")
        else:
            alive.append(world.channel())
        assert len({channel.number for channel in alive}) == len(alive)
    assert max(channel.number for channel in alive) < 100


def test_a_channel_error_leaves_the_other_channels_working() -> None:
    world = opened()
    first, second = world.channel(), world.channel()
    dead, alive = Done(), Done()
    first.queue_declare("q", passive=True, on_done=dead)
    second.queue_declare("p", on_done=alive)
    world.peer.expect("queue.declare", 1)
    world.peer.expect("queue.declare", 2)
    world.peer.close_channel(404, "NOT_FOUND - no queue", 50, 10, number=1)
    world.peer.send(2, "queue.declare-ok", queue="p")
    world.settle()
    assert isinstance(dead.error, cpspika.NotFound)
    assert alive.result.queue == "p"
    assert (first.is_open, second.is_open, world.connection.is_open) == (False, True, True)
    world.peer.expect("channel.close-ok", 1)
    assert isinstance(first.close_reason, cpspika.NotFound)
    assert world.channel().number == 1


def test_a_channel_that_the_broker_will_not_open() -> None:
    world = opened()
    done, later = Done(), Done()
    channel = world.connection.channel(on_done=done)
    assert channel is not None
    channel.queue_declare("q", on_done=later)
    world.settle()
    world.peer.send_raw(method_frame(1, "channel.close", reply_code=541, reply_text="INTERNAL_ERROR"))
    world.settle()
    assert "INTERNAL_ERROR" in said(done.error)
    assert "INTERNAL_ERROR" in said(later.error)


def test_channel_closes_that_cross_end_once_and_free_the_number() -> None:
    world = opened()
    channel, done, pending = world.channel(), Done(), Done()
    states: list[Any] = []
    channel.add_state_change_handler(lambda channel, is_open: states.append(is_open))
    channel.queue_declare("q", on_done=pending)
    world.peer.answering = False
    channel.close(on_done=done)
    world.peer.expect("queue.declare")
    world.peer.expect("channel.close")
    world.peer.send_raw(method_frame(1, "channel.close", reply_code=404, reply_text="NOT_FOUND"))
    world.settle()
    world.peer.send_raw(method_frame(1, "channel.close-ok"))
    world.settle()
    assert done.result is None
    assert isinstance(pending.error, cpspika.ChannelClosed)
    assert states == [False]
    assert world.connection.is_open
    assert world.connection.channel().number == 1


def test_the_brokers_cancel_goes_to_on_cancel() -> None:
    world = opened()
    channel, cancelled, got = world.channel(), [], []
    channel.basic_consume("q", got.append, consumer_tag="c", on_cancel=cancelled.append)
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    world.peer.deliver(1, b"before")
    world.peer.send(1, "basic.cancel", consumer_tag="c", no_wait=True)
    world.settle()
    assert [message.body for message in got] == [b"before"]
    assert cancelled == ["c"]
    assert channel.is_open
    assert not channel.has_consumers
    world.peer.expect_nothing()
    with pytest.raises(cpspika.UnknownConsumerTag):
        channel.basic_cancel("c")
    channel.basic_consume("q", got.append, consumer_tag="c")


def test_the_brokers_cancel_without_on_cancel_comes_out_of_run() -> None:
    world = opened()
    channel = world.channel()
    world.consume(channel, lambda message: None)
    world.peer.send(1, "basic.cancel", consumer_tag="c", no_wait=True)
    with pytest.raises(cpspika.ConsumerCancelled, match="'c'"):
        world.settle()
    assert channel.is_open


def test_the_brokers_cancel_that_wants_an_answer_gets_one() -> None:
    world = opened()
    channel, cancelled = world.channel(), []
    channel.basic_consume("q", print, consumer_tag="c", on_cancel=cancelled.append)
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    world.peer.send(1, "basic.cancel", consumer_tag="c", no_wait=False)
    assert world.peer.expect("basic.cancel-ok").consumer_tag == "c"
    assert cancelled == ["c"]


def test_cancels_that_cross_end_the_consumer_once() -> None:
    world = opened()
    channel, cancelled, done = world.channel(), [], Done()
    channel.basic_consume("q", print, consumer_tag="c", on_cancel=cancelled.append)
    world.peer.expect("basic.consume")
    world.peer.send(1, "basic.consume-ok", consumer_tag="c")
    world.settle()
    channel.basic_cancel("c", on_done=done)
    world.peer.send(1, "basic.cancel", consumer_tag="c", no_wait=True)
    world.peer.expect("basic.cancel")
    world.peer.send(1, "basic.cancel-ok", consumer_tag="c")
    world.settle()
    assert done.result == "c"
    assert len(cancelled) <= 1
    assert channel.is_open


def test_deliveries_go_to_their_consumer_with_what_the_broker_said() -> None:
    world = opened()
    channel, first, second = world.channel(), [], []
    world.consume(channel, first.append, "one")
    world.consume(channel, second.append, "two")
    world.peer.deliver(
        1, b"for two", {"message_id": "m"}, consumer_tag="two", delivery_tag=9, redelivered=True, exchange="x"
    )
    world.peer.deliver(1, b"for one", consumer_tag="one", delivery_tag=10)
    world.settle()
    assert [message.body for message in first] == [b"for one"]
    message = second[0]
    assert (message.body, message.delivery_tag, message.redelivered) == (b"for two", 9, True)
    assert (message.exchange, message.routing_key, message.consumer_tag) == ("x", "q", "two")
    assert message.channel is channel
    assert message.properties.message_id == "m"
    message.ack(multiple=True)
    message.nack(requeue=False)
    message.reject()
    ack, nack, reject = (world.peer.expect(f"basic.{name}") for name in ("ack", "nack", "reject"))
    assert (ack.delivery_tag, ack.multiple) == (9, True)
    assert (nack.delivery_tag, nack.multiple, nack.requeue) == (9, False, False)
    assert (reject.delivery_tag, reject.requeue) == (9, True)


def test_basic_get_gives_a_message_or_none() -> None:
    world = opened()
    channel, some, none = world.channel(), Done(), Done()
    channel.basic_get("q", on_done=some)
    channel.basic_get("q", on_done=none)
    world.settle()
    world.peer.send_content(
        1, "basic.get-ok", b"m", delivery_tag=4, exchange="x", routing_key="k", message_count=7, redelivered=True
    )
    world.peer.send(1, "basic.get-empty")
    world.settle()
    message = some.result
    assert (message.body, message.delivery_tag, message.message_count, message.redelivered) == (b"m", 4, 7, True)
    assert message.channel is channel
    assert none.result is None


def test_a_facade_over_memory_opens_and_closes_as_the_others_do() -> None:
    reactor = MemoryReactor()
    broker = MemoryBroker(reactor)
    with SyncConnection(reactor, [ConnectionParameters("broker", heartbeat=0)]) as connection:
        broker.peer.serve()
        with connection.channel() as channel:
            assert channel.queue_declare("q").queue == "q"
            assert channel.basic_get("q") is None
    assert broker.peer.hung_up or not connection.is_open


def test_a_close_before_the_opening_that_was_asked_for_is_nobodys_error() -> None:
    reactor = MemoryReactor()
    connection = cpspika.connect("amqp://nobody", reactor=reactor)
    closed = Done()
    connection.close(on_done=closed)
    reactor.run()  # nothing comes out of it
    assert closed.result is None
    assert len(closed.calls) == 1
