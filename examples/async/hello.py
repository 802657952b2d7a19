"""The shortest way there and back, in continuations: each step says what comes after it.

python examples/async/hello.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")


def connected(err, connection):
    if err:
        raise err  # it comes out of run()

    def declared(err, ok):
        if err:
            raise err
        channel.basic_publish(routing_key=ok.queue, body="Hello World!")
        channel.basic_get(ok.queue, no_ack=True, on_done=got)  # asked for at once, answered in order

    def got(err, message):
        if err:
            raise err
        print(f"got {message.body.decode()!r}")
        connection.close()

    channel = connection.channel()  # its operations may follow at once
    channel.queue_declare(exclusive=True, on_done=declared)


cpspika.connect(URL, on_done=connected).reactor.run()  # runs until nothing is left to wait for
