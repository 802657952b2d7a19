"""Prints all news from now on, until Ctrl-C. Start several.

python examples/tutorials/3_publish_subscribe/sync/subscribe.py
"""

import os
from contextlib import suppress

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker

with suppress(KeyboardInterrupt), cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.exchange_declare("news", "fanout", auto_delete=True)
    queue = channel.queue_declare(exclusive=True).queue
    channel.queue_bind(queue, "news")
    print("waiting for messages; Ctrl-C ends this", flush=True)
    for message in channel.consume(queue, no_ack=True):
        print(f"heard {message.body.decode()!r}", flush=True)
