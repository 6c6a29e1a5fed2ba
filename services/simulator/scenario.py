"""What a scenario file may say. `docs/simulator.md` explains it with examples."""

import json
import tomllib
from typing import Any, Literal

import msgspec

BUILT_IN = "a scenario of that name or a file"


class BadScenario(ValueError):
    """A scenario file that says something it may not. The text says where, and what is known."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Handshake(_Part, frozen=True, kw_only=True):
    """Connections that are refused with an HTTP status."""

    status: int
    code: str | None = None
    message: str = "Refused by the scenario."
    connection: int = 1
    """The first connection that is refused, counted from 1."""
    times: int | None = None
    """How many; None is all that follow."""


class Server(_Part, frozen=True, kw_only=True):
    """How the server behaves at large."""

    speech: Literal["on", "off"] = "off"
    pace: float | None = None
    session_s: float | None = None
    models: list[str] | None = None
    key: str | None = None
    rules: bool = True
    """Where no answer of the scenario fits, the rules answer; else a short sentence does."""
    defaults: dict[str, Any] = {}
    """Dotted paths and values of the configuration that sessions begin with."""


class Heard(_Part, frozen=True, kw_only=True):
    """What the ears find in the next sound of the caller."""

    words: str | None = None
    """None: they cannot understand it."""
    delay_ms: int = 0


class Called(_Part, frozen=True, kw_only=True):
    """A function call."""

    name: str
    arguments: dict[str, Any] | str = {}
    """A string goes out as it is, broken JSON included."""
    call_id: str | None = None


class AnswerPart(_Part, frozen=True, kw_only=True):
    """A message or a call, in the order of the output."""

    say: str | None = None
    tone_ms: int | None = None
    call: Called | None = None


class When(_Part, frozen=True, kw_only=True):
    """Which questions an answer is for: everything named must fit."""

    text: str | None = None
    """The last thing the user said holds this, in any case."""
    output: str | None = None
    """A tool's output has just come and holds this; "" fits any."""
    tool: str | None = None
    """The output is that of this tool."""
    out_of_band: bool | None = None
    connection: int | None = None
    speaks: bool | None = None


class AnswerRule(_Part, frozen=True, kw_only=True):
    """An answer; the first that fits and is not used up is given."""

    when: When = When()
    times: int | None = None
    say: str | None = None
    tone_ms: int | None = None
    call: Called | list[Called] | None = None
    parts: list[AnswerPart] = []
    status: Literal["completed", "cancelled", "incomplete", "failed"] = "completed"
    reason: str | None = None
    error: dict[str, Any] | None = None
    delay_ms: int = 0
    pace: float | None = None
    chunk_ms: int | None = None
    """Sound in each event."""
    never_ends: bool = False
    cut_after_ms: int | None = None
    interleaved: bool = False


class Action(_Part, frozen=True, kw_only=True):
    """One thing to do; exactly one of the fields up to `expire` is set."""

    go_on: bool = False
    """What happened takes its usual course now: useful with `instead`."""
    send: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    text: str | None = None
    binary: str | None = None
    """A binary frame, in hexadecimal."""
    text_bytes: str | None = None
    """A text frame that need not be UTF-8, in hexadecimal."""
    fragments: list[str] | None = None
    """One text frame in several pieces."""
    wait_ms: int | None = None
    close: int | None = None
    abort: bool = False
    """Cut the TCP connection without a word."""
    silence: bool = False
    """Neither read nor write any more, but keep the connection."""
    hold: bool = False
    """Keep the event back until `release`."""
    release: bool = False
    client: dict[str, Any] | None = None
    """Behave as if the client had sent this."""
    speech_began_ms: int | None = None
    speech_ended_ms: int | None = None
    expire: bool = False
    reason: str = ""
    times: int = 1

    def kinds(self) -> list[str]:
        """The names of the things it does: one, if it is right."""
        return [
            name
            for name in self.__struct_fields__
            if name not in ("reason", "times")
            and (value := getattr(self, name)) is not None
            and value is not False  # 0 is a value: a time, a length
        ]


class Rule(_Part, frozen=True, kw_only=True):
    """What to do when something happens: exactly one of the first four fields is set."""

    opens: bool = False
    receives: str | None = None
    sends: str | None = None
    after_ms: int | None = None
    """Since the connection opened."""
    where: dict[str, Any] = {}
    """Dotted paths of the event and the values they must have."""
    nth: int | None = None
    """Only the nth that fits, counted from 1."""
    times: int | None = None
    connection: int | None = None
    instead: bool = False
    """What happened does not take its usual course, unless an action says `go_on`."""
    set: dict[str, Any] = {}
    """Dotted paths of the event and the values they get before it goes on."""
    unset: list[str] = []
    do: list[Action] = []


class Scenario(_Part, frozen=True, kw_only=True):
    """A scenario file."""

    about: str = ""
    server: Server = Server()
    handshake: list[Handshake] = []
    hear: list[Heard] = []
    answer: list[AnswerRule] = []
    on: list[Rule] = []


def parsed(text: str, name: str) -> Scenario:
    """The scenario in a TOML or JSON text. Raises `BadScenario`."""
    try:
        if name.endswith(".json") or text.lstrip().startswith("{"):
            raw = json.loads(text)
        else:
            raw = tomllib.loads(text)
        scenario = msgspec.convert(raw, Scenario)
    except (ValueError, msgspec.ValidationError) as error:
        raise BadScenario(f"scenario {name}: {error}") from None
    for n, rule in enumerate(scenario.on):
        causes = [rule.opens or None, rule.receives, rule.sends, rule.after_ms]
        if sum(cause is not None for cause in causes) != 1:
            raise BadScenario(
                f"scenario {name}: on[{n}] needs exactly one of opens, receives, sends, after_ms"
            )
        for m, action in enumerate(rule.do):
            if len(action.kinds()) != 1:
                said = ", ".join(action.kinds()) or "nothing"
                raise BadScenario(
                    f"scenario {name}: on[{n}].do[{m}] must say exactly one thing, it says {said}"
                )
    return scenario
