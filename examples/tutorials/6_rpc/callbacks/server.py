"""Answers requests: the factorial of the number that each brings, until Ctrl-C.

python examples/tutorials/6_rpc/callbacks/server.py
"""

import math
import os

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
EXPIRES = {"x-expires": 600_000}  # ms without use; then the queue is gone


def connected(err, connection):
    if err:
        raise err
    channel = connection.channel()
    channel.queue_declare("factorial", durable=True, arguments=EXPIRES)
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume("factorial", on_request, on_done=consuming)


def consuming(err, consumer_tag):
    if err:
        raise err
    print("waiting for messages; Ctrl-C ends this", flush=True)


def on_request(message):
    answer = str(math.factorial(int(message.body)))
    message.channel.basic_publish(
        routing_key=message.properties.reply_to,
        body=answer,
        properties={"correlation_id": message.properties.correlation_id},
    )
    message.ack()
    print(f"answered {message.body.decode()}", flush=True)


connection = cpspika.connect(URL, on_done=connected)
try:
    connection.reactor.run()
except KeyboardInterrupt:
    connection.close()
    connection.reactor.run()  # until it is closed
