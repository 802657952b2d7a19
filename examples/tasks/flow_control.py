"""Three ways to meet a broker that says "stop publishing" (Channel.Flow): to wait, to be told, to be refused.

The embedded broker is made to say so here, for half a second each time. RabbitMQ knows this method and never sends it:
there nothing is ever stopped, and you see only that the ways cost nothing.

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

    # By waiting: the publish is done once the broker permits it, and raises if the channel ends before that.
    yield from stop_for_a_while(channel)
    yield channel.basic_publish(routing_key=queue, body="waited if need be", block_on_flow_control=True)

    # By a handler, which is told of each change, and of the present state at once: publish while it is permitted.
    yield from stop_for_a_while(channel)
    state = {}
    channel.addFlowChangeHandler(lambda channel, permitted: state.update(permitted=permitted))
    while not state["permitted"]:
        yield tasks.sleep(0.01)
    yield channel.basic_publish(routing_key=queue, body="permitted")

    # Without either, a publish that is not permitted fails, and nothing of it is sent.
    yield from stop_for_a_while(channel)
    try:
        yield channel.basic_publish(routing_key=queue, body="tried")
    except cpspika.ContentTransmissionForbidden as error:
        print("not now:", error)
    while (message := (yield channel.basic_get(queue, no_ack=True))) is not None:
        print("published:", message.body.decode())
    yield connection.close()


tasks.run(main())
