"""A work queue: tasks survive a restart of the broker; one worker does each task, and acknowledges it afterwards.

It queues the tasks of its command line. Two workers, which are coroutines, share them until the queue is empty:

    python examples/tasks/worker.py "wash up"        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os
import sys

import cpspika
from cpspika import tasks

URL = os.environ.get("AMQP_URL", "embedded://")
QUEUE = "cpspika.tasks.tasks"
PERSISTENT = cpspika.BasicProperties(delivery_mode=2)  # persistent: the broker keeps it on disk


async def work(connection):
    async with await connection.channel() as channel:
        await channel.basic_qos(prefetch_count=1)  # one task at a time; other workers get the rest
        async for message in channel.consume(QUEUE):
            print(f"working on {message.body.decode()!r}", "again" if message.redelivered else "")
            await tasks.sleep(0.1)
            message.ack()  # if the worker ends before this, another gets the task


async def main():
    async with await tasks.connect(URL) as connection, await connection.channel() as channel:
        await channel.queue_declare(QUEUE, durable=True, arguments={"x-expires": 600_000})  # gone 10 min after use
        for task in sys.argv[1:] or ["first task", "second task", "third task"]:
            await channel.basic_publish(routing_key=QUEUE, body=task, properties=PERSISTENT)
            print(f"queued {task!r}")
        workers = [tasks.spawn(work(connection)) for _ in range(2)]
        while (await channel.queue_declare(QUEUE, passive=True)).message_count:
            await tasks.sleep(0.1)
        await tasks.sleep(0.5)  # for the tasks under way
        for worker in workers:
            worker.cancel()  # it closes its channel; the broker requeues its unacknowledged tasks
        print("no more tasks")


tasks.run(main())
