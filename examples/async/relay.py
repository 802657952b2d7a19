"""A relay: two connections on one reactor, in one thread. Messages of the first go out on the second.

A message is acknowledged on the first when its bytes have left on the second. Messages come from AMQP_URL and go to
AMQP_URL_TO; both may be one broker.

    python examples/async/relay.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os
from functools import partial

import cpspika

FROM = os.environ.get("AMQP_URL", "embedded://")
TO = os.environ.get("AMQP_URL_TO", FROM)
INLET, OUTLET = f"cpspika.inlet.{os.getpid()}", f"cpspika.outlet.{os.getpid()}"
MESSAGES = 3


def first_connected(err, source):
    if err:
        raise err
    cpspika.connect(TO, reactor=source.reactor, on_done=partial(both_connected, source))


def both_connected(source, err, target):
    if err:
        raise err

    def relay(message):
        print(f"relaying {message.body.decode()!r}")
        outlet.basic_publish("", OUTLET, message.body, message.properties, on_done=lambda err, _: err or message.ack())

    def arrived(message):
        print(f"arrived: {message.body.decode()!r}")
        if message.delivery_tag == MESSAGES:
            source.close()
            target.close()

    inlet, outlet = source.channel(), target.channel()
    inlet.queue_declare(INLET, exclusive=True)  # without on_done, an error leaves run()
    inlet.basic_consume(INLET, relay)
    outlet.queue_declare(OUTLET, exclusive=True)
    outlet.basic_consume(OUTLET, arrived, no_ack=True)
    for number in range(1, MESSAGES + 1):
        inlet.basic_publish("", INLET, f"message {number}")


cpspika.connect(FROM, on_done=first_connected).reactor.run()
