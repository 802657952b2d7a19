"""Publishes a piece of news to all who listen.

python examples/tutorials/3_publish_subscribe/twisted/publish.py "it rains"
"""

import os
import sys

from twisted.internet.task import react

from cpspika.adapters import twisted_adapter

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
text = " ".join(sys.argv[1:]) or "it rains"


async def main(reactor):
    async with await twisted_adapter.connect(URL, reactor=reactor) as connection:
        channel = await connection.channel()
        await channel.exchange_declare("news", "fanout", auto_delete=True)
        await channel.basic_publish("news", "", text)
        print(f"published {text!r}")


react(main)
