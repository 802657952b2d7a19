"""Publishes a piece of news to all who listen.

python examples/tutorials/3_publish_subscribe/sync/publish.py "it rains"
"""

import os
import sys

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
text = " ".join(sys.argv[1:]) or "it rains"

with cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.exchange_declare("news", "fanout", auto_delete=True)
    channel.basic_publish("news", "", text)
    print(f"published {text!r}")
