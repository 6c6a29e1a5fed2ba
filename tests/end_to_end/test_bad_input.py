"""Bad input on every socket: a clear answer, and nobody else notices."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.end_to_end.cells import SCENARIO
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import Line, Scene, scene
from voicebus.bus import testing
from voicebus.bus.sockets import Dealer, Frames
from voicebus.cli.testing import Stack

WORKER = Path(__file__).parents[2] / "examples" / "workers" / "short.py"
UNKNOWN_SESSION = "s0-01hzzzzzzzzzzzzzzzzzzzzzzz"


@pytest.fixture(scope="module")
def cell(start_shared_stack: StartStack) -> Stack:
    return start_shared_stack(scenario=SCENARIO)


@contextlib.asynccontextmanager
async def undisturbed(on: Scene) -> AsyncIterator[None]:
    """Somebody else listens to a tone meanwhile, and misses nothing of it."""
    other = await on.caller()
    await other.session.send_text("one second")
    await other.until(lambda: other.pieces(), "the beginning of the tone")
    yield
    await other.event("assistant_turn_completed")
    await other.until(
        lambda: sum(piece.count for _, piece in other.pieces()) == 1000 * 24, "all of the tone"
    )
    assert other.words() == "A second of tone, as fast as it is played."
    kinds = {event.kind for event in other.events}
    assert kinds.isdisjoint({"error", "audio_dropped", "session_reconnecting", "session_closed"})


@pytest.mark.parametrize(
    ("frames", "named"),
    [
        ([b'{"v":1,"id":'], "JSON"),
        ([b"\xff\xfe\x00"], "JSON"),
        ([b"[1,2]"], "object"),
        ([b'{"v":1,"command":"ping"}'], "id"),
        ([b'{"v":1,"id":"01234567","command":7}'], "command"),
        ([b'{"v":9,"id":"01234567","command":"ping"}'], "version 9"),
        ([b'{"v":1,"id":"x","command":"ping"}'], "8 to 64"),
        ([b'{"v":1,"id":"01234567","command":"ping","data":[]}'], "data"),
        ([b'{"x":' + b"[" * 100_000], "nest"),
        ([b'{"v":1,"id":"01234567","command":"' + b"x" * 9_000_000 + b'"}'], "limit"),
        ([], "frame"),
    ],
    ids=range(11),
)
async def test_a_broken_command_is_told_what_is_wrong_with_it(
    cell: Stack, frames: list[bytes], named: str
) -> None:
    async with scene(cell) as on:
        line = Line(cell.endpoints, on.sockets)

        line.send(frames or [b""])
        await line.until_replies(1)
        ping = await line.ask("ping")

        assert not line.replies[0]["ok"]
        assert line.replies[0]["error"]["code"] == "bad_request"
        assert named.lower() in line.replies[0]["error"]["message"].lower()
        assert ping["ok"]


def _deep_command(id: str, session_id: str, levels: int) -> bytes:
    """As text: our own stack would end as well. Two levels stand around these."""
    return (
        f'{{"v":1,"id":"{id}","command":"submit_tool_output","session_id":"{session_id}",'
        f'"data":{{"call_id":"x","result":{"[" * levels}{"]" * levels}}}}}'
    ).encode()


async def test_json_is_refused_before_anybodys_stack_ends(cell: Stack) -> None:
    """What can just be read, and not be handed on any more, must not end the process."""
    async with scene(cell) as on, undisturbed(on):
        caller = await on.caller()
        pids = cell.pids()

        for levels in (98, 99, 500, *range(940, 1000)):
            count = len(on.line.replies) + 1
            on.line.send([_deep_command(f"levels-{levels:05}", caller.id, levels)])
            await on.line.until_replies(count)
            error = on.line.replies[count - 1]["error"]  # the id may be too deep to be read

            expected = "conflict" if levels == 98 else "bad_request"
            assert error["code"] == expected, error
            assert ("nested too deeply" in error["message"]) is (levels > 98), error
        assert cell.pids() == pids


async def test_what_does_not_exist_is_named_with_what_is_near(cell: Stack) -> None:
    async with scene(cell) as on, undisturbed(on):
        caller = await on.caller()
        refused = on.line.refused

        assert await refused("send_tex", session_id=caller.id) == (
            "bad_request",
            "unknown command 'send_tex' (did you mean send_text?)",
        )
        code, text = await refused("send_text", {"txt": "x"}, session_id=caller.id)
        assert (code, "did you mean text?" in text) == ("bad_request", True), text
        code, text = await refused("send_text", {"text": 7}, session_id=caller.id)
        assert (code, "text" in text) == ("bad_request", True), text
        code, text = await refused("open", {"config": {"instuctions": "x"}})
        assert (code, "did you mean instructions?" in text) == ("bad_request", True), text
        code, text = await refused("open", {"config": {"modalities": ["smell"]}})
        assert (code, "modalities" in text) == ("bad_request", True), text
        code, text = await refused("open", {"config": {"tools": ["get_wether"]}})
        assert (code, "get_wether" in text) == ("tool_unavailable", True), text
        code, text = await refused("open", {"config": {"provider": "opnai"}})
        assert (code, "openai" in text) == ("unsupported", True), text
        code, text = await refused(
            "update", {"config": {"tools": ["get_wether"]}}, session_id=caller.id
        )
        assert (code, "get_wether (there are: " in text) == ("tool_unavailable", True), text
        code, text = await refused("update", {"config": {"voise": "x"}}, session_id=caller.id)
        assert (code, "did you mean voice?" in text) == ("bad_request", True), text
        code, text = await refused("interrupt", session_id=UNKNOWN_SESSION)
        assert (code, UNKNOWN_SESSION in text) == ("no_such_session", True), text
        code, text = await refused("interrupt", session_id="nonsense")
        assert (code, "nonsense" in text) == ("bad_request", True), text
        code, text = await refused("interrupt")
        assert (code, "session_id" in text) == ("bad_request", True), text
        code, text = await refused("replay", {"from": 0}, session_id=caller.id)
        assert (code, "from" in text) == ("bad_request", True), text
        code, text = await refused("replay", {"limit": 1000}, session_id=caller.id)
        assert (code, "200" in text) == ("bad_request", True), text


async def test_a_command_for_a_session_that_has_ended_says_so(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        await caller.close()

        code, text = await on.line.refused("send_text", {"text": "x"}, session_id=caller.id)

        assert (code, caller.id in text) == ("gone", True), text


class Voice:
    """Sound as any program would send it, right or wrong."""

    def __init__(self, on: Scene, opened: dict[str, Any]) -> None:
        self._on = on
        self._opened = opened
        self._dealer: Dealer = on.sockets.dealer(opened["audio_in"], self._ignore, name="voice")

    @staticmethod
    def _ignore(frames: Frames) -> None: ...

    def send(self, samples: bytes, n: int, **header: Any) -> None:
        """One frame; the header's fields may be others."""
        fields = {
            "v": 1,
            "session_id": self._opened["session_id"],
            "token": self._opened["token"],
            "n": n,
            **header,
        }
        self._dealer.send([msgspec.json.encode(fields), samples])

    def send_frames(self, *frames: bytes) -> None:
        """Frames as they are."""
        self._dealer.send(list(frames))

    def was_refused(self, reason: str) -> dict[str, Any] | None:
        """The refusal on the system lane, if it has come."""
        return next((one for one in self._on.tape.system if one.get("reason") == reason), None)

    async def refused(self, reason: str) -> str:
        """The text of the refusal on the system lane."""
        found = await self._on.tape.until(lambda: self.was_refused(reason), f"a refusal: {reason}")
        return str(found["text"])


