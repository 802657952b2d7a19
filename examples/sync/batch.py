"""Publishing a batch with confirms: all messages are on their way before the first confirm is back.

The block waits at its end until the broker has decided on each. If messages failed, it raises PublishesFailed, whose
`failures` say which and why. Confirms are an extension of AMQP 0-9-1; 0-8 does not have them.

    python examples/sync/batch.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

from __future__ import annotations

import os

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")


def publish_all(channel: cpspika.SyncChannel, queue: str, bodies: list[str]) -> list[str]:
    """Publishes messages; returns those that the broker has not taken."""
    try:
        with channel.pipelined():
            for body in bodies:
                channel.basic_publish(routing_key=queue, body=body, mandatory=True)
    except cpspika.PublishesFailed as failed:
        # Once the connection or channel has ended, the block publishes no more: what stands behind the last index in
        # `failures` was not sent either.
        for index, error in failed.failures:
            print(f"{bodies[index]}: {type(error).__name__}")
        return [bodies[index] for index, _ in failed.failures]
    return []


def main() -> None:
    with cpspika.BlockingConnection(URL) as connection, connection.channel() as channel:
        arguments = {"x-max-length": 1000, "x-overflow": "reject-publish"}
        queue = channel.queue_declare(exclusive=True, arguments=arguments).queue
        channel.confirm_select()
        left = publish_all(channel, queue, [f"message {number}" for number in range(1002)])
        channel.queue_purge(queue)
        assert not publish_all(channel, queue, left)
        print(f"published {len(left)} again")


if __name__ == "__main__":
    main()
