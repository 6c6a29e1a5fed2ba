// A call through the gateway's WebSocket: no ZeroMQ, and it outlives a restarted gateway.
//
//   node call.mjs ws://127.0.0.1:8080/ws "What is the weather in Berlin?"
//
// Node 22 has a WebSocket of its own; Node 20 with --experimental-websocket.
import { Call, RATE_HZ } from "../../services/gateway/page/voicebus.mjs";

const [url, question] = process.argv.slice(2);
if (!question) {
  console.error("usage: call.mjs ws://HOST:PORT/ws QUESTION");
  process.exit(2);
}
if (!globalThis.WebSocket) {
  console.error("this Node has no WebSocket: use Node 22, or node --experimental-websocket");
  process.exit(2);
}

let samples = 0;
const call = new Call(url, {
  event({ kind, seq, data }) {
    console.log(seq, kind);
    if (kind === "assistant_transcript") console.log("assistant:", data.text);
    if (kind === "assistant_transcript") call.command("close").catch((error) => console.error(error.message));
  },
  sound(head, piece) {
    if (head.kind === "assistant_audio_delta") samples += piece.length;
  },
  state: (state, why) => console.log(why ? `${state} ${why}` : state),
});

try {
  await call.open({ instructions: "Be brief." });
  await call.command("send_text", { text: question });
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
const rate = call.session?.audio?.output.rate_hz ?? RATE_HZ;
process.on("exit", () => console.log(`heard ${Math.round((samples * 1000) / rate)} ms`));
