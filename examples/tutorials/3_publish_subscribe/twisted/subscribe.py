"""Prints all news from now on, until Ctrl-C. Start several.

python examples/tutorials/3_publish_subscribe/twisted/subscribe.py
"""

import os

from twisted.internet.task import react

from cpspika.adapters import twisted_adapter

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker


async def main(reactor):
    def on_message(message):
        print(f"heard {message.body.decode()!r}", flush=True)

    connection = await twisted_adapter.connect(URL, reactor=reactor)
    reactor.addSystemEventTrigger("before", "shutdown", connection.close)  # at Ctrl-C
    channel = await connection.channel()
    await channel.exchange_declare("news", "fanout", auto_delete=True)
    queue = (await channel.queue_declare(exclusive=True)).queue
    await channel.queue_bind(queue, "news")
    await channel.basic_consume(queue, on_message, no_ack=True)
    print("waiting for messages; Ctrl-C ends this", flush=True)
    await connection.wait_closed()


react(main)
