"""Asks the server for a factorial, and waits for the answer.

python examples/tutorials/6_rpc/tasks/client.py 5
"""

import os
import sys
import uuid

from cpspika import tasks

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
number = (sys.argv[1:] or ["5"])[0]


async def main():
    async with await tasks.connect(URL) as connection:
        channel = await connection.channel()
        await channel.confirm_select()
        replies = (await channel.queue_declare(exclusive=True)).queue
        request_id = str(uuid.uuid4())
        await channel.basic_publish(
            routing_key="factorial",
            body=number,
            properties={"reply_to": replies, "correlation_id": request_id},
            mandatory=True,  # MessageReturned, if there is no such queue: no server has run
        )
        async for reply in channel.consume(replies, no_ack=True):
            if reply.properties.correlation_id == request_id:
                print(f"{number}! = {reply.body.decode()}")
                break


tasks.run(main())
