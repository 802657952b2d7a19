"""Request and reply over direct reply-to: a reply needs no queue; it returns to the channel that sent the request.

Client threads share one channel. Each waits for its own reply. The server is a consumer on the connection's threads.

    python examples/threads/rpc.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor

from cpspika.threads import ThreadedConnection

URL = os.environ.get("AMQP_URL", "embedded://")
REPLY_TO = "amq.rabbitmq.reply-to"


def square(request):
    """The server: answers each request with its square."""
    answer = str(int(request.body) ** 2)
    properties = {"correlation_id": request.properties.correlation_id}
    request.channel.basic_publish(routing_key=request.properties.reply_to, body=answer, properties=properties)


class Client:
    """Sends requests; keeps the future of each under its correlation id."""

    def __init__(self, channel, queue):
        self.channel, self.queue, self.waiting = channel, queue, {}
        channel.basic_consume(REPLY_TO, self.on_reply, no_ack=True)  # before the first request, on the same channel

    def on_reply(self, reply):
        self.waiting.pop(reply.properties.correlation_id).set_result(int(reply.body))

    def ask(self, number):
        """The square of a number. Any thread may call this."""
        answer = self.waiting[str(number)] = Future()
        properties = {"reply_to": REPLY_TO, "correlation_id": str(number)}
        self.channel.basic_publish(routing_key=self.queue, body=str(number), properties=properties)
        return answer.result(timeout=10)


def main():
    with ThreadedConnection(URL) as connection, ThreadPoolExecutor(5) as threads:
        server = connection.channel()
        queue = server.queue_declare(exclusive=True).queue
        server.basic_consume(queue, square, no_ack=True)
        client = Client(connection.channel(), queue)
        answers = threads.map(client.ask, range(1, 6))
        print(", ".join(f"{number} squared is {answer}" for number, answer in enumerate(answers, 1)))


if __name__ == "__main__":
    main()
