/**
 * The four examples of the original README, "Event Filters with Examples", each with every
 * event that it supports. Says what each callback receives.
 *
 *     node readme_examples.mjs ws://localhost:4000/socket
 */

import { RealtimeClient } from "@supabase/realtime-js";

import { listen, say } from "./console.mjs";

const TOPICS = [
  "realtime:*", // listen to all database changes
  "realtime:public", // to a specific schema's changes
  "realtime:public:users", // to a specific table's changes
  "realtime:public:users:id=eq.99", // to a specific column's value changes
];
const EVENTS = ["DELETE", "INSERT", "UPDATE", "*"];

const socket = new RealtimeClient(process.argv[2]);
socket.connect();

for (const topic of TOPICS) {
  const channel = socket.channel(topic);
  for (const event of EVENTS) {
    channel.on(event, (payload) => say({ topic, event, payload }));
  }
  channel.subscribe().receive("ok", () => say({ joined: topic }));
}

listen();
