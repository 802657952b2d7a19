"""Publishes six messages, and tells the fate of each: three fit into the queue, one goes to no queue.

python examples/tutorials/7_confirms/tasks/publish.py
"""

import os

import cpspika
from cpspika import tasks

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
THREE = {"x-max-length": 3, "x-overflow": "reject-publish"}  # room for three messages


async def fate(publish):
    try:
        await publish
    except cpspika.MessageNacked:
        return "refused"
    except cpspika.MessageReturned as error:
        return f"returned, since {error.message.reply_text}"
    except cpspika.DeliveryUnknown:
        return "unknown: the link was lost first; publish it again, and expect a second copy"
    return "confirmed"


async def main():
    async with await tasks.connect(URL) as connection:
        channel = await connection.channel()
        await channel.confirm_select()
        queue = (await channel.queue_declare(exclusive=True, arguments=THREE)).queue
        targets = [queue] * 5 + ["nowhere"]
        publishes = [  # all are sent; then their fates are awaited
            channel.basic_publish(routing_key=target, body=f"message {number}", mandatory=True)
            for number, target in enumerate(targets)
        ]
        for number, publish in enumerate(publishes):
            print(f"message {number}: {await fate(publish)}")


tasks.run(main())
