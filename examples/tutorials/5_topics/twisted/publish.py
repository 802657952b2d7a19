"""Publishes a reading: where and what it is of, and its value.

python examples/tutorials/5_topics/twisted/publish.py kitchen.temperature 21
"""

import os
import sys

from twisted.internet.task import react

from cpspika.adapters import twisted_adapter

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
topic, text = sys.argv[1:] or ("kitchen.temperature", "21")


async def main(reactor):
    async with await twisted_adapter.connect(URL, reactor=reactor) as connection:
        channel = await connection.channel()
        await channel.exchange_declare("readings", "topic", auto_delete=True)
        await channel.basic_publish("readings", topic, text)
        print(f"published {topic} {text}")


react(main)
