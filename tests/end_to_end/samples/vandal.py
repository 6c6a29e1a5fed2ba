"""Does to every socket of a run folder what a broken or malicious program would.

vandal.py RUN_FOLDER       prints `done` when everything has been sent, and stays connected
"""

import json
import random
import re
import socket
import sys
import time
from pathlib import Path

import zmq

run = Path(sys.argv[1])
chance = random.Random(7)
SIZES = (0, 1, 2, 7, 255, 256, 4096, 70_000, 1_000_000)
NESTED = b"[" * 50_000
ODD: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    1e308,
    10**30,
    -(10**30),
    2**63,
    "",
    "\0",
    [],
    {},
    [None],
    ["x"],
)
PAGE = Path(__file__).parents[3] / "docs" / "protocol.md"
EXAMPLES = [
    json.loads(found) for found in re.findall(r"^```json\n(\{.*\})\n```$", PAGE.read_text(), re.M)
]
"""One of each message, as it should be."""


def noise(size: int) -> bytes:
    return chance.randbytes(size)


def nearly_right() -> bytes:
    """A message with one thing wrong: a value, or how deep it is."""
    message = dict(chance.choice(EXAMPLES))
    wrong = chance.choice([*message, "data", "result", "args"])
    if chance.random() < 0.7:
        return json.dumps({**message, wrong: chance.choice(ODD)}).encode()
    # Around the depth at which stacks end.
    levels = chance.choice([99, 101, 200, 500, *range(940, 1000, 3)])
    deep = "[" * levels + "]" * levels
    return json.dumps({**message, wrong: {"x": "DEEP"}}).replace('"DEEP"', deep).encode()


def rubbish() -> list[bytes]:
    """One multipart message that means nothing, or nearly something."""
    nearly = {
        "v": chance.choice([1, 2, -1, "1", None, 2**70]),
        "id": chance.choice(["x", "abcdefgh", "é" * 64, 7, None, {}]),
        "command": chance.choice(["open", "list", "", "ping", 3, "replay"]),
        "kind": chance.choice(["hello", "ack", "submit", "result", "call", "credit", "frame"]),
        "session_id": chance.choice(["", "s0-", "s0-" + "0" * 26, "s99-" + "0" * 26, 5, None]),
        "data": chance.choice([{}, [], "x", {"from": -1}, {"config": 3}, {"config": {"a": 1}}]),
        "sessions": chance.choice([{}, {"s0-x": "y"}, 4]),
        "n": chance.choice([0, -1, 2**80, "1"]),
        "token": chance.choice(["", "x", None]),
    }
    header = chance.choice(
        [
            json.dumps(nearly).encode(),
            nearly_right(),
            nearly_right(),
            noise(chance.choice(SIZES)),
            b'"%b"' % noise(chance.choice(SIZES)),
            NESTED,
            b"{}",
            b"null",
            b"",
        ]
    )
    extra = [noise(chance.choice(SIZES[:6])) for _ in range(chance.randrange(4))]
    return [header, *extra]


def talk_zmtp(context: zmq.Context[zmq.Socket[bytes]], path: Path) -> zmq.Socket[bytes]:
    kind = zmq.XSUB if path.suffix in (".events", ".state", ".audio-out") else zmq.DEALER
    raw = context.socket(kind)
    raw.setsockopt(zmq.LINGER, 500)
    raw.setsockopt(zmq.SNDTIMEO, 500)
    raw.setsockopt(zmq.RCVHWM, 1)
    raw.connect(f"ipc://{path}")
    for _ in range(150):
        frames = rubbish()
        if kind == zmq.XSUB and chance.random() < 0.5:
            frames = [chance.choice([b"\x01", b"\x00"]) + noise(chance.choice(SIZES[:7]))]
        try:
            raw.send_multipart(frames)
        except zmq.Again:
            break
    return raw


def talk_nonsense(path: Path) -> None:
    """Not even ZMTP."""
    for opening in (noise(4096), b"GET / HTTP/1.1\r\n\r\n", b"\xff" + bytes(8) + b"\x7f", b""):
        with socket.socket(socket.AF_UNIX) as raw:
            try:
                raw.settimeout(1)
                raw.connect(str(path))
                raw.sendall(opening)
            except OSError:
                pass


context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
paths = [path for path in sorted(run.iterdir()) if path.is_socket()]
kept = []
for path in paths:
    if path.name != "supervisor.sock":
        kept.append(talk_zmtp(context, path))
    talk_nonsense(path)
sys.stdout.write(f"done {len(paths)}\n")
sys.stdout.flush()
while True:
    time.sleep(60)
