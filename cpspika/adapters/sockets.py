"""A transport over a socket, TLS included, for every reactor that can say when a socket is readable or writable.

The reactor is told what to watch for (`watch`) and calls `on_readable` and `on_writable`; the socket never blocks. What
is written in a turn is gathered and sent with one system call at the turn's end, earlier only when much has gathered.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ..reactor import IDLE, Acceptor, Endpoint, Reactor, Timer, TransportOwner
from .allocator import keep_freed_blocks

RECEIVE = 65536  # bytes a read asks for; larger buffers come from mmap, whose page faults cost more than the call
EAGER = 1024 * 1024  # bytes of backlog that are worth a system call amid a turn
GATHER = 512  # chunks handed to one sendmsg; IOV_MAX is 1024
LINGER = 5.0  # seconds for what is queued to go out after close
LOOK = 1.0  # seconds between two looks whether a peer that isn't read from has hung up
ACCEPT_PAUSE = 1.0  # seconds without accept after the process has run out of file descriptors
SMALL = 8192  # bytes up to which joining chunks is cheaper than handing them over one by one

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_HANG_UP = getattr(select, "POLLRDHUP", 0)  # poll tells POLLERR and POLLHUP unasked

_AGAIN: tuple[type[OSError], ...] = (BlockingIOError, InterruptedError)


def _again(endpoint: Endpoint) -> tuple[type[OSError], ...]:
    """What a socket raises that has nothing to give, or takes nothing, just now."""
    if endpoint.ssl is None:
        return _AGAIN
    import ssl  # whoever has a context has imported it; nobody else needs to

    return (ssl.SSLWantReadError, ssl.SSLWantWriteError, *_AGAIN)


class Watched(Protocol):
    """What has a socket; None once it is closed."""

    socket: Any

    def on_readable(self) -> None: ...
    def on_writable(self) -> None: ...
    def lost(self, error: Exception | None) -> None:
        """It is over: so the loop has it, or the socket."""


class Watcher(Reactor, Protocol):
    """A reactor that watches sockets."""

    def watch(self, fd: int, watched: Watched, read: bool, write: bool) -> None:
        """Calls watched.on_readable and on_writable when the socket is."""

    def unwatch(self, fd: int) -> None: ...
    def unwatch_forked(self, fd: int) -> None:
        """Forgets a socket of the process that this one was forked from, without touching what both share."""

    def hold(self) -> Callable[[], object]: ...


def resolve(
    reactor: Watcher, endpoint: Endpoint, on_done: Callable[[Exception | None, list[Any] | None], object]
) -> None:
    """getaddrinfo without blocking the reactor: a numeric address is known at once; a name is looked up in a thread of
    its own, since nothing portable else keeps a dead name server from stopping everything."""
    try:
        found = _look_up(endpoint, socket.AI_NUMERICHOST)
    except OSError:
        release = reactor.hold()

        def in_thread() -> None:
            error, addresses = None, None
            try:
                addresses = _look_up(endpoint, 0)
            except (OSError, UnicodeError) as failure:
                error = failure
            reactor.call_soon_threadsafe(lambda: (release(), on_done(error, addresses)))

        threading.Thread(target=in_thread, name="cpspika name lookup", daemon=True).start()
    except UnicodeError as failure:
        error = failure
        reactor.call_soon(lambda: on_done(error, None))
    else:
        reactor.call_soon(lambda: on_done(None, found))


def _look_up(endpoint: Endpoint, flags: int) -> list[Any]:
    found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]


class SocketTransport:
    """A socket that is connecting, shaking hands, open or closing. Fulfils `reactor.Transport`."""

    def __init__(self, reactor: Watcher, endpoint: Endpoint, owner: TransportOwner | None):
        keep_freed_blocks()
        self.queued = 0
        self.written = 0
        self.socket: Any = None
        self._reactor = reactor
        self._endpoint = endpoint
        self._again = _again(endpoint)
        self._owner = owner
        self._fresh: list[bytes | memoryview] = []  # of this turn
        self._large = False  # some of these are
        self._out: deque[bytes | memoryview] = deque()  # of earlier ones, and what is going out
        self._step: Callable[[], None] | None = self._connected
        self._flushing = False
        self._told = 0  # the `written` that the owner knows
        self._stuck = False  # the kernel took no more; it says when it will
        self._closing = False
        self._linger: Timer | None = None
        self._paused = False
        self._hung_up = False  # the peer has, so what it sent before is read whatever the owner says
        self._look: Timer | None = None
        self.peer_address = endpoint.host

    @classmethod
    def connect(
        cls, reactor: Watcher, endpoint: Endpoint, address: tuple[int, Any], owner: TransportOwner
    ) -> SocketTransport:
        """Begins to connect to an address."""
        transport = cls(reactor, endpoint, owner)
        try:
            transport._begin(*address)
        except OSError as error:
            failure = error
            reactor.call_soon(lambda: transport.lost(failure))
        return transport

    @classmethod
    def accepted(cls, reactor: Watcher, endpoint: Endpoint, sock: socket.socket, acceptor: Acceptor) -> SocketTransport:
        """Takes over the socket of somebody who connected to us."""
        transport = cls(reactor, endpoint, None)
        transport._adopt(sock)
        _keep_alive(sock)
        transport._owner = acceptor(transport)
        transport._step = None
        transport._ready()
        return transport

    def _adopt(self, sock: socket.socket) -> None:
        self.socket = sock
        self._fd = sock.fileno()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _begin(self, family: int, where: Any) -> None:
        self._adopt(socket.socket(family, socket.SOCK_STREAM))
        code = self.socket.connect_ex(where)
        if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            raise OSError(code, os.strerror(code))
        self._watch(read=False, write=True)

    def _watch(self, read: bool, write: bool) -> None:
        self._reactor.watch(self._fd, self, read and not self._paused, write)

    def pause_reading(self, paused: bool) -> None:
        if self._paused != paused and not self._hung_up:
            self._paused = paused
            if self.socket is not None and self._step is None:
                self._watch(read=True, write=self._stuck)
                if self._paused and self._look is None:
                    self._look = self._reactor.call_later(LOOK, self._look_for_hang_up)

    def _look_for_hang_up(self) -> None:
        """While reading is paused, nothing tells that the peer has hung up. If it has, reads to the end."""
        self._look = None
        if self.socket is None or not self._paused:
            return
        if _has_hung_up(self._fd):
            self._hung_up, self._paused = True, False
            self._watch(read=True, write=self._stuck)
        else:
            self._look = self._reactor.call_later(LOOK, self._look_for_hang_up)

    # --- becoming ready -----------------------------------------------------------------------------------------------

    def _connected(self) -> None:
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        if self._endpoint.ssl is None:
            self._ready()
        else:
            self.socket = self._endpoint.ssl.wrap_socket(
                self.socket, server_hostname=self._endpoint.host, do_handshake_on_connect=False
            )
            self._step = self._shake_hands
            self._shake_hands()

    def _shake_hands(self) -> None:
        try:
            self.socket.do_handshake()
        except self._again as wait:
            writes = type(wait).__name__ == "SSLWantWriteError"
            self._watch(read=not writes, write=writes)
        else:
            self._ready()

    def _ready(self) -> None:
        self._step = None
        self._watch(read=True, write=False)
        if self._owner is not None:
            self._owner.transport_ready()

    def _advance(self) -> bool:
        """A step towards being ready, where it isn't."""
        if self._step is None:
            return False
        try:
            self._step()
        except OSError as error:
            self.lost(error)
        return True

    # --- reading ------------------------------------------------------------------------------------------------------

    def on_readable(self) -> None:
        if self._advance() or self.socket is None:
            return
        try:
            data = self._receive()
        except self._again:
            return
        except OSError as error:
            self.lost(error)
            return
        if not data:
            self.lost(None)
        elif self._owner is not None:
            self._owner.data_received(data)

    def _receive(self) -> bytes:
        data: bytes = self.socket.recv(RECEIVE)
        if self._endpoint.ssl is None or not data:
            return data
        # TLS may hold more that it decrypted already, which a watch on the socket doesn't see.
        parts = [data]
        while self.socket.pending():
            parts.append(self.socket.recv(RECEIVE))
        return b"".join(parts)

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        if self._closing or self._owner is None:
            return
        queued = self.queued
        for chunk in chunks:
            size = len(chunk)
            self._fresh.append(chunk)
            queued += size
            if size > SMALL:
                self._large = True
        self.queued = queued
        if not self._flushing:
            self._flushing = True
            self._reactor.call_soon(self._flush)
        elif queued - self.written >= EAGER and not self._stuck:
            self._send()

    def on_writable(self) -> None:
        if not self._advance():
            self._stuck = False
            self._flush()
            if not self._stuck and self.socket is not None:
                self._watch(read=True, write=False)

    def flush(self) -> None:
        """Sends now what gathered, before the end of the turn."""
        if self.socket is not None and self._step is None and not self._closing and not self._stuck:
            self._send()
            self._tell()

    def _flush(self) -> object:
        """The end of a turn: sends what gathered, and tells the owner. IDLE if nobody was called for it."""
        self._flushing = False
        if self.socket is None or self._step is not None:
            return IDLE
        if not self._stuck:
            self._send()
        if self._closing and not self._out:
            self._finish()
        return None if self._tell() else IDLE

    def _tell(self) -> bool:
        if self._owner is None or self.written == self._told:
            return False
        self._told = self.written
        return bool(self._owner.bytes_written())

    def _send(self) -> None:
        out = self._out
        if self._fresh:
            self._gather()
        try:
            while out and not self._stuck:
                self._sent(self._send_some())
        except self._again:
            self._wait_for_room()
        except OSError as error:
            self._drop()
            failure = error
            # Told in the next turn: what the peer said before it hung up is still to be read, and explains more.
            self._reactor.call_soon(lambda: self._lost_by_writing(failure))

    def _gather(self) -> None:
        """Small chunks go out as one piece; large ones are not copied."""
        fresh, self._fresh = self._fresh, []
        if not self._large:
            self._out.append(b"".join(fresh) if len(fresh) > 1 else fresh[0])
            return
        self._large = False
        small: list[bytes | memoryview] = []
        for chunk in fresh:
            if len(chunk) <= SMALL:
                small.append(chunk)
                continue
            if small:
                self._out.append(b"".join(small))
                small.clear()
            self._out.append(chunk)
        if small:
            self._out.append(b"".join(small))

    def _send_some(self) -> int:
        out = self._out
        if len(out) == 1 or self._endpoint.ssl is not None:
            sent: int = self.socket.send(out[0])
        else:
            sent = self.socket.sendmsg([out[i] for i in range(min(len(out), GATHER))])
        return sent

    def _sent(self, count: int) -> None:
        out = self._out
        self.written += count
        while count:
            first = out[0]
            if count < len(first):
                out[0] = memoryview(first)[count:]
                return
            count -= len(first)
            out.popleft()

    def _drop(self) -> None:
        self._fresh.clear()
        self._out.clear()

    def _wait_for_room(self) -> None:
        self._stuck = True
        self._watch(read=True, write=True)

    def _lost_by_writing(self, error: OSError) -> None:
        while self.socket is not None and self._owner is not None:
            try:
                data = self._receive()
            except OSError:
                data = b""
            if not data:
                self.lost(error)
            else:
                self._owner.data_received(data)

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Sends what is queued, then hangs up."""
        if self._closing or self.socket is None:
            return
        self._closing = True
        self._owner = None
        if self._step is not None:
            self._finish()
        else:
            self._reactor.call_soon(self._flush)
            self._linger = self._reactor.call_later(LINGER, self._finish)

    def abort(self) -> None:
        self._owner = None
        self._finish()

    def detach(self) -> None:
        self._owner = None
        sock, self.socket = self.socket, None
        self._drop()
        if sock is not None:
            self._reactor.unwatch_forked(self._fd)
            sock.close()

    def _finish(self) -> None:
        sock, self.socket = self.socket, None
        self._drop()
        self._step = None
        for timer in (self._linger, self._look):
            if timer is not None:
                timer.cancel()
        if sock is not None:
            self._reactor.unwatch(self._fd)
            sock.close()

    def lost(self, error: Exception | None) -> None:
        owner, self._owner = self._owner, None
        self._finish()
        if owner is not None:
            owner.transport_lost(error)


def _has_hung_up(fd: int) -> bool:
    """Whether the peer has closed the link, or reset it. False where the system has no poll."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(fd, _HANG_UP)
    return bool(poll.poll(0))


