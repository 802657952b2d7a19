"""How a connection comes about: time-outs, several targets, refusals, and what is agreed on."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any

import pytest

import cpspika
from cpspika import ConnectionParameters, PlainCredentials
from cpspika.adapters import BlockingReactor, MemoryReactor, SelectReactor, sockets
from cpspika.adapters.asyncio_reactor import AsyncioReactor
from cpspika.wire import frames
from tests.support.handshakes import START, STEPS, TUNE, Answering, by_hand, say
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
from tests.support.waiting import DEADLINE

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


def test_each_address_of_a_name_has_its_share_of_the_time() -> None:
    reactor = MemoryReactor()
    brokers = [MemoryBroker(reactor, host, handshake=False) for host in ("one", "two", "three")]
    listeners = [reactor._listeners[broker, 5672] for broker in ("one", "two", "three")]
    reactor.resolve = lambda endpoint, on_done: on_done(None, listeners)  # type: ignore[method-assign]
    done = Done()
    cpspika.connect("amqp://name", reactor=reactor, on_done=done, connection_timeout=9)
    for tried in (1, 2, 3):
        reactor.advance(3 * tried - 0.1 - reactor.time())
        assert [len(broker.peers) for broker in brokers] == [1] * tried + [0] * (3 - tried)
        assert done.pending
        reactor.advance(0.2)
    assert isinstance(done.error, cpspika.ConnectTimeout)
    assert all(broker.peers[0].hung_up for broker in brokers)
    assert reactor.is_idle


class LateReactor(MemoryReactor):
    """Opening a transport takes longer than connecting may, and fails."""

    def open(self, *_: Any) -> Any:
        self._now += 100
        raise OSError("no more files")


def test_an_attempt_that_fails_as_its_time_ends_has_failed_once() -> None:
    """The failure of the first is told after the time-out, that of the second before."""
    reactor, done = LateReactor(), Done()
    reactor.listen(acceptor=lambda transport: None, host="name", port=5672)
    cpspika.connect("amqp://name", reactor=reactor, on_done=done)
    reactor.settle()
    assert done.error.text == "name:5672 did not open a connection in time (connection_timeout=15 s)"

    def late(reactor: Any, owner: Any) -> Any:
        return LateReactor.open(reactor)

    reactor, done = LateReactor(), Done()
    cpspika.connect("amqp://name", reactor=reactor, via=late, on_done=done)
    reactor.settle()
    assert done.error.text == "name:5672: no more files"


def test_an_abort_amid_the_search_ends_it() -> None:
    reactor = MemoryReactor()
    broker, done = MemoryBroker(reactor), Done()
    connection = cpspika.connect("amqp://broker", reactor=reactor, on_done=done)
    assert connection.server_properties == {}
    connection.abort()
    reactor.advance(60)
    assert isinstance(done.error, cpspika.ConnectionClosed)
    assert not broker.peers
    assert reactor.is_idle


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
@pytest.mark.parametrize("announces", [True, False])
def test_a_hang_up_amid_the_login_is_no_refusal(steps: int, announces: bool) -> None:
    """A broker that restarts hangs up as well. The text says what else it may mean, where the broker has no close."""
    start = {**START, "server_properties": {"capabilities": {"authentication_failure_close": announces}}}
    world = by_hand()
    say(world, steps, start)
    world.peer.hang_up()
    world.settle()
    error = world.connected.error
    assert type(error) is cpspika.ConnectError
    assert "broker:5672" in str(error)
    assert ("refuses the credentials" in str(error)) is not announces


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_after_a_hang_up_amid_login_or_open_the_next_target_is_tried(steps: int) -> None:
    reactor = MemoryReactor()
    first = MemoryBroker(reactor, "first", handshake=False)
    second = MemoryBroker(reactor, "second")
    done = Done()
    targets = ["amqp://first", "amqp://second"]
    connection = cpspika.connect(targets, reactor=reactor, on_done=done, credentials=Answering())
    first.peer.expect_header()
    for name, arguments, answers in STEPS[:steps]:
        first.peer.send(0, name, **arguments)
        for answer in answers:
            first.peer.expect(answer)
    first.peer.hang_up()
    reactor.settle()
    assert second.peers
    assert done.result is connection


class Raising:
    """Credentials of a user's own class that raise."""

    def __init__(self, method: str):
        self._method = method

    mechanism = "PLAIN"

    def start(self) -> bytes:
        if self._method == "start":
            raise ValueError("no token")
        return b"first"

    def respond(self, challenge: bytes) -> bytes:
        raise ValueError("no token")


