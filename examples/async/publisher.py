"""A confirming publisher: a hundred messages wait for their confirms at once. Each on_done gets its message's fate.

Confirms are an extension of AMQP 0-9-1; 0-8 does not have them.

    python examples/async/publisher.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os
from collections import Counter
from functools import partial

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")
MESSAGES = 100


def connected(err, connection):
    if err:
        raise err
    channel = connection.channel()
    channel.confirm_select()
    channel.queue_declare(exclusive=True, on_done=partial(declared, connection, channel))


def declared(connection, channel, err, ok):
    if err:
        raise err
    fates = Counter()

    def decided(err, _):
        fates["confirmed" if err is None else type(err).__name__] += 1
        if fates.total() == MESSAGES:
            print(", ".join(f"{count} {fate}" for fate, count in sorted(fates.items())))
            connection.close()

    for number in range(MESSAGES):
        astray = number % 10 == 9  # every tenth goes to a queue that doesn't exist
        queue = "no-such-queue" if astray else ok.queue
        channel.basic_publish(routing_key=queue, body=f"message {number}", mandatory=True, on_done=decided)


cpspika.connect(URL, on_done=connected).reactor.run()
