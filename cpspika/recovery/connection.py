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
from collections.abc import Iterable, Sequence
from functools import partial
from random import Random
from typing import Any

from ..client.channel import Channel
from ..client.connection import Connection, OnClose
from ..client.continuations import (
    Call,
    OnDone,
    Request,
    check_callable,
    fail_untold,
    ignore,
    is_abandoned,
    refuse,
    settle_soon,
)
from ..client.hooks import ConnectionEvent, OnDoneWithHooks, are_installed
from ..client.setup import OnReady
from ..client.trace import Sink
from ..errors import (
    AMQPError,
    ConnectionClosed,
    ConnectionForked,
    OperationTimeout,
    ended,
)
from ..interrupts import repeatable
from ..parameters import AmqplainCredentials, ConnectionParameters, PlainCredentials
from ..reactor import Reactor
from ..wire import handshake
from ..wire.link import Link
from .backoff import Backoff
from .buffer import Buffer, Unwritten
from .channel import RecoveringChannel
from .deadlines import Deadlines
from .dialling import Dialling
from .journal import Journal
from .losses import ENDS_ALONE, Fallen, find_culprit, in_order, of_unwritten, sort_out
from .operations import SETTLED, Consume, Operation, Publish, Sent
from .options import Recovery, RecoveryEvent
from .probe import Ask, Probe
from .restoring import Restoring
from .single_file import SingleFile

FRUITLESS_TO_SINGLE, FRUITLESS_LINKS = 2, 5  # links in a row that settled nothing


class LinkConnection(Connection):
    """One link of a connection that recovers. The log and the hooks hear of the program's connection alone."""

    def __init__(self, owner: RecoveringConnection):
        super().__init__(owner.reactor, owner._link_ended)
        self._owner = owner

    def _happened(self, event: Any) -> None:
        pass

    @repeatable
    def _finish(self) -> None:
        super()._finish()
        self._call_queue.put_last([self._owner._finish])  # behind all that this end settles


