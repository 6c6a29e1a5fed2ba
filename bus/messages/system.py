"""The system lane: what every role says of itself on `system/<role>/<instance>/<what>`."""

from typing import Literal

from voicebus.bus.messages.base import Message, registry


class State(Message, frozen=True, kw_only=True):
    """Published once a second, at each change, and to each new subscriber."""

    v: int = 1
    role: str
    instance: int
    inc: str
    pid: int
    state: Literal["starting", "ready", "draining", "failing", "stopped"]
    why: str | None = None
    """What is missing, in a sentence, unless ready."""
    since_us: int
    at_us: int
    lag_ms: float = 0.0
    """How late its loop was at most since the last of these: a busy process is late, a frozen one
    silent."""
    counters: dict[str, int] = {}
    """What was dropped or refused so far, by name."""


class ProcessReport(Message, frozen=True, kw_only=True):
    """What happened to a process: the health listener tells of those of supervisord, on
    `system/health/0/process`, a tool host of its own and of a frozen health listener, on
    `system/toolhost/<n>/process`, the dispatcher of that listener alone, on
    `system/dispatcher/0/process`."""

    v: int = 1
    inc: str
    """The incarnation of whoever tells."""
    process: str
    """`session-0`, …; `supervisord` for the one above all; `toolhost-0/runner`,
    `toolhost-0/forkserver` and `toolhost-0/bridge` for a tool host's own."""
    pid: int | None = None
    what: Literal["died", "restarted", "frozen", "recovered", "killed", "given_up", "revived"]
    why: str | None = None
    """In a sentence, for people."""
    exit_code: int | None = None
    """Of `died`, unless it was a signal."""
    signal: str | None = None
    """Of `died`: SIGKILL, …"""
    silent_ms: float | None = None
    """Of `frozen` and `recovered`: for how long nothing was heard of it."""
    at_us: int


class PoolReport(Message, frozen=True, kw_only=True):
    """What happened in the tool pool, on `system/dispatcher/0/<what>`.

    `worker.joined`, `worker.lost`, `tool.suspended` and `tool.resumed`: the topic says which, and
    only its fields are there.
    """

    worker: str | None = None
    """Of `worker.…`: name and incarnation."""
    tools: int | None = None
    """Of `worker.joined`: how many it offers."""
    why: str | None = None
    """Of `worker.lost`."""
    tool: str | None = None
    """Of `tool.…`."""
    failures: int | None = None
    """Of `tool.suspended`: so many in a row, …"""
    last: str | None = None
    """… the newest of them, …"""
    for_s: float | None = None
    """… and how long it is left alone."""


SYSTEM = registry(State, ProcessReport, PoolReport)
