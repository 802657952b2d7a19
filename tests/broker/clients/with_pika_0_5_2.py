# Python 2.7. The everyday work of a client, done by pika 0.5.2, which speaks AMQP 0-8.
# ruff: noqa
import sys

import pika


def main(host, port):
    credentials = pika.PlainCredentials("guest", "guest")
    connection = pika.AsyncoreConnection(pika.ConnectionParameters(host, port=port, credentials=credentials))
    channel = connection.channel()
    channel.queue_delete(queue="old")
    channel.queue_declare(queue="old", durable=True, exclusive=False, auto_delete=False)
    channel.exchange_declare(exchange="old-x", type="topic", durable=False, auto_delete=False)
    channel.queue_bind(queue="old", exchange="old-x", routing_key="a.#")
    properties = pika.BasicProperties(content_type="text/plain", delivery_mode=2, headers={"n": 5, "s": "text"})
    channel.basic_publish(exchange="old-x", routing_key="a.b", body="one", properties=properties)
    channel.basic_publish(exchange="", routing_key="old", body="x" * 3000)

    method = channel.basic_get(queue="old")
    assert isinstance(method, pika.spec.Basic.GetOk), method
    assert (method.get_body(), method.get_properties().headers) == ("one", {"n": 5, "s": "text"})
    channel.basic_recover(requeue=True)

    seen = []

    def on_message(channel, method, header, body):
        seen.append((method.redelivered, len(body)))
        channel.basic_ack(delivery_tag=method.delivery_tag)

    tag = channel.basic_consume(on_message, queue="old")
    while len(seen) < 2:
        connection.drain_events()
    assert seen == [(True, 3), (False, 3000)], seen
    channel.basic_cancel(tag)
    channel.tx_select()
    channel.basic_publish(exchange="", routing_key="old", body="rolled back")
    channel.tx_rollback()
    channel.basic_publish(exchange="", routing_key="old", body="committed")
    channel.tx_commit()
    assert channel.queue_purge(queue="old").message_count == 1

    try:
        channel.queue_declare(queue="missing", passive=True)
    except pika.exceptions.ChannelClosed as error:
        assert error.args[0].reply_code == 404, error.args
    else:
        raise AssertionError("a missing queue was found")
    channel = connection.channel()
    channel.queue_delete(queue="old")
    channel.exchange_delete(exchange="old-x")
    connection.close()
    assert not connection.is_alive()
    print("done")


main(sys.argv[1], int(sys.argv[2]))
