# ruff: noqa: PT017 (a script without pytest)
"""pika's everyday work; the URL is the one argument."""

import sys

import pika

connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
channel.exchange_declare("px", "topic", durable=True)
queue = channel.queue_declare("", exclusive=True).method.queue
channel.queue_bind(queue, "px", "a.*")
channel.confirm_delivery()
for number in range(10):
    properties = pika.BasicProperties(content_type="text/plain", headers={"n": number}, delivery_mode=2)
    channel.basic_publish("px", "a.b", f"body {number}".encode(), properties, mandatory=True)
try:
    channel.basic_publish("px", "nowhere", b"", mandatory=True)
except pika.exceptions.UnroutableError as error:
    assert error.messages[0].method.reply_code == 312
else:
    raise AssertionError("an unroutable message was not returned")

channel.basic_qos(prefetch_count=3)
got = []
for method, properties, body in channel.consume(queue, inactivity_timeout=10):
    assert method is not None, "nothing came"
    assert (properties.content_type, properties.headers["n"]) == ("text/plain", len(got))
    got.append(body)
    channel.basic_ack(method.delivery_tag)
    if len(got) == 10:
        break
assert got == [f"body {number}".encode() for number in range(10)]
channel.cancel()

big = bytes(range(256)) * 8000  # several frames
channel.basic_publish("", queue, big)
method, _, body = channel.basic_get(queue)
assert body == big
channel.basic_nack(method.delivery_tag)
method, _, body = channel.basic_get(queue, auto_ack=True)
assert method.redelivered
assert channel.basic_get(queue) == (None, None, None)

replies = []
channel.basic_consume("amq.rabbitmq.reply-to", lambda *args: replies.append(args[3]), auto_ack=True)
channel.basic_publish("", queue, b"question", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"))
method, properties, body = channel.basic_get(queue, auto_ack=True)
channel.basic_publish("", properties.reply_to, body + b"!")
while not replies:
    connection.process_data_events(1)
assert replies == [b"question!"]

other = connection.channel()
try:
    other.queue_declare("missing", passive=True)
except pika.exceptions.ChannelClosedByBroker as error:
    assert error.reply_code == 404
channel.exchange_delete("px")
connection.close()
print("done")
