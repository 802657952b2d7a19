import cpspika
import asyncore
conn = cpspika.AsyncoreConnection(cpspika.ConnectionParameters('localhost'))
ch = conn.channel()
ch.exchange_declare(exchange="test_x", type="fanout", durable=False)
ch.queue_declare(queue="test_q", durable=True, exclusive=False, auto_delete=False)
ch.queue_bind(queue="test_q", exchange="test_x", routing_key="")
ch.basic_publish(exchange="test_x", routing_key="", body="Hello World!")
conn.close()
asyncore.loop()
