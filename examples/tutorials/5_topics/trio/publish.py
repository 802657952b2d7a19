"""Publishes a reading: where and what it is of, and its value.

python examples/tutorials/5_topics/trio/publish.py kitchen.temperature 21
"""

import os
import sys

import trio

from cpspika.adapters import trio_adapter

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
topic, text = sys.argv[1:] or ("kitchen.temperature", "21")


async def main():
    async with trio_adapter.connect(URL) as connection:
        channel = await connection.channel()
        await channel.exchange_declare("readings", "topic", auto_delete=True)
        await channel.basic_publish("readings", topic, text)
        print(f"published {topic} {text}")


trio.run(main)
