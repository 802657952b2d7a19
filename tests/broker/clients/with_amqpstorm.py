# ruff: noqa: PT017 (a script without pytest)
"""amqpstorm's everyday work; host and port are the arguments."""

import sys
import time

import amqpstorm
from amqpstorm import Message

host, port = sys.argv[1], int(sys.argv[2])
with amqpstorm.Connection(host, "guest", "guest", port=port, heartbeat=30) as connection:
    channel = connection.channel()
    channel.confirm_deliveries()
    channel.exchange.declare("sx", "fanout")
    queue = channel.queue.declare("", exclusive=True)["queue"]
    channel.queue.bind(queue, "sx", "")
    for number in range(10):
        properties = {"headers": {"n": number}, "content_type": "text/plain"}
        assert Message.create(channel, f"body {number}", properties).publish("", "sx")
    try:
        Message.create(channel, "lost").publish("nowhere", mandatory=True)
    except amqpstorm.AMQPMessageError as error:
        assert error.error_code == 312, error

    got = []

    def on_message(message):
        got.append(message.body)
        message.ack()
        if len(got) == 10:
            message.channel.stop_consuming()

    channel.basic.qos(3)
    channel.basic.consume(on_message, queue)
    channel.start_consuming()
    assert got == [f"body {number}" for number in range(10)]

    big = "0123456789abcdef" * 60000
    Message.create(channel, big).publish(queue)
    message = channel.basic.get(queue)
    assert message.body == big
    message.reject(requeue=True)
    message = channel.basic.get(queue, no_ack=True)
    assert message.redelivered
    assert channel.basic.get(queue) is None

    asking = connection.channel()
    replies = []
    asking.basic.consume(replies.append, "amq.rabbitmq.reply-to", no_ack=True)
    Message.create(asking, "question", {"reply_to": "amq.rabbitmq.reply-to"}).publish(queue)
    until = time.monotonic() + 10
    while (question := channel.basic.get(queue, no_ack=True)) is None:
        assert time.monotonic() < until
    Message.create(channel, question.body + "!").publish(question.reply_to)
    while not replies:
        assert time.monotonic() < until
        asking.process_data_events()
    assert replies[0].body == "question!"

    try:
        connection.channel().queue.declare("missing", passive=True)
    except amqpstorm.AMQPChannelError as error:
        assert error.error_code == 404
    channel.queue.unbind(queue, "sx", "")
    channel.queue.delete(queue)
    channel.exchange.delete("sx")
    channel.close()
print("done")
