// The shortest worker that keeps the protocol: its tool ends at once. See docs/workers.md.
//
//   node short.js RUN_FOLDER
"use strict";
const { Dealer } = require("zeromq");
const TOOL = {
  name: "shout", description: "Say it loudly.", effects: "none",
  parameters: { type: "object", properties: { text: { type: "string" } } },
};
const inc = require("node:crypto").randomBytes(4).toString("hex"), unacked = new Map();
let received = 0, welcome = false, leaving = false, heardAt = 0, sending = Promise.resolve();
const socket = new Dealer({ routingId: `short.${inc}`, linger: 200 });
socket.connect(`ipc://${require("node:path").resolve(process.argv[2])}/tools.workers`);
const say = (kind, fields) => // one at a time, in order
  (sending = sending.then(() => socket.send(JSON.stringify({ kind, ...fields }))));
const hello = () => say("hello", {
  name: "short", inc, pid: process.pid, capacity: 1, tools: [TOOL], received,
  unacked: [...unacked.values()].map(({ session_id, call_id }) => ({ session_id, call_id })),
});
const credit = () => say("credit", { free: leaving ? 0 : 1, received });
const ended = ({ tool, args: { text } }) => tool === TOOL.name && text
  ? { status: "ok", result: `${text}!`.toUpperCase() }
  : { status: tool === TOOL.name ? "invalid_arguments" : "unknown_tool", failure: { message: "there is only shout(text)" } };
const hear = {
  welcome() { welcome = true; credit(); for (const result of unacked.values()) say("result", result); },
  call(message, key) {
    received += 1;
    const { session_id, call_id } = message; // asked for again: never run twice
    if (!unacked.has(key)) unacked.set(key, { session_id, call_id, ...ended(message) });
    say("result", unacked.get(key)), credit();
  },
  acked(_, key) { unacked.delete(key); },
  reset() { welcome = false; hello(); },
  drain() { leaving = true; credit(); },
};
(function beat() {
  welcome &&= Date.now() - heardAt < 2000;
  if (leaving && !unacked.size) return say("bye").then(() => socket.close());
  welcome ? say("heartbeat") : hello();
  setTimeout(beat, welcome ? 250 : 500);
})();
(async () => {
  for await (const [frame] of socket) {
    const message = JSON.parse(frame.toString());
    heardAt = Date.now();
    hear[message.kind]?.(message, `${message.session_id}/${message.call_id}`);
  }
})();
