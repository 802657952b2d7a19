"""The shortest program as a task: a generator that yields each promise and goes on with its result.

It needs no asyncio. With `async def`, and `await` in place of `yield`, it is the same.

    python examples/tasks/hello.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

from cpspika import tasks

URL = os.environ.get("AMQP_URL", "embedded://")


def main():
    connection = yield tasks.connect(URL)
    channel = yield connection.channel()
    queue = (yield channel.queue_declare(exclusive=True)).queue  # named by the broker; ends with the connection
    yield channel.basic_publish(routing_key=queue, body="Hello World!")
    message = yield channel.basic_get(queue, no_ack=True)
    print(f"got {message.body.decode()!r} from queue {queue}")
    yield connection.close()


tasks.run(main())
