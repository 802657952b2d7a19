"""The simulated network: what each fault does to the two ends of a wire, in virtual time."""

from __future__ import annotations

import random
from typing import Any

import pytest

from cpspika.reactor import Endpoint
from cpspika.testing.network import KERNEL_BUFFER, Network, SimulatedReactor, SimulatedWire


class End:
    """The owner of one end: notes what it hears, and when."""

    def __init__(self, reactor: SimulatedReactor):
        self.reactor = reactor
        self.heard: list[tuple[float, Any]] = []
        self.transport: Any = None

    def transport_ready(self) -> None:
        self.heard.append((self.reactor.time(), "ready"))

    def data_received(self, data: bytes) -> None:
        self.heard.append((self.reactor.time(), data))

    def bytes_written(self) -> None:
        pass

    def transport_lost(self, error: Exception | None) -> None:
        self.heard.append((self.reactor.time(), type(error).__name__ if error is not None else "closed"))

    @property
    def what(self) -> list[Any]:
        return [what for _, what in self.heard]

    @property
    def data(self) -> bytes:
        return b"".join(what for what in self.what if isinstance(what, bytes))


class Linked:
    """A client and a server on one network."""

    def __init__(self, **of_host: Any):
        self.reactor = SimulatedReactor()
        self.net = Network(self.reactor, random.Random(1))
        self.server = End(self.reactor)
        self.client = End(self.reactor)
        self.listener = self.reactor.listen("host", 1, self._accept)
        for name, value in of_host.items():
            setattr(self.net.hosts["host"], name, value)
        self.found: list[Any] = []
        self.reactor.resolve(Endpoint("host", 1), lambda error, addresses: self.found.append((error, addresses)))
        self.reactor.settle()
        self.client.transport = self.reactor.open(Endpoint("host", 1), self.found[0][1][0], self.client)

    def _accept(self, transport: Any) -> End:
        self.server.transport = transport
        return self.server

    @property
    def wire(self) -> SimulatedWire:
        return self.net.wires[0]

    def open(self) -> Linked:
        self.reactor.advance(0.001)
        assert self.client.what == ["ready"]
        self.client.heard.clear()
        return self


def test_bytes_arrive_both_ways_and_the_end_comes_behind_them() -> None:
    linked = Linked().open()
    linked.client.transport.write([b"one ", b"two"])
    linked.server.transport.write([b"three"])
    linked.reactor.settle()
    assert linked.server.what == [b"one two"]
    assert linked.client.what == [b"three"]
    linked.client.transport.write([b"last"])
    linked.client.transport.close()
    linked.reactor.settle()
    assert linked.server.what == [b"one two", b"last", "closed"]
    assert not linked.net.wires
    assert linked.reactor.is_idle


