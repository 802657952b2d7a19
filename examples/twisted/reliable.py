"""A publisher that loses nothing, and a worker that acknowledges nothing but what it did, over any number of links.

With `recovery` the library connects again when the link is lost; restart the broker and see. SIGTERM ends the program.

    python examples/twisted/reliable.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import itertools
import os
import signal

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater, react

import cpspika
from cpspika.adapters import twisted_adapter

URL = os.environ.get("AMQP_URL", "embedded://")
QUEUE = "cpspika.reliable"
PERSISTENT = cpspika.BasicProperties(delivery_mode=2)  # persistent: the broker keeps it on disk
RECOVERY = cpspika.Recovery(operation_timeout=None)  # without a link a publish waits as long as it takes


def set_up(channel):
    """Called at every opening of the worker's channel."""
    channel.queue_declare(QUEUE, durable=True, arguments={"x-expires": 600_000})  # gone 10 min after use
    return channel.basic_qos(prefetch_count=10)


def work(message):
    print(f"did {message.body.decode()!r}", "again" if message.redelivered else "", flush=True)
    message.ack()  # after a loss it does nothing: the broker delivers the message again


async def publish(reactor, channel):
    for number in itertools.count(1):
        await channel.basic_publish(routing_key=QUEUE, body=f"task {number}", properties=PERSISTENT)
        await deferLater(reactor, 0.1)


async def start(connection):
    worker = await connection.channel(on_ready=set_up)
    await worker.basic_consume(QUEUE, work)
    publisher = await connection.channel()
    await publisher.confirm_select()  # a publish is awaited until the broker has the message
    return publisher


async def main(reactor):
    async with await twisted_adapter.connect(URL, reactor=reactor, recovery=RECOVERY) as connection:
        publishing = Deferred.fromCoroutine(publish(reactor, await start(connection)))
        signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(publishing.cancel))
        try:
            await publishing
        except CancelledError:
            pass
    print("stopped")


react(main)
