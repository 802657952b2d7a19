"""Prints the alerts of some levels, until Ctrl-C.

python examples/tutorials/4_routing/trio/subscribe.py warning error
"""

import os
import sys
from contextlib import suppress

import trio

from cpspika.adapters import trio_adapter

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
levels = sys.argv[1:] or ["warning", "error"]


async def main():
    async with trio_adapter.connect(URL) as connection:
        channel = await connection.channel()
        await channel.exchange_declare("alerts", "direct", auto_delete=True)
        queue = (await channel.queue_declare(exclusive=True)).queue
        for level in levels:
            await channel.queue_bind(queue, "alerts", routing_key=level)
        print("waiting for messages; Ctrl-C ends this", flush=True)
        async for message in channel.consume(queue, no_ack=True):
            print(f"{message.routing_key}: {message.body.decode()}", flush=True)


with suppress(KeyboardInterrupt):
    trio.run(main)
