"""A real browser without a screen, driven over the DevTools protocol; its microphone is a WAV."""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.end_to_end.support_gateway import get

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root, in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--remote-debugging-port=0",
    "--window-size=800,900",
)


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.faults: list[str] = []
        """What went wrong in the page: errors and refused loads."""
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            told = json.loads(message)
            if "id" in told:
                self._waiting.pop(told["id"]).set_result(told)
            elif told["method"] == "Runtime.exceptionThrown":
                self.faults.append(str(told["params"]["exceptionDetails"]))
            elif told["method"] == "Log.entryAdded":
                entry = told["params"]["entry"]
                if entry["level"] == "error":
                    self.faults.append(f"{entry['text']} {entry.get('url', '')}")

    async def call(self, method: str, **parameters: Any) -> Any:
        """A command of the protocol; its result."""
        id = next(self._ids)
        self._waiting[id] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": id, "method": method, "params": parameters}))
        told = await self._waiting[id]
        assert "error" not in told, told
        return told["result"]

    async def run(self, script: str, *, gesture: bool = False) -> Any:
        """The value of an expression, as if the person had done it, if so wished."""
        told = await self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=gesture,
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, condition: str, within_s: float = 20.0) -> Any:
        """Until it is true in the page. The page is asked again and again: it has no bus."""
        try:
            async with asyncio.timeout(within_s):
                while not (found := await self.run(condition)):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError:
            shown = await self.run("document.body.innerText")
            raise TimeoutError(f"{condition} did not come; {self.faults}; {shown}") from None
        return found

    async def picture(self) -> bytes:
        """What a person would see, as PNG."""
        shot = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(shot["data"])


@contextlib.asynccontextmanager
async def page(url: str, microphone: Path, folder: Path) -> AsyncIterator[Page]:
    """A browser that hears the WAV once, from the moment the page takes the microphone."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *FLAGS,
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
        f"--user-data-dir={folder}",
        url,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        active = folder / "DevToolsActivePort"
        async with asyncio.timeout(20):
            # A file tells nobody.
            while not active.exists() or len(active.read_text().split()) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        port, _ = active.read_text().split()
        target = await _target(int(port), url)
        async with connect(target, max_size=None, proxy=None) as socket:
            one = Page(socket)
            for domain in ("Runtime", "Log", "Page"):
                await one.call(f"{domain}.enable")
            yield one
            one._reading.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
        await process.wait()


async def _target(port: int, url: str) -> str:
    """The debugging address of the tab that shows the page."""
    async with asyncio.timeout(20):
        while True:
            _, _, body = await get(port, "/json/list")
            for one in json.loads(body):
                if one["type"] == "page" and one["url"].startswith(url):
                    return str(one["webSocketDebuggerUrl"])
            await asyncio.sleep(0.05)
