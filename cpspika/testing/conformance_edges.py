"""More tests of `conformance`: TLS, many threads, and callbacks that raise, close transports, or repeat themselves."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
import unittest
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from ..reactor import Endpoint
from .conformance_play import Owner, Peer, Play, Steps, needs

PIECE = b"0123456789abcdef" * 65536  # more than one TLS record, and more than one read


def needs_certificates() -> None:
    """Skips the test without the package trustme."""
    if find_spec("trustme") is None:
        raise unittest.SkipTest("the package trustme, which makes the certificates, is not installed")


def certified() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server for "localhost", and of a client that trusts it."""
    import trustme  # type: ignore[import-not-found, unused-ignore]

    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


class TlsPeer(Peer):
    """A peer with TLS. Each `has` continues the handshake, until it is done."""

    def __init__(self, context: ssl.SSLContext):
        super().__init__()
        self._context = context
        self._secured = False

    def _use(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    def has(self, count: int) -> bool:
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not self._secured:
                try:
                    self._socket.do_handshake()  # type: ignore[union-attr]
                except (ssl.SSLError, ConnectionError) as error:
                    if isinstance(error, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
                        raise
                    self.ended = True  # the client doesn't trust the certificate
                self._secured = True
            super().has(0)
        return len(self.data) >= count


class EdgeConformance(Play):
    """Tests of the contract's edges."""

    # --- calls --------------------------------------------------------------------------------------------------------

    @needs("sockets")
    def test_a_call_that_repeats_itself_keeps_nobody_out(self) -> Steps[None]:
        owner, peer = yield from self.linked()
        log: Any = []
        late = time.monotonic() + self.deadline

        def repeat() -> None:
            if time.monotonic() > late:  # without this, a reactor that made no other call would never end
                log.append("only the call that repeats itself")
            elif not (owner.data and log):
                self.reactor.call_soon(repeat)

        self.reactor.call_soon(repeat)
        self.reactor.call_later(0.01, lambda: log.append("timer"))
        peer.send(b"bytes")
        yield from self.until("timer and bytes, beside a call that repeats itself", lambda: owner.data and log)
        assert log == ["timer"], f"the loop made {log[0]}"

    @needs("sockets")
    def test_calls_of_many_threads_all_come_and_those_of_each_in_order(self) -> Steps[None]:
        called: list[tuple[int, int]] = []

        def ask(thread: int) -> None:
            for number in range(50):
                self.reactor.call_soon_threadsafe(lambda number=number: called.append((thread, number)))

        threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(4)]
        for thread in threads:
            thread.start()
        yield from self.until("calls of four threads", lambda: len(called) == 200)
        for n, thread in enumerate(threads):
            thread.join(self.deadline)
            assert [number for who, number in called if who == n] == list(range(50)), f"of thread {n}: {called}"

    @needs()
    def test_a_timer_cancels_another_that_is_due(self) -> Steps[None]:
        log: Any = []
        timers: Any = []
        timers.append(self.reactor.call_later(0.01, lambda: (log.append("first"), timers[1].cancel())))
        timers.append(self.reactor.call_later(0.02, lambda: log.append("second")))
        late = self.reactor.time() + 0.02
        while self.sockets and self.reactor.time() < late:
            pass  # so that both timers are due in the next turn
        self.reactor.call_later(0.01, lambda: log.append("last"))
        yield from self.until("last timer", lambda: "last" in log)
        assert log == ["first", "last"], f"a timer was called after it was cancelled while due: {log}"

    # --- transports and their owners ----------------------------------------------------------------------------------

    def _owned(self, owner: Owner) -> Steps[Peer]:
        """Opens a transport for an owner, and returns its peer."""
        peer = Peer()
        self._open.append(peer.close)
        _, addresses = yield from self.found(peer.endpoint)
        owner.transport = self.reactor.open(peer.endpoint, addresses[0], owner)
        self._open.append(owner.transport.abort)
        yield from self.until("peer of an open", peer.is_connected)
        return peer

    @needs("sockets")
    def test_an_owner_that_raises_harms_nothing(self) -> Steps[None]:
        class Raising(Owner):
            def transport_ready(self) -> None:
                super().transport_ready()
                raise ZeroDivisionError

            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                raise ZeroDivisionError

        owner = Raising()
        peer = yield from self._owned(owner)
        yield from self.until("transport_ready", lambda: owner.heard)
        peer.send(b"x")
        yield from self.until("bytes, after an exception", lambda: owner.data == b"x")
        peer.send(b"y")
        yield from self.until("bytes, after another", lambda: owner.data == b"xy")
        owner.transport.write([b"answer"])
        yield from self.until("answer, after an exception", lambda: peer.has(6))
        assert [type(error) for error in self.errors] == [ZeroDivisionError] * 3, f"on_error received {self.errors}"
        self.errors.clear()

    @needs("sockets")
    def test_an_owner_may_close_and_abort_in_what_it_is_told(self) -> Steps[None]:
        for told in ("transport_ready", "data_received"):
            for end in ("close", "abort"):
                owner = Owner()
                called: list[str] = []

                def act(*_: Any, owner: Owner = owner, end: str = end, called: list[str] = called) -> None:
                    called.append(end)
                    getattr(owner.transport, end)()

                setattr(owner, told, act)
                peer = yield from self._owned(owner)
                peer.send(b"x")
                yield from self.until(f"end of the stream, by {end} in {told}", peer.hung_up)
                yield from self.turn()
                assert called == [end], f"{told} was called again after {end} in it"
                assert owner.heard in ([], ["ready"]), f"after {end} in {told} the owner heard {owner.heard}"
                if not self.many:
                    yield from self.until("room for the next", lambda: not self.leftovers())

    @needs("sockets")
    def test_a_transport_may_be_closed_while_it_connects(self) -> Steps[None]:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            endpoint = Endpoint(*listener.getsockname())
            _, addresses = yield from self.found(endpoint)
            for end in ("close", "abort"):
                owner = Owner()
                owner.transport = self.reactor.open(endpoint, addresses[0], owner)
                self._open.append(owner.transport.abort)
                getattr(owner.transport, end)()
                owner.transport.write([b"too late"])
                yield from self.turn()
                yield from self.turn()
                assert owner.heard == [], f"after {end} the owner heard {owner.heard}"

    @needs("sockets")
    def test_a_reset_is_told_once(self) -> Steps[None]:
        owner, peer = yield from self.linked()
        assert peer._socket is not None
        peer._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        yield from self.until("transport_lost", lambda: len(owner.heard) > 1)
        yield from self.turn()
        (_, (lost, error)) = owner.heard
        assert (lost, type(error)) == ("lost", ConnectionResetError), f"after a reset the owner heard {owner.heard}"

    @needs("sockets")
    def test_a_peer_that_does_not_read_is_a_backlog(self) -> Steps[None]:
        owner, peer = yield from self.linked()
        transport, count = owner.transport, 0
        while transport.written == transport.queued and count < 64:
            transport.write([PIECE])
            count += 1
            yield from self.turn()
            yield from self.turn()
        assert transport.written < transport.queued, "`written` counts 64 MiB that the peer has not read"
        yield from self.until("bytes that the peer reads at last", lambda: peer.has(count * len(PIECE)))
        yield from self.until("bytes_written", lambda: owner.told == transport.queued)
        assert peer.data == PIECE * count

    # --- TLS ----------------------------------------------------------------------------------------------------------

    def _secured(self, trusts: Callable[[ssl.SSLContext], ssl.SSLContext]) -> Steps[tuple[Owner, Peer]]:
        server, client = certified()
        peer = TlsPeer(server)
        self._open.append(peer.close)
        endpoint = Endpoint("localhost", peer.endpoint.port, trusts(client))
        _, addresses = yield from self.found(Endpoint("127.0.0.1", endpoint.port))
        owner = Owner()
        owner.transport = self.reactor.open(endpoint, addresses[0], owner)
        self._open.append(owner.transport.abort)
        yield from self.until("peer of an open", peer.is_connected)
        yield from self.until("end of the TLS handshake", lambda: (peer.has(0), owner.heard)[1])
        return owner, peer

    @needs("sockets", first=needs_certificates)
    def test_tls(self) -> Steps[None]:
        owner, peer = yield from self._secured(lambda client: client)
        assert owner.heard == ["ready"]
        owner.transport.write([b"there", PIECE])
        yield from self.until("bytes through TLS", lambda: peer.has(5 + len(PIECE)))
        assert peer.data == b"there" + PIECE
        peer.send(PIECE[:100_000])
        yield from self.until("bytes of the peer through TLS", lambda: len(owner.data) == 100_000)
        assert owner.data == PIECE[:100_000]
        owner.transport.write([b"end"])
        owner.transport.close()
        yield from self.until("end of the stream", peer.hung_up)
        assert bytes(peer.data[-3:]) == b"end"

    @needs("sockets", first=needs_certificates)
    def test_tls_with_somebody_who_is_not_trusted(self) -> Steps[None]:
        owner, _ = yield from self._secured(lambda client: ssl.create_default_context())
        assert owner.heard != ["ready"], "TLS was ready with a peer that is not trusted"
        ((_, error),) = owner.heard
        assert isinstance(error, ssl.SSLCertVerificationError), (
            f"for a peer that is not trusted the error was {error!r}"
        )
