"""What one client may not do to the others: use up the memory, be held for good, guess passwords, stop accept."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from cpspika.adapters import SelectReactor
from cpspika.broker import Broker, serve
from cpspika.cli import main
from tests.support.broker_model import BrokerServices, QueueConsumer
from tests.support.raw_client import MemoryWire, MemoryWorld, SocketWire, method, plain, publish
from tests.support.scripted import body_frame, header_frame
from tests.support.waiting import until

HIGH = 100_000

# --- memory -----------------------------------------------------------------------------------------------------------


def test_acks_are_read_from_one_that_publishes_in_spite_of_flow() -> None:
    """A worker that acknowledges and publishes on one connection: each ack stands behind a publish."""
    world = MemoryWorld(memory_high=HIGH)
    worker, other = world.opened(), world.opened()
    worker.ask(1, "queue.declare", queue="jobs"), worker.ask(1, "queue.declare", queue="results")
    other.say(*(publish(1, "jobs", b"x" * 10_000) for _ in range(31))).heard()
    assert world.broker.memory.bytes > 2 * HIGH
    worker.say(method(1, "basic.qos", prefetch_count=1)).expect("basic.qos-ok")
    worker.ask(1, "basic.consume", queue="jobs")
    for tag in range(1, 32):
        worker.say(publish(1, "results", b"done"), method(1, "basic.ack", delivery_tag=tag)).heard()
    assert (len(world.broker.queues["jobs"]), world.broker.queues["jobs"].unacknowledged) == (0, 0)
    assert world.bodies("results") == [b"done"] * 31


def test_who_is_held_is_read_again_when_a_delivery_comes() -> None:
    world = MemoryWorld(memory_high=HIGH)
    one, other = world.opened(), world.opened()
    one.ask(1, "queue.declare", queue="full"), one.ask(1, "queue.declare", queue="jobs")
    one.ask(1, "basic.consume", queue="jobs")
    one.say(publish(1, "full", b"x" * 110_000) * 2).heard()
    one.say(publish(1, "full", b"held")).heard()
    assert world.bodies("full")[2:] == [], "the broker does not read from it"
    other.say(publish(1, "jobs", b"job")).heard()
    assert world.bodies("full")[2:] == [b"held"]


def filled() -> tuple[MemoryWorld, MemoryWire]:
    world = MemoryWorld(memory_high=HIGH)
    wire = world.opened()
    wire.ask(1, "queue.declare", queue="q")
    return world, wire


@pytest.mark.parametrize("end", ["commit", "rollback", "vanish"])
def test_a_transaction_counts(end: str) -> None:
    world, wire = filled()
    wire.ask(1, "tx.select")
    wire.say(publish(1, "q", b"x" * 125_000) * 2).heard()
    assert world.broker.memory.bytes > 250_000
    if end == "vanish":
        wire.vanish()
    else:
        wire.ask(1, f"tx.{end}")  # it is read, or the memory would never be free again
    assert (world.broker.memory.bytes > 0) == (end == "commit")


def test_an_unfinished_body_counts() -> None:
    world, wire = filled()
    wire.say(method(1, "basic.publish", routing_key="q"), header_frame(1, 100_000))
    wire.say(body_frame(1, b"x" * 90_000)).heard()
    assert world.broker.memory.bytes == 90_000
    wire.say(body_frame(1, b"x" * 10_000)).heard()
    assert world.bodies("q") == [b"x" * 100_000]
    wire.ask(1, "queue.purge", queue="q")
    assert world.broker.memory.bytes == 0
    wire.say(method(1, "basic.publish", routing_key="q"), header_frame(1, 100_000), body_frame(1, b"x")).heard()
    wire.vanish()
    assert world.broker.memory.bytes == 0


@pytest.mark.parametrize("kind", ["transaction", "body"])
def test_past_the_limit_the_connection_is_closed(kind: str) -> None:
    world, wire = filled()
    limit = world.broker.memory_limit
    if kind == "transaction":
        wire.ask(1, "tx.select")
        for _ in range(limit // 1_000_000 + 1):
            wire.say(publish(1, "q", b"x" * 100_000) * 10)
    else:
        wire.say(method(1, "basic.publish", routing_key="q"), header_frame(1, 2 * limit))
        for _ in range(limit // 1_000_000 + 1):
            wire.say(body_frame(1, b"x" * 100_000) * 10)
    wire.wait(lambda: wire.hung_up)
    assert wire.expect("connection.close").reply_code == 506
    assert world.broker.memory.bytes == 0


# --- dead peers -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", ["reset", "end"])
def test_a_held_publisher_that_dies_is_seen_without_heartbeats(how: str) -> None:
    with serve(memory_high=HIGH) as broker, SocketWire(broker) as wire:
        wire.shake_hands(heartbeat=0)
        wire.ask(1, "queue.declare", queue="mine", exclusive=True), wire.ask(1, "queue.declare", queue="q")
        for _ in range(3):
            wire.say(publish(1, "q", b"x" * 120_000))
        until(lambda: broker.call(lambda: list(broker._throttled)), "holding the publisher")
        wire.say(publish(1, "q", b"last"))
        wire.vanish() if how == "reset" else wire.socket.close()
        until(lambda: "mine" not in broker.queues, "the end of its exclusive queue")


def test_close_connections_reaches_one_that_has_sent_nothing() -> None:
    world = MemoryWorld()
    silent, opened = world.wire(), world.opened()
    world.broker.close_connections()
    opened.expect("connection.close")
    silent.expect_hang_up()


# --- accept -----------------------------------------------------------------------------------------------------------


class _Exhausted:
    """A listening socket that has no file descriptor for who connects."""

    def __init__(self, real: socket.socket):
        self.real = real
        self.asked = 0

    def accept(self) -> Any:
        self.asked += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def close(self) -> None:
        self.real.close()


def test_accept_pauses_when_file_descriptors_run_out() -> None:
    reactor = SelectReactor()
    broker = Broker(reactor)
    listener: Any = broker.listen("127.0.0.1", 0)
    real = listener.socket
    listener.socket = exhausted = _Exhausted(real)
    try:
        with socket.create_connection(("127.0.0.1", listener.port), timeout=10) as client:
            for _ in range(20):
                reactor.run_once(0.01)
            assert exhausted.asked == 1
            listener.socket = real
            listener._resume()
            client.sendall(b"AMQP\0\0\x09\x01")
            client.settimeout(0.01)
            for _ in range(1000):
                reactor.run_once(0.01)
                try:
                    assert client.recv(1) == b"\1"
                    break
                except TimeoutError:
                    pass
            else:
                raise AssertionError("nobody accepted after the pause")
    finally:
        broker.end()
        reactor.close()


# --- who may log in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "local"),
    [
        *((address, True) for address in ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", None)),
        *((address, False) for address in ("10.0.0.1", "fe80::1%eth0", "::ffff:10.0.0.1", "unknown")),
    ],
)
def test_guest_logs_in_from_loopback_alone(address: str | None, local: bool) -> None:
    broker = MemoryWorld(users={"guest": "guest", "ann": "secret"}).broker
    assert broker.accepts_login("guest", "guest", address) is local
    assert broker.accepts_login("ann", "secret", address)
    assert not broker.accepts_login("ann", "guess", address)
    assert MemoryWorld(allow_remote_guest=True).broker.accepts_login("guest", "guest", address)


def test_a_remote_guest_is_refused_in_the_session() -> None:
    world = MemoryWorld()
    wire = world.wire()
    (session,) = world.broker.sessions
    assert session.peer_address is None
    session.peer_address = "10.0.0.1"
    wire.greet().log_in()
    assert wire.expect("connection.close").reply_code == 403
    with serve() as served, SocketWire(served) as real:
        real.shake_hands()
        (session,) = served.connections
        assert session.peer_address == "127.0.0.1"


def test_many_failed_logins_are_slowed_and_others_are_not() -> None:
    world = MemoryWorld()
    answered = 0
    for _ in range(25):
        wire = world.wire().greet().log_in(response=plain("guest", "guess"))
        answered += "connection.close" in wire.heard()
    assert answered == 20
    last = wire
    world.opened()
    world.reactor.advance(6)
    assert last.expect("connection.close").reply_code == 403
    world.reactor.advance(60)
    wire = world.wire().greet().log_in(response=plain("guest", "guess"))
    wire.expect("connection.close")


def broker_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    """What the command makes its broker of."""
    made: dict[str, Any] = {}

    def make(reactor: SelectReactor, users: dict[str, str], *rest: Any, **options: Any) -> Any:
        made.update(users=users, **options)
        reactor.close()
        raise SystemExit(0)

    monkeypatch.setattr("cpspika.cli.broker.Broker", make)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    with pytest.raises(SystemExit):
        main(["broker", *arguments])
    return made


def test_users_of_a_file_and_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("# a comment\nann:in:file\n\nbob:b\n")
    monkeypatch.setenv("CPSPIKA_BROKER_USERS", "ann:in the environment\ncy:c")
    made = broker_of(monkeypatch, "--users-file", str(file), "--user", "bob:B", "--allow-remote-guest")
    assert made["users"] == {"ann": "in:file", "bob": "B", "cy": "c"}
    assert made["allow_remote_guest"] is True
    monkeypatch.delenv("CPSPIKA_BROKER_USERS")
    made = broker_of(monkeypatch)
    assert (made["users"], made["allow_remote_guest"]) == ({"guest": "guest"}, False)


@pytest.mark.parametrize(
    "arguments", [["--user", "ann"], ["--user", ":secret"], ["--users-file", "/no/such/file"]], ids=str
)
def test_a_user_without_a_password_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert broker_of(monkeypatch, *arguments) == {}
    assert "error:" in capsys.readouterr().err


# --- what is forgotten ------------------------------------------------------------------------------------------------


def test_the_index_of_bindings_forgets_with_them() -> None:
    model = BrokerServices()
    for name in ("one", "two"):
        model.exchange(name, "direct"), model.queue(name)
    model.bind("one", "one", "a"), model.bind("one", "one", "b"), model.bind("two", "one")
    model.join("one", "two")
    model.unbind("one", "one", "a")
    assert set(model.vhost._sources) == {("queue", "one"), ("exchange", "two")}
    model.vhost.delete_queue(model.vhost.queues["one"])
    assert set(model.vhost._sources) == {("exchange", "two")}
    model.vhost.delete_exchange("one", if_unused=False)
    assert model.vhost._sources == {}


def test_priorities_without_consumers_are_forgotten() -> None:
    model = BrokerServices()
    queue = model.queue("q")
    consumers = [QueueConsumer(queue, prefetch=1, priority=priority) for priority in range(50)]
    for number in range(50):
        model.publish("", "q", str(number))
    model.publish("", "q", "waits")  # all are busy
    assert len(queue._rotation._turns) <= 9
    consumers[7].ack()
    assert consumers[7].got[-1] == "waits"
    for consumer in consumers:
        consumer.leave()
    assert len(queue._rotation._turns) <= 9
