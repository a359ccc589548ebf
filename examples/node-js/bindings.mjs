// The second generation of npm's client, which joins a channel of any name with bindings.
import { RealtimeClient } from "@supabase/realtime-js";
import WebSocket from "ws"; // Node before 22 has none of its own

const socket = new RealtimeClient(process.env.REALTIME_URL || "ws://localhost:4000/socket", {
  transport: WebSocket,
  params: { apikey: "anon" }, // a token, where the server asks for one
});

const orders = { schema: "public", table: "orders" };

socket
  .channel("shop")
  // Values have JSON's types here; a filter may compare numbers.
  .on("postgres_changes", { ...orders, event: "INSERT", filter: "total=gte.100" },
    ({ new: order }) => console.log(`large order ${order.id}: ${order.total}`))
  .on("postgres_changes", { ...orders, event: "*" },
    ({ eventType, new: order, old }) => console.log(`${eventType} of order ${order.id ?? old.id}`))
  .on("system", {}, ({ message, gap }) => {
    if (gap) console.log(`read the table again: ${message}`);
  })
  // Changes before SUBSCRIBED are not sent: an app reads the table now.
  .subscribe((status, error) => console.log(error ? `${status}: ${error.message}` : status));
