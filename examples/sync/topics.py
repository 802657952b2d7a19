"""Topics and fan-out: who gets which message is decided by bindings, and the publisher knows nothing of it.

A topic exchange compares words of the routing key with patterns: * is one word, # is any number. A fanout exchange
gives each of its queues a copy.

    python examples/sync/topics.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")
READINGS, NOTICES = f"cpspika.readings.{os.getpid()}", f"cpspika.notices.{os.getpid()}"


def main() -> None:
    with cpspika.BlockingConnection(URL) as connection:
        channel = connection.channel()
        channel.exchange_declare(READINGS, "topic", auto_delete=True)  # each goes with its last binding
        channel.exchange_declare(NOTICES, "fanout", auto_delete=True)

        queues = {}
        for name, pattern in {"kitchen": "kitchen.*", "humidity": "#.humidity", "log": "#"}.items():
            queues[name] = channel.queue_declare(exclusive=True).queue
            channel.queue_bind(queues[name], READINGS, routing_key=pattern)
            channel.queue_bind(queues[name], NOTICES)

        channel.basic_publish(READINGS, "kitchen.temperature", "21")
        channel.basic_publish(READINGS, "cellar.wall.humidity", "80")
        channel.basic_publish(NOTICES, body="the end")

        for name, queue in queues.items():
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                print(f"{name}: {message.routing_key or 'to all'} {message.body.decode()}")


if __name__ == "__main__":
    main()
