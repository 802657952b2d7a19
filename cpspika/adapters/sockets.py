"""A transport over a socket, with or without TLS, for every reactor that can watch sockets.

Theory of operation
===================

*Watching.* The transport tells the reactor by `watch` whether to wait until its socket is readable, writable or both.
The reactor then calls `on_readable` and `on_writable`. The socket never blocks.

*Becoming ready.* A socket first connects, and with TLS does a handshake. `_step` is the function that continues this;
it is None from the moment when the transport is ready.

*Writing.* `write` only queues chunks. At the end of the turn `_flush` joins the small ones and sends all with one
system call, or earlier if the backlog has grown to EAGER bytes. If the kernel doesn't accept all, the transport is
`_stuck` until the socket is writable. The owner is told by `bytes_written` once a turn.

*Closing.* `close` sends what is queued, for LINGER seconds at most, and then closes the socket. `abort` closes it at
once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from ..interrupts import is_interrupt
from ..reactor import (
    IDLE,
    Acceptor,
    Endpoint,
    Listener,
    Reactor,
    Timer,
    Transport,
    TransportOwner,
    interruption,
    register_transport,
)
from .allocator import keep_freed_blocks

RECEIVE = 65536  # bytes to ask for in one read; larger buffers come from mmap, whose page faults cost more than a read
EAGER = 1024 * 1024  # bytes of backlog that are sent at once, before the end of the turn
GATHER = 512  # chunks passed to one sendmsg; IOV_MAX is 1024
JOIN = 65536  # bytes; without sendmsg, chunks are joined up to this size
LINGER = 5.0  # seconds after close in which the queued bytes may be sent
LOOK = 1.0  # seconds between two checks whether a peer has hung up, while reading is paused
ACCEPT_PAUSE = 1.0  # seconds without accept after the process has run out of file descriptors
SMALL = 8192  # bytes; up to this size, joining chunks is cheaper than passing them on one by one


def _numbers(*names: str) -> set[int]:
    """The error numbers of these names that the system has. Windows has two of some: EMFILE and WSAEMFILE."""
    return {getattr(errno, prefix + name) for name in names for prefix in ("", "WSA") if hasattr(errno, prefix + name)}


_EXHAUSTED = _numbers("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM")
_CONNECTING = {0} | _numbers("EINPROGRESS", "EWOULDBLOCK")
_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")  # Windows has not
_HANG_UP = getattr(select, "POLLRDHUP", 0)  # poll reports POLLERR and POLLHUP in any case

_WOULD_BLOCK: tuple[type[OSError], ...] = (BlockingIOError, InterruptedError)


def _would_block(endpoint: Endpoint) -> tuple[type[OSError], ...]:
    """The exceptions by which a socket says that it has nothing to read, or no room to write, now."""
    if endpoint.ssl is None:
        return _WOULD_BLOCK
    import ssl  # here, because without TLS the module isn't needed; whoever made the context has imported it

    return (ssl.SSLWantReadError, ssl.SSLWantWriteError, *_WOULD_BLOCK)


class Watched(Protocol):
    """An object with a socket that a reactor watches. socket: None once it is closed."""

    socket: Any

    def on_readable(self) -> None:
        """The socket can be read, or has an error or end of stream to read."""

    def on_writable(self) -> None:
        """The socket can be written, or has an error."""

    def lost(self, error: Exception | None) -> None:
        """The socket failed, or the loop has ended."""


class Watcher(Reactor, Protocol):
    """A reactor that watches sockets."""

    def watch(self, fd: int, watched: Watched, read: bool, write: bool) -> None:
        """From now on calls watched.on_readable (if `read`) and watched.on_writable (if `write`) whenever the socket is
        ready. Replaces an earlier `watch` of the same socket."""

    def unwatch(self, fd: int) -> None:
        """Stops watching a socket. If an exception of a signal handler cuts it off, it is called again: so it forgets
        the socket last."""

    def unwatch_forked(self, fd: int) -> None:
        """In the child of a fork: forgets a socket of the parent, and changes nothing that both processes share."""

    def hold(self) -> Callable[[], object]: ...


def resolve(
    reactor: Watcher, endpoint: Endpoint, on_done: Callable[[Exception | None, list[Any] | None], object]
) -> Callable[[], object] | None:
    """`Reactor.resolve` by getaddrinfo. A numeric address is resolved in the call. A name is looked up in a thread of
    its own: getaddrinfo blocks, and nothing else that is portable prevents a name server that doesn't answer from
    blocking the reactor."""
    try:
        found = _look_up(endpoint, socket.AI_NUMERICHOST)
    except OSError:
        release = reactor.hold()
        given_up = False

        def give_up() -> None:
            nonlocal given_up
            given_up = True
            release()

        def finish(error: Exception | None, addresses: list[Any] | None) -> None:
            release()
            if not given_up:
                on_done(error, addresses)

        def in_thread() -> None:
            error, addresses = None, None
            try:
                addresses = _look_up(endpoint, 0)
            except (OSError, UnicodeError) as failure:
                error = failure
            if not given_up:
                reactor.call_soon_threadsafe(lambda: finish(error, addresses))

        threading.Thread(target=in_thread, name="cpspika name lookup", daemon=True).start()
        return give_up
    except UnicodeError as failure:
        error = failure
        reactor.call_soon(partial(on_done, error, None))
    else:
        reactor.call_soon(partial(on_done, None, found))
    return None


def _look_up(endpoint: Endpoint, flags: int) -> list[Any]:
    """The addresses (family, socket address) of an endpoint."""
    if flags == socket.AI_NUMERICHOST and _is_ipv4(endpoint.host):
        return [(socket.AF_INET, (endpoint.host, endpoint.port))]  # getaddrinfo takes much longer for it
    found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]


def _is_ipv4(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET, host)
    except (OSError, ValueError):
        return False
    return True


def keep_alive(sock: socket.socket, wanted: int | dict[str, int]) -> None:
    """Has the kernel probe the link when it is idle. wanted: as the option `tcp_keepalive`, but not False. A time that
    the system has no option for stays the system's."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if wanted is True:
        return
    for name, number in ({"idle": wanted} if isinstance(wanted, int) else wanted).items():
        option = next((getattr(socket, o) for o in _KEEPALIVE[name] if hasattr(socket, o)), None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, number)


