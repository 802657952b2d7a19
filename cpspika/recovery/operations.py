"""The operations of a connection that recovers. Each is one object from the call to its end: waiting, in flight,
fallen (its opening has ended, and what becomes of it is not decided yet), decided (its end is known, and not told yet)
or settled.

The core holds an object that is in flight as it holds its own requests and publishes, and settles it by `reply` or
`fail`. Here `fail` need not be the end: the channel collects what its opening leaves (`RecoveringChannel._fell`), and
decides by the policy of the operation.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ..client import publisher as client_publisher
from ..client.continuations import OnDone, Request, call_site, check_callable, order
from ..client.operations import Consumer
from ..client.publisher import Content, Watched
from ..errors import AMQPError, DeliveryUnknown, OutcomeUnknown, PublishError, StaleDelivery
from ..interrupts import repeatable
from .buffer import OVERHEAD
from .policies import AGAIN, DONE, POLICIES, STALE, UNKNOWN
from .roles import Opening, Owner

WAITING, IN_FLIGHT, FALLEN, DECIDED, SETTLED = "waiting", "in flight", "fallen", "decided", "settled"
OVER = (DECIDED, SETTLED)
UNSENT = 1 << 64  # a position behind all that is sent


class Asked(Request):
    """A request. `ends`: how many links or channels ended while it alone was in flight. `deadline`: by the reactor's
    clock, while it waits. `decided`: how it ends, while it waits for operations before it that are asked again.
    `position`: in the stream, before it, if it was sent."""

    __slots__ = ("arguments", "channel", "deadline", "decided", "ends", "position", "state")

    def __init__(
        self,
        channel: Owner,
        method: str,
        on_done: OnDone[Any] | None,
        arguments: dict[str, Any],
        expected: tuple[str, ...] = (),
        convert: Any = None,
    ):
        super().__init__(method, on_done, expected, convert)
        self.channel = channel
        self.arguments = arguments
        self.state = WAITING
        self.deadline: float | None = None
        self.decided: AMQPError | str | None = None
        self.ends = 0
        self.position = UNSENT

    @property
    def is_unsettled(self) -> bool:
        return is_unsettled(self)

    def go(self, opening: Opening) -> None:
        """Sends it on an opening; or, if its end is decided, has it told behind the replies that are due there."""
        if self.decided is None:
            self.launch(opening)
        elif opening._pending:
            self.answer = self.decided
            opening._pending.append(self)
        else:
            self.channel._in_turn([self.end_as_decided])

    def end_as_decided(self) -> None:
        """Tells the end that was decided when its opening was lost."""
        if isinstance(self.decided, AMQPError):
            self.withdrawn()
            self.end(self.decided)
        else:
            self.channel._done_by_loss(self)

    def launch(self, opening: Opening) -> None:
        """Sends it on an opening. LocalError: it cannot be sent."""
        self.answer = None
        opening._ask(self, self.arguments)

    def reply(self, reply: Any) -> None:
        if self.decided is not None:
            if self.channel._opening is None:
                self.channel._fell(self, self.channel._closed_error())
            else:
                self.end_as_decided()
            return
        self.channel._carried_out(self)
        self.state = SETTLED  # not before: an operation that is cut off in the call above is still in flight
        super().reply(reply)

    @repeatable
    def fail(self, error: AMQPError) -> None:
        self.channel._fell(self, error)

    def end(self, error: AMQPError | None, result: Any = None) -> None:
        """Settles it, without a reply."""
        self.state = SETTLED
        self.channel._connection._single.settled(self)
        if error is None:
            self.done(result)
        else:
            super().fail(error)

    def withdrawn(self) -> None:
        """Called when it is settled without having been carried out."""
        if self.method in ("confirm.select", "tx.select"):
            self.channel._mode_refused(self.method)

    def lost_result(self) -> Any:
        """The result of an operation that the loss itself has carried out."""
        return None

    def verdict(self, error: AMQPError) -> AMQPError | str:
        """AGAIN, DONE, or the error to settle it with: it was in flight when its opening ended."""
        if self.decided is not None:
            return self.decided
        policy = POLICIES[self.method]
        if policy == UNKNOWN or (self.method == "basic.get" and self.arguments["no_ack"]):
            return unknown(error)
        return stale() if policy == STALE else policy


class Open(Asked):
    """The first opening of a channel."""

    __slots__ = ()

    def __init__(self, channel: Owner, on_done: OnDone[Any] | None):
        super().__init__(channel, "channel.open", on_done, {})

    @property
    def is_unsettled(self) -> bool:
        # Where the channel still has it, the next opening settles it.
        return self.on_done is not None and self.channel._opened is not self

    def done(self, result: Any = None) -> None:
        # No function is called between these, so no signal handler either.
        on_done = self.on_done
        self.state, self.channel._opened, self.on_done = SETTLED, None, None
        if on_done is not None:
            on_done(None, result)

    def fail(self, error: AMQPError) -> None:
        self.state = SETTLED
        Request.fail(self, error)

    def end(self, error: AMQPError | None, result: Any = None) -> None:
        self.channel._finish(error)


class Told(Asked):
    """A method without a reply, which is done when its bytes have gone to the kernel."""

    __slots__ = ()

    def launch(self, opening: Opening) -> None:
        if opening._send(self, self.method, self.arguments):
            opening._sender.when_written(self)


class EndOfTransaction(Asked):
    """A tx.commit or tx.rollback."""

    __slots__ = ()

    def launch(self, opening: Opening) -> None:
        self.answer = None
        opening._ask_end_of_transaction(self)


class OfConsumer(Asked):
    """An operation on a consumer."""

    __slots__ = ()

    @property
    def tag(self) -> str:
        tag: str = self.arguments["consumer_tag"]
        return tag


class Consume(OfConsumer):
    """A basic.consume. `absent_on`: the link on which the broker has cancelled the consumer, while its queue is looked
    for there."""

    __slots__ = ("absent_on", "consumer")

    def __init__(self, channel: Owner, on_done: OnDone[str] | None, arguments: Any, consumer: Consumer):
        super().__init__(channel, "basic.consume", on_done, arguments, ("basic.consume-ok",))
        self.consumer = consumer
        self.absent_on: Any = None

    def launch(self, opening: Opening) -> None:
        self.answer = None
        opening._ask_consume(self, self.consumer, self.arguments)

    def withdrawn(self) -> None:
        self.channel._forget_consumer(self.tag)

    def verdict(self, error: AMQPError) -> AMQPError | str:
        # An exception of a signal handler may come when it is noted, and not told. The log will start it again.
        return DONE if self.channel._log.has_consumer(self) else super().verdict(error)

    def lost_result(self) -> str:
        return self.tag


class Cancel(OfConsumer):
    """A basic.cancel."""

    __slots__ = ()

    def __init__(self, channel: Owner, on_done: OnDone[str] | None, tag: str):
        super().__init__(channel, "basic.cancel", on_done, {"consumer_tag": tag}, ("basic.cancel-ok",))

    def launch(self, opening: Opening) -> None:
        self.answer = None
        if self.tag in opening._consumers:
            opening._ask_cancel(self, self.tag)
        else:  # it could not be started again
            self.channel._forget_consumer(self.tag)
            self.channel._in_turn([lambda: self.end(None, self.tag)])

    def lost_result(self) -> str:
        return self.tag


class Close(Asked):
    """A channel.close of the program's own. It is done with the end of its opening. If the link ends it, and operations
    before it must be asked again, it waits behind them."""

    __slots__ = ()

    def __init__(self, channel: Owner, arguments: dict[str, Any]):
        super().__init__(channel, "channel.close", None, arguments)

    def launch(self, opening: Opening) -> None:
        closed = partial(self._closed, opening)
        opening._close(self.arguments["reply_code"], self.arguments["reply_text"], closed)

    @repeatable
    def _closed(self, opening: Opening, err: AMQPError | None, result: Any) -> None:
        """The end of its opening. An exception of a signal handler may have it called again: later, when the close has
        fallen or waits again."""
        if self.state not in (IN_FLIGHT, SETTLED):
            return
        link = self.channel._connection._core
        # The broker that answers a close has carried out what was sent before it, and confirms no more of it. To send
        # that again with a close behind it could go on for ever.
        answered = opening.close_reason is None and link is not None and link.is_open
        if self.state is IN_FLIGHT and self.channel._fallen and not answered:
            error = self.channel._closed_error()
            self.state = FALLEN
            self.channel._fallen.append((self, error))
        else:
            self.end(None)  # what the broker has not decided by now stays unknown, as without recovery

    def end(self, error: AMQPError | None, result: Any = None) -> None:
        self.state = SETTLED
        self.channel._finish(error)
        self.channel._connection._single.settled(self)


class Deletion(Asked):
    """A queue.delete. `failed`: the queue was not deleted, as far as is known."""

    __slots__ = ("failed",)

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.failed = False

    def launch(self, opening: Opening) -> None:
        self.answer = None
        deletion: Any = self  # it has what a consumer asks of a deletion: `failed`
        opening._ask_deletion(deletion, self.arguments)

    def end(self, error: AMQPError | None, result: Any = None) -> None:
        self.failed = error is not None
        super().end(error, result)


class Sent(client_publisher.Publish):
    """A publish on its first way, which nearly every one ends on. A loss makes it a `Publish`.

    `content`: as of client.publisher.Content, without the flags, which are not set; or that `Publish`."""

    __slots__ = ("channel", "content", "size")

    content: Any

    def __init__(self, channel: Owner, on_done: OnDone[bool] | None, content: tuple[str, str, bytes, bytes]):
        # Each confirmed publish is one of these: what Continuation does stands here, without its call.
        if not callable(on_done):
            check_callable("on_done", on_done)
        self.on_done = on_done
        self.call_site = call_site(4)  # 4: as in `client.publisher.Publisher.publish`
        self.order = next(order)
        self.channel = channel
        self.content = content
        self.size = OVERHEAD + len(content[2]) + len(content[3])

    @repeatable
    def fail(self, error: AMQPError) -> None:
        publish = self.lost()
        if not publish.times:  # it has not been sent again since: it may be found in hand, and in the window too
            self.channel._fell(publish, error)

    def lost(self) -> Publish:
        """The same publish, for what may become of it now; the same object at each call."""
        if not isinstance(self.content, Publish):
            exchange, routing_key, properties, body = self.content
            content = Content(exchange, routing_key, False, False, properties, body)
            publish = Publish(self.channel, self.on_done, content)
            publish.call_site, publish.order = self.call_site, self.order
            publish.undecided = True
            self.on_done = None  # the other has it: who looks for what was cut off finds one of them
            self.content = publish
        publish = self.content
        return publish


class Publish(Watched):
    """A publish. `size`: bytes that it counts for in the buffer. `times`: how often it was sent before. `position`: as
    of Asked."""

    __slots__ = ("channel", "deadline", "ends", "position", "size", "state", "times")

    def __init__(self, channel: Owner, on_done: OnDone[bool] | None, content: Content):
        super().__init__(on_done, content)
        self.channel = channel
        self.deadline: float | None = None
        self.ends = self.times = 0
        self.state = IN_FLIGHT
        self.position = UNSENT
        self.size = OVERHEAD + len(content.properties) + len(content.body)

    @property
    def is_unsettled(self) -> bool:
        return is_unsettled(self)

    def go(self, opening: Opening) -> None:
        """Sends it on an opening; while its flow is stopped, it is held there."""
        opening._publisher.launch(self)

    def reply(self, reply: Any) -> None:
        """It was written, on a channel that does not confirm."""
        self.leave()
        super().reply(reply)

    @repeatable
    def fail(self, error: AMQPError) -> None:
        self.channel._fell(self, error)

    def end(self, error: AMQPError | None, result: Any = True) -> None:
        """Settles it, without a decision of the broker."""
        was_settled = self.state is SETTLED
        self.leave()
        if error is None:
            self.done(result)
        elif self.on_done is not None:
            super().fail(error)
        elif not was_settled:
            self.channel._connection._dropped(self.told(error))

    def leave(self) -> None:
        """It is settled: frees its bytes in the buffer, once."""
        self.state = SETTLED
        connection = self.channel._connection
        connection._buffer.release(self)
        connection._single.settled(self)

    def withdrawn(self) -> None:
        pass

    def lost_result(self) -> bool:
        return True

    def verdict(self, error: AMQPError) -> AMQPError | str:
        if not self.undecided:
            return AGAIN  # it was held, and never sent
        if self.channel._connection.options.publishes == "unknown" or self.returned is not None:
            return self.unknown_or(error)
        self.times += 1  # a copy may be in the queue
        return AGAIN

    def unknown_or(self, error: AMQPError) -> AMQPError:
        """The error that settles it: a refusal, if that is certain; else DeliveryUnknown."""
        if isinstance(error, PublishError) and not isinstance(error, DeliveryUnknown) and not self.times:
            return error
        answer = DeliveryUnknown(f"the broker may have taken the message or not: {error.text}", code=error.code)
        answer.__cause__ = error
        return answer


Operation = Asked | Publish


def is_unsettled(operation: Operation) -> bool:
    """As of `Continuation`. Nobody is told of one without an on_done, but it is not carried out."""
    return operation.on_done is not None or operation.state is IN_FLIGHT


def end_waiting(operation: Operation, error: AMQPError) -> None:
    """Settles an operation that has waited, and was not carried out."""
    operation.withdrawn()
    operation.end(error)


def unknown(error: AMQPError) -> OutcomeUnknown:
    """The error of an operation that may have been carried out or not."""
    answer = OutcomeUnknown(f"the broker may have carried it out or not: {error.text}", code=error.code)
    answer.__cause__ = error
    return answer


def stale() -> StaleDelivery:
    return StaleDelivery(
        "the message was delivered before the channel or link was lost; nothing was sent, and the broker delivers it "
        "again"
    )
