"""The shortest program in Twisted: publish a message, then get it.

python examples/twisted/hello.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import react

from cpspika.adapters import twisted_adapter

URL = os.environ.get("AMQP_URL", "embedded://")


@inlineCallbacks
def main(reactor):
    connection = yield twisted_adapter.connect(URL, reactor=reactor)
    channel = yield connection.channel()
    queue = (yield channel.queue_declare(exclusive=True)).queue  # named by the broker; ends with the connection
    yield channel.basic_publish(routing_key=queue, body="Hello World!")
    message = yield channel.basic_get(queue, no_ack=True)
    print(f"got {message.body.decode()!r} from queue {queue}")
    yield connection.close()


react(main)
