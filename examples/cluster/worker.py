"""A worker of a cluster: all nodes as targets, a quorum queue, a prefetch. Links and nodes may go and come back.

It does the tasks of examples/cluster/publisher.py until SIGTERM. A task may come twice; the id of the message tells.

    AMQP_URLS="amqp://node1 amqp://node2 amqp://node3" python examples/cluster/worker.py
"""

from __future__ import annotations

import os
import signal
import sys

import cpspika

URLS = os.environ.get("AMQP_URLS", "amqp://localhost").split()
QUEUE = os.environ.get("QUEUE", "cpspika.cluster")
KIND = {"x-queue-type": "quorum", "x-expires": 3_600_000}  # gone an hour after its last use; leave that out of yours
done: dict[str | None, None] = {}  # ids. Several workers, or one that restarts, keep them in a database


def set_up(channel: cpspika.SyncChannel) -> None:
    """Called at every opening of the channel. The publisher declares the same."""
    channel.queue_declare(QUEUE + ".failed", durable=True, arguments=KIND)
    failed = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": QUEUE + ".failed", "x-delivery-limit": 20}
    channel.queue_declare(QUEUE, durable=True, arguments={**KIND, **failed})


def work(body: str) -> None:
    print(f"worked: {body}", flush=True)


def on_message(message: cpspika.Message) -> None:
    message_id = message.properties.message_id
    if message_id not in done:
        try:
            work(message.body.decode())
        except Exception as error:
            print(f"{message_id} failed: {error!r}", file=sys.stderr)
            message.reject()  # it comes again, until the delivery limit moves it to the queue of failed ones
            return
        done[message_id] = None
        if len(done) > 100_000:
            del done[next(iter(done))]
    message.ack()  # after the work; if the link was lost meanwhile, nothing is sent and the message comes again


def main() -> None:
    recovery = cpspika.Recovery(initial=True)  # waits for a cluster that is not up yet
    with cpspika.BlockingConnection(URLS, recovery=recovery, heartbeat=10, connection_timeout=5) as connection:
        channel = connection.channel(on_ready=set_up)
        channel.basic_qos(prefetch_count=20)
        channel.basic_consume(QUEUE, on_message)
        signal.signal(signal.SIGTERM, lambda *_: channel.stop_consuming())
        channel.start_consuming()


if __name__ == "__main__":
    main()
