"""Subscribes to everything that there is, and is frozen from outside.

hoarder.py RUN_FOLDER       prints `listening` when the session process has seen its subscription
"""

import sys
from pathlib import Path

import zmq

run = Path(sys.argv[1])
context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
raw = context.socket(zmq.SUB)
raw.subscribe(b"")
for path in run.iterdir():
    if path.suffix in (".events", ".state", ".audio-out"):
        raw.connect(f"ipc://{path}")
welcomed = False
while True:
    frames = raw.recv_multipart()
    if frames[0] == b"" and not welcomed:
        welcomed = True
        sys.stdout.write("listening\n")
        sys.stdout.flush()
