// A worker from Node: offers `shout` to the pool. Needs zeromq (npm) and docs/workers.md.
//
//   node worker.js RUN_FOLDER
"use strict";
const { randomBytes } = require("node:crypto");
const { Dealer } = require("zeromq");

const TOOL = {
  name: "shout", description: "Say it loudly, after some seconds.", effects: "none",
  parameters: {
    type: "object", required: ["text"],
    properties: { text: { type: "string" }, times: { type: "integer" }, seconds: { type: "number" } },
  },
};
const CAPACITY = 2, LONGEST = 256 * 1024;
const inc = randomBytes(4).toString("hex");
const running = new Map(), unacked = new Map(), cancelled = new Map();
let received = 0, unanswered = 0, welcome = false, draining = false, heardAt = 0, sending = Promise.resolve();

const socket = new Dealer({ routingId: `node-shouter.${inc}`, linger: 200 });
const at = `ipc://${require("node:path").resolve(process.argv[2])}/tools.workers`;
socket.connect(at);

const send = (kind, fields) => // one at a time, in order
  (sending = sending.then(() => socket.send(JSON.stringify({ kind, ...fields }))));
const refs = (calls) => [...calls.values()].map(({ session_id, call_id }) => ({ session_id, call_id }));
const credit = () => send("credit", { free: draining ? 0 : CAPACITY - running.size, received });
const hello = () => send("hello", {
  name: "node-shouter", inc, pid: process.pid, capacity: CAPACITY, tools: [TOOL],
  running: refs(running), unacked: refs(unacked), received,
});

function finish(call, status, words, started = true) {
  clearTimeout(running.get(call.key)?.timer);
  running.delete(call.key);
  if (words.length > LONGEST) [status, words] = ["error", `${words.length} bytes, the limit is ${LONGEST}`];
  const { session_id, call_id } = call;
  const answer = status === "ok" ? { result: words } : { failure: { message: words } };
  unacked.set(call.key, { session_id, call_id, status, started, ...answer });
  send("result", unacked.get(call.key));
  credit();
}

function begin(call) {
  const { key, args: { text, times = 1, seconds = 0 }, budget_ms } = call;
  if (unacked.has(key)) return send("result", unacked.get(key)); // asked for again: never run twice
  if (running.has(key)) return send("started", refs(new Map([[key, call]]))[0]);
  if (cancelled.has(key)) return finish(call, "cancelled", `cancelled (${cancelled.get(key)})`, false);
  if (call.tool !== TOOL.name) return finish(call, "unknown_tool", `no tool ${call.tool} here`, false);
  if (typeof text !== "string") return finish(call, "invalid_arguments", "'text' must be a text", false);
  const { session_id, call_id } = call;
  send("started", { session_id, call_id });
  send("progress", { session_id, call_id, text: "taking a deep breath" });
  const end = () => text ? finish(call, "ok", (text.toUpperCase() + "!").repeat(times)) : finish(call, "error", "no text");
  const late = () => finish(call, "timeout", "its time was up");
  call.timer = seconds * 1000 < budget_ms ? setTimeout(end, seconds * 1000) : setTimeout(late, budget_ms);
  running.set(key, call);
}

const hear = {
  welcome() { welcome = true; unanswered = 0; credit(); for (const result of unacked.values()) send("result", result); },
  call(message) { received += 1; begin(message); },
  cancel(message) {
    cancelled.set(message.key, message.reason); // it may come before its call
    if (cancelled.size > 256) cancelled.delete(cancelled.keys().next().value);
    if (running.has(message.key)) finish(running.get(message.key), "cancelled", `cancelled (${message.reason})`);
  },
  acked(message) { unacked.delete(message.key); },
  reset: hello,
  drain() { draining = true; credit(); },
};

async function main() {
  (function beat() {
    welcome &&= Date.now() - heardAt < 2000;
    if (draining && !running.size && !unacked.size) return send("bye").then(() => socket.close());
    if (welcome) send("heartbeat", { running: refs(running) });
    else {
      hello();
      if (++unanswered === 6) console.error(`nothing answers at ${at}: is voicebus up there? still waiting`);
    }
    setTimeout(beat, welcome ? 250 : 500);
  })();
  for await (const [frame] of socket) {
    const message = JSON.parse(frame.toString());
    heardAt = Date.now();
    message.key = `${message.session_id}/${message.call_id}`;
    hear[message.kind]?.(message);
  }
}
main();
