"""Prints the messages of the queue "hello", until Ctrl-C.

python examples/tutorials/1_hello/tasks/receive.py
"""

import os
from contextlib import suppress

from cpspika import tasks

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone


async def main():
    async with await tasks.connect(URL) as connection:
        channel = await connection.channel()
        await channel.queue_declare("hello", durable=True, arguments=EXPIRES)
        print("waiting for messages; Ctrl-C ends this", flush=True)
        async for message in channel.consume("hello"):
            print(f"received {message.body.decode()!r}", flush=True)
            message.ack()


with suppress(KeyboardInterrupt):
    tasks.run(main())
