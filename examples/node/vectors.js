// Checks gaps.js with the vectors that every port of the gap detector is checked with.
//
//   node vectors.js ../../tests/bus/vectors/gaps.json
"use strict";
const fs = require("node:fs");
const { isDeepStrictEqual } = require("node:util");
const { Lane, Kind } = require("./gaps.js");

const cases = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
let wrong = 0;
for (const { name, session_id, kind, last, steps } of cases) {
  const follower = kind ? new Kind(session_id, kind, last) : new Lane(session_id, last);
  for (const [number, step] of steps.entries()) {
    const { verdict, ready, missing } =
      "gone" in step
        ? follower.gone(step.gone)
        : follower.frames(step.frames.map((one) => Buffer.from(one, "hex")));
    const said = { verdict, ready: ready.map((event) => event.seq), missing };
    const wanted = { verdict: step.verdict, ready: step.ready, missing: step.missing };
    if (!isDeepStrictEqual(said, wanted)) {
      wrong += 1;
      console.error(`${name}, step ${number}: ${JSON.stringify(said)}`);
      console.error(`  it should be ${JSON.stringify(wanted)}`);
    }
  }
}
console.log(`${cases.length} cases, ${wrong} wrong`);
process.exit(wrong ? 1 : 0);
