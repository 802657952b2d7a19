"""Asks the server for a factorial, and waits for the answer.

python examples/tutorials/6_rpc/callbacks/client.py 5
"""

import os
import sys
import uuid

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
number = (sys.argv[1:] or ["5"])[0]
REQUEST_ID = str(uuid.uuid4())


def connected(err, connection):
    if err:
        raise err

    def declared(err, ok):
        if err:
            raise err
        channel.basic_consume(ok.queue, on_reply, no_ack=True)
        channel.basic_publish(
            routing_key="factorial",
            body=number,
            properties={"reply_to": ok.queue, "correlation_id": REQUEST_ID},
            mandatory=True,  # MessageReturned, if there is no such queue: no server has run
            on_done=published,
        )

    channel = connection.channel()
    channel.confirm_select()
    channel.queue_declare(exclusive=True, on_done=declared)


def published(err, result):
    if err:
        raise err


def on_reply(reply):
    if reply.properties.correlation_id == REQUEST_ID:
        print(f"{number}! = {reply.body.decode()}")
        connection.close()


connection = cpspika.connect(URL, on_done=connected)
connection.reactor.run()