async def test_wrong_sound_is_counted_and_told_on_the_system_lane_only(cell: Stack) -> None:
    async with scene(cell) as on, undisturbed(on):
        reply = await on.line.ask("open", {"config": {"turn_detection": "none"}})
        opened = reply["data"]
        sid = opened["session_id"]
        await on.tape.until(lambda: on.tape.of(sid, "session_opened"), "session_opened")
        voice = Voice(on, opened)

        voice.send(b"\0" * 961, 1)
        assert "961" in await voice.refused("odd_length")
        voice.send(b"\0" * (1024 * 1024 + 2), 2)
        assert str(1024 * 1024) in await voice.refused("too_large")
        voice.send(b"\0" * 960, 3, token="forged" * 4)
        assert sid in await voice.refused("unknown_token")
        listener = await on.line.ask("attach", {"rights": ["listen"]}, session_id=sid)
        # A transport that stands still for 500 ms knows the token only after its holder does.
        while not voice.was_refused("no_right"):
            voice.send(b"\0" * 960, 1, token=listener["data"]["token"])
            await asyncio.sleep(0.05)
        assert "may listen, not talk" in await voice.refused("no_right")
        voice.send(b"\0" * 960, 4, session_id=UNKNOWN_SESSION)
        voice.send_frames(b"{", b"\0" * 960)
        voice.send_frames(b'{"v":1}', b"\0" * 960)
        voice.send_frames(b"")
        voice.send(b"\0" * (70 * 1024 * 1024), 5)  # beyond what the socket itself takes
        voice.send(b"\0\1" * 4800, 6)
        committed = await on.line.ask("commit_audio", {"after_n": 6}, session_id=sid)
        await on.tape.until(lambda: on.tape.of(sid, "assistant_turn_completed"), "an answer")
        closed = await on.line.ask("close", session_id=sid)

        assert committed["ok"]
        assert closed["ok"]
        await on.tape.until(lambda: on.tape.of(sid, "session_closed"), "session_closed")
        assert not on.tape.of(sid, "error")


