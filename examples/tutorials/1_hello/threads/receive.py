"""Prints the messages of the queue "hello", until Ctrl-C.

python examples/tutorials/1_hello/threads/receive.py        (the broker: AMQP_URL, or amqp://localhost)
"""

import os
from contextlib import suppress

from cpspika.threads import ThreadedConnection

URL = os.environ.get("AMQP_URL", "amqp://localhost")
EXPIRES = {"x-expires": 600_000}  # the broker deletes the queue after ten minutes (in ms) without use


def on_message(message):  # on a thread of the connection's
    print(f"received {message.body.decode()!r}", flush=True)
    message.ack()


with suppress(KeyboardInterrupt), ThreadedConnection(URL) as connection:
    channel = connection.channel()
    channel.queue_declare("hello", durable=True, arguments=EXPIRES)
    channel.basic_consume("hello", on_message)
    print("waiting for messages; Ctrl-C ends this", flush=True)
    connection.join()  # until it is closed; raises the error that closed it
