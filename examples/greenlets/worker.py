"""A work queue: tasks survive a restart of the broker; one worker does each task, and acknowledges it afterwards.

It queues the tasks of its command line, then works until the queue is empty. Start several to share the work:

    python examples/greenlets/worker.py "wash up"        (on AMQP_URL if that is set, else on the embedded broker)
"""

from gevent import monkey

monkey.patch_all()  # before every other import; the rest is as in a script

import os  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

import cpspika  # noqa: E402

URL = os.environ.get("AMQP_URL", "embedded://")
QUEUE = "cpspika.greenlets.tasks"
PERSISTENT = cpspika.BasicProperties(delivery_mode=2)  # persistent: the broker keeps it on disk


def main() -> None:
    with cpspika.BlockingConnection(URL) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True, arguments={"x-expires": 600_000})  # gone 10 min after use
        for task in sys.argv[1:] or ["first task", "second task", "third task"]:
            channel.basic_publish(routing_key=QUEUE, body=task, properties=PERSISTENT)
            print(f"queued {task!r}")

        channel.basic_qos(prefetch_count=1)  # one task at a time; other workers get the rest
        for message in channel.consume(QUEUE, inactivity_timeout=1.0):
            print(f"working on {message.body.decode()!r}", "again" if message.redelivered else "")
            time.sleep(0.1)
            message.ack()  # if the worker ends before this, another gets the task
        print("no more tasks")


if __name__ == "__main__":
    main()
