"""A publisher that loses nothing, and a worker that acknowledges nothing but what it did, over any number of links.

With `recovery` the library connects again when the link is lost; restart the broker and see. SIGTERM ends the program.

    python examples/asyncio/reliable.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import asyncio
import itertools
import os
import signal

import cpspika
from cpspika.adapters import asyncio_adapter

URL = os.environ.get("AMQP_URL", "embedded://")
QUEUE = "cpspika.reliable"
PERSISTENT = cpspika.BasicProperties(delivery_mode=2)  # persistent: the broker keeps it on disk
RECOVERY = cpspika.Recovery(operation_timeout=None)  # without a link a publish waits as long as it takes


async def set_up(channel):
    """Called at every opening of the worker's channel."""
    await channel.queue_declare(QUEUE, durable=True, arguments={"x-expires": 600_000})  # gone 10 min after use
    await channel.basic_qos(prefetch_count=10)


def work(message):
    print(f"did {message.body.decode()!r}", "again" if message.redelivered else "", flush=True)
    message.ack()  # after a loss it does nothing: the broker delivers the message again


async def publish(channel):
    for number in itertools.count(1):
        await channel.basic_publish(routing_key=QUEUE, body=f"task {number}", properties=PERSISTENT)
        await asyncio.sleep(0.1)


async def start(connection):
    worker = await connection.channel(on_ready=set_up)
    await worker.basic_consume(QUEUE, work)
    publisher = await connection.channel()
    await publisher.confirm_select()  # a publish is awaited until the broker has the message
    return publisher


async def main():
    async with asyncio_adapter.connect(URL, recovery=RECOVERY) as connection:
        publishing = asyncio.create_task(publish(await start(connection)))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, publishing.cancel)
        await asyncio.wait([publishing])
    print("stopped")


asyncio.run(main())
