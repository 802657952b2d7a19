"""Answers requests: the factorial of the number that each brings, until Ctrl-C.

python examples/tutorials/6_rpc/threads/server.py
"""

import math
import os
from contextlib import suppress

from cpspika.threads import ThreadedConnection

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone


def on_message(message):  # on a thread of the connection's
    answer = str(math.factorial(int(message.body)))
    message.channel.basic_publish(
        routing_key=message.properties.reply_to,
        body=answer,
        properties={"correlation_id": message.properties.correlation_id},
    )
    message.ack()
    print(f"answered {message.body.decode()}", flush=True)


with suppress(KeyboardInterrupt), ThreadedConnection(URL) as connection:
    channel = connection.channel()
    channel.queue_declare("factorial", durable=True, arguments=EXPIRES)
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume("factorial", on_message)
    print("waiting for messages; Ctrl-C ends this", flush=True)
    connection.join()  # until it is closed
