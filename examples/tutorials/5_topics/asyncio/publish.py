"""Publishes a reading: where and what it is of, and its value.

python examples/tutorials/5_topics/asyncio/publish.py kitchen.temperature 21
"""

import asyncio
import os
import sys

from cpspika.adapters import asyncio_adapter

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
topic, text = sys.argv[1:] or ("kitchen.temperature", "21")


async def main():
    async with asyncio_adapter.connect(URL) as connection:
        channel = await connection.channel()
        await channel.exchange_declare("readings", "topic", auto_delete=True)
        await channel.basic_publish("readings", topic, text)
        print(f"published {topic} {text}")


asyncio.run(main())
