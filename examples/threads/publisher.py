"""Publishing with confirms from many threads over one channel: a call returns when the broker has taken its message,
and else raises the message's fate. It blocks only its own thread.

Confirms are an extension of AMQP 0-9-1; 0-8 does not have them.

    python examples/threads/publisher.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os
from concurrent.futures import ThreadPoolExecutor

import cpspika
from cpspika.threads import ThreadedConnection

URL = os.environ.get("AMQP_URL", "embedded://")


def publish(channel, queue, body):
    """Publishes one message; returns its fate."""
    try:
        # mandatory: the broker returns a message that reaches no queue, instead of dropping (and confirming) it.
        channel.basic_publish(routing_key=queue, body=body, mandatory=True)
    except cpspika.MessageReturned as error:
        return f"{body}: returned, since {error.message.reply_text}"
    except cpspika.MessageNacked:
        return f"{body}: refused"
    except cpspika.DeliveryUnknown:
        return f"{body}: unknown, the link was lost first; publish it again, and expect a second copy"
    return f"{body}: confirmed"


def main():
    with ThreadedConnection(URL) as connection, connection.channel() as channel, ThreadPoolExecutor() as threads:
        arguments = {"x-max-length": 2, "x-overflow": "reject-publish"}
        queue = channel.queue_declare(exclusive=True, arguments=arguments).queue
        channel.confirm_select()
        print(*threads.map(publish, [channel] * 2, [queue] * 2, ["one", "two"]), sep="\n")
        print(*threads.map(publish, [channel] * 2, [queue, "no-such-queue"], ["too many", "astray"]), sep="\n")


if __name__ == "__main__":
    main()
