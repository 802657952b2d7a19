"""Three ways to meet a broker that says "stop publishing" (Channel.Flow): to wait, to be told, to be refused.

The embedded broker is made to say so here, for half a second each time. RabbitMQ knows this method and never sends it:
there nothing is ever stopped, and you see only that the ways cost nothing.

    python examples/threads/flow_control.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os
import threading

import cpspika
from cpspika.threads import ThreadedConnection

URL = os.environ.get("AMQP_URL", "embedded://")
PERMITTED, STOPPED = threading.Event(), threading.Event()


def on_change(channel, permitted):
    """A handler is told of each change, on one of the connection's threads."""
    now, before = (PERMITTED, STOPPED) if permitted else (STOPPED, PERMITTED)
    before.clear()
    now.set()


def stop_for_a_while():
    if URL == "embedded://":
        broker = cpspika.broker.embedded()
        broker.flow(False)
        STOPPED.wait()
        threading.Timer(0.5, broker.flow, (True,)).start()


with ThreadedConnection(URL) as connection:
    channel = connection.channel()
    queue = channel.queue_declare(exclusive=True).queue
    channel.addFlowChangeHandler(on_change)  # and tells the present state at once

    # By waiting: the call holds up this thread alone, until the broker permits it, and raises if the channel ends.
    stop_for_a_while()
    channel.basic_publish(routing_key=queue, body="waited if need be", block_on_flow_control=True)

    # By the handler: publish while it is permitted.
    PERMITTED.wait()
    stop_for_a_while()
    PERMITTED.wait()
    channel.basic_publish(routing_key=queue, body="permitted")

    # Without either, a publish that is not permitted fails, and nothing of it is sent.
    stop_for_a_while()
    try:
        channel.basic_publish(routing_key=queue, body="tried")
    except cpspika.ContentTransmissionForbidden as error:
        print("not now:", error)
    while (message := channel.basic_get(queue, no_ack=True)) is not None:
        print("published:", message.body.decode())
