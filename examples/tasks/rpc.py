"""Request and reply over direct reply-to: a reply needs no queue; it returns to the channel that sent the request.

python examples/tasks/rpc.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

from cpspika import tasks

URL = os.environ.get("AMQP_URL", "embedded://")
REPLY_TO = "amq.rabbitmq.reply-to"


def square(request):
    """The server: answers each request with its square. A generator callback runs as a task of its own."""
    answer = str(int(request.body) ** 2)
    properties = {"correlation_id": request.properties.correlation_id}
    yield request.channel.basic_publish(routing_key=request.properties.reply_to, body=answer, properties=properties)


class Client:
    """Sends requests; keeps the promise of each under its correlation id."""

    def __init__(self, channel, queue):
        self.channel, self.queue, self.waiting = channel, queue, {}

    def start(self):
        yield self.channel.basic_consume(REPLY_TO, self.on_reply, no_ack=True)  # before the first request

    def on_reply(self, reply):
        self.waiting.pop(reply.properties.correlation_id).settle(None, int(reply.body))

    def ask(self, number):
        properties = {"reply_to": REPLY_TO, "correlation_id": str(number)}
        answer = self.waiting[str(number)] = tasks.Promise(tasks.current_reactor())
        yield self.channel.basic_publish(routing_key=self.queue, body=str(number), properties=properties)
        return f"{number} squared is {(yield answer)}"


def main():
    connection = yield tasks.connect(URL)
    server, asking = yield tasks.gather(connection.channel(), connection.channel())
    queue = (yield server.queue_declare(exclusive=True)).queue
    yield server.basic_consume(queue, square, no_ack=True)
    client = Client(asking, queue)
    yield client.start()
    print(", ".join((yield tasks.gather(*(client.ask(number) for number in range(1, 6))))))
    yield connection.close()


tasks.run(main())
