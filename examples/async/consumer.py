"""A consumer: on_message is called for each delivery. The program publishes five messages first, and ends after them.

python examples/async/consumer.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")
MESSAGES = 5


def connected(err, connection):
    if err:
        raise err

    def declared(err, ok):
        if err:
            raise err
        channel.basic_consume(ok.queue, on_message)
        for number in range(1, MESSAGES + 1):
            channel.basic_publish(routing_key=ok.queue, body=f"message {number}")

    def on_message(message):
        print(f"delivery {message.delivery_tag}: {message.body.decode()}")
        message.ack()
        if message.delivery_tag == MESSAGES:
            channel.basic_cancel(message.consumer_tag, on_done=cancelled)

    def cancelled(err, consumer_tag):
        if err:
            raise err
        print("cancelled the consumer")
        connection.close()

    channel = connection.channel()
    channel.basic_qos(prefetch_count=2)  # at most two unacknowledged messages
    channel.queue_declare(exclusive=True, on_done=declared)


cpspika.connect(URL, on_done=connected).reactor.run()
