"""Browsers and phones: a call through the gateway's WebSocket, which outlives the gateway."""

import asyncio
import json
import shutil
import socket
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.end_to_end.cells import SPEECH
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import tracebacks
from tests.end_to_end.support_gateway import Frame, Phone, attaching, get, phone
from tests.ports import free_port
from voicebus.cli.restart import Restart
from voicebus.cli.testing import Stack
from voicebus.client.audit import conversation
from voicebus.client.wav import read

NODE = shutil.which("node")
EXAMPLES = Path(__file__).parents[2] / "examples"
SCENARIO = """
about = "A long answer as fast as it is played, and one that calls a tool."

[[hear]]
words = "what is the weather"

[[answer]]
when = { text = "long" }
say = "This takes a while."
tone_ms = 2000
pace = 1.0

[[answer]]
when = { text = "flood" }
say = "A long story."
tone_ms = 16000

[[answer]]
when = { text = "weather" }
call = { name = "get_weather", arguments = { city = "Berlin" } }

[[answer]]
when = { output = "" }
say = "{output}"
tone_ms = 200
"""


class Door:
    """A cell with a gateway."""

    def __init__(self, cell: Stack, port: int) -> None:
        self.cell, self.port = cell, port


@pytest.fixture(scope="module")
def door(start_shared_stack: StartStack, tmp_path_factory: pytest.TempPathFactory) -> Door:
    scenario = tmp_path_factory.mktemp("gateway") / "long.toml"
    scenario.write_text(SCENARIO)
    port = free_port()
    settings = {
        "VOICEBUS_GATEWAY_BIND": "127.0.0.1",
        "VOICEBUS_GATEWAY_PORT": str(port),
        "VOICEBUS_GATEWAY_ORIGINS": "https://voice.example.org",
        "VOICEBUS_GATEWAY_MAX_CONNECTIONS": "6",
        "VOICEBUS_GATEWAY_CONNECTIONS_PER_S": "1000",
        "VOICEBUS_GATEWAY_OPEN_TIMEOUT_S": "0.5",
        "VOICEBUS_GATEWAY_MAX_MESSAGE_BYTES": "20000",
        "VOICEBUS_GATEWAY_QUEUE_SOUND_BYTES": "200000",
    }
    return Door(start_shared_stack(scenario=scenario, settings=settings), port)


