"""Publishing with confirms: an await ends when the broker has taken the message, and else raises its fate. Gathered
publishes wait for their confirms together.

Confirms are an extension of AMQP 0-9-1; 0-8 does not have them.

    python examples/asyncio/publisher.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import asyncio
import os

import cpspika
from cpspika.adapters import asyncio_adapter

URL = os.environ.get("AMQP_URL", "embedded://")


async def publish(channel, queue, body):
    """Publishes one message; returns its fate."""
    try:
        # mandatory: the broker returns a message that reaches no queue, instead of dropping (and confirming) it.
        await channel.basic_publish(routing_key=queue, body=body, mandatory=True)
    except cpspika.MessageReturned as error:
        return f"{body}: returned, since {error.message.reply_text}"
    except cpspika.MessageNacked:
        return f"{body}: refused"
    except cpspika.DeliveryUnknown:
        return f"{body}: unknown, the link was lost first; publish it again, and expect a second copy"
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
