"""Three ways to publish while the broker stops the flow (Channel.Flow): wait, use a handler, or take the error.

Here the embedded broker stops the flow three times, for half a second each. RabbitMQ never sends Channel.Flow: there
nothing stops, and all three messages are published.

    python examples/sync/flow_control.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os
import threading

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")


def stop_for_a_while(channel: cpspika.SyncChannel) -> None:
    if URL == "embedded://":
        broker = cpspika.broker.embedded()
        broker.flow(False)
        while channel.transmission_permitted:
            channel.connection.drain_events(timeout=0.01)
        threading.Timer(0.5, broker.flow, (True,)).start()


def by_waiting(channel: cpspika.SyncChannel, queue: str) -> None:
    """The call returns once the broker permits it. It raises if the channel ends before that."""
    channel.basic_publish(routing_key=queue, body="waited if need be", block_on_flow_control=True)


def by_handler(channel: cpspika.SyncChannel, queue: str) -> None:
    """The handler gets the present state at once, then each change. Publish while it is permitted."""
    state = {}
    channel.addFlowChangeHandler(lambda channel, permitted: state.update(permitted=permitted))
    while not state["permitted"]:
        channel.connection.drain_events()  # runs handlers
    channel.basic_publish(routing_key=queue, body="permitted")


def by_exception(channel: cpspika.SyncChannel, queue: str) -> None:
    """Without either, a publish that is not permitted fails, and nothing is sent."""
    try:
        channel.basic_publish(routing_key=queue, body="tried")
    except cpspika.ContentTransmissionForbidden as error:
        print("not now:", error)


with cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    queue = channel.queue_declare(exclusive=True).queue
    for way in (by_waiting, by_handler, by_exception):
        stop_for_a_while(channel)
        way(channel, queue)
    while (message := channel.basic_get(queue, no_ack=True)) is not None:
        print("published:", message.body.decode())