@pytest.fixture(autouse=True)
async def _nobody_stays(door: Door) -> AsyncIterator[None]:
    """Each test's connections are gone from the gateway soon after it."""
    yield
    async with asyncio.timeout(4):
        while json.loads((await get(door.port, "/health"))[2])["connections"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


OPEN: Frame = {"open": {"instructions": "Be brief."}}
FLOOD: Frame = {"command": "send_text", "data": {"text": "flood"}}


async def _opened(one: Phone) -> Frame:
    opened = await one.frame("opened")
    await one.event("session_opened")
    return opened


async def test_a_call_by_websocket_with_events_replies_sound_and_a_tool(door: Door) -> None:
    async with phone(door.port, OPEN) as one:
        opened = await _opened(one)
        reply = await one.ask("send_text", {"text": "weather"})
        result = await one.event("tool_call_completed")
        await one.event("assistant_turn_completed", nth=2)
        await one.until(lambda: [h for h, _ in one.sound if h["kind"] == "end"], "the sound's end")
        await one.hang_up()

        assert opened["audio"]["input"] == {"format": "pcm16", "rate_hz": 24000}
        assert reply["ok"]
        assert result["data"]["result"]["city"] == "Berlin"
        assert not conversation(one.events)
        end = next(head for head, _ in one.sound if head["kind"] == "end")
        heard = sum(len(samples) // 2 for _, samples in one.pieces())
        assert heard == end["samples"] == 4800
        place = 0
        for head, samples in one.pieces():
            assert (head["session_id"], head["offset_samples"]) == (opened["session_id"], place)
            place += len(samples) // 2


async def test_spoken_sound_reaches_the_provider_before_its_commit(door: Door) -> None:
    samples = read(SPEECH / "question_weather.wav").samples
    async with phone(door.port, {"open": {"turn_detection": "none"}}) as one:
        await _opened(one)
        for at in range(0, len(samples), 960):
            await one.send(samples[at : at + 960])
            await asyncio.sleep(0.004)  # faster than speech, within the limit
        reply = await one.ask("commit_audio", {"respond": False})
        transcript = await one.event("user_transcript")
        await one.hang_up()

        assert reply["ok"], reply
        assert transcript["cause"] is None or isinstance(transcript["cause"], str)
        assert not any("notice" in frame for frame in one.frames)


async def test_an_interrupt_flushes_the_sound(door: Door) -> None:
    async with phone(door.port, OPEN) as one:
        await _opened(one)
        await one.ask("send_text", {"text": "long"})
        await one.until(lambda: len(one.pieces()) > 3, "the beginning of the answer")
        turn = one.pieces()[0][0]["turn_id"]
        await one.ask(
            "report_playback",
            {"item_id": one.pieces()[0][0]["item_id"], "played_ms": 40, "state": "playing"},
        )
        await one.ask("interrupt")
        interrupted = await one.event("interrupted")

        def flushed() -> list[int]:
            heads = [(head["kind"], head.get("responses")) for head, _ in one.sound]
            return [at for at, head in enumerate(heads) if head == ("flush", [turn])]

        at = (await one.until(flushed, "the flush"))[0]
        heard = await one.event("assistant_heard")
        await one.hang_up()

        assert interrupted["data"]["responses"] == [turn]
        assert heard["data"]["heard_ms"] < 2000
        assert not [h for h, _ in one.sound[at:] if h.get("turn_id") == turn]


async def _killed(door: Door) -> None:
    pid = door.cell.kill("gateway-0")
    await door.cell.ready("gateway-0", after=pid)


async def _restarted(door: Door) -> None:
    await asyncio.to_thread(Restart(door.cell.run_dir, tell=lambda text: None).role, "gateway")


@pytest.mark.parametrize(("how", "code"), [(_killed, 1006), (_restarted, 1012)])
async def test_a_call_goes_on_at_the_next_gateway_with_every_event_once(
    door: Door, how: Any, code: int
) -> None:
    async with phone(door.port, OPEN) as before:
        opened = await _opened(before)
        await before.ask("send_text", {"text": "long"})
        await before.until(lambda: len(before.pieces()) > 3, "the beginning of the answer")
        await how(door)
        closed = await before.end()
    last = before.events[-1]["seq"]
    async with phone(door.port, attaching(opened, last)) as after:
        attached = await after.frame("attached")
        await after.event("assistant_turn_completed", status="completed")
        await after.until(lambda: [h for h, _ in after.sound if h["kind"] == "end"], "its end")
        await after.ask("send_text", {"text": "weather"})
        await after.event("tool_call_completed")
        await after.event("assistant_turn_completed", nth=3)
        await after.hang_up()

    assert closed[0] == code
    assert attached["token"] == opened["token"]
    seqs = [one["seq"] for one in before.events + after.events]
    assert seqs == list(range(1, len(seqs) + 1))
    assert not conversation(before.events + after.events)


async def test_a_node_program_comes_back_with_its_token_and_loses_no_event(door: Door) -> None:
    has_socket = ["--experimental-websocket", "-e", "process.exit(globalThis.WebSocket ? 0 : 1)"]
    if NODE is None or await _code(NODE, *has_socket):
        pytest.skip("no Node with a WebSocket: Node 22, or 20.10 and later")
    script = str(EXAMPLES / "node" / "call.mjs")
    url = f"ws://127.0.0.1:{door.port}/ws"
    program = await asyncio.create_subprocess_exec(
        NODE,
        *("--no-warnings", "--experimental-websocket", script, url, "long"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert program.stdout is not None
    said: list[str] = []
    async with asyncio.timeout(20):
        async for raw in program.stdout:
            said.append(raw.decode().strip())
            if said[-1].endswith(" assistant_turn_started"):
                await _killed(door)
        await program.wait()

    assert program.returncode == 0
    numbers = [int(line.split()[0]) for line in said if line.split()[0].isdigit()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert any(line.startswith("away") for line in said)
    assert said.count("on") == 2
    assert "over ended" in said


async def _code(*command: str) -> int:
    program = await asyncio.create_subprocess_exec(*command)
    return await program.wait()


async def test_a_command_sent_again_after_coming_back_is_done_once(door: Door) -> None:
    id = uuid.uuid4().hex
    async with phone(door.port, OPEN) as before:
        opened = await _opened(before)
        await before.ask("send_text", {"text": "weather"}, id=id)
    async with phone(door.port, attaching(opened, 0)) as after:
        reply = await after.ask("send_text", {"text": "weather"}, id=id)
        await after.event("assistant_turn_completed", nth=2)
        await after.hang_up()

        assert reply["ok"]
        assert len(after.found("tool_call_started")) == 1
        assert [one["seq"] for one in after.events] == list(range(1, len(after.events) + 1))


async def test_what_was_missed_of_a_call_that_has_ended_is_still_told(door: Door) -> None:
    async with phone(door.port, OPEN) as before:
        opened = await _opened(before)
        await before.hang_up()
    async with phone(door.port, attaching(opened, 1)) as after:
        closed = await after.end()

        assert closed == (1000, "the session has ended")
        assert after.events[-1]["kind"] == "session_closed"
        assert after.events == before.events[1:]


async def test_the_newest_connection_has_the_call(door: Door) -> None:
    async with phone(door.port, OPEN) as first:
        opened = await _opened(first)
        async with phone(door.port, attaching(opened, 0)) as second:
            await second.event("session_opened")

            assert (await first.end())[0] == 4409
            await second.hang_up()


@pytest.mark.parametrize(
    ("frame", "code", "told"),
    [
        ("[1, 2", 4400, "not JSON"),
        ('{"hello": 1}', 4400, 'expected {"open"'),
        (b"\0\0", 4400, "expected"),
        ({"open": {"instrutions": "x"}}, 4403, "did you mean instructions"),
        ({"attach": {"session_id": "s0", "token": "x"}}, 4400, "is no session id"),
        ({"attach": {"session_id": "s0-" + "0" * 26, "token": "x"}}, 4401, "the token is not"),
        ({"open": {}, "x": "y" * 21_000}, 4400, "the limit"),
    ],
)
async def test_a_wrong_first_frame_is_told_and_closes(
    door: Door, frame: Any, code: int, told: str
) -> None:
    async with phone(door.port, frame) as one:
        error = await one.frame("error")

        assert told in error["message"]
        assert error["who"] == "gateway"
        assert (await one.end())[0] == code


async def test_another_sessions_token_or_a_seq_of_the_future_is_refused(door: Door) -> None:
    async with phone(door.port, OPEN) as one, phone(door.port, OPEN) as other:
        mine, theirs = await _opened(one), await _opened(other)
        stolen = {**theirs, "session_id": mine["session_id"]}
        async with phone(door.port, attaching(stolen, 0)) as thief:
            assert (await thief.frame("error"))["code"] == "not_allowed"
            assert (await thief.end())[0] == 4401
        async with phone(door.port, attaching(mine, 10_000)) as early:
            assert "beyond the newest event" in (await early.frame("error"))["message"]
        assert other.closed is None
        await other.hang_up()
    async with phone(door.port, attaching(mine, 0)) as again:
        await again.hang_up()


async def test_wrong_frames_in_a_call_are_told_and_it_goes_on(door: Door) -> None:
    async with phone(door.port, OPEN) as one:
        await _opened(one)
        await one.send("{")
        await one.send(b"\0")
        await one.send(bytes(20_001))
        await one.until(lambda: len([f for f in one.frames if "error" in f]) == 3, "three errors")
        short = await one.ask("ping", id="1" * 7)
        unknown = await one.ask("list")
        strange = await one.ask("send_text", {"text": 5})
        fine = await one.ask("ping")
        texts = [frame["error"]["message"] for frame in one.frames if frame.get("error")]
        await one.hang_up()

        assert "not JSON" in texts[0]
        assert "no whole number of samples" in texts[1]
        assert "the limit is 20000" in texts[2]
        assert "8 to 64 characters" in short["error"]["message"]
        assert "no command 'list'" in unknown["error"]["message"]
        assert strange["error"]["code"] == "bad_request"
        assert fine["ok"]


async def test_a_frame_beyond_all_measure_closes_at_once_and_the_call_goes_on(door: Door) -> None:
    async with phone(door.port, OPEN) as one:
        opened = await _opened(one)
        await one.send(bytes(40_001))
        assert (await one.end())[0] == 1009
    async with phone(door.port, attaching(opened, 0)) as again:
        await again.event("session_opened")
        await again.hang_up()


async def test_a_flood_of_nonsense_ends_the_connection_but_not_the_call(door: Door) -> None:
    async with phone(door.port, OPEN) as one:
        opened = await _opened(one)
        for _ in range(60):
            await one.send("nonsense")
        assert (await one.end())[0] == 4429
    async with phone(door.port, attaching(opened, 0)) as again:
        await again.event("session_opened")
        await again.hang_up()


async def test_sound_beyond_its_rate_is_dropped_and_told(door: Door) -> None:
    async with phone(door.port, OPEN) as one:
        await _opened(one)
        for _ in range(30):
            await one.send(bytes(16_000))
        notice = await one.frame("notice")
        fine = await one.ask("ping")
        await one.hang_up()

        assert (notice["what"], notice["direction"]) == ("audio_dropped", "in")
        assert "sound_bytes_per_s" in notice["why"]
        assert fine["ok"]


async def test_a_caller_who_reads_too_slowly_loses_old_sound_and_is_told(door: Door) -> None:
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", door.port))
    raw.setblocking(False)
    async with (
        phone(door.port, OPEN) as quick,
        await connect(f"ws://127.0.0.1:{door.port}/ws", sock=raw, max_queue=1, proxy=None) as slow,
    ):
        opened = await _opened(quick)
        await slow.send(json.dumps(OPEN))
        await slow.recv()
        await slow.send(json.dumps({"id": uuid.uuid4().hex, **FLOOD}))
        # Not read until all of it was there for the other, who takes it at once.
        await quick.send({"id": uuid.uuid4().hex, **FLOOD})
        await quick.until(lambda: [h for h, _ in quick.sound if h["kind"] == "end"], "the end")
        async with Phone(slow) as one:
            await one.until(lambda: [h for h, _ in one.sound if h["kind"] == "end"], "the end")
            notice = await one.frame("notice")
            await one.hang_up()
        await quick.hang_up()

    heard_ms = sum(len(samples) // 48 for _, samples in one.pieces())
    assert opened["session_id"]
    assert (notice["what"], notice["direction"]) == ("audio_dropped", "out")
    assert "200000 bytes" in notice["why"]
    dropped_ms = sum(f["notice"]["dropped_ms"] for f in one.frames if "notice" in f)
    assert heard_ms + dropped_ms == 16_000
    assert sum(len(samples) // 48 for _, samples in quick.pieces()) == 16_000


async def test_no_first_frame_no_request_and_no_room_are_answered(door: Door) -> None:
    async with phone(door.port) as silent:
        assert (await silent.end())[0] == 4408
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"GET / HTTP/1.1\r\n")  # and nothing more
    assert await reader.read() == b""
    writer.close()
    others = [await connect(f"ws://127.0.0.1:{door.port}/ws", proxy=None) for _ in range(6)]
    async with phone(door.port) as one:  # closed before it could say anything
        assert (await one.end())[0] == 1013
    for other in others:
        await other.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Host": "rebound.example", "Origin": "http://rebound.example"},
    ],
)
async def test_a_page_elsewhere_may_not_call(door: Door, headers: dict[str, str]) -> None:
    with socket.create_connection(("127.0.0.1", door.port), timeout=10) as raw:
        all_headers = {
            "Host": f"127.0.0.1:{door.port}",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            **headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in all_headers.items())
        raw.sendall(f"GET /ws HTTP/1.1\r\n{lines}\r\n".encode())
        answer = await asyncio.to_thread(raw.recv, 4096)

        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"origins" in answer


async def test_a_listed_page_may_call(door: Door) -> None:
    async with phone(door.port, OPEN, Origin="https://voice.example.org") as one:
        await _opened(one)
        await one.hang_up()
    with pytest.raises(InvalidStatus, match="403"):
        await connect(f"ws://127.0.0.1:{door.port}/ws", proxy=None, origin="null")  # type: ignore[arg-type]


async def _metrics(port: int, once: str) -> list[str]:
    """When one begins so. Each process tells its own every second; HTTP tells nobody."""
    async with asyncio.timeout(10):
        while True:
            lines = (await get(port, "/metrics"))[2].decode().splitlines()
            if any(line.startswith(once) for line in lines):
                return lines
            await asyncio.sleep(0.05)


async def test_the_page_health_and_metrics(door: Door) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/voicebus.mjs", "text/javascript"),
        ("/worklet.js", "text/javascript"),
        ("/style.css", "text/css"),
    ):
        status, headers, body = await get(door.port, path)
        assert (status, headers["content-type"].split(";")[0]) == (200, kind)
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert b"http://" not in body
        assert b"https://" not in body
    assert (await get(door.port, "/../../etc/passwd"))[0] == 404
    status, _, body = await get(door.port, "/ws")
    assert (status, b"WebSocket" in body) == (426, True)
    async with phone(door.port, OPEN) as one:
        await _opened(one)
        status, _, body = await get(door.port, "/health")
        told = json.loads(body)
        lines = await _metrics(door.port, once='voicebus_process_count_total{process="gateway-0"')
        through_proxy = {"X-Forwarded-For": "203.0.113.9"}
        _, _, bare = await get(door.port, "/health", **through_proxy)
        refused, _, _ = await get(door.port, "/metrics", **through_proxy)
        await one.hang_up()

    assert json.loads(bare) == {"ok": True, "why": None}
    assert refused == 401
    assert (status, told["ok"]) == (200, True)
    assert {"session-0", "transport-0", "gateway-0"} <= {
        line["process"] for line in told["processes"]
    }
    assert "voicebus_up 1" in lines
    counted = next(line for line in lines if line.startswith('voicebus_sessions{shard="0"} '))
    assert int(counted.split()[1]) >= 1
    assert 'voicebus_process_state{process="session-0",state="ready"} 1' in lines
    assert not [line for line in tracebacks(door.cell) if line.startswith("gateway-0")]
