"""Bad settings, files, keys and addresses at the command line: one clear sentence, no traceback."""

import asyncio
import socket
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.cells import SCENARIO
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import scene, tracebacks, voicebus
from tests.ports import free_port, free_ports
from voicebus.bus import testing
from voicebus.cli.testing import Stack

NOBODY = free_port()


@pytest.fixture(scope="module")
def cell(start_shared_stack: StartStack) -> Stack:
    return start_shared_stack(scenario=SCENARIO)


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with testing.run_folder() as folder:
        yield folder
        assert not testing.left_behind(folder)


async def refused(*arguments: str, code: int = 1, **environment: str) -> str:
    """The sentence with which the command refuses; the last lines may cite a log."""
    exit_code, out, err = await voicebus(*arguments, within_s=60.0, **environment)
    assert exit_code == code, f"exit code {exit_code}: {out}{err}"
    assert "Traceback" not in out + err
    named = [line for line in err.splitlines() if line.startswith(f"voicebus {arguments[0]}: ")]
    assert len(named) == 1, err
    return err


async def test_settings_that_do_not_exist_are_named_with_what_is_near(
    run_dir: Path, tmp_path: Path
) -> None:
    up = ("up", "--run-dir", str(run_dir))
    settings = tmp_path / "voicebus.toml"

    said = await refused(*up, code=2, VOICEBUS_TRANSPORT_PROVIDER_UL="x")
    assert "did you mean VOICEBUS_TRANSPORT_PROVIDER_URL?" in said
    settings.write_text('[transport]\nprovider_ul = "x"\n')
    said = await refused(*up, code=2, VOICEBUS_CONFIG=str(settings))
    assert "did you mean provider_url?" in said
    assert str(settings) in said
    settings.write_text("[transport\n")
    said = await refused(*up, code=2, VOICEBUS_CONFIG=str(settings))
    assert "line 1" in said
    said = await refused(*up, code=2, VOICEBUS_SIMULATOR_PORT="seventy")
    assert "VOICEBUS_SIMULATOR_PORT" in said
    assert "seventy" in said


async def test_a_run_folder_in_use_is_refused_and_goes_on(cell: Stack) -> None:
    async with scene(cell) as on:
        pids = cell.pids()
        caller = await on.caller()

        said = await refused("up", "--run-dir", str(cell.run_dir))
        await caller.turn("short tone")

        assert "already runs" in said
        assert "voicebus down" in said
        assert cell.pids() == pids


async def test_run_folders_that_cannot_be_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    assert "is a file" in await refused("up", "--run-dir", str(file), code=2)
    long = "/tmp/" + "x" * 120
    said = await refused("up", "--run-dir", long, code=2)
    assert "100" in said
    assert "shorter" in said


async def test_a_port_in_use_is_named(run_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])

        said = await refused("up", "--run-dir", str(run_dir), VOICEBUS_SIMULATOR_PORT=port)

    assert f"port {port}" in said
    assert "VOICEBUS_SIMULATOR_PORT" in said


async def test_a_door_without_keys_beyond_this_machine_is_not_opened(run_dir: Path) -> None:
    port = free_ports(3)
    relay = {"BIND": "0.0.0.0", "CURVE": "false", "PORT": str(port)}
    settings = {f"VOICEBUS_RELAY_{name}": value for name, value in relay.items()}

    exit_code, out, err = await voicebus("up", "--run-dir", str(run_dir), within_s=60, **settings)

    said = out + err
    assert exit_code == 1, said
    assert "Traceback" not in said
    assert "bind='0.0.0.0' is not this machine alone, and curve is off" in said
    for at in range(3):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port + at)) != 0


async def test_without_a_provider_nothing_starts(run_dir: Path) -> None:
    said = await refused("up", "--run-dir", str(run_dir), "--no-simulator")

    assert "OPENAI_API_KEY" in said
    assert "--provider-url" in said


async def test_a_recording_that_cannot_be_spoken_is_refused_before_anything_is_said(
    cell: Stack, tmp_path: Path
) -> None:
    talk = ("talk", "--run-dir", str(cell.run_dir), "--json", "--wav")
    text, slow, stereo = tmp_path / "text.wav", tmp_path / "slow.wav", tmp_path / "stereo.wav"
    text.write_text("this is no sound")
    for path, rate, channels in ((slow, 16_000, 1), (stereo, 24_000, 2)):
        with wave.open(str(path), "wb") as file:
            file.setframerate(rate)
            file.setnchannels(channels)
            file.setsampwidth(2)
            file.writeframes(bytes(4800))

    said = await asyncio.gather(
        refused(*talk, str(text)),
        refused(*talk, str(slow)),
        refused(*talk, str(stereo)),
        refused(*talk, str(tmp_path / "gone.wav")),
    )

    assert "no WAV" in said[0]
    assert "16000 Hz" in said[1]
    assert "24000 Hz" in said[1]
    assert "stereo" in said[2]
    assert "no file" in said[3]
    assert all(str(tmp_path) in one for one in said)
    async with scene(cell) as on:
        listed = await on.line.ask("list")
        assert listed["data"]["sessions"] == []


async def test_where_nothing_runs_talk_says_how_to_start_it(run_dir: Path) -> None:
    said = await refused("talk", "--run-dir", str(run_dir), "--text", "Hello")

    assert "voicebus up" in said


@pytest.mark.parametrize(
    ("settings", "wish", "named"),
    [
        ({"VOICEBUS_SIMULATOR_KEY": "the-right-key"}, "wrong", ["refused the key", "401"]),
        ({}, "nobody", [f"127.0.0.1:{NOBODY}", "refused"]),
        ({}, "no_host", ["nowhere.invalid"]),
    ],
    ids=["refused key", "nobody there", "no such host"],
)
async def test_a_provider_that_does_not_let_in_is_one_sentence_for_whoever_talks(
    start_stack: StartStack,
    tmp_path: Path,
    settings: dict[str, str],
    wish: str,
    named: list[str],
) -> None:
    key = tmp_path / "key"
    key.write_text("sk-a-wrong-key-of-some-length\n")
    place = {"nobody": f"ws://127.0.0.1:{NOBODY}", "no_host": "wss://nowhere.invalid/v1/realtime"}
    cell = await asyncio.to_thread(
        start_stack,
        settings=settings,
        provider_key_file=key,
        simulator=wish == "wrong",
        provider_url=place.get(wish),
    )

    said = await refused("talk", "--run-dir", str(cell.run_dir), "--text", "Hello")

    assert all(word in said for word in named), said
    async with scene(cell) as on:
        reply = await on.line.ask("open")
        sid = reply["data"]["session_id"]
        await on.tape.until(lambda: on.tape.of(sid, "session_closed"), "session_closed")
        closed = on.tape.of(sid, "session_closed")[0]["data"]
        assert closed["reason"] == "error"
        assert all(word in closed["message"] for word in named)
    for path in cell.run_dir.rglob("*"):
        if path.is_file() and path.name != "provider.key":
            assert b"sk-a-wrong" not in path.read_bytes(), f"the key is in {path}"
    assert not tracebacks(cell)
