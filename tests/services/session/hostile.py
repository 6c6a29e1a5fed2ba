"""Whatever providers and clients send, through everything that reads it: the frames' reader, the
translator, the desk, the reception, the core, the writer of frames and the fold.

`python -P tests/services/session/hostile.py 300` plays so many conversations, `10m` plays for so
long; a number behind it is the first seed. It says how many inputs it tried.
"""

import asyncio
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from voicebus.bus.messages.base import encode
from voicebus.bus.messages.commands import COMMANDS, Reply
from voicebus.bus.sockets import Sent
from voicebus.config.settings import SessionSettings
from voicebus.services.session import uplink
from voicebus.services.session.conversation import Conversation
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.journal import Stored
from voicebus.services.session.providers.openai import READERS
from voicebus.services.session.providers.vendors import TRANSLATORS
from voicebus.services.session.reception import Reception
from voicebus.services.session.testing import tool

# --- what comes ------------------------------------------------------------------------------

WORDS = (
    "r1",
    "r2",
    "m1",
    "m2",
    "c1",
    "c2",
    "u1",
    "root",
    "completed",
    "failed",
    "a",
    "b",
    "",
    "ü\0",
)
NUMBERS = (0, -1, 1, 7, 2**53, -(2**70), 10**30, 1e305, -1e305, 0.5)
KINDS = (*READERS, "conversation.created", "ping")
COMMAND_NAMES = tuple(name for name in COMMANDS if name not in ("schema", "close"))


