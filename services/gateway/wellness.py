"""How the cell is, from what its processes say of themselves: for load balancers and Prometheus.

Pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from voicebus.bus.messages.system import State

SILENT_S = 5.0
"""Who has said nothing for so long counts as away; each process speaks once a second."""
STATES = ("starting", "ready", "draining", "failing", "stopped", "silent")


@dataclass(frozen=True)
class Word:
    """The last that was heard of a process, and when."""

    state: State
    at_s: float


Words = Mapping[str, Word]
"""By process: `session-0`."""


def missing(words: Words, *, shards: int, transports: int, now_s: float) -> str | None:
    """Why new conversations would not work now; None when they would.

    Each session shard and the dispatcher have to be there, and one transport and one tool host.
    """
    for name in [*(f"session-{n}" for n in range(shards)), "dispatcher-0"]:
        if _state(words.get(name), now_s) != "ready":
            return _told(name, words.get(name), now_s)
    for role, names in (
        ("transport", [f"transport-{n}" for n in range(transports)]),
        ("toolhost", [name for name in words if name.startswith("toolhost-")]),
    ):
        if not any(_state(words.get(name), now_s) == "ready" for name in names):
            return f"no {role} is ready"
    return None


def processes(words: Words, now_s: float) -> list[dict[str, Any]]:
    """One line for each process that was ever heard."""
    return [
        {
            "process": name,
            "state": _state(word, now_s),
            "why": word.state.why,
            "pid": word.state.pid,
            "lag_ms": word.state.lag_ms,
            "silent_s": round(max(now_s - word.at_s, 0.0), 1),
        }
        for name, word in sorted(words.items())
    ]


def metrics(
    words: Words,
    *,
    now_s: float,
    is_well: bool,
    sessions: Mapping[int, tuple[int, int]],
    connections: int,
) -> str:
    """As Prometheus reads it. `sessions`: shard -> (all, silent), of the shards that answered."""
    lines = [
        *_family("voicebus_up", "gauge", "Whether new conversations work.", [("", int(is_well))]),
        *_family(
            "voicebus_gateway_connections",
            "gauge",
            "WebSocket connections of this gateway.",
            [("", connections)],
        ),
        *_family(
            "voicebus_sessions",
            "gauge",
            "Conversations of a session shard.",
            [(f'{{shard="{n}"}}', every) for n, (every, _) in sorted(sessions.items())],
        ),
        *_family(
            "voicebus_sessions_silent",
            "gauge",
            "Those in which nobody speaks and nothing is under way.",
            [(f'{{shard="{n}"}}', silent) for n, (_, silent) in sorted(sessions.items())],
        ),
        *_family(
            "voicebus_process_state",
            "gauge",
            "1 for the state that a process is in.",
            [
                (f'{{process="{name}",state="{one}"}}', int(one == _state(word, now_s)))
                for name, word in sorted(words.items())
                for one in STATES
            ],
        ),
        *_family(
            "voicebus_process_lag_seconds",
            "gauge",
            "How late its loop was at most within a second.",
            [
                (f'{{process="{name}"}}', word.state.lag_ms / 1000)
                for name, word in sorted(words.items())
            ],
        ),
        *_family(
            "voicebus_process_state_since_seconds",
            "gauge",
            "Since when it is in its state, in Unix time.",
            [
                (f'{{process="{name}"}}', word.state.since_us / 1e6)
                for name, word in sorted(words.items())
            ],
        ),
        *_family(
            "voicebus_process_count_total",
            "counter",
            "What a process has dropped, refused or repeated since its start, by name.",
            [
                (f'{{process="{name}",what="{_escaped(what)}"}}', count)
                for name, word in sorted(words.items())
                for what, count in sorted(word.state.counters.items())
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def _family(name: str, kind: str, help: str, samples: Iterable[tuple[str, float]]) -> list[str]:
    lines = [f"{name}{labels} {value}" for labels, value in samples]
    return [f"# HELP {name} {help}", f"# TYPE {name} {kind}", *lines] if lines else []


def _state(word: Word | None, now_s: float) -> str:
    if word is None or now_s - word.at_s > SILENT_S:
        # Who has said that it stops is not silent: it is away as it said.
        return "stopped" if word is not None and word.state.state == "stopped" else "silent"
    return word.state.state


def _told(name: str, word: Word | None, now_s: float) -> str:
    why = f": {word.state.why}" if word is not None and word.state.why else ""
    return f"{name} is {_state(word, now_s)}{why}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
