"""Sends one message to the queue "hello".

python examples/tutorials/1_hello/threads/send.py
"""

import os

from cpspika.threads import ThreadedConnection

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone

with ThreadedConnection(URL) as connection:
    channel = connection.channel()
    channel.queue_declare("hello", durable=True, arguments=EXPIRES)
    channel.basic_publish(routing_key="hello", body="Hello World!")
    print("sent 'Hello World!'")
