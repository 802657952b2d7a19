"""Prints the messages of the queue "hello", until Ctrl-C.

python examples/tutorials/1_hello/callbacks/receive.py
"""

import os

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone


def connected(err, connection):
    if err:
        raise err
    channel = connection.channel()
    channel.queue_declare("hello", durable=True, arguments=EXPIRES)
    channel.basic_consume("hello", on_message, on_done=consuming)


def consuming(err, consumer_tag):
    if err:
        raise err
    print("waiting for messages; Ctrl-C ends this", flush=True)


def on_message(message):
    print(f"received {message.body.decode()!r}", flush=True)
    message.ack()


connection = cpspika.connect(URL, on_done=connected)
try:
    connection.reactor.run()
except KeyboardInterrupt:
    connection.close()
    connection.reactor.run()  # until it is closed
