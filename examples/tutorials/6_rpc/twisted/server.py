"""Answers requests: the factorial of the number that each brings, until Ctrl-C.

python examples/tutorials/6_rpc/twisted/server.py
"""

import math
import os

from twisted.internet.task import react

from cpspika.adapters import twisted_adapter

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone


async def main(reactor):
    async def on_message(message):
        answer = str(math.factorial(int(message.body)))
        await message.channel.basic_publish(
            routing_key=message.properties.reply_to,
            body=answer,
            properties={"correlation_id": message.properties.correlation_id},
        )
        message.ack()
        print(f"answered {message.body.decode()}", flush=True)

    connection = await twisted_adapter.connect(URL, reactor=reactor)
    reactor.addSystemEventTrigger("before", "shutdown", connection.close)  # at Ctrl-C
    channel = await connection.channel()
    await channel.queue_declare("factorial", durable=True, arguments=EXPIRES)
    await channel.basic_qos(prefetch_count=1)
    await channel.basic_consume("factorial", on_message)
    print("waiting for messages; Ctrl-C ends this", flush=True)
    await connection.wait_closed()


react(main)
