"""Publishes six messages, and tells the fate of each: three fit into the queue, one goes to no queue.

python examples/tutorials/7_confirms/callbacks/publish.py
"""

import os

import cpspika

URL = os.environ.get("AMQP_URL", "amqp://localhost")  # the broker
THREE = {"x-max-length": 3, "x-overflow": "reject-publish"}  # room for three messages


def connected(err, connection):
    if err:
        raise err

    def declared(err, ok):
        if err:
            raise err
        for number, target in enumerate([ok.queue] * 5 + ["nowhere"]):
            body = f"message {number}"
            channel.basic_publish(routing_key=target, body=body, mandatory=True, on_done=decided(body))

    channel = connection.channel()
    channel.confirm_select()
    channel.queue_declare(exclusive=True, arguments=THREE, on_done=declared)


FATES = []


def decided(body):
    """The on_done of one publish: it prints the message's fate. After the last one the connection is closed."""

    def on_done(err, result):
        if err is None:
            fate = "confirmed"
        elif isinstance(err, cpspika.MessageNacked):
            fate = "refused"
        elif isinstance(err, cpspika.MessageReturned):
            fate = f"returned, since {err.message.reply_text}"
        elif isinstance(err, cpspika.DeliveryUnknown):
            fate = "unknown: the link was lost first; publish it again, and expect a second copy"
        else:
            raise err
        print(f"{body}: {fate}")
        FATES.append(fate)
        if len(FATES) == 6:
            connection.close()

    return on_done


connection = cpspika.connect(URL, on_done=connected)
connection.reactor.run()
