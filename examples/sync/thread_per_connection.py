"""Threads, the simple way: each has a connection of its own.

python examples/sync/thread_per_connection.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os
import threading

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")
QUEUE = f"cpspika.threads.{os.getpid()}"
WORKERS, MESSAGES = 3, 12


def work(number: int, ready: threading.Barrier, done: list[str]) -> None:
    with cpspika.BlockingConnection(URL) as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1)
        messages = channel.consume(QUEUE, inactivity_timeout=1.0)
        ready.wait()
        for message in messages:
            done.append(f"worker {number} did {message.body.decode()}")
            message.ack()


def main() -> None:
    with cpspika.BlockingConnection(URL) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        ready = threading.Barrier(WORKERS + 1)
        done: list[str] = []
        threads = [threading.Thread(target=work, args=(number, ready, done)) for number in range(WORKERS)]
        for thread in threads:
            thread.start()
        ready.wait()
        for number in range(MESSAGES):
            channel.basic_publish(routing_key=QUEUE, body=f"task {number}")
        for thread in threads:
            thread.join()
        print("\n".join(done))
        channel.queue_delete(QUEUE)


if __name__ == "__main__":
    main()
