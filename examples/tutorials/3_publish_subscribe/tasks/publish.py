"""Publishes a piece of news to all who listen.

python examples/tutorials/3_publish_subscribe/tasks/publish.py "it rains"
"""

import os
import sys

from cpspika import tasks

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
text = " ".join(sys.argv[1:]) or "it rains"


async def main():
    async with await tasks.connect(URL) as connection:
        channel = await connection.channel()
        await channel.exchange_declare("news", "fanout", auto_delete=True)
        await channel.basic_publish("news", "", text)
        print(f"published {text!r}")


tasks.run(main())
