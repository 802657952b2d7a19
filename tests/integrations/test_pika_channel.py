"""A BlockingChannel: pika's own, and the face's."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import cpspika.integrations.pika as face
from cpspika.broker import serve
from tests.integrations.conftest import Client
from tests.support.styles import PATIENCE

# --- queues and exchanges ---------------------------------------------------------------------------------------------


def test_queues(client: Client) -> None:
    channel = client.channel()
    frame = channel.queue_declare("", exclusive=True)
    queue = frame.method.queue
    assert frame.channel_number == channel.channel_number == int(channel)
    assert type(frame.method).__name__ == "DeclareOk"
    assert frame.method.NAME == "Queue.DeclareOk"
    assert (frame.method.message_count, frame.method.consumer_count) == (0, 0)
    assert queue
    assert isinstance(frame.method, client.pika.spec.Queue.DeclareOk)
    assert isinstance(channel.queue_bind(queue, "amq.direct").method, client.pika.spec.Queue.BindOk)
    channel.basic_publish("amq.direct", queue, b"by the queue's name")
    assert client.get(channel, queue)[2] == b"by the queue's name"
    assert isinstance(channel.queue_unbind(queue, "amq.direct").method, client.pika.spec.Queue.UnbindOk)
    second = client.filled(channel, "one", "two")
    assert channel.queue_purge(second).method.message_count == 2
    assert channel.queue_delete(queue).method.message_count == 0
    assert isinstance(channel.queue_delete(second).method, client.pika.spec.Queue.DeleteOk)


def test_exchanges(client: Client) -> None:
    channel = client.channel()
    source, destination = f"source-{id(client)}", f"destination-{id(client)}"
    exchange = client.pika.spec.Exchange
    made = channel.exchange_declare(source, client.pika.exchange_type.ExchangeType.topic, auto_delete=True)
    assert isinstance(made.method, exchange.DeclareOk)
    channel.exchange_declare(exchange=destination, exchange_type="fanout", auto_delete=False)
    assert isinstance(channel.exchange_bind(destination, source, "a.#").method, exchange.BindOk)
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, destination, "")
    channel.basic_publish(source, "a.b", b"through both")
    assert client.get(channel, queue)[2] == b"through both"
    assert isinstance(channel.exchange_unbind(destination, source, "a.#").method, exchange.UnbindOk)
    assert isinstance(channel.exchange_delete(destination).method, exchange.DeleteOk)


@pytest.mark.parametrize("call", ["queue_declare", "queue_delete", "queue_purge", "exchange_declare", "basic_get"])
def test_a_name_is_a_str(client: Client, call: str) -> None:
    with pytest.raises(TypeError):
        getattr(client.channel(), call)(7)


def test_a_missing_queue_closes_the_channel(client: Client) -> None:
    connection = client.connect()
    channel = connection.channel()
    with pytest.raises(client.pika.exceptions.ChannelClosedByBroker) as caught:
        channel.queue_declare("cpspika-missing", passive=True)
    error = caught.value
    assert error.reply_code == 404
    assert error.reply_text.startswith("NOT_FOUND - no queue 'cpspika-missing'")
    assert error.args == (404, error.reply_text)
    assert isinstance(error, client.pika.exceptions.ChannelClosed)
    assert repr(error).startswith("ChannelClosedByBroker: (404) ")
    assert channel.is_closed
    assert not channel.is_open
    for call in (lambda: channel.queue_declare(""), lambda: channel.basic_ack(1), lambda: channel.close()):
        with pytest.raises(client.pika.exceptions.ChannelWrongStateError, match="Channel is closed"):
            call()
    assert connection.is_open
    connection.channel().queue_declare("", exclusive=True)


def test_an_error_that_nothing_answers_shows_at_the_next_call(client: Client) -> None:
    channel = client.channel()
    channel.basic_publish("cpspika-missing", "", b"")
    with pytest.raises(client.pika.exceptions.ChannelClosedByBroker, match="no exchange 'cpspika-missing'"):
        channel.queue_declare("", exclusive=True)
    with pytest.raises(client.pika.exceptions.ChannelWrongStateError):
        channel.queue_declare("", exclusive=True)


def test_an_unknown_delivery_tag_ends_start_consuming(client: Client) -> None:
    channel = client.channel()
    queue = client.filled(channel, "one")
    channel.basic_consume(queue, lambda ch, method, properties, body: ch.basic_ack(method.delivery_tag + 7))
    with pytest.raises(client.pika.exceptions.ChannelClosedByBroker, match="unknown delivery tag"):
        channel.start_consuming()
    assert channel.consumer_tags == []


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_message_by_basic_get(client: Client) -> None:
    pika = client.pika
    channel = client.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    assert channel.basic_get(queue) == (None, None, None)
    sent = pika.BasicProperties(
        content_type="text/plain",
        content_encoding="utf-8",
        headers={"text": "é", "number": -3, "flag": True, "nothing": None, "list": [1, "b"], "table": {"a": 15}},
        delivery_mode=pika.DeliveryMode.Persistent,
        priority=3,
        correlation_id="c",
        reply_to="r",
        expiration="60000",
        message_id="m",
        timestamp=1_700_000_000,
        type="t",
        user_id="guest",
        app_id="a",
    )
    channel.basic_publish("", queue, "größer", sent)
    channel.basic_publish("", queue, b"second")
    method, properties, body = client.get(channel, queue, auto_ack=False)
    assert isinstance(method, pika.spec.Basic.GetOk)
    assert (method.exchange, method.routing_key, method.redelivered) == ("", queue, False)
    assert method.message_count in (0, 1)
    assert body == "größer".encode()
    assert isinstance(properties, pika.BasicProperties)
    assert properties == sent
    assert properties != client.pika.BasicProperties(content_type="text/html")
    assert vars(properties) == vars(sent)
    assert vars(properties)["message_id"] == "m"
    assert vars(properties)["cluster_id"] is None
    assert vars(copy.deepcopy(properties)) == vars(pickle.loads(pickle.dumps(properties))) == vars(sent)
    assert properties.delivery_mode == 2
    assert properties.timestamp == 1_700_000_000
    assert properties.headers["table"] == {"a": 15}
    assert properties.cluster_id is None
    channel.basic_nack(method.delivery_tag)
    method, _, body = client.get(channel, queue, auto_ack=False)
    assert method.redelivered
    channel.basic_reject(method.delivery_tag, requeue=False)
    method, properties, body = client.get(channel, queue)
    assert (body, properties) == (b"second", pika.BasicProperties())


def test_properties_that_arrived_can_be_changed_and_sent_on(client: Client) -> None:
    channel = client.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.basic_publish("", queue, b"", client.pika.BasicProperties(headers={"n": 1}, app_id="first"))
    _, properties, _ = client.get(channel, queue)
    properties.app_id = "second"
    properties.headers["n"] += 1
    channel.basic_publish("", queue, b"", properties)
    _, properties, _ = client.get(channel, queue)
    assert (properties.app_id, properties.headers) == ("second", {"n": 2})


def test_a_large_message(client: Client) -> None:
    channel = client.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    large = bytes(range(256)) * 8000
    channel.basic_publish("", queue, large)
    assert client.get(channel, queue)[2] == large


def test_a_confirmed_publish(client: Client) -> None:
    channel = client.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.confirm_delivery()
    channel.confirm_delivery()  # says so in the log, and does nothing
    assert channel.basic_publish("", queue, b"confirmed", mandatory=True) is None
    assert channel.basic_get(queue, auto_ack=True)[2] == b"confirmed"
    properties = client.pika.BasicProperties(message_id="7")
    with pytest.raises(client.pika.exceptions.UnroutableError) as caught:
        channel.basic_publish("", "cpspika-missing", b"lost", properties, mandatory=True)
    assert str(caught.value) == "1 unroutable message(s) returned"
    (message,) = caught.value.messages
    assert (message.method.reply_code, message.method.reply_text) == (312, "NO_ROUTE")
    assert (message.method.routing_key, message.body) == ("cpspika-missing", b"lost")
    assert message.properties.message_id == "7"
    channel.basic_publish("", "cpspika-missing", b"lost")  # not mandatory: confirmed
    channel.basic_publish("", queue, b"goes on")
    assert client.get(channel, queue)[2] == b"goes on"


def test_a_refused_publish(own_client: Client) -> None:
    channel = own_client.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.confirm_delivery()
    own_client.broker.nack_next()
    with pytest.raises(own_client.pika.exceptions.NackError) as caught:
        channel.basic_publish("", queue, b"refused")
    assert str(caught.value) == "0 message(s) NACKed"
    assert caught.value.messages == []
    channel.basic_publish("", queue, b"taken")


def test_a_confirmed_publish_to_a_missing_exchange(client: Client) -> None:
    channel = client.channel()
    channel.confirm_delivery()
    with pytest.raises(client.pika.exceptions.ChannelClosedByBroker) as caught:
        channel.basic_publish("cpspika-missing", "", b"")
    assert caught.value.reply_code == 404


@pytest.mark.parametrize("confirming", [False, True])
def test_a_returned_message_goes_to_the_callback(client: Client, confirming: bool) -> None:
    connection = client.connect()
    channel = connection.channel()
    returned: list[Any] = []
    channel.add_on_return_callback(lambda *args: returned.append(args))
    if confirming:
        channel.confirm_delivery()
        with pytest.raises(client.pika.exceptions.UnroutableError):
            channel.basic_publish("", "cpspika-missing", b"lost", mandatory=True)
    else:
        channel.basic_publish("", "cpspika-missing", b"lost", mandatory=True)
    client.pump(connection, lambda: returned, "returned message")
    ((where, method, properties, body),) = returned
    assert where is channel
    assert isinstance(method, client.pika.spec.Basic.Return)
    assert (method.reply_code, method.exchange, body) == (312, "", b"lost")
    assert properties == client.pika.BasicProperties()


def test_a_short_string_that_is_too_long(client: Client) -> None:
    channel = client.channel()
    with pytest.raises(client.pika.exceptions.ShortStringTooLong):
        channel.basic_publish("", "k" * 256, b"")
    with pytest.raises(client.pika.exceptions.ShortStringTooLong):
        channel.queue_declare("q" * 256)


def test_transactions(client: Client) -> None:
    channel = client.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    assert isinstance(channel.tx_select().method, client.pika.spec.Tx.SelectOk)
    channel.basic_publish("", queue, b"dropped")
    assert isinstance(channel.tx_rollback().method, client.pika.spec.Tx.RollbackOk)
    channel.basic_publish("", queue, b"kept")
    assert isinstance(channel.tx_commit().method, client.pika.spec.Tx.CommitOk)
    assert client.get(channel, queue)[2] == b"kept"


def test_confirms_and_transactions_exclude_each_other(client: Client) -> None:
    channel = client.channel()
    channel.tx_select()
    with pytest.raises(client.pika.exceptions.ChannelClosedByBroker) as caught:
        channel.confirm_delivery()
    assert caught.value.reply_code == 406


def test_flow_qos_and_recover(client: Client) -> None:
    channel = client.channel()
    assert channel.flow(True) is True
    channel.basic_qos(prefetch_count=1)
    channel.basic_qos(0, 1, global_qos=True)
    with pytest.raises(ValueError, match="prefetch_count"):
        channel.basic_qos(prefetch_count=-1)
    queue = client.filled(channel, "one")
    client.get(channel, queue, auto_ack=False)
    channel.basic_recover(requeue=True)
    method, _, _ = client.get(channel, queue)
    assert method.redelivered


# --- consumers --------------------------------------------------------------------------------------------------------


def test_a_callback_consumer(client: Client) -> None:
    channel = client.channel()
    queue = client.filled(channel, "0", "1", "2")
    got: list[Any] = []

    def on_message(*args: Any) -> None:
        where, method = args[:2]
        got.append(args)
        where.basic_ack(method.delivery_tag)
        if len(got) == 3:
            where.stop_consuming()

    tag = channel.basic_consume(queue, on_message)
    assert isinstance(tag, str)
    assert channel.consumer_tags == [tag]
    channel.start_consuming()
    assert [body for _, _, _, body in got] == [b"0", b"1", b"2"]
    where, method, properties, _ = got[0]
    assert where is channel
    assert isinstance(method, client.pika.spec.Basic.Deliver)
    assert (method.consumer_tag, method.redelivered, method.exchange, method.routing_key) == (tag, False, "", queue)
    assert [method.delivery_tag for _, method, _, _ in got] == [1, 2, 3]
    assert isinstance(properties, client.pika.BasicProperties)
    assert channel.consumer_tags == []
    assert channel.queue_declare(queue, passive=True).method.message_count == 0


def test_a_consumer_by_keywords(client: Client) -> None:
    connection = client.connect()
    channel = connection.channel()
    queue = client.filled(channel, "0")
    got: list[bytes] = []
    tag = channel.basic_consume(
        queue=queue,
        on_message_callback=lambda ch, method, properties, body: got.append(body),
        auto_ack=True,
        exclusive=True,
        consumer_tag="mine",
        arguments={"x-priority": 3},
    )
    assert tag == "mine"
    client.pump(connection, lambda: got, "message")
    assert got == [b"0"]
    with pytest.raises(client.pika.exceptions.ChannelClosedByBroker) as caught:
        connection.channel().basic_consume(queue, print)
    assert caught.value.reply_code == 403
    assert channel.basic_cancel("mine") == []
    assert channel.basic_cancel("mine") == []  # an unknown tag is no error


def test_mistakes_of_a_consumer(client: Client) -> None:
    channel = client.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    with pytest.raises(TypeError):
        channel.basic_consume(queue, "print")
    with pytest.raises(TypeError):
        channel.basic_consume(None, print)
    channel.basic_consume(queue, print, consumer_tag="mine")
    with pytest.raises(client.pika.exceptions.DuplicateConsumerTag) as caught:
        channel.basic_consume(queue, print, consumer_tag="mine")
    assert caught.value.args == ("mine",)
    assert channel.consumer_tags == ["mine"]


def test_messages_wait_until_events_are_processed(client: Client) -> None:
    connection = client.connect()
    channel = connection.channel()
    queue = client.filled(channel, "0", "1")
    got: list[bytes] = []
    channel.basic_consume(queue, lambda ch, method, properties, body: got.append(body), auto_ack=True)
    other = connection.channel()
    for _ in range(10):
        other.queue_declare("", exclusive=True)
    assert got == []
    client.pump(connection, lambda: len(got) == 2, "two messages")


def test_a_callback_may_ask_and_wait_but_not_nest(client: Client) -> None:
    channel = client.channel()
    queue = client.filled(channel, "0", "1")
    told: list[Any] = []

    def on_message(where: Any, method: Any, properties: Any, body: bytes) -> None:
        told.append(body)
        told.append(where.queue_declare(queue, passive=True).method.queue)
        with pytest.raises(client.pika.exceptions.ReentrancyError):
            where.start_consuming()
        where.connection.process_data_events(time_limit=0.01)  # calls no callback inside a callback
        told.append("end")
        where.basic_ack(method.delivery_tag)
        if body == b"1":
            where.stop_consuming()

    channel.basic_consume(queue, on_message)
    channel.start_consuming()
    assert told == [b"0", queue, "end", b"1", queue, "end"]


def test_an_exception_of_a_callback_comes_out_and_the_rest_goes_on(client: Client) -> None:
    connection = client.connect()
    channel = connection.channel()
    queue = client.filled(channel, "0", "1")
    got: list[bytes] = []

    def on_message(where: Any, method: Any, properties: Any, body: bytes) -> None:
        got.append(body)
        where.basic_ack(method.delivery_tag)
        if body == b"0":
            raise ZeroDivisionError
        where.stop_consuming()

    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue, on_message)
    with pytest.raises(ZeroDivisionError):
        channel.start_consuming()
    assert connection.is_open
    channel.start_consuming()
    assert got == [b"0", b"1"]


def test_two_consumers_of_one_channel(client: Client) -> None:
    channel = client.channel()
    first, second = client.filled(channel, "a"), client.filled(channel, "b")
    got: list[tuple[str, bytes]] = []

    def on_message(where: Any, method: Any, properties: Any, body: bytes) -> None:
        got.append((method.consumer_tag, body))
        where.stop_consuming(method.consumer_tag)

    channel.basic_consume(first, on_message, auto_ack=True, consumer_tag="first")
    channel.basic_consume(second, on_message, auto_ack=True, consumer_tag="second")
    channel.start_consuming()
    assert sorted(got) == [("first", b"a"), ("second", b"b")]


def test_start_consuming_without_a_consumer_returns(client: Client) -> None:
    client.channel().start_consuming()


def test_cancelling_gives_back_what_nobody_took(client: Client) -> None:
    channel = client.channel()
    queue = client.filled(channel, "0", "1")
    tag = channel.basic_consume(queue, print)
    for _ in range(10):  # the deliveries arrive before one of these answers
        count = channel.queue_declare(queue, passive=True).method.message_count
    assert count == 0
    assert channel.basic_cancel(tag) == []
    bodies = sorted(client.get(channel, queue)[2] for _ in range(2))
    assert bodies == [b"0", b"1"]


def test_cancelling_with_auto_ack_returns_what_nobody_took(client: Client) -> None:
    channel = client.channel()
    queue = client.filled(channel, "0", "1")
    tag = channel.basic_consume(queue, print, auto_ack=True)
    for _ in range(10):  # the deliveries arrive before one of these answers
        count = channel.queue_declare(queue, passive=True).method.message_count
    assert count == 0
    messages = channel.basic_cancel(tag)
    assert [body for _, _, body in messages] == [b"0", b"1"]
    method, properties, _ = messages[0]
    assert isinstance(method, client.pika.spec.Basic.Deliver)
    assert isinstance(properties, client.pika.BasicProperties)


def test_the_broker_cancels_a_consumer(client: Client) -> None:
    connection = client.connect()
    channel, other = connection.channel(), connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    told: list[Any] = []
    channel.add_on_cancel_callback(told.append)
    tag = channel.basic_consume(queue, print)
    other.queue_delete(queue)
    channel.start_consuming()  # ends with the last consumer
    (frame,) = told
    assert isinstance(frame.method, client.pika.spec.Basic.Cancel)
    assert frame.method.consumer_tag == tag
    assert channel.consumer_tags == []
    assert channel.is_open


# --- consume() --------------------------------------------------------------------------------------------------------


def test_consume(client: Client) -> None:
    channel = client.channel()
    queue = client.filled(channel, "0", "1", "2")
    got: list[bytes] = []
    for method, properties, body in channel.consume(queue):
        assert isinstance(method, client.pika.spec.Basic.Deliver)
        assert isinstance(properties, client.pika.BasicProperties)
        got.append(body)
        channel.basic_ack(method.delivery_tag)
        if len(got) == 2:
            break
    assert channel.consumer_tags == [method.consumer_tag]
    for method, _, body in channel.consume(queue):  # goes on with the same consumer
        got.append(body)
        channel.basic_ack(method.delivery_tag)
        break
    assert got == [b"0", b"1", b"2"]
    with pytest.raises(ValueError, match=r"(?i)consume"):
        next(channel.consume(queue, auto_ack=True))
    assert channel.cancel() == 0
    assert channel.cancel() == 0
    assert channel.consumer_tags == []


def test_consume_gives_back_what_it_has_not_handed_out(client: Client) -> None:
    channel = client.channel()
    queue = client.filled(channel, "0", "1", "2")
    method, _, _ = next(channel.consume(queue))
    client.pump(channel.connection, lambda: channel.get_waiting_message_count() == 2, "two messages that wait")
    channel.basic_ack(method.delivery_tag)
    assert channel.cancel() == 0
    assert channel.get_waiting_message_count() == 0
    assert sorted(client.get(channel, queue)[2] for _ in range(2)) == [b"1", b"2"]


def test_giving_back_does_not_count_as_a_failure_of_the_consumer() -> None:
    """A quorum queue of RabbitMQ 4.3 counts basic.reject, and drops the message after twenty."""
    with serve(like="4.3", pretend=["quorum"]) as broker:
        channel = face.BlockingConnection(face.URLParameters(broker.url)).channel()
        channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
        channel.basic_publish("", "q", "x")
        channel.basic_publish("", "q", "y")
        for _ in range(25):
            method, _, _ = next(channel.consume("q", inactivity_timeout=PATIENCE))
            channel.basic_nack(method.delivery_tag)
            channel.cancel()
        assert sorted(channel.basic_get("q", auto_ack=True)[2] for _ in range(2)) == [b"x", b"y"]
        channel.connection.close()


def test_consume_with_an_inactivity_timeout(client: Client) -> None:
    channel = client.channel()
    queue = client.filled(channel, "0")
    got: list[Any] = []
    for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=0.3):
        got.append((method and method.delivery_tag, properties, body))
        if len(got) == 2:
            channel.basic_publish("", queue, "later")
        if len(got) == 3:
            break
    assert [body for _, _, body in got] == [b"0", None, b"later"]
    assert got[1] == (None, None, None)


def test_consume_ends_with_cancel_and_with_its_queue(client: Client) -> None:
    channel = client.channel()
    queue = client.filled(channel, "0")
    for _ in channel.consume(queue, auto_ack=True):
        channel.cancel()
    for _ in channel.consume(client.filled(channel, "0"), auto_ack=True, consumer_tag="mine"):
        assert channel.consumer_tags == ["mine"]
        channel.cancel()
    queue = client.filled(channel, "0")
    other = channel.connection.channel()
    assert [body for _, _, body in _deleting(channel, queue, other)] == [b"0"]


def _deleting(channel: Any, queue: str, other: Any) -> Any:
    for item in channel.consume(queue, auto_ack=True):
        yield item
        other.queue_delete(queue)


def test_consume_from_a_missing_queue(client: Client) -> None:
    channel = client.channel()
    with pytest.raises(client.pika.exceptions.ChannelClosedByBroker):
        next(channel.consume("cpspika-missing"))
    with pytest.raises(client.pika.exceptions.ChannelWrongStateError):
        next(channel.consume("cpspika-missing"))


# --- the channel itself -----------------------------------------------------------------------------------------------


def test_closing_a_channel(client: Client) -> None:
    connection = client.connect()
    with connection.channel() as channel:
        queue = client.filled(channel, "0")
        channel.basic_consume(queue, print)
        assert channel.connection is connection
    assert channel.is_closed
    with pytest.raises(client.pika.exceptions.ChannelWrongStateError, match="Channel is closed"):
        channel.close()
    assert client.get(connection.channel(), queue)[2] == b"0"
    assert connection.is_open


def test_a_channel_of_a_number(client: Client) -> None:
    connection = client.connect()
    assert connection.channel(7).channel_number == 7
    assert [connection.channel().channel_number for _ in range(8)] == [1, 2, 3, 4, 5, 6, 8, 9]


def test_the_last_channel(client: Client) -> None:
    connection = client.connect(channel_max=2)
    connection.channel()
    connection.channel()
    with pytest.raises(client.pika.exceptions.NoFreeChannels):
        connection.channel()
