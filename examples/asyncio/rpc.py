"""Request and reply over direct reply-to: a reply needs no queue; it returns to the channel that sent the request.

python examples/asyncio/rpc.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import asyncio
import os

from cpspika.adapters import asyncio_adapter

URL = os.environ.get("AMQP_URL", "embedded://")
REPLY_TO = "amq.rabbitmq.reply-to"


async def square(request):
    """The server: answers each request with its square. A coroutine callback runs in a task of its own."""
    answer = str(int(request.body) ** 2)
    properties = {"correlation_id": request.properties.correlation_id}
    await request.channel.basic_publish(routing_key=request.properties.reply_to, body=answer, properties=properties)


class Client:
    """Sends requests; keeps the future of each under its correlation id."""

    def __init__(self, channel, queue):
        self.channel, self.queue, self.waiting = channel, queue, {}

    async def start(self):
        await self.channel.basic_consume(REPLY_TO, self.on_reply, no_ack=True)  # before the first request

    def on_reply(self, reply):
        self.waiting.pop(reply.properties.correlation_id).set_result(int(reply.body))

    async def ask(self, number):
        properties = {"reply_to": REPLY_TO, "correlation_id": str(number)}
        answer = self.waiting[str(number)] = asyncio.get_running_loop().create_future()
        await self.channel.basic_publish(routing_key=self.queue, body=str(number), properties=properties)
        return f"{number} squared is {await answer}"


async def main():
    async with asyncio_adapter.connect(URL) as connection:
        server, asking = await asyncio.gather(connection.channel(), connection.channel())
        queue = (await server.queue_declare(exclusive=True)).queue
        await server.basic_consume(queue, square, no_ack=True)
        client = Client(asking, queue)
        await client.start()
        print(", ".join(await asyncio.gather(*(client.ask(number) for number in range(1, 6)))))


asyncio.run(main())
