"""Publishing with confirms: a Deferred fires when the broker has taken the message, and else fails with its fate.
Gathered publishes wait for their confirms together.

Confirms are an extension of AMQP 0-9-1; 0-8 does not have them.

    python examples/twisted/publisher.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

from twisted.internet.defer import gatherResults, inlineCallbacks
from twisted.internet.task import react

import cpspika
from cpspika.adapters import twisted_adapter

URL = os.environ.get("AMQP_URL", "embedded://")


def publish(channel, queue, body):
    """Publishes one message; returns a Deferred of its fate."""
    # mandatory: the broker returns a message that reaches no queue, instead of dropping (and confirming) it.
    published = channel.basic_publish(routing_key=queue, body=body, mandatory=True)
    return published.addCallbacks(lambda _: f"{body}: confirmed", not_confirmed, errbackArgs=(body,))


def not_confirmed(failure, body):
    kind = failure.trap(cpspika.MessageReturned, cpspika.MessageNacked, cpspika.DeliveryUnknown)
    if kind is cpspika.MessageReturned:
        return f"{body}: returned, since {failure.value.message.reply_text}"
    if kind is cpspika.MessageNacked:
        return f"{body}: refused"
    return f"{body}: unknown, the link was lost first; publish it again, and expect a second copy"


@inlineCallbacks
def main(reactor):
    connection = yield twisted_adapter.connect(URL, reactor=reactor)
    channel = yield connection.channel()
    arguments = {"x-max-length": 2, "x-overflow": "reject-publish"}
    queue = (yield channel.queue_declare(exclusive=True, arguments=arguments)).queue
    yield channel.confirm_select()
    three = [publish(channel, queue, body) for body in ("one", "two", "too many")]
    fates = yield gatherResults([*three, publish(channel, "no-such-queue", "astray")])
    print(*fates, sep="\n")
    yield connection.close()


react(main)
