"""Prints all news from now on, until Ctrl-C. Start several.

python examples/tutorials/3_publish_subscribe/threads/subscribe.py
"""

import os
from contextlib import suppress

from cpspika.threads import ThreadedConnection

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker


def on_message(message):  # on a thread of the connection's
    print(f"heard {message.body.decode()!r}", flush=True)


with suppress(KeyboardInterrupt), ThreadedConnection(URL) as connection:
    channel = connection.channel()
    channel.exchange_declare("news", "fanout", auto_delete=True)
    queue = channel.queue_declare(exclusive=True).queue
    channel.queue_bind(queue, "news")
    channel.basic_consume(queue, on_message, no_ack=True)
    print("waiting for messages; Ctrl-C ends this", flush=True)
    connection.join()  # until it is closed