@pytest.mark.parametrize("method", ["start", "respond"])
def test_credentials_that_raise_are_a_login_error_at_once(method: str) -> None:
    world = by_hand(credentials=Raising(method), connection_timeout=None)
    world.peer.send(0, "connection.start", **START)
    if method == "respond":
        world.peer.expect("connection.start-ok")
        world.peer.send(0, "connection.secure", challenge=b"who?")
    world.settle()
    error = world.connected.error
    assert isinstance(error, cpspika.LoginError)
    assert isinstance(error.__cause__, ValueError)
    assert f"{method} raised ValueError" in str(error)
    world.peer.expect_hang_up()


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


@pytest.mark.parametrize(("code", "steps"), [(541, 3), (320, 3), (530, 1), (402, 1)])
def test_a_close_for_another_reason_is_no_refusal_of_the_virtual_host(code: int, steps: int) -> None:
    world = by_hand()
    say(world, steps)
    world.peer.close_connection(code, "something else")
    world.settle()
    error = world.connected.error
    assert isinstance(error, cpspika.ConnectError)
    assert not isinstance(error, (cpspika.LoginError, cpspika.VirtualHostRefused))
    assert error.code == code


def test_a_hang_up_on_the_virtual_host_names_it_and_is_no_refusal() -> None:
    world = by_hand(virtual_host="nowhere")
    say(world, 3)
    world.peer.hang_up()
    world.settle()
    assert type(world.connected.error) is cpspika.ConnectError
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


@pytest.mark.parametrize("end", ["timeout", "close"])
@pytest.mark.parametrize("reactor_type", [SelectReactor, BlockingReactor, AsyncioReactor])
def test_a_name_server_that_does_not_answer_holds_no_reactor(
    reactor_type: Any, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once on_done was told, `run` ends, and a late answer does nothing."""
    answered, looked_up = threading.Event(), threading.Event()

    def look_up(endpoint: Any, flags: int) -> list[Any]:
        if flags:
            raise OSError("not an address")
        looked_up.set()
        answered.wait(DEADLINE)
        raise OSError("too late")

    monkeypatch.setattr(sockets, "_look_up", look_up)
    done, reactor = Done(), reactor_type()
    timeout = 0.2 if end == "timeout" else None
    connection = cpspika.connect("amqp://a.name", reactor=reactor, on_done=done, connection_timeout=timeout)
    assert looked_up.wait(DEADLINE)
    if end == "close":
        connection.close()
    stuck = threading.Timer(DEADLINE, lambda: reactor.call_soon_threadsafe(reactor.stop))
    stuck.start()
    reactor.run()
    assert stuck.is_alive(), "run went on, although nothing was left to do"
    stuck.cancel()
    stuck.join()
    assert isinstance(done.error, cpspika.ConnectTimeout if end == "timeout" else cpspika.ConnectionClosed)
    answered.set()
    for thread in threading.enumerate():
        if thread.name == "cpspika name lookup":
            thread.join(DEADLINE)
    reactor.run()
    assert len(done.calls) == 1
    reactor.close()


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


@pytest.mark.parametrize("recovery", [None, True])
def test_client_properties_that_cannot_be_sent_are_refused_at_the_call(recovery: Any) -> None:
    with pytest.raises(cpspika.InvalidArgumentType, match=r"client_properties\['mine'\]"):
        cpspika.connect("amqp://broker", reactor=MemoryReactor(), recovery=recovery, client_properties={"mine": {1, 2}})


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


def test_a_target_whose_transport_cannot_be_made_fails_and_the_next_is_tried() -> None:
    def via(reactor: Any, owner: Any) -> Any:
        raise OSError(24, "Too many open files")

    reactor = MemoryReactor()
    MemoryBroker(reactor)
    first = ConnectionParameters("first", heartbeat=0, via=via)
    connected = Done()
    with connected.not_inside():
        cpspika.connect([first, "amqp://broker?heartbeat=0"], reactor=reactor, on_done=connected)
    reactor.settle()
    assert connected.result.parameters.host == "broker"
    alone = Done()
    with alone.not_inside():
        cpspika.connect(first, reactor=reactor, on_done=alone)
    reactor.settle()
    assert isinstance(alone.error, cpspika.ConnectError)
    assert "first" in str(alone.error)
    assert "Too many open files" in str(alone.error)
    assert isinstance(alone.error.__cause__, OSError)


@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_connection_that_is_given_up_while_it_opens_hangs_up(end: str) -> None:
    world = World({"handshake": False})
    world.peer.expect_header()
    getattr(world.connection, end)()
    world.settle()
    assert world.peer.hung_up
    assert isinstance(world.connected.error, cpspika.ConnectionClosed)
