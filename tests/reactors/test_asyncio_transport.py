"""Connections through asyncio's own transports: what the conformance tests don't look at."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from typing import Any

import pytest

import cpspika
from cpspika.adapters import asyncio_transport
from cpspika.adapters.asyncio_reactor import AsyncioReactor
from cpspika.adapters.asyncio_transport import AsyncioTransport
from cpspika.broker import Broker
from cpspika.reactor import Endpoint
from cpspika.testing.conformance_edges import PIECE, TlsPeer, certified
from cpspika.testing.conformance_play import Owner, Peer
from tests.support.hiding import WithoutAddReader
from tests.support.scripted import Done, run_until


@pytest.fixture
def reactor() -> Iterator[AsyncioReactor]:
    made = AsyncioReactor(WithoutAddReader())
    yield made
    run_until(made, lambda: not made._held)
    made.loop.close()


@contextlib.contextmanager
def linked(reactor: AsyncioReactor, context: ssl.SSLContext | None = None, server: Any = None) -> Iterator[Any]:
    """(owner, peer) of a transport that is ready."""
    peer = Peer() if server is None else TlsPeer(server)
    owner = Owner()
    endpoint = Endpoint("127.0.0.1", peer.endpoint.port, context, server_hostname="localhost")
    owner.transport = reactor.open(endpoint, (socket.AF_INET, ("127.0.0.1", endpoint.port)), owner)
    run_until(reactor, peer.is_connected)
    run_until(reactor, lambda: (peer.has(0), owner.heard)[1])
    assert owner.heard == ["ready"]
    try:
        yield owner, peer
    finally:
        owner.transport.abort()
        run_until(reactor, lambda: not reactor._held)
        peer.close()


def reset(peer: Peer) -> None:
    assert peer._socket is not None
    peer._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def test_the_loop_has_its_own_transport(reactor: AsyncioReactor) -> None:
    with linked(reactor) as (owner, _):
        assert isinstance(owner.transport, AsyncioTransport)


def test_bytes_written_through_tls_are_not_ahead_of_the_kernel() -> None:
    pytest.importorskip("trustme")
    server, client = certified()
    reactor = AsyncioReactor(WithoutAddReader())
    with linked(reactor, client, server) as (owner, peer):
        transport, count = owner.transport, 0
        while transport.written == transport.queued and count < 64:
            transport.write([PIECE, b"small"])
            count += 1
            for _ in range(3):
                reactor.run_once(0)
        size = len(PIECE) + 5
        assert transport._transport.get_write_buffer_size() > 0, "the peer reads nothing, and the kernel took 64 MiB"
        assert transport.written <= count * size - asyncio_transport.PIECE, "counted before the kernel had it"
        transport.write([b"end"])
        run_until(reactor, lambda: peer.has(count * size + 3))
        assert bytes(peer.data) == (PIECE + b"small") * count + b"end"
        run_until(reactor, lambda: owner.told == transport.queued)
    reactor.loop.close()


def test_chunks_of_every_size_arrive_in_order(reactor: AsyncioReactor) -> None:
    sizes = [1, asyncio_transport.PIECE - 1, 2, asyncio_transport.PIECE, 5 * asyncio_transport.PIECE + 3, 7, 0, 9]
    chunks = [bytes([n]) * size for n, size in enumerate(sizes)]
    with linked(reactor) as (owner, peer):
        owner.transport.write([*chunks, memoryview(chunks[1])])
        run_until(reactor, lambda: peer.has(sum(sizes) + sizes[1]))
        assert bytes(peer.data) == b"".join(chunks) + chunks[1]
        run_until(reactor, lambda: owner.told == owner.transport.queued)


def test_what_the_peer_said_before_it_closed_is_read_though_a_write_fails(reactor: AsyncioReactor) -> None:
    with linked(reactor) as (owner, peer):
        peer.send(b"the reason")
        transport = owner.transport
        transport._transport.pause_reading()  # so that the write fails before anything is read
        peer._socket.shutdown(socket.SHUT_RD)
        transport.socket.shutdown(socket.SHUT_WR)
        transport.write([b"x"])
        run_until(reactor, lambda: len(owner.heard) > 1)
        assert owner.data == b"the reason"
        (_, (lost, error)) = owner.heard
        assert (lost, type(error)) == ("lost", BrokenPipeError)


def test_a_peer_that_hangs_up_while_reading_is_paused_is_noticed(
    reactor: AsyncioReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio_transport, "LOOK", 0.01)
    with linked(reactor) as (owner, peer):
        owner.transport.pause_reading(True)
        peer.send(b"last words")
        peer.close()
        run_until(reactor, lambda: len(owner.heard) > 1)
        assert (bytes(owner.data), owner.heard[1]) == (b"last words", ("lost", None))


def test_reading_that_is_paused_reads_nothing_until_it_goes_on(reactor: AsyncioReactor) -> None:
    with linked(reactor) as (owner, peer):
        owner.transport.pause_reading(True)
        peer.send(b"later")
        for _ in range(5):
            reactor.run_once(0.01)
        assert not owner.data
        owner.transport.pause_reading(False)
        run_until(reactor, lambda: owner.data == b"later")


def test_the_end_of_tls_in_order_is_no_error(reactor: AsyncioReactor) -> None:
    pytest.importorskip("trustme")
    server, client = certified()
    with linked(reactor, client, server) as (owner, peer):
        peer.send(b"bye")
        with contextlib.suppress(ssl.SSLWantReadError):
            peer._socket.unwrap()
        run_until(reactor, lambda: len(owner.heard) > 1)
        assert (bytes(owner.data), owner.heard[1]) == (b"bye", ("lost", None))


def test_bytes_that_are_no_tls_are_an_error(reactor: AsyncioReactor) -> None:
    pytest.importorskip("trustme")
    server, client = certified()
    with linked(reactor, client, server) as (owner, peer):
        socket.socket.send(peer._socket, b"\x17\x03\x03\x00\x20" + b"x" * 32)
        run_until(reactor, lambda: len(owner.heard) > 1)
        assert isinstance(owner.heard[1][1], ssl.SSLError)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_transport_given_up_while_it_connects_leaves_nothing(reactor: AsyncioReactor, turns: int, end: str) -> None:
    peer, owner = Peer(), Owner()
    where = socket.AF_INET, ("127.0.0.1", peer.endpoint.port)
    owner.transport = reactor.open(peer.endpoint, where, owner)
    for _ in range(turns):
        reactor.loop.call_soon(reactor.loop.stop)
        reactor.loop.run_forever()
    heard = list(owner.heard)
    getattr(owner.transport, end)()
    run_until(reactor, lambda: not (reactor._held or reactor.leaving))
    assert owner.heard == heard
    assert not asyncio.all_tasks(reactor.loop)
    peer.close()


def test_a_task_that_the_program_cancels_is_a_lost_link(reactor: AsyncioReactor) -> None:
    peer, owner = Peer(), Owner()
    owner.transport = reactor.open(peer.endpoint, (socket.AF_INET, ("127.0.0.1", peer.endpoint.port)), owner)
    reactor.loop.call_soon(lambda: [task.cancel() for task in asyncio.all_tasks(reactor.loop)])
    run_until(reactor, lambda: owner.heard)
    ((lost, error),) = owner.heard
    assert (lost, type(error)) == ("lost", ConnectionAbortedError)
    peer.close()


def test_the_embedded_broker_serves_on_such_a_loop(reactor: AsyncioReactor) -> None:
    broker = Broker(reactor)
    listener = broker.listen("127.0.0.1", 0)
    done, closed = Done("connect"), Done("close")
    cpspika.connect(f"amqp://127.0.0.1:{listener.port}", reactor=reactor, on_done=done)
    run_until(reactor, lambda: not done.pending)
    done.result.close(on_done=closed)
    run_until(reactor, lambda: not closed.pending)
    listener.close()
    broker.end()


def test_the_next_address_is_tried(reactor: AsyncioReactor, embedded: Any) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # nobody listens there
        done, closed = Done("connect"), Done("close")
        refusing = f"amqp://127.0.0.1:{bound.getsockname()[1]}"
        cpspika.connect([refusing, embedded.url], reactor=reactor, on_done=done)
        run_until(reactor, lambda: not done.pending)
        done.result.close(on_done=closed)
        run_until(reactor, lambda: not closed.pending)
        failed = Done("connect to nobody")
        cpspika.connect(refusing, reactor=reactor, on_done=failed)
        run_until(reactor, lambda: not failed.pending)
        assert "refused" in str(failed.error)


def test_a_reset_is_lost_with_its_error(reactor: AsyncioReactor) -> None:
    with linked(reactor) as (owner, peer):
        reset(peer)
        run_until(reactor, lambda: len(owner.heard) > 1)
        assert isinstance(owner.heard[1][1], ConnectionResetError)
