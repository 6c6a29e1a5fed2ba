"""The shortest worker that keeps the protocol: its tool ends at once. See docs/workers.md.

python short.py RUN_FOLDER
"""

import os
import sys
import time

import zmq

TOOL = {"name": "shout", "description": "Say it loudly.", "effects": "none",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}}}  # fmt: skip
INC = os.urandom(4).hex()
unacked: dict[tuple[str, str], dict[str, object]] = {}
received, welcome, leaving, heard_at, said_at = 0, False, False, 0.0, 0.0
socket = zmq.Context().socket(zmq.DEALER)
socket.setsockopt(zmq.ROUTING_ID, f"short.{INC}".encode())
socket.connect(f"ipc://{os.path.abspath(sys.argv[1])}/tools.workers")


def say(kind: str, **fields: object) -> None:
    socket.send_json({"kind": kind, **fields})


while not leaving or unacked:
    while socket.poll(20):
        message, heard_at = socket.recv_json(), time.monotonic()
        kind, key = message["kind"], (message.get("session_id"), message.get("call_id"))
        if kind == "call":
            received += 1
            if key not in unacked:  # what was asked for again is not run twice
                call, text = {"session_id": key[0], "call_id": key[1]}, message["args"].get("text")
                known = message["tool"] == TOOL["name"]
                bad = "unknown_tool" if not known else "" if text else "invalid_arguments"
                end = {"failure": {"message": "there is only shout(text)"}} if bad else {}
                unacked[key] = {**call, "status": bad or "ok", "result": f"{text}!".upper(), **end}
            say("result", **unacked[key])
        elif kind == "acked":
            unacked.pop(key, None)
        elif kind in ("welcome", "reset", "drain"):
            leaving, welcome = leaving or kind == "drain", kind != "reset"
            said_at = 0.0 if kind == "reset" else said_at
            for result in unacked.values() if kind == "welcome" else ():
                say("result", **result)
        if kind in ("welcome", "call", "drain"):
            say("credit", free=0 if leaving else 1, received=received)
    welcome = welcome and time.monotonic() - heard_at < 2
    if time.monotonic() - said_at >= (0.25 if welcome else 0.5):
        said_at, held = time.monotonic(), [{"session_id": s, "call_id": c} for s, c in unacked]
        say("heartbeat") if welcome else say("hello", name="short", inc=INC, pid=os.getpid(),
            capacity=1, tools=[TOOL], unacked=held, received=received)  # fmt: skip
say("bye")
