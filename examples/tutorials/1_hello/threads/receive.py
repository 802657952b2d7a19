"""Prints the messages of the queue "hello", until Ctrl-C.

python examples/tutorials/1_hello/threads/receive.py
"""

import os
from contextlib import suppress

from cpspika.threads import ThreadedConnection

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone


def on_message(message):  # on a thread of the connection's
    print(f"received {message.body.decode()!r}", flush=True)
    message.ack()


with suppress(KeyboardInterrupt), ThreadedConnection(URL) as connection:
    channel = connection.channel()
    channel.queue_declare("hello", durable=True, arguments=EXPIRES)
    channel.basic_consume("hello", on_message)
    print("waiting for messages; Ctrl-C ends this", flush=True)
    connection.join()  # until it is closed
