/** The page: what the socket says goes into the feed, what the user does goes to the socket. */

import { askForAccess, askForReadiness } from "./access.js";
import { forgetToken, readAddress, writeWatched } from "./address.js";
import { Builder } from "./builder.js";
import { Changes } from "./changes.js";
import { CodePanel } from "./code.js";
import { button, element } from "./dom.js";
import { Feed } from "./feed.js";
import { Socket } from "./phoenix.js";
import { Rate } from "./rate.js";
import { describeGap, showLabels } from "./row.js";
import { labelOf, watched } from "./watched.js";

const DEFAULT_TOPIC = "realtime:*";
/** How often a screen reader hears what came, at most. */
const ANNOUNCE_EVERY = 10_000;
const ASK_FOR_READINESS_EVERY = 10_000;

const byId = (id) => document.getElementById(id);
const format = new Intl.NumberFormat("en");

const address = readAddress();
const counts = new Map([...byId("kinds").querySelectorAll("input")].map(({ value }) => [value, 0]));
const gaps = new Set();
const changes = new Changes();
const rate = new Rate();
let unannounced = 0;
let last = null;

const code = new CodePanel(byId("code"), socketUrl());
const feed = new Feed(byId("feed"), showCounts);
const builder = new Builder(byId("binding"), watch);
const socket = new Socket(socketUrl("websocket"), {
  state: showConnection,
  channels: showChannels,
  refused: () => checkAccess(),
  message: receive,
});

