"""The shortest way there and back, as a task: a generator, which yields what it asks for and goes on with the result.

No asyncio is needed for it; with `async def` and `await` in place of `yield` it is the same.

    python examples/tasks/hello.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

from cpspika import tasks

URL = os.environ.get("AMQP_URL", "embedded://")


def main():
    connection = yield tasks.connect(URL)
    channel = yield connection.channel()
    queue = (yield channel.queue_declare(exclusive=True)).queue  # the broker picks a name; the queue goes with us
    yield channel.basic_publish(routing_key=queue, body="Hello World!")
    message = yield channel.basic_get(queue, no_ack=True)
    print(f"got {message.body.decode()!r} from queue {queue}")
    yield connection.close()


tasks.run(main())
