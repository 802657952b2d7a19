"""Does the tasks of the queue, one after another, until Ctrl-C. Start several.

python examples/tutorials/2_work_queues/tasks/worker.py        (the broker: AMQP_URL, or amqp://localhost)
"""

import os
from contextlib import suppress

from cpspika import tasks

URL = os.environ.get("AMQP_URL", "amqp://localhost")
EXPIRES = {"x-expires": 600_000}  # the broker deletes the queue after ten minutes (in ms) without use


async def main():
    async with await tasks.connect(URL) as connection:
        channel = await connection.channel()
        await channel.queue_declare("tasks", durable=True, arguments=EXPIRES)
        await channel.basic_qos(prefetch_count=1)  # one task at a time; other workers get the rest
        print("waiting for messages; Ctrl-C ends this", flush=True)
        async for message in channel.consume("tasks"):
            name, seconds = message.body.decode().split(":")
            print(f"began {name!r}", flush=True)
            await tasks.sleep(float(seconds))
            print(f"did {name!r}", flush=True)
            message.ack()  # only now: if this worker ends before, another one gets the task


with suppress(KeyboardInterrupt):
    tasks.run(main())
