"""A worker in plain ZeroMQ and JSON, as a program in any language would be one.

    python examples/tools/worker.py var/run

It offers one tool, `shout`, and knows nothing of Voicebus but the protocol in docs/workers.md.
"""

import json
import os
import sys
import time
from typing import Any

import zmq

TOOL = {
    "name": "shout",
    "description": "Say something loudly, after thinking about it for a while.",
    "parameters": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "seconds": {"type": "number"}},
        "required": ["text"],
    },
    "effects": "none",
}
INC = os.urandom(4).hex()

socket = zmq.Context().socket(zmq.DEALER)
socket.setsockopt(zmq.ROUTING_ID, f"shouter.{INC}".encode())
socket.setsockopt(zmq.LINGER, 200)
socket.connect(f"ipc://{os.path.abspath(sys.argv[1])}/tools.workers")

running: dict[tuple[str, str], tuple[float, str]] = {}  # call -> when it will be done, its text
unacked: dict[tuple[str, str], dict[str, Any]] = {}
received = 0
welcome = False


def send(kind: str, **fields: Any) -> None:
    socket.send(json.dumps({"kind": kind, **fields}).encode())


def names(calls: Any) -> list[dict[str, str]]:
    return [{"session_id": session, "call_id": call} for session, call in calls]


def hello() -> None:
    send("hello", name="shouter", inc=INC, pid=os.getpid(), capacity=2, tools=[TOOL],
         running=names(running), unacked=names(unacked), received=received)  # fmt: skip


def credit() -> None:
    send("credit", free=2 - len(running), received=received)


def finish(key: tuple[str, str], status: str, **fields: Any) -> None:
    running.pop(key, None)
    unacked[key] = {"session_id": key[0], "call_id": key[1], "status": status, **fields}
    send("result", **unacked[key])
    credit()


hello()
said_at = time.monotonic()
while True:
    while socket.poll(50):
        message = json.loads(socket.recv())
        key = (message.get("session_id", ""), message.get("call_id", ""))
        match message["kind"]:
            case "welcome":
                welcome = True
                credit()
                for result in unacked.values():
                    send("result", **result)
            case "call":
                received += 1
                seconds = float(message["args"].get("seconds", 0))
                running[key] = (time.monotonic() + seconds, message["args"]["text"])
                send("started", session_id=key[0], call_id=key[1])
            case "cancel" if key in running:
                finish(key, "cancelled", failure={"message": f"cancelled ({message['reason']})"})
            case "acked":
                unacked.pop(key, None)
            case "reset":
                welcome = False
                hello()
            case "drain":
                send("bye")
                sys.exit()
            case _:
                pass
    now = time.monotonic()
    for key, (done_at, text) in list(running.items()):
        if now >= done_at:
            finish(key, "ok", result=text.upper() + "!")
    if now - said_at >= 0.25:
        said_at = now
        send("heartbeat", running=names(running)) if welcome else hello()
