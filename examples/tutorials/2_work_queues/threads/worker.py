"""Does the tasks of the queue, one after another, until Ctrl-C. Start several.

python examples/tutorials/2_work_queues/threads/worker.py
"""

import os
import time
from contextlib import suppress

from cpspika.threads import ThreadedConnection

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone


def on_message(message):  # on a thread of the connection's
    name, seconds = message.body.decode().split(":")
    print(f"began {name!r}", flush=True)
    time.sleep(float(seconds))
    print(f"did {name!r}", flush=True)
    message.ack()  # if this worker ends before, another one does the task


with suppress(KeyboardInterrupt), ThreadedConnection(URL) as connection:
    channel = connection.channel()
    channel.queue_declare("tasks", durable=True, arguments=EXPIRES)
    channel.basic_qos(prefetch_count=1)  # one task at a time; other workers get the rest
    channel.basic_consume("tasks", on_message)
    print("waiting for messages; Ctrl-C ends this", flush=True)
    connection.join()  # until it is closed
