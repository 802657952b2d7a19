"""Prints the messages of the queue "hello", until Ctrl-C.

python examples/tutorials/1_hello/trio/receive.py
"""

import os
from contextlib import suppress

import trio

from cpspika.adapters import trio_adapter

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone


async def main():
    async with trio_adapter.connect(URL) as connection:
        channel = await connection.channel()
        await channel.queue_declare("hello", durable=True, arguments=EXPIRES)
        print("waiting for messages; Ctrl-C ends this", flush=True)
        async for message in channel.consume("hello"):
            print(f"received {message.body.decode()!r}", flush=True)
            message.ack()


with suppress(KeyboardInterrupt):
    trio.run(main)
