"""The base class of a transport whose socket belongs to a foreign loop: asyncio's own transports, Twisted's endpoints.

Theory of operation
===================

The foreign loop has a write buffer. It says when the buffer is full, and when it is empty again.

So the transport passes its chunks to the loop at the end of each turn, unless the buffer is full. As long as the buffer
is not full, these bytes count as written at once; else when the buffer is empty again. Chunks that come meanwhile stay
in `_out`, as the backlog of the link.

A subclass calls `_flush` when the buffer is empty again, and `_lost` when the link has ended. It implements the methods
that raise NotImplementedError here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..interrupts import is_interrupt, repeatable
from ..reactor import IDLE, Timer, TransportOwner, interruption, register_transport
from .allocator import keep_freed_blocks
from .sockets import EAGER, LINGER, LOOK


class LoopTransport:
    """A connection of a foreign loop. Implements `reactor.Transport`. A subclass calls __init__ at the end of its own.

    reactor: the reactor. owner: the owner."""

    def __init__(self, reactor: Any, owner: TransportOwner | None):
        keep_freed_blocks()
        self.queued = 0
        self.written = 0
        self.was_interrupted = False
        self._reactor = reactor
        self._owner = owner
        self._out: deque[bytes | memoryview] = deque()
        self._passed = 0  # bytes passed to the loop
        self._reported = 0  # `written` at the last call of bytes_written
        self._full = False  # the loop's buffer is full
        self._flushing = False  # a call of `_flush` is queued
        self._open = False
        self._closing = False
        self._over = False  # the link has ended
        self._paused = False
        self._linger: Timer | None = None  # ends a link that the loop takes too long to end
        self._release: Callable[[], object] = reactor.hold()
        register_transport(reactor, self)

    # --- for a subclass -----------------------------------------------------------------------------------------------

    def _pass_on(self) -> None:
        """Passes the queued chunks to the loop, and counts them in `_passed`, unless the loop's buffer is full. While
        the link is closing: all chunks."""
        raise NotImplementedError

    def _has_ended(self) -> bool:
        """Whether the loop has ended the open link. Perhaps it has not told that yet."""
        raise NotImplementedError

    def _read(self, wanted: bool) -> None:
        """Has the loop read the open link, or stop reading it."""
        raise NotImplementedError

    def _end(self) -> None:
        """Has the loop close the open link after the bytes that it was passed."""
        raise NotImplementedError

    def _cut(self) -> None:
        """Has the loop close the open link now."""
        raise NotImplementedError

    def _give_up(self) -> None:
        """Ends the attempt to connect."""
        raise NotImplementedError

    def _leaves(self) -> None:
        """Called when an open link begins to close."""

    def _gone(self) -> None:
        """Called when nothing of the link is left in the loop."""
        self._release()

    # --- called by the owner ------------------------------------------------------------------------------------------

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        if self._closing or self._owner is None:
            return
        try:
            queued = self.queued
            for chunk in chunks:
                self._out.append(chunk)
                queued += len(chunk)
            self.queued = queued
            if not self._flushing:
                self._flushing = True
                self._reactor.call_soon(self._flush)
            elif queued - self._passed >= EAGER and self._open:
                self._pass_on()
        except BaseException as error:
            if is_interrupt(error):
                self.interrupted(error)
            raise

    def flush(self) -> None:
        """As of `Transport`: passes the queued chunks to the loop now."""
        if self._open and not self._closing:
            self._pass_on()
            self._report_written()

    def _flush(self) -> object:
        """At the end of a turn: passes the queued chunks to the loop, and reports to the owner. IDLE if it called no
        user code."""
        self._flushing = False
        if not self._open:
            return IDLE
        try:
            if not self._closing and self._has_ended():
                self._expect_end()
            self._pass_on()
        except BaseException as error:
            if is_interrupt(error):
                self.interrupted(error)
            raise
        if self._closing and not self._out:
            self._end()
        return None if self._report_written() else IDLE

    def _report_written(self) -> bool:
        """Calls the owner's bytes_written, if `written` can grow. True if the owner called user code."""
        if not self._full:
            self.written = self._passed
        if self._owner is None or self.written == self._reported:
            return False
        self._reported = self.written
        return bool(self._owner.bytes_written())

    def pause_reading(self, paused: bool) -> None:
        if self._paused != paused:
            self._paused = paused
            if self._open and not self._closing:
                self._read(not paused)

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._closing or self._over:
            return
        if not self._open:
            self.abort()
            return
        self.pause_reading(False)  # TLS must read the peer's close_notify
        self._closing = True
        self._owner = None
        self._leaves()
        self._reactor.call_soon(self._flush)
        if self._linger is None:
            self._linger = self._reactor.call_later(LINGER, self._cut)

    def abort(self) -> None:
        self._closing = True
        self._owner = None
        self._out.clear()
        if self._open:
            self._leaves()
            self._cut()
        elif not self._over:
            self._give_up()

    def interrupted(self, error: BaseException) -> None:
        """As of `Transport`."""
        self.was_interrupted = True
        if self._owner is not None:  # first, since another exception may come before the rest is done
            self._reactor.call_soon(partial(self._owner.transport_lost, interruption(error)))
        self.abort()

    def detach(self) -> None:
        # A loop cannot give up a socket that is its own. The child of a fork doesn't use it.
        self._closing = True
        self._owner = None

    def _expect_end(self) -> None:
        """The loop tells soon that the link has ended, unless an exception of a signal handler came as it did."""
        if self._linger is None:
            hidden = ConnectionAbortedError("the link has ended; a signal handler's exception hid why")
            self._linger = self._reactor.call_later(LOOK, partial(self._lost, hidden))

    @repeatable
    def _lost(self, error: Any) -> None:
        """The link has ended: tells the owner."""
        self._open = False
        self._over = True
        self._out.clear()
        if self._linger is not None:
            self._linger.cancel()
        self._gone()  # before the owner's call, which may raise an exception
        self._report_loss(error)

    def _report_loss(self, error: Any) -> None:
        # The owner stays until it has been told: an exception of a signal handler may come before that.
        if self._owner is not None:
            self._owner.transport_lost(error)
            self._owner = None
