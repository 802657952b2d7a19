"""A service: it works until SIGTERM, finishes the message that it has, and closes. It outlives lost links.

A service manager starts it, perhaps before the broker: it waits for it.

    python examples/sync/service.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import logging
import os
import signal

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")
QUEUE = "cpspika.service"
PERSISTENT = cpspika.BasicProperties(delivery_mode=2)
log = logging.getLogger("service")


def set_up(channel):
    """Called at every opening of the channel, so also after a lost link."""
    channel.queue_declare(QUEUE, durable=True, arguments={"x-expires": 600_000})  # gone 10 minutes after its last use
    channel.basic_qos(prefetch_count=10)


def on_message(message):
    try:
        print(f"did {message.body.decode()!r}", flush=True)  # the work
    except Exception:
        log.exception("delivery %s failed", message.delivery_tag)
        message.reject(requeue=False)  # to the queue's dead-letter exchange, if it has one
    else:
        message.ack()


def main():
    logging.basicConfig(level=logging.WARNING)  # INFO shows each connection that opens, recovers and ends
    recovery = cpspika.Recovery(initial=True)  # the first connection is tried again too
    with cpspika.BlockingConnection(URL, recovery=recovery, heartbeat=30) as connection:
        channel = connection.channel(on_ready=set_up)
        signal.signal(signal.SIGTERM, lambda *_: channel.stop_consuming())  # after the message that is worked on
        channel.basic_consume(QUEUE, on_message)
        for number in range(1, 4):  # something to do, for this example alone
            channel.basic_publish(routing_key=QUEUE, body=f"task {number}", properties=PERSISTENT)
        channel.start_consuming()
    print("stopped")  # closed: what was not acknowledged is in the queue again


if __name__ == "__main__":
    main()
