"""Request and reply over direct reply-to: a reply needs no queue; it returns to the channel that sent the request.

The server is a thread here, with a connection of its own. Mostly it is another program.

    python examples/sync/rpc.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os
import threading
import time

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")
REPLY_TO = "amq.rabbitmq.reply-to"


def square(request):
    """The server: answers each request with its square."""
    answer = str(int(request.body) ** 2)
    properties = {"correlation_id": request.properties.correlation_id}
    request.channel.basic_publish(routing_key=request.properties.reply_to, body=answer, properties=properties)


class Client:
    """Sends a request, and waits for its reply."""

    def __init__(self, channel, queue):
        self.channel, self.queue, self.replies = channel, queue, {}
        channel.basic_consume(REPLY_TO, self.on_reply, no_ack=True)  # before the first request, on the same channel

    def on_reply(self, reply):
        self.replies[reply.properties.correlation_id] = reply

    def ask(self, number, timeout=10.0):
        """The square of a number. TimeoutError: no reply came within so many seconds."""
        properties, deadline = {"reply_to": REPLY_TO, "correlation_id": str(number)}, time.monotonic() + timeout
        self.channel.basic_publish(routing_key=self.queue, body=str(number), properties=properties)
        while str(number) not in self.replies:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no reply to {number} in {timeout} s")
            self.channel.connection.drain_events(timeout=1.0)  # calls on_reply
        return int(self.replies.pop(str(number)).body)


with cpspika.BlockingConnection(URL) as serving, cpspika.BlockingConnection(URL) as asking:
    server = serving.channel()
    queue = server.queue_declare(auto_delete=True).queue
    server.basic_consume(queue, square, no_ack=True)
    thread = threading.Thread(target=server.start_consuming)
    thread.start()
    try:
        client = Client(asking.channel(), queue)
        print(", ".join(f"{number} squared is {client.ask(number)}" for number in range(1, 6)))
    finally:
        server.stop_consuming()  # any thread may call this
        thread.join()
