"""A channel as kombu has it: the names and arguments of py-amqp's.

py-amqp opens a channel anew when the broker has closed it for an error, so that the program can go on with it. This
channel does so too, at its next use. A delivery tag that the program sees is `opening << 44 | the broker's tag`. So an
acknowledgement of a message from an earlier opening is recognized and refused. Otherwise it could acknowledge another
message with the same tag.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from errno import EPIPE
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from amqp.exceptions import ChannelError, RecoverableChannelError, RecoverableConnectionError
from kombu.transport import base

from ...errors import AMQPError, ConnectionLost, MessageReturned, OperationTimeout, UnknownConsumerTag
from ...wire.message import Message as Delivery
from .errors import by_code, raise_translated
from .message import HEADERS, Outgoing, encoded
from .message import Message as Arrived

if TYPE_CHECKING:
    from ...styles.sync import SyncChannel, SyncConnection

OPENING_BITS = 44  # bits of the broker's own part of a delivery tag


class Owner(Protocol):
    """The parts of a connection that its channels use."""

    channels: dict[int | None, Any]
    confirm_publish: bool

    @property
    def link(self) -> SyncConnection: ...
    @property
    def connected(self) -> bool: ...
    def fail(self, error: AMQPError) -> NoReturn: ...
    def note_end(self) -> None: ...
    def hand_out(self) -> None: ...
    def look(self) -> None: ...


class Channel(base.StdChannel):
    """A channel of a Connection. `connection`: None once it is closed. `channel_id`: its number. `events`: sets of
    handlers; those of "basic_return" get (error, exchange, routing_key, message) for a message that came back.

    Every operation waits for the broker's answer, also with `nowait`."""

    Message = Arrived

    def __init__(self, connection: Owner):
        self.connection: Owner | None = connection
        self.channel_id: int | None = None
        self.events: dict[str, set[Callable[..., object]]] = defaultdict(set)
        self.no_ack_consumers: set[str] = set()
        self._opening = -1
        self._channel: SyncChannel
        self._open_anew(connection)

    # --- the channel below --------------------------------------------------------------------------------------------

    def _open_anew(self, connection: Owner) -> SyncChannel:
        try:
            channel: SyncChannel = connection.link.channel()
            channel.add_return_handler(partial(self._on_return, self._opening + 1))
        except AMQPError as error:
            connection.fail(error)
        connection.channels.pop(self.channel_id, None)
        self.channel_id = channel.number
        connection.channels[channel.number] = self
        self.no_ack_consumers.clear()
        self._opening += 1
        self._channel = channel
        return channel

    def _open_connection(self) -> Owner:
        connection = self.connection
        if connection is None:
            raise RecoverableConnectionError("connection already closed")
        return connection

    def _current(self) -> SyncChannel:
        """The open channel below."""
        connection = self._open_connection()
        return self._channel if self._channel.is_open else self._open_anew(connection)

    def _ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(self._current(), name)(*args, **kwargs)
        except AMQPError as error:
            self._fail(error)

    def _fail(self, error: AMQPError) -> NoReturn:
        connection = self.connection
        if connection is None:
            raise_translated(error)
        connection.fail(error)

    @property
    def is_open(self) -> bool:
        """Whether operations may be asked for."""
        return self.connection is not None and self.connection.link.is_open

    def collect(self) -> None:
        """Forgets the channel, and tells the broker nothing."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.channels.pop(self.channel_id, None)
        self.channel_id = None
        self.events.clear()
        self.no_ack_consumers.clear()

    def close(self, reply_code: int = 0, reply_text: str = "", *_: Any) -> None:
        """Closes the channel. Closing a closed channel is no error."""
        connection = self.connection
        if connection is None:
            return
        try:
            if self._channel.is_open:
                self._channel.close(reply_code or 200, reply_text)
        except AMQPError as error:
            connection.fail(error)
        finally:
            self.collect()

    def flow(self, active: bool) -> Any:
        """Asks the broker to stop or resume its deliveries."""
        return self._ask("flow", active)

    # --- exchanges and queues -----------------------------------------------------------------------------------------

    def exchange_declare(
        self,
        exchange: str,
        type: str,
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: Any = None,
        *_: Any,
    ) -> None:
        """Declares an exchange."""
        self._ask(
            "exchange_declare",
            exchange,
            type,
            passive=passive,
            durable=durable,
            auto_delete=auto_delete,
            arguments=arguments or None,
        )

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False, *_: Any) -> None:
        """Deletes an exchange."""
        self._ask("exchange_delete", exchange, if_unused)

    def exchange_bind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: Any = None,
        *_: Any,
    ) -> None:
        """Binds an exchange to another."""
        self._ask("exchange_bind", destination, source, routing_key, arguments or None)

    def exchange_unbind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: Any = None,
        *_: Any,
    ) -> None:
        """Removes a binding of an exchange to another."""
        self._ask("exchange_unbind", destination, source, routing_key, arguments or None)

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: Any = None,
        *_: Any,
    ) -> Any:
        """Declares a queue; returns (queue, message_count, consumer_count)."""
        return self._ask(
            "queue_declare",
            queue,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=arguments or None,
        )

    def queue_bind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: Any = None,
        *_: Any,
    ) -> None:
        """Binds a queue to an exchange."""
        self._ask("queue_bind", queue, exchange, routing_key, arguments or None)

    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        nowait: bool = False,
        arguments: Any = None,
        *_: Any,
    ) -> None:
        """Removes a binding."""
        self._ask("queue_unbind", queue, exchange, routing_key, arguments or None)

    def queue_purge(self, queue: str = "", nowait: bool = False, *_: Any) -> int:
        """Drops the messages of a queue that are ready; returns how many."""
        count: int = self._ask("queue_purge", queue)
        return count

    def queue_delete(
        self, queue: str = "", if_unused: bool = False, if_empty: bool = False, nowait: bool = False, *_: Any
    ) -> int:
        """Deletes a queue; returns how many messages it had."""
        count: int = self._ask("queue_delete", queue, if_unused, if_empty)
        return count

    def prepare_queue_arguments(self, arguments: Any, **options: Any) -> Any:
        """The arguments of a queue, with RabbitMQ's for kombu's options."""
        return base.to_rabbitmq_queue_arguments(arguments, **options)

    # --- receiving ----------------------------------------------------------------------------------------------------

    def basic_qos(self, prefetch_size: int, prefetch_count: int, a_global: bool, *_: Any) -> None:
        """Limits the messages that wait for their acknowledgement."""
        self._ask("basic_qos", prefetch_count, prefetch_size, a_global)

    def basic_consume(
        self,
        queue: str = "",
        consumer_tag: str = "",
        no_local: bool = False,
        no_ack: bool = False,
        exclusive: bool = False,
        nowait: bool = False,
        callback: Callable[[Any], object] | None = None,
        arguments: Any = None,
        on_cancel: Callable[[str], object] | None = None,
        *_: Any,
    ) -> str:
        """Has callback(message) called, in `drain_events`, for each message of a queue; returns the consumer's tag.
        on_cancel(tag): called when the broker ends the consumer; without it, drain_events raises ConsumerCancelled."""
        channel = self._current()
        tag: str = self._ask(
            "basic_consume",
            queue,
            partial(self._deliver, callback, self._opening << OPENING_BITS),
            no_ack=no_ack,
            exclusive=exclusive,
            consumer_tag=consumer_tag,
            no_local=no_local,
            arguments=arguments or None,
            on_cancel=on_cancel,
        )
        if no_ack and channel is self._channel:
            self.no_ack_consumers.add(tag)
        return tag

    def _deliver(self, callback: Callable[[Any], object] | None, opening: int, delivery: Delivery) -> None:
        if callback is not None:
            callback(self.Message(delivery, self, opening | delivery.delivery_tag))

    def basic_cancel(self, consumer_tag: str, nowait: bool = False, *_: Any) -> None:
        """Ends a consumer. One that the broker has ended is no error, and none on a connection of whose end the program
        knows. Messages that arrived before the broker heard of it are given to the callback first, as in py-amqp."""
        if self.connection is not None and self.connection.connected:
            try:
                self._ask("basic_cancel", consumer_tag)
            except UnknownConsumerTag:
                pass
            if self.connection is not None:
                self.connection.hand_out()
        self.no_ack_consumers.discard(consumer_tag)

    def basic_get(self, queue: str = "", no_ack: bool = False, *_: Any) -> Arrived | None:
        """Takes one message from a queue; None if there is none."""
        self._current()  # may begin another opening
        opening = self._opening << OPENING_BITS
        delivery = self._ask("basic_get", queue, no_ack)
        return None if delivery is None else self.Message(delivery, self, opening | delivery.delivery_tag)

    def message_to_python(self, message: Any) -> Any:
        """A message that arrived, as kombu has it. Those of this channel are that already."""
        return message

    def _settle(self, name: str, delivery_tag: int, *args: Any) -> None:
        connection, channel = self._open_connection(), self._channel
        is_stale = delivery_tag and delivery_tag >> OPENING_BITS != self._opening
        if connection.link.is_open and (is_stale or not channel.is_open):
            raise RecoverableChannelError(
                "the message arrived before the broker closed its channel, and is the broker's again: it will be "
                "delivered once more",
                (60, 80),
            )
        try:
            getattr(channel, name)(delivery_tag & ((1 << OPENING_BITS) - 1), *args)
        except ConnectionLost as error:
            connection.note_end()
            # The class by which kombu and Celery know that the connection is gone, and not this one message.
            raise BrokenPipeError(EPIPE, error.text) from error
        except AMQPError as error:
            self._fail(error)

    def basic_ack(self, delivery_tag: int, multiple: bool = False, *_: Any) -> None:
        """Acknowledges a message. From any thread."""
        self._settle("basic_ack", delivery_tag, multiple)

    def basic_nack(self, delivery_tag: int, multiple: bool = False, requeue: bool = True, *_: Any) -> None:
        """Refuses a message. From any thread. py-amqp has no such method."""
        self._settle("basic_nack", delivery_tag, multiple, requeue)

    def basic_reject(self, delivery_tag: int, requeue: bool, *_: Any) -> None:
        """Refuses a message. From any thread."""
        self._settle("basic_reject", delivery_tag, requeue)

    def basic_recover(self, requeue: bool = False) -> None:
        """Has the broker deliver all unacknowledged messages again. RabbitMQ takes only requeue=True."""
        self._ask("basic_recover", requeue)

    basic_recover_async = basic_recover

    # --- publishing ---------------------------------------------------------------------------------------------------

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Any = None,
        properties: dict[str, Any] | None = None,
    ) -> Outgoing:
        """Makes the message that `basic_publish` takes."""
        return Outgoing(
            body,
            {
                "priority": priority,
                "content_type": content_type,
                "content_encoding": content_encoding,
                HEADERS: headers,
                **(properties or {}),
            },
        )

    def basic_publish(
        self,
        msg: Any,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        *_: Any,
    ) -> None:
        """Publishes a message: `msg`, of `prepare_message` or of py-amqp. With the transport option confirm_publish it
        waits for the broker's confirm.

        timeout: seconds until the kernel has taken it. confirm_timeout: seconds until it is confirmed."""
        connection = self._open_connection()
        if connection.confirm_publish:
            self.basic_publish_confirm(msg, exchange, routing_key, mandatory, immediate, timeout, confirm_timeout)
            return
        connection.look()  # a lost link, or an error of an earlier publish, is raised before this one goes out
        channel = self._current()
        body, properties = encoded(msg)
        try:
            channel.basic_publish(exchange, routing_key, body, properties, mandatory, immediate, True, timeout=timeout)
        except OperationTimeout as error:
            raise RecoverableConnectionError("basic_publish: timed out") from error
        except MessageReturned as error:  # after confirm_select
            self._returned(error.message)
        except AMQPError as error:
            self._fail(error)

    def basic_publish_confirm(
        self,
        msg: Any,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        *_: Any,
    ) -> None:
        """Publishes a message, and waits for the broker's confirm. MessageNacked: the broker refused it."""
        channel = self._current()
        body, properties = encoded(msg)
        limit = timeout if confirm_timeout is None else confirm_timeout
        try:
            if not channel.is_confirming:
                channel.confirm_select()
            channel.basic_publish(exchange, routing_key, body, properties, mandatory, immediate, True, timeout=limit)
        except MessageReturned as error:
            self._returned(error.message)
        except AMQPError as error:
            self._fail(error)

    def _on_return(self, opening: int, delivery: Delivery) -> None:
        # A publish that is confirmed has told of it itself.
        if opening == self._opening and not self._channel.is_confirming:
            self._returned(delivery)

    def _returned(self, delivery: Delivery) -> None:
        returned = MessageReturned(
            str(delivery.reply_text), message=delivery, code=delivery.reply_code, method="basic.return"
        )
        error = by_code(returned, ChannelError)
        handlers = self.events.get("basic_return")
        if not handlers:
            raise error from returned
        for handler in list(handlers):
            handler(error, delivery.exchange, delivery.routing_key, self.Message(delivery, self))

    # --- modes --------------------------------------------------------------------------------------------------------

    def confirm_select(self, nowait: bool = False) -> None:
        """Has the broker confirm every message that the channel publishes from here on."""
        self._ask("confirm_select")

    def tx_select(self) -> None:
        """Puts publishes and acknowledgements into transactions from here on."""
        self._ask("tx_select")

    def tx_commit(self) -> None:
        """Carries out the transaction."""
        self._ask("tx_commit")

    def tx_rollback(self) -> None:
        """Drops the transaction."""
        self._ask("tx_rollback")
