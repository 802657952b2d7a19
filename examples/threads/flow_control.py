"""Three ways to publish while the broker stops the flow (Channel.Flow): wait, use a handler, or take the error.

Here the embedded broker stops the flow three times, for half a second each. RabbitMQ never sends Channel.Flow: there
nothing stops, and all three messages are published.

    python examples/threads/flow_control.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os
import threading

import cpspika
from cpspika.threads import ThreadedConnection

URL = os.environ.get("AMQP_URL", "embedded://")
PERMITTED, STOPPED = threading.Event(), threading.Event()


def on_change(channel, permitted):
    """The handler gets each change, on one of the connection's threads."""
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
    channel.addFlowChangeHandler(on_change)  # also called at once, with the present state

    # By waiting: the call blocks this thread until the broker permits it. It raises if the channel ends before that.
    stop_for_a_while()
    channel.basic_publish(routing_key=queue, body="waited if need be", block_on_flow_control=True)

    # By the handler: publish while it is permitted.
    PERMITTED.wait()
    stop_for_a_while()
    PERMITTED.wait()
    channel.basic_publish(routing_key=queue, body="permitted")

    # Without either, a publish that is not permitted fails, and nothing is sent.
    stop_for_a_while()
    try:
        channel.basic_publish(routing_key=queue, body="tried")
    except cpspika.ContentTransmissionForbidden as error:
        print("not now:", error)
    while (message := channel.basic_get(queue, no_ack=True)) is not None:
        print("published:", message.body.decode())
