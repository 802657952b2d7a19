"""Publishes six messages, and tells the fate of each: three fit into the queue, one goes to no queue.

python examples/tutorials/7_confirms/greenlets/publish.py
"""

from gevent import monkey

monkey.patch_all()  # before every other import; the rest is as in a script

import os  # noqa: E402

import cpspika  # noqa: E402

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
THREE = {"x-max-length": 3, "x-overflow": "reject-publish"}  # room for three messages


def publish(channel, target, body):
    """Publishes one message; waits for its fate, and returns it."""
    try:
        channel.basic_publish(routing_key=target, body=body, mandatory=True)
    except cpspika.MessageNacked:
        return "refused"
    except cpspika.MessageReturned as error:
        return f"returned, since {error.message.reply_text}"
    except cpspika.DeliveryUnknown:
        return "unknown: the link was lost first; publish it again, and expect a second copy"
    return "confirmed"


with cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.confirm_select()
    queue = channel.queue_declare(exclusive=True, arguments=THREE).queue
    for number, target in enumerate([queue] * 5 + ["nowhere"]):
        print(f"message {number}: {publish(channel, target, f'message {number}')}")
