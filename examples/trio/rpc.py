"""Request and reply over direct reply-to: a reply needs no queue; it returns to the channel that sent the request.

python examples/trio/rpc.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

import trio

from cpspika.adapters import trio_adapter

URL = os.environ.get("AMQP_URL", "embedded://")
REPLY_TO = "amq.rabbitmq.reply-to"


async def square(request):
    """The server: answers each request with its square. A coroutine callback runs in a task of its own."""
    answer = str(int(request.body) ** 2)
    properties = {"correlation_id": request.properties.correlation_id}
    await request.channel.basic_publish(routing_key=request.properties.reply_to, body=answer, properties=properties)


class Client:
    """Sends requests; keeps the event of each under its correlation id."""

    def __init__(self, channel, queue):
        self.channel, self.queue, self.waiting, self.answers = channel, queue, {}, {}

    async def start(self):
        await self.channel.basic_consume(REPLY_TO, self.on_reply, no_ack=True)  # before the first request

    def on_reply(self, reply):
        self.answers[reply.properties.correlation_id] = int(reply.body)
        self.waiting[reply.properties.correlation_id].set()

    async def ask(self, number):
        properties = {"reply_to": REPLY_TO, "correlation_id": str(number)}
        answered = self.waiting[str(number)] = trio.Event()
        await self.channel.basic_publish(routing_key=self.queue, body=str(number), properties=properties)
        await answered.wait()
        return f"{number} squared is {self.answers[str(number)]}"


async def main():
    async with trio_adapter.connect(URL) as connection:
        server, asking = await connection.channel(), await connection.channel()
        queue = (await server.queue_declare(exclusive=True)).queue
        await server.basic_consume(queue, square, no_ack=True)
        client = Client(asking, queue)
        await client.start()
        print(", ".join([await client.ask(number) for number in range(1, 6)]))


trio.run(main)
