"""py-amqp's everyday work; host and port are the arguments."""

import sys

import amqp

host, port = sys.argv[1:]
with amqp.Connection(f"{host}:{port}", confirm_publish=True, heartbeat=30) as connection:
    channel = connection.channel()
    channel.exchange_declare("ax", "direct", auto_delete=False)
    queue, _, _ = channel.queue_declare("", exclusive=True, auto_delete=False)
    channel.queue_bind(queue, "ax", "k")
    for number in range(10):
        message = amqp.Message(f"body {number}", application_headers={"n": number}, content_type="text/plain")
        channel.basic_publish_confirm(message, "ax", "k", timeout=10)

    returned = []
    channel.events["basic_return"].add(lambda *args: returned.append(args[0]))
    channel.basic_publish(amqp.Message("lost"), "ax", "nowhere", mandatory=True)
    while not returned:
        connection.drain_events(timeout=10)
    assert returned[0].reply_code == 312

    got = []

    def on_message(message):
        got.append(message.body)
        message.channel.basic_ack(message.delivery_tag)

    channel.basic_qos(0, 3, False)
    tag = channel.basic_consume(queue, callback=on_message)
    while len(got) < 10:
        connection.drain_events(timeout=10)
    assert got == [f"body {number}" for number in range(10)]
    channel.basic_cancel(tag)

    big = bytes(range(256)) * 8000
    channel.basic_publish(amqp.Message(big), "", queue)
    message = channel.basic_get(queue)
    assert bytes(message.body) == big
    channel.basic_reject(message.delivery_tag, requeue=True)
    message = channel.basic_get(queue, no_ack=True)
    assert message.delivery_info["redelivered"]
    assert channel.basic_get(queue) is None

    replies = []
    channel.basic_consume("amq.rabbitmq.reply-to", no_ack=True, callback=replies.append)
    channel.basic_publish(amqp.Message("question", reply_to="amq.rabbitmq.reply-to"), "", queue)
    question = channel.basic_get(queue, no_ack=True)
    channel.basic_publish(amqp.Message(question.body + "!"), "", question.properties["reply_to"])
    while not replies:
        connection.drain_events(timeout=10)
    assert replies[0].body == "question!"

    try:
        connection.channel().queue_declare("missing", passive=True)
    except amqp.NotFound:
        pass
    channel.queue_purge(queue)
    channel.queue_delete(queue)
    channel.exchange_delete("ax")
    channel.close()
print("done")
