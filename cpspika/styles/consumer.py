"""The iterator over a consumer's messages: the part that all styles share.

`Consuming` has the options and the documentation. `Arrived` holds the messages, knows why there are no more, and gives
back the messages that nobody took. A style adds how its iterator waits.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Generic, TypeVar

from ..client.channel import Channel
from ..client.continuations import ignore
from ..client.hints import hinting
from ..errors import AMQPError, ConsumerCancelled, UnknownConsumerTag
from ..interrupts import repeatable
from ..parameters import check_timeout
from ..wire.message import Message

IteratorT = TypeVar("IteratorT")
OnEnd = Callable[[AMQPError | None, Any], object]


class Consuming(Generic[IteratorT]):
    """A channel that has `consume`."""

    @hinting
    def consume(
        self,
        queue: str,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
        inactivity_timeout: float | None = None,
    ) -> IteratorT:
        """Starts a consumer, and returns an iterator over its messages.

        queue, no_ack, exclusive, arguments: as in `basic_consume`. inactivity_timeout: seconds; the iterator ends when
        no message has come for so long. None: it never ends for that.

            channel.basic_qos(prefetch_count=100)
            for message in channel.consume("tasks"):
                print(message.body)
                message.ack()

        Without `basic_qos` the whole queue comes at once. In a style whose calls return promises, write `async for`;
        the consumer starts when the first message is asked for.

        The iterator's end cancels the consumer: when the iterator is closed, is no longer referred to, or has seen no
        message for `inactivity_timeout`. Messages that came and were not handed out then go back to the queue, unless
        `no_ack` is set.

        When the channel ends, messages that came and were not handed out are the broker's again, and the iterator drops
        them. With `no_ack` nobody else has them, so the iterator still hands them out, and raises its error after that.

        Errors, raised by the iterator: ConnectionClosed, the connection has ended; ChannelClosed, the channel alone;
        ConsumerCancelled, the broker has cancelled the consumer.
        """
        check_timeout("inactivity_timeout", inactivity_timeout)
        return self._iterate(
            queue, {"no_ack": no_ack, "exclusive": exclusive, "arguments": arguments}, inactivity_timeout
        )

    @abstractmethod
    def _iterate(self, queue: str, options: dict[str, Any], inactivity_timeout: float | None) -> IteratorT:
        """Makes the style's iterator. options: of basic_consume."""


class Arrived:
    """The messages that have come to a consumer, and how the consumer ends. The channel refers to this and not to the
    iterator, so an iterator that the program has dropped can go.

    `tag`: the consumer tag; None until the broker has started the consumer. `cancelled`: the broker has ended the
    consumer. `closed`: the program has ended the iterator. All methods run where the core runs.
    """

    def __init__(self, core: Channel, options: dict[str, Any]):
        self.core = core
        self.tag: str | None = None
        self.cancelled = self.closed = False
        self.messages: deque[Message] = deque()
        self.on_message: Callable[[Message], object] = self.messages.append
        self._options = options
        self._forget: Callable[[], object] | None = None

    def arguments(self, queue: str) -> dict[str, Any]:
        """The arguments of basic_consume."""
        return {"queue": queue, "on_message": self.on_message, "on_cancel": self.on_cancel, **self._options}

    def watch(self) -> None:
        """Has `wake` called when the channel ends."""
        if self._forget is None:
            self._forget = self.core.add_state_change_handler(lambda core, is_open: self.wake())

    def start(self, queue: str, core: Channel, on_done: OnEnd) -> None:
        """Starts the consumer on the core's channel; on_done(err, tag)."""
        Channel.basic_consume(core, **self.arguments(queue), on_done=partial(self.started, on_done))

    @repeatable
    def started(self, on_done: OnEnd, err: AMQPError | None, tag: Any) -> None:
        """on_done of basic_consume. The on_done of the style takes a second call too."""
        if err is None:
            self.tag = tag
            if self.closed:  # while the broker was starting the consumer
                self._end(ignore)
        on_done(err, tag)

    def on_cancel(self, tag: str) -> None:
        self.cancelled = True
        self.wake()

    def wake(self) -> None:
        """Tells an iterator that waits: something other than a message has happened."""

    def take(self) -> Message | None:
        """The next message that is not stale, or None if there is none."""
        while self.messages:
            message = self.messages[0]
            stale = self.is_stale(message)
            del self.messages[0]  # no call follows, behind which a signal handler's exception would lose the message
            if not stale:
                return message
        return None

    def is_stale(self, message: Message) -> bool:
        """Whether a message is the broker's again: its channel has ended or was lost, and it was to be acknowledged."""
        return not self._options["no_ack"] and self.core._is_stale(message)

    @property
    def is_over(self) -> bool:
        """Whether no more messages can come, though the program has not closed the iterator."""
        return self.cancelled or not self.core.is_open

    @property
    def _running(self) -> str | None:
        """The tag of the consumer; None if the broker has not started it, or it has ended."""
        return None if self.is_over else self.tag

    def end_reason(self) -> AMQPError:
        """Why no more messages can come: the connection's end says more than the channel's, and that more than the
        consumer's."""
        if self.core.is_open:
            return ConsumerCancelled(f"the broker cancelled consumer {self.tag!r}, as when its queue is deleted")
        error = self.core._sender.connection_error() or self.core.close_reason or self.core._closed_error()
        return error._fresh()

    def close(self, on_done: OnEnd | None = None) -> None:
        """Ends the iterator: cancels the consumer, and gives back what was not handed out. on_done(err, None)."""
        done = on_done or ignore
        if self.closed:
            done(None, None)
            return
        if self._running is not None:
            self.core._sender.check_thread()  # the cancel would be refused, and the consumer be left with nobody
        self.closed = True
        try:
            self.wake()
            if self._forget is not None:
                self._forget()
            self._end(done)
        except BaseException:
            self.closed = False  # of a signal handler: whoever closes it again cancels the consumer
            raise

    def _end(self, done: OnEnd) -> None:
        cancelled = partial(self._ended, done)
        tag = self._running
        if tag is not None:
            try:
                self.core.basic_cancel(tag, on_done=cancelled)
                return
            except UnknownConsumerTag:
                pass  # the program has cancelled the consumer itself
        cancelled(None, None)

    @repeatable
    def _ended(self, done: OnEnd, err: AMQPError | None, _: Any) -> None:
        """on_done of basic_cancel. The on_done of the style takes a second call too."""
        if err is None:
            self._give_back()
        done(err, None)

    def _give_back(self) -> None:
        while (message := self.take()) is not None:
            self.refuse(message)
        self.wake()

    def refuse(self, message: Message) -> None:
        """Gives back a message that was not handed out."""
        if self.core.is_open and not self._options["no_ack"]:
            self.core._give_back(message.delivery_tag)
