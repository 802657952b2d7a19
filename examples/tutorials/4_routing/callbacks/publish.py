"""Publishes an alert: its level, and its text.

python examples/tutorials/4_routing/callbacks/publish.py error "disk full"
"""

import os
import sys

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
level, text = sys.argv[1:] or ("info", "all is well")


def connected(err, connection):
    if err:
        raise err
    channel = connection.channel()
    channel.exchange_declare("alerts", "direct", auto_delete=True)
    channel.basic_publish("alerts", level, text)
    connection.close(on_done=closed)


def closed(err, result):
    if err:
        raise err
    print(f"published {level}: {text!r}")


cpspika.connect(URL, on_done=connected).reactor.run()
