'use strict';
// What ali-ons can do besides sending and consuming: one check each, that says halfway where a
// leader may be killed, and throws what was wrong.
//
// It asks the name server every second here, as the checks of Java do, instead of every 30.

const { Consumer, Message, Producer } = require('ali-ons');

const EARLY_MS = 20; // the clocks of two processes
const LATE_MS = 1500; // in time, where no leader is killed and the machine is busy
const POLL_MS = 1000;

function demand(good, otherwise) {
  if (!good) throw new Error(otherwise);
}

class Check {
  constructor(setting) {
    Object.assign(this, setting);
    this.common = { ...this.common, pollNameServerInteval: POLL_MS };
    this.end = Date.now() + this.deadlineMs;
    this.seen = new Map(); // key to the places where it was
    this.stored = new Map();
  }

  async producer(more = {}) {
    const producer = new Producer({
      ...this.common, producerGroup: `${this.topic}-producer`, ...more,
    });
    producer.on('error', error => this.common.logger.error(error));
    await producer.ready();
    return producer;
  }

  async consumer(name, { expression = '*', topic = this.topic, more = {}, handler = null } = {}) {
    const consumer = new Consumer({
      ...this.common, consumerGroup: `${this.topic}-${name}`,
      consumeFromWhere: 'CONSUME_FROM_FIRST_OFFSET', ...more,
    });
    consumer.on('error', error => this.common.logger.error(error));
    consumer.subscribe(topic, expression, handler || (async message => this.take(message)));
    await consumer.ready();
    return consumer;
  }

  take(message, seen = this.seen) {
    const key = message.keys.trim();
    if (!seen.has(key)) seen.set(key, new Set());
    seen.get(key).add(`${message.queueId}/${message.queueOffset}`);
    this.stored.set(key, Number(message.storeTimestamp));
  }

  message(key, tag = 'tag') {
    const message = new Message(this.topic, tag, `body of ${key}`);
    message.keys = [ key ];
    return message;
  }

  // As an application would: once, or again and again while a leader is missed.
  async send(producer, message) {
    for (;;) {
      try {
        const result = await producer.send(message);
        demand(result.sendStatus === 'SEND_OK', `status ${result.sendStatus}`);
        return message.keys.trim();
      } catch (error) {
        if (!this.failover || Date.now() > this.end) throw error;
        await this.sleep(200);
      }
    }
  }

  async wait(condition, otherwise) {
    while (!condition()) {
      demand(Date.now() < this.end, otherwise());
      await this.sleep(20);
    }
  }

  async waitSeen(keys, seen = this.seen) {
    await this.wait(() => keys.every(key => seen.has(key)), () => `seen ${[ ...seen.keys() ]}`);
  }
}

// By level: each once, not before its time, and soon after it.
async function delay(check) {
  await check.consumer('delay');
  const producer = await check.producer();
  const due = new Map();
  for (let i = 0; i < 10; i++) {
    const message = check.message(`delay-${i}`);
    message.delayTimeLevel = 2;
    const now = Date.now();
    due.set(await check.send(producer, message), now + 5000);
  }
  await check.halfway();
  await check.waitSeen([ ...due.keys() ]);
  for (const [ key, at ] of due) {
    demand(check.failover || check.seen.get(key).size === 1, `${key} at ${[ ...check.seen.get(key) ]}`);
    const late = check.stored.get(key) - at;
    demand(late >= -EARLY_MS, `${key} was ${-late} ms too early`);
    demand(check.failover || late <= LATE_MS, `${key} was ${late} ms too late`);
  }
}

