"""Sends one message to the queue "hello".

python examples/tutorials/1_hello/sync/send.py        (the broker: AMQP_URL, or amqp://localhost)
"""

import os

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")
EXPIRES = {"x-expires": 600_000}  # the broker deletes the queue after ten minutes (in ms) without use

with cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.queue_declare("hello", durable=True, arguments=EXPIRES)
    channel.basic_publish(routing_key="hello", body="Hello World!")
    print("sent 'Hello World!'")
