"""Three ways to publish while the broker stops the flow (Channel.Flow): wait, use a handler, or take the error.

Here the embedded broker stops the flow three times, for half a second each. RabbitMQ never sends Channel.Flow: there
nothing stops, and all three messages are published.

    python examples/asyncio/flow_control.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import asyncio
import os

import cpspika
from cpspika.adapters import asyncio_adapter

URL = os.environ.get("AMQP_URL", "embedded://")


async def stop_for_a_while(permitted):
    if URL == "embedded://":
        cpspika.broker.embedded().flow(False)
        while permitted.is_set():
            await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_later(0.5, cpspika.broker.embedded().flow, True)


async def main():
    async with asyncio_adapter.connect(URL) as connection, connection.channel() as channel:
        permitted = asyncio.Event()
        # The handler gets the present state at once, then each change.
        channel.addFlowChangeHandler(lambda channel, permits: permitted.set() if permits else permitted.clear())
        queue = (await channel.queue_declare(exclusive=True)).queue

        # By waiting: the await ends once the broker permits it. It raises if the channel ends before that.
        await stop_for_a_while(permitted)
        await channel.basic_publish(routing_key=queue, body="waited if need be", block_on_flow_control=True)

        # By the handler: publish while it is permitted.
        await stop_for_a_while(permitted)
        await permitted.wait()
        await channel.basic_publish(routing_key=queue, body="permitted")

        # Without either, a publish that is not permitted fails, and nothing is sent.
        await stop_for_a_while(permitted)
        try:
            await channel.basic_publish(routing_key=queue, body="tried")
        except cpspika.ContentTransmissionForbidden as error:
            print("not now:", error)
        while (message := await channel.basic_get(queue, no_ack=True)) is not None:
            print("published:", message.body.decode())


asyncio.run(main())
