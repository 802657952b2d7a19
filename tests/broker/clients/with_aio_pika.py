"""aio-pika's everyday work; the URL is the one argument."""

import asyncio
import sys

import aio_pika


async def main(url: str) -> None:
    connection = await aio_pika.connect_robust(url)
    async with connection:
        channel = await connection.channel()  # with confirms
        await channel.set_qos(prefetch_count=3)
        exchange = await channel.declare_exchange("iox", aio_pika.ExchangeType.TOPIC, auto_delete=True)
        queue = await channel.declare_queue("", exclusive=True)
        await queue.bind(exchange, "a.#")
        for number in range(10):
            await exchange.publish(aio_pika.Message(f"body {number}".encode(), headers={"n": number}), "a.b.c")
        try:
            await exchange.publish(aio_pika.Message(b"lost"), "nowhere", mandatory=True)
        except aio_pika.exceptions.DeliveryError:
            pass
        got = []
        async with queue.iterator(timeout=10) as messages:
            async for message in messages:
                async with message.process():
                    got.append(message.body)
                if len(got) == 10:
                    break
        assert got == [f"body {number}".encode() for number in range(10)]

        big = bytes(range(256)) * 8000
        await channel.default_exchange.publish(aio_pika.Message(big), queue.name)
        message = await queue.get(timeout=10)
        assert message is not None
        assert message.body == big
        await message.nack(requeue=True)
        message = await queue.get(timeout=10)
        assert message is not None
        assert message.redelivered
        await message.ack()
        assert await queue.get(fail=False) is None

        from aio_pika.patterns import RPC

        rpc = await RPC.create(channel)

        async def double(*, number: int) -> int:
            return number * 2

        await rpc.register("double", double, auto_delete=True)
        assert await asyncio.wait_for(rpc.call("double", {"number": 21}), 10) == 42
        await rpc.close()

        replies: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        direct = await channel.get_queue("amq.rabbitmq.reply-to")  # a passive declaration
        tag = await direct.consume(lambda message: replies.set_result(message.body), no_ack=True)
        await channel.default_exchange.publish(
            aio_pika.Message(b"question", reply_to="amq.rabbitmq.reply-to"), queue.name
        )
        question = await queue.get(no_ack=True, timeout=10)
        assert question is not None
        await channel.default_exchange.publish(aio_pika.Message(question.body + b"!"), question.reply_to or "")
        assert await asyncio.wait_for(replies, 10) == b"question!"
        await direct.cancel(tag)

        async with connection.channel(publisher_confirms=False) as other, other.transaction():
            await other.default_exchange.publish(aio_pika.Message(b"committed"), queue.name)
        committed = await queue.get(no_ack=True, timeout=10)
        assert committed is not None
        assert committed.body == b"committed"
        await queue.unbind(exchange, "a.#")
        await queue.delete()
    print("done")


asyncio.run(main(sys.argv[1]))
