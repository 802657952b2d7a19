"""A work queue: tasks survive a restart of the broker; one worker does each task, and acknowledges it afterwards.

Consumers run on the connection's own threads. Each consumer does one task at a time. Heartbeats go on during a long
task. To do tasks in parallel, start more consumers on the queue; this program has one, and does its tasks in order.

    python examples/threads/worker.py "wash up"        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os
import sys
import threading
import time

import cpspika
from cpspika.threads import ThreadedConnection

URL = os.environ.get("AMQP_URL", "embedded://")
QUEUE = "cpspika.tasks"
PERSISTENT = cpspika.BasicProperties(delivery_mode=2)  # persistent: the broker keeps it on disk
CONSUMERS = 1


def main():
    with ThreadedConnection(URL) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True, arguments={"x-expires": 600_000})  # gone 10 min after use
        for task in sys.argv[1:] or ["first task", "second task", "third task"]:
            channel.basic_publish(routing_key=QUEUE, body=task, properties=PERSISTENT)
            print(f"queued {task!r}")

        busy = threading.Event()

        def work(message):
            busy.set()
            print(f"working on {message.body.decode()!r}", "again" if message.redelivered else "")
            time.sleep(0.1)
            message.ack()  # if the worker ends before this, another gets the task

        channel.basic_qos(prefetch_count=1)  # one task at a time; other workers get the rest
        for _ in range(CONSUMERS):
            channel.basic_consume(QUEUE, work)
        while busy.wait(1.0):  # until no task came for a second
            busy.clear()
        print("no more tasks")


if __name__ == "__main__":
    main()
