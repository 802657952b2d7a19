"""A cluster of three RabbitMQ nodes that are killed, stopped and cut off in turn, while programs publish and consume.

CPSPIKA_CLUSTER=1: all tests; else two, which take a minute.
CPSPIKA_CLUSTER_KILLS: number of SIGKILLs in a row of the first test (2 by default; each takes 10 to 20 seconds).
"""

from __future__ import annotations

import os
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cpspika
from cpspika.adapters import SelectReactor
from tests.support import ROOT
from tests.support.cluster import ClusterNode, RabbitCluster, until
from tests.support.cluster_programs import cluster_program

pytestmark = [pytest.mark.long, pytest.mark.rabbitmq]

KILLS = int(os.environ.get("CPSPIKA_CLUSTER_KILLS", "2"))
only_if_asked = pytest.mark.skipif(
    "CPSPIKA_CLUSTER" not in os.environ, reason="only with CPSPIKA_CLUSTER=1: these tests of a cluster take minutes"
)
QUORUM = {"x-queue-type": "quorum"}
OPTIONS: dict[str, Any] = {"heartbeat": 4, "connection_timeout": 5}  # a suspended node is found in seconds
RECOVERY = cpspika.Recovery(backoff=(0.1, 2.0), operation_timeout=None)
SECONDS = 120.0  # more than a restart takes on a busy machine


@pytest.fixture(scope="module")
def three() -> Iterator[RabbitCluster]:
    with RabbitCluster(3, "{log, [{file, [{level, warning}]}]}") as cluster:
        yield cluster


@pytest.fixture
def cluster(three: RabbitCluster) -> RabbitCluster:
    """All three nodes, up and joined, whatever the test before left."""
    for node in three.nodes:
        if not node.is_running:
            node.start()
    three.await_joined()
    return three


