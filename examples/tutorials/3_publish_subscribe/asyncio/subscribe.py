"""Prints all news from now on, until Ctrl-C. Start several.

python examples/tutorials/3_publish_subscribe/asyncio/subscribe.py
"""

import asyncio
import os
from contextlib import suppress

from cpspika.adapters import asyncio_adapter

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker


async def main():
    async with asyncio_adapter.connect(URL) as connection:
        channel = await connection.channel()
        await channel.exchange_declare("news", "fanout", auto_delete=True)
        queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.queue_bind(queue, "news")
        print("waiting for messages; Ctrl-C ends this", flush=True)
        async for message in channel.consume(queue, no_ack=True):
            print(f"heard {message.body.decode()!r}", flush=True)


with suppress(KeyboardInterrupt):
    asyncio.run(main())
