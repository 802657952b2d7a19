"""The synchronous facade in a greenlet: written as a script; other greenlets run while it waits.

python examples/greenlets/hello.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

from gevent import monkey

monkey.patch_all()  # before every other import

import os  # noqa: E402

import gevent  # noqa: E402

import cpspika  # noqa: E402

URL = os.environ.get("AMQP_URL", "embedded://")


def main():
    with cpspika.BlockingConnection(URL) as connection:
        channel = connection.channel()
        queue = channel.queue_declare(exclusive=True).queue  # named by the broker; ends with the connection
        channel.basic_publish(routing_key=queue, body="Hello World!")
        message = channel.basic_get(queue, no_ack=True)
        print(f"got {message.body.decode()!r} from queue {queue}")


gevent.spawn(main).get()
