"""A thousand greenlets in one thread, each with a connection of its own, all open at once.

Each waits until all have connected, then sends a number to the next one through the broker. On a server that others may
use there are at most 200: a stock RabbitMQ has 1,024 file descriptors, and each connection takes one.

    python examples/greenlets/thousand.py        (on AMQP_URL if that is set, else on a broker of its own)
"""

from gevent import monkey

monkey.patch_all()  # before every other import

import os  # noqa: E402
import resource  # noqa: E402

import gevent  # noqa: E402
from gevent.event import Event  # noqa: E402

import cpspika  # noqa: E402

GREENLETS = int(os.environ.get("GREENLETS", 1000))
if "AMQP_URL" in os.environ:
    GREENLETS = min(GREENLETS, 200)
else:  # both ends of each connection are in this process, with four descriptors
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = most == resource.RLIM_INFINITY
    wanted = 100 + 4 * GREENLETS if unlimited else min(100 + 4 * GREENLETS, most)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    GREENLETS = (wanted - 100) // 4
all_here, queues = Event(), {}


def neighbour(url, number):
    with cpspika.BlockingConnection(url) as connection:
        channel = connection.channel()
        queues[number] = channel.queue_declare(exclusive=True).queue
        if len(queues) == GREENLETS:
            all_here.set()
        all_here.wait()  # other greenlets run meanwhile
        channel.basic_publish(routing_key=queues[(number + 1) % GREENLETS], body=str(number))
        for message in channel.consume(queues[number], no_ack=True):
            return int(message.body)


def main(url):
    greenlets = [gevent.spawn(neighbour, url, number) for number in range(GREENLETS)]
    got = [greenlet.get() for greenlet in greenlets]
    assert got == [(number - 1) % GREENLETS for number in range(GREENLETS)]
    print(f"{GREENLETS} greenlets, each with a connection of its own, heard from their neighbours")


if "AMQP_URL" in os.environ:
    main(os.environ["AMQP_URL"])
else:
    with cpspika.broker.serve() as broker:
        main(broker.url)
