"""A worker in plain ZeroMQ and JSON: offers `shout` to the pool. See docs/workers.md.

python worker.py RUN_FOLDER
"""

import json
import os
import sys
import time
from typing import Any

import zmq

TOOL = json.loads("""{"name": "shout", "description": "Say it loudly, after some seconds.",
    "effects": "none", "parameters": {"type": "object", "required": ["text"], "properties": {
        "text": {"type": "string"}, "times": {"type": "integer"}, "seconds": {"type": "number"}}}}
""")
CAPACITY, LONGEST = 2, 256 * 1024
INC = os.urandom(4).hex()

socket = zmq.Context().socket(zmq.DEALER)
socket.setsockopt(zmq.ROUTING_ID, f"python-shouter.{INC}".encode())
at = f"ipc://{os.path.abspath(sys.argv[1])}/tools.workers"
socket.connect(at)

running: dict[tuple[str, str], dict[str, Any]] = {}
unacked: dict[tuple[str, str], dict[str, Any]] = {}  # results to keep until they are acknowledged
cancelled: dict[tuple[str, str], str] = {}  # also those that came before their call
received, unanswered, welcome, draining, heard_at, said_at = 0, 0, False, False, 0.0, 0.0


def send(kind: str, **fields: Any) -> None:
    socket.send(json.dumps({"kind": kind, **fields}).encode())


def hello() -> None:
    send("hello", name="python-shouter", inc=INC, pid=os.getpid(), capacity=CAPACITY, tools=[TOOL],
         running=names(running), unacked=names(unacked), received=received)  # fmt: skip


def names(calls: Any) -> list[dict[str, str]]:
    return [{"session_id": session, "call_id": call} for session, call in calls]


def credit() -> None:
    send("credit", free=0 if draining else CAPACITY - len(running), received=received)


def finish(key: tuple[str, str], status: str, words: str, started: bool = True) -> None:
    running.pop(key, None)
    if len(words) > LONGEST:
        status, words = "error", f"a result of {len(words)} bytes, the limit is {LONGEST}"
    answer = {"result": words} if status == "ok" else {"failure": {"message": words}}
    unacked[key] = {"session_id": key[0], "call_id": key[1], "status": status, "started": started}
    unacked[key] |= answer
    send("result", **unacked[key])
    credit()


def begin(key: tuple[str, str], call: dict[str, Any]) -> None:
    text = call["args"].get("text")
    if key in unacked:
        send("result", **unacked[key])  # asked for again: never run twice
    elif key in running:
        send("started", session_id=key[0], call_id=key[1])
    elif key in cancelled:
        finish(key, "cancelled", f"cancelled ({cancelled[key]})", started=False)
    elif call["tool"] != "shout":
        finish(key, "unknown_tool", f"no tool {call['tool']} here", started=False)
    elif not isinstance(text, str):
        finish(key, "invalid_arguments", "'text' must be a text", started=False)
    else:
        send("started", session_id=key[0], call_id=key[1])
        send("progress", session_id=key[0], call_id=key[1], text="taking a deep breath")
        now = time.monotonic()
        done_at = now + float(call["args"].get("seconds", 0))
        running[key] = {"done_at": done_at, "ends_at": now + call["budget_ms"] / 1000,
                        "text": text, "times": call["args"].get("times", 1)}  # fmt: skip


while not (draining and not running and not unacked):
    while socket.poll(20):
        message = json.loads(socket.recv())
        key = (message.get("session_id", ""), message.get("call_id", ""))
        heard_at = time.monotonic()
        match message["kind"]:
            case "welcome":
                welcome = True
                credit()
                for result in unacked.values():
                    send("result", **result)
            case "call":
                received += 1
                begin(key, message)
            case "cancel":
                cancelled[key] = message["reason"]
                if len(cancelled) > 256:
                    del cancelled[next(iter(cancelled))]
                if key in running:
                    finish(key, "cancelled", f"cancelled ({message['reason']})")
            case "acked":
                unacked.pop(key, None)
            case "reset":
                hello()
            case "drain":
                draining = True
                credit()
    now = time.monotonic()
    for key, call in list(running.items()):
        if now >= call["ends_at"]:
            finish(key, "timeout", "its time was up")
        elif now >= call["done_at"]:
            shout = call["text"].upper() + "!"
            finish(key, *(("ok", shout * call["times"]) if call["text"] else ("error", "no text")))
    welcome = welcome and now - heard_at < 2
    if now - said_at >= (0.25 if welcome else 0.5):
        said_at = now
        send("heartbeat", running=names(running)) if welcome else hello()
        unanswered = 0 if welcome else unanswered + 1
        if unanswered == 6:
            print(f"nothing answers at {at}: is voicebus up there? still waiting", file=sys.stderr)
send("bye")
