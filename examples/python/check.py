"""Asks whether a customer may use a feature, takes it off the balance, and prints the answer.

    pip install -r requirements.txt
    python check.py acme messages 2
"""

import json
import os
import sys
import time
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition

BROKERS = os.environ.get("KAFKA_BROKERS", "127.0.0.1:9092")
CHECKS, RESULTS = "balance.checks", "balance.check-results"
PATIENCE = 10  # seconds

customer, feature, amount = (sys.argv[1:] + ["acme", "messages", "1"][len(sys.argv) - 1 :])[:3]

# Results are read from where they end now: no answer can be missed, and none is an old one.
consumer = Consumer({"bootstrap.servers": BROKERS, "group.id": "none", "enable.auto.commit": False})
places = []
for partition in consumer.list_topics(RESULTS, timeout=PATIENCE).topics[RESULTS].partitions:
    place = TopicPartition(RESULTS, partition)
    place.offset = consumer.get_watermark_offsets(place, timeout=PATIENCE)[1]
    places.append(place)
consumer.assign(places)

# A customer's records must share a partition, whoever writes them: librdkafka's own choice
# differs from that of Java's clients and of Tollgate.
producer = Producer({"bootstrap.servers": BROKERS, "partitioner": "murmur2_random"})
request_id = str(uuid.uuid4())
request = {"customer_id": customer, "feature_id": feature, "required_balance": float(amount), "send_event": True}
producer.produce(CHECKS, key=customer, value=json.dumps(request), headers={"request-id": request_id})
producer.flush(PATIENCE)

deadline = time.monotonic() + PATIENCE
while time.monotonic() < deadline:
    message = consumer.poll(0.1)
    if message is None or message.error():
        continue
    if dict(message.headers() or []).get("request-id") != request_id.encode():
        continue
    result = json.loads(message.value())
    left = result["balance"]["remaining"] if result["balance"] else 0
    print(f"{'allowed' if result['allowed'] else 'denied'}: {result['code']}, {left:g} left")
    consumer.close()
    sys.exit(0 if result["allowed"] else 3)
sys.exit("no answer; is a worker running?")
