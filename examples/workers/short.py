"""The shortest worker that keeps the protocol: its tool ends at once. See docs/workers.md.

python short.py RUN_FOLDER
"""

import os
import sys

import zmq

TOOL = {"name": "shout", "description": "Say it loudly.", "effects": "none",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}}}  # fmt: skip
INC = os.urandom(4).hex()
ME = {"kind": "hello", "name": "short", "inc": INC, "pid": os.getpid(), "capacity": 1}
socket = zmq.Context().socket(zmq.DEALER)
socket.setsockopt(zmq.ROUTING_ID, f"short.{INC}".encode())
socket.connect(at := f"ipc://{os.path.abspath(sys.argv[1])}/tools.workers")
free, received, silent, kept = 1, 0, 0, {}  # kept: results that nobody has acknowledged


def run(tool: str, args: dict[str, str]) -> dict[str, object]:
    if tool == "shout" and args.get("text"):
        return {"status": "ok", "result": f"{args['text']}!".upper()}
    status = "invalid_arguments" if tool == "shout" else "unknown_tool"
    return {"status": status, "failure": {"message": "there is only shout(text)"}}


while free or kept:
    unacked = [{"session_id": session, "call_id": call} for session, call in kept]
    told = {"tools": [TOOL], "unacked": unacked, "free": free, "received": received}
    socket.send_json({**ME, **told})
    if (silent := silent + 1) == 12:
        print(f"nothing answers at {at}: is voicebus up there? still waiting", file=sys.stderr)
    while socket.poll(250):
        silent = 0
        message = socket.recv_json()
        key = message.get("session_id"), message.get("call_id")
        if message["kind"] == "call":
            received += 1
            named = {"kind": "result", "session_id": key[0], "call_id": key[1]}
            kept[key] = kept.get(key) or {**named, **run(message["tool"], message["args"])}
            socket.send_json({**kept[key], "free": free, "received": received})
        elif message["kind"] == "acked":
            kept.pop(key, None)
        elif message["kind"] == "welcome":
            for result in kept.values():
                socket.send_json(result)
        elif message["kind"] == "drain":
            free = 0
socket.send_json({"kind": "bye"})
