'use strict';
// ali-ons, unmodified, as a producer, a consumer or a check that says in JSON lines what it saw.
//
// What every program here prints, and how it is told to stop, is in ../README.md.

const fs = require('fs');
const util = require('util');
const { parseArgs } = util;
const { Consumer, Message, Producer } = require('ali-ons');
const { features } = require('./features');

const TAG = 'interop';
const FROM_FIRST_OFFSET = 'CONSUME_FROM_FIRST_OFFSET';
const SEND_OK = 'SEND_OK';
const PAUSE_AFTER_FAILURE_MS = 500; // as an application would, once the client's own retries are used up

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    namesrv: { type: 'string' },
    topic: { type: 'string' },
    group: { type: 'string' },
    log: { type: 'string', default: '/dev/null' },
    count: { type: 'string', default: '0' },
    'interval-ms': { type: 'string', default: '0' },
    'deadline-s': { type: 'string', default: '60' },
    sql: { type: 'string' },
    check: { type: 'string' },
    broker: { type: 'string' },
    failover: { type: 'string', default: 'false' },
  },
});
const count = Number(options.count);
const deadlineMs = Number(options['deadline-s']) * 1000;

function say(event, facts = {}) {
  fs.writeSync(1, `${JSON.stringify({ event, ...facts })}\n`);
}

function fileLogger() {
  const line = level => (...args) => fs.appendFileSync(options.log, `${level} ${util.format(...args)}\n`);
  return { debug() {}, info: line('info'), warn: line('warn'), error: line('error') };
}

// Required by the client, which would fetch addresses with it; with nameSrv given it has no use for it.
const httpclient = {
  request: url => Promise.reject(new Error(`not fetched: ${url}`)),
};
const common = { httpclient, nameSrv: options.namesrv, clientIP: '127.0.0.1', logger: fileLogger() };
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

async function produce() {
  const producer = new Producer({ ...common, producerGroup: options.group });
  producer.on('error', error => common.logger.error(error));
  await producer.ready();
  say('ready');
  const end = Date.now() + deadlineMs;
  let acked = 0;
  let failed = 0;
  for (let i = 0; acked < count && Date.now() < end; i++) {
    const key = `${options.group}-${String(i).padStart(6, '0')}`;
    const message = new Message(options.topic, TAG, `body of ${key}`);
    message.keys = [ key ];
    message.properties.number = String(i);
    message.properties.third = String(i % 3);
    try {
      const result = await producer.send(message);
      if (result.sendStatus !== SEND_OK) throw new Error(`status ${result.sendStatus}`);
      const { brokerName, queueId } = result.messageQueue;
      say('acked', { key, broker: brokerName, queue: Number(queueId), offset: result.queueOffset });
      acked++;
    } catch (error) {
      say('failed', { key, error: String(error) });
      failed++;
      await sleep(PAUSE_AFTER_FAILURE_MS);
    }
    await sleep(Number(options['interval-ms']));
  }
  say('done', { acked, failed });
  return acked === count ? 0 : 1;
}

async function consume() {
  const seen = new Set();
  const consumer = new Consumer({
    ...common, consumerGroup: options.group, consumeFromWhere: FROM_FIRST_OFFSET,
  });
  consumer.on('error', error => common.logger.error(error));
  const finished = new Promise(resolve => {
    const what = options.sql ? { expressionType: 'SQL92', subString: options.sql } : TAG;
    consumer.subscribe(options.topic, what, async message => {
      const key = message.keys.trim();
      const body = message.body.toString();
      if (body !== `body of ${key}`) say('error', { error: `${key} has the body ${body}` });
      say('received', { key, queue: message.queueId, offset: Number(message.queueOffset) });
      seen.add(key);
      if (seen.size === count) resolve(true);
    });
    // the end of standard input is the driver's word that all has been seen
    process.stdin.on('end', () => resolve(true)).resume();
  });
  await consumer.ready();
  say('ready');
  const complete = await Promise.race([ finished, sleep(deadlineMs).then(() => false) ]);
  await Promise.race([ consumer.close(), sleep(3000) ]);
  say('done', { seen: seen.size });
  return complete ? 0 : 1;
}

async function check() {
  const failover = options.failover === 'true';
  const halfway = async () => {
    say('halfway');
    if (failover) await new Promise(resolve => process.stdin.once('data', resolve)); // the leader is dead
  };
  await features[options.check]({ common, topic: options.topic, failover, deadlineMs, halfway, sleep });
  say('done');
  return 0;
}

const roles = { producer: produce, consumer: consume, check };
const role = roles[positionals[0]];
if (!role) {
  console.error('usage: interop.js producer|consumer|check --namesrv …');
  process.exit(2);
}
role().then(code => process.exit(code), error => {
  say('error', { error: String(error) });
  process.exit(1);
});
