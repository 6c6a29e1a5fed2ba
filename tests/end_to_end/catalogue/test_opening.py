"""Opening and configuring: scenarios 1 to 12."""

from typing import Any

import pytest

from tests.end_to_end.catalogue.playing import calling, came, completed, playing, sent, speak
from tests.end_to_end.support import Scene
from voicebus.cli.testing import Stack
from voicebus.client import CommandRefused


async def _closed(on: Scene) -> Any:
    """How a session ends that cannot be opened."""
    reply = await on.line.ask("open")
    sid = reply["data"]["session_id"]
    found = await on.tape.until(lambda: on.tape.of(sid, "session_closed"), "session_closed")
    return found[0]["data"]


async def test_what_is_said_before_the_confirmation_is_heard_after_it(cell: Stack) -> None:
    async with playing(cell, "01_opening") as on, calling(on) as caller:
        await speak(caller, 3)
        heard = await came(on, caller.id, "sound.heard")
        await caller.opened()

        ups = [frame["type"] for _, header, frame in on.tape.raw if header["dir"] == "up"]
        assert heard
        assert ups.index("session.created") < ups.index("session.updated")
        assert ups.index("session.updated") < ups.index("sound.heard")


async def test_a_provider_that_begins_with_something_else_is_configured_all_the_same(
    cell: Stack,
) -> None:
    async with playing(cell, "02_another_first_frame") as on:
        caller = await on.caller()
        await caller.turn("hello")

        assert len(await sent(on, caller, "session.update")) == 1


async def test_refused_handshakes_are_told_with_their_status_and_reason(cell: Stack) -> None:
    async with playing(cell, "03_refused_handshakes") as on:
        ends = [await _closed(on) for _ in range(4)]
        await on.caller()

        assert [end["code"] for end in ends] == ["401", "403", "404", "429"]
        assert "Incorrect API key" in ends[0]["message"]
        assert "Too many connections" in ends[3]["message"]


@pytest.mark.parametrize(
    ("scenario", "code"), [("04_unknown_model", "model_not_found"), ("no_quota", "quota")]
)
async def test_an_error_and_a_close_end_the_session_with_the_reason(
    cell: Stack, scenario: str, code: str
) -> None:
    async with playing(cell, scenario) as on:
        end = await _closed(on)

        assert end["reason"] == "error"
        assert code in str(end["code"])


async def test_a_retired_dialect_ends_the_session_and_is_not_tried_again(cell: Stack) -> None:
    async with playing(cell, "05_beta_shape") as on:
        end = await _closed(on)

        assert end["code"] == "beta_api_shape_disabled"
        kinds = {one["kind"] for one in on.tape.events}
        assert "session_reconnecting" not in kinds


_WORDY = {"type": "function", "name": "wordy", "description": "x" * 1025}


async def test_a_tool_with_too_long_a_description_changes_nothing(cell: Stack) -> None:
    async with playing(cell, "06_bad_tool") as on:
        caller = await on.caller(instructions="Be brief.")
        with pytest.raises(CommandRefused, match=r"tools\[0\].description") as refused:
            await caller.session.update(instructions="Be long.", tools=[_WORDY])
        await caller.session.update(voice="ash")
        updated = await caller.event("session_updated")

        assert refused.value.code == "provider_error"
        assert updated.data.config["instructions"] == "Be brief."
        assert "wordy" not in str(updated.data.config["tools"])


async def test_a_tool_with_too_long_a_description_refuses_the_opening(cell: Stack) -> None:
    async with playing(cell, "06_bad_tool") as on:
        reply = await on.line.ask("open", {"config": {"tools": [_WORDY]}})
        sid = reply["data"]["session_id"]
        found = await on.tape.until(lambda: on.tape.of(sid, "session_closed"), "session_closed")

        assert "tools[0].description" in found[0]["data"]["message"]


async def test_each_update_that_the_provider_does_not_understand_gets_its_own_refusal(
    cell: Stack,
) -> None:
    async with playing(cell, "07_unknown_fields") as on:
        caller = await on.caller(instructions="Be brief.")
        for change, why in (
            ({"instructions": "too much"}, "session.smell"),
            ({"instructions": "too little"}, "session.type"),
            ({"reasoning": {"effort": "low"}}, "session.reasoning"),
        ):
            with pytest.raises(CommandRefused, match=why):
                await caller.session.update(**change)
        await caller.session.update(voice="ash")
        updated = await caller.event("session_updated")

        assert updated.data.config["instructions"] == "Be brief."


async def test_the_voice_after_sound_is_refused_with_the_providers_reason(cell: Stack) -> None:
    async with playing(cell, "08_voice_after_sound") as on:
        caller = await on.caller(voice="alloy")
        await caller.turn("hello")
        with pytest.raises(CommandRefused, match="assistant audio is present"):
            await caller.session.update(voice="ash")

        assert not caller.found("session_updated")


async def test_empty_values_clear_what_was_set(cell: Stack) -> None:
    async with playing(cell, "09_clearing") as on:
        caller = await on.caller(instructions="Be brief.")
        await caller.session.update(instructions="", tools=[], turn_detection="none")
        updated = (await caller.event("session_updated")).data.config

        assert (updated["instructions"], updated["tools"]) == ("", [])
        assert updated["audio"]["input"]["turn_detection"] is None


async def test_of_two_updates_each_gets_its_own_answer(cell: Stack) -> None:
    async with playing(cell, "10_two_updates") as on:
        caller = await on.caller()
        first = on.line.command(
            "update", {"config": {"instructions": "first"}}, session_id=caller.id
        )
        second = on.line.command(
            "update", {"config": {"instructions": "second"}}, session_id=caller.id
        )
        refused, taken = await on.line.reply(first), await on.line.reply(second)
        updated = await caller.event("session_updated")

        assert refused["error"]["code"] == "provider_error"
        assert "Invalid instructions" in refused["error"]["message"]
        assert taken["ok"]
        assert updated.cause == second
        assert updated.data.config["instructions"] == "second"


async def test_a_voice_of_ones_own_and_nulls_in_the_echo_are_taken(cell: Stack) -> None:
    async with playing(cell, "11_custom_voice") as on:
        caller = await on.caller(voice={"id": "voice_mine"})
        await caller.session.update(instructions="Be brief.")
        echo = (await caller.event("session_updated")).data.config

        assert echo["audio"]["output"]["voice"] == {"id": "voice_mine"}
        assert echo["tracing"] is None
        assert echo["prompt"] is None


async def test_what_nobody_has_heard_of_disturbs_nothing(cell: Stack) -> None:
    async with playing(cell, "12_unknown") as on:
        caller = await on.caller(modalities=["text"])
        await caller.turn("hello")

        assert (await completed(caller)).status == "completed"
        assert caller.words()
        assert not caller.found("error")
        assert await came(on, caller.id, "response.smell.delta")
