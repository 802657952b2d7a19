"""Prints the messages of the queue "hello", until Ctrl-C.

python examples/tutorials/1_hello/greenlets/receive.py
"""

from gevent import monkey

monkey.patch_all()  # before every other import; the rest is as in a script

import os  # noqa: E402
from contextlib import suppress  # noqa: E402

import cpspika  # noqa: E402

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone

with suppress(KeyboardInterrupt), cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.queue_declare("hello", durable=True, arguments=EXPIRES)
    print("waiting for messages; Ctrl-C ends this", flush=True)
    for message in channel.consume("hello"):
        print(f"received {message.body.decode()!r}", flush=True)
        message.ack()
