"""A publisher that loses nothing, and a worker that acknowledges nothing but what it did, over any number of links.

With `recovery` the library connects again when the link is lost; restart the broker and see. SIGTERM ends the program.

    python examples/async/reliable.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import itertools
import os
import signal
from functools import partial

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")
QUEUE = "cpspika.reliable"
PERSISTENT = cpspika.BasicProperties(delivery_mode=2)  # persistent: the broker keeps it on disk
RECOVERY = cpspika.Recovery(operation_timeout=None)  # without a link a publish waits as long as it takes


def connected(err, connection):
    if err:
        raise err
    call_soon = connection.reactor.call_soon_threadsafe
    signal.signal(signal.SIGTERM, lambda *_: call_soon(partial(stop, connection)))
    worker = connection.channel(on_ready=set_up)
    worker.basic_consume(QUEUE, work)
    publisher = connection.channel()
    publisher.confirm_select()
    publish(publisher, itertools.count(1))


def set_up(channel):
    """Called at every opening of the worker's channel."""
    channel.queue_declare(QUEUE, durable=True, arguments={"x-expires": 600_000})  # gone 10 min after use
    channel.basic_qos(prefetch_count=10)


def work(message):
    print(f"did {message.body.decode()!r}", "again" if message.redelivered else "", flush=True)
    message.ack()  # after a loss it does nothing: the broker delivers the message again


def publish(channel, numbers):
    def decided(err, _):
        if err and channel.is_open:
            raise err
        connection.reactor.call_later(0.1, lambda: publish(channel, numbers))

    if channel.is_open:
        body = f"task {next(numbers)}"
        channel.basic_publish(routing_key=QUEUE, body=body, properties=PERSISTENT, on_done=decided)


def stop(connection):
    connection.close(on_done=lambda err, _: print("stopped"))


connection = cpspika.connect(URL, on_done=connected, recovery=RECOVERY)
connection.reactor.run()