class Script:
    """What a hostile world does next: mostly what makes sense, with something odd inside."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._turns = 0

    def one_of(self, *choices: Any) -> Any:
        return self._chance.choice(choices)

    def rarely(self, share: float = 0.1) -> bool:
        return self._chance.random() < share

    def deep(self, most: int = 1500) -> str:
        n = self._chance.randint(1, most)
        return '{"x":' * n + "1" + "}" * n

    def anything(self, depth: int = 0) -> Any:
        """Any JSON."""
        kind = self._chance.randint(0, 6 if depth < 3 else 4)
        match kind:
            case 0:
                return self.one_of(None, True, False)
            case 1 | 2:
                return self.one_of(*NUMBERS)
            case 3 | 4:
                return self.one_of(*WORDS)
            case 5:
                return [self.anything(depth + 1) for _ in range(self._chance.randint(0, 3))]
            case _:
                names = (*WORDS, "id", "type", "name")
                count = self._chance.randint(0, 3)
                return {self.one_of(*names): self.anything(depth + 1) for _ in range(count)}

    def some(self, **fields: Callable[[], Any]) -> Any:
        """An object with most of these fields, now and then something odd in one, or instead."""
        if self.rarely(0.05):
            return self.anything()
        return {
            name: self.anything() if self.rarely() else make()
            for name, make in fields.items()
            if not self.rarely(0.25)
        }

    def word(self) -> Any:
        return self.one_of(*WORDS)

    def number(self) -> Any:
        return self.one_of(*NUMBERS)

    def item(self) -> Any:
        return self.some(
            id=lambda: self.one_of("m1", "m2", "i1"),
            type=lambda: self.one_of("message", "function_call", "function_call_output", "mcp"),
            role=lambda: self.one_of("assistant", "user", "system"),
            status=lambda: self.one_of("completed", "completed", "incomplete", "in_progress"),
            call_id=lambda: self.one_of("c1", "c2", "c3"),
            name=lambda: self.one_of("a", "b", "mine", "web_search"),
            arguments=lambda: self.one_of("{}", '{"x":', "[]", '{"x":1e999}', self.deep()),
            content=lambda: [self.some(type=lambda: "input_image", text=self.word)],
        )

    def error(self) -> Any:
        return self.some(
            code=lambda: self.one_of(
                "conversation_already_has_active_response",
                "response_cancel_not_active",
                "rate_limit_exceeded",
                "server_error",
                "cannot_update_voice",
            ),
            message=lambda: self.one_of(
                "try again in 1e999s", "try again in infs", "try again in 1m2s", "response.create"
            ),
            param=lambda: self.one_of("session.voice", "response.x", None),
            event_id=lambda: f"vb_1_{self._chance.randint(1, 12)}",
        )

    def response(self) -> Any:
        return self.some(
            id=lambda: self.one_of("r1", "r2", "r3"),
            status=lambda: self.one_of("completed", "failed", "cancelled", "incomplete"),
            status_details=lambda: self.some(
                reason=lambda: self.one_of("turn_detected", "max_output_tokens"), error=self.error
            ),
            output=lambda: [self.item()],
            usage=lambda: self.some(total_tokens=self.number, input_token_details=self.anything),
            metadata=lambda: {"voicebus": self.one_of("1", "2", "3", 1)},
            conversation_id=lambda: self.one_of(None, "conv"),
        )

    def frame(self) -> bytes:
        """A frame of the provider's."""
        if self.rarely(0.03):
            return b'{"type":"session.updated","session":' + self.deep().encode() + b"}"
        frame = self.some(
            response_id=lambda: self.one_of("r1", "r2", "r3"),
            item_id=lambda: self.one_of("m1", "m2", "u1"),
            call_id=lambda: self.one_of("c1", "c2"),
            previous_item_id=lambda: self.one_of(None, "root", "m1", "nobody"),
            output_index=lambda: self._chance.randint(0, 2),
            content_index=lambda: self._chance.randint(0, 1),
            delta=self.word,
            text=self.word,
            transcript=self.word,
            audio_start_ms=self.number,
            item=self.item,
            response=self.response,
            session=lambda: self.some(id=self.word, expires_at=self.number),
            error=self.error,
            rate_limits=self.anything,
            usage=self.anything,
        )
        if isinstance(frame, dict):
            frame["type"] = self.anything() if self.rarely(0.02) else self.one_of(*KINDS)
        raw = encode(frame)
        return self.spoilt(raw) if self.rarely(0.05) else raw

    def turn(self) -> list[bytes]:
        """A response as it should be, with a call in it: it gives the odd something to disturb."""
        self._turns += 1
        r, c = f"R{self._turns}", self.one_of("c1", "c2", f"C{self._turns}")
        call = {"id": f"i{c}", "type": "function_call", "call_id": c, "name": self.one_of("a", "b")}
        call["arguments"] = self.one_of("{}", '{"x":1}')
        call["status"] = "completed"
        where = {"response_id": r, "output_index": 0, "item": call}
        frames = [
            {"type": "response.created", "response": {"id": r}},
            {"type": "response.output_item.added", **where},
            {"type": "response.output_item.done", **where},
            {"type": "response.done", "response": {"id": r, "status": "completed"}},
        ]
        return [encode(frame) for frame in frames if not self.rarely(0.05)]

    def config(self) -> dict[str, Any]:
        """What a client may want configured."""
        fields: dict[str, Callable[[], Any]] = {
            "instructions": self.word,
            "voice": lambda: self.one_of("ash", {"id": "v"}),
            "turn_detection": lambda: self.one_of(
                "none",
                "server_vad",
                None,
                self.some(type=lambda: "server_vad", threshold=self.number),
            ),
            "tools": lambda: self.one_of(
                "*",
                ["a"],
                [self.some(name=lambda: "mine", parameters=self.anything, timeout_s=self.number)],
            ),
            "tool_choice": lambda: self.one_of("required", "auto", {"name": "a"}),
            "on_interrupt": lambda: self.one_of("drop", "submit", "submit-completed-only"),
            "provider_extras": lambda: self.some(
                audio=lambda: self.some(input=self.anything, output=self.anything), type=self.word
            ),
            "max_duration_s": self.number,
            "tool_timeout_s": self.number,
            "approval_timeout_s": self.number,
            "max_tokens_total": self.number,
            "filler": lambda: self.some(after_ms=lambda: 500, instructions=self.word),
            "reasoning": lambda: {"effort": "low"},
            "speed": self.number,
        }
        names = self._chance.sample(sorted(fields), self._chance.randint(0, 3))
        found = {name: self.anything() if self.rarely() else fields[name]() for name in names}
        if self.rarely(0.05):
            found[self.word()] = self.anything()
        return found

    def field(self, name: str) -> Any:
        """What a command has in this field."""
        known: dict[str, Callable[[], Any]] = {
            "config": self.config,
            "text": self.word,
            "item": self.item,
            "overrides": lambda: self.some(
                conversation=lambda: self.one_of("none", "auto"),
                metadata=lambda: self.some(a=self.word),
                instructions=self.word,
                input=self.anything,
            ),
            "item_id": lambda: self.one_of("m1", "m2"),
            "content_index": lambda: 0,
            "played_ms": lambda: self._chance.randint(-5, 5000),
            "state": lambda: self.one_of("playing", "stopped", "done"),
            "call_id": lambda: self.one_of("c1", "c2"),
            "approve": lambda: self.one_of(True, False),
            "after_n": lambda: self._chance.randint(0, 3),
            "rights": lambda: ["talk"],
            "error": lambda: self.one_of(None, "broken"),
            "reason": lambda: self.one_of(None, "no"),
            "token": lambda: None,
            "respond": lambda: True,
        }
        return known.get(name, self.anything)()

    def command(self) -> dict[str, Any]:
        """A command of a client's, most often with the fields that it has."""
        name = self.one_of(*COMMAND_NAMES)
        fields = [field.encode_name for field in msgspec.structs.fields(COMMANDS[name])]
        data = self.some(**{field: partial(self.field, field) for field in fields})
        command = {"command": name, "data": data}
        if self.rarely(0.05):
            command[self.one_of("command", "data", "token", "v", "id")] = self.anything()
        return command

    def other(self) -> i.AnyInput:
        """What transport and tools say."""
        return cast(
            i.AnyInput,
            self.one_of(
                i.SoundPublished(
                    response_id=self.one_of("r1", "r2"),
                    item_id=self.one_of("m1", "m2"),
                    content_index=self._chance.randint(0, 1),
                    samples=self._chance.randint(0, 200_000),
                ),
                i.ToolEnded(
                    call_id=self.one_of("c1", "c2"),
                    status=self.one_of("ok", "ok", "error", "cancelled", "lost"),
                    result=self.anything(),
                ),
            ),
        )

    def spoilt(self, raw: bytes) -> bytes:
        """With some bytes exchanged, cut out or cut off."""
        spoilt = bytearray(raw)
        for _ in range(self._chance.randint(1, 3)):
            at = self._chance.randrange(len(spoilt) or 1)
            spoilt[at : at + self._chance.randint(0, 3)] = self.one_of(
                b"", b"\xf6", b'"', b"\xff\xfe", b"{", b"\\ud800", b"1e999"
            )
        return bytes(spoilt[: self._chance.randint(0, len(spoilt))] if self.rarely() else spoilt)

    def next(self) -> Any:
        """A frame, a command, something else, a while of nothing, or another connection."""
        roll = self._chance.random()
        if roll < 0.45:
            return self.frame()
        if roll < 0.5:
            return self.turn()
        if roll < 0.8:
            return self.command()
        if roll < 0.9:
            return self.other()
        if roll < 0.96:
            return self.one_of(0.1, 0.3, 1.0, 5.0, 15.0)
        if roll < 0.98:
            return {"raw": self.spoilt(encode({"id": "command-0", **self.command()}))}
        return self.one_of("lost", "transport lost", "resumed")


