"""Threads on one connection: a thread holds the connection's lock while it uses it.

This suits threads that publish now and then. Give consumers a connection each: see thread_per_connection.py.

    python examples/sync/shared_connection.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os
import threading

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")
THREADS, MESSAGES = 4, 25


def publish(channel: cpspika.SyncChannel, queue: str, number: int) -> None:
    for count in range(MESSAGES):
        with channel.connection.lock:  # without it: ConcurrentUse, if two threads meet
            channel.basic_publish(routing_key=queue, body=f"message {count} of thread {number}")


def main() -> None:
    with cpspika.BlockingConnection(URL) as connection:
        channel = connection.channel()
        queue = channel.queue_declare(exclusive=True).queue
        threads = [threading.Thread(target=publish, args=(channel, queue, number)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        count = channel.queue_purge(queue)
        print(f"{THREADS} threads published {count} messages over one connection")


if __name__ == "__main__":
    main()
