/**
 * Many clients of npm's that are present in one room, each with a socket of its own.
 *
 *     node presence_crowd.mjs ws://localhost:4000/socket '{"a": {"each": 2}, "b": {"each": 1}}'
 *
 * Of each group there are so many of each kind: `js`, `js-vsn1`, `supabase-js` and `phoenix`. With
 * `"watches": false` they do not ask who is present. A client's key is its group, kind and number. Commands: {"join": room}, {"track": payload, "of": [key, …]},
 * {"untrack": [key, …]}, {"leave": [key, …]}; without keys they are about all. {"report": number}
 * has it say the different states that its clients have, with whose they are, and whose state is
 * not what its joins and leaves amount to.
 */

import { createClient } from "@supabase/supabase-js";
import { Presence, Socket } from "phoenix";
import { RealtimeClient } from "realtime-js-2";
import WebSocket from "ws";

import { listen, say } from "./console.mjs";

const [url, options = "{}"] = process.argv.slice(2);
const groups = JSON.parse(options);
const apikey = "anon";
const timing = { transport: WebSocket, reconnectAfterMs: () => 100, rejoinAfterMs: () => 100 };

/** What is told of a meta: its ref, and what its client tracks. */
function readMeta({ presence_ref, phx_ref, phx_ref_prev, ...payload }) {
  return [presence_ref ?? phx_ref, payload];
}

class Member {
  constructor(key, watches) {
    this.key = key;
    this.watches = watches;
    this.tracked = null;
    // What joins and leaves amount to, by key and ref.
    this.summed = new Map();
  }

  joined(key, metas) {
    const found = this.summed.get(key) ?? new Map();
    metas.map(readMeta).forEach(([ref, payload]) => found.set(ref, payload));
    this.summed.set(key, found);
  }

  left(key, metas) {
    const found = this.summed.get(key) ?? new Map();
    metas.map(readMeta).forEach(([ref]) => found.delete(ref));
    if (!found.size) this.summed.delete(key);
  }

  async ready() {
    if (this.tracked !== null) await this.track(this.tracked);
    say({ ready: this.key });
  }

  async track(payload) {
    this.tracked = payload;
    const answer = await this.push("track", payload);
    if (answer !== "ok") say({ key: this.key, track: answer });
  }

  async untrack() {
    this.tracked = null;
    const answer = await this.push("untrack", {});
    if (answer !== "ok") say({ key: this.key, untrack: answer });
  }
}

class RealtimeMember extends Member {
  constructor(key, watches, client) {
    super(key, watches);
    this.client = client;
  }

  join(room) {
    this.channel = this.client.channel(room, { config: { presence: { key: this.key } } });
    if (this.watches) {
      this.channel
        .on("presence", { event: "sync" }, () => {})
        .on("presence", { event: "join" }, ({ key, newPresences }) => this.joined(key, newPresences))
        .on("presence", { event: "leave" }, ({ key, leftPresences }) => this.left(key, leftPresences));
    }
    this.channel.subscribe((status) => status === "SUBSCRIBED" && this.ready());
  }

  push(event, payload) {
    return event === "track" ? this.channel.track(payload) : this.channel.untrack();
  }

  leave() {
    return this.channel.unsubscribe();
  }

  state() {
    return Object.entries(this.channel.presenceState()).map(([key, metas]) => [key, metas]);
  }
}

class PhoenixMember extends Member {
  join(room) {
    this.socket = new Socket(url, { params: { apikey }, ...timing });
    this.socket.connect();
    // It ends at a binary frame.
    const config = { broadcast: { bytes: false }, presence: { key: this.key, enabled: this.watches } };
    this.channel = this.socket.channel(`realtime:${room}`, { config });
    this.presence = new Presence(this.channel);
    this.presence.onJoin((key, _, { metas }) => this.joined(key, metas));
    this.presence.onLeave((key, _, { metas }) => this.left(key, metas));
    this.channel.join().receive("ok", () => this.ready());
  }

  push(event, payload) {
    return new Promise((resolve) =>
      this.channel
        .push("presence", { type: "presence", event, payload })
        .receive("ok", () => resolve("ok"))
        .receive("error", ({ reason }) => resolve(reason)),
    );
  }

  leave() {
    return new Promise((resolve) => this.channel.leave().receive("ok", resolve));
  }

  state() {
    return this.presence.list((key, { metas }) => [key, metas]);
  }
}

const clients = {
  js: () => new RealtimeClient(url, { params: { apikey }, ...timing }),
  "js-vsn1": () => new RealtimeClient(url, { params: { apikey }, vsn: "1.0.0", ...timing }),
  "supabase-js": () =>
    createClient(url.replace("ws:", "http:").replace("/socket", ""), apikey, { realtime: timing }).realtime,
};
const members = new Map();
for (const [group, { each = 1, watches = true }] of Object.entries(groups)) {
  for (let number = 0; number < each; number++) {
    for (const [kind, client] of Object.entries(clients)) {
      const key = `${group}-${kind}-${number}`;
      members.set(key, new RealtimeMember(key, watches, client()));
    }
    const key = `${group}-phoenix-${number}`;
    members.set(key, new PhoenixMember(key, watches));
  }
}

/** A state as one text, whatever order its keys and metas are in. */
function told(pairs) {
  const found = pairs.map(([key, metas]) => [key, metas.sort(([one], [other]) => (one < other ? -1 : 1))]);
  return JSON.stringify(found.sort(([one], [other]) => (one < other ? -1 : 1)));
}

function report(number) {
  const states = new Map();
  const differing = [];
  for (const [key, member] of members) {
    const state = told(member.state().map(([name, metas]) => [name, metas.map(readMeta)]));
    const summed = told([...member.summed].map(([name, metas]) => [name, [...metas]]));
    if (member.watches && state !== summed) differing.push(key);
    states.set(state, [...(states.get(state) ?? []), key]);
  }
  const distinct = [...states].map(([state, keys]) => [JSON.parse(state), keys]);
  say({ report: number, distinct, differing });
}

function chosen(keys) {
  return keys ? keys.map((key) => members.get(key)) : [...members.values()];
}

listen(async (command) => {
  if (command.join !== undefined) {
    members.forEach((member) => member.join(command.join));
  } else if (command.track !== undefined) {
    await Promise.all(chosen(command.of).map((member) => member.track(command.track)));
    say({ done: command.done });
  } else if (command.untrack !== undefined) {
    await Promise.all(chosen(command.untrack).map((member) => member.untrack()));
    say({ done: command.done });
  } else if (command.leave !== undefined) {
    const leaving = chosen(command.leave);
    leaving.forEach(({ key }) => members.delete(key));
    await Promise.all(leaving.map((member) => member.leave()));
    say({ done: command.done });
  } else if (command.report !== undefined) {
    report(command.report);
  }
});