async def test_a_client_with_too_many_commands_at_once_gets_busy_and_others_do_not(
    cell: Stack,
) -> None:
    async with scene(cell) as on, undisturbed(on):
        caller = await on.caller()
        greedy = Line(cell.endpoints, on.sockets)

        sent = [
            greedy.command("update", {"config": {"instructions": str(n)}}, session_id=caller.id)
            for n in range(300)
        ]
        await greedy.until_replies(len(sent))

        codes = {one["error"]["code"] for one in greedy.replies if not one["ok"]}
        assert codes <= {"busy"}
        assert any(one["ok"] for one in greedy.replies)
        assert len({one["id"] for one in greedy.replies}) == len(sent)


async def test_the_output_of_a_call_that_nobody_made_is_refused(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller()

        code, text = await on.line.refused(
            "submit_tool_output", {"call_id": "nope", "result": 1}, session_id=caller.id
        )

        assert code == "conflict"
        assert "nope" in text


async def test_who_says_to_be_a_session_process_takes_its_place_for_a_moment_only(
    cell: Stack,
) -> None:
    """It would have all news of the tool pool, and the session process none, for good."""
    async with scene(cell) as on:
        heard: list[Frames] = []
        stranger = on.sockets.dealer(cell.endpoints.calls, heard.append, name="stranger")
        stranger.send([msgspec.json.encode({"kind": "follow", "shard": 0, "inc": "forged"})])

        command = [sys.executable, "-P", str(WORKER), str(cell.run_dir)]
        worker = await asyncio.create_subprocess_exec(*command)
        try:
            async with asyncio.timeout(20):
                while "shout" not in await _tools(on):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        finally:
            worker.kill()
            await worker.wait()
        assert heard


async def _tools(on: Scene) -> list[str]:
    tools = (await on.line.ask("catalogue"))["data"]["tools"]
    return [tool["name"] for tool in tools]


async def test_the_welcome_to_a_hosts_own_subscription_is_no_bad_message(cell: Stack) -> None:
    state = await testing.next_state(
        cell.endpoints, "toolhost", 0, lambda one: one.state == "ready"
    )

    assert "bad_messages" not in state.counters
