"""Publishing with confirms: a call returns when the broker has taken the message, and else raises its fate.

Confirms are an extension of AMQP 0-9-1; 0-8 does not have them.

    python examples/sync/publisher.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

from __future__ import annotations

import os

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")


def publish(channel: cpspika.SyncChannel, queue: str, body: str) -> str:
    """Publishes one message; returns its fate."""
    try:
        # mandatory: the broker returns a message that reaches no queue, instead of dropping (and confirming) it.
        channel.basic_publish(routing_key=queue, body=body, mandatory=True)
    except cpspika.MessageReturned as error:
        return f"returned, since {error.message.reply_text}"
    except cpspika.MessageNacked:
        return "refused"
    except cpspika.DeliveryUnknown:
        return "unknown: the link was lost first, so publish it again, and expect a second copy"
    return "confirmed"


def main() -> None:
    with cpspika.BlockingConnection(URL) as connection, connection.channel() as channel:
        arguments = {"x-max-length": 2, "x-overflow": "reject-publish"}
        queue = channel.queue_declare(exclusive=True, arguments=arguments).queue
        channel.confirm_select()
        for body in ("one", "two", "too many"):
            print(f"{body}: {publish(channel, queue, body)}")
        print(f"astray: {publish(channel, 'no-such-queue', 'astray')}")


if __name__ == "__main__":
    main()
