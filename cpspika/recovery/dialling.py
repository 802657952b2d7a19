"""How a connection that recovers comes to its next link: it tries its targets after the back-off's delay, in order.

The target of a link that was lost comes last, since a node that shuts down takes connections for a while yet. A refusal
ends a first connection at once. Later it may be a passing state of the broker, and ends the connection only when it has
come for a minute.

While there is no link, all rests on one call at a time: of a timer, or of what is being dialled. An exception of a
signal handler may cut that call off. So a second timer looks after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..client.connection import Connection
from ..client.continuations import CallQueue
from ..errors import AMQPError, LoginError, VirtualHostRefused
from ..parameters import ConnectionParameters
from .backoff import Backoff
from .options import RecoveryEvent
from .roles import Recoverer

LOOK = 5.0  # seconds between two looks whether the next try is still on its way
LATE = 1.0  # seconds that it may come late
STEADY = 5.0  # seconds that a link must have held before the back-off begins anew
REFUSED_SECONDS, REFUSED_ROUNDS = 60.0, 5  # refusals for so long, in so many rounds, end a connection that had worked


class Dials(Recoverer, Protocol):
    """The connection, as its dialling sees it."""

    _last_error: AMQPError | None
    _worked: bool
    _call_queue: CallQueue

    def _new_link(self) -> Connection: ...
    def _link_up(self, link: Connection) -> None: ...
    def _give_up(self, error: AMQPError) -> None: ...
    def _end(self, reason: AMQPError | None) -> None: ...


class Dialling:
    """`targets`: in the order in which they are tried. `link`: what is being dialled, or None. `attempt`: how often all
    targets were tried since there was a link."""

    def __init__(self, connection: Dials, backoff: Backoff):
        self._connection = connection
        self._backoff = backoff
        self.targets: list[ConnectionParameters] = []
        self.link: Connection | None = None
        self.attempt = 0
        self._due = 0.0  # by this time there is a link, or the next try has begun
        self._refused_since: float | None = None
        self._refusals = 0

    def begin(self, targets: Sequence[ConnectionParameters]) -> None:
        self.targets = list(targets)
        self.look()
        self._try()

    def look(self) -> None:
        """Looks, now and then, whether a link or the next try is still on its way. Called when there is no link."""
        self._connection._timers.start("look", LOOK, self._look)
        self._expect_in(LOOK)

    def _expect_in(self, seconds: float | None) -> None:
        self._due = float("inf") if seconds is None else self._connection.reactor.time() + seconds

    def _look(self) -> None:
        self._connection._timers.start("look", LOOK, self._look)
        self.go_on()

    def go_on(self) -> None:
        """Tries again, if an exception of a signal handler has cut off what was to bring the next link."""
        connection, link = self._connection, self.link
        is_over = link is not None and (link.is_open or link._ended)  # and the call that tells it has not come
        has_next = link is not None or connection._timers.has("retry")
        if is_over or not has_next or connection.reactor.time() > self._due + LATE:
            self.link = None
            if link is not None:
                link.abort()
            self._try_again()

    def change(self, changed: Callable[[ConnectionParameters], ConnectionParameters]) -> None:
        """Changes each target."""
        self.targets = [changed(target) for target in self.targets]

    def try_others_first(self, lost: ConnectionParameters) -> None:
        """Puts the target of the link that was lost last."""
        if lost in self.targets:
            after = self.targets.index(lost) + 1
            self.targets = self.targets[after:] + self.targets[:after]

    def try_later(self) -> None:
        connection, delay = self._connection, self._backoff.next()
        connection._tell_recovery(
            RecoveryEvent("retrying", error=connection._last_error, attempt=self.attempt + 1, delay=delay)
        )
        self._try_in(delay)

    def _try_in(self, seconds: float) -> None:
        self._expect_in(seconds)
        self._connection._timers.start("retry", seconds, self._try_again)

    def stop(self) -> None:
        self._connection._timers.cancel("retry", "look", "steady")
        link, self.link = self.link, None
        if link is not None:
            link.abort()

    def _try_again(self) -> None:
        """Called by the timer. An exception of a signal handler doesn't keep it from trying for ever."""
        connection = self._connection
        if self.link is not None or connection._core is not None:
            return  # a timer that such an exception left behind without its name
        try:
            connection._timers.cancel("retry")
            connection._call_queue.revive()
            self._try()
        except BaseException:
            self.link = None
            self._try_in(self._backoff.next())
            raise

    def _try(self) -> None:
        self.attempt += 1
        self._expect_in(self.targets[0].connection_timeout)
        link = self.link = self._connection._new_link()
        link._dial(self.targets, lambda err, _: self._tried(link, err))

    def _tried(self, link: Connection, err: AMQPError | None) -> None:
        if self.link is not link:
            return
        if err is None:
            self._begin_with(link)
            return
        self.link, connection = None, self._connection
        connection._last_error = err
        refused = isinstance(err, (LoginError, VirtualHostRefused))
        if not connection._worked and (refused or not connection.options.initial):
            connection._end(err)
            return
        if self._is_refused_for_good(refused):
            connection._give_up(err)
            return
        self.try_later()

    def _begin_with(self, link: Connection) -> None:
        connection = self._connection
        try:
            self.link = None
            self.attempt = 0
            self._refused_since, self._refusals = None, 0
            connection._timers.cancel("look")
            connection._timers.start("steady", STEADY, self._backoff.reset)
            connection._link_up(link)
        except BaseException:
            # Of a signal handler: nobody knows what the link was told, so another one is tried.
            link.abort()
            if connection._core is not link:
                self.look()
                self._try_in(self._backoff.next())
            raise

    def _is_refused_for_good(self, refused: bool) -> bool:
        if not refused:
            self._refused_since, self._refusals = None, 0
            return False
        now = self._connection.reactor.time()
        self._refused_since = now if self._refused_since is None else self._refused_since
        self._refusals += 1
        return self._refusals >= REFUSED_ROUNDS and now - self._refused_since >= REFUSED_SECONDS
