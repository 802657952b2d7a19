"""Three ways to publish while the broker stops the flow (Channel.Flow): wait, drain, or take the error.

Here the embedded broker stops the flow three times, for half a second each. RabbitMQ never sends Channel.Flow: there
nothing stops, and all three messages are published.

    python examples/trio/flow_control.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

import trio

import cpspika
from cpspika.adapters import trio_adapter

URL = os.environ.get("AMQP_URL", "embedded://")


async def stop_for_a_while(channel, nursery):
    if URL == "embedded://":
        cpspika.broker.embedded().flow(False)
        while channel.transmission_permitted:
            await trio.sleep(0.01)
        nursery.start_soon(permit_again)


async def permit_again():
    await trio.sleep(0.5)
    cpspika.broker.embedded().flow(True)


async def main():
    async with trio.open_nursery() as nursery, trio_adapter.connect(URL) as connection, connection.channel() as channel:
        queue = (await channel.queue_declare(exclusive=True)).queue

        # By waiting: the await ends once the broker permits it. It raises if the channel ends before that.
        await stop_for_a_while(channel, nursery)
        await channel.basic_publish(routing_key=queue, body="waited if need be", block_on_flow_control=True)

        # By draining: publish while the channel is writable. add_flow_change_handler reports each change, too.
        await stop_for_a_while(channel, nursery)
        await channel.drain()
        await channel.basic_publish(routing_key=queue, body="permitted")

        # Without either, a publish that is not permitted fails, and nothing is sent.
        await stop_for_a_while(channel, nursery)
        try:
            await channel.basic_publish(routing_key=queue, body="tried")
        except cpspika.ContentTransmissionForbidden as error:
            print("not now:", error)
        while (message := await channel.basic_get(queue, no_ack=True)) is not None:
            print("published:", message.body.decode())


trio.run(main)
