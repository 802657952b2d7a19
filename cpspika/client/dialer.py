"""Finds a broker: tries the targets in order, each with all its addresses, within one connection_timeout.

An attempt is TCP, TLS and the whole handshake. So a host that accepts the connection and stays silent fails like one
that refuses it. The attempts share the remaining time evenly: an address that does not answer cannot use up the time of
the next one. If a broker refuses the credentials or the virtual host, the search ends. After any other failure the next
address is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..errors import AMQPError, ConnectError, ConnectTimeout, LocalError, LoginError, VirtualHostRefused
from ..interrupts import is_interrupt, repeatable
from ..reactor import Endpoint, Reactor, Timer, Transport, TransportOwner


class Dialer:
    """One search for a broker.

    targets: pairs of an endpoint and the parameters that belong to it. owner(attempt): makes the owner of the transport
    of the attempt with this number. on_attempt(parameters, transport): an attempt begins. on_failed(error): no address
    is left, or the broker refused.
    """

    def __init__(
        self,
        reactor: Reactor,
        targets: Sequence[tuple[Endpoint, Any]],
        owner: Callable[[int], TransportOwner],
        on_attempt: Callable[[Any, Transport], object],
        on_failed: Callable[[AMQPError], object],
    ):
        self._reactor = reactor
        self._targets = list(targets)
        self._owner = owner
        self._on_attempt = on_attempt
        self._on_failed = on_failed
        self._addresses: list[Any] = []
        self._errors: list[AMQPError] = []
        self._transport: Transport | None = None
        self._deadline: float | None = None
        self._timer: Timer | None = None  # of the attempt, if others are to have time after it
        self._last_timer: Timer | None = None  # of the whole search
        self._give_up_lookup: Callable[[], object] | None = None
        self._attempt = 0  # its number; callbacks of earlier attempts are ignored
        self._is_trying = False  # the attempt of this number is under way
        self._endpoint, self._target = self._targets[0]
        self._seconds: float | None = None

    def begin(self, timeout: float | None) -> None:
        self._seconds = timeout
        try:
            if timeout is not None:
                self._deadline = self._reactor.time() + timeout
                # It ends the search also where an exception of a signal handler came between two attempts.
                self._last_timer = self._reactor.call_later(timeout, self._out_of_time)
            self._next_target()
        except BaseException:
            self.cancel()  # of a signal handler: the call that begins has failed
            raise

    def tries_another(self, attempt: int) -> bool:
        """Whether another attempt than the one with this number is under way."""
        return self._is_trying and attempt != self._attempt

    def done(self) -> None:
        """Ends the search: the attempt succeeded."""
        self._attempt += 1
        self._is_trying = False
        self._stop_timer()
        if self._last_timer is not None:
            self._last_timer.cancel()

    def cancel(self) -> None:
        """Ends the search, without a call of on_failed."""
        self.done()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def failed(self, error: AMQPError) -> None:
        """Goes on to the next address: the attempt failed, and its transport is closed."""
        try:
            self._attempt += 1
            self._is_trying = False
            self._stop_timer()
            self._transport = None
            self._errors.append(error)
            if isinstance(error, (LoginError, VirtualHostRefused)):
                self._fail(error)
            elif self._addresses:
                self._next_address()
            else:
                self._next_target()
        except BaseException as interrupt:
            self._cut_off(interrupt)
            raise

    def _cut_off(self, error: BaseException) -> None:
        """An exception passed. If it is a signal handler's, nobody goes on with the attempt: it has failed."""
        if is_interrupt(error):
            self._reactor.call_soon(partial(self._fail_attempt, self._attempt))

    def _fail_attempt(self, attempt: int) -> None:
        if attempt == self._attempt:
            if self._transport is not None:
                self._transport.abort()
            self.failed(ConnectError(f"{self._endpoint}: a signal handler's exception cut the attempt off"))

    def _next_target(self) -> None:
        if not self._targets or self._left() == 0:
            self._reactor.call_soon(lambda: self._fail(self._verdict()))
            return
        self._endpoint, self._target = self._targets.pop(0)
        attempt = self._begin_attempt()
        if self._endpoint.via is None:
            self._give_up_lookup = self._reactor.resolve(self._endpoint, partial(self._resolved, attempt))
        else:
            self._addresses = [None]
            self._next_address()

    @repeatable
    def _resolved(self, attempt: int, error: Exception | None, addresses: list[Any] | None) -> None:
        if attempt != self._attempt:
            return
        try:
            if error is not None:
                self.failed(self._failure(error))
            else:
                self._addresses = list(addresses or ())
                self._next_address()
        except BaseException as interrupt:
            self._cut_off(interrupt)
            raise

    def _next_address(self) -> None:
        address = self._addresses.pop(0)
        attempt = self._begin_attempt()
        via = self._endpoint.via
        try:
            if via is None:
                self._transport = self._reactor.open(self._endpoint, address, self._owner(attempt))
            else:
                self._transport = via(self._reactor, self._owner(attempt))
        except (LocalError, OSError) as error:
            failure = self._failure(error)
            # If the attempt times out before this call, it has failed already, and is not to fail twice.
            self._reactor.call_soon(lambda: self.failed(failure) if attempt == self._attempt else None)
            return
        self._on_attempt(self._target, self._transport)

    def _failure(self, error: Exception) -> ConnectError:
        failure = ConnectError(f"{self._endpoint}: {error}")
        failure.__cause__ = error
        return failure

    def _begin_attempt(self) -> int:
        self._attempt += 1
        self._is_trying = True
        self._stop_timer()
        others = len(self._addresses) + len(self._targets)  # without others it has all the time that is left
        left = self._left() if others else None
        if left is not None:
            self._timer = self._reactor.call_later(left / (1 + others), self._timed_out)
        return self._attempt

    def _fail(self, error: AMQPError) -> None:
        """Ends the search with an error. The last timer runs until the owner has been told: if a signal handler's
        exception comes before, the timer tells the owner."""
        self._on_failed(error)
        self.done()

    def _out_of_time(self) -> None:
        """The time of the whole search has passed: no other address is tried."""
        self._addresses, self._targets = [], []
        if self._is_trying:
            self._timed_out()
        else:
            self._fail(self._verdict())

    def _timed_out(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self.failed(
            ConnectTimeout(
                f"{self._endpoint} did not open a connection in time (connection_timeout={self._seconds:g} s)"
            )
        )

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - self._reactor.time())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        give_up, self._give_up_lookup = self._give_up_lookup, None
        if give_up is not None:
            give_up()  # a name server that doesn't answer must not hold the reactor; after the answer it does nothing

    def _verdict(self) -> AMQPError:
        """One error for all failures, of their class if they all have the same."""
        if not self._errors:
            return ConnectTimeout(f"no time to connect in (connection_timeout={self._seconds:g} s)")
        if len(self._errors) == 1:
            return self._errors[0]
        alike = type(self._errors[0]) if len({type(error) for error in self._errors}) == 1 else ConnectError
        cls = alike if issubclass(alike, ConnectError) else ConnectError
        verdict = cls("; ".join(error.text for error in self._errors))
        verdict.__cause__ = self._errors[-1]
        return verdict
