// A round trip by kafkajs. The contract is in tests/interop/client_program.py.
'use strict'

const readline = require('node:readline')
const { CompressionTypes, Kafka, logLevel } = require('kafkajs')

const [bootstrap, topic, group, compression] = process.argv.slice(2)
const print = (line) => process.stdout.write(JSON.stringify(line) + '\n')
const decode = (text) => (text === null ? null : Buffer.from(text, 'base64'))
const encode = (bytes) => (bytes === null || bytes === undefined ? null : bytes.toString('base64'))

async function readMessages() {
  const messages = []
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const record = JSON.parse(line)
    const headers = {}
    for (const [name, value] of record.headers) (headers[name] ??= []).push(decode(value))
    messages.push({
      partition: record.partition,
      key: decode(record.key),
      value: decode(record.value),
      headers,
      timestamp: String(record.timestamp_ms),
    })
  }
  return messages
}

async function produce(kafka, messages) {
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1, allowAutoTopicCreation: false })
  await producer.connect()
  const types = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP }
  for (let start = 0; start < messages.length; start += 100) {
    const chunk = messages.slice(start, start + 100)
    const results = await producer.send({ topic, messages: chunk, compression: types[compression], acks: -1 })
    for (const { partition, baseOffset } of results) {
      const count = chunk.filter((message) => message.partition === partition).length
      for (let n = 0; n < count; n++) print({ kind: 'produced', partition, offset: Number(baseOffset) + n })
    }
  }
  await producer.disconnect()
}

function printRecord(partition, message) {
  const headers = []
  for (const [name, values] of Object.entries(message.headers ?? {}))
    for (const value of [values].flat()) headers.push([name, encode(value)])
  print({
    kind: 'record',
    partition,
    offset: Number(message.offset),
    key: encode(message.key),
    value: encode(message.value),
    headers,
    timestamp_ms: Number(message.timestamp),
  })
}

async function consume(kafka, count) {
  const consumer = kafka.consumer({ groupId: group, maxWaitTimeInMs: 200 })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  const next = new Map()
  let seen = 0
  await new Promise((resolve, reject) => {
    consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error))
    consumer
      .run({
        autoCommit: false,
        eachMessage: async ({ partition, message }) => {
          printRecord(partition, message)
          next.set(partition, Number(message.offset) + 1)
          if (++seen === count) resolve()
        },
      })
      .catch(reject)
  })
  await consumer.commitOffsets([...next].map(([partition, offset]) => ({ topic, partition, offset: String(offset) })))
  await consumer.disconnect()
}

async function inspect(admin) {
  const [committed] = await admin.fetchOffsets({ groupId: group, topics: [topic] })
  for (const { partition, offset } of committed.partitions) print({ kind: 'committed', partition, offset: Number(offset) })
  const ends = await admin.fetchTopicOffsets(topic)
  print({ kind: 'check', name: 'end_offsets', got: ends.reduce((sum, { high }) => sum + Number(high), 0) })
  const { groups } = await admin.describeGroups([group])
  print({ kind: 'check', name: 'group_state', got: groups[0].state })
  await admin.deleteGroups([group])
  await admin.deleteTopics({ topics: [topic] })
}

async function main() {
  const kafka = new Kafka({ clientId: 'interop', brokers: [bootstrap], logLevel: logLevel.WARN })
  const admin = kafka.admin()
  await admin.connect()
  const created = await admin.createTopics({ topics: [{ topic, numPartitions: 3, replicationFactor: 1 }], waitForLeaders: true })
  print({ kind: 'check', name: 'created', got: created })
  const messages = await readMessages()
  await produce(kafka, messages)
  await consume(kafka, messages.length)
  await inspect(admin)
  await admin.disconnect()
}

const guard = setTimeout(() => {
  console.error('not finished within 60 s')
  process.exit(1)
}, 60_000)
main().then(
  () => clearTimeout(guard),
  (error) => {
    console.error(error)
    process.exit(1)
  },
)