def test_bytes_count_as_written_when_the_kernel_has_room() -> None:
    linked = Linked().open()
    linked.server.transport.pause_reading(True)
    client = linked.client.transport
    for _ in range(4):
        client.write([b"x" * (KERNEL_BUFFER // 2)])
        linked.reactor.settle()
    assert (client.queued, client.written) == (2 * KERNEL_BUFFER, KERNEL_BUFFER)
    linked.server.transport.pause_reading(False)
    linked.reactor.settle()
    assert client.written == client.queued == len(linked.server.data)


def test_bytes_that_the_kernel_has_no_room_for_are_lost_with_the_link() -> None:
    for aborted in (False, True):
        linked = Linked().open()
        linked.net.kernel_buffer = 4
        linked.wire.up.latency = 1.0
        client = linked.client.transport
        client.write([b"0123", b"456789"])
        linked.reactor.settle()
        assert (client.queued, client.written) == (10, 4)
        if aborted:
            client.abort()
        else:
            client.close()
        linked.reactor.advance(5)
        assert linked.server.data == (b"0123" if aborted else b"0123456789")
        assert linked.server.what[-1] == "closed"


def test_a_byte_of_a_client_may_count_for_many() -> None:
    linked = Linked()
    linked.net.weight = 100
    linked.client.transport = linked.reactor.open(Endpoint("host", 1), linked.found[0][1][0], linked.client)
    linked.reactor.advance(0.001)
    client = linked.client.transport
    client.write([b"abc"])
    assert (client.queued, client.written) == (300, 0)
    linked.reactor.settle()
    assert (client.queued, client.written) == (300, 300)
    assert linked.server.data == b"abc"


def test_the_next_link_alone_is_cut_after_some_bytes() -> None:
    linked = Linked()
    linked.net.next_left = 2
    linked.open().client.transport.write([b"0123"])
    linked.reactor.settle()
    assert (linked.server.data, linked.client.what) == (b"01", ["ConnectionResetError"])
    assert linked.net.next_left is None


def test_latency_keeps_the_order() -> None:
    linked = Linked().open()
    now = linked.reactor.time()
    linked.wire.up.latency = 2.0
    linked.client.transport.write([b"slow"])
    linked.reactor.settle()
    linked.wire.up.latency = 0.0
    linked.client.transport.write([b"fast"])
    linked.reactor.advance(3)
    assert linked.server.heard == [(now + 2, b"slow"), (now + 2, b"fast")]


def test_pieces_have_every_byte_once() -> None:
    linked = Linked().open()
    linked.wire.up.pieces = 3
    linked.client.transport.write([bytes(range(100))])
    linked.reactor.settle()
    assert linked.server.data == bytes(range(100))
    assert len(linked.server.what) >= 34
    assert max(map(len, linked.server.what)) == 3


@pytest.mark.parametrize("left", range(1, 12))
def test_a_cut_after_any_byte(left: int) -> None:
    linked = Linked().open()
    linked.wire.up.left = left
    linked.client.transport.write([b"01234"])
    linked.reactor.settle()
    linked.client.transport.write([b"56789"])
    linked.reactor.settle()
    assert linked.server.data == b"0123456789"[:left]
    cut = ["ConnectionResetError"] if left <= 10 else []
    assert [what for what in linked.server.what if isinstance(what, str)] == cut
    assert linked.client.what == cut


@pytest.mark.parametrize("told", ["client", "server"])
def test_half_a_cut_is_heard_at_one_end_alone(told: str) -> None:
    linked = Linked().open()
    linked.wire.cut(client=told == "client", server=told == "server")
    ends = {"client": linked.client, "server": linked.server}
    other = ends["server" if told == "client" else "client"]
    other.transport.write([b"into the void"])
    linked.reactor.settle()
    assert ends[told].what == ["ConnectionResetError"]
    assert other.what == []


def test_a_hole_holds_one_direction_back() -> None:
    linked = Linked().open()
    direction = linked.wire.down
    direction.hole = True
    linked.server.transport.write([b"held"])
    linked.client.transport.write([b"through"])
    linked.reactor.advance(5)
    assert (linked.client.what, linked.server.what) == ([], [b"through"])
    direction.heal()
    linked.reactor.settle()
    assert linked.client.what == [b"held"]


def test_a_host_refuses_is_slow_or_silent() -> None:
    refused = Linked(refuses=True)
    refused.reactor.advance(1)
    assert refused.client.what == ["ConnectionRefusedError"]
    slow = Linked(delay=3.0)
    slow.reactor.advance(9)
    assert slow.client.heard == [(3.0, "ready")]
    silent = Linked(silent=True)
    silent.reactor.advance(9)
    assert silent.client.heard == []


def test_a_closed_listener_refuses_and_an_unknown_host_has_no_address() -> None:
    linked = Linked()
    linked.listener.close()
    linked.reactor.advance(1)
    assert linked.client.what == ["ConnectionRefusedError"]
    linked.reactor.resolve(Endpoint("elsewhere", 1), lambda error, addresses: linked.found.append((error, addresses)))
    linked.reactor.settle()
    error, addresses = linked.found[1]
    assert (str(error), addresses) == ("no host 'elsewhere' in this network", None)


def test_healed_is_as_new() -> None:
    linked = Linked().open()
    linked.net.latency, linked.net.pieces = 1.0, 2
    linked.wire.up.hole = linked.wire.down.hole = True
    linked.wire.up.left = 3
    linked.client.transport.write([b"0123456789"])
    linked.reactor.advance(1)
    linked.net.heal()
    linked.reactor.settle()
    assert linked.server.what == [b"0123456789"]
    assert (linked.net.latency, linked.net.pieces) == (0.0, None)


def test_what_is_on_its_way_when_a_hole_begins_stays_before_what_is_sent_later() -> None:
    linked = Linked().open()
    direction = linked.wire.up
    direction.latency = 2.0
    linked.client.transport.write([b"first "])
    linked.reactor.advance(1)
    direction.hole = True
    linked.client.transport.write([b"second"])
    linked.reactor.advance(5)
    assert linked.server.what == []
    direction.heal()
    linked.reactor.advance(5)
    assert linked.server.data == b"first second"
