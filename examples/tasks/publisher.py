"""Publishing with confirms: a yield ends when the broker has taken the message, and else raises its fate. Gathered
publishes wait for their confirms together.

Confirms are an extension of AMQP 0-9-1; 0-8 does not have them.

    python examples/tasks/publisher.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

import cpspika
from cpspika import tasks

URL = os.environ.get("AMQP_URL", "embedded://")


def publish(channel, queue, body):
    """Publishes one message; returns its fate."""
    try:
        # mandatory: the broker returns a message that reaches no queue, instead of dropping (and confirming) it.
        yield channel.basic_publish(routing_key=queue, body=body, mandatory=True)
    except cpspika.MessageReturned as error:
        return f"{body}: returned, since {error.message.reply_text}"
    except cpspika.MessageNacked:
        return f"{body}: refused"
    except cpspika.DeliveryUnknown:
        return f"{body}: unknown, the link was lost first; publish it again, and expect a second copy"
    return f"{body}: confirmed"


def main():
    connection = yield tasks.connect(URL)
    channel = yield connection.channel()
    arguments = {"x-max-length": 2, "x-overflow": "reject-publish"}
    queue = (yield channel.queue_declare(exclusive=True, arguments=arguments)).queue
    yield channel.confirm_select()
    three = [publish(channel, queue, body) for body in ("one", "two", "too many")]
    fates = yield tasks.gather(*three, publish(channel, "no-such-queue", "astray"))
    print(*fates, sep="\n")
    yield connection.close()


tasks.run(main())
