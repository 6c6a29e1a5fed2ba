"""Subscribes to ten thousand topics on every publisher, and reads what comes.

greedy.py RUN_FOLDER       prints `done` when the last subscription has been answered
"""

import sys
from pathlib import Path

import zmq

TOPICS = 10_000
run = Path(sys.argv[1])
context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
raw = context.socket(zmq.SUB)
raw.setsockopt(zmq.SNDHWM, 0)
for lane in ("event", "audio", "raw", "system", "cancel"):
    for number in range(TOPICS // 5):
        raw.subscribe(f"{lane}/s0-{number:026}/")
lasts = 1
raw.subscribe(b"last/1")
publishers = [path for path in run.iterdir() if path.suffix in (".events", ".state", ".audio-out")]
for path in publishers:
    raw.connect(f"ipc://{path}")
while True:
    if not raw.poll(1000):  # ten thousand welcomes are more than its queue holds: ask once more
        lasts += 1
        raw.subscribe(f"last/{lasts}")
        continue
    frames = raw.recv_multipart()
    if frames[0].startswith(b"last/"):  # the session process has seen all those before it
        sys.stdout.write("done\n")
        sys.stdout.flush()
