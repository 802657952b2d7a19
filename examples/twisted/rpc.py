"""Request and reply over direct reply-to: a reply needs no queue; it returns to the channel that sent the request.

python examples/twisted/rpc.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.task import react

from cpspika.adapters import twisted_adapter

URL = os.environ.get("AMQP_URL", "embedded://")
REPLY_TO = "amq.rabbitmq.reply-to"


def square(request):
    """The server: answers each request with its square. A Deferred that a callback returns is logged if it fails."""
    answer = str(int(request.body) ** 2)
    properties = {"correlation_id": request.properties.correlation_id}
    return request.channel.basic_publish(routing_key=request.properties.reply_to, body=answer, properties=properties)


class Client:
    """Sends requests; keeps the Deferred of each under its correlation id."""

    def __init__(self, channel, queue):
        self.channel, self.queue, self.waiting = channel, queue, {}

    def start(self):
        return self.channel.basic_consume(REPLY_TO, self.on_reply, no_ack=True)  # before the first request

    def on_reply(self, reply):
        self.waiting.pop(reply.properties.correlation_id).callback(int(reply.body))

    def ask(self, number):
        properties = {"reply_to": REPLY_TO, "correlation_id": str(number)}
        answer = self.waiting[str(number)] = Deferred()
        self.channel.basic_publish(routing_key=self.queue, body=str(number), properties=properties)
        return answer.addCallback(lambda squared: f"{number} squared is {squared}")


@inlineCallbacks
def main(reactor):
    connection = yield twisted_adapter.connect(URL, reactor=reactor)
    server, asking = yield gatherResults([connection.channel(), connection.channel()])
    queue = (yield server.queue_declare(exclusive=True)).queue
    yield server.basic_consume(queue, square, no_ack=True)
    client = Client(asking, queue)
    yield client.start()
    print(", ".join((yield gatherResults([client.ask(number) for number in range(1, 6)]))))
    yield connection.close()


react(main)
