"""Prints the readings whose topic matches one of the patterns, until Ctrl-C.

python examples/tutorials/5_topics/sync/subscribe.py "kitchen.*"
"""

import os
import sys
from contextlib import suppress

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
patterns = sys.argv[1:] or ["#"]

with suppress(KeyboardInterrupt), cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.exchange_declare("readings", "topic", auto_delete=True)
    queue = channel.queue_declare(exclusive=True).queue
    for pattern in patterns:
        channel.queue_bind(queue, "readings", routing_key=pattern)
    print("waiting for messages; Ctrl-C ends this", flush=True)
    for message in channel.consume(queue, no_ack=True):
        print(f"{message.routing_key} {message.body.decode()}", flush=True)
