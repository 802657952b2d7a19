"""Answers requests: the factorial of the number that each brings, until Ctrl-C.

python examples/tutorials/6_rpc/tasks/server.py
"""

import math
import os
from contextlib import suppress

from cpspika import tasks

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone


async def main():
    async with await tasks.connect(URL) as connection:
        channel = await connection.channel()
        await channel.queue_declare("factorial", durable=True, arguments=EXPIRES)
        await channel.basic_qos(prefetch_count=1)
        print("waiting for messages; Ctrl-C ends this", flush=True)
        async for message in channel.consume("factorial"):
            answer = str(math.factorial(int(message.body)))
            await message.channel.basic_publish(
                routing_key=message.properties.reply_to,
                body=answer,
                properties={"correlation_id": message.properties.correlation_id},
            )
            message.ack()
            print(f"answered {message.body.decode()}", flush=True)


with suppress(KeyboardInterrupt):
    tasks.run(main())
