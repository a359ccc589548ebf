/**
 * npm's @supabase/realtime-js 2.119, under Node.
 *
 *     node realtime_js_2.mjs ws://localhost:4000/socket '{"vsn": "1.0.0", "apikey": "eyJ…"}'
 */

import { createClient } from "@supabase/supabase-js";
import { RealtimeClient } from "realtime-js-2";

import { obey, sayBroadcast, sayChange, sayPresent, sayStatus } from "./channels.mjs";
import { reconnecting, say, slowly } from "./console.mjs";
import { deflating } from "./deflating.mjs";

const [url, options = "{}"] = process.argv.slice(2);
const { apikey = "anon", deflate, slow, supabase, ...rest } = reconnecting(JSON.parse(options));
// Node 20 has no WebSocket of its own.
const transport = deflating(deflate);
// It does not tell the application why a broadcast went to nobody.
const logger = (kind, _, data) =>
  kind === "receive" && data?.status === "error" && say({ refused: data.response?.error ?? data.response?.reason });
// With the option `supabase` it is the client that supabase-js makes.
const socket = supabase
  ? createClient(url.replace("ws:", "http:").replace("/socket", ""), apikey, { realtime: { transport, logger } }).realtime
  : new RealtimeClient(url, { transport, logger, params: { apikey }, ...rest });
const channels = new Map();

socket.onHeartbeat((status) => say({ heartbeat: status }));

obey({
  subscribe(name, bindings, config) {
    const channel = socket.channel(name, { config });
    channels.set(name, channel);
    bindings.forEach((binding, place) =>
      channel.on("postgres_changes", binding, (change) => {
        slowly(slow);
        sayChange(name, place, change);
      }),
    );
    channel.on("broadcast", { event: "*" }, (message) => sayBroadcast(name, message));
    if (config.presence) {
      channel.on("presence", { event: "sync" }, () => sayPresent(name, Object.keys(channel.presenceState())));
    }
    channel.on("system", {}, (system) => say({ channel: name, system }));
    channel.subscribe((status, error) => sayStatus(name, status, error));
  },
  async unsubscribe(name) {
    say({ channel: name, left: await channels.get(name).unsubscribe() });
  },
  async token(token) {
    await socket.setAuth(token);
    say({ token: "set" });
  },
  async send(name, event, payload, persist) {
    const channel = channels.get(name) ?? socket.channel(name);
    const sent = await channel.send({ type: "broadcast", event, payload, ...(persist ? { persist } : {}) });
    say({ channel: name, sent });
  },
  async http(name, event, payload, config) {
    const channel = channels.get(name) ?? socket.channel(name, { config });
    try {
      await channel.httpSend(event, payload);
      say({ channel: name, http: "ok" });
    } catch (error) {
      say({ channel: name, http: error.message });
    }
  },
  async track(name, payload) {
    say({ channel: name, tracked: await channels.get(name).track(payload) });
  },
});