# macOS calls the idle time TCP_KEEPALIVE.
_KEEPALIVE = {
    "idle": ("TCP_KEEPIDLE", "TCP_KEEPALIVE"),
    "interval": ("TCP_KEEPINTVL",),
    "count": ("TCP_KEEPCNT",),
}


class SocketTransport:
    """A socket that is connecting, in the TLS handshake, open or closing. Implements `reactor.Transport`."""

    def __init__(self, reactor: Watcher, endpoint: Endpoint, owner: TransportOwner | None):
        keep_freed_blocks()
        self.queued = 0
        self.written = 0
        self.was_interrupted = False
        self.socket: Any = None
        self._fd = -1  # a signal handler's exception may come before it is known
        self._reactor = reactor
        self._endpoint = endpoint
        self._would_block = _would_block(endpoint)
        self._owner = owner
        self._new: list[bytes | memoryview] = []  # chunks that were written in this turn
        self._large = False  # one of these is larger than SMALL
        self._out: deque[bytes | memoryview] = deque()  # chunks to be sent, before the new ones
        self._step: Callable[[], None] | None = self._connected
        self._flushing = False  # a call of `_flush` is queued
        self._reported = 0  # `written` at the last call of bytes_written
        self._stuck = False  # the kernel accepts no more bytes, until the socket is writable
        self._closing = False
        self._linger: Timer | None = None  # ends a close that takes too long
        self._paused = False
        self._hung_up = False  # the peer has, so what it sent before is read whatever the owner says
        self._look: Timer | None = None
        self.peer_address = endpoint.host
        register_transport(reactor, self)

    @classmethod
    def connect(
        cls, reactor: Watcher, endpoint: Endpoint, address: tuple[int, Any], owner: TransportOwner
    ) -> SocketTransport:
        """A transport that begins to connect to an address (family, socket address)."""
        transport = cls(reactor, endpoint, owner)
        try:
            transport._begin(*address)
        except OSError as error:
            failure = error
            reactor.call_soon(lambda: transport.lost(failure))
        except BaseException:
            # Of a signal handler, or of gevent, which may switch greenlets here. Nobody has the transport yet.
            transport.abort()
            raise
        return transport

    @classmethod
    def accepted(cls, reactor: Watcher, endpoint: Endpoint, sock: socket.socket, acceptor: Acceptor) -> SocketTransport:
        """The transport of a socket that a peer has connected to us."""
        transport = cls(reactor, endpoint, None)
        transport._adopt(sock)
        with contextlib.suppress(OSError):  # the peer has hung up already
            # The kernel finds a peer that vanished silently, also without heartbeats.
            keep_alive(sock, {"idle": 60, "interval": 15})
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
        if self._endpoint.tcp_keepalive:
            keep_alive(self.socket, self._endpoint.tcp_keepalive)
        code = self.socket.connect_ex(where)
        if code not in _CONNECTING:
            raise socket_error(code)
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
        if has_hung_up(self.socket):
            self._hung_up, self._paused = True, False
            self._watch(read=True, write=self._stuck)
        else:
            self._look = self._reactor.call_later(LOOK, self._look_for_hang_up)

    # --- becoming ready -----------------------------------------------------------------------------------------------

    def _connected(self) -> None:
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise socket_error(code)
        if self._endpoint.ssl is None:
            self._ready()
        else:
            self.socket = self._endpoint.ssl.wrap_socket(
                self.socket,
                server_hostname=self._endpoint.server_hostname or self._endpoint.host,
                do_handshake_on_connect=False,
            )
            self._step = self._shake_hands
            self._shake_hands()

    def _shake_hands(self) -> None:
        try:
            self.socket.do_handshake()
        except self._would_block as error:
            writes = type(error).__name__ == "SSLWantWriteError"
            self._watch(read=not writes, write=writes)
        else:
            self._ready()

    def _ready(self) -> None:
        self._step = None
        self._watch(read=True, write=False)
        if self._owner is not None:
            self._owner.transport_ready()

    def _advance(self) -> bool:
        """Continues to become ready. False if the transport is ready already."""
        if self._step is None:
            return False
        try:
            self._step()
        except (OSError, ValueError) as error:  # ValueError: ssl's, of a name that no certificate can have
            self.lost(error)
        return True

    # --- reading ------------------------------------------------------------------------------------------------------

    def on_readable(self) -> None:
        if (self._step is not None and self._advance()) or self.socket is None:
            return
        try:
            try:
                data = self.socket.recv(RECEIVE) if self._endpoint.ssl is None else self._receive()
            except self._would_block:
                return
            except OSError as error:
                if is_interrupt(error):
                    raise
                self.lost(error)
                return
            if not data:
                self.lost(None)
            elif self._owner is not None:
                self._owner.data_received(data)
        except BaseException as error:
            if is_interrupt(error):
                self.interrupted(error)
            raise

    def _receive(self) -> bytes:
        data: bytes = self.socket.recv(RECEIVE)
        if self._endpoint.ssl is None or not data:
            return data
        # TLS may have decrypted more bytes already. The reactor cannot see them, because it watches the socket.
        parts = [data]
        while self.socket.pending():
            parts.append(self.socket.recv(RECEIVE))
        return b"".join(parts)

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        if self._closing or self._owner is None:
            return
        try:
            queued = self.queued
            for chunk in chunks:
                size = len(chunk)
                if size > SMALL:
                    self._large = True
                self._new.append(chunk)
                queued += size
            self.queued = queued
            if not self._flushing:
                self._flushing = True
                self._reactor.call_soon(self._flush)
            elif queued - self.written >= EAGER and not self._stuck:
                self._send()
        except BaseException as error:
            if is_interrupt(error):
                self.interrupted(error)
            raise

    def on_writable(self) -> None:
        if not self._advance():
            self._stuck = False
            self._flush()
            if not self._stuck and self.socket is not None:
                self._watch(read=True, write=False)

    def flush(self) -> None:
        """As of `Transport`."""
        if self.socket is not None and self._step is None and not self._closing and not self._stuck:
            self._send()
            self._report_written()

    def _flush(self) -> object:
        """At the end of a turn: sends the queued chunks, and reports to the owner. IDLE if it called no user code."""
        self._flushing = False
        if self.socket is None or self._step is not None:
            return IDLE
        if not self._stuck:
            self._send()
        if self._closing and not self._out:
            self._finish()
        return None if self._report_written() else IDLE

    def _report_written(self) -> bool:
        """Calls the owner's bytes_written, if `written` has grown. True if the owner called user code."""
        if self._owner is None or self.written == self._reported:
            return False
        self._reported = self.written
        return bool(self._owner.bytes_written())

    def _send(self) -> None:
        """Sends the queued chunks, as many as the kernel accepts."""
        out, new = self._out, self._new
        try:
            if len(new) == 1:
                out.append(new[0])
                del new[0]
            elif new:
                self._gather()
            while True:
                if len(out) == 1:
                    sent = self.socket.send(out[0])
                    if sent == len(out[0]):
                        self.written += sent
                        del out[0]
                        break
                elif out:
                    sent = self._send_some()
                else:
                    break
                self._remove_sent(sent)
        except self._would_block:
            self._wait_for_room()
        except BaseException as error:
            if is_interrupt(error):
                self.interrupted(error)
            if not isinstance(error, OSError) or self.socket is None:
                raise
            self._drop()
            failure = error
            # In a call of its own, because bytes that the peer sent before it closed the link are still to be read.
            # They say more about the reason than this error.
            self._reactor.call_soon(lambda: self._lost_while_writing(failure))

    def _gather(self) -> None:
        """Moves the new chunks to `_out`. Small ones are joined; large ones are not copied."""
        new, self._new = self._new, []
        if not self._large:
            self._out.append(b"".join(new) if len(new) > 1 else new[0])
            return
        self._large = False
        small: list[bytes | memoryview] = []
        for chunk in new:
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
        """Makes one system call for several chunks; returns the number of bytes that the kernel accepted."""
        out = self._out
        if self._endpoint.ssl is not None:
            sent: int = self.socket.send(out[0])
        elif _HAS_SENDMSG:
            sent = self.socket.sendmsg([out[i] for i in range(min(len(out), GATHER))])
        else:
            out.appendleft(take_first(out, JOIN))
            sent = self.socket.send(out[0])
        return sent

    def _remove_sent(self, count: int) -> None:
        """Counts bytes as written, and removes them from `_out`."""
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
        self._new.clear()
        self._out.clear()

    def _wait_for_room(self) -> None:
        self._stuck = True
        self._watch(read=True, write=True)

    def _lost_while_writing(self, error: OSError) -> None:
        """After an error of a write: passes on the bytes that can still be read, then reports the link as lost."""
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
        """As of `Transport`."""
        if self._closing or self.socket is None:
            return
        self._closing = True
        self._owner = None
        if self._step is not None or not (self._new or self._out):
            self._finish()  # at once: perhaps nobody turns the reactor again
        else:
            self._reactor.call_soon(self._flush)
            self._linger = self._reactor.call_later(LINGER, self._finish)

    def abort(self) -> None:
        self._owner = None
        self._finish()

    def interrupted(self, error: BaseException) -> None:
        """As of `Transport`."""
        self.was_interrupted = True
        lost = interruption(error)
        self._reactor.call_soon(lambda: self._report_loss(lost))
        self._finish()

    def _report_loss(self, error: Exception | None) -> None:
        # The owner stays until it has been told: an exception of a signal handler may come before that.
        if self._owner is not None:
            self._owner.transport_lost(error)
            self._owner = None

    def detach(self) -> None:
        self._owner = None
        sock, self.socket = self.socket, None
        self._drop()
        if sock is not None:
            self._reactor.unwatch_forked(self._fd)
            sock.close()

    def _finish(self) -> None:
        """Closes the socket. An exception of a signal handler may come at any place; then this is called again."""
        self._drop()
        self._step = None
        for timer in (self._linger, self._look):
            if timer is not None:
                timer.cancel()
        if self.socket is not None:
            if self._fd >= 0:
                self._reactor.unwatch(self._fd)
            self.socket.close()
            self.socket = None

    def lost(self, error: Exception | None) -> None:
        """Closes the socket and reports the link as lost."""
        self._finish()
        self._report_loss(error)


