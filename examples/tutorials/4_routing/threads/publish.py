"""Publishes an alert: its level, and its text.

python examples/tutorials/4_routing/threads/publish.py error "disk full"
"""

import os
import sys

from cpspika.threads import ThreadedConnection

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
level, text = sys.argv[1:] or ("info", "all is well")

with ThreadedConnection(URL) as connection:
    channel = connection.channel()
    channel.exchange_declare("alerts", "direct", auto_delete=True)
    channel.basic_publish("alerts", level, text)
    print(f"published {level}: {text!r}")