class Traffic:
    """Publishes numbers with confirms and consumes them, each on a connection of its own with all nodes as targets.

    The handler works on a number and acknowledges it; now and then it keeps a message, so that an ack which settles
    another message would lose one. The reactor runs in `run`; counters may be read by another thread.
    """

    IN_FLIGHT = 50
    KEPT = 5
    KEEP_EACH = 97

    def __init__(self, targets: list[str], queue: str) -> None:
        self.queue = queue
        self.numbers = 0
        self.told: list[int] = []  # of each publish, how often its on_done was called
        self.confirmed: set[int] = set()
        self.errors: list[cpspika.AMQPError] = []  # of publishes; each was published again
        self.in_flight: dict[cpspika.Channel, int] = {}  # of each channel that has published
        self.resent = 0
        self.asked_at: dict[int, float] = {}  # of each number that is not confirmed yet
        self.newest = 0.0  # when the newest of the publishes that are confirmed was asked for
        self.seen: set[int] = set()
        self.worked: set[int] = set()
        self.deliveries = 0
        self.copies = 0  # deliveries of numbers that were delivered before
        self.keeps = True  # until the end, when each message is worked on at once
        self.kept: list[cpspika.Message] = []
        self.kept_numbers: set[int] = set()
        self.acks = 0
        self.acked = 0
        self.stale = 0
        self.ack_errors: list[Any] = []
        self.events: list[cpspika.RecoveryEvent] = []
        self.reactor = SelectReactor()
        self.publisher = self._connect(targets)
        self.consumer = self._connect(targets[1:] + targets[:1])
        self._open()
        self.into = self._channel(self.consumer)
        self.into.basic_qos(prefetch_count=100)
        self.into.basic_consume(queue, self._work)

    def _connect(self, targets: list[str]) -> cpspika.Connection:
        connection = cpspika.connect(targets, reactor=self.reactor, recovery=RECOVERY, **OPTIONS)
        self.until(lambda: connection.is_open, "the connection")
        connection.add_recovery_handler(lambda connection, event: self.events.append(event))
        return connection

    def _channel(self, connection: cpspika.Connection) -> cpspika.Channel:
        def set_up(channel: cpspika.Channel) -> None:
            channel.queue_declare(self.queue, durable=True, arguments=QUORUM)

        channel = connection.channel(on_ready=set_up)
        assert channel is not None
        return channel

    def _publish(self, number: int) -> None:
        attempt, channel = len(self.told), self.out
        self.told.append(0)
        self.asked_at[number] = asked_at = time.monotonic()
        self.in_flight[channel] += 1

        def on_done(err: Any, result: Any) -> None:
            self.told[attempt] += 1
            self.in_flight[channel] -= 1
            if channel is not self.out and not self.in_flight[channel]:
                channel.close()
            if err is None:
                self.asked_at.pop(number, None)
                self.confirmed.add(number)
                self.resent += isinstance(result, cpspika.Resent)
                self.newest = max(self.newest, asked_at)
            else:
                self.errors.append(err)
                self.reactor.call_later(0.5, lambda: self._again(number, channel))

        body, properties = b"%d" % number, {"delivery_mode": 2}
        channel.basic_publish("", self.queue, body, properties, mandatory=True, on_done=on_done)

    def _again(self, number: int, channel: cpspika.Channel) -> None:
        """Publishes again what RabbitMQ refused (basic.nack), on a new channel. RabbitMQ 3.10 looks for the leader only
        at the first publish of a channel. Where it finds a node that is down, it refuses until that is back."""
        if channel is self.out:
            self._open()
        self._publish(number)

    def _open(self) -> None:
        self.out = self._channel(self.publisher)
        self.out.confirm_select()
        self.in_flight[self.out] = 0

    def _work(self, message: cpspika.Message) -> None:
        number = int(message.body)
        self.deliveries += 1
        self.copies += number in self.seen
        self.seen.add(number)
        is_to_keep = self.keeps and number % self.KEEP_EACH == 0 and number not in self.kept_numbers
        if is_to_keep and len(self.kept) < self.KEPT:
            self.kept_numbers.add(number)
            self.kept.append(message)  # not worked on: it must come again, or be acknowledged at the end
            return
        self._ack(message)

    def _ack(self, message: cpspika.Message) -> None:
        """A number counts as worked on if its ack was sent; not if it was stale, so it must come again then."""
        self.acks += 1

        def on_done(err: Any, result: Any) -> None:
            self.acked += 1
            if err is None:
                self.worked.add(int(message.body))
            elif isinstance(err, cpspika.StaleDelivery):
                self.stale += 1
            else:
                self.ack_errors.append(err)

        message.ack(on_done=on_done)

    def until(self, true: Callable[[], bool], missing: str, seconds: float = SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"{missing} did not come in {seconds:g} s; {self}"
            self.reactor.run_once(0.2)

    def run(self, disturb: Callable[[], None]) -> None:
        """Goes on while `disturb` runs in a thread; then all comes to rest, and nothing may be missing."""
        errors: list[BaseException] = []

        def disturbing() -> None:
            try:
                disturb()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=disturbing)
        thread.start()
        seen_losses = 0
        while thread.is_alive():
            for _ in range(self.IN_FLIGHT - len(self.asked_at)):
                self._publish(self.numbers)
                self.numbers += 1
            self.reactor.run_once(0.05)
            losses = sum(event.kind == "restored" for event in self.events)
            if losses != seen_losses:  # what was kept is acknowledged now; if its link was lost, that settles nothing
                seen_losses = losses
                for message in self.kept:
                    self._ack(message)
                self.kept.clear()
        thread.join()
        if errors:
            raise errors[0]
        self.until(lambda: not self.asked_at, "the fate of each publish")
        self.keeps = False
        while self.kept:
            self._ack(self.kept.pop())
        self.until(lambda: self.worked >= self.confirmed, "a delivery of each confirmed message")
        self.until(lambda: self.acked == self.acks, "the on_done of each ack")

    def close(self) -> None:
        closed: list[Any] = []
        for connection in (self.publisher, self.consumer):
            connection.close(on_done=lambda err, result: closed.append(err))
        self.until(lambda: len(closed) == 2, "the end of both connections")
        self.reactor.close()

    def __str__(self) -> str:
        kinds = [event.kind for event in self.events]
        return (
            f"{self.numbers} published, {len(self.confirmed)} confirmed ({self.resent} of them sent again), "
            f"{len(self.errors)} refused, {len(self.in_flight) - 1} new channels, "
            f"{len(self.confirmed - self.worked)} not worked on, {self.deliveries} deliveries, {self.copies} copies, "
            f"{self.acks} acks, {self.stale} of them stale, {len(self.kept_numbers)} kept; "
            f"{ {kind: kinds.count(kind) for kind in sorted(set(kinds))} }"
        )


