"""Publishes an alert: its level, and its text.

python examples/tutorials/4_routing/greenlets/publish.py error "disk full"
"""

from gevent import monkey

monkey.patch_all()  # before every other import; the rest is as in a script

import os  # noqa: E402
import sys  # noqa: E402

import cpspika  # noqa: E402

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
level, text = sys.argv[1:] or ("info", "all is well")

with cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.exchange_declare("alerts", "direct", auto_delete=True)
    channel.basic_publish("alerts", level, text)
    print(f"published {level}: {text!r}")
