"""Publishes an alert: its level, and its text.

python examples/tutorials/4_routing/tasks/publish.py error "disk full"
"""

import os
import sys

from cpspika import tasks

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
level, text = sys.argv[1:] or ("info", "all is well")


async def main():
    async with await tasks.connect(URL) as connection:
        channel = await connection.channel()
        await channel.exchange_declare("alerts", "direct", auto_delete=True)
        await channel.basic_publish("alerts", level, text)
        print(f"published {level}: {text!r}")


tasks.run(main())