# --- where they go ----------------------------------------------------------------------------

ROUTE = cast(Any, [b"client"])
WAKE_LIMIT = 10_000


class Cell:
    """A reception with one conversation behind it, and a clock of its own."""

    def __init__(self, vendor: str) -> None:
        self.conversations: dict[str, Conversation] = {}
        self.links = {0: SimpleNamespace(transport=0, audio_in="ipc://in", audio_out="ipc://out")}
        self.pool = SimpleNamespace(
            known=True, catalogue={"a": tool("a"), "b": tool("b", approval=True)}
        )
        self.journal = SimpleNamespace(
            last_seq=lambda _: None, events=lambda *_: [], reply=lambda *_: None
        )
        self.journal_lost = False
        self.time_us = 1_000_000_000
        self.sent = 0
        self.replies = Counter[str]()
        self.expected: set[str] = set()
        self.works: list[Any] = []
        self.tried = Counter[str]()
        endpoints = SimpleNamespace(events=lambda n: f"e{n}", commands=lambda n: f"c{n}")
        runtime = SimpleNamespace(
            settings=SessionSettings(),
            instance=0,
            inc="inc",
            endpoints=endpoints,
            is_leaving=False,
            count=lambda _: None,
        )
        self.reception = Reception(cast(Any, runtime), cast(Any, self))
        self.reception._commands = cast(Any, SimpleNamespace(send=self.replied))
        self.vendor = vendor
        self.command("open", {"config": {"provider": vendor, "lease_s": 86_400}})
        (self.one,) = self.conversations.values()
        self.works.append(self.one.take_work())
        self.connect()

    # what the reception asks of its house

    def now_us(self) -> int:
        self.time_us += 1
        return self.time_us

    def least_loaded(self) -> Any:
        return self.links[0]

    def feed(self, conversation: Conversation, event: i.AnyInput) -> None:
        conversation.feed(event, event.now_us)
        self.settle(conversation)

    def settle(self, conversation: Conversation) -> None:
        """As the shard does after a commit."""
        done = conversation.take_work()
        self.works.append(done)
        for event in done.events:
            msgspec.json.decode(event.header)
            conversation.published(event)
            assert b'"code":"internal"' not in event.header, event.header
        for answer in done.answers:
            key = self.reception.desk.key_of(conversation.session_id, answer.command_id)
            assert key is not None, f"{answer.command_id} was answered twice"
            reply = (
                self.reception.desk.reply(key, answer.data)
                if isinstance(answer, fx.Answer)
                else self.reception.desk.reply(key, error=answer.error)
            )
            assert reply is not None
            self.reception.desk.release(reply)

    def replied(self, _: Any, frames: list[bytes]) -> Sent:
        reply = msgspec.json.decode(frames[0], type=Reply)
        self.replies[reply.id] += 1
        return Sent.OK

    # what comes

    def command(self, name: str, data: Any = None, **odd: Any) -> None:
        self.sent += 1
        sessions = list(self.conversations)
        whole = {
            "id": f"command-{self.sent}",
            "command": name,
            "data": data or {},
            **({"session_id": sessions[0]} if sessions and name != "open" else {}),
            **odd,
        }
        if whole["id"] == f"command-{self.sent}":
            self.expected.add(whole["id"])
        self.tried["commands"] += 1
        self.reception._commanded(ROUTE, [encode(whole)])

    def frame(self, raw: bytes) -> None:
        self.tried["frames"] += 1
        try:
            found = uplink.from_provider(self.one.translator, raw, self.now_us())
        except (ValueError, uplink.Unknown):
            return
        for event in found:
            self.feed(self.one, event)

    def connect(self) -> None:
        generation = self.one.state.generation
        self.feed(self.one, i.ProviderConnected(now_us=self.now_us(), generation=generation))
        self.frame(b'{"type":"session.created","session":{}}')
        self.frame(b'{"type":"session.updated","session":{}}')

    def wait(self, seconds: float) -> None:
        until_us = self.time_us + int(seconds * 1_000_000)
        for _ in range(WAKE_LIMIT):
            due_us = self.one.deadline()
            if due_us is None or due_us > until_us:
                self.time_us = until_us
                return
            self.time_us = max(self.time_us, due_us)
            self.feed(self.one, i.TimePassed(now_us=self.now_us()))
        raise AssertionError(f"woken {WAKE_LIMIT} times in {seconds} s")

    def happens(self, one: Any) -> None:
        match one:
            case bytes():
                self.frame(one)
            case [*frames]:
                for frame in frames:
                    self.frame(frame)
            case {"raw": bytes(raw)}:
                self.tried["commands"] += 1
                self.reception._commanded(ROUTE, [raw])
            case {"command": name, "data": data, **odd}:
                self.command(cast(str, name), data, **cast(dict[str, Any], odd))
            case float():
                self.wait(one)
            case "lost":
                generation = self.one.state.generation
                self.happens(i.ProviderDisconnected(generation=generation, code=1006))
            case "transport lost":
                self.happens(i.TransportLost())
            case "resumed":
                self.connect()
            case _:
                self.tried["others"] += 1
                timed = msgspec.structs.replace(one, now_us=self.now_us())
                # As the link brings it: through JSON.
                again = msgspec.json.decode(encode(timed), type=i.AnyInput)
                self.feed(self.one, again)

    def end(self) -> None:
        """Everything comes to an end, each command has had one reply, and all of it folds."""
        self.wait(90)
        for waiting in tuple(self.reception._opening.values()):  # for tools that are not there
            waiting.timer.cancel()
            self.reception._open_again(waiting.command, 0.0)
        self.command("close")
        self.wait(1)
        others = [id_ for id_ in self.expected if self.replies[id_] != 1]
        assert not others, f"not answered exactly once: {others}"
        mine = [one.commit for one in self.works if one.commit.session_id == self.one.session_id]
        last = mine[-1]
        rows = [row for commit in mine for row in commit.inputs]
        two = Conversation(self.one.session_id, TRANSLATORS[self.vendor], "inc-2", 100, 1)
        ledger = msgspec.json.decode(last.ledger)
        two.recover(Stored(self.one.session_id, 1, ledger, None, rows, []))
        assert two.state == self.one.state
        assert len(encode(self.one.state)) < 300_000


def play(seed: int, length: int = 40) -> Counter[str]:
    """One conversation. Returns how many inputs of each kind it was given."""
    script = Script(seed)
    cell = Cell(script.one_of(*TRANSLATORS))
    for _ in range(length):
        cell.happens(script.next())
    cell.end()
    return cell.tried


async def main(arguments: list[str]) -> int:
    """Play so many conversations, or for so many minutes, and tell."""
    much = arguments[0] if arguments else "1m"
    first = seed = int(arguments[1]) if len(arguments) > 1 else 0
    last = None if much.endswith("m") else first + int(much)
    until = time.monotonic() + (float(much[:-1]) * 60 if last is None else 0)
    tried = Counter[str]()
    while time.monotonic() < until if last is None else seed < last:
        try:
            tried.update(play(seed))
        except BaseException:
            sys.stderr.write(f"seed {seed}:\n")
            raise
        seed += 1
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(tried.items()))
    sys.stdout.write(
        f"{seed - first:,} conversations, {counts}: no exception, no hang; "
        f"at most {peak_mb:.0f} MB; seeds {first} to {seed - 1}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))  # the reception has timers; none of them fires here
