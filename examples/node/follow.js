// Follow one session from Node: npm's zeromq and docs/protocol.md.
//
//   node follow.js RUN_FOLDER SESSION_ID [EVENT_TO_LOSE]
"use strict";
const { Commands, Events, endpoints } = require("./bus.js");

async function main([run, session, lose]) {
  if (!session) throw new Error("usage: follow.js RUN_FOLDER SESSION_ID [EVENT_TO_LOSE]");
  const at = endpoints(run, session);
  const commands = new Commands(at.commands);
  const events = new Events(at.events, session, commands, { lose: Number(lose), tell: console.log });
  events.welcomed.then(() => console.log("following", session));
  for await (const { kind, data } of events) {
    if (kind === "user_transcript") console.log("caller:", data.text);
    if (kind === "assistant_transcript" || kind === "assistant_text")
      console.log("assistant:", data.text);
  }
  const { lane, askedAgain } = events;
  console.log(`complete: ${lane.last} events, ${askedAgain} of them asked for again`);
  events.close();
  commands.close();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
