"""A connection that outlives its links.

It owns one link at a time (a Connection of the core) and the channels, which survive it. When the link is lost:

1. The core settles what was in flight, in order; the channels collect it (`RecoveringChannel._fell`).
2. `_link_ended` decides what each becomes by its policy: it is told, or waits again.
3. After the back-off's delay the targets are tried, the next one first.
4. `restoring` makes the topology again, then the channels their modes and consumers, then what waits goes out.

A close that names a method blames an operation, and that one gets the error. If links end again and again without
anything settled, what was in flight goes out in single file, so that the operation which ends them is found.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from random import Random
from typing import Any

from ..client.channel import Channel
from ..client.connection import Connection, OnClose
from ..client.continuations import (
    Call,
    Continuation,
    OnDone,
    Request,
    check_callable,
    ignore,
    is_abandoned,
    refuse,
    settle_soon,
)
from ..client.hooks import ConnectionEvent, OnDoneWithHooks, are_installed
from ..client.operations import Consumer
from ..client.setup import OnReady
from ..client.trace import Sink
from ..errors import (
    AMQPError,
    ConnectionClosed,
    ConnectionForked,
    DeliveryUnknown,
    LoginError,
    OperationTimeout,
    VirtualHostRefused,
    ended,
)
from ..parameters import AmqplainCredentials, ConnectionParameters, PlainCredentials
from ..reactor import Reactor
from ..wire import handshake
from ..wire.link import Link
from .backoff import Backoff
from .buffer import Buffer, Unwritten
from .channel import RecoveringChannel
from .journal import Journal
from .operations import SETTLED, WAITING, Asked, Cancel, Close, Consume, Open, Operation, Publish, Told
from .options import Recovery, RecoveryEvent
from .policies import AGAIN
from .probe import Probe
from .restoring import Restoring
from .roles import Owner

STEADY = 5.0  # seconds that a link must have held before the back-off begins anew
REFUSED_SECONDS, REFUSED_ROUNDS = 60.0, 5  # refusals for so long, in so many rounds, end a connection that had worked
ABSENT_SECONDS = 2.0  # in which the queue of a consumer must come back
FRUITLESS_TO_SINGLE, FRUITLESS_LINKS = 2, 5  # links in a row that settled nothing
ENDS_ALONE = 3  # so many links or channels ended while an operation alone was in flight: it is to blame


class LinkConnection(Connection):
    """One link of a connection that recovers. The log and the hooks hear of the program's connection alone."""

    def _happened(self, event: Any) -> None:
        pass


