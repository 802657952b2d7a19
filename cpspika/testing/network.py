"""A simulated network: links in memory between hosts, in virtual time.

A wire carries bytes in two directions. Each direction has a latency, may cut bytes into pieces, may hold them back for
a while (a hole), and may be cut after any byte. All dice come from one seeded source.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..adapters.memory_reactor import MemoryReactor, MemoryTransport
from ..reactor import Acceptor, Endpoint, Reactor, TransportOwner

KERNEL_BUFFER = 64 * 1024  # bytes that a sender's kernel takes though the peer hasn't taken them


class _ClientEnd(MemoryTransport):
    """The client's end of a wire. weight: how many bytes each byte counts for in `queued` and `written`."""

    def __init__(self, reactor: Reactor, weight: int):
        super().__init__(reactor)
        self._weight = weight

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        queued = self.queued
        super().write(chunks)
        self.queued += (self.queued - queued) * (self._weight - 1)

    def count_written(self, size: int) -> None:
        super().count_written(size * self._weight)


class _Listener:
    def __init__(self, host: Host, port: int):
        self.port = port
        self._host = host

    def close(self) -> None:
        self._host.acceptor = None


class SimulatedReactor(MemoryReactor):
    """A MemoryReactor whose links go through a simulated network. A host listens at every port or at none."""

    network: Network

    def listen(self, host: str, port: int, acceptor: Acceptor) -> _Listener:  # type: ignore[override]
        found = self.network.hosts.setdefault(host, Host(host))
        found.acceptor = acceptor
        return _Listener(found, port)

    def resolve(self, endpoint: Endpoint, on_done: Callable[[Exception | None, list[Any] | None], object]) -> None:
        host = self.network.hosts.get(endpoint.host)
        if host is None:
            unknown = OSError(f"no host {endpoint.host!r} in this network")
            self.call_soon(lambda: on_done(unknown, None))
        else:
            self.call_soon(lambda: on_done(None, [host]))

    def open(self, endpoint: Endpoint, address: Any, owner: TransportOwner) -> MemoryTransport:
        return self.network.connect(address, owner)


class Host:
    """A host of the network. `acceptor`: accepts links; None: nothing listens, so links are refused. `refuses`: links
    are refused. `silent`: links are never answered. `delay`: seconds until a link is open."""

    def __init__(self, name: str):
        self.name = name
        self.acceptor: Acceptor | None = None
        self.refuses = False
        self.silent = False
        self.delay = 0.0

    def __repr__(self) -> str:
        return f"<Host {self.name}>"


class Direction:
    """One direction of a wire.

    source, target: the sender's end, and the receiver's. latency: seconds. pieces: the largest piece in bytes; None
    for bytes as they come. hole: bytes are held back; they arrive when the hole ends, unless the link is dead by then.
    left: bytes that arrive before the wire is cut; None for all.
    """

    def __init__(self, wire: SimulatedWire, source: MemoryTransport, target: MemoryTransport):
        self.wire = wire
        self.source = source
        self.target = target
        self.latency = 0.0
        self.pieces: int | None = None
        self.hole = False
        self.left: int | None = None
        self.carried = 0
        self._held: list[tuple[int, bytes | None]] = []  # with their numbers; None: the end of the stream
        self._count = 0
        self._busy_until = 0.0
        self._unaccepted: deque[bytes | memoryview | None] = deque()  # the sender's kernel has no room for these yet
        self._in_kernel = 0

    def send(self, data: bytes) -> None:
        self._unaccepted.append(data)
        self._accept()

    def _accept(self) -> None:
        """The sender's kernel takes bytes, and sends them, while it has room."""
        network, unaccepted = self.wire.network, self._unaccepted
        while unaccepted:
            data = unaccepted[0]
            if data is not None:
                room = network.kernel_buffer - self._in_kernel
                if room <= 0:
                    return
                if len(data) > room:
                    unaccepted[0] = memoryview(data)[room:]
                    data = bytes(data[:room])
                else:
                    del unaccepted[0]
                self._in_kernel += len(data)
                network.reactor.call_soon(partial(self.source.count_written, len(data)))
                self._send_on(bytes(data))
            else:
                del unaccepted[0]
                self._pass(None)

    def _send_on(self, data: bytes) -> None:
        if self.pieces is None:
            self._pass(data)
            return
        start = 0
        while start < len(data):
            end = start + self.wire.network.dice.randint(1, self.pieces)
            self._pass(data[start:end])
            start = end

    def taken(self, size: int) -> None:
        """The receiver has taken bytes."""
        self._in_kernel -= size
        self._accept()

    def finish(self, aborted: bool) -> None:
        """The sender has closed its end: the receiver hears of it behind all bytes. aborted: behind those that the
        sender's kernel has."""
        if aborted:
            self._unaccepted.clear()
        self._unaccepted.append(None)
        self._accept()

    def _pass(self, data: bytes | None) -> None:
        number, self._count = self._count, self._count + 1
        if self.hole:
            self._held.append((number, data))
            return
        reactor = self.wire.network.reactor
        now = reactor.time()
        due = max(now + self.latency, self._busy_until)
        if due <= now:
            reactor.call_soon(partial(self._arrive, number, data))
        else:
            self._busy_until = due
            reactor.call_later(due - now, partial(self._arrive, number, data))

    def _arrive(self, number: int, data: bytes | None) -> None:
        wire, target = self.wire, self.target
        if self.hole:
            self._held.append((number, data))
            return
        if wire.dead:
            return
        if data is None:
            wire.ended()
            target.lost(None)
            return
        cut = self.left is not None and len(data) >= self.left
        if self.left is not None:
            data = data[: self.left]
            self.left -= len(data)
        if data:
            self.carried += len(data)
            network = wire.network
            network.arriving = wire
            try:
                target.receive(data)
            finally:
                network.arriving = None
        if cut:
            wire.cut()

    def heal(self) -> None:
        """Ends the hole: what was held back arrives now."""
        self.hole = False
        held, self._held = self._held, []
        for _, data in sorted(held, key=lambda each: each[0]):  # bytes that were on their way came to it late
            self._pass(data)


