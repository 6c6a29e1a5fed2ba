"""What several modules' cells are made of: what the simulator plays, which tools there are."""

import asyncio
import shutil
from pathlib import Path

HERE = Path(__file__).parent
SCENARIO = HERE / "samples" / "line.toml"
DEMO_TOOLS = HERE.parents[1] / "examples" / "tools" / "demo.py"
SPEECH = HERE.parents[1] / "examples" / "speech"


class Acts:
    """The tools of samples/acts.py in a folder of their own, and what they did."""

    def __init__(self, folder: Path) -> None:
        self.module = folder / "acts.py"
        shutil.copy(HERE / "samples" / "acts.py", self.module)
        self.specs = [str(self.module), str(DEMO_TOOLS)]

    def done(self, call_id: str) -> list[str]:
        """What that call did, in order."""
        return [what for what, call, _, _ in self._lines() if call == call_id]

    async def ran(self, call_id: str) -> None:
        """Until the call has left its first mark. A file tells nobody: it is looked at again."""
        async with asyncio.timeout(10):
            while not self.done(call_id):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def at_ns(self, what: str, call_id: str) -> int:
        """When it did so, on the monotonic clock."""
        return next(
            int(at) for done, call, _, at in self._lines() if (done, call) == (what, call_id)
        )

    def pid(self, call_id: str) -> int:
        """The process that ran the call."""
        return next(int(pid) for _, call, pid, _ in self._lines() if call == call_id)

    def _lines(self) -> list[list[str]]:
        log = self.module.with_name("acts.log")
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []
