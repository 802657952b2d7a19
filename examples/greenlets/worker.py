"""A work queue: tasks that outlive a restart of the broker, each done by one worker and acknowledged when it is done.

It queues the tasks named on its command line, then works until the queue is empty. Start several to share the work:

    python examples/greenlets/worker.py "wash up"        (on AMQP_URL if that is set, else on the embedded broker)
"""

from gevent import monkey

monkey.patch_all()  # before everything else is imported: what follows is as in a script

import os  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

import cpspika  # noqa: E402

URL = os.environ.get("AMQP_URL", "embedded://")
QUEUE = "cpspika.greenlets.tasks"
PERSISTENT = cpspika.BasicProperties(delivery_mode=2)  # kept on disk, as the durable queue is


def main() -> None:
    with cpspika.BlockingConnection(URL) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        for task in sys.argv[1:] or ["first task", "second task", "third task"]:
            channel.basic_publish(routing_key=QUEUE, body=task, properties=PERSISTENT)
            print(f"queued {task!r}")

        channel.basic_qos(prefetch_count=1)  # one task at a time; the others are for whoever is free
        for message in channel.consume(QUEUE, inactivity_timeout=1.0):
            print(f"working on {message.body.decode()!r}", "again" if message.redelivered else "")
            time.sleep(0.1)
            message.ack()  # a worker that dies before this leaves the task to another
        print("no more tasks")


if __name__ == "__main__":
    main()
