"""Retry with a delay: a task that failed waits in a second queue, comes back, and after three tries goes to a third.

tasks --reject--> waiting --after its time to live--> tasks        (the broker does both, by dead-lettering)
tasks --third failure--> failed                                    (the worker does this)

python examples/sync/retry.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")
TASKS, WAITING, FAILED = (f"cpspika.retry.{name}.{os.getpid()}" for name in ("tasks", "waiting", "failed"))
TRIES, DELAY = 3, 200  # the delay in ms


def set_up(channel: cpspika.SyncChannel) -> None:
    """exclusive=True, so that this example leaves nothing behind: write durable=True."""
    to_waiting = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": WAITING}
    to_tasks = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": TASKS, "x-message-ttl": DELAY}
    channel.queue_declare(TASKS, exclusive=True, arguments=to_waiting)
    channel.queue_declare(WAITING, exclusive=True, arguments=to_tasks)
    channel.queue_declare(FAILED, exclusive=True)


def failures(message: cpspika.Message) -> int:
    """How often the message was rejected before: the broker counts in the header x-death, for each queue and reason."""
    deaths = (message.properties.headers or {}).get("x-death", [])
    return sum(death["count"] for death in deaths if death["queue"] == TASKS and death["reason"] == "rejected")


def on_message(message: cpspika.Message, channel: cpspika.SyncChannel) -> None:
    attempt = failures(message) + 1
    try:
        print(f"try {attempt}: {100 / int(message.body):g}")
    except (ValueError, ZeroDivisionError) as error:
        print(f"try {attempt}: {error}")
        if attempt < TRIES:
            message.reject(requeue=False)  # dead-lettered: to the queue that waits
            return
        # Returns when the broker has it in that queue.
        channel.basic_publish(routing_key=FAILED, body=message.body, properties=message.properties, mandatory=True)
    message.ack()


with cpspika.BlockingConnection(URL) as connection:
    channel = connection.channel()
    channel.confirm_select()
    set_up(channel)
    for body in ("0", "5"):
        channel.basic_publish(routing_key=TASKS, body=body)
    for message in channel.consume(TASKS, inactivity_timeout=2.0):
        on_message(message, channel)
    print("failed:", channel.basic_get(FAILED, no_ack=True).body.decode())
