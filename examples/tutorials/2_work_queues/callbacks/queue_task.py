"""Queues a task: its name, and the seconds that it takes.

python examples/tutorials/2_work_queues/callbacks/queue_task.py boil 3
"""

import os
import sys

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone
name, seconds = sys.argv[1:] or ("wash up", "2")


def connected(err, connection):
    if err:
        raise err
    channel = connection.channel()
    channel.confirm_select()  # a publish is done when the broker has the message
    channel.queue_declare("tasks", durable=True, arguments=EXPIRES)
    channel.basic_publish(
        routing_key="tasks",
        body=f"{name}:{seconds}",
        properties={"delivery_mode": 2},  # persistent: the broker keeps it on disk
        on_done=published,
    )


def published(err, result):
    if err:
        raise err
    print(f"queued {name!r}")
    connection.close()


connection = cpspika.connect(URL, on_done=connected)
connection.reactor.run()
