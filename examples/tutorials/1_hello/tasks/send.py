"""Sends one message to the queue "hello".

python examples/tutorials/1_hello/tasks/send.py
"""

import os

from cpspika import tasks

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone


async def main():
    async with await tasks.connect(URL) as connection:
        channel = await connection.channel()
        await channel.queue_declare("hello", durable=True, arguments=EXPIRES)
        await channel.basic_publish(routing_key="hello", body="Hello World!")
        print("sent 'Hello World!'")


tasks.run(main())