/** Relative, so that it works behind a proxy that serves the page below a path. */
function socketUrl(path = "") {
  const url = new URL(`socket${path && `/${path}`}`, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = url.hash = "";
  return url.href;
}

// Whether it may connect

/** Connect, unless the server asks for another token. */
async function start() {
  const access = await checkAccess();
  if (access.state !== "token") {
    socket.connect();
  }
}

/** Ask the server whether this page may connect; ask the user for a token if it needs one. */
async function checkAccess() {
  const access = await askForAccess(socket.token);
  if (access.state === "ok") {
    code.needsToken = access.hasToken;
    showTables(access);
  } else if (access.state === "token") {
    code.needsToken = true;
    socket.stop();
    byId("connection").dataset.state = "refused";
    byId("connection").textContent = "Not connected";
    byId("trouble").hidden = true;
    // Without a token the heading has said it all.
    byId("token-reason").textContent = socket.token === "" ? "" : capitalized(access.reason);
    showTokenForm(true);
  }
  byId("change-token").hidden = !code.needsToken;
  return access;
}

function showTokenForm(isShown) {
  byId("token-form").hidden = !isShown;
  showEmpty();
  if (isShown) {
    byId("token").focus();
  }
}

function showTables({ tables, problem }) {
  builder.tables = tables;
  byId("tables-problem").textContent = problem ? `${capitalized(problem)}.` : "";
  byId("tables-problem").hidden = !problem;
  const schemas = new Set(tables.map(({ schema }) => `realtime:${schema}`));
  const topics = [DEFAULT_TOPIC, ...schemas, ...tables.map(({ schema, name }) => `realtime:${schema}:${name}`)];
  byId("known-topics").replaceChildren(...topics.map((topic) => new Option(topic, topic)));
}

// What the server says

function receive(channel, event, payload) {
  if (event === "system") {
    receiveSystem(channel, payload);
  } else if (event === "postgres_changes" || counts.has(event)) {
    receiveChange(channel, payload);
  }
}

function receiveChange(channel, payload) {
  const { change, isNew } = changes.take(labelOf(channel), payload);
  if (!isNew) {
    showLabels(change);
    return;
  }
  counts.set(change.kind, counts.get(change.kind) + 1);
  rate.count();
  unannounced += 1;
  last = change;
  feed.add(change);
}

function receiveSystem(channel, payload) {
  if (payload.gap) {
    // Every channel is told of the same gap.
    const text = describeGap(payload);
    if (!gaps.has(text)) {
      gaps.add(text);
      showNotice(text, () => gaps.delete(text));
      feed.add({ kind: "GAP", message: payload, time: new Date().toISOString(), columns: [], labels: new Set() });
    }
  } else if (payload.status === "error") {
    channel.reason = payload.message;
    showChannels();
  }
}

// What the page shows

async function showConnection(state, detail) {
  const shown = byId("connection");
  shown.dataset.state = state;
  const names = { connecting: "Connecting…", open: "Connected", waiting: "Not connected" };
  shown.textContent = names[state];
  if (state === "open") {
    showTokenForm(false);
    showTrouble("");
    showReadiness();
  } else if (state === "waiting") {
    const seconds = Math.max(1, Math.round(detail.delay / 1_000));
    const reason = detail.wasOpen ? detail.reason || "the connection broke" : await whyNot();
    if (shown.dataset.state === "waiting") {
      showTrouble(`${capitalized(reason)}. Trying again in ${seconds} s.`);
    }
  }
}

/** Say why a handshake failed. */
async function whyNot() {
  const access = await checkAccess();
  switch (access.state) {
    case "away":
      return `the server does not answer at ${location.host}`;
    case "refused":
      return access.reason;
    default:
      return `the server answers, but no WebSocket opens at ${socketUrl("websocket")}; a proxy between may not pass it on`;
  }
}

/** Connected is not enough: the server may have nothing to tell. */
async function showReadiness() {
  const shown = byId("connection");
  const isOpen = () => shown.textContent === "Connected";
  if (!document.hidden && isOpen()) {
    const problem = await askForReadiness();
    if (isOpen()) {
      shown.dataset.state = problem ? "unready" : "open";
      showTrouble(problem && `Connected, but no changes come: ${problem}.`, { mayRetry: false });
    }
  }
}

function showTrouble(text, { mayRetry = true } = {}) {
  byId("trouble").hidden = text === "";
  byId("trouble").firstElementChild.textContent = text;
  byId("retry").hidden = !mayRetry;
}

function capitalized(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function showChannels() {
  const channels = [...socket.channels.values()];
  byId("channels").replaceChildren(...channels.map(makeChannel));
  byId("feed").classList.toggle("with-labels", channels.length > 1);
  const isDefault = channels.length === 1 && channels[0].topic === DEFAULT_TOPIC;
  writeWatched(isDefault ? [] : channels);
  showEmpty();
  if (code.watched !== null && !channels.includes(code.watched)) {
    code.watched = null;
  }
}

function makeChannel(channel) {
  const { topic, state, reason } = channel;
  const label = labelOf(channel);
  const show = button("Code", () => (code.watched = code.watched === channel ? null : channel));
  show.setAttribute("aria-label", `Code for ${label}`);
  const leave = button("×", () => {
    socket.leave(topic);
    byId("watch").focus();
  });
  leave.setAttribute("aria-label", `Leave ${label}`);
  const detail = element("span", { className: "detail", hidden: reason === "" }, reason);
  const dataset = { topic, state: state === "joined" && reason ? "refused" : state };
  return element("li", { dataset }, element("code", {}, label), detail, show, leave);
}

function showNotice(text, onDismiss) {
  const notice = element("p", { className: "notice" }, text);
  const dismiss = button("Dismiss", () => {
    notice.remove();
    onDismiss();
  });
  notice.append(" ", dismiss);
  byId("notices").append(notice);
}

function showCounts() {
  let total = 0;
  for (const [kind, count] of counts) {
    byId("kinds").querySelector(`[data-kind=${kind}] output`).value = format.format(count);
    total += count;
  }
  byId("total").value = format.format(total);
  const { waiting } = feed;
  byId("new").hidden = waiting === 0;
  byId("new").textContent = `${format.format(waiting)} new`;
  showEmpty();
}

function showEmpty() {
  const isJoined = [...socket.channels.values()].some(({ state }) => state !== "refused");
  const shown = byId("empty");
  shown.hidden = !feed.isEmpty || !byId("token-form").hidden;
  if (feed.hidesAll) {
    shown.textContent = "Nothing of the kinds that are shown.";
  } else if (isJoined) {
    shown.textContent = "Waiting for changes. They appear here as they are committed.";
  } else {
    shown.textContent = "Watch a table or a topic to see its changes.";
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
    byId("announcer").textContent = `${what}, the last: ${last.kind} of ${last.schema}.${last.table}`;
    unannounced = 0;
  }
}

// What the user does

function watch(what) {
  socket.join(what);
  togglePanel(false);
}

function togglePanel(isOpen) {
  byId("watch-panel").hidden = !isOpen;
  byId("watch").setAttribute("aria-expanded", isOpen);
  byId("watch").focus();
}

byId("watch").addEventListener("click", () => {
  const isOpen = byId("watch-panel").hidden;
  togglePanel(isOpen);
  if (isOpen) {
    // There may be more tables by now.
    checkAccess();
  }
});

byId("join").addEventListener("submit", (event) => {
  event.preventDefault();
  watch(watched({ topic: byId("topic").value.trim() }));
  byId("topic").value = "";
});

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  socket.token = byId("token").value.trim();
  byId("token").value = "";
  forgetToken();
  sessionStorage.setItem("token", socket.token);
  start();
});

byId("change-token").addEventListener("click", () => showTokenForm(byId("token-form").hidden));
byId("retry").addEventListener("click", start);

byId("kinds").addEventListener("change", showKinds);

byId("pause").addEventListener("click", ({ currentTarget: pressed }) => {
  const isPaused = pressed.getAttribute("aria-pressed") !== "true";
  pressed.setAttribute("aria-pressed", isPaused);
  pressed.textContent = isPaused ? "Resume" : "Pause";
  feed.paused = isPaused;
});

byId("new").addEventListener("click", () => {
  feed.showWaiting();
  scrollTo({ top: 0 });
});

byId("clear").addEventListener("click", () => {
  counts.forEach((_, kind) => counts.set(kind, 0));
  feed.clear();
});

function showKinds() {
  const checked = byId("kinds").querySelectorAll("input:checked");
  feed.kinds = [...checked].map(({ value }) => value);
}

if (address.title !== "") {
  document.title = byId("title").textContent = address.title;
}
showKinds();
showRate();
setInterval(showRate, 1_000);
setInterval(announce, ANNOUNCE_EVERY);
setInterval(showReadiness, ASK_FOR_READINESS_EVERY);
socket.token = address.token || sessionStorage.getItem("token") || "";
const wanted = address.watched.length > 0 ? address.watched : [watched({ topic: DEFAULT_TOPIC })];
wanted.forEach((what) => socket.join(what));
start();
