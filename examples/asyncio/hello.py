"""The shortest program in asyncio: publish a message, then get it.

python examples/asyncio/hello.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import asyncio
import os

from cpspika.adapters import asyncio_adapter

URL = os.environ.get("AMQP_URL", "embedded://")


async def main():
    async with asyncio_adapter.connect(URL) as connection, connection.channel() as channel:
        queue = (await channel.queue_declare(exclusive=True)).queue  # named by the broker; ends with the connection
        await channel.basic_publish(routing_key=queue, body="Hello World!")
        message = await channel.basic_get(queue, no_ack=True)
        print(f"got {message.body.decode()!r} from queue {queue}")


asyncio.run(main())
