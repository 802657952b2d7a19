"""A work queue: tasks that outlive a restart of the broker, each done by one worker and acknowledged when it is done.

Consumers run on the connection's own threads, each consumer one task at a time; heartbeats go on however long a task
takes. For more hands start more consumers on the queue: here it is one, so that the tasks are done in order.

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
PERSISTENT = cpspika.BasicProperties(delivery_mode=2)  # kept on disk, as the durable queue is
CONSUMERS = 1


def main():
    with ThreadedConnection(URL) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        for task in sys.argv[1:] or ["first task", "second task", "third task"]:
            channel.basic_publish(routing_key=QUEUE, body=task, properties=PERSISTENT)
            print(f"queued {task!r}")

        busy = threading.Event()

        def work(message):
            busy.set()
            print(f"working on {message.body.decode()!r}", "again" if message.redelivered else "")
            time.sleep(0.1)
            message.ack()  # a worker that dies before this leaves the task to another

        channel.basic_qos(prefetch_count=1)  # one task at a time; the others are for whoever is free
        for _ in range(CONSUMERS):
            channel.basic_consume(QUEUE, work)
        while busy.wait(1.0):  # until nothing has come for a second
            busy.clear()
        print("no more tasks")


if __name__ == "__main__":
    main()
