"""Does the tasks of the queue, one after another, until Ctrl-C. Start several.

python examples/tutorials/2_work_queues/sync/worker.py
"""

import os
import time
from contextlib import suppress

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone

with suppress(KeyboardInterrupt), cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.queue_declare("tasks", durable=True, arguments=EXPIRES)
    channel.basic_qos(prefetch_count=1)  # one task at a time; other workers get the rest
    print("waiting for messages; Ctrl-C ends this", flush=True)
    for message in channel.consume("tasks"):
        name, seconds = message.body.decode().split(":")
        print(f"began {name!r}", flush=True)
        time.sleep(float(seconds))
        print(f"did {name!r}", flush=True)
        message.ack()  # if this worker ends before, another one does the task
