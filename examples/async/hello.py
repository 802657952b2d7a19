"""The shortest program with callbacks: each step names the next.

python examples/async/hello.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")


def connected(err, connection):
    if err:
        raise err  # it leaves run()

    def declared(err, ok):
        if err:
            raise err
        channel.basic_publish(routing_key=ok.queue, body="Hello World!")
        channel.basic_get(ok.queue, no_ack=True, on_done=got)  # no need to wait: replies come in order

    def got(err, message):
        if err:
            raise err
        print(f"got {message.body.decode()!r}")
        connection.close()

    channel = connection.channel()  # no need to wait for its opening
    channel.queue_declare(exclusive=True, on_done=declared)


cpspika.connect(URL, on_done=connected).reactor.run()  # ends when nothing is left to wait for
