"""TLS to a broker whose certificate a private authority has signed, over a link that the kernel probes.

AMQP_URL="amqps://localhost/?cafile=ca.pem" python examples/sync/tls.py
(without AMQP_URL on the embedded broker, which has no TLS)
"""

import os

import cpspika

URL = os.environ.get("AMQP_URL", "embedded://")

# The same option in code: BlockingConnection("amqps://localhost", cafile="ca.pem"). For a broker that asks for the
# client's certificate: certfile="client.pem", keyfile="client.key", credentials=cpspika.ExternalCredentials(). For a
# broker that is reached by another name than its certificate's: server_hostname="broker.example.org".
try:
    with cpspika.BlockingConnection(URL, tcp_keepalive=60) as connection:
        print("encrypted" if connection.parameters.ssl else "not encrypted", end=", ")
        channel = connection.channel()
        queue = channel.queue_declare(exclusive=True).queue
        channel.basic_publish(routing_key=queue, body="Hello World!")
        print("got", channel.basic_get(queue, no_ack=True).body)
except cpspika.ConnectError as error:
    print(error)  # names host, port, the certificate's fault, and the option that is missing
