"""A work queue: tasks survive a restart of the broker; one worker does each task, and acknowledges it afterwards.

It queues the tasks of its command line, then works until the queue is empty. Start several to share the work:

    python examples/asyncio/worker.py "wash up"        (on AMQP_URL if that is set, else on the embedded broker)
"""

import asyncio
import os
import sys

import cpspika
from cpspika.adapters import asyncio_adapter

URL = os.environ.get("AMQP_URL", "embedded://")
QUEUE = "cpspika.asyncio.tasks"
PERSISTENT = cpspika.BasicProperties(delivery_mode=2)  # persistent: the broker keeps it on disk


async def main():
    async with asyncio_adapter.connect(URL) as connection, connection.channel() as channel:
        await channel.queue_declare(QUEUE, durable=True, arguments={"x-expires": 600_000})  # gone 10 min after use
        for task in sys.argv[1:] or ["first task", "second task", "third task"]:
            await channel.basic_publish(routing_key=QUEUE, body=task, properties=PERSISTENT)
            print(f"queued {task!r}")

        await channel.basic_qos(prefetch_count=1)  # one task at a time; other workers get the rest
        async with channel.consume(QUEUE) as messages:
            while True:
                try:
                    message = await asyncio.wait_for(anext(messages), timeout=1.0)
                except asyncio.TimeoutError:
                    break  # no message for a second
                print(f"working on {message.body.decode()!r}", "again" if message.redelivered else "")
                await asyncio.sleep(0.1)
                message.ack()  # if the worker ends before this, another gets the task
        print("no more tasks")


asyncio.run(main())
