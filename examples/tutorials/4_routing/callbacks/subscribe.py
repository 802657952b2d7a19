"""Prints the alerts of some levels, until Ctrl-C.

python examples/tutorials/4_routing/callbacks/subscribe.py warning error
"""

import os
import sys

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
levels = sys.argv[1:] or ["warning", "error"]


def connected(err, connection):
    if err:
        raise err

    def declared(err, ok):
        if err:
            raise err
        for level in levels:
            channel.queue_bind(ok.queue, "alerts", routing_key=level)
        channel.basic_consume(ok.queue, on_message, no_ack=True, on_done=consuming)

    channel = connection.channel()
    channel.exchange_declare("alerts", "direct", auto_delete=True)
    channel.queue_declare(exclusive=True, on_done=declared)


def consuming(err, consumer_tag):
    if err:
        raise err
    print("waiting for messages; Ctrl-C ends this", flush=True)


def on_message(message):
    print(f"{message.routing_key}: {message.body.decode()}", flush=True)


connection = cpspika.connect(URL, on_done=connected)
try:
    connection.reactor.run()
except KeyboardInterrupt:
    connection.close()
    connection.reactor.run()  # until it is closed
