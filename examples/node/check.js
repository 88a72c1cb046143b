// Asks whether a customer may use a feature, takes it off the balance, and prints the answer.
//
//   npm install
//   node check.js acme messages 2
import { randomUUID } from 'node:crypto';
import { Kafka, Partitioners, logLevel } from 'kafkajs';

const CHECKS = 'balance.checks';
const RESULTS = 'balance.check-results';
const PATIENCE = 10_000; // ms
const [customer = 'acme', feature = 'messages', amount = '1'] = process.argv.slice(2);

const kafka = new Kafka({ brokers: (process.env.KAFKA_BROKERS ?? '127.0.0.1:9092').split(','), logLevel: logLevel.ERROR });
const requestId = randomUUID();

// Results are read from where they end now: no answer can be missed, and none is an old one.
const admin = kafka.admin();
await admin.connect();
const ends = await admin.fetchTopicOffsets(RESULTS);

const consumer = kafka.consumer({ groupId: `check-${requestId}` });
await consumer.connect();
await consumer.subscribe({ topic: RESULTS });
const answered = new Promise((resolve) => {
  consumer.run({
    autoCommit: false,
    eachMessage: async ({ message }) => {
      if (message.headers?.['request-id']?.toString() === requestId) resolve(JSON.parse(message.value.toString()));
    },
  });
  for (const { partition, high } of ends) consumer.seek({ topic: RESULTS, partition, offset: high });
});

// kafkajs chooses the partition by the key as Java's clients and Tollgate do.
const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
await producer.connect();
const request = { customer_id: customer, feature_id: feature, required_balance: Number(amount), send_event: true };
await producer.send({
  topic: CHECKS,
  messages: [{ key: customer, value: JSON.stringify(request), headers: { 'request-id': requestId } }],
});

const result = await Promise.race([answered, new Promise((resolve) => setTimeout(resolve, PATIENCE))]);
await Promise.all([producer.disconnect(), consumer.disconnect()]);
await admin.deleteGroups([`check-${requestId}`]).catch(() => {}); // it goes by itself, later
await admin.disconnect();
if (!result) {
  console.error('no answer; is a worker running?');
  process.exit(1);
}
console.log(`${result.allowed ? 'allowed' : 'denied'}: ${result.code}, ${result.balance?.remaining ?? 0} left`);
process.exit(result.allowed ? 0 : 3);
