"""Publishes a piece of news to all who listen.

python examples/tutorials/3_publish_subscribe/greenlets/publish.py "it rains"
"""

from gevent import monkey

monkey.patch_all()  # before every other import; the rest is as in a script

import os  # noqa: E402
import sys  # noqa: E402

import cpspika  # noqa: E402

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
text = " ".join(sys.argv[1:]) or "it rains"

with cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.exchange_declare("news", "fanout", auto_delete=True)
    channel.basic_publish("news", "", text)
    print(f"published {text!r}")
