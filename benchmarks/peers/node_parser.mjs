// The pgoutput parser of npm's pg-logical-replication alone, without a connection.
//
//     node node_parser.mjs CAPTURE FOLDER
//
// FOLDER holds its node_modules. The protocol with the benchmark is that of worker.py.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { gunzipSync } from "node:zlib";

const [capture, folder] = process.argv.slice(2);
const require = createRequire(join(folder, "package.json"));
const { PgoutputPlugin } = require("pg-logical-replication");
const { types } = require("pg");

function readCapture(path) {
  const data = gunzipSync(readFileSync(path));
  const messages = [];
  for (let offset = 0; offset < data.length; ) {
    const start = offset + 4;
    offset = start + data.readUInt32BE(offset);
    messages.push(data.subarray(start, offset));
  }
  return messages;
}

const payloads = readCapture(capture);
const newParser = () => new PgoutputPlugin({ protoVersion: 1, publicationNames: ["mixed"] });

// It looks a column's conversion up when its Relation message arrives, in pg's table.
const parser = newParser();
const oids = payloads
  .map((payload) => parser.parse(payload))
  .filter((message) => message.tag === "relation")
  .flatMap((message) => message.columns.map((column) => column.typeOid));
const conversions = new Map(oids.map((oid) => [oid, types.getTypeParser(oid)]));

function convert(typed) {
  for (const [oid, conversion] of conversions) {
    types.setTypeParser(oid, typed ? conversion : (text) => text);
  }
}

function pass(typed, use) {
  convert(typed);
  const parser = newParser();
  for (const payload of payloads) use(parser.parse(payload));
}

const ignore = () => {};
const toJson = (message) => {
  if (message.new || message.old || message.key) {
    JSON.stringify({ record: message.new, old_record: message.old ?? message.key });
  }
};

function check() {
  const counts = { messages: 0, rows: 0, texts: 0, bytes: 0 };
  pass(false, (message) => {
    counts.messages += 1;
    counts.rows += ["insert", "update", "delete"].includes(message.tag) ? 1 : 0;
    for (const row of [message.new, message.old, message.key]) {
      for (const value of row ? Object.values(row) : []) {
        if (typeof value !== "string") continue;
        counts.texts += 1;
        counts.bytes += Buffer.byteLength(value);
      }
    }
  });
  return counts;
}

const cases = {
  text: () => pass(false, ignore),
  typed: () => pass(true, ignore),
  json: () => pass(false, toJson),
  check,
};

console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  const cpu = process.cpuUsage();
  const wall = performance.now();
  const result = cases[line.trim()]();
  const elapsed = performance.now() - wall;
  const { user, system } = process.cpuUsage(cpu);
  console.log(
    JSON.stringify({ wall: elapsed / 1e3, cpu: (user + system) / 1e6, result: result ?? null }),
  );
}
