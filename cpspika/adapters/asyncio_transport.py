"""A transport through asyncio's own transports, for a loop that has no add_reader, as the Proactor of Windows.

Theory of operation
===================

*Connecting.* The socket is made here, with its options, so that all loops treat it alike. A task of the loop connects
it, and makes asyncio's transport of it.

*Writing.* asyncio calls `pause_writing` and `resume_writing`. Its buffer counts as full as soon as it holds one byte
(`set_write_buffer_limits(0)`), so `written` counts bytes that have gone to the kernel. Chunks are passed in pieces,
so that `written` grows while much is sent.

*TLS.* Encrypting and decrypting is done here, by an ssl.SSLObject between two buffers in memory. asyncio's own TLS
(`ssl=`) keeps bytes that `written` could not know of, and waits up to 30 s for the peer's close_notify. Both differ
between versions of Python.

*The end.* asyncio drops the bytes that can still be read when a write fails. They may say why the peer closed the link,
so they are read from the socket before the end is reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from ..interrupts import is_interrupt
from ..reactor import Acceptor, Call, Endpoint, Timer, TransportOwner
from .loop_transport import LoopTransport
from .sockets import ACCEPT_PAUSE, LOOK, RECEIVE, bound_socket, has_hung_up, keep_alive, socket_error, take_first

PIECE = 256 * 1024  # bytes to pass to asyncio at once; it copies what the kernel doesn't accept


class _Tls:
    """The client's end of TLS, in memory. Its methods raise ssl.SSLError."""

    def __init__(self, endpoint: Endpoint):
        import ssl  # here, because without TLS the module isn't needed; whoever made the context has imported it

        self._wants_read = ssl.SSLWantReadError
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = endpoint.ssl.wrap_bio(
            self._incoming, self._outgoing, server_hostname=endpoint.server_hostname or endpoint.host
        )
        self.to_send = self._outgoing.read  # the bytes for the peer
        self.receive = self._incoming.write  # takes bytes of the peer

    def shake_hands(self) -> bool:
        """Continues the handshake. True: it is done."""
        try:
            self._object.do_handshake()
        except self._wants_read:
            return False
        return True

    def read(self) -> bytes | None:
        """The next decrypted bytes; b"": the peer has ended the stream; None: it has to send more first."""
        try:
            data: bytes = self._object.read(RECEIVE)
        except self._wants_read:
            return None
        return data

    def write(self, data: bytes | memoryview) -> int:
        """Encrypts bytes, and returns how many. 0: the peer, which renegotiates, has to send more first."""
        try:
            count: int = self._object.write(data)
        except self._wants_read:
            return 0
        return count


