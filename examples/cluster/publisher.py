"""A publisher of a cluster: all nodes as targets, a quorum queue, confirms. Links and nodes may go and come back.

Start examples/cluster/worker.py beside it. SIGTERM ends each after the message that it is at.

    AMQP_URLS="amqp://node1 amqp://node2 amqp://node3" python examples/cluster/publisher.py 100
"""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid

import cpspika

URLS = os.environ.get("AMQP_URLS", "amqp://localhost").split()
QUEUE = os.environ.get("QUEUE", "cpspika.cluster")
stopping: list[int] = []


def set_up(channel: cpspika.SyncChannel) -> None:
    """Called at every opening of the channel, on whatever node. The worker declares the same."""
    channel.queue_declare(QUEUE + ".failed", durable=True, arguments={"x-queue-type": "quorum"})
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 20, "x-dead-letter-exchange": ""}
    channel.queue_declare(QUEUE, durable=True, arguments={**arguments, "x-dead-letter-routing-key": QUEUE + ".failed"})


def publish(channel: cpspika.SyncChannel, body: str) -> None:
    """Returns when a majority of the nodes has the message. The id is the same in all copies: a worker needs it."""
    properties = {"delivery_mode": 2, "message_id": str(uuid.uuid4())}
    while True:
        try:
            channel.basic_publish(routing_key=QUEUE, body=body, properties=properties, mandatory=True)
            return
        except (cpspika.OperationTimeout, cpspika.MessageNacked, cpspika.DeliveryUnknown) as error:
            print(f"{body}: {error}; once more", file=sys.stderr)
            if stopping:
                raise
            time.sleep(1)


def main(count: int) -> None:
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    recovery = cpspika.Recovery(initial=True)  # a cluster that is not up yet is waited for
    with cpspika.BlockingConnection(URLS, recovery=recovery, heartbeat=10, connection_timeout=5) as connection:
        channel = connection.channel(on_ready=set_up)
        channel.confirm_select()
        for number in range(count):
            if not stopping:
                publish(channel, f"task {number}")
                print(f"confirmed: task {number}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
