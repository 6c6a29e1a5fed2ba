"""The module that pages and Node programs use, in Node, without a gateway."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

NODE = shutil.which("node")
MODULE = Path(__file__).parents[3] / "services" / "gateway" / "page" / "voicebus.mjs"
SCRIPT = """
import { Call } from "%s";

const heard = [];
class Socket {
  constructor() { Socket.last = this; }
  close() {}
}
const call = new Call("ws://nowhere/ws", {
  event: ({ inc, seq }) => heard.push([inc, seq]),
  sound: (head, samples) => heard.push([head.kind, samples.constructor.name, [...samples]]),
}, { WebSocket: Socket });
call.open().catch(() => {});
for (const [head, bytes] of %s) {
  if (!bytes) {
    Socket.last.onmessage({ data: JSON.stringify(head) });
    continue;
  }
  const text = new TextEncoder().encode(JSON.stringify(head));
  const frame = new Uint8Array([text.length >> 8, text.length & 255, ...text, ...bytes]);
  Socket.last.onmessage({ data: frame.buffer });
}
call.leave();
console.log(JSON.stringify(heard));
"""
END = {"kind": "end", "samples": 3}

pytestmark = pytest.mark.skipif(NODE is None, reason="Node is not installed")


async def heard(*frames: tuple[dict[str, Any], list[int] | None]) -> Any:
    """What the program gets of them: events, and sound with its bytes."""
    assert NODE is not None
    script = SCRIPT % (MODULE.as_uri(), json.dumps(frames))
    arguments = ("--input-type=module", "--eval", script)
    node = await asyncio.create_subprocess_exec(NODE, *arguments, stdout=asyncio.subprocess.PIPE)
    out, _ = await node.communicate()
    assert node.returncode == 0
    return json.loads(out)


def piece(format: str) -> dict[str, Any]:
    return {"kind": "assistant_audio_delta", "format": format}


async def test_sound_comes_as_samples_of_its_format() -> None:
    assert await heard((piece("pcm16"), [1, 0, 255, 255]), (END, [])) == [
        ["assistant_audio_delta", "Int16Array", [1, -1]],
        ["end", "Int16Array", []],
    ]


@pytest.mark.parametrize("format", ["g711_ulaw", "g711_alaw"])
async def test_an_odd_number_of_bytes_is_sound_where_a_sample_is_one_byte(format: str) -> None:
    assert await heard((piece(format), [1, 2, 255]), (END, [])) == [
        ["assistant_audio_delta", "Uint8Array", [1, 2, 255]],
        ["end", "Int16Array", []],
    ]


def event(inc: str, seq: int) -> tuple[dict[str, Any], None]:
    return {"kind": "user_speech_started", "inc": inc, "seq": seq}, None


async def test_numbers_that_a_new_session_process_uses_anew_are_no_repetitions() -> None:
    told = [event("old", 1), event("old", 2), event("old", 2), event("old", 3), event("new", 2)]

    assert await heard(*told, event("new", 3), event("new", 3)) == [
        ["old", 1],
        ["old", 2],
        ["old", 3],
        ["new", 2],
        ["new", 3],
    ]
