"""Publishes an alert: its level, and its text.

python examples/tutorials/4_routing/sync/publish.py error "disk full"
"""

import os
import sys

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
level, text = sys.argv[1:] or ("info", "all is well")

with cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.exchange_declare("alerts", "direct", auto_delete=True)
    channel.basic_publish("alerts", level, text)
    print(f"published {level}: {text!r}")