// A message that fails comes again, ten seconds later, and is a dead letter in the end.
async function retry(check) {
  const times = new Map();
  const handler = async message => {
    const key = message.keys.trim();
    times.set(key, Math.max(times.get(key) || 0, message.reconsumeTimes));
    const good = key === 'good' || (key === 'second' && message.reconsumeTimes > 0);
    // Once it has come again, this client ignores ACTION_RETRY (see ../README.md).
    if (!good && message.reconsumeTimes > 0) throw new Error('asked for again');
    return good ? undefined : Consumer.ACTION_RETRY;
  };
  await check.consumer('retry', { more: { maxReconsumeTimes: 1 }, handler });
  const producer = await check.producer();
  for (const key of [ 'good', 'second', 'bad' ]) await check.send(producer, check.message(key));
  await check.wait(() => times.has('bad') && times.has('second'), () => `seen ${[ ...times ]}`);
  await check.halfway();
  await check.wait(() => times.get('bad') >= 1 && times.get('second') >= 1,
    () => `came again: ${[ ...times ]}`);
  const dead = new Map();
  await check.consumer('retry-dead', {
    topic: `%DLQ%${check.topic}-retry`, handler: async message => check.take(message, dead),
  });
  await check.waitSeen([ 'bad' ], dead);
  demand(dead.size === 1, `dead letters: ${[ ...dead.keys() ]}`);
  demand(times.get('good') === 0, 'a good message came again');
}

// Each message of a key after the one before it. Keys that this client assigns to queue 0 are
// left out: it takes that number for none, and sends them anywhere (see ../README.md).
async function orderly(check) {
  const keys = [ 'k0', 'k1', 'k2', 'k3', 'k4', 'k5', 'k6', 'k7' ].filter(key => !sharedOut(key));
  const last = new Map();
  const wrong = [];
  await check.consumer('orderly', {
    handler: async message => {
      const [ key, text ] = message.keys.trim().split('-');
      const before = last.has(key) ? last.get(key) : -1;
      if (Number(text) > before + 1) wrong.push(`${message.keys} after ${before}`);
      last.set(key, Math.max(before, Number(text)));
    },
  });
  const producer = await check.producer();
  const each = 40;
  for (let number = 0; number < each; number++) {
    if (number === each / 2) await check.halfway();
    for (const key of keys) {
      const message = check.message(`${key}-${number}`);
      message.shardingKey = key;
      // Tried again until it is acknowledged, or the next would come before it.
      await check.send(producer, message);
    }
  }
  await check.wait(() => keys.every(key => last.get(key) === each - 1),
    () => `came as far as ${[ ...last ]}`);
  demand(wrong.length === 0, `out of order: ${wrong}`);
}

function sharedOut(key) {
  const md5 = require('crypto').createHash('md5').update(key).digest();
  return md5.readUInt32BE() % 4 === 0;
}

// Every consumer of the group gets every message.
async function broadcast(check) {
  const all = [ new Map(), new Map() ];
  for (const [ i, seen ] of all.entries()) {
    await check.consumer('broadcast', {
      more: { isBroadcast: true, instanceName: `instance-${i}` },
      handler: async message => check.take(message, seen),
    });
  }
  const producer = await check.producer();
  const sent = [];
  for (let i = 0; i < 20; i++) {
    if (i === 10) await check.halfway();
    sent.push(await check.send(producer, check.message(`broadcast-${i}`)));
  }
  for (const seen of all) await check.waitSeen(sent, seen);
}

// Of several tags, those that were asked for.
async function tags(check) {
  await check.consumer('tags', { expression: 'red || blue' });
  const producer = await check.producer();
  const wanted = [];
  for (const [ i, tag ] of [ 'red', 'green', 'blue', 'green', 'red' ].entries()) {
    if (i === 2) await check.halfway();
    const key = await check.send(producer, check.message(`${tag}-${i}`, tag));
    if (tag !== 'green') wanted.push(key);
  }
  await check.waitSeen(wanted);
  demand(check.seen.size === wanted.length, `seen ${[ ...check.seen.keys() ]}`);
}

// What is sent in a namespace is consumed there.
async function namespaces(check) {
  const namespace = 'MQ_INST_1';
  const outside = new Map();
  await check.consumer('outside', { handler: async message => check.take(message, outside) });
  await check.consumer('inside', { more: { namespace, instanceName: 'inside' } });
  const producer = await check.producer({ namespace, instanceName: 'inside-producer' });
  await check.send(producer, check.message('before'));
  await check.halfway();
  await check.send(producer, check.message('after'));
  await check.waitSeen([ 'before', 'after' ]);
  demand(outside.size === 0, `outside of the namespace: ${[ ...outside.keys() ]}`);
}

const checks = { delay, retry, orderly, broadcast, tags, namespace: namespaces };
exports.features = Object.fromEntries(
  Object.entries(checks).map(([ name, run ]) => [ name, setting => run(new Check(setting)) ]));
