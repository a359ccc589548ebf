/**
 * npm's phoenix 1.8, the protocol's own client: it knows nothing of bindings, so the program
 * joins with the payload that binding clients send.
 *
 *     node phoenix_1.mjs ws://localhost:4000/socket '{"apikey": "eyJ…"}'
 */

import { Presence, Socket } from "phoenix";

import { obey, sayBroadcast, sayChange, sayPresent, sayStatus } from "./channels.mjs";
import { say } from "./console.mjs";
import { deflating } from "./deflating.mjs";

const [url, options = "{}"] = process.argv.slice(2);
const { apikey = "anon", deflate, ...rest } = JSON.parse(options);
const socket = new Socket(url, { transport: deflating(deflate), params: { apikey }, ...rest });
const channels = new Map();
let token;

socket.onOpen(() => say({ socket: "open" }));
socket.onClose(({ code }) => say({ socket: "closed", code }));
socket.connect();

obey({
  subscribe(name, bindings, config) {
    const channel = socket.channel(`realtime:${name}`, {
      config: { ...config, postgres_changes: bindings },
      ...(token ? { access_token: token } : {}),
    });
    channels.set(name, channel);
    let ids = [];
    channel.on("postgres_changes", (message) => {
      ids.forEach((id, place) => message.ids.includes(id) && sayChange(name, place, message.data));
    });
    channel.on("broadcast", (message) => sayBroadcast(name, message));
    if (config.presence) {
      const presence = new Presence(channel);
      presence.onSync(() => sayPresent(name, presence.list((key) => key)));
    }
    channel.on("system", (system) => say({ channel: name, system }));
    channel.onError((reason) => sayStatus(name, "CHANNEL_ERROR", reason));
    channel.onClose(() => sayStatus(name, "CLOSED"));
    channel
      .join()
      .receive("ok", ({ postgres_changes }) => {
        ids = postgres_changes.map(({ id }) => id);
        sayStatus(name, "SUBSCRIBED");
      })
      .receive("error", ({ reason }) => sayStatus(name, "CHANNEL_ERROR", reason))
      .receive("timeout", () => sayStatus(name, "TIMED_OUT"));
  },
  unsubscribe(name) {
    channels
      .get(name)
      .leave()
      .receive("ok", () => say({ channel: name, left: "ok" }));
  },
  token(text) {
    token = text;
    for (const channel of channels.values()) {
      channel.push("access_token", { access_token: token });
    }
    say({ token: "set" });
  },
  send(name, event, payload) {
    channels
      .get(name)
      // The protocol's own client sends bytes alone, without an event.
      .push("broadcast", payload instanceof ArrayBuffer ? payload : { type: "broadcast", event, payload })
      .receive("ok", () => say({ channel: name, sent: "ok" }))
      .receive("error", ({ error, reason }) => say({ channel: name, sent: "error", refused: error, reason }));
  },
  track(name, payload) {
    channels
      .get(name)
      .push("presence", { type: "presence", event: "track", payload })
      .receive("ok", () => say({ channel: name, tracked: "ok" }))
      .receive("error", ({ reason }) => say({ channel: name, tracked: "error", reason }));
  },
});
