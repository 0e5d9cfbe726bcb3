// sqs-consumer, as its documentation has it: receives by tens and deletes what was handled. Nothing is
// done with a message.
//
// usage: node sqs_consumer.mjs CONSUMERS, with AWS_* and QUEUE_URL set, and in PEERS_MODULES a path
// beside node_modules
import { createRequire } from "node:module";

const require = createRequire(process.env.PEERS_MODULES);
const { SQSClient } = require("@aws-sdk/client-sqs");
const { Consumer } = require("sqs-consumer");

const consumers = Number(process.argv[2] ?? 1);
const sqs = new SQSClient({});
for (let n = 0; n < consumers; n += 1) {
  const consumer = Consumer.create({
    queueUrl: process.env.QUEUE_URL,
    sqs,
    batchSize: 10,
    waitTimeSeconds: 20,
    visibilityTimeout: 120,
    alwaysAcknowledge: true,
    handleMessageBatch: async () => {},
  });
  for (const failure of ["error", "processing_error"]) {
    consumer.on(failure, (error) => {
      console.error(error);
      process.exit(1);
    });
  }
  consumer.start();
}
process.on("SIGTERM", () => process.exit(0));
