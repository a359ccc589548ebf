/**
 * The four examples of the original README, "Event Filters with Examples", each with every
 * event that it supports. Says what each callback receives.
 *
 *     node readme_examples.mjs ws://localhost:4000/socket '{"deflate": true}'
 *
 * Its own socket knows no compression; with `deflate` it gets another.
 */

import { RealtimeClient } from "@supabase/realtime-js";

import { listen, say } from "./console.mjs";
import { deflating } from "./deflating.mjs";

const TOPICS = [
  "realtime:*", // listen to all database changes
  "realtime:public", // to a specific schema's changes
  "realtime:public:users", // to a specific table's changes
  "realtime:public:users:id=eq.99", // to a specific column's value changes
];
const EVENTS = ["DELETE", "INSERT", "UPDATE", "*"];

const [url, options = "{}"] = process.argv.slice(2);
const { deflate } = JSON.parse(options);
const socket = new RealtimeClient(url, deflate ? { transport: deflating(deflate) } : {});
socket.connect();

for (const topic of TOPICS) {
  const channel = socket.channel(topic);
  for (const event of EVENTS) {
    channel.on(event, (payload) => say({ topic, event, payload }));
  }
  channel.subscribe().receive("ok", () => say({ joined: topic }));
}

listen();