class AsyncioTransport(LoopTransport, asyncio.BufferedProtocol):
    """A connection through a transport of asyncio. Implements `reactor.Transport`.

    reactor: the AsyncioReactor. endpoint: the peer."""

    def __init__(self, reactor: Any, endpoint: Endpoint, owner: TransportOwner | None):
        self.peer_address = endpoint.host
        self._endpoint = endpoint
        self._loop: asyncio.AbstractEventLoop = reactor.loop
        self._acceptor: Acceptor | None = None
        self.socket: Any = None  # as of SocketTransport
        self._task: asyncio.Task[None] | None = None  # connects
        self._transport: asyncio.Transport | None = None
        self._tls: _Tls | None = None
        self._tls_waits = False  # to write, TLS needs bytes of the peer first
        self._buffer = memoryview(bytearray(RECEIVE))
        self._failure: Exception | None = None  # the reason for which this end cut the link
        self._hung_up = False  # the peer has, so what it sent before is read whatever the owner says
        self._look: Timer | None = None
        super().__init__(reactor, owner)

    @classmethod
    def connect(
        cls, reactor: Any, endpoint: Endpoint, address: tuple[int, Any], owner: TransportOwner
    ) -> LoopTransport:
        """A transport that begins to connect to an address (family, socket address)."""
        transport = cls(reactor, endpoint, owner)
        # In a later call, because the loop may run a new task at once, and the owner must not be called in this one.
        reactor.call_soon(lambda: transport._begin(transport._connect(*address)))
        return transport

    @classmethod
    def accepted(cls, reactor: Any, endpoint: Endpoint, sock: socket.socket, acceptor: Acceptor) -> None:
        """Makes the transport of a socket that a peer has connected to us."""
        transport = cls(reactor, endpoint, None)
        transport._acceptor, transport.socket = acceptor, sock
        transport._begin(transport._adopt(sock))

    # --- becoming ready -----------------------------------------------------------------------------------------------

    def _begin(self, connecting: Any) -> None:
        if self._closing:
            connecting.close()
        else:
            self._task = self._loop.create_task(connecting)
            self._task.add_done_callback(self._tried)

    def _tried(self, task: asyncio.Task[None]) -> None:
        """The task has ended. Without a transport of asyncio no connection came about."""
        error: Any = ConnectionAbortedError("the task that connects was cancelled")
        if not task.cancelled():
            error = task.exception()
        if self._transport is None:
            if self.socket is not None:
                self.socket.close()
            self._call(partial(self._lost, error))

    async def _connect(self, family: int, where: Any) -> None:
        sock = self.socket = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if self._endpoint.tcp_keepalive:
            keep_alive(sock, self._endpoint.tcp_keepalive)
        try:
            await self._loop.sock_connect(sock, where)
        except OSError as error:  # its text may say no more than "Connect call failed"
            raise error if error.errno is None else socket_error(error.errno) from None
        await self._adopt(sock)

    async def _adopt(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport, _ = await self._loop.create_connection(lambda: self, sock=sock)
        if self._transport is None:  # an exception of a signal handler came as asyncio called this
            self.connection_made(transport)

    def _shake_hands(self, tls: _Tls) -> None:
        try:
            done = tls.shake_hands()
        except OSError as error:
            self._send_tls(tls)  # tells the peer why
            self._fail(error)
        else:
            self._send_tls(tls)
            if done:
                self._ready()

    def _ready(self) -> None:
        self._open = True
        if self._paused:
            self._read(False)
        if self._owner is not None:
            self._owner.transport_ready()

    # --- called by asyncio --------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if self._owner is None and self._acceptor is None:  # closed while it connected
            transport.abort()
            return
        transport.set_write_buffer_limits(high=0)
        self._call(self._made)

    def _made(self) -> None:
        if self._acceptor is not None:
            acceptor, self._acceptor = self._acceptor, None
            try:
                self._owner = acceptor(self)
            except BaseException:
                self._cut()
                raise
        if self._endpoint.ssl is None:
            self._ready()
            return
        try:
            self._tls = _Tls(self._endpoint)
        except (OSError, ValueError) as error:  # the name cannot be one of a host
            self._fail(error)
        else:
            self._shake_hands(self._tls)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._call(partial(self._take, nbytes))

    def eof_received(self) -> None:
        self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._call(partial(self._ended, exc))

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._call(self._flush)

    def _call(self, call: Call) -> None:
        """Makes a call for asyncio. An exception of a callback must not reach asyncio's transport, which would close
        the link."""
        try:
            self._reactor.call(call)
        except BaseException as error:
            if is_interrupt(error):
                self.interrupted(error)  # the call was perhaps not made, and bytes of the peer are lost
            if not isinstance(error, Exception):
                raise
            self._reactor.failed(error, "a callback of cpspika raised an exception")

    # --- reading ------------------------------------------------------------------------------------------------------

    def _take(self, count: int) -> None:
        self._received(bytes(self._buffer[:count]))

    def _received(self, data: bytes) -> None:
        if self._tls is not None:
            self._received_tls(self._tls, data)
        elif self._owner is not None:
            self._owner.data_received(data)

    def _received_tls(self, tls: _Tls, data: bytes) -> None:
        tls.receive(data)
        if not self._open:
            if not self._over and not self._closing:
                self._shake_hands(tls)
            if not self._open:
                return
        parts = []
        ended, failure = False, None
        try:
            while (part := tls.read()) is not None and not ended:
                parts.append(part)
                ended = not part
        except OSError as error:
            ended, failure = True, error
        self._send_tls(tls)  # its answers to the peer
        if self._tls_waits:
            self._tls_waits = False
            self._reactor.call_soon(self._flush)
        if self._owner is not None and any(parts):
            try:
                self._owner.data_received(b"".join(parts))
            finally:
                if ended:
                    self._fail(failure)
        elif ended:
            self._fail(failure)

    def _read(self, wanted: bool) -> None:
        assert self._transport is not None
        if wanted:
            self._transport.resume_reading()
            return
        self._transport.pause_reading()
        if self._look is None:
            self._look = self._reactor.call_later(LOOK, self._look_for_hang_up)

    def pause_reading(self, paused: bool) -> None:
        if not self._hung_up:
            super().pause_reading(paused)

    def _look_for_hang_up(self) -> None:
        """While reading is paused, nothing tells that the peer has hung up. If it has, reads to the end."""
        self._look = None
        if not self._open or self._closing or not self._paused:
            return
        if self.socket is not None and has_hung_up(self.socket):
            super().pause_reading(False)
            self._hung_up = True
        else:
            self._look = self._reactor.call_later(LOOK, self._look_for_hang_up)

    # --- writing ------------------------------------------------------------------------------------------------------

    def _pass_on(self) -> None:
        while self._out and (self._closing or not self._full) and not self._tls_waits and self._transport is not None:
            data: bytes | memoryview = self._next_piece()
            if self._tls is None:
                self._passed += len(data)
            else:
                self._passed += self._encrypt(self._tls, data)
                data = self._tls.to_send()
            if data:
                self._transport.write(data)  # calls pause_writing, if the kernel doesn't accept all
            if not self._full:
                self.written = self._passed

    def _has_ended(self) -> bool:
        return self._transport is not None and self._transport.is_closing()

    def _next_piece(self) -> bytes | memoryview:
        """Takes chunks from `_out`, as many as PIECE bytes hold, but at least one; a larger one is cut."""
        out = self._out
        if len(out[0]) > PIECE:
            view = memoryview(out.popleft())
            out.appendleft(view[PIECE:])
            return view[:PIECE]
        return take_first(out, PIECE)

    def _encrypt(self, tls: _Tls, data: bytes | memoryview) -> int:
        """Encrypts a piece; returns the number of bytes. The rest, if TLS cannot write now, is put back."""
        rest = memoryview(data)
        while rest:
            count = tls.write(rest)
            if not count:
                self._tls_waits = True
                self._out.appendleft(rest)
                break
            rest = rest[count:]
        return len(data) - len(rest)

    def _send_tls(self, tls: _Tls) -> None:
        data = tls.to_send()
        if data and self._transport is not None:
            self._transport.write(data)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        assert self._transport is not None
        self._reactor.leaving.add(self)
        self._transport.close()

    def _cut(self) -> None:
        assert self._transport is not None
        self._reactor.leaving.add(self)
        self._transport.abort()

    def _give_up(self) -> None:
        if self._transport is not None:  # in the TLS handshake
            self._cut()
        elif self._task is not None:
            self._reactor.leaving.add(self)
            self._task.cancel()
        else:
            self._gone()

    def _fail(self, error: Exception | None) -> None:
        """Cuts the link for a reason; None: the peer has closed it in order. asyncio calls connection_lost next."""
        if self._failure is None:
            self._failure = error
        self._stop()

    def _stop(self) -> None:
        self._open = False
        if self._transport is not None:
            self._expect_end()
            self._cut()

    def _ended(self, error: Exception | None) -> None:
        """asyncio has closed the link."""
        try:
            if isinstance(error, OSError):
                self._read_rest()
        finally:
            self._lost(self._failure or error)

    def _read_rest(self) -> None:
        """Passes on the bytes that can still be read."""
        while self.socket is not None and self._owner is not None and self._failure is None:
            try:
                data = self.socket.recv(RECEIVE)
            except OSError:
                return
            if not data:
                return
            self._received(data)

    def _gone(self) -> None:
        if self._look is not None:
            self._look.cancel()
        self._reactor.leaving.discard(self)
        self.socket = None
        super()._gone()

    def detach(self) -> None:
        super().detach()
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.close()


class AsyncioListener:
    """Accepts connections at an address, for an acceptor, by a task of the loop. host, port: the address."""

    def __init__(self, reactor: Any, host: str, port: int, acceptor: Acceptor):
        self.socket = bound_socket(host, port)
        self.host, self.port = host, self.socket.getsockname()[1]
        self._reactor = reactor
        self._acceptor = acceptor
        self._release: Callable[[], object] = reactor.hold()
        self._task: asyncio.Task[None] = reactor.loop.create_task(self._accept_all())
        self._task.add_done_callback(self._shut)

    async def _accept_all(self) -> None:
        while True:
            await self._accept()

    async def _accept(self) -> None:
        try:
            sock, address = await self._reactor.loop.sock_accept(self.socket)
        except ConnectionError:
            return  # the peer has hung up already
        except OSError:
            await asyncio.sleep(ACCEPT_PAUSE)  # no file descriptor is left, as a rule
            return
        with contextlib.suppress(OSError):  # the peer has hung up already
            keep_alive(sock, {"idle": 60, "interval": 15})
        AsyncioTransport.accepted(self._reactor, Endpoint(address[0], address[1]), sock, self._acceptor)

    def _shut(self, task: object) -> None:
        self.socket.close()
        self._reactor.leaving.discard(self)
        self._release()

    def close(self) -> None:
        """As of `Listener`."""
        if not self._task.done():
            self._reactor.leaving.add(self)
        self._task.cancel()  # the loop must stop watching the socket before that is closed
