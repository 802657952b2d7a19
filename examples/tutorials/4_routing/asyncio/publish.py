"""Publishes an alert: its level, and its text.

python examples/tutorials/4_routing/asyncio/publish.py error "disk full"
"""

import asyncio
import os
import sys

from cpspika.adapters import asyncio_adapter

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
level, text = sys.argv[1:] or ("info", "all is well")


async def main():
    async with asyncio_adapter.connect(URL) as connection:
        channel = await connection.channel()
        await channel.exchange_declare("alerts", "direct", auto_delete=True)
        await channel.basic_publish("alerts", level, text)
        print(f"published {level}: {text!r}")


asyncio.run(main())
