"""Publishes a reading: where and what it is of, and its value.

python examples/tutorials/5_topics/greenlets/publish.py kitchen.temperature 21
"""

from gevent import monkey

monkey.patch_all()  # before every other import; the rest is as in a script

import os  # noqa: E402
import sys  # noqa: E402

import cpspika  # noqa: E402

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
topic, text = sys.argv[1:] or ("kitchen.temperature", "21")

with cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.exchange_declare("readings", "topic", auto_delete=True)
    channel.basic_publish("readings", topic, text)
    print(f"published {topic} {text}")
