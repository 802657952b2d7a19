"""Sends one message to the queue "hello".

python examples/tutorials/1_hello/callbacks/send.py
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
    channel.basic_publish(routing_key="hello", body="Hello World!")
    connection.close(on_done=closed)  # it is asked for now, and happens after the others


def closed(err, result):
    if err:
        raise err
    print("sent 'Hello World!'")


cpspika.connect(URL, on_done=connected).reactor.run()
