"""Does the tasks of the queue, one after another, until Ctrl-C. Start several.

python examples/tutorials/2_work_queues/twisted/worker.py
"""

import os

from twisted.internet.task import deferLater, react

from cpspika.adapters import twisted_adapter

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone


async def main(reactor):
    async def on_message(message):
        name, seconds = message.body.decode().split(":")
        print(f"began {name!r}", flush=True)
        await deferLater(reactor, float(seconds))
        print(f"did {name!r}", flush=True)
        message.ack()  # if this worker ends before, another one does the task

    connection = await twisted_adapter.connect(URL, reactor=reactor)
    reactor.addSystemEventTrigger("before", "shutdown", connection.close)  # at Ctrl-C
    channel = await connection.channel()
    await channel.queue_declare("tasks", durable=True, arguments=EXPIRES)
    await channel.basic_qos(prefetch_count=1)  # one task at a time; other workers get the rest
    await channel.basic_consume("tasks", on_message)
    print("waiting for messages; Ctrl-C ends this", flush=True)
    await connection.wait_closed()


react(main)
