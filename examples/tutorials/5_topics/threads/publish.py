"""Publishes a reading: where and what it is of, and its value.

python examples/tutorials/5_topics/threads/publish.py kitchen.temperature 21
"""

import os
import sys

from cpspika.threads import ThreadedConnection

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
topic, text = sys.argv[1:] or ("kitchen.temperature", "21")

with ThreadedConnection(URL) as connection:
    channel = connection.channel()
    channel.exchange_declare("readings", "topic", auto_delete=True)
    channel.basic_publish("readings", topic, text)
    print(f"published {topic} {text}")