class RecoveringConnection(Connection):
    """A connection with `recovery`. `options`: its Recovery. `is_connected`: there is a link now."""

    options: Recovery

    def __init__(self, reactor: Reactor, on_close: OnClose | None, options: Recovery):
        super().__init__(reactor, on_close)
        self.options = options
        self._dice = options.dice or Random()
        self._targets: list[ConnectionParameters] = []
        self._core: Connection | None = None
        self._dialled: Connection | None = None
        self._former: Connection | None = None  # the link that was lost last; it may wait for its close-ok
        self._worked = False  # there was a link once
        self._is_closing = False  # by the program
        self._opened_channels: list[RecoveringChannel] = []
        self._journal = Journal()
        self._restoring: Restoring | None = None
        self._backoff = Backoff(*options.backoff, self._dice)
        self._attempt = 0
        self._last_error: AMQPError | None = None
        self._refused_since: float | None = None
        self._refusals = 0
        self._link_settled = False
        self._fruitless = 0
        self._single: deque[Operation] = deque()
        self._alone: Operation | None = None
        self._buffer = Buffer(options, self._has_room)
        self._unwritten: Unwritten  # of the present link, or of the last
        self._expiring: deque[tuple[float, Operation]] = deque()
        self._stale = self._resent = self._lost_untold = 0
        self._first_untold: AMQPError | None = None
        self._probes: set[Probe] = set()
        self._encoder: Link | None = None

    # --- attributes ---------------------------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        return self._core is not None and self._core.is_open

    @property
    def writable(self) -> bool:
        return not self._buffer.is_full and (self._core is None or self._core.writable)

    @property
    def _unsent(self) -> int:
        return 0 if self._core is None else self._core._unsent

    def _flush(self) -> None:
        if self._core is not None:
            self._core._flush()

    def _write_answers(self) -> None:
        """The links write their own."""

    def _in_turn(self, calls: Iterable[Any]) -> None:
        """Makes calls, behind those that wait: what a loss settles is told in order, and before the handlers."""
        self._call_queue.put_last(calls)

    # --- operations ---------------------------------------------------------------------------------------------------

    def channel(self, on_ready: OnReady | None = None, *, on_done: OnDone[Channel] | None = None) -> Channel | None:
        check_callable("on_ready", on_ready)
        error = self._error_of_no_channel()
        if error is not None:
            refuse(on_done, error, "channel.open", self.reactor.call_soon)
            return None
        channel = RecoveringChannel(self, on_ready, on_done)
        self._opened_channels.append(channel)
        if are_installed():
            channel._adopt()
        restoring = self._restoring
        if self._core is None or not self._core.is_open:
            assert channel._opened is not None
            self._wait_for_link(channel._opened)
        elif restoring is None or restoring.second_phase:
            error = channel._open_on(self._core)
            if error is not None:
                self.reactor.call_soon(lambda: channel._finish(error))
            elif on_ready is None:
                channel._restore()
        return channel

    def _channel_count(self) -> int:
        return len(self._opened_channels)

    def close(self, reply_code: int = 200, reply_text: str = "", *, on_done: OnDone[None] | None = None) -> None:
        closer = Request("connection.close", on_done)
        self._check_thread()
        if self._ended:
            settle_soon(closer, self.reactor.call_soon)
            return
        self._check("connection.close", {"reply_code": reply_code, "reply_text": reply_text})
        self._closers.append(closer)
        if self._is_closing:
            return
        self._is_closing = True
        self._stop_asking()
        self._stop_trying()
        link = self._core
        if link is not None and link.is_open:
            link.close(reply_code, reply_text, on_done=ignore)
        else:
            self._core = None
            self.reactor.call_soon(partial(self._end, None if self._worked else _closed_early()))

    def abort(self) -> None:
        self._check_thread()
        self._call_queue.revive()
        if not self._ended:
            self._is_closing = True
            self._stop_trying()
            self._abort()
            self._end(ConnectionClosed("the connection was aborted"))
        else:
            self._abort()

    def _abort(self) -> None:
        for link in (self._core, self._former):
            if link is not None:
                link.abort()
        self._core = self._former = None

    @property
    def _is_gone(self) -> bool:
        return self._ended and (self._former is None or self._former._is_gone)

    def update_secret(self, new_secret: str | bytes, reason: str = "", *, on_done: OnDone[None] | None = None) -> None:
        update = Request("connection.update-secret", on_done)
        self._check_thread()
        if not self.is_open:
            refuse(on_done, self._closed_error(), update.method, self.reactor.call_soon)
            return
        self._check(update.method, {"new_secret": new_secret, "reason": reason})
        self._keep_secret(new_secret)
        if self._core is None or not self._core.is_open:
            settle_soon(update, self.reactor.call_soon)
            return

        def updated(err: AMQPError | None, _: Any) -> None:
            # With the link gone it is done all the same: the next link logs in with the new secret.
            if err is not None and self._is_closing:
                update.fail(err)
            else:
                update.done()

        self._core.update_secret(new_secret, reason, on_done=updated)

    def _keep_secret(self, new_secret: str | bytes) -> None:
        """Replaces the password in every target that has the present one."""
        old = self.parameters.credentials
        if not isinstance(old, (PlainCredentials, AmqplainCredentials)):
            return
        secret = new_secret.decode("utf-8", "surrogateescape") if isinstance(new_secret, bytes) else new_secret

        def renewed(target: ConnectionParameters) -> ConnectionParameters:
            known = target.credentials
            if isinstance(known, (PlainCredentials, AmqplainCredentials)) and known._password == old._password:
                return target.replace(credentials=type(known)(known.username, secret))
            return target

        self._targets = [renewed(target) for target in self._targets]
        self.parameters = renewed(self.parameters)

    # --- for the channels ---------------------------------------------------------------------------------------------

    def _new_name(self, prefix: str) -> str:
        return f"{prefix}{self._dice.getrandbits(96):024x}"

    def _check(self, name: str, arguments: dict[str, Any], properties: bytes = b"\0\0") -> None:
        """Raises what sending a method would raise, without a link."""
        self._check_thread()
        if self._encoder is None:
            self._encoder = Link("client", self.parameters.protocol, handshake.client(self.parameters, {}))
        self._encoder.check(name, arguments, properties)

    def _error_if_closed(self) -> AMQPError | None:
        return None if self.is_open else self._closed_error()

    def _has_room(self) -> None:
        """The buffer was full, and has room again."""
        self._in_turn([channel._tell_writable for channel in self._opened_channels])

    def _wait_for_link(self, operation: Operation) -> None:
        """Bounds the time that an operation waits."""
        seconds = self.options.operation_timeout
        if seconds is None or isinstance(operation, Close):
            return
        operation.deadline = self.reactor.time() + seconds
        self._expiring.append((operation.deadline, operation))
        if len(self._expiring) == 1:
            self._timers.start("expire", seconds, self._expire)

    def _renew_deadlines(self) -> None:
        """Operations that wait have waited for the link that was lost: their time begins anew, so that they end in
        order."""
        waiting = sorted({operation for _, operation in self._expiring if operation.state is WAITING})
        self._expiring.clear()
        for operation in waiting:
            self._wait_for_link(operation)

    def _expire(self) -> None:
        now, calls = self.reactor.time(), []
        expiring = self._expiring
        seconds = self.options.operation_timeout
        assert seconds is not None
        while expiring and expiring[0][0] <= now:
            deadline, operation = expiring.popleft()
            if operation.state is not WAITING or operation.deadline != deadline:
                continue
            if self._is_on_its_way(operation):
                self._wait_for_link(operation)  # there is a link, and it is on its way out
                continue
            late: AMQPError = OperationTimeout(f"no link for {seconds:g} s: it was not sent")
            if isinstance(operation, Publish) and operation.times:
                late = DeliveryUnknown(f"no link for {seconds:g} s; an earlier copy may have reached the broker")
            operation.state = SETTLED
            calls.append(partial(self._end_waiting, operation, late))
        if expiring:
            self._timers.start("expire", max(0.0, expiring[0][0] - now), self._expire)
        self._in_turn(calls)

    def _is_on_its_way(self, operation: Operation) -> bool:
        """Whether an operation waits for something other than a link."""
        if isinstance(operation, Open):
            return operation.channel._opening is not None
        return operation.channel._flowing and (not self._single or self._alone is not None)

    def _out_of_file(self, channel: Owner) -> list[Operation]:
        """Takes the operations of a channel that has ended out of the single file."""
        if not channel._singles:
            return []
        taken = [each for each in self._single if each.channel is channel and each.state is not SETTLED]
        self._single = deque(each for each in self._single if each.channel is not channel)
        channel._singles = 0
        return taken

    @staticmethod
    def _end_waiting(operation: Operation, error: AMQPError) -> None:
        operation.withdrawn()
        operation.end(error)

    def _is_given_up(self, operation: Operation) -> bool:
        """Whether nobody waits for an operation any more, which was never sent: it is dropped."""
        if not is_abandoned(operation.on_done) or (isinstance(operation, Publish) and operation.times):
            return False
        operation.state = SETTLED
        operation.withdrawn()
        if isinstance(operation, Publish):
            self._buffer.release(operation.size)
            if isinstance(operation.on_done, OnDoneWithHooks):
                operation.on_done.withdrawn(OperationTimeout("nobody waits for it any more, and it was not sent"))
        return True

    def _left(self, operation: Operation) -> None:
        """An operation is settled: if it was alone in flight, the next one follows."""
        if operation is self._alone:
            self._alone = None
            self._leaves_single(operation)
            self._in_turn([self._next_single])

    def _leaves_single(self, operation: Operation) -> None:
        channel = operation.channel
        channel._singles -= 1
        if not channel._singles:
            self._in_turn([channel._flush])

    def _next_single(self) -> None:
        """Sends the next operation of the single file, if none is in flight."""
        while self._alone is None and self._single:
            operation = self._single[0]
            channel = operation.channel
            if operation.state is SETTLED or channel._ended:
                self._single.popleft()
                self._leaves_single(operation)
                continue
            if not channel._flowing or channel._opening is None or not channel._opening.is_open:
                return  # its channel is being restored, and calls again
            self._single.popleft()
            self._alone = operation
            if not channel._send_waiting(operation):
                self._alone = None
                self._leaves_single(operation)

    def _dropped(self, error: AMQPError) -> None:
        """A publish failed that has nobody to tell: one error for all of a loss."""
        self._lost_untold += 1
        if self._first_untold is None:
            self._first_untold = error
            if not self._is_closing:
                self.reactor.call_soon(self._tell_dropped)

    def _tell_dropped(self) -> None:
        error, count = self._first_untold, self._lost_untold
        self._first_untold, self._lost_untold = None, 0
        if error is not None:
            raise _counted(error, count)

    def _consumer_gone(self, consume: Consume) -> None:
        queue = consume.arguments["queue"]
        for channel in self._opened_channels:
            for other in channel._consumers_known.values():
                if other.arguments["queue"] == queue:
                    return
        self._journal.consumer_ended(queue)

    def _expect_cancels(self, queue: str, deletion: Any) -> None:
        if self._core is not None:
            self._core._expect_cancels(queue, deletion)

    def _channel_ended(self, channel: RecoveringChannel) -> None:
        if channel in self._opened_channels:
            self._opened_channels.remove(channel)
        if self._restoring is not None:
            self._restoring.channel_ended(channel)
        self._in_turn([self._next_single])

    def _is_set_up(self, channel: RecoveringChannel) -> None:
        """A channel's on_ready is done."""
        if self._restoring is not None and self._restoring.is_set_up(channel):
            return
        channel._first_opened()
        channel._restore()

    def _channel_restored(self, channel: RecoveringChannel) -> None:
        self._in_turn([self._next_single])
        if self._restoring is not None:
            self._restoring.channel_restored(channel)

    def _tell_recovery(self, event: RecoveryEvent) -> None:
        stale, self._stale = self._stale, 0
        if stale:
            event = event._replace(stale=stale)
        self._in_turn([*self._handlers.calls("recovery", self, event), partial(self._happened, event)])

    # --- consumers ----------------------------------------------------------------------------------------------------

    def _consumer_refused(self, channel: RecoveringChannel, tag: str, error: AMQPError) -> None:
        """The broker closed a channel for a consumer that recovery has asked for."""
        consume = channel._consumers_known.get(tag)
        if consume is None:
            return
        if error.code in (403, 405):
            self._hold(channel, tag, partial(_consume_and_cancel, consume), (403, 405), self._lock_seconds())
        elif error.code == 404:
            self._hold(channel, tag, partial(_exists, consume), (404,), ABSENT_SECONDS)
        else:
            channel._consumer_failed(tag, error)

    def _hold(self, channel: RecoveringChannel, tag: str, ask: Any, codes: tuple[int, ...], seconds: float) -> None:
        """Restores a channel only when a consumer of it can start again, or cannot."""
        channel._held += 1
        self._probe(ask, codes, seconds, partial(self._unlocked, channel, tag))

    def _unlocked(self, channel: RecoveringChannel, tag: str, error: AMQPError | None) -> None:
        channel._held -= 1
        if error is not None:
            channel._consumer_failed(tag, error)
        channel._restore()

    def _lock_seconds(self) -> float:
        """How long a dead link of ours may keep its exclusive queues and consumers: until the broker misses its
        heartbeats."""
        return 3 * self.heartbeat + 5.0

    def _look_after(self, channel: RecoveringChannel, consume: Consume) -> None:
        """The broker has cancelled a consumer: starts it again as soon as its queue exists."""

        def found(error: AMQPError | None) -> None:
            if error is None:
                channel._consume_again(consume)
            else:
                channel._consumer_failed(consume.tag, error)

        self._probe(partial(_exists, consume), (404,), ABSENT_SECONDS, found)

    def _probe(self, ask: Any, codes: tuple[int, ...], seconds: float, on_done: Any) -> None:
        if self._core is not None and self._core.is_open:
            probe = Probe(self._core, ask, codes, seconds, self._dice, self._probes.discard, on_done)
            self._probes.add(probe)
            probe.begin()

    # --- dialling -----------------------------------------------------------------------------------------------------

    def _dial(self, targets: Sequence[ConnectionParameters], on_done: OnDone[Connection] | None) -> None:
        self._opening = Request("connect", on_done)
        self._targets = list(targets)
        self.parameters = targets[0]
        self._try_targets()

    def _try(self) -> None:
        """Tries the targets again. An exception of a signal handler doesn't keep it from that for ever."""
        try:
            self._timers.cancel("retry")
            self._call_queue.revive()
            self._try_targets()
        except BaseException:
            self._dialled = None
            self._timers.start("retry", self._backoff.next(), self._try)
            raise

    def _try_targets(self) -> None:
        """Tries the targets in order."""
        self._attempt += 1
        link = LinkConnection(self.reactor, self._link_ended)
        link._sinks = self._sinks
        self._dialled = link
        link._dial(self._targets, lambda err, _: self._tried(link, err))

    def _tried(self, link: Connection, err: AMQPError | None) -> None:
        if self._dialled is not link:
            return
        self._dialled = None
        if err is None:
            self._link_up(link)
            return
        self._last_error = err
        refused = isinstance(err, (LoginError, VirtualHostRefused))
        if not self._worked and (refused or not self.options.initial):
            self._end(err)
            return
        now = self.reactor.time()
        if refused:
            self._refused_since = now if self._refused_since is None else self._refused_since
            self._refusals += 1
            if self._refusals >= REFUSED_ROUNDS and now - self._refused_since >= REFUSED_SECONDS:
                self._give_up(err)
                return
        else:
            self._refused_since, self._refusals = None, 0
        self._try_later()

    def _try_later(self) -> None:
        delay = self._backoff.next()
        self._tell_recovery(RecoveryEvent("retrying", error=self._last_error, attempt=self._attempt + 1, delay=delay))
        self._timers.start("retry", delay, self._try)

    def _tap(self, sink: Sink) -> None:
        for link in (self._core, self._dialled):
            if link is not None:
                link._tap(sink)

    def _unwatch(self, sink: Sink) -> None:
        super()._unwatch(sink)
        for link in (self._core, self._dialled):
            if link is not None:
                link._unwatch(sink)

    def _adopt(self) -> None:
        for channel in list(self._opened_channels):
            channel._adopt()

    def _stop_trying(self) -> None:
        self._timers.cancel("retry", "give up", "steady", "expire")
        dialled, self._dialled = self._dialled, None
        if dialled is not None:
            dialled.abort()
        for probe in list(self._probes):
            probe.cancel()

    def _give_up(self, error: AMQPError) -> None:
        self._tell_recovery(RecoveryEvent("gave_up", error=error, attempt=self._attempt))
        self._stop_trying()
        self._abort()
        self._end(error)

    # --- a link begins ------------------------------------------------------------------------------------------------

    def _link_up(self, link: Connection) -> None:
        self._core = link
        self._unwritten = Unwritten(link)
        self._encoder = None
        for name in ("parameters", "server_properties", "heartbeat", "frame_max", "channel_max"):
            setattr(self, name, getattr(link, name))
        link.add_blocked_handler(self._link_blocked)
        self._timers.cancel("give up")
        self._refused_since, self._refusals = None, 0
        self._link_settled = False
        self._attempt = 0
        self._timers.start("steady", STEADY, self._backoff.reset)
        if not self._worked:
            self._worked = self.is_open = True
            opening, self._opening = self._opening, None
            calls: list[Call] = [partial(opening.done, self)] if opening is not None else []
            self._in_turn([*calls, *self._handlers.calls("state", self, True)])
            self._happened(ConnectionEvent("opened"))
        else:
            self._restoring = Restoring(self, link)
            self._restoring.begin()

    def _link_blocked(self, link: Any, blocked: bool, reason: str) -> None:
        self.is_blocked = blocked
        self._in_turn(self._handlers.calls("blocked", self, blocked, reason))
        self._happened(ConnectionEvent("blocked" if blocked else "unblocked", reason=reason))

    def _restored(self) -> None:
        """Everything is as it was before the link was lost."""
        self._restoring = None
        self._expiring = deque(each for each in self._expiring if each[1].state is WAITING)
        for channel in list(self._opened_channels):
            if channel._opening is None:
                channel._reopen()  # opened while the others were being restored
        resent, self._resent = self._resent, 0
        self._tell_recovery(RecoveryEvent("restored", resent=resent))

    # --- a link ends --------------------------------------------------------------------------------------------------

    def _link_ended(self, link: Any, err: AMQPError | None) -> None:
        if link is not self._core:
            return
        unwritten = self._lost_unwritten(err)
        self._former, self._core = self._core, None
        restoring, self._restoring = self._restoring, None
        for probe in list(self._probes):
            probe.cancel()
        self._timers.cancel("steady")
        if self._ended:
            return
        if self._is_closing or err is None:
            self._end(None)
            return
        self._last_error = err
        self._fell_in_hand(err)
        fallen: list[tuple[Operation, AMQPError]] = []
        replays: list[Any] = []
        for channel in self._opened_channels:
            fallen += channel._fallen
            replays += channel._replays_lost
            channel._fallen, channel._replays_lost, channel._held = [], [], 0
            channel._link_lost()
        fallen += [(publish, err) for publish in unwritten]
        fallen.sort(key=lambda each: each[0].order)
        blamed = err.method if err.code is not None else None
        culprit = self._culprit(fallen, blamed)
        if culprit is None and blamed is not None and restoring is not None:
            restoring.blamed(blamed, err)
        alone = self._alone
        if culprit is not None or (alone is not None and alone.ends + 1 >= ENDS_ALONE):
            self._link_settled = True  # by its error
        self._count_fruitless(bool(fallen or replays or restoring is not None))
        if self._fruitless >= FRUITLESS_LINKS:
            for operation, error in fallen:
                operation.channel._fallen.append((operation, error))
            self._give_up(err)
            return
        single = blamed == "basic.publish" or self._fruitless >= FRUITLESS_TO_SINGLE or bool(self._single)
        self._sort_out(fallen, culprit, err, single)
        if self.is_blocked:
            self.is_blocked = False
            self._in_turn(self._handlers.calls("blocked", self, False, ""))
        self._in_turn([self._tell_lost])

    def _fell_in_hand(self, err: AMQPError) -> None:
        """What a signal handler's exception left in hand was in flight, unless it was being told its end."""
        self._call_queue.revive()
        in_hand, self._in_hand = self._in_hand, []
        for continuation in in_hand:
            if isinstance(continuation, Operation) and continuation.state is not SETTLED:
                continuation.fail(err)
            else:
                self._in_turn([partial(Continuation.fail, continuation, err)])

    def _tell_lost(self) -> None:
        if self._ended or self._is_closing:
            return
        err = self._last_error
        assert err is not None
        self._tell_recovery(RecoveryEvent("lost", error=err))
        for channel in list(self._opened_channels):
            channel._end_unrecoverable(err)
        if self.options.give_up_after is not None:
            self._timers.start("give up", self.options.give_up_after, lambda: self._give_up(err))
        if self.parameters in self._targets:
            # The target that was lost comes last: a node that shuts down takes connections for a while yet.
            after = self._targets.index(self.parameters) + 1
            self._targets = self._targets[after:] + self._targets[:after]
        self._try_later()

    def _count_fruitless(self, anything: bool) -> None:
        if self._link_settled:
            self._fruitless = 0
        elif anything:
            self._fruitless += 1

    def _lost_unwritten(self, err: AMQPError | None) -> list[Publish]:
        """Publishes that nobody confirms, and that the kernel has not taken whole."""
        lost = self._unwritten.take_lost()
        if err is None or self._is_closing:
            return []
        cause = err.__cause__
        if isinstance(cause, ConnectionAbortedError) and cause.__cause__ is not None:
            return []  # an exception came amid sending: nobody knows what went out, and twice would be wrong
        publishes = []
        for rank, channel, content in lost:
            if not channel._ended:
                publish = Publish(channel, None, content)
                publish.order = rank
                self._buffer.take(publish.size)
                publishes.append(publish)
        return publishes

    def _culprit(self, fallen: list[tuple[Operation, AMQPError]], blamed: str | None) -> Operation | None:
        """The operation that a close answers, if it is known: the oldest of its method, since replies come in order; of
        publishes, which are confirmed in any order, the only one."""
        if blamed is None:
            return None
        alike = [operation for operation, _ in fallen if operation.method == blamed]
        if blamed == "basic.publish":
            return alike[0] if len(alike) == 1 else None
        return alike[0] if alike else None

    def _sort_out(
        self, fallen: list[tuple[Operation, AMQPError]], culprit: Operation | None, reason: AMQPError, single: bool
    ) -> None:
        """Decides what becomes of operations that were in flight: each is told its end, or waits again."""
        calls: list[Call] = []
        again: dict[Owner, list[Operation]] = {}
        in_file: list[Operation] = []
        alone = next((operation for operation, _ in fallen if operation is self._alone), None)
        if alone is not None:
            self._alone = None
        ahead: set[Any] = set()  # channels where an operation before this one is asked again, and is answered first
        for operation, error in fallen:
            channel = operation.channel
            if operation is alone:
                operation.ends += 1
                channel._singles -= 1
            guilty = operation is culprit or operation.ends >= ENDS_ALONE
            verdict = _blamed(operation, reason) if guilty else self._verdict(operation, error, again.get(channel))
            if (
                isinstance(operation, Asked)
                and channel in ahead
                and not isinstance(operation, Told)
                and verdict != AGAIN
            ):
                operation.decided, verdict = verdict, AGAIN
            if verdict == AGAIN:
                operation.state = WAITING
                if isinstance(operation, Asked):
                    ahead.add(channel)
                if single or operation is alone or operation.ends:
                    in_file.append(operation)
                else:
                    again.setdefault(channel, []).append(operation)
                continue
            operation.state = SETTLED
            if isinstance(verdict, AMQPError):
                calls.append(partial(self._end_waiting, operation, verdict))
            else:
                calls.append(partial(channel._done_by_loss, operation))
        for channel, operations in again.items():
            channel._put_back(operations)
        self._renew_deadlines()
        for operation in in_file:
            operation.channel._singles += 1
            self._wait_for_link(operation)
        if in_file:
            self._single = deque(sorted([*self._single, *in_file], key=lambda each: each.order))
        self._in_turn(calls)

    @staticmethod
    def _verdict(operation: Operation, error: AMQPError, before: list[Operation] | None) -> AMQPError | str:
        if isinstance(operation, Cancel) and any(
            isinstance(other, Consume) and other.tag == operation.tag for other in before or ()
        ):
            return AGAIN
        if isinstance(operation, Close) and (before or operation.channel._singles or operation.channel._waiting):
            return AGAIN
        transaction = operation.channel._transaction
        if operation.method == "tx.commit" and transaction is not None:
            broken = transaction.refusal("tx.commit")
            if broken is not None:
                return broken
        return operation.verdict(error)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _stop_asking(self) -> None:
        self.is_open = False
        for channel in self._opened_channels:
            channel.is_open = False

    def _settle_all(self, reason: AMQPError | None) -> None:
        """As without recovery: settles every continuation that waits, once, in the order of asking; then the closers;
        then calls the handlers."""
        self._is_closing = True
        self._stop_trying()
        if reason is not None and self._opening is None:
            reason = ended(reason)
        self.close_reason = reason
        was_open, opening = self._worked, self._opening
        self.is_open = False
        error = self._closed_error()
        self._in_turn(self._calls_in_hand(error))
        for channel in list(self._opened_channels):
            self._tellers.append(channel._finish(error))
        if self._notices is None:
            self._notices = self._end_notices(reason, was_open)
        calls: list[Call] = [] if opening is None else [partial(opening.fail, reason or error)]
        calls.append(self._end_closers)
        calls += [notice.done for notice in self._notices]
        calls.insert(0, partial(self._happened, ConnectionEvent("closed" if was_open else "failed", reason)))
        self._in_turn(calls)
        self._in_hand, self._opening = [], None

    def _finish(self) -> None:
        on_its_way = self._dialled is not None or self._timers.has("retry")
        if self._ended or (self._core is None and not on_its_way):
            super()._finish()

    def _end_closers(self) -> None:
        closers, self._closers = self._closers, []
        error, count = self._first_untold, self._lost_untold
        self._first_untold, self._lost_untold = None, 0
        lost = None if error is None else _counted(error, count)
        if lost is not None and not closers:
            self._report(lost)
        for closer in closers:
            if lost is not None:
                closer.fail(lost)
            else:
                closer.done()

    def _forked(self) -> None:
        if self._ended:
            return
        self._stop_trying()
        self._core = None
        self._ended = self._is_closing = True
        self.close_reason = ConnectionForked(
            "the connection belongs to the process that this one was forked from; make a new one here"
        )
        self._stop_asking()
        for channel in self._opened_channels:
            channel.close_reason = self.close_reason