class SimulatedWire:
    """A link between a client and a host.

    number: counts the wires of a network from 0. up: the direction from the client to the host; down: the other one.
    dead: nothing is carried any more.
    """

    def __init__(self, network: Network, number: int, host: Host, client: MemoryTransport, server: MemoryTransport):
        self.network = network
        self.number = number
        self.host = host
        self.client = client
        self.server = server
        self.up = Direction(self, client, server)
        self.down = Direction(self, server, client)
        self.dead = False
        client.wire = server.wire = self

    def __repr__(self) -> str:
        return f"<Wire {self.number} to {self.host.name}{', dead' if self.dead else ''}>"

    def carry(self, end: MemoryTransport, data: bytes) -> None:
        (self.up if end is self.client else self.down).send(data)

    def received(self, end: MemoryTransport, size: int) -> None:
        (self.down if end is self.client else self.up).taken(size)

    def hang_up(self, end: MemoryTransport, aborted: bool) -> None:
        (self.up if end is self.client else self.down).finish(aborted)

    def ended(self) -> None:
        """Forgets the wire: an end has closed it."""
        self.dead = True
        self.network.wires.pop(self.number, None)

    def cut(self, client: bool = True, server: bool = True) -> None:
        """Cuts the link: nothing is carried any more. client, server: this end hears of it at once, with a reset; the
        other end hears nothing, and finds out by its heartbeats."""
        if self.dead:
            return
        self.ended()
        for told, end in ((client, self.client), (server, self.server)):
            if told:
                reset = ConnectionResetError(f"wire {self.number} was cut")
                self.network.reactor.call_soon(partial(end.lost, reset))


class Network:
    """The hosts and the wires between them.

    hosts: by name. wires: those that are open or opening, by number. arriving: the wire whose bytes the present call
    handles. Faults: the methods of a `SimulatedWire`, the attributes of its `up` and `down` and of a `Host`; and
    `latency`, `pieces`, which are those of new wires; and next_left: the next wire that opens is cut after so many
    bytes to the host. kernel_buffer: bytes that the kernel of a sender takes before the receiver has taken them.
    weight: on new wires each byte of a client counts for so many when the client decides whether the link is congested;
    with 100, a few messages congest it.
    """

    def __init__(self, reactor: SimulatedReactor, dice: random.Random):
        self.reactor = reactor
        self.dice = dice
        self.hosts: dict[str, Host] = {}
        self.wires: dict[int, SimulatedWire] = {}
        self.latency = 0.0
        self.pieces: int | None = None
        self.kernel_buffer = KERNEL_BUFFER
        self.weight = 1
        self.next_left: int | None = None
        self.arriving: SimulatedWire | None = None
        self._count = 0
        reactor.network = self

    def connect(self, host: Host, owner: TransportOwner) -> MemoryTransport:
        """Begins to connect to a host; the reactor calls this."""
        client, server = _ClientEnd(self.reactor, self.weight), MemoryTransport(self.reactor)
        client.owner = owner
        wire = SimulatedWire(self, self._count, host, client, server)
        self._count += 1
        self.wires[wire.number] = wire
        for direction in (wire.up, wire.down):
            direction.latency = self.latency
            direction.pieces = self.pieces
        self.reactor.call_later(host.delay + self.latency, partial(self._open, wire))
        return client

    def _open(self, wire: SimulatedWire) -> None:
        host, client, server = wire.host, wire.client, wire.server
        if wire.dead or client.owner is None or host.silent:
            return
        if host.refuses or host.acceptor is None:
            wire.ended()
            client.lost(ConnectionRefusedError(f"{host.name} refuses"))
            return
        wire.up.left, self.next_left = self.next_left, None
        server.peer, client.peer = client, server
        server.owner = host.acceptor(server)
        client.owner.transport_ready()

    def heal(self) -> None:
        """Ends all faults that are under way: holes, delays, refusals; what was to be cut later isn't cut."""
        self.latency, self.pieces, self.next_left = 0.0, None, None
        for host in self.hosts.values():
            host.refuses = host.silent = False
            host.delay = 0.0
        for wire in list(self.wires.values()):
            for direction in (wire.up, wire.down):
                direction.latency, direction.pieces, direction.left = 0.0, None, None
                direction.heal()

    def cut_all(self) -> None:
        """Cuts every wire; both ends hear of it."""
        for wire in list(self.wires.values()):
            wire.cut()
