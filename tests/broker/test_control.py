"""What a test may do to the broker by hand, as this library's own client meets it; and what the broker does by itself
to keep its memory bounded.

`served` is over sockets, where the broker runs in a thread of its own; `world` is in memory, exact and instant.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import cpspika
from cpspika import (
    AccessRefused,
    ChannelClosed,
    ConnectionClosed,
    ContentTransmissionForbidden,
    HeartbeatTimeout,
    LoginError,
    MessageNacked,
    NotFound,
)
from cpspika.broker import Broker, Served, serve
from tests.support.raw_client import MemoryWire, MemoryWorld, SocketWire, method, publish
from tests.support.scripted import Done
from tests.support.waiting import DEADLINE, until


@pytest.fixture
def served() -> Iterator[Served]:
    with serve() as broker:
        yield broker


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    connection = cpspika.BlockingConnection(served.url, timeout=DEADLINE)
    yield connection
    if connection.is_open:
        connection.close()


class Client:
    """The library's client in a MemoryWorld, with a channel."""

    def __init__(self, world: MemoryWorld, **options: Any):
        self.reactor = world.reactor
        self.ended: list[Any] = []
        self.flows: list[bool] = []
        options.setdefault("heartbeat", 0)
        opened = Done("connect")
        self.connection = cpspika.connect(
            "amqp://broker",
            reactor=self.reactor,
            on_done=opened,
            on_close=lambda connection, error: self.ended.append(error),
            **options,
        )
        self.reactor.settle()
        assert opened.result is self.connection
        self.channel = self.result(self.connection.channel)
        self.channel.add_flow_change_handler(lambda channel, permitted: self.flows.append(permitted))

    def result(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        done = Done(operation.__name__)
        operation(*args, on_done=done, **kwargs)
        self.reactor.settle()
        return done.result

    def publish(self, key: str, body: bytes = b"x", **options: Any) -> Done:
        done = Done("publish")
        self.channel.basic_publish("", key, body, on_done=done, **options)
        self.reactor.settle()
        return done


@pytest.fixture
def world() -> MemoryWorld:
    return MemoryWorld()


# --- flow by hand -----------------------------------------------------------------------------------------------------


def test_flow_off_and_on_again(world: MemoryWorld) -> None:
    client = Client(world)
    client.result(client.channel.queue_declare, "q")
    world.broker.flow(False)
    world.reactor.settle()
    assert client.flows == [False]
    assert isinstance(client.publish("q").error, ContentTransmissionForbidden)
    held = client.publish("q", block_on_flow_control=True)
    assert held.pending
    world.broker.flow(True)
    world.reactor.settle()
    assert client.flows == [False, True]
    assert held.result is None or held.result is True
    assert world.bodies("q") == [b"x"]


def test_a_blocking_client_waits_until_flow_is_on_again(served: Served, client: Any) -> None:
    ch = client.channel()
    ch.queue_declare("q")
    served.flow(False)
    until(lambda: flow_of(ch) is False, "the flow at the client")
    with pytest.raises(ContentTransmissionForbidden):
        ch.basic_publish("", "q", "forbidden")
    later = threading.Timer(0.1, served.flow, [True])
    later.start()
    ch.basic_publish("", "q", "patient", block_on_flow_control=True)
    ch.queue_declare("q", passive=True)
    later.join()
    assert [message.body for message in served.queues["q"].messages] == [b"patient"]


def flow_of(ch: Any) -> bool | None:
    """What the channel has heard of flow, after a round trip."""
    heard: list[bool] = []
    ch.queue_declare("q", passive=True)
    ch.addFlowChangeHandler(lambda channel, permitted: heard.append(permitted))
    ch.connection.drain_events(0)
    return heard[-1] if heard else None


def test_flow_is_told_once(world: MemoryWorld) -> None:
    wire = world.opened()
    for active in (False, False, True, True):
        world.broker.flow(active)
    assert wire.heard() == ["channel.flow", "channel.flow"]


# --- flow by itself ---------------------------------------------------------------------------------------------------


def crowded(memory_high: int = 100_000) -> tuple[MemoryWorld, MemoryWire, MemoryWire]:
    """A broker with little room, a publisher with a queue "q", and one who can consume it."""
    world = MemoryWorld(memory_high=memory_high)
    publisher, consumer = world.opened(), world.opened()
    publisher.ask(1, "queue.declare", queue="q")
    return world, publisher, consumer


def test_past_the_mark_publishers_are_told_to_stop_and_to_go_on() -> None:
    _, publisher, consumer = crowded()
    publisher.say(publish(1, "q", b"x" * 60_000))
    assert publisher.heard() == []
    publisher.say(publish(1, "q", b"x" * 60_000))
    assert publisher.expect("channel.flow").active is False
    publisher.say(method(1, "channel.flow-ok", active=False))
    assert consumer.heard() == [], "who never published is left alone"
    consumer.say(method(1, "queue.purge", queue="q"))
    assert publisher.expect("channel.flow").active is True


def test_the_librarys_client_stops_by_itself_and_goes_on() -> None:
    world, _, consumer = crowded()
    client = Client(world)
    done = [client.publish("q", b"x" * 10_000, block_on_flow_control=True) for _ in range(30)]
    assert client.flows == [False]
    assert world.broker.memory.bytes < 2 * 100_000
    consumer.ask(1, "basic.consume", queue="q", no_ack=True)
    world.reactor.advance(1)
    assert client.flows[-1] is True
    assert not any(one.pending for one in done)
    assert world.broker.memory.bytes == 0


def test_one_that_begins_to_publish_later_is_told_too() -> None:
    _, publisher, late = crowded()
    publisher.say(publish(1, "q", b"x" * 120_000)).expect("channel.flow")
    late.say(publish(1, "q", b"x"))
    assert late.expect("channel.flow").active is False


def test_who_publishes_on_all_the_same_is_not_read_from() -> None:
    world, publisher, consumer = crowded()
    for _ in range(100):
        publisher.say(publish(1, "q", b"x" * 20_000))
        publisher.reactor.settle()
    assert world.broker.memory.bytes < 2 * 100_000 + 25_000
    consumer.ask(1, "basic.consume", queue="q", no_ack=True)
    world.reactor.settle()
    assert world.broker.memory.bytes == 0, "everything came through in the end"
    assert publisher.expect("channel.flow").active is False
    publisher.ask(1, "queue.declare", queue="q")


def test_one_that_is_held_back_is_not_taken_for_dead() -> None:
    """Its heartbeats wait where its publishes do."""
    world = MemoryWorld(memory_high=100_000)
    wire = world.opened(heartbeat=10)
    wire.ask(1, "queue.declare", queue="q")
    wire.say(*(publish(1, "q", b"x" * 50_000) for _ in range(10))).heard()
    world.reactor.advance(60)
    assert not wire.hung_up


@pytest.mark.parametrize("how", ["expires", "consumer's end", "owner's end"])
def test_publishers_go_on_however_the_messages_went(how: str) -> None:
    """Nobody says a word when messages expire, or go with a connection."""
    world, publisher, other = crowded()
    owner = world.opened()
    options: dict[str, Any] = {"arguments": {"x-message-ttl": 500}} if how == "expires" else {}
    owner.ask(1, "queue.declare", queue="mine", exclusive=how == "owner's end", **options)
    publisher.say(*(publish(1, "mine", b"x" * 60_000) for _ in range(5)))
    assert publisher.expect("channel.flow").active is False
    if how == "consumer's end":
        other.ask(1, "basic.consume", queue="mine")
        owner.ask(1, "queue.delete", queue="mine")
        other.vanish()
    elif how == "owner's end":
        owner.vanish()
    world.reactor.advance(2)
    assert world.broker.memory.bytes == 0
    assert publisher.expect("channel.flow").active is True


@pytest.mark.slow
def test_a_slow_consumer_costs_a_bounded_memory(served: Served) -> None:
    """It has no prefetch and doesn't read: it gets no more than a buffer's worth, and others get the rest."""
    with SocketWire(served, receive_buffer=4096) as slow, SocketWire(served) as fast:
        slow.shake_hands(), fast.shake_hands()
        slow.ask(1, "queue.declare", queue="q")
        slow.ask(1, "basic.consume", queue="q", no_ack=True)
        body = b"x" * 50_000
        for _ in range(400):
            fast.say(publish(1, "q", body))
        until(lambda: len(served.queues["q"].messages) > 100, "the queue's growing")
        session = served.connections[0]
        assert session.backlog.transport is not None
        assert session.backlog.transport.queued - session.backlog.transport.written < 2 * 1024 * 1024 + len(body)
        fast.ask(1, "basic.consume", queue="q", no_ack=True)
        fast.wait(lambda: len(served.queues["q"].messages) == 0)


@pytest.mark.slow
def test_a_slow_consumer_gets_everything_in_the_end(served: Served) -> None:
    with SocketWire(served, receive_buffer=4096) as slow, SocketWire(served) as fast:
        slow.shake_hands(), fast.shake_hands()
        slow.ask(1, "queue.declare", queue="q")
        slow.ask(1, "basic.consume", queue="q")
        for number in range(100):
            fast.say(publish(1, "q", number.to_bytes(2, "big") * 25_000))
        fast.ask(1, "queue.declare", queue="q")
        slow.wait(lambda: sum(isinstance(what, bytes) and len(what) == 50_000 for _, what in slow.frames) == 100)


# --- blocked ----------------------------------------------------------------------------------------------------------


def test_block_and_unblock(world: MemoryWorld) -> None:
    client = Client(world)
    heard: list[Any] = []
    client.connection.add_blocked_handler(lambda connection, blocked, reason: heard.append((blocked, reason)))
    world.broker.block("low on patience")
    world.reactor.settle()
    assert heard == [(True, "low on patience")]
    world.broker.unblock()
    world.reactor.settle()
    assert heard[-1][0] is False


def test_who_connects_meanwhile_is_blocked_too(world: MemoryWorld) -> None:
    world.broker.block("still")
    wire = world.opened(channel=0)
    assert wire.expect("connection.blocked").reason == "still"
    assert world.opened(channel=0, capabilities={}).heard() == []
    world.broker.unblock()
    assert wire.heard() == ["connection.unblocked"]


# --- the end of connections and channels ------------------------------------------------------------------------------


def test_every_connection_is_closed_with_a_code(world: MemoryWorld) -> None:
    clients = [Client(world), Client(world)]
    world.broker.close_connections(320, "CONNECTION_FORCED - node going down")
    world.reactor.settle()
    for client in clients:
        (error,) = client.ended
        assert isinstance(error, ConnectionClosed)
        assert (error.code, error.text) == (320, "CONNECTION_FORCED - node going down")
    assert world.broker.connections == []


def test_every_channel_is_closed_with_a_code(world: MemoryWorld) -> None:
    client = Client(world)
    second = client.result(client.connection.channel)
    world.reactor.on_error = lambda error: None  # they have no handler for it
    world.broker.close_channels(404, "NOT_FOUND - no such thing")
    world.reactor.settle()
    for channel in (client.channel, second):
        assert isinstance(channel.close_reason, NotFound)
        assert isinstance(channel.close_reason, ChannelClosed)
    assert client.connection.is_open
    client.result(client.connection.channel)


@pytest.mark.parametrize("by_call", [True, False])
def test_one_connection_and_one_channel(served: Served, by_call: bool) -> None:
    """What `connections` and `channels` show may be told to end, from the test's own thread too."""
    carry_out = served.call if by_call else lambda function: function()
    with contextlib.ExitStack() as stack:
        connections = [cpspika.BlockingConnection(served.url, timeout=DEADLINE) for _ in range(2)]
        for connection in connections:
            stack.callback(lambda core=connection.core: core.is_open and core.close())
        channel_there = connections[1].channel()
        first, second = served.connections
        (channel,) = second.channels.values()
        carry_out(lambda: channel.close(403, "ACCESS_REFUSED - go away"))
        carry_out(lambda: first.close(320, "CONNECTION_FORCED - you alone"))
        until(lambda: ended(connections[0]), "the end of the connection")
        assert "you alone" in str(connections[0].core.close_reason)
        until(lambda: ended(connections[1]) or channel_there.core.close_reason, "the channel's end")
        assert isinstance(channel_there.core.close_reason, AccessRefused)
        assert connections[1].is_open
        connections[1].close()


def test_a_channel_that_ends_before_the_brokers_thread_comes_to_it_is_no_fault(served: Served) -> None:
    with cpspika.BlockingConnection(served.url, timeout=DEADLINE) as connection:
        connection.channel()
        (session,) = served.connections
        (channel,) = session.channels.values()
        held, asked = threading.Event(), threading.Event()

        def close_it_first() -> None:
            held.set()
            assert asked.wait(DEADLINE)
            channel.close(403, "ACCESS_REFUSED - go away")

        reactor = served.reactor
        reactor.call_soon_threadsafe(close_it_first)
        assert held.wait(DEADLINE)
        errors: list[Exception] = []

        def close_all() -> None:
            try:
                served.close_channels(406, "PRECONDITION_FAILED - all of you")
            except Exception as error:
                errors.append(error)

        closing = threading.Thread(target=close_all)
        closing.start()
        until(lambda: reactor._ready, "the call from the other thread")
        asked.set()
        closing.join(DEADLINE)
        assert errors == []
        assert channel.closing
        assert connection.is_open


def ended(connection: Any) -> bool:
    """Whether it has, after a look at what came."""
    with contextlib.suppress(cpspika.AMQPError):  # nobody has a handler for it
        connection.reactor.run_once(0)
    return not connection.is_open


def test_links_are_cut_without_a_word(world: MemoryWorld) -> None:
    client, wire = Client(world), world.opened()
    world.broker.drop_links()
    assert wire.heard() == []
    assert wire.hung_up
    (error,) = client.ended
    assert isinstance(error, cpspika.ConnectionLost)


def test_cut_links_over_sockets(served: Served, client: Any) -> None:
    ch = client.channel()
    served.drop_links()
    with pytest.raises(cpspika.AMQPError):
        ch.queue_declare("q")
    assert served.connections == []


# --- stalling ---------------------------------------------------------------------------------------------------------


def test_a_stalled_link_is_silent_and_heartbeats_end_it(world: MemoryWorld) -> None:
    client = Client(world, heartbeat=10)
    world.broker.stall()
    done = Done()
    client.channel.queue_declare("q", on_done=done)
    world.reactor.advance(9)
    assert done.pending
    world.reactor.advance(60)
    (error,) = client.ended
    assert isinstance(error, HeartbeatTimeout), "the client finds out by itself"
    assert not done.pending
    assert "q" not in world.broker.queues


def test_a_stalled_link_goes_on(world: MemoryWorld) -> None:
    client = Client(world)
    world.broker.stall()
    done = Done()
    client.channel.queue_declare("q", on_done=done)
    world.reactor.advance(100)
    assert done.pending
    world.broker.stall(False)
    world.reactor.settle()
    assert done.result.queue == "q"


def test_a_timeout_ends_a_call_to_a_stalled_broker(served: Served) -> None:
    with cpspika.BlockingConnection(served.url, timeout=0.2) as connection:
        ch = connection.channel()
        served.stall()
        with pytest.raises(cpspika.OperationTimeout):
            ch.queue_declare("q")
        served.stall(False)
        connection.timeout = DEADLINE


# --- nacks and logins -------------------------------------------------------------------------------------------------


def test_the_next_publishes_are_nacked(world: MemoryWorld) -> None:
    client = Client(world)
    client.result(client.channel.queue_declare, "q")
    client.result(client.channel.confirm_select)
    world.broker.nack_next(2)
    fates = [client.publish("q", body) for body in (b"1", b"2", b"3")]
    assert isinstance(fates[0].error, MessageNacked)
    assert isinstance(fates[1].error, MessageNacked)
    assert fates[2].calls[0][0] is None


def test_nacks_are_for_channels_that_confirm(world: MemoryWorld) -> None:
    plain, confirming = Client(world), Client(world)
    plain.result(plain.channel.queue_declare, "q")
    confirming.result(confirming.channel.confirm_select)
    world.broker.nack_next()
    plain.publish("q")
    assert isinstance(confirming.publish("q").error, MessageNacked)


def test_logins_are_refused(served: Served) -> None:
    served.refuse_logins()
    with pytest.raises(LoginError, match="ACCESS_REFUSED"):
        cpspika.BlockingConnection(served.url)
    served.refuse_logins(False)
    cpspika.BlockingConnection(served.url).close()


def test_users_and_vhosts() -> None:
    with serve(users={"ann": "pass word"}, vhosts=["/", "second"]) as served:
        assert served.url.startswith(f"amqp://ann:pass%20word@{served.host}:{served.port}")
        cpspika.BlockingConnection(served.url).close()
        credentials = cpspika.PlainCredentials("ann", "pass word")
        there = cpspika.ConnectionParameters(served.host, served.port, virtual_host="second", credentials=credentials)
        with cpspika.BlockingConnection(there) as connection:
            connection.channel().queue_declare("q")
        assert "q" not in served.queues
        assert "q" in served.vhosts["second"].queues
        with pytest.raises(LoginError):
            cpspika.BlockingConnection(f"amqp://{served.host}:{served.port}")


# --- looking in -------------------------------------------------------------------------------------------------------


def test_looking_in(served: Served, client: Any) -> None:
    ch = client.channel()
    ch.queue_declare("q", arguments={"x-max-length": 10})
    ch.queue_bind("q", "amq.topic", "a.*")
    ch.basic_publish("amq.topic", "a.b", "body", {"content_type": "text/plain"})
    ch.queue_declare("q", passive=True)
    queue = served.queues["q"]
    (message,) = queue.messages
    assert (message.body, message.exchange, message.routing_key) == (b"body", "amq.topic", "a.b")
    assert message.properties.content_type == "text/plain"
    assert (len(queue), queue.unacknowledged, queue.consumer_count) == (1, 0, 0)
    assert queue.arguments == {"x-max-length": 10}
    assert served.bindings == [("amq.topic", "q", "queue", "a.*", {})]
    assert repr(queue) == "<Queue 'q': 1 ready, 0 unacknowledged, 0 consumers>"
    assert repr(served.connections) == "[<Session of 'guest', 1 channels>]"
    assert repr(served.exchanges["amq.topic"]) == "<Exchange 'amq.topic', topic, 1 bindings>"
    assert "1 connections, 1 queues" in repr(served)
    (session,) = served.connections
    assert session.client_properties["product"] == "cpspika"


@pytest.mark.parametrize("levels", [0, 3])
def test_looking_in_while_it_works(served: Served, levels: int) -> None:
    """From another thread, while messages come and go."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with SocketWire(served) as wire:
            wire.shake_hands()
            wire.ask(1, "queue.declare", queue="q", arguments={"x-max-priority": levels} if levels else {})
            busy = publish(1, "q", b"x") * 20 + method(1, "basic.get", queue="q", no_ack=True) * 18
            for _ in range(200):
                wire.say(busy)
                for _ in range(5):
                    len(served.queues["q"].messages), repr(served), served.bindings, repr(served.connections)
    finally:
        sys.setswitchinterval(interval)


# --- many -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_thousand_idle_connections(served: Served) -> None:
    count, needed = 1000, 2 * 1000 + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            pytest.skip(f"the system allows {hard} open files; both ends of {count} connections take {needed}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    handshake = b"".join(
        (
            b"AMQP\0\0\x09\x01",
            method(0, "connection.start-ok", mechanism="PLAIN", response=b"\0guest\0guest", locale="en_US"),
            method(0, "connection.tune-ok", channel_max=10, frame_max=131072, heartbeat=0),
            method(0, "connection.open", virtual_host="/"),
        )
    )
    idle: list[socket.socket] = []
    try:
        started = time.monotonic()
        for _ in range(count):
            idle.append(socket.create_connection((served.host, served.port), timeout=DEADLINE))
            idle[-1].sendall(handshake)
        until(lambda: len(served.connections) == count, f"the opening of {count} connections")
        print(f"\n{count} connections open after {time.monotonic() - started:.2f} s")
        with cpspika.BlockingConnection(served.url, timeout=DEADLINE) as connection:
            ch = connection.channel()
            ch.queue_declare("q")
            ch.basic_publish("", "q", "x")
            assert ch.basic_get("q").body == b"x"
    finally:
        for one in idle:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    until(lambda: not served.connections, "their end")


def test_a_broker_tells_what_it_is() -> None:
    assert repr(MemoryWorld().broker) == "<Broker: 0 connections, 0 queues, 0 bytes of messages>"
    assert isinstance(MemoryWorld().broker, Broker)
