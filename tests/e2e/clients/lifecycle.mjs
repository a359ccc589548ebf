/**
 * A client that does what it is told, {"join": topic}, {"join": topic, "user_token": token},
 * {"leave": topic}, {"leaveAndJoin": topic} or {"setAuth": token}, and says what its socket and
 * its channels go through. To join a topic again is to have another channel of it.
 *
 *     node lifecycle.mjs ws://localhost:4000/socket '{"heartbeatIntervalMs": 1000}'
 */

import { RealtimeClient } from "@supabase/realtime-js";

import { listen, reconnecting, say, slowly } from "./console.mjs";

const [url, options = "{}"] = process.argv.slice(2);
const { slow, ...rest } = reconnecting(JSON.parse(options));
const socket = new RealtimeClient(url, rest);
const channels = new Map();

function join({ join: topic, ...params }) {
  const channel = socket.channel(topic, params);
  channels.set(topic, channel);
  channel.on("*", ({ type, record }) => {
    slowly(slow);
    say({ topic, type, id: record?.id });
  });
  channel.on("system", (system) => say({ topic, system }));
  channel
    .subscribe()
    .receive("ok", () => say({ joined: topic }))
    .receive("error", ({ reason }) => say({ refused: topic, reason }))
    .receive("timeout", () => say({ topic, status: "TIMED_OUT" }));
}

function leave(topic) {
  channels.get(topic).unsubscribe().receive("ok", () => say({ left: topic }));
}

socket.onOpen(() => say({ socket: "open" }));
socket.onClose(({ code, reason }) => say({ socket: "closed", code, reason }));
socket.onMessage(({ topic, event, payload }) => {
  say({ frame: event, topic });
  if (topic === "phoenix") {
    say({ heartbeat: payload.status });
  }
});
socket.connect();

listen((command) => {
  if (command.join) {
    join(command);
  } else if (command.leave) {
    leave(command.leave);
  } else if (command.leaveAndJoin) {
    leave(command.leaveAndJoin);
    join({ join: command.leaveAndJoin });
  } else {
    socket.setAuth(command.setAuth);
  }
});
