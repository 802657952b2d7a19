"""Prints the readings whose topic matches one of the patterns, until Ctrl-C.

python examples/tutorials/5_topics/asyncio/subscribe.py "kitchen.*"
"""

import asyncio
import os
import sys
from contextlib import suppress

from cpspika.adapters import asyncio_adapter

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
patterns = sys.argv[1:] or ["#"]


async def main():
    async with asyncio_adapter.connect(URL) as connection:
        channel = await connection.channel()
        await channel.exchange_declare("readings", "topic", auto_delete=True)
        queue = (await channel.queue_declare(exclusive=True)).queue
        for pattern in patterns:
            await channel.queue_bind(queue, "readings", routing_key=pattern)
        print("waiting for messages; Ctrl-C ends this", flush=True)
        async for message in channel.consume(queue, no_ack=True):
            print(f"{message.routing_key} {message.body.decode()}", flush=True)


with suppress(KeyboardInterrupt):
    asyncio.run(main())
