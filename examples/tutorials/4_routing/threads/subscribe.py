"""Prints the alerts of some levels, until Ctrl-C.

python examples/tutorials/4_routing/threads/subscribe.py warning error
"""

import os
import sys
from contextlib import suppress

from cpspika.threads import ThreadedConnection

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
levels = sys.argv[1:] or ["warning", "error"]


def on_message(message):  # on a thread of the connection's
    print(f"{message.routing_key}: {message.body.decode()}", flush=True)


with suppress(KeyboardInterrupt), ThreadedConnection(URL) as connection:
    channel = connection.channel()
    channel.exchange_declare("alerts", "direct", auto_delete=True)
    queue = channel.queue_declare(exclusive=True).queue
    for level in levels:
        channel.queue_bind(queue, "alerts", routing_key=level)
    channel.basic_consume(queue, on_message, no_ack=True)
    print("waiting for messages; Ctrl-C ends this", flush=True)
    connection.join()  # until it is closed
