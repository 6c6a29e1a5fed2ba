// The page of the gateway: press Talk, speak, hear, read. What crosses the network is voicebus.mjs's;
// what crosses the loudspeaker is worklet.js's.
import { Call, RATE_HZ } from "./voicebus.mjs";

const GRACE_MS = 1000; // sound may come so long after the event that says it is complete
const KEPT = "voicebus.call";
const $ = (id) => document.getElementById(id);
const STATES = {
  connecting: "connecting …",
  on: "connected",
  away: "connection lost: coming back …",
  over: "not connected",
};

let call = null;
let sound = null; // { context, speaker, stream }
let muted = false;
let wasOn = null; // whether the call was connected when its state changed last; null before it was

// --- the call -------------------------------------------------------------------------------------

async function talk() {
  $("talk").disabled = true;
  const kept = remembered();
  try {
    const on = { event: happened, sound: heard, state: entered, notice: noted };
    const url = new URL("/ws", location.href.replace(/^http/, "ws")).href;
    call = new Call(url, on, { key: $("key").value });
    let told;
    if (kept) {
      $("log").replaceChildren(); // all of it is replayed
      entries.clear();
      told = await call.attach(kept);
    } else told = await call.open();
    for (const warning of told.warnings) note(warning);
    remember({ session_id: told.session_id, token: told.token });
    const other = Object.values(told.audio).find(({ format }) => format !== "pcm16");
    if (other) {
      const why = `This gateway's calls speak ${other.format}, and this page speaks pcm16 alone:`;
      return note(`${why} write, and read the answers.`, "error");
    }
  } catch (error) {
    if (error.code === "not_allowed" && !kept) {
      $("ask-key").hidden = false;
      $("key").focus();
    }
    if (kept) remember(null);
    stop();
    return note(explained(error), "error");
  }
  try {
    sound = await startSound();
    if (call.state === "over") stop(); // hung up meanwhile
  } catch (error) {
    note(`${explained(error)} You can still write.`, "error");
  }
}

async function hangUp() {
  remember(null);
  try {
    await call.command("close");
  } catch (error) {
    note(explained(error), "error");
    call?.leave();
  }
}

function entered(state, why) {
  $("state").textContent = STATES[state] + (why && state !== "on" ? ` (${why})` : "");
  $("state").className = state === "away" ? "bad" : "";
  document.body.dataset.state = state;
  const live = state === "on";
  if (state === "away" && wasOn) note("The connection was lost; coming back.");
  if (live && wasOn === false) note("Connected again.");
  if (state !== "connecting") wasOn = state === "over" ? null : live;
  for (const id of ["mute", "interrupt", "hang-up", "text"]) $(id).disabled = !live;
  $("write").querySelector("button").disabled = !live;
  if (state === "over") {
    if (why === "ended" || why.includes("not exist")) remember(null);
    stop();
  }
}

function stop() {
  sound?.stream?.getTracks().forEach((track) => track.stop());
  sound?.context.close();
  sound = null;
  $("talk").disabled = false;
  $("talk").textContent = remembered() ? "Come back to the call" : "Talk";
}

const remembered = () => JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
const remember = (one) =>
  one ? sessionStorage.setItem(KEPT, JSON.stringify(one)) : sessionStorage.removeItem(KEPT);

// --- sound ----------------------------------------------------------------------------------------

async function startSound() {
  if (!navigator.mediaDevices) {
    throw new Error("This browser gives pages a microphone only by HTTPS or on this machine itself.");
  }
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
  });
  try {
    return await connect(new AudioContext({ sampleRate: RATE_HZ, latencyHint: "interactive" }), stream);
  } catch {
    // Firefox does not connect a microphone of another rate: then the worklets resample.
    return connect(new AudioContext({ latencyHint: "interactive" }), stream);
  }
}

async function connect(context, stream) {
  try {
    await context.audioWorklet.addModule("/worklet.js");
    const microphone = new AudioWorkletNode(context, "microphone", {
      numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit",
    });
    context.createMediaStreamSource(stream).connect(microphone);
    microphone.port.onmessage = ({ data }) => {
      $("level").value = data.level;
      if (!muted) call?.say(data.samples);
    };
    const speaker = new AudioWorkletNode(context, "speaker", { numberOfInputs: 0 });
    speaker.connect(context.destination);
    speaker.port.onmessage = ({ data }) => {
      // What is on its way to the ear has not been heard yet.
      const delay = data.state === "done" ? 0 : (context.outputLatency || context.baseLatency || 0) * 1000;
      const report = { ...data, played_ms: Math.max(0, Math.floor(data.played_ms - delay)) };
      // The next one replaces a report of playing; where it stopped is told even after a lost line.
      if (data.state === "playing") call?.tell("report_playback", report);
      else call?.command("report_playback", report).catch(() => {}); // the call is over
    };
    await context.resume();
    return { context, speaker, stream };
  } catch (error) {
    await context.close();
    throw error;
  }
}

