"""Prints the alerts of some levels, until Ctrl-C.

python examples/tutorials/4_routing/twisted/subscribe.py warning error
"""

import os
import sys

from twisted.internet.task import react

from cpspika.adapters import twisted_adapter

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
levels = sys.argv[1:] or ["warning", "error"]


async def main(reactor):
    def on_message(message):
        print(f"{message.routing_key}: {message.body.decode()}", flush=True)

    connection = await twisted_adapter.connect(URL, reactor=reactor)
    reactor.addSystemEventTrigger("before", "shutdown", connection.close)  # at Ctrl-C
    channel = await connection.channel()
    await channel.exchange_declare("alerts", "direct", auto_delete=True)
    queue = (await channel.queue_declare(exclusive=True)).queue
    for level in levels:
        await channel.queue_bind(queue, "alerts", routing_key=level)
    await channel.basic_consume(queue, on_message, no_ack=True)
    print("waiting for messages; Ctrl-C ends this", flush=True)
    await connection.wait_closed()


react(main)