def node_of(cluster: RabbitCluster, connection: cpspika.Connection | cpspika.SyncConnection) -> ClusterNode | None:
    """The node that a connection is on; None while it is on none."""
    if not connection.is_connected:
        return None
    return next(node for node in cluster.nodes if node.port == connection.parameters.port)


class Faults:
    """What happens to nodes while the traffic goes on."""

    def __init__(self, cluster: RabbitCluster, traffic: Traffic) -> None:
        self.cluster, self.traffic = cluster, traffic
        self.back: list[tuple[str, float]] = []  # each fault, and the seconds until publishes were confirmed again

    def node(self) -> ClusterNode:
        """The node that the publisher is on, once 500 more publishes are confirmed."""
        traffic, before = self.traffic, len(self.traffic.confirmed)
        until(lambda: len(traffic.confirmed) > before + 500, SECONDS, lambda: f"no 500 confirms; {traffic}")
        while (node := node_of(self.cluster, traffic.publisher)) is None:
            time.sleep(0.1)
        return node

    def one(self, fault: str) -> None:
        """Break that node; wait until the publisher is on another, and publishes are confirmed; mend the node."""
        cluster, traffic, node = self.cluster, self.traffic, self.node()
        others = cluster.others(node)
        began = time.monotonic()
        if fault == "kill":
            node.kill()
        elif fault == "shutdown":
            node.shutdown()
        elif fault == "suspend":
            node.suspend()
        elif fault == "isolate":
            node.isolate(others)
        else:
            assert fault == "drain"
            node.drain()
        until(lambda: traffic.newest > began, SECONDS, lambda: f"no confirm after {fault} of {node.name}; {traffic}")
        self.back.append((fault, time.monotonic() - began))
        moved = [*others]
        until(lambda: node_of(cluster, traffic.publisher) in moved, SECONDS, lambda: "the publisher did not move")
        if fault == "suspend":
            node.resume()
            node.kill()  # away for longer than a tick it may stay apart from the others until it is started anew
        if fault == "isolate":
            node.rejoin(others)
        elif fault == "drain":
            node.revive()
        else:
            node.start()
        cluster.await_joined()
        print(f"{fault} of {node.name}: confirms again after {self.back[-1][1]:.1f} s; {traffic}", flush=True)


def run(cluster: RabbitCluster, queue: str, disturb: Callable[[Traffic], None]) -> Traffic:
    """Traffic while `disturb` runs; afterwards nothing may be missing."""
    traffic = Traffic(cluster.urls, queue)
    try:
        traffic.run(lambda: disturb(traffic))
    finally:
        print(traffic)
        traffic.close()
    assert set(traffic.told) == {1}
    assert traffic.ack_errors == []
    assert traffic.confirmed == set(range(traffic.numbers)) <= traffic.worked
    for error in traffic.errors:
        assert isinstance(error, cpspika.MessageNacked) or isinstance(error.__cause__, cpspika.MessageNacked), error
    assert not any(event.channel for event in traffic.events)  # an ack of an unknown delivery closes the channel
    with cpspika.BlockingConnection(cluster.urls) as connection:
        assert connection.channel().queue_declare(queue, passive=True).message_count == 0
    return traffic


PLANS = {
    "killed-and-stopped": ["kill", "shutdown"] + ["kill"] * (KILLS - 1),
    "hung-and-cut-off": ["suspend", "kill", "isolate"],
}


@pytest.mark.parametrize("nodes_are", ["killed-and-stopped", pytest.param("hung-and-cut-off", marks=only_if_asked)])
def test_nothing_confirmed_is_lost_while(cluster: RabbitCluster, nodes_are: str) -> None:
    """Always the node that the publisher is on. The consumer is on another, or on the same."""
    plan = PLANS[nodes_are]

    def disturb(traffic: Traffic) -> None:
        faults = Faults(cluster, traffic)
        for fault in plan:
            faults.one(fault)
        seconds = [seconds for _, seconds in faults.back]
        print(
            f"{len(plan)} faults; seconds until publishes were confirmed again: median {statistics.median(seconds):.1f}"
        )
        print([(fault, round(each, 1)) for fault, each in faults.back])

    traffic = run(cluster, nodes_are, disturb)
    assert traffic.kept_numbers
    assert sum(event.kind == "lost" for event in traffic.events) >= len(plan)


