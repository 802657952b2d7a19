"""A channel that outlives its openings.

An operation goes to the present opening at once if nothing waits before it; else it waits, in order. When an opening
ends, what was in flight there is told its end or waits again, by its policy. A new opening first gets what belongs to
the channel (its modes and consumers, in the order in which they were asked for), and then what waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from heapq import merge
from typing import Any

from ..client.channel import Channel
from ..client.connection import Connection
from ..client.continuations import OnDone, Request, check_callable, describe, ignore, refuse, settle_soon
from ..client.hooks import adopted
from ..client.operations import Consumer, message_count
from ..client.publisher import Content
from ..client.setup import OnReady, run_setup
from ..errors import (
    AMQPError,
    ChannelClosed,
    ConsumerCancelled,
    DuplicateConsumerTag,
    UnknownConsumerTag,
)
from ..wire.codec import Method
from ..wire.message import Message
from . import absent
from .channel_log import MODES, ChannelLog
from .losses import find_culprit, in_order, sort_out
from .opening import EPOCH_SHIFT, SETTLING, OpeningChannel, OpenPublisher, TransactionPublisher
from .operations import (
    DECIDED,
    FALLEN,
    IN_FLIGHT,
    OVER,
    SETTLED,
    WAITING,
    Asked,
    Cancel,
    Close,
    Consume,
    Deletion,
    EndOfTransaction,
    Open,
    Operation,
    Publish,
    Told,
    end_waiting,
    stale,
    unknown,
)
from .options import RecoveryEvent
from .policies import DONE, POLICIES
from .roles import Recoverer
from .transaction import Transaction
from .waiting import WaitingPublisher, WaitingSender

CLOSURES = 5  # so many closes of the channel in a row, with nothing settled between, end it
HELD_SECONDS = 5.0  # an opening that was set up and held so long counts as one that settled something
REPLAY_SECONDS = 10.0  # in which the broker must answer the channel's own modes and consumers


class RecoveringChannel(Channel):
    """A channel of a connection that recovers. `number`: that of its present opening, or of the last."""

    __slots__ = (
        "_closures",
        "_confirming",
        "_connection",
        "_consumers_known",
        "_epoch",
        "_fallen",
        "_flowing",
        "_held",
        "_log",
        "_on_ready",
        "_opened",
        "_opening",
        "_ready",
        "_singles",
        "_stopped",
        "_transaction",
        "_waiting",
    )

    def __init__(self, connection: Recoverer, on_ready: OnReady | None, on_done: OnDone[Any] | None):
        self._connection = connection
        sender: Any = WaitingSender(self, connection.parameters.protocol)
        super().__init__(0, sender)
        self._publisher: Any = WaitingPublisher(self)
        self._on_ready = on_ready
        self._opened: Open | None = Open(self, on_done)
        self._opening: OpeningChannel | None = None
        self._epoch = -1
        self._ready = False  # an operation goes to the opening at once
        self._flowing = False  # the opening has its modes and consumers; what waits may go out
        self._held = 0  # reasons that keep a new opening from being restored
        self._singles = 0  # operations of this channel in the connection's single file
        self._stopped = False  # the last opening ended when it was not writable
        self._waiting: deque[Operation] = deque()
        self._fallen: list[tuple[Operation, AMQPError]] = []
        self._log = ChannelLog(self)
        self._consumers_known: dict[str, Consume] = {}
        self._confirming = False
        self._transaction: Transaction | None = None
        self._closures = 0

    # --- attributes ---------------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        opening = self._opening
        permitted = opening is None or opening._publisher.permitted
        return permitted and self._connection.writable

    @property
    def is_confirming(self) -> bool:
        return self._confirming or bool(self._publisher.is_confirming)

    @property
    def has_consumers(self) -> bool:
        return bool(self._consumers_known) or (self._opening is not None and self._opening.has_consumers)

    def _is_stale(self, message: Message) -> bool:
        return not self.is_open or self._opening is None or message.delivery_tag >> EPOCH_SHIFT != self._epoch

    def _queue_of(self, consumer_tag: str) -> str:
        consume = self._consumers_known.get(consumer_tag)
        return consume.arguments["queue"] if consume is not None else ""

    def _adopt(self) -> None:
        adopted(self)
        if self._opening is not None:
            self._opening._adopt()
        adopted(self._publisher)

    def _in_turn(self, calls: Any) -> None:
        self._connection._in_turn(calls)

    # --- operations ---------------------------------------------------------------------------------------------------

    def _request(
        self,
        name: str,
        on_done: OnDone[Any] | None,
        convert: Callable[[Any], Any] | None = None,
        replies: tuple[str, ...] | None = None,
        **arguments: Any,
    ) -> bool:
        asked = Asked(self, name, on_done, self._resolved(name, arguments), replies or (name + "-ok",), convert)
        is_asked = self._submit(asked)
        if is_asked and name == "queue.declare":
            self._last_queue = arguments["queue"] or self._last_queue
        return is_asked

    def _resolved(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments, with names in place of "": they must mean the same whenever the operation is asked again."""
        if not self.is_open:
            return arguments  # it is refused
        connection = self._connection
        if name == "queue.declare":
            if arguments["queue"] == "" and not arguments["passive"]:
                arguments["queue"] = connection._new_name(connection.options.queue_prefix)
        elif arguments.get("queue") == "":
            arguments["queue"] = self._last_queue
        if arguments.get("arguments"):
            connection._check(name, arguments)  # a value that cannot be sent can perhaps not be copied either
            arguments["arguments"] = _copied(arguments["arguments"])  # the program may change its own
        return arguments

    def _submit(self, asked: Asked) -> bool:
        """Sends an operation now, or has it wait. False: it failed at the call."""
        self._connection._check_thread()
        if not self.is_open:
            refuse(asked.on_done, self._closed_error(), asked.method, self._sender.call_soon)
            return False
        if self._transaction is not None:
            broken = self._transaction.refusal(asked.method)
            if broken is not None:
                refuse(asked.on_done, broken, asked.method, self._sender.call_soon)
                return False
        if self._ready and self._opening is not None and self._opening.is_open:
            asked.state = IN_FLIGHT
            self._launch(asked)
        elif POLICIES[asked.method] == DONE and not self._must_wait():
            self._connection._check(asked.method, asked.arguments)
            self._sender.call_soon(lambda: asked.end(None, asked.lost_result()))
            self._carried_out_by_loss(asked)
        else:
            self._connection._check(asked.method, asked.arguments)
            self._wait(asked)
        if asked.method == "tx.select" and self._transaction is None:
            self._become_transactional()
        return True

    def _become_transactional(self) -> None:
        self._transaction = Transaction()
        if self._opening is not None:
            self._opening._become_transactional()
            if self._ready:
                self._publisher = adopted(TransactionPublisher(self._opening._publisher, self._transaction))

    def _must_wait(self) -> bool:
        """Whether an operation that a loss carries out must wait all the same: for its opening, which is being
        restored, or behind operations that wait."""
        if self._opening is not None or self._opened is not None:
            return True
        return any(isinstance(other, Asked) and other.state is WAITING for other in self._waiting)

    def _carried_out_by_loss(self, operation: Operation) -> None:
        """Notes here what the loss of the opening has carried out at the broker."""
        if isinstance(operation, Cancel):
            if operation.decided is None:  # else it was forgotten then
                self._forget_consumer(operation.tag)
        elif operation.method == "tx.rollback" and self._transaction is not None:
            self._transaction.ended()

    def _wait(self, operation: Operation) -> None:
        operation.state = WAITING
        self._waiting.append(operation)
        self._connection._deadlines.start(operation)

    def _launch(self, operation: Operation) -> None:
        opening = self._opening
        assert opening is not None
        operation.position = self._connection._unwritten.position
        operation.go(opening)
        if isinstance(operation, Asked) and operation.decided is not None:
            return
        method = operation.method
        if method == "confirm.select":
            opening._publisher.confirm()
            self._confirming = True
        elif self._transaction is not None:
            self._transaction.asked(method)

    def _tell(self, name: str, on_done: OnDone[Any] | None, **arguments: Any) -> None:
        check_callable("on_done", on_done)
        told = Told(self, name, on_done, arguments)
        if not self.is_open or name not in SETTLING:
            self._submit(told)
            return
        broken = self._transaction.refusal(name) if self._transaction is not None else None
        if broken is not None:
            if on_done is not None:
                refuse(on_done, broken, name, self._sender.call_soon)
            return
        sender, opening = self._sender, self._opening
        if opening is None or not opening.is_open:
            own = None
        else:
            own = sender.own_tag(arguments["delivery_tag"], arguments.get("multiple", False))  # type: ignore[attr-defined]
        if own is None:
            self._drop_stale(name, arguments)
            if on_done is not None:
                self._sender.call_soon(lambda: told.end(stale()))
        elif on_done is None:
            sender.send(name, arguments)
        else:
            told.state = IN_FLIGHT
            assert opening is not None
            told.launch(opening)

    def _drop_stale(self, name: str, arguments: dict[str, Any]) -> None:
        """Does not send an acknowledgement, since the broker has the message again. Errors as of sending it."""
        self._connection._check(name, arguments)
        self._connection._stale += 1

    def _consume(self, consumer: Consumer, on_done: OnDone[str] | None, arguments: dict[str, Any]) -> None:
        tag = arguments["consumer_tag"]
        if tag and self.is_open and self._has_consumer(tag):
            raise DuplicateConsumerTag(f"channel {self.number} has a consumer {tag!r}")
        if tag == "":
            arguments["consumer_tag"] = tag = self._connection._new_name("cpspika.ctag-")
        consume = Consume(self, on_done, self._resolved("basic.consume", arguments), consumer)
        if self._submit(consume):
            self._consumers_known[tag] = consume

    def _has_consumer(self, tag: str) -> bool:
        return tag in self._consumers_known or (self._opening is not None and tag in self._opening._consumers)

    def _cancel(self, consumer_tag: str, on_done: OnDone[str] | None) -> None:
        if self.is_open and not self._has_consumer(consumer_tag):
            raise UnknownConsumerTag(f"channel {self.number} has no consumer {consumer_tag!r}")
        self._submit(Cancel(self, on_done, consumer_tag))

    def _delete_queue(self, on_done: OnDone[int] | None, arguments: dict[str, Any]) -> None:
        arguments = self._resolved("queue.delete", arguments)
        self._submit(Deletion(self, "queue.delete", on_done, arguments, ("queue.delete-ok",), message_count))

    def _end_transaction(self, name: str, on_done: OnDone[Any] | None) -> None:
        self._submit(EndOfTransaction(self, name, on_done, {}, (name + "-ok",)))

    def _got(self, reply: Method | Message) -> Message | None:
        return self._opening._got(reply) if self._opening is not None else None

    def _drain(self, on_done: OnDone[None] | None) -> None:
        drain = Request("drain", on_done)
        self._connection._check_thread()
        if not self.is_open:
            refuse(on_done, self._closed_error(), "drain", self._sender.call_soon)
        elif self.writable:
            settle_soon(drain, self._sender.call_soon)
        else:
            self._draining.append(drain)

    def _publish_later(self, content: Content, on_done: OnDone[bool] | None) -> bool:
        """Takes a publish that must wait for an opening."""
        connection = self._connection
        if not self.is_open:
            refuse(on_done, self._closed_error(), "basic.publish", self._sender.call_soon)
            return False
        publish = Publish(self, on_done, content)  # checks on_done
        connection._check("basic.publish", content.arguments, content.properties)
        error: AMQPError | None
        if self._transaction is not None:
            error = self._transaction.no_buffer()
        else:
            error = connection._buffer.refusal(publish.size)
        if error is not None:
            refuse(on_done, error, "basic.publish", self._sender.call_soon)
            return False
        self._wait(publish)
        return connection._buffer.take(publish.size) and self.writable

    def _close(self, reply_code: int, reply_text: str, on_done: OnDone[None] | None) -> None:
        closer = Request("channel.close", on_done)
        self._connection._check_thread()
        if self._ended:
            settle_soon(closer, self._sender.call_soon)
            return
        if self.is_open:
            self._connection._check("channel.close", {"reply_code": reply_code, "reply_text": reply_text})
        self._closers.append(closer)
        if not self.is_open:
            return
        self.is_open = False
        close = Close(self, {"reply_code": reply_code, "reply_text": reply_text})
        if self._ready and self._opening is not None and self._opening.is_open:
            close.state = IN_FLIGHT
            self._launch(close)
        elif self._waiting or self._singles or self._opening is not None:
            self._wait(close)  # what was asked for before gets its answers first
        else:
            self._sender.call_soon(lambda: close.end(None))

    # --- an opening begins --------------------------------------------------------------------------------------------

    def _open_on(self, link: Connection) -> AMQPError | None:
        """Opens the channel on a link. Returns why it cannot be."""
        error = link._error_of_no_channel()
        if error is not None:
            return error
        self._epoch += 1
        opening = link._new_channel(partial(OpeningChannel, self, self._epoch, link))
        self._opening = opening
        self._sender = opening._sender
        self.number = opening.number
        opening.add_state_change_handler(self._opening_changed)
        opening._open(partial(self._opening_opened, opening))
        return None

    def _opening_opened(self, opening: OpeningChannel, err: AMQPError | None, _: Any) -> None:
        if err is not None or opening is not self._opening:
            return  # the end of the opening tells the rest
        if self._on_ready is not None:
            run_setup(self._on_ready, opening, partial(self._set_up, opening))
        else:
            self._first_opened()

    def _first_opened(self) -> None:
        """The channel is open, if it was not before."""
        if self._opened is not None:
            if self.is_open:
                self._in_turn(self._handlers.calls("state", self, True))
            self._opened.done(self)  # at once: the replies to what was asked for behind it follow in this turn

    def _set_up(self, opening: OpeningChannel, err: AMQPError | None, _: Any) -> None:
        if opening is not self._opening or opening._sender.connection_error() is not None:
            return  # the opening is over, or its link is, which is told later: on_ready runs on the next one
        if err is None:
            self._connection._is_set_up(self)
            return
        if self._opened is not None:
            opened, self._opened = self._opened, None
            told = opened.told(err)
            if opened.on_done is None:
                self._connection._report(told)
            self.is_open = False
            opening.close(on_done=ignore)
            self._in_turn([partial(opened.fail, err), partial(self._finish, err)])
        elif opening.is_open:
            self._discard_opening(err)

    def _restore(self) -> None:
        """Gives the opening its modes and consumers, and then what waits."""
        opening = self._opening
        if self._held or opening is None or not opening.is_open or self._flowing:
            return
        # A channel that the program has closed only waits for earlier operations.
        self._log.ask_again(opening, self._connection._core, with_consumers=self.is_open)
        if not self._log.is_answered:
            late = ChannelClosed(f"the broker did not answer what restores the channel within {REPLAY_SECONDS:g} s")
            self._connection._timers.start(
                f"replay {id(self)}", REPLAY_SECONDS, lambda: self._discard_opening(late, opening)
            )
        else:
            self._connection._channel_restored(self)
        self._flowing = True
        self._flush()

    def _replayed(self) -> None:
        """The broker has answered a mode or consumer that was asked for again."""
        if self._opening is not None:
            self._opening.has_settled = True
        if self._log.is_answered:
            self._connection._timers.cancel(f"replay {id(self)}")
            self._connection._channel_restored(self)

    def _may_go_on(self) -> None:
        """The link is writable again."""
        self._flush()
        self._tell_writable()

    def _flush(self) -> None:
        """Sends what waits, in order, as far as the link takes it."""
        waiting = self._waiting
        if not self._flowing or self._singles:
            return
        while waiting:
            opening = self._opening
            if opening is None or not opening.is_open:
                return
            operation = waiting[0]
            if operation.state in OVER or self._connection._is_given_up(operation):
                waiting.popleft()
                continue
            if not opening._sender.writable and isinstance(operation, Publish):
                return
            operation.state = IN_FLIGHT  # before it is taken: nobody looks for one that waits
            waiting.popleft()
            self._send_waiting(operation)
        self._be_ready()

    def _send_waiting(self, operation: Operation) -> bool:
        """Sends an operation that has waited; it is IN_FLIGHT. False: it cannot be sent, and has failed."""
        again = operation if isinstance(operation, Publish) and operation.times else None
        try:
            self._launch(operation)
        except AMQPError as error:
            # An earlier copy may be in the queue.
            fate = again.unknown_or(error) if again is not None else error
            self._in_turn([partial(operation.end, operation.told(fate))])
            return False
        if again is not None:
            self._connection._resent += 1
        return True

    def _be_ready(self) -> None:
        if not self._ready and self._opening is not None:
            self._ready = True
            publisher = self._opening._publisher
            transaction = self._transaction
            self._publisher = adopted(
                OpenPublisher(publisher) if transaction is None else TransactionPublisher(publisher, transaction)
            )
            if self._stopped:
                self._stopped = False
                self._tell_writable()  # if it isn't, the end of that tells

    # --- an opening ends ----------------------------------------------------------------------------------------------

    def _fell(self, operation: Operation, error: AMQPError) -> None:
        """An operation was in flight when its opening ended; or it was cut off by an exception of a signal handler."""
        if self._ended or self._connection._is_closing:
            operation.end(error)
        elif operation.state is IN_FLIGHT:
            operation.state = FALLEN
            self._fallen.append((operation, error))
        elif operation.state is SETTLED:  # and not told
            fate = operation.unknown_or(error) if isinstance(operation, Publish) else unknown(error)
            self._in_turn([partial(end_waiting, operation, fate)])

    def _opening_changed(self, opening: OpeningChannel, is_open: bool) -> None:
        if is_open or opening is not self._opening:
            return
        self._leave_opening(opening)
        if self._ended:
            return
        connection = self._connection
        if connection._core is None or not connection._core.is_open:
            return  # the link has ended, which is more
        self._closed_alone(opening)

    def _leave_opening(self, opening: OpeningChannel) -> None:
        self._connection._timers.cancel(f"replay {id(self)}")
        lived = self._connection.reactor.time() - opening.begun
        was_set_up = self._on_ready is not None and self._opened is None and lived >= HELD_SECONDS
        if opening.has_settled or opening._publisher.has_settled or was_set_up:
            self._closures = 0
            self._connection._link_settled = True
        self._confirming = self._confirming or opening._publisher.is_confirming
        self._stopped = self._stopped or not (opening._sender.writable and opening._publisher.permitted)
        self._opening = None
        self._ready = self._flowing = False
        self._log.opening_ended()
        if not opening._publisher.permitted:
            self._emit("flow", self, True)
        if self._transaction is not None:
            self._transaction.lost()
        if not self._ended:
            self._sender = WaitingSender(self, opening._sender.version)  # type: ignore[assignment]
            self._publisher = adopted(WaitingPublisher(self))

    def _discard_opening(self, error: AMQPError, opening: OpeningChannel | None = None) -> None:
        """Gives up an opening, which the broker does not serve, and does not wait for its channel.close-ok."""
        opening = opening or self._opening
        if opening is None or opening is not self._opening or not opening.is_open:
            return
        opening._sender.send_now("channel.close", {"reply_code": 200, "reply_text": ""})
        opening._shut(error, None)

    def _closed_alone(self, opening: OpeningChannel) -> None:
        """The channel was lost, and the link lives."""
        reason = opening.close_reason or ChannelClosed(f"channel {self.number} was closed")
        blamed = reason.method if reason.code is not None else None
        connection, replays = self._connection, self._log.lost
        connection._make_steps()
        fallen = in_order(self._fallen)
        culprit = find_culprit(fallen, blamed)
        self._closures = self._closures + 1 if culprit is None else 0  # that one is settled, by its error
        replay = next((each for each in replays if each.method == blamed), None) if culprit is None else None
        not_set_up = self._opened is not None and self._on_ready is not None
        if self._closures >= CLOSURES or not_set_up:
            self._give_up(reason)
            return
        steps = sort_out(connection, fallen, culprit, reason, single=blamed == "basic.publish")
        # No function is called between these, so no signal handler either.
        self._fallen, self._log.lost, connection._steps = [], [], steps
        connection._make_steps()
        connection._tell_recovery(RecoveryEvent("lost", error=reason, channel=self._outermost()))
        self._end_unrecoverable(reason)
        if replay is not None:
            if replay.tag is not None:
                absent.refused(self, replay.tag, reason)
            else:
                self._log.forget_mode(replay.method)
        if not self._ended and self._opening is None:
            connection._in_turn([self._reopen])

    def _reopen(self) -> None:
        """Opens the channel again, on the link that lives."""
        connection = self._connection
        link = connection._core
        if self._ended or self._opening is not None or link is None or not link.is_open:
            return
        error = self._open_on(link)
        if error is not None:
            self._give_up(error)
        elif self._on_ready is None:
            self._restore()

    def _put_back(self, operations: list[Operation]) -> None:
        """Has operations wait again, in the order in which they were asked for. Those that do so already are not added
        again."""
        present = set(self._waiting)
        for operation in operations:
            operation.state = WAITING
            self._connection._deadlines.start(operation)
        again = [each for each in operations if each not in present]
        # By a key: among operations that are neither equal nor before one another `merge` keeps no order. Publishes
        # that nobody confirms share the order of the operation before them.
        self._waiting = deque(merge(again, self._waiting, key=lambda each: each.order))

    # --- what the broker has carried out ------------------------------------------------------------------------------

    def _carried_out(self, asked: Asked) -> None:
        """Notes what is to be done again on later openings. Called before the program is told."""
        connection, method, arguments = self._connection, asked.method, asked.arguments
        if self._opening is not None:
            self._opening.has_settled = True
        if isinstance(asked, Consume) or method in MODES:
            self._log.note(asked)
        elif isinstance(asked, Cancel):
            self._forget_consumer(asked.tag)
        elif method in ("tx.commit", "tx.rollback") and self._transaction is not None:
            self._transaction.ended()
        elif self._on_ready is None or method in ("queue.delete", "exchange.delete"):
            connection._journal.record(method, arguments, self)
        connection._single.settled(asked)

    def _done_by_loss(self, operation: Operation) -> None:
        """Ends an operation that the loss of its opening has carried out."""
        self._carried_out_by_loss(operation)
        operation.end(None, operation.lost_result())

    def _mode_refused(self, method: str) -> None:
        """confirm_select or tx_select failed, after the channel was taken to be in that mode."""
        if self._log.has(method):
            return
        if method == "tx.select":
            self._transaction = None
        else:
            self._confirming = False

    def _link_lost(self) -> None:
        """The link is lost: the channel waits for the next one, if it was not open yet."""
        if self._opening is not None:  # an exception of a signal handler has cut off `_opening_changed`
            self._leave_opening(self._opening)
        if self._opened is not None:
            self._connection._deadlines.start(self._opened)

    def _forget_consumer(self, tag: str) -> None:
        consume = self._consumers_known.get(tag)
        if consume is None:
            return
        self._log.forget(consume)
        self._connection._consumer_gone(consume)
        del self._consumers_known[tag]  # last: what an exception of a signal handler cuts off is done again

    # --- consumers that the broker ends -------------------------------------------------------------------------------

    def _cancelled_by_broker(self, tag: str, consumer: Consumer) -> bool:
        """The broker has cancelled a consumer. False: it is over, as without recovery; True: it will be started again,
        or is told later."""
        consume = self._consumers_known.get(tag)
        if consume is None or consume.consumer is not consumer:
            return False  # of on_ready
        deletion = consumer.deletion
        if (deletion is not None and not deletion.failed) or not consumer.recover:
            self._forget_consumer(tag)
            return False
        consume.absent_on = self._connection._core
        absent.look_after(self, consume)
        return True

    def _consume_again(self, consume: Consume) -> None:
        """Starts a consumer again, on the opening as it is, unless the program has cancelled it."""
        if self._consumers_known.get(consume.tag) is not consume:
            return
        consume.absent_on = None
        opening = self._opening
        if opening is not None and opening.is_open and self._flowing and consume.tag not in opening._consumers:
            self._log.consume(opening, consume)

    def _consumer_failed(self, tag: str, error: AMQPError) -> None:
        """A consumer cannot be started again."""
        consume = self._consumers_known.get(tag)
        if consume is None:
            return
        self._forget_consumer(tag)
        self._closures = 0
        connection = self._connection
        connection._link_settled = True
        connection._tell_recovery(
            RecoveryEvent("consumer_failed", error=error, channel=self._outermost(), consumer_tag=tag)
        )
        self._tell_cancelled(consume, error)

    def _tell_cancelled(self, consume: Consume, error: AMQPError) -> None:
        on_cancel = consume.consumer.on_cancel
        if on_cancel is not None:
            self._in_turn([partial(on_cancel, consume.tag)])
            return
        cancelled = ConsumerCancelled(f"consumer {consume.tag!r} was not started again: {error.text}")
        cancelled.__cause__ = error
        self._connection._report(cancelled.of("basic.consume", describe(consume.consumer.call_site)))

    def _end_unrecoverable(self, error: AMQPError) -> None:
        """Ends the consumers that were started with recover=False: their opening is over."""
        for consume in list(self._consumers_known.values()):
            if not consume.consumer.recover and consume.state is SETTLED:
                self._forget_consumer(consume.tag)
                self._tell_cancelled(consume, error)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _give_up(self, reason: AMQPError) -> None:
        """Ends the channel, which cannot be opened. If nobody else is told, the reason leaves the reactor."""
        if self._opened is None:
            event = RecoveryEvent("channel_failed", error=reason, channel=self._outermost())
            self._connection._tell_recovery(event)
        if not self._finish(reason):
            self._connection._report(reason)

    def _disown(self) -> None:
        """Ends a channel that nobody has: a signal handler's exception came out of the call that opens it. The link is
        dropped."""
        if self._opened is not None:
            self._opened.state = DECIDED
        self._opened = self._opening = None
        self._finish(None)

    def _finish(self, reason: AMQPError | None) -> bool:
        """Ends the channel for good: settles what waits, in order, then the closers, then calls the state handlers.
        Returns whether a callback of the program gets the reason."""
        if self._ended:
            return True
        self._ended = True
        try:
            return self._settle_all(reason)
        except BaseException:
            self._ended = False  # of a signal handler: the connection's end does the rest
            raise

    def _settle_all(self, reason: AMQPError | None) -> bool:
        """The work of `_finish`. Nothing is taken out of a container before its call is in the queue."""
        self._connection._make_steps()
        opening, self._opening = self._opening, None
        if opening is not None and opening.is_open and opening._sender.connection_error() is None:
            opening.close(on_done=ignore)
        self.is_open = False
        self.close_reason = self.close_reason or reason
        self._connection._timers.cancel(f"replay {id(self)}")
        error = self._closed_error()
        left: list[Any] = [operation for operation in self._waiting if operation.state not in OVER]
        errors: dict[Any, AMQPError] = dict(self._fallen)
        left += errors
        left += self._connection._single.of(self)
        left += self._draining
        left.sort()
        told = self._has_handlers("state") or any(each.on_done is not None for each in left)
        self._ready = self._flowing = False
        calls: list[Any] = []
        for each in left:
            calls.append(
                partial(
                    each.end if isinstance(each, (Asked, Publish)) else each.fail, _final(each, errors.get(each, error))
                )
            )
        opened = self._opened
        if opened is not None:
            calls.insert(0, partial(opened.fail, reason or error))
            told = told or opened.on_done is not None
        calls += [closer.done for closer in self._closers]
        calls += [notice.done for notice in self._end_notices()]
        self._in_turn(calls)
        self._waiting.clear()
        self._connection._single.forget(self)
        self._fallen, self._draining, self._closers = [], [], []
        self._consumers_known, self._opened, self._log = {}, None, ChannelLog(self)
        self._connection._channel_ended(self)
        return told


def _copied(value: Any) -> Any:
    """A copy of a field value that encodes to the same bytes, whatever becomes of the original."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(item) for item in value]
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else value


def _final(operation: Any, error: AMQPError) -> AMQPError:
    """The error of an operation whose channel has ended for good."""
    if isinstance(operation, Publish) and (operation.times or operation.state in (IN_FLIGHT, FALLEN)):
        return operation.unknown_or(error)
    return error
