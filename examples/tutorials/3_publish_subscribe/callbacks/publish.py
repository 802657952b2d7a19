"""Publishes a piece of news to all who listen.

python examples/tutorials/3_publish_subscribe/callbacks/publish.py "it rains"
"""

import os
import sys

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
text = " ".join(sys.argv[1:]) or "it rains"


def connected(err, connection):
    if err:
        raise err
    channel = connection.channel()
    channel.exchange_declare("news", "fanout", auto_delete=True)
    channel.basic_publish("news", "", text)
    connection.close(on_done=closed)


def closed(err, result):
    if err:
        raise err
    print(f"published {text!r}")


cpspika.connect(URL, on_done=connected).reactor.run()
