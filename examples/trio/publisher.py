"""Publishing with confirms: an await ends when the broker has taken the message, and else raises its fate. Publishes
before the first await wait for their confirms together.

Confirms are an extension of AMQP 0-9-1; 0-8 does not have them.

    python examples/trio/publisher.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

import trio

import cpspika
from cpspika.adapters import trio_adapter

URL = os.environ.get("AMQP_URL", "embedded://")


def ask(channel, queue, body):
    # mandatory: the broker returns a message that reaches no queue, instead of dropping (and confirming) it.
    return channel.basic_publish(routing_key=queue, body=body, mandatory=True)


async def fate(promise):
    """The fate of a message, in words."""
    try:
        await promise
    except cpspika.MessageReturned as error:
        return f"returned, since {error.message.reply_text}"
    except cpspika.MessageNacked:
        return "refused"
    except cpspika.DeliveryUnknown:
        return "unknown, the link was lost first; publish it again, and expect a second copy"
    return "confirmed"


async def main():
    async with trio_adapter.connect(URL) as connection, connection.channel() as channel:
        arguments = {"x-max-length": 2, "x-overflow": "reject-publish"}
        queue = (await channel.queue_declare(exclusive=True, arguments=arguments)).queue
        await channel.confirm_select()
        asked = [(body, ask(channel, queue, body)) for body in ("one", "two", "too many")]
        asked.append(("astray", ask(channel, "no-such-queue", "astray")))
        for body, promise in asked:
            print(f"{body}: {await fate(promise)}")


trio.run(main)
