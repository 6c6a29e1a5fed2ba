from typing import Any

from voicebus.bus.messages.system import State
from voicebus.services.gateway import wellness
from voicebus.services.gateway.wellness import Word


def word(role: str, n: int = 0, *, at_s: float = 100.0, **fields: Any) -> tuple[str, Word]:
    given = {"state": "ready", "why": None, **fields}
    state = State(role=role, instance=n, inc="i", pid=7, since_us=5_000_000, at_us=0, **given)
    return f"{role}-{n}", Word(state, at_s)


WELL = dict(
    [word("session"), word("transport"), word("dispatcher"), word("toolhost"), word("relay")]
)


def missing(*changed: tuple[str, Word], now_s: float = 101.0, **counts: int) -> str | None:
    given = {"shards": 1, "transports": 1, **counts}
    return wellness.missing({**WELL, **dict(changed)}, now_s=now_s, **given)


def test_a_cell_is_well_when_what_a_conversation_needs_is_ready() -> None:
    assert missing() is None
    assert missing(word("relay", state="failing", why="x")) is None


def test_what_is_missing_is_named_with_its_own_words() -> None:
    told = missing(word("session", state="starting", why="it looks for the transport"))

    assert told == "session-0 is starting: it looks for the transport"
    assert missing(shards=2) == "session-1 is silent"


def test_one_transport_and_one_tool_host_are_enough() -> None:
    assert missing(word("transport", 1, state="starting"), transports=2) is None
    assert missing(word("toolhost", state="stopped"), word("toolhost", 1)) is None
    assert missing(word("toolhost", state="stopped")) == "no toolhost is ready"


def test_who_says_nothing_any_more_is_silent_and_who_said_that_it_stops_is_stopped() -> None:
    assert missing(now_s=100.0 + wellness.SILENT_S + 1) == "session-0 is silent"
    words = dict([word("relay"), word("gateway", state="stopped")])

    states = {one["process"]: one["state"] for one in wellness.processes(words, 200.0)}

    assert states == {"relay-0": "silent", "gateway-0": "stopped"}


def test_metrics_are_families_with_help_type_and_labels() -> None:
    text = wellness.metrics(
        dict([word("session", lag_ms=1.5, counters={'odd"name\n': 3})]),
        now_s=101.0,
        is_well=False,
        sessions={0: (4, 1)},
        connections=2,
    )

    lines = text.splitlines()
    assert text.endswith("\n")
    assert "voicebus_up 0" in lines
    assert "voicebus_gateway_connections 2" in lines
    assert 'voicebus_sessions{shard="0"} 4' in lines
    assert 'voicebus_sessions_silent{shard="0"} 1' in lines
    assert 'voicebus_process_state{process="session-0",state="ready"} 1' in lines
    assert 'voicebus_process_state{process="session-0",state="failing"} 0' in lines
    assert 'voicebus_process_lag_seconds{process="session-0"} 0.0015' in lines
    assert 'voicebus_process_count_total{process="session-0",what="odd\\"name\\n"} 3' in lines
    for name in {line.split("{")[0].split()[0] for line in lines if not line.startswith("#")}:
        assert sum(line.startswith(f"# TYPE {name} ") for line in lines) == 1
