"""Does the tasks of the queue, one after another, until Ctrl-C. Start several.

python examples/tutorials/2_work_queues/callbacks/worker.py
"""

import os

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone


def connected(err, connection):
    if err:
        raise err
    channel = connection.channel()
    channel.queue_declare("tasks", durable=True, arguments=EXPIRES)
    channel.basic_qos(prefetch_count=1)  # one task at a time; other workers get the rest
    channel.basic_consume("tasks", on_message, on_done=consuming)


def consuming(err, consumer_tag):
    if err:
        raise err
    print("waiting for messages; Ctrl-C ends this", flush=True)


def on_message(message):
    name, seconds = message.body.decode().split(":")

    def done():
        print(f"did {name!r}", flush=True)
        message.ack()  # if this worker ends before, another one does the task

    print(f"began {name!r}", flush=True)
    connection.reactor.call_later(float(seconds), done)  # it must not sleep here


connection = cpspika.connect(URL, on_done=connected)
try:
    connection.reactor.run()
except KeyboardInterrupt:
    connection.close()
    connection.reactor.run()  # until it is closed