def _blamed(operation: Operation, reason: AMQPError) -> AMQPError:
    """The error of the operation for which a channel or link was closed."""
    if isinstance(operation, Publish) and operation.times:
        return operation.unknown_or(reason) if reason.code is None else reason
    return reason


def _counted(error: AMQPError, count: int) -> AMQPError:
    if count == 1:
        return error
    told = copy.copy(error)
    told.text = f"{error.text} (and {count - 1} publishes more that nobody was told of)"
    told.args = (told.text,)
    told.__cause__ = error.__cause__
    return told


def _closed_early() -> ConnectionClosed:
    return ConnectionClosed("the connection was closed before it was open")


def _exists(consume: Consume, channel: Channel, on_done: OnDone[Any]) -> None:
    channel.queue_declare(consume.arguments["queue"], passive=True, on_done=on_done)


def _consume_and_cancel(consume: Consume, channel: Channel, on_done: OnDone[Any]) -> None:
    """Whether a consumer would be accepted: it is started where nobody takes a message, and cancelled."""

    def started(err: AMQPError | None, tag: Any) -> None:
        if err is not None:
            on_done(err, None)
        elif channel.is_open:
            channel.basic_cancel(tag, on_done=on_done)

    channel.basic_qos(prefetch_count=1)
    arguments = {**consume.arguments, "no_ack": False}
    request = Request("basic.consume", started, ("basic.consume-ok",))
    channel._ask_consume(request, Consumer(_ignore_message, None), arguments)


def _ignore_message(message: Any) -> None:
    """It goes back to its queue when the channel is closed."""
