"""Prints all news from now on, until Ctrl-C. Start several.

python examples/tutorials/3_publish_subscribe/greenlets/subscribe.py
"""

from gevent import monkey

monkey.patch_all()  # before every other import; the rest is as in a script

import os  # noqa: E402
from contextlib import suppress  # noqa: E402

import cpspika  # noqa: E402

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker

with suppress(KeyboardInterrupt), cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.exchange_declare("news", "fanout", auto_delete=True)
    queue = channel.queue_declare(exclusive=True).queue
    channel.queue_bind(queue, "news")
    print("waiting for messages; Ctrl-C ends this", flush=True)
    for message in channel.consume(queue, no_ack=True):
        print(f"heard {message.body.decode()!r}", flush=True)
