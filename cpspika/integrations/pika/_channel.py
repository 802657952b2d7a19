"""pika's BlockingChannel, on a channel of the core.

What arrives is put into queues by the reactor's thread; `dispatch` calls the program, in the thread that asks for it.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, TypeVar

from ...client.channel import Channel
from ...client.hooks import HandedOut, are_installed
from ...client.operations import QueueDeclareOk
from ...errors import AMQPError, ChannelClosed, ConnectionClosed, PublishError, UnknownConsumerTag
from ...logs import get_logger
from ...styles.promises import give_back_for
from ...wire.message import Message
from . import exceptions, frame, spec
from ._events import Events
from ._impl import ChannelView
from ._link import Link, at_the_end
from ._translation import of_local, returned, undelivered
from .exchange_type import ExchangeType

LOGGER = get_logger(__name__)

Delivery = tuple[Any, spec.BasicProperties, bytes]
T = TypeVar("T")
OnMessage = Callable[["BlockingChannel", Any, spec.BasicProperties, bytes], object]
Arguments = Mapping[str, Any]
Event = tuple[Callable[["BlockingChannel", Any, Any], object], Any, Any]  # function, its arguments


class Owner(Protocol):
    """The connection, as its channels see it."""

    link: Link
    events: Events

    @property
    def is_open(self) -> bool: ...
    def process_data_events(self, time_limit: float | None = 0) -> None: ...
    def news(self) -> Exception | None:
        """The error that ended the connection, once; None if there is none, or the program knows it."""


class _Consumer:
    """events: the queue that its messages are put into. on_message_callback: None for `consume`."""

    __slots__ = ("auto_ack", "consumer_tag", "events", "on_message_callback")

    def __init__(self, tag: str, auto_ack: bool, on_message: OnMessage | None, events: deque[Event]):
        self.consumer_tag = tag
        self.auto_ack = auto_ack
        self.on_message_callback = on_message
        self.events = events


class _Generator:
    """The consumer that `consume` has started, and goes on with when it is called again."""

    def __init__(self, parameters: tuple[str, bool, bool]):
        self.parameters = parameters
        self.events: deque[Event] = deque()
        self.tag = ""


class BlockingChannel:
    """A channel whose calls wait for their answers. `BlockingConnection.channel` opens one."""

    def __init__(self, core: Channel, connection: Owner):
        self._core = core
        self._connection = connection
        self._link = connection.link
        self._events: deque[Event] = deque()
        self._consumers: dict[str, _Consumer] = {}
        self._generator: _Generator | None = None
        self._cancel_callbacks: list[Callable[[Any], object]] = []
        self._delivery_confirmation = False
        self._told = False  # the program knows why the channel is closed
        stir = connection.events.stir
        self._link.inside(core.add_state_change_handler, lambda channel, is_open: stir())

    def __repr__(self) -> str:
        return f"<BlockingChannel of {self._core!r}>"

    def __int__(self) -> int:
        return self.channel_number

    def __enter__(self) -> BlockingChannel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_open:
            self.close()

    @property
    def channel_number(self) -> int:
        """Its number on the connection."""
        return self._core.number

    @property
    def connection(self) -> Any:
        """The BlockingConnection."""
        return self._connection

    @property
    def is_open(self) -> bool:
        """Whether operations may be asked for."""
        return self._core.is_open

    @property
    def is_closed(self) -> bool:
        """Not `is_open`."""
        return not self._core.is_open

    @property
    def consumer_tags(self) -> list[str]:
        """The tags of the consumers that have not ended."""
        return list(self._consumers) if self._core.is_open else []

    @property
    def _consumer_infos(self) -> dict[str, _Consumer]:
        """The consumers that have not ended, by tag. Programs wait in a loop until there is none."""
        return self._consumers if self._core.is_open else {}

    @property
    def _impl(self) -> ChannelView:
        return ChannelView(self)

    # --- asking -------------------------------------------------------------------------------------------------------

    def _ask(self, operation: Callable[..., Any], **arguments: Any) -> Any:
        self._check_open()
        core = self._core
        try:
            return self._link.ask(
                lambda on_done: operation(core, **arguments, on_done=on_done),
                give_back_for(operation, core, tuple(arguments.values())),
            )
        except AMQPError as error:
            raise self._translated(error) from error

    def _frame(self, method: T) -> frame.Method[T]:
        return frame.Method(self._core.number, method)

    def _tell(self, operation: Callable[..., Any], *arguments: Any) -> None:
        """For an acknowledgement: the reactor's thread sends it, with those that follow."""
        self._check_open()
        try:
            self._link.inside(operation, self._core, *arguments)
            if not self._core.writable and self._link.backlog:
                self._link.wait_written(self._core)
        except AMQPError as error:
            raise self._translated(error) from error

    def _check_open(self) -> None:
        """ChannelWrongStateError; but the first time the error that closed the channel or connection."""
        if not self._core.is_open:
            raise self._closed_error()

    def _closed_error(self) -> Exception:
        error = None if self._connection.is_open else self._connection.news()
        if error is None and not self._told:
            error = self._closed_by_broker()
        self._told = True
        return error or exceptions.ChannelWrongStateError("Channel is closed.")

    def _closed_by_broker(self) -> Exception | None:
        reason = self._core.close_reason
        if reason is None or reason.code is None or isinstance(reason, ConnectionClosed):
            return None
        return exceptions.ChannelClosedByBroker(reason.code, reason.text)

    def _translated(self, error: AMQPError) -> Exception:
        if isinstance(error, PublishError):
            fate = undelivered(error)
            if fate is not None:
                return fate
        if isinstance(error, (ChannelClosed, ConnectionClosed)):
            return self._closed_error()
        return of_local(error)

    def forget_news(self) -> None:
        """The program has turned the connection since the channel closed, so it could know."""
        if not self._core.is_open:
            self._told = True

    # --- events -------------------------------------------------------------------------------------------------------

    @property
    def has_events(self) -> bool:
        """Whether `dispatch` would call the program."""
        return bool(self._events)

    def dispatch(self) -> None:
        """Calls the program for all that has arrived up to now."""
        events = self._events
        for _ in range(len(events)):
            try:
                function, first, second = events.popleft()
            except IndexError:  # a callback has cancelled a consumer
                break
            function(self, first, second)

    def _delivered(self, consumer: _Consumer, message: Message) -> None:
        # A message to be acknowledged is the broker's again when the channel has closed; others nobody else has.
        if consumer.on_message_callback is not None and (self._core.is_open or consumer.auto_ack):
            consumer.on_message_callback(self, *_delivery(message))

    def _delivered_with_hooks(self, consumer: _Consumer, message: Message) -> None:
        with HandedOut(message, not consumer.auto_ack):
            self._delivered(consumer, message)

    def _cancelled_by_broker(self, consumer: _Consumer, message: None) -> None:
        self._consumers.pop(consumer.consumer_tag, None)
        if consumer.on_message_callback is not None:
            for callback in list(self._cancel_callbacks):
                callback(self._frame(spec.Basic.Cancel(consumer.consumer_tag, True)))

    def _returned(self, callback: OnMessage, message: Message) -> None:
        callback(self, *returned(message))

    def _process_data_events(self, time_limit: float | None) -> None:
        self._connection.process_data_events(time_limit)
        if not self._core.is_open:
            error = self._closed_by_broker()
            if error is not None:
                self._told = True
                raise error

    # --- consumers ----------------------------------------------------------------------------------------------------

    def basic_consume(
        self,
        queue: str,
        on_message_callback: OnMessage,
        auto_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str | None = None,
        arguments: Arguments | None = None,
    ) -> str:
        """Starts a consumer, and returns its tag. on_message_callback(channel, method, properties, body) is called in
        `start_consuming` and `BlockingConnection.process_data_events`."""
        _check_name("queue", queue)
        if not callable(on_message_callback):
            raise TypeError(f"on_message_callback takes a callable, not {on_message_callback!r}")
        return self._consume(queue, on_message_callback, self._events, auto_ack, exclusive, consumer_tag, arguments)

    def _consume(
        self,
        queue: str,
        on_message: OnMessage | None,
        events: deque[Event],
        auto_ack: bool,
        exclusive: bool,
        consumer_tag: str | None,
        arguments: Arguments | None,
    ) -> str:
        tag = consumer_tag or f"ctag{self._core.number}.{uuid.uuid4().hex}"
        if tag in self._consumers:
            raise exceptions.DuplicateConsumerTag(tag)
        consumer = _Consumer(tag, auto_ack, on_message, events)
        # The messages of `consume` go into a queue of their own, which the connection doesn't look at.
        append, all_events = events.append, self._connection.events
        wake = all_events.ring if on_message is not None else all_events.stir
        delivered = BlockingChannel._delivered
        if on_message is not None and are_installed():
            delivered = BlockingChannel._delivered_with_hooks

        def arrived(message: Message) -> None:
            append((delivered, consumer, message))
            wake()

        def cancelled(tag: str) -> None:
            append((BlockingChannel._cancelled_by_broker, consumer, None))
            wake()

        self._consumers[tag] = consumer
        try:
            self._ask(
                Channel.basic_consume,
                queue=queue,
                on_message=arrived,
                no_ack=auto_ack,
                exclusive=exclusive,
                consumer_tag=tag,
                arguments=arguments,
                on_cancel=cancelled,
            )
        except BaseException:
            self._consumers.pop(tag, None)
            raise
        return tag

    def basic_cancel(self, consumer_tag: str) -> list[Delivery]:
        """Ends a consumer. Messages that came and were not handed out go back to the queue; with auto_ack they are
        returned, as (method, properties, body)."""
        consumer = self._consumers.get(consumer_tag)
        if consumer is None:
            LOGGER.warning("basic_cancel: channel %s has no consumer %r", self._core.number, consumer_tag)
            return []
        try:
            self._ask(Channel.basic_cancel, consumer_tag=consumer_tag)
        except UnknownConsumerTag:
            pass  # the broker has cancelled it
        finally:
            self._consumers.pop(consumer_tag, None)
            waiting = self._link.inside(_take, consumer)
            self._connection.events.stir()
        if consumer.auto_ack:
            return [_delivery(message) for message in waiting]
        if waiting and self._core.is_open:
            self._link.inside(_give_back, self._core, waiting)
        return []

    def start_consuming(self) -> None:
        """Calls the consumers' callbacks until there is no consumer left. ReentrancyError: called in a callback."""
        if self._connection.events.turn_is_mine:
            raise exceptions.ReentrancyError("start_consuming cannot be called in a callback")
        if not self._events:
            self._check_open()
        while self._consumers:
            self._process_data_events(None)

    def stop_consuming(self, consumer_tag: str | None = None) -> None:
        """Ends one consumer, or all; `start_consuming` then returns."""
        if consumer_tag:
            self.basic_cancel(consumer_tag)
        else:
            self._cancel_all()

    def _cancel_all(self) -> None:
        if self._generator is not None:
            self.cancel()
        for tag in list(self._consumers):
            self.basic_cancel(tag)

    def consume(
        self,
        queue: str,
        auto_ack: bool = False,
        exclusive: bool = False,
        arguments: Arguments | None = None,
        inactivity_timeout: float | None = None,
        consumer_tag: str | None = None,
    ) -> Iterator[tuple[Any, Any, Any]]:
        """Starts a consumer when it is first asked for a message, and yields (method, properties, body). After
        inactivity_timeout seconds without a message it yields (None, None, None). `cancel` ends it."""
        parameters = (queue, auto_ack, exclusive)
        watched = are_installed()
        generator = self._generator
        if generator is None or not generator.events:
            self._check_open()
        if generator is None:
            generator = self._generator = _Generator(parameters)
            try:
                generator.tag = self._consume(
                    queue, None, generator.events, auto_ack, exclusive, consumer_tag, arguments
                )
            except BaseException:
                self._generator = None
                raise
        elif generator.parameters != parameters:
            raise ValueError(f"consume{generator.parameters} has not ended; call cancel() before consume{parameters}")
        while self._generator is generator:
            if generator.events:
                function, consumer, message = generator.events.popleft()
                function(self, consumer, message)
                if message is None:
                    self._generator = None
                    return
                if not (self._core.is_open or auto_ack):
                    continue
                if watched:
                    with HandedOut(message, not auto_ack):
                        yield _delivery(message)
                else:
                    yield _delivery(message)
            elif inactivity_timeout is None:
                self._process_data_events(None)
            else:
                deadline = monotonic() + inactivity_timeout
                left: float = inactivity_timeout
                while self._generator is generator and not generator.events:
                    self._process_data_events(max(left, 0))
                    left = deadline - monotonic()
                    if left <= 0 and self._generator is generator and not generator.events:
                        yield None, None, None
                        break

    def cancel(self) -> int:
        """Ends `consume`. Messages that came and were not handed out go back to the queue, unless auto_ack is set. As
        in pika 1.x the result is 0."""
        generator = self._generator
        if generator is None:
            LOGGER.warning("cancel: channel %s has no consume() that goes on", self._core.number)
            return 0
        try:
            self.basic_cancel(generator.tag)
        finally:
            self._generator = None
        return 0

    def get_waiting_message_count(self) -> int:
        """The number of messages that came for `consume` and were not handed out."""
        events = list(self._generator.events) if self._generator is not None else []
        return sum(message is not None for _, _, message in events)

    def add_on_cancel_callback(self, callback: Callable[[Any], object]) -> None:
        """Has callback(method_frame) called when the broker cancels a consumer of `basic_consume`."""
        self._cancel_callbacks.append(callback)

    # --- messages -----------------------------------------------------------------------------------------------------

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:
        """Acknowledges a message; multiple: and all before it."""
        self._tell(Channel.basic_ack, delivery_tag, multiple)

    def basic_nack(self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True) -> None:
        """Refuses a message; multiple: and all before it."""
        self._tell(Channel.basic_nack, delivery_tag, multiple, requeue)

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:
        """Refuses a message."""
        self._tell(Channel.basic_reject, delivery_tag, requeue)

    def basic_get(self, queue: str, auto_ack: bool = False) -> tuple[Any, Any, Any]:
        """Takes one message from a queue: (method, properties, body), or (None, None, None)."""
        _check_name("queue", queue)
        message = self._ask(Channel.basic_get, queue=queue, no_ack=auto_ack)
        if message is None:
            return None, None, None
        method = spec.Basic.GetOk(
            message.delivery_tag, message.redelivered, message.exchange, message.routing_key, message.message_count
        )
        return method, spec.BasicProperties.arrived(message.encoded), message.body

    def basic_publish(
        self,
        exchange: str,
        routing_key: str,
        body: str | bytes,
        properties: Any = None,
        mandatory: bool = False,
    ) -> None:
        """Publishes a message. Returns when the kernel has the bytes; after `confirm_delivery`, when the broker has
        confirmed the message. UnroutableError, NackError: it has not."""
        self._check_open()
        core, link = self._core, self._link
        try:
            if self._delivery_confirmation:
                link.ask(
                    lambda on_done: core.basic_publish(
                        exchange, routing_key, body, properties, mandatory, False, True, on_done=on_done
                    )
                )
            else:
                link.send_now(core.basic_publish, exchange, routing_key, body, properties, mandatory, False, True)
                if link.backlog:
                    link.wait_written(core)
        except AMQPError as error:
            raise self._translated(error) from error

    def add_on_return_callback(self, callback: OnMessage) -> None:
        """Has callback(channel, method, properties, body) called for each message that the broker returns."""

        append, ring = self._events.append, self._connection.events.ring

        def came_back(message: Message) -> None:
            append((BlockingChannel._returned, callback, message))
            ring()

        self._link.inside(self._core.add_return_handler, came_back)

    def confirm_delivery(self) -> None:
        """Has the broker confirm every message that the channel publishes from here on."""
        if self._delivery_confirmation:
            LOGGER.error("confirm_delivery: channel %s confirms already", self._core.number)
            return
        self._ask(Channel.confirm_select)
        self._delivery_confirmation = True

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, global_qos: bool = False) -> None:
        """Limits how many messages the broker delivers ahead of acknowledgements."""
        if not (isinstance(prefetch_size, int) and isinstance(prefetch_count, int)):
            raise TypeError(f"prefetch_size and prefetch_count take ints, not {prefetch_size!r} and {prefetch_count!r}")
        if prefetch_size < 0 or prefetch_count < 0:
            raise ValueError("prefetch_size and prefetch_count take numbers from 0")
        self._ask(Channel.basic_qos, prefetch_count=prefetch_count, prefetch_size=prefetch_size, global_=global_qos)

    def basic_recover(self, requeue: bool = False) -> None:
        """Has the broker deliver unacknowledged messages again."""
        self._ask(Channel.basic_recover, requeue=requeue)

    # --- exchanges and queues -----------------------------------------------------------------------------------------

    def exchange_declare(
        self,
        exchange: str,
        exchange_type: ExchangeType | str = ExchangeType.direct,
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Arguments | None = None,
    ) -> frame.Method[spec.Exchange.DeclareOk]:
        """Declares an exchange; `.method` is an Exchange.DeclareOk."""
        _check_name("exchange", exchange)
        self._ask(
            Channel.exchange_declare,
            exchange=exchange,
            type=exchange_type.value if isinstance(exchange_type, ExchangeType) else exchange_type,
            passive=passive,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=arguments,
        )
        return self._frame(spec.Exchange.DeclareOk())

    def exchange_delete(
        self, exchange: str | None = None, if_unused: bool = False
    ) -> frame.Method[spec.Exchange.DeleteOk]:
        """Deletes an exchange; `.method` is an Exchange.DeleteOk."""
        self._ask(Channel.exchange_delete, exchange=exchange or "", if_unused=if_unused)
        return self._frame(spec.Exchange.DeleteOk())

    def exchange_bind(
        self, destination: str, source: str, routing_key: str = "", arguments: Arguments | None = None
    ) -> frame.Method[spec.Exchange.BindOk]:
        """Binds an exchange to another; `.method` is an Exchange.BindOk."""
        _check_name("destination", destination)
        _check_name("source", source)
        self._ask(
            Channel.exchange_bind,
            destination=destination,
            source=source,
            routing_key=routing_key,
            arguments=arguments,
        )
        return self._frame(spec.Exchange.BindOk())

    def exchange_unbind(
        self,
        destination: str | None = None,
        source: str | None = None,
        routing_key: str = "",
        arguments: Arguments | None = None,
    ) -> frame.Method[spec.Exchange.UnbindOk]:
        """Removes a binding; `.method` is an Exchange.UnbindOk."""
        self._ask(
            Channel.exchange_unbind,
            destination=destination or "",
            source=source or "",
            routing_key=routing_key,
            arguments=arguments,
        )
        return self._frame(spec.Exchange.UnbindOk())

    def queue_declare(
        self,
        queue: str,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Arguments | None = None,
    ) -> frame.Method[spec.Queue.DeclareOk]:
        """Declares a queue; "" lets the broker choose the name. `.method` is a Queue.DeclareOk: queue, message_count,
        consumer_count."""
        _check_name("queue", queue)
        ok: QueueDeclareOk = self._ask(
            Channel.queue_declare,
            queue=queue,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=arguments,
        )
        return self._frame(spec.Queue.DeclareOk(ok.queue, ok.message_count, ok.consumer_count))

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False
    ) -> frame.Method[spec.Queue.DeleteOk]:
        """Deletes a queue; `.method` is a Queue.DeleteOk: message_count."""
        _check_name("queue", queue)
        count = self._ask(Channel.queue_delete, queue=queue, if_unused=if_unused, if_empty=if_empty)
        return self._frame(spec.Queue.DeleteOk(count))

    def queue_purge(self, queue: str) -> frame.Method[spec.Queue.PurgeOk]:
        """Removes the ready messages of a queue; `.method` is a Queue.PurgeOk: message_count."""
        _check_name("queue", queue)
        return self._frame(spec.Queue.PurgeOk(self._ask(Channel.queue_purge, queue=queue)))

    def queue_bind(
        self, queue: str, exchange: str, routing_key: str | None = None, arguments: Arguments | None = None
    ) -> frame.Method[spec.Queue.BindOk]:
        """Binds a queue to an exchange, by default by the queue's name; `.method` is a Queue.BindOk."""
        self._bind(Channel.queue_bind, queue, exchange, routing_key, arguments)
        return self._frame(spec.Queue.BindOk())

    def queue_unbind(
        self, queue: str, exchange: str, routing_key: str | None = None, arguments: Arguments | None = None
    ) -> frame.Method[spec.Queue.UnbindOk]:
        """Removes a binding, by default by the queue's name; `.method` is a Queue.UnbindOk."""
        self._bind(Channel.queue_unbind, queue, exchange, routing_key, arguments)
        return self._frame(spec.Queue.UnbindOk())

    def _bind(
        self,
        operation: Callable[..., Any],
        queue: str,
        exchange: str,
        routing_key: str | None,
        arguments: Arguments | None,
    ) -> None:
        _check_name("queue", queue)
        _check_name("exchange", exchange)
        key = queue if routing_key is None else routing_key
        self._ask(operation, queue=queue, exchange=exchange, routing_key=key, arguments=arguments)

    # --- transactions, and the channel itself -------------------------------------------------------------------------

    def tx_select(self) -> frame.Method[spec.Tx.SelectOk]:
        """Puts the channel into transactions; `.method` is a Tx.SelectOk."""
        self._ask(Channel.tx_select)
        return self._frame(spec.Tx.SelectOk())

    def tx_commit(self) -> frame.Method[spec.Tx.CommitOk]:
        """Commits the transaction; `.method` is a Tx.CommitOk."""
        self._ask(Channel.tx_commit)
        return self._frame(spec.Tx.CommitOk())

    def tx_rollback(self) -> frame.Method[spec.Tx.RollbackOk]:
        """Drops the transaction; `.method` is a Tx.RollbackOk."""
        self._ask(Channel.tx_rollback)
        return self._frame(spec.Tx.RollbackOk())

    def flow(self, active: bool) -> bool:
        """Asks the broker to stop or resume its deliveries; returns whether they flow now."""
        return bool(self._ask(Channel.flow, active=active))

    def close(self, reply_code: int = 0, reply_text: str = "Normal shutdown") -> None:
        """Ends the consumers and closes the channel. ChannelWrongStateError: it is closed."""
        self._check_open()
        if at_the_end():
            return  # with the connection
        try:
            self._cancel_all()
            self._ask(Channel.close, reply_code=reply_code, reply_text=reply_text)
        finally:
            self._told = self._told or not self._core.is_open
            self._consumers.clear()
            self._generator = None
            self._events.clear()
            self._connection.events.stir()


def _delivery(message: Message) -> Delivery:
    envelope = message.envelope
    method = spec.Basic.Deliver(
        envelope.consumer_tag or "", message.delivery_tag, envelope.redelivered, envelope.exchange, envelope.routing_key
    )
    return method, spec.BasicProperties.arrived(envelope.encoded), message.body


def _take(consumer: _Consumer) -> list[Message]:
    """Removes and returns a consumer's messages. Inside the reactor, so none arrives meanwhile."""
    events = consumer.events
    taken = [message for _, owner, message in events if owner is consumer and message is not None]
    rest = [event for event in events if event[1] is not consumer]
    events.clear()
    events.extend(rest)
    return taken


def _give_back(core: Channel, messages: list[Message]) -> None:
    for message in messages:
        core._give_back(message.delivery_tag)


def _check_name(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} takes a str, not {value!r}")
