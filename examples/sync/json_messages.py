"""Bodies in JSON: the content type says so, and the receiver believes nothing else.

AMQP carries bytes. `content_type` and `content_encoding` are for the programs at both ends; the broker ignores them.

    python examples/sync/json_messages.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import json
import os
from typing import Any

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")
JSON = cpspika.BasicProperties(content_type="application/json", content_encoding="utf-8")


def publish(channel: cpspika.SyncChannel, queue: str, value: Any) -> None:
    channel.basic_publish(routing_key=queue, body=json.dumps(value), properties=JSON)  # a str is encoded as UTF-8


def parsed(message: cpspika.Message) -> Any:
    """The value in a message. ValueError: it is not JSON, or does not say that it is."""
    if message.properties.content_type != JSON.content_type:
        raise ValueError(f"its content type is {message.properties.content_type}")
    return json.loads(message.body)


def main() -> None:
    with cpspika.BlockingConnection(URL) as connection:
        channel = connection.channel()
        queue = channel.queue_declare(exclusive=True).queue
        publish(channel, queue, {"order": 17, "of": ["bread", "plums"]})
        channel.basic_publish(routing_key=queue, body='{"order": 18}')  # no content type
        channel.basic_publish(routing_key=queue, body='{"order": 19', properties=JSON)

        for message in channel.consume(queue, inactivity_timeout=0.5):
            try:
                value = parsed(message)
            except ValueError as error:
                print(f"refused: {error}")
                message.reject(requeue=False)  # it would be wrong the next time too; a dead-letter exchange keeps it
            else:
                print(f"order {value['order']}: {' and '.join(value['of'])}")
                message.ack()


if __name__ == "__main__":
    main()
