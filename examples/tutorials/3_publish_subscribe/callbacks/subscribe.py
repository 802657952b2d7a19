"""Prints all news from now on, until Ctrl-C. Start several.

python examples/tutorials/3_publish_subscribe/callbacks/subscribe.py
"""

import os

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker


def connected(err, connection):
    if err:
        raise err

    def declared(err, ok):
        if err:
            raise err
        channel.queue_bind(ok.queue, "news")
        channel.basic_consume(ok.queue, on_message, no_ack=True, on_done=consuming)

    channel = connection.channel()
    channel.exchange_declare("news", "fanout", auto_delete=True)
    channel.queue_declare(exclusive=True, on_done=declared)


def consuming(err, consumer_tag):
    if err:
        raise err
    print("waiting for messages; Ctrl-C ends this", flush=True)


def on_message(message):
    print(f"heard {message.body.decode()!r}", flush=True)


connection = cpspika.connect(URL, on_done=connected)
try:
    connection.reactor.run()
except KeyboardInterrupt:
    connection.close()
    connection.reactor.run()  # until it is closed
