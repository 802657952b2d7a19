"""Three ways to publish while the broker stops the flow (Channel.Flow): wait, use a handler, or take the error.

Here the embedded broker stops the flow three times, for half a second each. RabbitMQ never sends Channel.Flow: there
nothing stops, and all three messages are published.

    python examples/twisted/flow_control.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

import cpspika
from cpspika.adapters import twisted_adapter

URL = os.environ.get("AMQP_URL", "embedded://")


async def stop_for_a_while(reactor, channel):
    if URL == "embedded://":
        cpspika.broker.embedded().flow(False)
        while channel.transmission_permitted:
            await deferLater(reactor, 0.01)
        reactor.callLater(0.5, cpspika.broker.embedded().flow, True)


async def main(reactor):
    async with await twisted_adapter.connect(URL, reactor=reactor) as connection, await connection.channel() as channel:
        queue = (await channel.queue_declare(exclusive=True)).queue

        # By waiting: the Deferred fires once the broker permits it. It fails if the channel ends before that.
        await stop_for_a_while(reactor, channel)
        await channel.basic_publish(routing_key=queue, body="waited if need be", block_on_flow_control=True)

        # By a handler, which gets the present state at once, then each change: publish while it is permitted.
        await stop_for_a_while(reactor, channel)
        permitted = Deferred()

        def changed(channel, permits):
            if permits and not permitted.called:
                permitted.callback(None)

        channel.addFlowChangeHandler(changed)
        await permitted
        await channel.basic_publish(routing_key=queue, body="permitted")

        # Without either, a publish that is not permitted fails, and nothing is sent.
        await stop_for_a_while(reactor, channel)
        try:
            await channel.basic_publish(routing_key=queue, body="tried")
        except cpspika.ContentTransmissionForbidden as error:
            print("not now:", error)
        while (message := await channel.basic_get(queue, no_ack=True)) is not None:
            print("published:", message.body.decode())


react(main)
