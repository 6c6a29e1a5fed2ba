"""Several answers, the order of items, and what vendors differ in: scenarios 69, 70, 74 to 78."""

import pytest

from tests.end_to_end.catalogue.playing import completed, playing, sent, speak
from voicebus.cli.testing import Stack
from voicebus.client import CommandRefused


async def test_answers_beside_the_conversation_are_told_apart(cell: Stack) -> None:
    async with playing(cell, "69_out_of_band") as on:
        caller = await on.caller(modalities=["text"])
        asides = [
            await caller.session.create_response(conversation="none", metadata={"n": str(n)})
            for n in (1, 2)
        ]
        said = await caller.session.send_text("hello")
        await completed(caller, 3)

        by_turn = {one.data.turn_id: one.data.text for one in caller.found("assistant_text")}
        begun = {one.cause: one.data.turn_id for one in caller.found("assistant_turn_started")}
        assert sorted(by_turn[begun[cause]] for cause in asides) == [
            "The first aside.",
            "The second aside.",
        ]
        assert by_turn[begun[said]] == "In the conversation."
        assert all(
            one.data.status == "completed" for one in caller.found("assistant_turn_completed")
        )


async def test_items_stand_where_the_provider_says_and_else_last(cell: Stack) -> None:
    async with playing(cell, "70_previous_item") as on:
        caller = await on.caller(modalities=["text"])
        await caller.turn("hello")

        items = [item["item_id"] for item in (await caller.session.snapshot())["items"]]
        assert items[:4] == ["item_first", "item_none", "item_between", "item_lost"]


async def test_words_that_were_not_final_are_told_again_when_they_are(cell: Stack) -> None:
    async with playing(cell, "74_words_not_final") as on:
        caller = await on.caller()
        await caller.turn("two and two")

        assert caller.words() == "I think that it is four."
        assert len(caller.found("assistant_transcript")) == 1


async def test_what_a_provider_cannot_do_is_unsupported_and_the_rest_goes_on(cell: Stack) -> None:
    async with playing(cell, "75_cannot") as on:
        caller = await on.caller(provider="xai", model="grok-voice-latest", modalities=["text"])
        with pytest.raises(CommandRefused) as refused:
            await caller.session.update(turn_detection="semantic_vad")
        await caller.turn("hello")

        assert refused.value.code == "unsupported"
        assert (await completed(caller)).status == "completed"


@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
async def test_sound_at_another_rate_is_resampled_by_the_client(cell: Stack, rate_hz: int) -> None:
    pytest.importorskip("soxr")
    async with playing(cell, "76_other_rates") as on:
        caller = await on.caller(
            turn_detection="none", input_audio_transcription={"model": "whisper-1"}
        )
        for _ in range(50):
            await caller.session.send_audio(bytes(rate_hz // 50 * 2), rate_hz=rate_hz)
        await caller.session.commit_audio()
        words = await caller.event("user_transcript")
        done = await caller.event("assistant_audio_done")

        assert words.data.usage["seconds"] == pytest.approx(1.0, abs=0.05)
        assert done.data.samples == 300 * 24


def _image(url: str) -> dict[str, object]:
    return {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_image", "image_url": url}],
    }


async def test_an_image_by_its_data_is_taken_and_by_its_address_refused(cell: Stack) -> None:
    async with playing(cell, "77_images") as on:
        caller = await on.caller(modalities=["text"])
        await caller.session.add_item(_image("data:image/png;base64,iVBORw0KGgo="))
        cause = await caller.session.add_item(_image("https://example.com/a.png"))
        error = await caller.event("error")
        await caller.turn("what is there")

        assert (error.cause, error.data.code) == (cause, "invalid_value")
        assert len(await sent(on, caller, "conversation.item.create")) == 3
        assert caller.words() == "I see."


async def test_answers_and_transcription_are_counted_apart(cell: Stack) -> None:
    async with playing(cell, "78_usage") as on:
        caller = await on.caller(
            turn_detection="none", input_audio_transcription={"model": "gpt-4o-transcribe"}
        )
        await speak(caller, 10)
        await caller.session.commit_audio()
        words = await caller.event("user_transcript")
        usage = (await completed(caller)).usage
        tokens = (await caller.session.snapshot())["tokens"]

        assert words.data.usage["type"] == "tokens"
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert "cached_tokens" not in usage.extras["input_token_details"]
        assert tokens == usage.total_tokens