class RecoveringConnection(Connection):
    """A connection with `recovery`. `options`: its Recovery. `is_connected`: there is a link now."""

    options: Recovery

    def __init__(self, reactor: Reactor, on_close: OnClose | None, options: Recovery):
        super().__init__(reactor, on_close)
        self.options = options
        self._dice = options.dice or Random()
        self._core: Connection | None = None
        self._former: Connection | None = None  # the link that was lost last; it may wait for its close-ok
        self._worked = False  # there was a link once
        self._is_closing = False  # by the program
        self._opened_channels: list[RecoveringChannel] = []
        self._journal = Journal()
        self._restoring: Restoring | None = None
        self._dialling = Dialling(self, Backoff(*options.backoff, self._dice))
        self._last_error: AMQPError | None = None
        self._link_settled = False
        self._fruitless = 0
        self._single = SingleFile(self._in_turn)
        self._deadlines = Deadlines(self)
        self._buffer = Buffer(options, self._has_room)
        self._unwritten: Unwritten  # of the present link, or of the last
        self._steps: list[Call] = []  # left to be made of what a loss causes; each may be made again
        self._makes_steps = False
        self._untold_loss: AMQPError | None = None  # the recovery handlers and the dialling are to be told of it
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
        try:
            self._opened_channels.append(channel)
            self._begin_channel(channel, self._core)
        except BaseException as interrupt:
            channel._disown()
            if self._core is not None:
                self._core._failed(interrupt)
            raise
        return channel

    def _begin_channel(self, channel: RecoveringChannel, link: Connection | None) -> None:
        if are_installed():
            channel._adopt()
        restoring = self._restoring
        if link is None or not link.is_open:
            assert channel._opened is not None
            self._deadlines.start(channel._opened)
        elif restoring is None or restoring.second_phase:
            error = channel._open_on(link)
            if error is not None:
                self.reactor.call_soon(lambda: channel._give_up(error))
            elif channel._on_ready is None:
                channel._restore()

    def _channel_count(self) -> int:
        return len(self._opened_channels)

    def close(self, reply_code: int = 200, reply_text: str = "", *, on_done: OnDone[None] | None = None) -> None:
        closer = Request("connection.close", on_done)
        self._check_thread()
        if not self._ended:
            self._check("connection.close", {"reply_code": reply_code, "reply_text": reply_text})
        if self._former is not None:
            self._former._end_farewell()
        if self._ended:
            settle_soon(closer, self.reactor.call_soon)
            return
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

        self._dialling.change(renewed)
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

    def _is_given_up(self, operation: Operation) -> bool:
        """Whether nobody waits for an operation any more, which was never sent: it is dropped."""
        if not is_abandoned(operation.on_done) or (isinstance(operation, Publish) and operation.times):
            return False
        operation.state = SETTLED
        operation.withdrawn()
        if isinstance(operation, Publish):
            self._buffer.release(operation)
            if isinstance(operation.on_done, OnDoneWithHooks):
                operation.on_done.withdrawn(OperationTimeout("nobody waits for it any more, and it was not sent"))
        return True

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

    def _channel_ended(self, channel: RecoveringChannel) -> None:
        if channel in self._opened_channels:
            self._opened_channels.remove(channel)
        if self._restoring is not None:
            self._restoring.channel_ended(channel)
        self._in_turn([self._single.send_next])

    def _is_set_up(self, channel: RecoveringChannel) -> None:
        """A channel's on_ready is done."""
        if self._restoring is not None and self._restoring.is_set_up(channel):
            return
        channel._first_opened()
        channel._restore()

    def _channel_restored(self, channel: RecoveringChannel) -> None:
        self._in_turn([self._single.send_next])
        if self._restoring is not None:
            self._restoring.channel_restored(channel)

    def _tell_recovery(self, event: RecoveryEvent) -> None:
        stale, self._stale = self._stale, 0
        if stale:
            event = event._replace(stale=stale)
        self._in_turn([*self._handlers.calls("recovery", self, event), partial(self._happened, event)])

    # --- consumers ----------------------------------------------------------------------------------------------------

    def _consumer_gone(self, consume: Consume) -> None:
        queue = consume.arguments["queue"]
        for channel in self._opened_channels:
            for other in channel._consumers_known.values():
                if other is not consume and other.arguments["queue"] == queue:
                    return
        self._journal.consumer_ended(queue)

    def _expect_cancels(self, queue: str, deletion: Any) -> None:
        if self._core is not None:
            self._core._expect_cancels(queue, deletion)

    def _lock_seconds(self) -> float:
        """How long a dead link of ours may keep its exclusive queues and consumers: until the broker misses its
        heartbeats."""
        return 3 * self.heartbeat + 5.0

    def _probe(self, ask: Ask, codes: tuple[int, ...], seconds: float, on_done: Any) -> None:
        if self._core is not None and self._core.is_open:
            probe = Probe(self._core, ask, codes, seconds, self._dice, self._probes.discard, on_done)
            self._probes.add(probe)
            probe.begin()

    # --- dialling -----------------------------------------------------------------------------------------------------

    def _dial(self, targets: Sequence[ConnectionParameters], on_done: OnDone[Connection] | None) -> None:
        self._opening = Request("connect", on_done)
        self.parameters = targets[0]
        self._dialling.begin(targets)

    def _new_link(self) -> Connection:
        link = LinkConnection(self)
        link._sinks = self._sinks
        return link

    def _tap(self, sink: Sink) -> None:
        for link in (self._core, self._dialling.link):
            if link is not None:
                link._tap(sink)

    def _unwatch(self, sink: Sink) -> None:
        super()._unwatch(sink)
        for link in (self._core, self._dialling.link):
            if link is not None:
                link._unwatch(sink)

    def _adopt(self) -> None:
        for channel in list(self._opened_channels):
            channel._adopt()

    def _stop_trying(self) -> None:
        self._timers.cancel("give up", "expire")
        self._dialling.stop()
        for probe in list(self._probes):
            probe.cancel()

    @repeatable
    def _give_up(self, error: AMQPError) -> None:
        self._tell_recovery(RecoveryEvent("gave_up", error=error, attempt=self._dialling.attempt))
        self._stop_trying()
        self._abort()
        self._end(error)

    # --- a link begins ------------------------------------------------------------------------------------------------

    def _link_up(self, link: Connection) -> None:
        unwritten = Unwritten(link)
        self._core, self._unwritten = link, unwritten  # both or none: see `_link_ended`
        self._encoder = None
        for name in ("parameters", "server_properties", "heartbeat", "frame_max", "channel_max"):
            setattr(self, name, getattr(link, name))
        link.add_blocked_handler(self._link_blocked)
        self._timers.cancel("give up")
        self._link_settled = False
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
        self._deadlines.tidy()
        for channel in list(self._opened_channels):
            if channel._opening is None:
                channel._reopen()  # opened while the others were being restored
        resent, self._resent = self._resent, 0
        self._tell_recovery(RecoveryEvent("restored", resent=resent))

    # --- a link ends --------------------------------------------------------------------------------------------------

    def _link_ended(self, link: Any, err: AMQPError | None) -> None:
        """Decides what becomes of all that was in flight. An exception of a signal handler may cut this off; then
        `_finish` calls it again, since the link is given up only with the decision."""
        if link is not self._core:
            return
        self._make_steps()
        for probe in list(self._probes):
            probe.cancel()
        self._timers.cancel("steady")
        if self._ended or self._is_closing or err is None:
            self._former, self._core, self._restoring = link, None, None
            if not self._ended:
                self._end(None)
            return
        self._last_error = err
        self._dialling.look()
        self._fell_in_hand(err)
        for channel in self._opened_channels:
            channel._link_lost()
        fallen = self._all_fallen()
        unwritten = of_unwritten(self._unwritten.lost(), fallen, err)
        taken = sum(publish.size for publish in unwritten)
        steps, fruitless = self._decide(in_order([*fallen, *((publish, err) for publish in unwritten)]), err)
        # No function is called between these, so no signal handler either.
        self._former, self._core, self._restoring = link, None, None
        self._fruitless, self._untold_loss, self._steps = fruitless, err, steps
        self._buffer.size += taken
        self._buffer.take(0)
        self._make_steps()

    def _decide(self, fallen: Fallen, err: AMQPError) -> tuple[list[Call], int]:
        """Returns the steps that the loss of the link causes, and how many links in a row have settled nothing."""
        blamed, restoring = err.method if err.code is not None else None, self._restoring
        culprit = find_culprit(fallen, blamed)
        alone = self._single.alone
        if culprit is not None or (alone is not None and alone.ends + 1 >= ENDS_ALONE):
            self._link_settled = True  # by its error
        steps: list[Call] = []
        if culprit is None and blamed is not None and restoring is not None:
            steps += restoring.blame(blamed, err)
        replays = any(channel._log.lost for channel in self._opened_channels)
        fruitless = 0 if self._link_settled or steps else self._fruitless + bool(fallen or replays or restoring)
        if fruitless >= FRUITLESS_LINKS:
            return [*steps, partial(self._keep_fallen, fallen), partial(self._give_up, err)], fruitless
        single = blamed == "basic.publish" or fruitless >= FRUITLESS_TO_SINGLE or bool(self._single)
        steps += [partial(self._forget_fallen, fallen), *sort_out(self, fallen, culprit, err, single)]
        return [*steps, self._unblock, partial(self._in_turn, [self._tell_lost])], fruitless

    def _make_steps(self) -> None:
        """Makes what is left of the steps of a loss. Those that an exception of a signal handler keeps from being made
        are made as soon as anything else is done with the connection."""
        if self._makes_steps:
            return
        try:
            self._makes_steps = True
            while True:  # see `interrupts`
                if not self._steps:
                    break
                self._steps[0]()
                del self._steps[0]
        finally:
            self._makes_steps = False

    def _all_fallen(self) -> Fallen:
        return in_order(each for channel in self._opened_channels for each in channel._fallen)

    def _forget_fallen(self, decided: Fallen) -> None:
        """These operations do not wait for a decision any more. Others may have fallen meanwhile, where an exception of
        a signal handler came between."""
        operations = {operation for operation, _ in decided}
        for channel in self._opened_channels:
            channel._fallen = [each for each in channel._fallen if each[0] not in operations]
        self._forget_link()

    def _keep_fallen(self, kept: Fallen) -> None:
        """These operations, which are all, wait for a decision: for the end of their channels."""
        by_channel: dict[Any, Fallen] = {channel: [] for channel in self._opened_channels}
        for operation, error in kept:
            by_channel[operation.channel].append((operation, error))
        for channel, fallen in by_channel.items():
            channel._fallen = fallen
        self._forget_link()

    def _forget_link(self) -> None:
        """What the lost link alone needed is decided."""
        self._unwritten.kept.clear()
        for channel in self._opened_channels:
            channel._held = 0
            channel._log.lost = []

    def _unblock(self) -> None:
        if self.is_blocked:
            self.is_blocked = False
            self._in_turn(self._handlers.calls("blocked", self, False, ""))

    def _fell_in_hand(self, err: AMQPError) -> None:
        """Takes operations that a signal handler's exception left in hand as in flight; one that was being told its end
        is told another."""
        self._call_queue.revive()
        in_hand, self._in_hand = self._in_hand, []
        for continuation in in_hand:
            if isinstance(continuation, (Operation, Sent)):
                fail_untold(continuation, err)
            else:
                self._in_turn([partial(fail_untold, continuation, err)])

    def _tell_lost(self) -> None:
        err = self._untold_loss
        if err is None or self._ended or self._is_closing:
            return
        self._tell_recovery(RecoveryEvent("lost", error=err))
        for channel in list(self._opened_channels):
            channel._end_unrecoverable(err)
        if self.options.give_up_after is not None:
            self._timers.start("give up", self.options.give_up_after, lambda: self._give_up(err))
        self._dialling.try_others_first(self.parameters)
        self._dialling.try_later()
        self._untold_loss = None

    # --- the end ------------------------------------------------------------------------------------------------------

    def _stop_asking(self) -> None:
        self.is_open = False
        for channel in self._opened_channels:
            channel.is_open = False

    def _settle_all(self, reason: AMQPError | None) -> None:
        """As without recovery: settles every continuation that waits, once, in the order of asking; then the closers;
        then calls the handlers."""
        self._is_closing = True
        self._make_steps()
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

    @repeatable
    def _finish(self) -> None:
        """Does what an exception of a signal handler has cut off: an end, a loss, or the way to the next link."""
        if self._ended and self._closers:
            self._in_turn([self._end_closers])
        core = self._core
        if core is not None and core._ended:
            self._link_ended(core, core.close_reason)
        self._make_steps()
        if self._ended or (self._is_closing and self._core is None):
            super()._finish()
        elif self._core is None:
            err = self._last_error or self._cut_off()
            self._fell_in_hand(err)
            late = self._all_fallen()
            if late:  # found in hand after `_link_ended`
                self._steps = [partial(self._forget_fallen, late), *sort_out(self, late, None, err, single=False)]
                self._make_steps()
            if self._untold_loss is not None:
                self._in_turn([self._tell_lost])  # behind the operations that are told
            else:
                self._dialling.go_on()

    def _end_closers(self) -> None:
        closers, self._closers = self._closers, []
        error, count = self._first_untold, self._lost_untold
        self._first_untold, self._lost_untold = None, 0
        lost = None if error is None else _counted(error, count)
        if lost is not None and not closers:
            self._report(lost)
        calls = [closer.done if lost is None else partial(closer.fail, lost) for closer in closers]
        self._call_queue.put_first(calls)  # before the handlers

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


def _counted(error: AMQPError, count: int) -> AMQPError:
    """The error of publishes without on_done, as an error of the close that tells of them."""
    told = copy.copy(error)
    publishes = "1 publish was" if count == 1 else f"{count} publishes were"
    told.text = f"{publishes} lost, and had no on_done to be told: {error.text}"
    told.args = (told.text,)
    told.__cause__ = error.__cause__
    return told


def _closed_early() -> ConnectionClosed:
    return ConnectionClosed("the connection was closed before it was open")
