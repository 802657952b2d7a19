"""A publisher of a cluster: all nodes as targets, a quorum queue, confirms. SIGTERM ends it after the present message.

AMQP_URLS="amqp://node1 amqp://node2 amqp://node3" python examples/cluster/publisher.py 100
"""

import os
import signal
import sys
import time
import uuid

import cpspika

URLS = os.environ.get("AMQP_URLS", "amqp://localhost").split()
QUEUE = os.environ.get("QUEUE", "cpspika.cluster")
KIND = {"x-queue-type": "quorum", "x-expires": 3_600_000}  # gone an hour after its last use; leave that out of yours
stopping: list[int] = []


def set_up(channel: cpspika.SyncChannel) -> None:
    """Called at every opening of the channel. The worker declares the same."""
    channel.queue_declare(QUEUE + ".failed", durable=True, arguments=KIND)
    failed = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": QUEUE + ".failed", "x-delivery-limit": 20}
    channel.queue_declare(QUEUE, durable=True, arguments={**KIND, **failed})


def confirming(connection: cpspika.SyncConnection) -> cpspika.SyncChannel:
    channel = connection.channel(on_ready=set_up)
    channel.confirm_select()
    return channel


def publish(channel: cpspika.SyncChannel, body: str) -> cpspika.SyncChannel:
    """Returns, when a majority of the nodes has the message, the channel to go on with."""
    properties = {"delivery_mode": 2, "message_id": str(uuid.uuid4())}  # copies have the same id
    while True:
        try:
            channel.basic_publish(routing_key=QUEUE, body=body, properties=properties, mandatory=True)
            return channel
        except (cpspika.OperationTimeout, cpspika.MessageNacked, cpspika.DeliveryUnknown) as error:
            print(f"{body}: {error}; once more", file=sys.stderr)
            if stopping:
                raise
            time.sleep(1)
            channel.close()  # RabbitMQ may go on to refuse on this one: docs/cluster.md
            channel = confirming(channel.connection)


def main(count: int) -> None:
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    recovery = cpspika.Recovery(initial=True)  # waits for a cluster that is not up yet
    with cpspika.BlockingConnection(URLS, recovery=recovery, heartbeat=10, connection_timeout=5) as connection:
        channel = confirming(connection)
        for number in range(count):
            if not stopping:
                channel = publish(channel, f"task {number}")
                print(f"confirmed: task {number}", flush=True)


main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
