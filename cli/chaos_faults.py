"""What `voicebus chaos` does to processes, and how it sees that they are well again."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from voicebus.bus.endpoints import Endpoints
from voicebus.bus.frames import Codec
from voicebus.bus.messages.base import BadMessage
from voicebus.bus.messages.system import State
from voicebus.bus.sockets import Sockets
from voicebus.cli.chaos_stack import Wire
from voicebus.services.supervisor import Supervisor

_states: Codec[State] = Codec(State, what="state")

KILLS = (
    "session",
    "transport",
    "dispatcher",
    "toolhost",
    "simulator",
    "health",
    "gateway",
    "relay",
    "recorder",
)
FREEZES = ("session", "transport", "dispatcher", "toolhost", "gateway", "relay", "recorder")
FREEZE_S = (0.3, 2.5)
LONG_SHARE = 0.2
"""So many freezes last until the health listener ends them."""
WELL_S = 60.0


@dataclass
class Fault:
    """Something that was done."""

    kind: str
    """`kill session`, `freeze transport`, `cut provider`, `kill runner`."""
    target: str
    pid: int
    at: float
    """On the monotonic clock."""
    until: float = 0.0
    """When a freeze was ended; the same as `at` otherwise."""
    well_s: float | None = None
    served_s: float | None = None
    gap_s: float = 0.0


class Tormentor:
    """Does it, and looks after the victims."""

    def __init__(
        self,
        endpoints: Endpoints,
        names: Sequence[str],
        sockets: Sockets,
        chance: random.Random,
        wire: Wire | None,
    ) -> None:
        self._supervisor = Supervisor(endpoints.run_dir)
        self._chance = chance
        self._wire = wire
        self._states: dict[str, tuple[float, State]] = {}
        self._changed = asyncio.Event()
        self._names = tuple(names)
        addresses = [endpoints.state(*_role(name)) for name in names]
        sockets.subscriber(addresses, [b"system/"], self._heard)

    def kinds(self) -> list[str]:
        """What can be done here."""
        roles = {name.rpartition("-")[0] for name in self._names}
        found = [f"kill {role}" for role in KILLS if role in roles]
        found += [f"freeze {role}" for role in FREEZES if role in roles]
        found += ["kill runner", "freeze runner"]
        if self._wire is not None:
            found.append("cut provider")
        return found

    async def do(self, kind: str) -> Fault | None:
        """One fault; returns at once, or after a freeze. None where nobody was there to feel it:
        the victim is still coming back from the fault before."""
        how, _, whom = kind.partition(" ")
        if kind == "cut provider" and self._wire is not None:
            now = time.monotonic()
            lines = self._wire.cut(self._chance)
            return Fault(kind, "transport-0", 0, now, now) if lines else None
        number = signal.SIGKILL if how == "kill" else signal.SIGSTOP
        if whom == "runner":
            return await self._to_runner(kind, number)  # one that is frozen is woken by its host
        target = self._chance.choice([one for one in self._names if one.startswith(f"{whom}-")])
        program = (await asyncio.to_thread(self._supervisor.now))[target]
        now = time.monotonic()
        if not _signal(program.pid, number):
            return None
        fault = Fault(kind, target, program.pid, now, now)
        if how == "freeze" and self._chance.random() >= LONG_SHARE:
            await asyncio.sleep(self._chance.uniform(*FREEZE_S))
            _signal(program.pid, signal.SIGCONT)
            fault.until = time.monotonic()
        return fault

    async def _to_runner(self, kind: str, number: signal.Signals) -> Fault | None:
        """Or to the fork server they come from."""
        host = (await asyncio.to_thread(self._supervisor.now))["toolhost-0"].pid
        now = time.monotonic()
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(host).children(recursive=True) if host else []
            if found and _signal(self._chance.choice(found).pid, number):
                return Fault(kind, "toolhost-0", 0, now, now)
        return None

    async def well(self, fault: Fault) -> bool:
        """Until the victim, and everybody else, is ready. Whether that came about."""
        end = time.monotonic() + WELL_S
        while not self._is_well(fault):
            if time.monotonic() > end:
                return False
            self._changed.clear()
            waiting = asyncio.create_task(self._changed.wait())
            await asyncio.wait([waiting], timeout=0.5)
            waiting.cancel()
        fault.well_s = time.monotonic() - fault.at
        return True

    def _is_well(self, fault: Fault) -> bool:
        for name in self._names:
            if name not in self._states:
                return False
            at, state = self._states[name]
            if state.state != "ready" or time.monotonic() - at > 2.5:
                return False
            if name != fault.target:
                continue
            if at <= fault.until or (fault.kind.startswith("kill") and state.pid == fault.pid):
                return False
        return True

    def _heard(self, frames: list[bytes]) -> None:
        with contextlib.suppress(BadMessage):
            state, _ = _states.decode(frames[1:])
            self._states[f"{state.role}-{state.instance}"] = (time.monotonic(), state)
            self._changed.set()


def _signal(pid: int, number: signal.Signals) -> bool:
    """Whether there was such a process. 0 is none, and would be this one with all its group."""
    if not pid:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _role(name: str) -> tuple[str, int]:
    role, _, number = name.rpartition("-")
    return role, int(number)
