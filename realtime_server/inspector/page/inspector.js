/** The page: what the socket says goes into the feed, what the user does goes to the socket. */

import { Feed, describeGap } from "./feed.js";
import { Socket } from "./phoenix.js";
import { Rate } from "./rate.js";

const DEFAULT_TOPIC = "realtime:*";
const MOST_KNOWN_TOPICS = 100;
/** How often a screen reader hears what came, at most. */
const ANNOUNCE_EVERY = 10_000;

const byId = (id) => document.getElementById(id);
const format = new Intl.NumberFormat("en");

const counts = new Map([...byId("kinds").querySelectorAll("input")].map(({ value }) => [value, 0]));
const knownTopics = new Set();
const gaps = new Set();
const rate = new Rate();
let unannounced = 0;
let last = null;

const feed = new Feed(byId("feed"), showCounts);
const socket = new Socket(webSocketUrl(), {
  state: showConnection,
  channels: showChannels,
  message: receive,
});

function webSocketUrl() {
  // Relative, so that it works behind a proxy that serves the page below a path.
  const url = new URL("socket/websocket", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = url.hash = "";
  return url.href;
}

// What the server says

function receive(topic, event, payload) {
  if (event === "system") {
    receiveSystem(topic, payload);
  } else if (counts.has(event)) {
    receiveChange(topic, event, payload);
  }
}

function receiveChange(topic, kind, payload) {
  counts.set(kind, counts.get(kind) + 1);
  rate.count();
  unannounced += 1;
  last = payload;
  learnTopics(payload);
  feed.add({ kind, topic, payload });
}

function receiveSystem(topic, payload) {
  if (payload.gap) {
    // Every channel is told of the same gap.
    const text = describeGap(payload);
    if (!gaps.has(text)) {
      gaps.add(text);
      showNotice(text, () => gaps.delete(text));
      feed.add({ kind: "GAP", topic, payload, time: new Date().toISOString() });
    }
  } else if (payload.status === "error") {
    showNotice(`${topic}: ${payload.message}`);
  }
}

function learnTopics({ schema, table }) {
  for (const topic of [`realtime:${schema}`, `realtime:${schema}:${table}`]) {
    if (!knownTopics.has(topic) && knownTopics.size < MOST_KNOWN_TOPICS) {
      knownTopics.add(topic);
      byId("known-topics").append(new Option(topic, topic));
    }
  }
}

// What the page shows

function showConnection(state, detail) {
  const shown = byId("connection");
  shown.dataset.state = state;
  if (state === "waiting") {
    const seconds = Math.max(1, Math.round(detail.delay / 1_000));
    const why = detail.reason === "" ? "" : ` (${detail.reason})`;
    shown.textContent = `Disconnected${why}, trying again in ${seconds} s`;
  } else {
    shown.textContent = state === "open" ? "Connected" : "Connecting…";
  }
}

function showChannels() {
  const channels = [...socket.channels.values()];
  byId("channels").replaceChildren(...channels.map(makeChannel));
  byId("feed").classList.toggle("with-topics", channels.length > 1);
  rememberTopics(channels);
  showEmpty();
}

function makeChannel({ topic, state, reason }) {
  const item = document.createElement("li");
  item.dataset.state = state;
  item.dataset.topic = topic;
  const name = document.createElement("code");
  name.textContent = topic;
  const detail = document.createElement("span");
  detail.className = "detail";
  detail.textContent = reason || (state === "joining" ? "joining…" : "");
  const leave = makeButton("×", () => {
    socket.leave(topic);
    byId("topic").focus();
  });
  leave.setAttribute("aria-label", `Leave ${topic}`);
  item.append(name, detail, leave);
  return item;
}

/** The address keeps the topics, so that a reload or a bookmark has them. */
function rememberTopics(channels) {
  const url = new URL(location.href);
  url.searchParams.delete("topic");
  const topics = channels.map(({ topic }) => topic);
  if (topics.length !== 1 || topics[0] !== DEFAULT_TOPIC) {
    topics.forEach((topic) => url.searchParams.append("topic", topic));
  }
  history.replaceState(null, "", url);
}

function showNotice(text, onDismiss = () => {}) {
  const notice = document.createElement("p");
  notice.className = "notice";
  notice.textContent = text;
  notice.append(
    makeButton("Dismiss", () => {
      notice.remove();
      onDismiss();
    }),
  );
  byId("notices").append(notice);
}

function makeButton(text, onClick) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", onClick);
  return button;
}

function showCounts() {
  let total = 0;
  for (const [kind, count] of counts) {
    byId("kinds").querySelector(`[data-kind=${kind}] output`).value = format.format(count);
    total += count;
  }
  byId("total").value = format.format(total);
  showEmpty();
  const isPaused = byId("pause").getAttribute("aria-pressed") === "true";
  byId("pause").textContent = isPaused ? `Resume (${format.format(feed.waiting)} new)` : "Pause";
}

function showEmpty() {
  const isJoined = [...socket.channels.values()].some(({ state }) => state !== "refused");
  const shown = byId("empty");
  shown.hidden = !feed.isEmpty;
  if (feed.hidesAll) {
    shown.textContent = "Nothing of the kinds that are shown.";
  } else if (isJoined) {
    shown.textContent = "Waiting for changes. They appear here as they are committed.";
  } else {
    shown.textContent = "Join a topic to see its changes.";
  }
}

function showRate() {
  const { perSecond } = rate;
  const digits = perSecond > 0 && perSecond < 10 ? 1 : 0;
  byId("rate").value = perSecond.toFixed(digits);
  byId("sparkline").setAttribute("d", rate.outline);
}

function announce() {
  if (unannounced > 0) {
    const what = unannounced === 1 ? "1 change" : `${format.format(unannounced)} changes`;
    byId("announcer").textContent = `${what}, the last: ${last.type} of ${last.schema}.${last.table}`;
    unannounced = 0;
  }
}

// What the user does

byId("join").addEventListener("submit", (event) => {
  event.preventDefault();
  socket.join(byId("topic").value.trim());
  byId("topic").select();
});

byId("kinds").addEventListener("change", showKinds);

byId("pause").addEventListener("click", ({ currentTarget: button }) => {
  const isPaused = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", isPaused);
  feed.paused = isPaused;
});

byId("clear").addEventListener("click", () => {
  counts.forEach((_, kind) => counts.set(kind, 0));
  feed.clear();
});

function showKinds() {
  const checked = byId("kinds").querySelectorAll("input:checked");
  feed.kinds = [...checked].map(({ value }) => value);
}

showKinds();
showRate();
setInterval(showRate, 1_000);
setInterval(announce, ANNOUNCE_EVERY);
const wanted = new URLSearchParams(location.search).getAll("topic");
(wanted.length > 0 ? wanted : [DEFAULT_TOPIC]).forEach((topic) => socket.join(topic));
socket.connect();
