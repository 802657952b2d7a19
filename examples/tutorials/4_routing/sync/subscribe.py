"""Prints the alerts of some levels, until Ctrl-C.

python examples/tutorials/4_routing/sync/subscribe.py warning error
"""

import os
import sys
from contextlib import suppress

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
levels = sys.argv[1:] or ["warning", "error"]

with suppress(KeyboardInterrupt), cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.exchange_declare("alerts", "direct", auto_delete=True)
    queue = channel.queue_declare(exclusive=True).queue
    for level in levels:
        channel.queue_bind(queue, "alerts", routing_key=level)
    print("waiting for messages; Ctrl-C ends this", flush=True)
    for message in channel.consume(queue, no_ack=True):
        print(f"{message.routing_key}: {message.body.decode()}", flush=True)
