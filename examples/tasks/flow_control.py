"""Three ways to publish while the broker stops the flow (Channel.Flow): wait, use a handler, or take the error.

Here the embedded broker stops the flow three times, for half a second each. RabbitMQ never sends Channel.Flow: there
nothing stops, and all three messages are published.

    python examples/tasks/flow_control.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

import cpspika
from cpspika import tasks

URL = os.environ.get("AMQP_URL", "embedded://")


def stop_for_a_while(channel):
    if URL == "embedded://":
        cpspika.broker.embedded().flow(False)
        while channel.transmission_permitted:
            yield tasks.sleep(0.01)
        channel.connection.reactor.call_later(0.5, lambda: cpspika.broker.embedded().flow(True))


def main():
    connection = yield tasks.connect(URL)
    channel = yield connection.channel()
    queue = (yield channel.queue_declare(exclusive=True)).queue

    # By waiting: the publish is done once the broker permits it. It raises if the channel ends before that.
    yield from stop_for_a_while(channel)
    yield channel.basic_publish(routing_key=queue, body="waited if need be", block_on_flow_control=True)

    # By a handler, which gets the present state at once, then each change: publish while it is permitted.
    yield from stop_for_a_while(channel)
    state = {}
    channel.addFlowChangeHandler(lambda channel, permitted: state.update(permitted=permitted))
    while not state["permitted"]:
        yield tasks.sleep(0.01)
    yield channel.basic_publish(routing_key=queue, body="permitted")

    # Without either, a publish that is not permitted fails, and nothing is sent.
    yield from stop_for_a_while(channel)
    try:
        yield channel.basic_publish(routing_key=queue, body="tried")
    except cpspika.ContentTransmissionForbidden as error:
        print("not now:", error)
    while (message := (yield channel.basic_get(queue, no_ack=True))) is not None:
        print("published:", message.body.decode())
    yield connection.close()


tasks.run(main())
