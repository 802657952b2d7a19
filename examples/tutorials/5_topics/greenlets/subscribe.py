"""Prints the readings whose topic matches one of the patterns, until Ctrl-C.

python examples/tutorials/5_topics/greenlets/subscribe.py "kitchen.*"
"""

from gevent import monkey

monkey.patch_all()  # before every other import; the rest is as in a script

import os  # noqa: E402
import sys  # noqa: E402
from contextlib import suppress  # noqa: E402

import cpspika  # noqa: E402

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
