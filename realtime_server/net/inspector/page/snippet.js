/** Programs that watch what is watched here, with the stock clients that watch in this way. */

const LANGUAGES = { JavaScript: [javaScript1, javaScript2], Python: [python1, python2] };

/**
 * Write a program.
 *
 * @param {string} language "JavaScript" or "Python".
 * @param {string} url of the server's socket, as clients take it.
 * @param {object} watched with a topic, and perhaps a binding.
 * @param {boolean} needsToken whether the server asks for one.
 */
export function snippet(language, url, { topic, binding }, needsToken) {
  const [first, today] = LANGUAGES[language];
  // The token itself is a secret: programs are passed on.
  const key = needsToken ? "eyJ…" : "anon";
  return binding === undefined ? first(url, topic, key) : today(url, binding, key);
}

/** A text as both languages write it. */
const text = JSON.stringify;

const note = (key, sign) => (key === "anon" ? "" : ` ${sign} your token`);

function javaScript1(url, topic, key) {
  return `// npm install @supabase/realtime-js@1.7.5
import { RealtimeClient } from "@supabase/realtime-js"

const socket = new RealtimeClient(${text(url)}, {
  params: { apikey: ${text(key)} },${note(key, "//")}
})
socket.connect()
const channel = socket.channel(${text(topic)})
channel.on("*", (change) => console.log(change))
channel.subscribe()
`;
}

function javaScript2(url, binding, key) {
  const members = Object.entries(binding).map(([name, value]) => `${name}: ${text(value)}`);
  return `// npm install @supabase/realtime-js@2
// Node before 22 needs the option transport: WebSocket, of the package ws, too.
import { RealtimeClient } from "@supabase/realtime-js"

const socket = new RealtimeClient(${text(url)}, {
  params: { apikey: ${text(key)} },${note(key, "//")}
})
socket
  .channel("changes")
  .on(
    "postgres_changes",
    { ${members.join(", ")} },
    (change) => console.log(change),
  )
  .subscribe((status, error) => console.log(status, error ?? ""))
`;
}

function python1(url, topic, key) {
  return `# pip install websockets
import asyncio
import contextlib
import json

from websockets.asyncio.client import connect

URL = ${text(`${url}/websocket?apikey=`)} + ${text(key)}${note(key, " #")}


def message(topic, event):
    return json.dumps({"topic": topic, "event": event, "payload": {}, "ref": "1"})


async def heartbeat(socket):
    while True:
        await asyncio.sleep(25)
        await socket.send(message("phoenix", "heartbeat"))


async def main():
    async with connect(URL) as socket:
        beating = asyncio.create_task(heartbeat(socket))
        await socket.send(message(${text(topic)}, "phx_join"))
        async for frame in socket:
            print(frame)


with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C
    asyncio.run(main())
`;
}

function python2(url, binding, key) {
  const { event = "*", ...others } = binding;
  const options = Object.entries(others).map(([name, value]) => `, ${name}=${text(value)}`);
  return `# pip install realtime
import asyncio
import contextlib

from realtime import AsyncRealtimeClient


async def main():
    client = AsyncRealtimeClient(${text(url)}, ${text(key)})${note(key, " #")}
    channel = client.channel("changes")
    channel.on_postgres_changes(${text(event)}, print${options.join("")})
    await channel.subscribe(lambda status, error: print(status, error or ""))
    await asyncio.Event().wait()


with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C
    asyncio.run(main())
`;
}
