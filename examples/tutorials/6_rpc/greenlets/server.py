"""Answers requests: the factorial of the number that each brings, until Ctrl-C.

python examples/tutorials/6_rpc/greenlets/server.py
"""

from gevent import monkey

monkey.patch_all()  # before every other import; the rest is as in a script

import math  # noqa: E402
import os  # noqa: E402
from contextlib import suppress  # noqa: E402

import cpspika  # noqa: E402

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone

with suppress(KeyboardInterrupt), cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.queue_declare("factorial", durable=True, arguments=EXPIRES)
    channel.basic_qos(prefetch_count=1)
    print("waiting for messages; Ctrl-C ends this", flush=True)
    for message in channel.consume("factorial"):
        answer = str(math.factorial(int(message.body)))
        message.channel.basic_publish(
            routing_key=message.properties.reply_to,
            body=answer,
            properties={"correlation_id": message.properties.correlation_id},
        )
        message.ack()
        print(f"answered {message.body.decode()}", flush=True)
