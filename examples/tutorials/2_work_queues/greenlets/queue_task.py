"""Queues a task: its name, and the seconds that it takes.

python examples/tutorials/2_work_queues/greenlets/queue_task.py boil 3
"""

from gevent import monkey

monkey.patch_all()  # before every other import; the rest is as in a script

import os  # noqa: E402
import sys  # noqa: E402

import cpspika  # noqa: E402

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone
name, seconds = sys.argv[1:] or ("wash up", "2")

with cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.confirm_select()  # a publish is done when the broker has the message
    channel.queue_declare("tasks", durable=True, arguments=EXPIRES)
    channel.basic_publish(
        routing_key="tasks",
        body=f"{name}:{seconds}",
        properties={"delivery_mode": 2},  # persistent: the broker keeps it on disk
    )
    print(f"queued {name!r}")