function heard(head, samples) {
  const port = sound?.speaker.port;
  if (head.kind === "assistant_audio_delta") port?.postMessage({ what: "piece", head, samples }, [samples.buffer]);
  if (head.kind === "end") port?.postMessage({ what: "end", head });
  if (head.kind === "flush") port?.postMessage({ what: "flush", responses: head.responses });
}

/** Sound has no replay: an end that was lost is told by the events. */
function later(message) {
  setTimeout(() => sound?.speaker.port.postMessage(message), GRACE_MS);
}

// --- what happens ---------------------------------------------------------------------------------

const entries = new Map(); // key -> its line

function happened({ kind, data }) {
  switch (kind) {
    case "user_speech_started": return void line(data.item_id, "caller", "you", "…");
    case "user_transcript_delta": return void grow(data.item_id, "caller", "you", data.delta, data.corrected);
    case "user_transcript": return void line(data.item_id, "caller", "you", data.text);
    case "assistant_text_delta":
    case "assistant_transcript_delta":
      return void grow(data.item_id, "assistant", "assistant", data.delta);
    case "assistant_text":
    case "assistant_transcript":
      return void line(data.item_id, "assistant", "assistant", data.text);
    case "assistant_heard":
      if (!data.complete) entries.get(data.item_id)?.classList.add("cut");
      return void 0;
    case "assistant_audio_done": return later({ what: "end", head: data });
    case "assistant_turn_completed": return later({ what: "endTurn", turn: data.turn_id });
    case "interrupted":
      sound?.speaker.port.postMessage({ what: "flush", responses: data.responses });
      return note(data.reason === "barge_in" ? "You spoke: the assistant stopped." : "Interrupted.");
    case "tool_call_dispatched":
      return void line(data.call_id, "tool", `tool ${data.name}`, `${JSON.stringify(data.args)} …`);
    case "tool_call_progress": return void line(data.call_id, "tool", `tool ${data.name}`, data.text);
    case "tool_call_completed":
      return void line(data.call_id, "tool", `tool ${data.name}`, JSON.stringify(data.result));
    case "tool_call_failed":
      return void line(data.call_id, "tool", `tool ${data.name}`, `${data.reason}: ${data.error}`);
    case "approval_requested": return askApproval(data);
    case "session_reconnecting": return note(`The provider's connection is gone (${data.reason}); another is made.`);
    case "session_resumed": return note("The provider's connection stands again.");
    case "error": return note(`${data.code}: ${data.error}`, "error");
    case "session_closed": return note(`The conversation is over (${data.reason}).`);
  }
}

function noted(notice) {
  if (notice.what === "refused") {
    if (call.state === "on") note(notice.message, "error"); // else whoever opened it is told
  }
  else note(`${notice.dropped_ms} ms of sound were dropped: ${notice.why}`);
}

function askApproval({ call_id, name, args }) {
  const entry = line(`approval/${call_id}`, "tool", `may ${name} run?`, JSON.stringify(args));
  for (const [word, approve] of [["Yes", true], ["No", false]]) {
    const button = document.createElement("button");
    button.textContent = word;
    button.onclick = () => {
      entry.querySelectorAll("button").forEach((one) => one.remove());
      call.command("approve", { call_id, approve }).catch((error) => note(explained(error), "error"));
    };
    entry.append(" ", button);
  }
}

function line(key, kind, who, text) {
  let entry = entries.get(key);
  if (!entry) {
    entry = document.createElement("li");
    entry.className = kind;
    const name = document.createElement("span");
    name.className = "who";
    name.textContent = who;
    entry.append(name, document.createTextNode(""));
    $("log").append(entry);
    if (key) entries.set(key, entry);
  }
  entry.childNodes[1].data = text; // as text: whatever was said is no markup
  entry.scrollIntoView({ block: "nearest" });
  return entry;
}

function grow(key, kind, who, delta, corrected) {
  const entry = line(key, kind, who, entries.get(key)?.childNodes[1].data ?? "");
  const before = entry.childNodes[1].data;
  entry.childNodes[1].data = corrected ?? (before === "…" ? "" : before) + delta;
}

const note = (text, kind = "note") => void line(null, kind, "", text);
const explained = (error) =>
  error.name === "NotAllowedError" ? "The microphone was not allowed: allow it in the browser." : error.message;

// --- hands ----------------------------------------------------------------------------------------

$("talk").onclick = talk;
$("hang-up").onclick = hangUp;
$("interrupt").onclick = () => call.command("interrupt").catch((error) => note(explained(error), "error"));
$("mute").onclick = () => {
  muted = !muted;
  $("mute").setAttribute("aria-pressed", String(muted));
};
$("ask-key").onsubmit = (event) => {
  event.preventDefault();
  $("ask-key").hidden = true;
  talk();
};
$("write").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  line(null, "caller", "you", text);
  call.command("send_text", { text }).catch((error) => note(explained(error), "error"));
};
addEventListener("online", () => call?.hurry());
if (remembered()) $("talk").textContent = "Come back to the call";
