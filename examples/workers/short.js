// The shortest worker that keeps the protocol: its tool ends at once. See docs/workers.md.
//
//   node short.js RUN_FOLDER
"use strict";
const { Dealer } = require("zeromq");
const tool = {
  name: "shout", description: "Say it loudly.", effects: "none",
  parameters: { type: "object", properties: { text: { type: "string" } } },
};
const inc = require("node:crypto").randomBytes(4).toString("hex"), kept = new Map();
let free = 1, received = 0, silent = 0, sending = Promise.resolve(); // kept: results that nobody acknowledged
const socket = new Dealer({ routingId: `short.${inc}`, linger: 200 });
socket.connect(`ipc://${require("node:path").resolve(process.argv[2])}/tools.workers`);
const say = (message) => // one at a time, in order
  (sending = sending.then(() => socket.send(JSON.stringify(message))));
const run = (name, { text }) => name === tool.name && text
  ? { status: "ok", result: `${text}!`.toUpperCase() }
  : { status: name === tool.name ? "invalid_arguments" : "unknown_tool", failure: { message: "there is only shout(text)" } };
const hear = {
  call({ session_id, call_id, tool, args }, key) { // asked for again, it is not run again
    kept.set(key, kept.get(key) ?? { kind: "result", session_id, call_id, ...run(tool, args) });
    say({ ...kept.get(key), free, received: ++received });
  },
  acked(_, key) { kept.delete(key); },
  welcome() { kept.forEach(say); },
  drain() { free = 0; },
};
(function beat() {
  if (!free && !kept.size) return say({ kind: "bye" }).then(() => socket.close());
  const unacked = [...kept.values()].map(({ session_id, call_id }) => ({ session_id, call_id }));
  say({ kind: "hello", name: "short", inc, pid: process.pid, capacity: 1, tools: [tool], unacked, free, received });
  if (++silent === 12) console.error(`nothing answers at ${socket.lastEndpoint}: is voicebus up there? still waiting`);
  setTimeout(beat, 250);
})();
(async () => {
  for await (const [frame] of socket) {
    const message = JSON.parse(frame.toString());
    silent = 0;
    hear[message.kind]?.(message, `${message.session_id}/${message.call_id}`);
  }
})();
