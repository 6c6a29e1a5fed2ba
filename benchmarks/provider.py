"""The loopback provider: as much of OpenAI Realtime (GA) as any client needs, at next to no cost.

A process of its own. It does what it is told on standard input, one JSON object a line, and
answers each on standard output. It never speaks on its own, so that every client gets the same.
"""

import array
import asyncio
import json
import sys
import time
from typing import Any

import uvloop

from voicebus.benchmarks import wire
from voicebus.benchmarks.shared import stamps

_APPEND = b'"input_audio_buffer.append"'
_AUDIO = b'"audio"'

Frame = dict[str, Any]


class Line:
    """One client."""

    def __init__(self, provider: "Provider", peer: wire.Peer, number: int) -> None:
        self.number = number
        self.is_configured = False
        self._provider = provider
        self._peer = peer
        self._events = 0
        self._responses = 0
        self._items = 0
        self._active: str | None = None
        self._tail: bytes = b""
        self._frames = 0
        self._sounding: asyncio.TimerHandle | None = None
        self._wanted: list[Frame] = []
        """response.create that wait for the present one to end."""
        self.session: Frame = {
            "type": "realtime",
            "id": f"sess_{number}",
            "object": "realtime.session",
        }
        self.send("session.created", session=self.session)

    # --- sending ---

    def send(self, kind: str, **fields: Any) -> None:
        """One event."""
        self._events += 1
        body = {"type": kind, "event_id": f"event_{self.number}_{self._events}", **fields}
        self._peer.send(json.dumps(body).encode())

    def _response(self, status: str, output: list[Frame], metadata: Any = None) -> Frame:
        return {
            "object": "realtime.response",
            "id": self._active,
            "status": status,
            "status_details": None,
            "output": output,
            "conversation_id": f"conv_{self.number}",
            "output_modalities": ["audio"],
            "metadata": metadata,
            "usage": {"total_tokens": 2, "input_tokens": 1, "output_tokens": 1},
        }

    def _begin(self, metadata: Any = None) -> str:
        self._responses += 1
        self._active = f"resp_{self.number}_{self._responses}"
        self.send("response.created", response=self._response("in_progress", [], metadata))
        return self._active

    def _end(self, status: str, output: list[Frame], metadata: Any = None) -> None:
        self.send("response.done", response=self._response(status, output, metadata))
        self._active = None
        if self._wanted:
            self._answer(self._wanted.pop(0))

    def _item_id(self) -> str:
        self._items += 1
        return f"item_{self.number}_{self._items}"

    # --- what it is told to do ---

    def call(self, names: list[str], arguments: Frame) -> None:
        """A turn of the caller's, and a response to it that calls tools."""
        self.send("input_audio_buffer.committed", item_id=self._item_id(), previous_item_id=None)
        response_id = self._begin()
        output = []
        for index, name in enumerate(names):
            item_id = self._item_id()
            item = {
                "id": item_id,
                "object": "realtime.item",
                "type": "function_call",
                "status": "in_progress",
                "call_id": f"call_{item_id}",
                "name": name,
                "arguments": "",
            }
            where = {"response_id": response_id, "output_index": index, "item_id": item_id}
            self.send(
                "response.output_item.added", response_id=response_id, output_index=index, item=item
            )
            self.send("conversation.item.added", previous_item_id=None, item=item)
            text = json.dumps({**arguments})
            self._provider.called_ns[f"call_{item_id}"] = time.monotonic_ns()
            self.send(
                "response.function_call_arguments.done",
                **where,
                call_id=item["call_id"],
                name=name,
                arguments=text,
            )
            item = {**item, "status": "completed", "arguments": text}
            self.send("conversation.item.done", previous_item_id=None, item=item)
            self.send(
                "response.output_item.done", response_id=response_id, output_index=index, item=item
            )
            output.append(item)
        self._end("completed", output)

    def sound(self, frames: int) -> None:
        """A response with so many 20 ms frames of sound, in real time. 0 stops one."""
        self.hush("completed")
        if not frames:
            return
        response_id, item_id = self._begin(), self._item_id()
        item = {
            "id": item_id,
            "object": "realtime.item",
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        self.send("response.output_item.added", response_id=response_id, output_index=0, item=item)
        self.send("conversation.item.added", previous_item_id=None, item=item)
        where = {
            "response_id": response_id,
            "item_id": item_id,
            "output_index": 0,
            "content_index": 0,
        }
        self.send("response.content_part.added", **where, part={"type": "audio", "transcript": ""})
        head = json.dumps(
            {"type": "response.output_audio.delta", "event_id": "event_sound", **where}
        )
        self._tail = head[:-1].encode() + b', "delta": "'
        self._item = item
        self._frames = frames
        self._next_s = asyncio.get_running_loop().time() + (self.number % 20) * 0.001
        self._tick()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        if self._frames <= 0:
            self.hush("completed")
            return
        self._frames -= 1
        self._provider.sent += 1
        self._provider.made_ns.append(time.monotonic_ns())
        self._peer.send(self._tail + stamps.frame_base64(self._provider.sent) + b'"}')
        self._next_s += stamps.FRAME_MS / 1000
        self._sounding = loop.call_at(self._next_s, self._tick)

    def hush(self, status: str) -> None:
        """End the sound, if there is any."""
        if self._sounding is None:
            return
        self._sounding.cancel()
        self._sounding = None
        item = {**self._item, "status": "completed" if status == "completed" else "incomplete"}
        where = {
            "response_id": self._active,
            "item_id": item["id"],
            "output_index": 0,
            "content_index": 0,
        }
        self.send("response.output_audio.done", **where)
        self.send("response.output_item.done", response_id=self._active, output_index=0, item=item)
        self.send("conversation.item.done", previous_item_id=None, item=item)
        self._end(status, [item])

    def speech(self) -> int:
        """The caller begins to speak; when that was said."""
        at_ns = time.monotonic_ns()
        self.send("input_audio_buffer.speech_started", audio_start_ms=0, item_id=self._item_id())
        return at_ns

    def speech_over(self) -> None:
        """… and ends."""
        self.hush("cancelled")
        self.send(
            "input_audio_buffer.speech_stopped",
            audio_end_ms=1,
            item_id=f"item_{self.number}_{self._items}",
        )

    def words(self, number: int) -> None:
        """A piece of a transcript of the caller that holds a stamp."""
        self.send(
            "conversation.item.input_audio_transcription.delta",
            item_id=f"caller_{self.number}",
            content_index=0,
            delta=stamps.words(number),
        )

    # --- what the client says ---

    def received(self, message: wire.Masked) -> None:
        head = message.first(160)
        if _APPEND in head:
            place = head.find(_AUDIO)
            if place >= 0 and len(head) > place + 48:
                letters = head[place + len(_AUDIO) :].lstrip(b' :"')
                self._provider.heard.note(*stamps.read_base64(letters))
                return
        frame = json.loads(message.first())
        kind = frame.get("type")
        if kind == "input_audio_buffer.append":
            self._provider.heard.note(*stamps.read_base64(frame["audio"].encode()))
        elif kind == "session.update":
            self.session = {**self.session, **frame["session"]}
            self.send("session.updated", session=self.session)
            self.is_configured = True
        elif kind == "conversation.item.create":
            self._create(frame)
        elif kind == "response.create":
            if self._active is None:
                self._answer(frame)
            else:
                self._wanted.append(frame)
        elif kind == "response.cancel":
            self.hush("cancelled")
        elif kind == "conversation.item.truncate":
            self.send(
                "conversation.item.truncated",
                item_id=frame["item_id"],
                content_index=frame.get("content_index", 0),
                audio_end_ms=frame.get("audio_end_ms", 0),
            )
        elif kind == "conversation.item.delete":
            self.send("conversation.item.deleted", item_id=frame["item_id"])
        elif kind == "input_audio_buffer.clear":
            self.send("input_audio_buffer.cleared")

    def _create(self, frame: Frame) -> None:
        item = {"object": "realtime.item", "status": "completed", **frame["item"]}
        item.setdefault("id", self._item_id())
        self.send("conversation.item.added", previous_item_id=None, item=item)
        self.send("conversation.item.done", previous_item_id=None, item=item)
        if item["type"] == "function_call_output":
            self._provider.got_output(self, item["call_id"], item.get("output", ""))

    def _answer(self, frame: Frame) -> None:
        """An empty answer: nothing that is measured waits for words."""
        metadata = (frame.get("response") or {}).get("metadata")
        self._begin(metadata)
        self._end("completed", [], metadata)
        self._provider.answered(self)


class Provider:
    """All clients, and the orders."""

    def __init__(self) -> None:
        self.sent = 0
        self.made_ns = array.array("q")
        """When each frame of sound was made, since it was last told to forget."""
        self.heard = stamps.Log()
        self.called_ns: dict[str, int] = {}
        self.outputs: list[tuple[str, int, str]] = []
        """Call id, how long it took in nanoseconds, what came."""
        self._lines: dict[wire.Peer, Line] = {}
        self._numbers = 0
        self._rounds: dict[Line, tuple[int, list[str], Frame]] = {}
        self._saying: asyncio.TimerHandle | None = None
        self._said = 0

    def peer(self) -> wire.Peer:
        """For a new connection."""
        return wire.Peer(self._opened, self._received, self._closed)

    def _opened(self, peer: wire.Peer) -> None:
        self._numbers += 1
        self._lines[peer] = Line(self, peer, self._numbers)

    def _received(self, peer: wire.Peer, message: wire.Masked) -> None:
        self._lines[peer].received(message)

    def _closed(self, peer: wire.Peer) -> None:
        line = self._lines.pop(peer)
        line.hush("cancelled")
        self._rounds.pop(line, None)

    def got_output(self, line: Line, call_id: str, output: str) -> None:
        """A tool's result is here."""
        took_ns = time.monotonic_ns() - self.called_ns.get(call_id, 0)
        self.outputs.append((call_id, took_ns, output[:200]))

    def answered(self, line: Line) -> None:
        """The answer to the results is over: the next round."""
        left, names, arguments = self._rounds.get(line, (0, [], {}))
        if left > 0:
            self._rounds[line] = (left - 1, names, arguments)
            asyncio.get_running_loop().call_soon(line.call, names, arguments)

    def _say(self, every_s: float, left: int, at_s: float) -> None:
        for line in self._lines.values():
            self._said += 1
            line.words(self._said)
        if left > 1:
            at_s += every_s
            loop = asyncio.get_running_loop()
            self._saying = loop.call_at(at_s, self._say, every_s, left - 1, at_s)

    def do(self, order: Frame) -> Frame:
        """Carry out an order; what to answer."""
        lines = [one for one in self._lines.values() if one.is_configured]
        if "line" in order:
            lines = lines[order["line"] : order["line"] + 1]
        match order["do"]:
            case "count":
                return {"count": len(lines)}
            case "sound":
                for line in lines:
                    line.sound(round(order["seconds"] * 1000 / stamps.FRAME_MS))
            case "call":
                for line in lines:
                    self._rounds[line] = (
                        order.get("rounds", 1) - 1,
                        order["names"],
                        order.get("arguments", {}),
                    )
                    line.call(order["names"], order.get("arguments", {}))
            case "words":
                at_s = asyncio.get_running_loop().time()
                self._say(order["every_s"], order["count"], at_s)
            case "speech":
                return {"at_ns": [line.speech() for line in lines]}
            case "speech_over":
                for line in lines:
                    line.speech_over()
            case "outputs":
                outputs, self.outputs = self.outputs, []
                return {"outputs": outputs}
            case "forget":
                self.heard = stamps.Log()
                self.made_ns = array.array("q")
            case "made":
                since_ns, until_ns = order["since_ns"], order["until_ns"]
                return {"made": sum(since_ns <= at_ns < until_ns for at_ns in self.made_ns)}
            case "save":
                self.heard.save(order["path"])
            case other:
                return {"error": f"no order {other}"}
        return {"said": self._said, "sent": self.sent}


async def serve() -> None:
    """Until standard input ends."""
    loop = asyncio.get_running_loop()
    provider = Provider()
    server = await loop.create_server(provider.peer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"port": port}), flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        answer = provider.do(json.loads(line))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(serve())
