"""Prints the readings whose topic matches one of the patterns, until Ctrl-C.

python examples/tutorials/5_topics/callbacks/subscribe.py "kitchen.*"
"""

import os
import sys

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
patterns = sys.argv[1:] or ["#"]


def connected(err, connection):
    if err:
        raise err

    def declared(err, ok):
        if err:
            raise err
        for pattern in patterns:
            channel.queue_bind(ok.queue, "readings", routing_key=pattern)
        channel.basic_consume(ok.queue, on_message, no_ack=True, on_done=consuming)

    channel = connection.channel()
    channel.exchange_declare("readings", "topic", auto_delete=True)
    channel.queue_declare(exclusive=True, on_done=declared)


def consuming(err, consumer_tag):
    if err:
        raise err
    print("waiting for messages; Ctrl-C ends this", flush=True)


def on_message(message):
    print(f"{message.routing_key} {message.body.decode()}", flush=True)


connection = cpspika.connect(URL, on_done=connected)
try:
    connection.reactor.run()
except KeyboardInterrupt:
    connection.close()
    connection.reactor.run()  # until it is closed
