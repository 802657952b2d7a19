"""Prints the messages of the queue "hello", until Ctrl-C.

python examples/tutorials/1_hello/twisted/receive.py
"""

import os

from twisted.internet.task import react

from cpspika.adapters import twisted_adapter

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone


async def main(reactor):
    def on_message(message):
        print(f"received {message.body.decode()!r}", flush=True)
        message.ack()

    connection = await twisted_adapter.connect(URL, reactor=reactor)
    reactor.addSystemEventTrigger("before", "shutdown", connection.close)  # at Ctrl-C
    channel = await connection.channel()
    await channel.queue_declare("hello", durable=True, arguments=EXPIRES)
    await channel.basic_consume("hello", on_message)
    print("waiting for messages; Ctrl-C ends this", flush=True)
    await connection.wait_closed()


react(main)
