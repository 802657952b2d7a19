"""The shortest program, on a connection that any thread may use: publish a message, then get it.

python examples/threads/hello.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

from cpspika.threads import ThreadedConnection

URL = os.environ.get("AMQP_URL", "embedded://")

with ThreadedConnection(URL) as connection:
    channel = connection.channel()
    queue = channel.queue_declare(exclusive=True).queue  # named by the broker; ends with the connection
    channel.basic_publish(routing_key=queue, body="Hello World!")
    message = channel.basic_get(queue, no_ack=True)
    print(f"got {message.body.decode()!r} from queue {queue}")