@only_if_asked
def test_a_node_in_maintenance_is_left_and_refuses_clients(cluster: RabbitCluster) -> None:
    def disturb(traffic: Traffic) -> None:
        Faults(cluster, traffic).one("drain")

    traffic = run(cluster, "maintenance", disturb)
    lost = [event.error for event in traffic.events if event.kind == "lost"]
    assert any(error is not None and error.code == 320 for error in lost), lost


@only_if_asked
def test_a_leader_that_moves_costs_no_link(cluster: RabbitCluster) -> None:
    """RabbitMQ tells the channels where the new leader is; no link is lost, and no consumer."""

    def disturb(traffic: Traffic) -> None:
        faults = Faults(cluster, traffic)
        for node in [*cluster.nodes, cluster.nodes[0]]:
            faults.node()  # some more confirms
            if cluster.leader("moving") is not node:
                cluster.move_leader("moving", node)
        faults.node()

    traffic = run(cluster, "moving", disturb)
    assert [event for event in traffic.events if event.kind != "restored"] == []


@only_if_asked
def test_without_a_majority_all_waits_and_nothing_is_lost(cluster: RabbitCluster) -> None:
    """The last node serves nobody (pause_minority), until another is back."""

    def disturb(traffic: Traffic) -> None:
        node = Faults(cluster, traffic).node()
        others = cluster.others(node)
        for other in others:
            other.kill()
        until(lambda: not traffic.publisher.is_connected, SECONDS, lambda: "the last node kept its links")
        confirmed = len(traffic.confirmed)
        for other in others:
            other.start()
        until(lambda: len(traffic.confirmed) > confirmed + 500, SECONDS, lambda: f"no 500 confirms; {traffic}")
        cluster.await_joined()

    run(cluster, "minority", disturb)


def test_the_programs_to_copy_outlive_a_node(cluster: RabbitCluster) -> None:
    first, second, _ = cluster.nodes
    with (
        cluster_program("worker.py", [second.url, *cluster.urls], "copied") as worker,
        cluster_program("publisher.py", cluster.urls, "copied", "3000") as publisher,
    ):
        printed = [publisher.line() for _ in range(200)]
        first.kill()
        printed += [publisher.line() for _ in range(400)]
        first.start()
        second.shutdown()
        second.start()
        printed += [publisher.line() for _ in range(2400)]
        assert printed == [f"confirmed: task {number}" for number in range(3000)]
        assert publisher.ended()[0] == 0
        left = {f"worked: task {number}" for number in range(3000)}
        while left:
            left.discard(worker.line())
        assert worker.terminated() == (0, "")


@only_if_asked
def test_a_client_comes_to_a_living_node(cluster: RabbitCluster) -> None:
    first, second, third = cluster.nodes
    first.kill()
    second.suspend()  # the kernel accepts its connections; nothing answers
    try:
        with cpspika.BlockingConnection(cluster.urls, recovery=True, connection_timeout=3) as connection:
            assert node_of(cluster, connection) is third
    finally:
        second.resume()


@only_if_asked
def test_the_loop_in_the_docs_publishes_all_without_recovery(cluster: RabbitCluster) -> None:
    text = (ROOT / "docs" / "cluster.md").read_text("utf-8")
    program = re.search(r"```python\n(import time.*?def publish_all.*?)```", text, re.DOTALL)
    assert program is not None
    names: dict[str, Any] = {}
    exec(program[1], names)
    bodies = [f"{number}" for number in range(2000)]
    confirmed = iter(bodies)
    given = 0
    killed = threading.Event()

    def kill() -> None:
        until(lambda: given > 100, SECONDS, lambda: f"{given} of 100 publishes")
        leader = cluster.leader("loop")
        assert leader is not None
        leader.kill()
        killed.set()
        leader.start()

    def each() -> Iterator[str]:
        nonlocal given
        for body in confirmed:
            given += 1
            if given == 1900:  # so that some are published after the kill
                assert killed.wait(SECONDS)
            yield body

    thread = threading.Thread(target=kill)
    thread.start()
    names["publish_all"](cluster.urls, "loop", each())
    thread.join()
    cluster.await_joined()
    got: dict[bytes, int] = {}
    with cpspika.BlockingConnection(cluster.urls) as connection:
        channel = connection.channel()
        while (message := channel.basic_get("loop", no_ack=False)) is not None:
            message.ack()
            got[message.body] = got.get(message.body, 0) + 1
    assert set(got) == {body.encode() for body in bodies}
    print("copies:", sum(got.values()) - len(got))
