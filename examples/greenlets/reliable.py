"""A publisher that loses nothing, and a worker that acknowledges nothing but what it did, over any number of links.

With `recovery` the library connects again when the link is lost; restart the broker and see. SIGTERM ends the program.

    python examples/greenlets/reliable.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

from gevent import monkey

monkey.patch_all()  # before every other import

import contextlib  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import threading  # noqa: E402

import cpspika  # noqa: E402

URL = os.environ.get("AMQP_URL", "embedded://")
QUEUE = "cpspika.reliable"
PERSISTENT = cpspika.BasicProperties(delivery_mode=2)  # persistent: the broker keeps it on disk
AGAIN = cpspika.OperationTimeout, cpspika.DeliveryUnknown  # no link for 30 s: publish again, perhaps a second copy

stop = threading.Event()


def set_up(channel):
    """Called at every opening of the worker's channel."""
    channel.queue_declare(QUEUE, durable=True, arguments={"x-expires": 600_000})  # gone 10 min after use
    channel.basic_qos(prefetch_count=10)


def work(message):
    print(f"did {message.body.decode()!r}", "again" if message.redelivered else "", flush=True)
    message.ack()  # after a loss it does nothing: the broker delivers the message again


def publish(channel, body):
    while not stop.is_set():
        with contextlib.suppress(*AGAIN):
            return channel.basic_publish(routing_key=QUEUE, body=body, properties=PERSISTENT)


def main():
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with cpspika.BlockingConnection(URL, recovery=True) as connection:
        worker = connection.channel(on_ready=set_up)
        worker.basic_consume(QUEUE, work)
        publisher = connection.channel()
        publisher.confirm_select()  # a publish returns when the broker has the message
        number = 0
        while not stop.is_set():
            number += 1
            publish(publisher, f"task {number}")
            connection.drain_events(timeout=0.1)  # the worker's messages
    print("stopped")


if __name__ == "__main__":
    main()
