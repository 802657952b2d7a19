"""Prints the readings whose topic matches one of the patterns, until Ctrl-C.

python examples/tutorials/5_topics/threads/subscribe.py "kitchen.*"
"""

import os
import sys
from contextlib import suppress

from cpspika.threads import ThreadedConnection

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
patterns = sys.argv[1:] or ["#"]


def on_message(message):  # on a thread of the connection's
    print(f"{message.routing_key} {message.body.decode()}", flush=True)


with suppress(KeyboardInterrupt), ThreadedConnection(URL) as connection:
    channel = connection.channel()
    channel.exchange_declare("readings", "topic", auto_delete=True)
    queue = channel.queue_declare(exclusive=True).queue
    for pattern in patterns:
        channel.queue_bind(queue, "readings", routing_key=pattern)
    channel.basic_consume(queue, on_message, no_ack=True)
    print("waiting for messages; Ctrl-C ends this", flush=True)
    connection.join()  # until it is closed
