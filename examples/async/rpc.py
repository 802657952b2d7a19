"""Request and reply over direct reply-to: a reply needs no queue; it returns to the channel that sent the request.

python examples/async/rpc.py        (on AMQP_URL if that is set, else on the embedded broker)
"""

import os

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")
REPLY_TO = "amq.rabbitmq.reply-to"


def square(request):
    """The server: answers each request with its square."""
    answer = str(int(request.body) ** 2)
    properties = {"correlation_id": request.properties.correlation_id}
    request.channel.basic_publish(routing_key=request.properties.reply_to, body=answer, properties=properties)


def ask(channel, queue, numbers, on_answers):
    """The client: sends a request for each number; calls on_answers when all have come, in any order."""
    answers = {}

    def on_reply(reply):
        answers[int(reply.properties.correlation_id)] = int(reply.body)
        if len(answers) == len(numbers):
            on_answers(answers)

    channel.basic_consume(REPLY_TO, on_reply, no_ack=True)  # before the first request, on the same channel
    for number in numbers:
        properties = {"reply_to": REPLY_TO, "correlation_id": str(number)}
        channel.basic_publish(routing_key=queue, body=str(number), properties=properties)


def connected(err, connection):
    if err:
        raise err

    def declared(err, ok):
        if err:
            raise err
        server.basic_consume(ok.queue, square, no_ack=True)
        ask(connection.channel(), ok.queue, range(1, 6), answered)

    def answered(answers):
        print(", ".join(f"{number} squared is {answer}" for number, answer in sorted(answers.items())))
        connection.close()

    server = connection.channel()
    server.queue_declare(exclusive=True, on_done=declared)


cpspika.connect(URL, on_done=connected).reactor.run()