def take_first(out: deque[bytes | memoryview], most: int) -> bytes | memoryview:
    """Takes the first chunks, joined: as many as `most` bytes hold, but at least one."""
    first = out.popleft()
    chunks, size = [first], len(first)
    while out and size + len(out[0]) <= most:
        chunks.append(out.popleft())
        size += len(chunks[-1])
    return b"".join(chunks) if len(chunks) > 1 else first


def has_hung_up(sock: socket.socket) -> bool:
    """Whether the peer has closed the link, or reset it. Without poll (Windows) an end behind bytes that were not read
    yet is not seen."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock.fileno(), _HANG_UP)
        return bool(poll.poll(0))
    try:
        return not socket.socket.recv(sock, 1, socket.MSG_PEEK)  # an SSLSocket's own recv cannot peek
    except _WOULD_BLOCK:
        return False
    except OSError:
        return True


def socket_error(code: int) -> OSError:
    """The error of a number, of the class that belongs to it. Windows' strerror has no text for errors of sockets."""
    text = getattr(socket, "errorTab", {}).get(code) or os.strerror(code)
    return OSError(code, text)


class WatchesSockets:
    """A base class for a `Watcher`: the methods of a reactor that need no more than watching sockets."""

    def check_sockets(self) -> None:
        """LocalError: the loop of this reactor cannot watch sockets."""

    def resolve(
        self: Any, endpoint: Endpoint, on_done: Callable[[Exception | None, list[Any] | None], object]
    ) -> Callable[[], object] | None:
        return resolve(self, endpoint, on_done)

    def open(self: Any, endpoint: Endpoint, address: Any, owner: TransportOwner) -> Transport:
        self.check_sockets()
        return SocketTransport.connect(self, endpoint, address, owner)

    def listen(self: Any, host: str, port: int, acceptor: Acceptor) -> Listener:
        """Accepts connections at a host and port (0: a free port). OSError: the address cannot be used."""
        self.check_sockets()
        return SocketListener(self, host, port, acceptor)


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that listens at an address and doesn't block. OSError: the address cannot be used."""
    if not 0 <= port <= 65535:  # getaddrinfo takes the remainder
        raise OSError(errno.EINVAL, f"a port is a number from 0 to 65535, not {port}")
    try:
        family, where = _look_up(Endpoint(host, port), socket.AI_PASSIVE)[0]
    except UnicodeError as error:
        raise OSError(errno.EINVAL, f"no host can have the name {host!r}: {error}") from error
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # without this, Windows lets another process have the port too
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        sock.bind(where)
        sock.listen(1024)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


class SocketListener:
    """Accepts connections at an address, for an acceptor. host, port: the address."""

    def __init__(self, reactor: Watcher, host: str, port: int, acceptor: Acceptor):
        self.socket: Any = bound_socket(host, port)
        self.host, self.port = host, self.socket.getsockname()[1]
        self._reactor = reactor
        self._acceptor = acceptor
        self._resume_timer: Timer | None = None
        self._fd = self.socket.fileno()
        reactor.watch(self._fd, self, read=True, write=False)

    def on_readable(self) -> None:
        # All that wait, up to a limit, so that a flood of connections doesn't stop the others.
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

    def detach(self) -> None:
        """Closes this process's copy of the socket. For the child of a fork."""
        sock, self.socket = self.socket, None
        if sock is not None:
            self._reactor.unwatch_forked(self._fd)
            sock.close()