def _keep_alive(sock: socket.socket) -> None:
    """Has the kernel find a peer that vanished without a word, also where there are no heartbeats."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    except OSError:
        pass  # the peer has hung up, or this is no TCP


class WatchesSockets:
    """What a reactor that is a `Watcher` can do by that alone; for it to inherit."""

    def check_sockets(self) -> None:
        """LocalError: the loop that this reactor lives on cannot watch sockets."""

    def resolve(self: Any, endpoint: Endpoint, on_done: Callable[[Exception | None, list[Any] | None], object]) -> None:
        resolve(self, endpoint, on_done)

    def open(self: Any, endpoint: Endpoint, address: Any, owner: TransportOwner) -> SocketTransport:
        self.check_sockets()
        return SocketTransport.connect(self, endpoint, address, owner)

    def listen(self: Any, host: str, port: int, acceptor: Acceptor) -> SocketListener:
        """Accepts connections at host and port (0: a free one)."""
        self.check_sockets()
        return SocketListener(self, host, port, acceptor)


class SocketListener:
    """Accepts connections at an address, for an acceptor. `host` and `port`: where it listens."""

    def __init__(self, reactor: Watcher, host: str, port: int, acceptor: Acceptor):
        family, where = _look_up(Endpoint(host, port), socket.AI_PASSIVE)[0]
        self.socket: Any = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(where)
            self.socket.listen(1024)
        except OSError:
            self.socket.close()
            raise
        self.socket.setblocking(False)
        self.host, self.port = host, self.socket.getsockname()[1]
        self._reactor = reactor
        self._acceptor = acceptor
        self._resume_timer: Timer | None = None
        self._fd = self.socket.fileno()
        reactor.watch(self._fd, self, read=True, write=False)

    def on_readable(self) -> None:
        # As many as wait, within reason: others shall have their turn too.
        for _ in range(128):
            if self.socket is None:
                return
            try:
                sock, address = self.socket.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause()
                return
            SocketTransport.accepted(self._reactor, Endpoint(address[0], address[1]), sock, self._acceptor)

    def _pause(self) -> None:
        """Accepts nobody for a while. Without this the loop would spin: the socket stays readable."""
        self._reactor.watch(self._fd, self, read=False, write=False)
        self._resume_timer = self._reactor.call_later(ACCEPT_PAUSE, self._resume)

    def _resume(self) -> None:
        self._resume_timer = None
        if self.socket is not None:
            self._reactor.watch(self._fd, self, read=True, write=False)

    def on_writable(self) -> None:
        pass

    def lost(self, error: Exception | None) -> None:
        self.close()

    def close(self) -> None:
        sock, self.socket = self.socket, None
        if self._resume_timer is not None:
            self._resume_timer.cancel()
        if sock is not None:
            self._reactor.unwatch(self._fd)
            sock.close()
