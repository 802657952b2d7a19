"""Queues a task: its name, and the seconds that it takes.

python examples/tutorials/2_work_queues/twisted/queue_task.py boil 3
"""

import os
import sys

from twisted.internet.task import react

from cpspika.adapters import twisted_adapter

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone
name, seconds = sys.argv[1:] or ("wash up", "2")


async def main(reactor):
    async with await twisted_adapter.connect(URL, reactor=reactor) as connection:
        channel = await connection.channel()
        await channel.confirm_select()  # a publish is done when the broker has the message
        await channel.queue_declare("tasks", durable=True, arguments=EXPIRES)
        await channel.basic_publish(
            routing_key="tasks",
            body=f"{name}:{seconds}",
            properties={"delivery_mode": 2},  # persistent: the broker keeps it on disk
        )
        print(f"queued {name!r}")


react(main)
