"""Publishing with confirms: an await ends when the broker has taken the message, or raises what became of it. Publishes
that are gathered are on their way together.

Confirms are an extension of AMQP 0-9-1; 0-8 does not have them.

    python examples/asyncio/publisher.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import asyncio
import os

import cpspika
from cpspika.adapters import asyncio_adapter

URL = os.environ.get("AMQP_URL", "embedded://")


async def publish(channel, queue, body):
    """Publishes one message; returns what became of it."""
    try:
        # mandatory: a message that no queue takes comes back, instead of being dropped (and confirmed).
        await channel.basic_publish(routing_key=queue, body=body, mandatory=True)
    except cpspika.MessageReturned as error:
        return f"{body}: returned, since {error.message.reply_text}"
    except cpspika.MessageNacked:
        return f"{body}: refused"
    except cpspika.DeliveryUnknown:
        return f"{body}: unknown, the link died first; publish it again, and let consumers cope with a second copy"
    return f"{body}: confirmed"


async def main():
    async with asyncio_adapter.connect(URL) as connection, connection.channel() as channel:
        arguments = {"x-max-length": 2, "x-overflow": "reject-publish"}
        queue = (await channel.queue_declare(exclusive=True, arguments=arguments)).queue
        await channel.confirm_select()
        three = [publish(channel, queue, body) for body in ("one", "two", "too many")]
        fates = await asyncio.gather(*three, publish(channel, "no-such-queue", "astray"))
        print(*fates, sep="\n")


asyncio.run(main())
