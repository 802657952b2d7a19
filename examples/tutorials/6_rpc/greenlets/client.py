"""Asks the server for a factorial, and waits for the answer.

python examples/tutorials/6_rpc/greenlets/client.py 5
"""

from gevent import monkey

monkey.patch_all()  # before every other import; the rest is as in a script

import os  # noqa: E402
import sys  # noqa: E402
import uuid  # noqa: E402

import cpspika  # noqa: E402

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
number = (sys.argv[1:] or ["5"])[0]

with cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.confirm_select()
    replies = channel.queue_declare(exclusive=True).queue
    request_id = str(uuid.uuid4())
    channel.basic_publish(
        routing_key="factorial",
        body=number,
        properties={"reply_to": replies, "correlation_id": request_id},
        mandatory=True,  # MessageReturned, if there is no such queue: no server has run
    )
    for reply in channel.consume(replies, no_ack=True):
        if reply.properties.correlation_id == request_id:
            print(f"{number}! = {reply.body.decode()}")
            break
