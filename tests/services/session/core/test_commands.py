"""What clients ask for: done, refused, or kept until the provider is ready."""

import pytest

from voicebus.bus.messages.commands import ServerVad, SessionConfig
from voicebus.bus.messages.events import Error, Interrupted
from voicebus.services.session.core import commands, responses
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.capabilities import Capabilities
from voicebus.services.session.testing import (
    Stage,
    call,
    created,
    done,
    events,
    kinds,
    message,
    of,
    refused,
    replies,
    requests,
    sound,
    tool,
)

MANUAL = SessionConfig(turn_detection="none")


def asks(effects: list[fx.Effect]) -> list[fx.Ask]:
    return [effect for effect in effects if isinstance(effect, fx.Ask)]


def opened(stage: Stage) -> list[fx.Effect]:
    return stage.play(
        i.ProviderConnected(generation=1),
        i.ProviderSessionCreated(),
        i.ProviderSessionUpdated(session={}),
    )


# --- before the provider is ready -------------------------------------------------------------


def test_early_commands_wait_and_are_done_in_order() -> None:
    stage = Stage(ready=False)
    assert requests(stage.command("send_text", text="one")) == []
    stage.command("add_item", item={"type": "message"})

    effects = opened(stage)

    assert requests(effects)[1:] == [
        fx.AddUserText("one"),
        fx.CreateResponse("1", {}),
        fx.AddItem({"type": "message"}),
    ]
    assert replies(effects) == {"send_text-1": "ok", "add_item-2": "ok"}


def test_an_interrupt_before_the_session_is_open_withdraws_the_answers_to_what_waits() -> None:
    stage = Stage(ready=False)
    stage.command("send_text", text="Hello")
    stage.command("create_response")
    stage.command("create_response", overrides={"conversation": "none"})

    effects = stage.command("interrupt")

    (told,) = of(effects, Interrupted)
    assert (told.turn_id, told.reason, told.responses) == (None, "manual", [])
    assert of(effects, fx.Answer)[0].data == {"interrupted": True}
    assert of(stage.command("interrupt"), fx.Answer)[0].data == {"interrupted": False}

    effects = opened(stage)

    assert requests(effects)[1:] == [
        fx.AddUserText("Hello"),
        fx.CreateResponse("1", {"conversation": "none"}),
    ]
    assert set(replies(effects).values()) == {"ok"}


def test_a_turn_that_waits_to_be_ended_is_ended_and_not_answered() -> None:
    stage = Stage(SessionConfig(turn_detection="none"), ready=False)
    stage.command("commit_audio")

    told = stage.command("interrupt")
    effects = opened(stage)

    assert of(told, fx.Answer)[0].data == {"interrupted": True}
    assert requests(effects)[1:] == [fx.CommitInput()]


def test_what_is_sent_after_such_an_interrupt_is_answered() -> None:
    stage = Stage(ready=False)
    stage.command("send_text", text="Hello")
    stage.command("interrupt")
    stage.command("send_text", text="No, something else")

    effects = opened(stage)

    assert [type(one) for one in requests(effects)[1:]] == [
        fx.AddUserText,
        fx.AddUserText,
        fx.CreateResponse,
    ]


def test_only_so_many_commands_wait() -> None:
    stage = Stage(ready=False)
    for _ in range(commands.EARLY_LIMIT):
        stage.command("send_text", text="x")

    effects = stage.command("send_text", text="one too many")

    (refusal,) = of(effects, fx.Refuse)
    assert (refusal.error.code, refusal.error.retry) == ("busy", True)


def test_a_malformed_early_command_is_refused_when_its_turn_comes() -> None:
    stage = Stage(ready=False)
    stage.command("send_text", words="wrong field")

    assert replies(opened(stage)) == {"send_text-1": "bad_request"}


def test_only_so_many_responses_wait_for_their_turn() -> None:
    stage = Stage()
    stage.play(created("busy"))
    for _ in range(responses.QUEUE_LIMIT):
        assert list(replies(stage.command("create_response")).values()) == ["ok"]

    effects = stage.command("send_text", text="one too many")

    assert list(replies(effects).values()) == ["busy"]
    assert requests(effects) == []


# --- each command -----------------------------------------------------------------------------


def test_an_item_is_added_as_it_is_and_answered_by_nobody() -> None:
    stage = Stage()
    image = {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}],
    }

    effects = stage.command("add_item", item=image)

    assert [type(request) for request in requests(effects)] == [fx.AddItem]
    assert of(effects, fx.AddItem)[0].item.items() >= image.items()


def test_the_output_of_a_call_is_not_added_past_its_batch() -> None:
    stage = Stage(tools=[tool("a")])
    stage.play(created(), *call("r1", "c1", "a"), done())
    item = {"type": "function_call_output", "call_id": "c1", "output": "mine"}

    effects = stage.command("add_item", item=item)

    assert replies(effects) == {"add_item-1": "bad_request"}
    assert requests(effects) == []


@pytest.mark.parametrize("item_id", [None, "", 5, ["x"]])
def test_the_id_of_an_item_is_a_text(item_id: object) -> None:
    effects = Stage().command("add_item", item={"id": item_id, "type": "message"})

    assert replies(effects) == {"add_item-1": "bad_request"}


def test_an_item_under_an_id_that_is_taken_is_refused() -> None:
    stage = Stage()
    item = {"id": "m1", "type": "message", "role": "user"}
    stage.command("add_item", item=item)

    effects = stage.command("add_item", item=item)

    assert replies(effects) == {"add_item-2": "conflict"}
    assert requests(effects) == []
    assert stage.state.order == ("m1",)


def test_push_to_talk_commits_after_the_last_frame_and_wants_an_answer() -> None:
    stage = Stage(MANUAL)

    effects = stage.command("commit_audio", after_n=17)

    commit, create = asks(effects)
    assert (commit.request, commit.after_n, commit.token) == (fx.CommitInput(), 17, "token-1")
    assert isinstance(create.request, fx.CreateResponse)


def test_a_commit_may_want_no_answer() -> None:
    stage = Stage(MANUAL)

    assert requests(stage.command("commit_audio", respond=False)) == [fx.CommitInput()]


def test_under_turn_detection_the_provider_answers_a_commit_itself() -> None:
    assert requests(Stage().command("commit_audio")) == [fx.CommitInput()]


def test_a_turn_detection_that_does_not_answer_leaves_it_to_the_client() -> None:
    stage = Stage(SessionConfig(turn_detection=ServerVad(create_response=False)))

    assert [type(one) for one in requests(stage.command("commit_audio"))] == [
        fx.CommitInput,
        fx.CreateResponse,
    ]


def test_an_empty_commit_is_told_and_its_answer_withdrawn() -> None:
    stage = Stage(MANUAL)
    stage.play(created("busy"))
    commit = asks(stage.command("commit_audio"))[0].event_id
    waiting = len(stage.state.queue)

    effects = stage.play(refused("input_audio_buffer_commit_empty", commit, "benign"))

    (told,) = [effect for effect in effects if isinstance(effect, fx.Publish)]
    assert isinstance(told.data, Error)
    assert told.cause == "commit_audio-1"
    assert (waiting, len(stage.state.queue)) == (1, 0)


def test_an_empty_commit_whose_answer_is_under_way_makes_it_unwanted() -> None:
    stage = Stage(MANUAL)
    commit = asks(stage.command("commit_audio"))[0].event_id

    stage.play(refused("input_audio_buffer_commit_empty", commit, "benign"))

    assert stage.state.creating is not None
    assert stage.state.creating.unwanted


def test_under_turn_detection_an_empty_commit_is_usual() -> None:
    stage = Stage()
    commit = asks(stage.command("commit_audio"))[0].event_id

    assert stage.play(refused("input_audio_buffer_commit_empty", commit, "benign")) == []


def test_a_commit_refused_for_another_reason_is_always_told() -> None:
    stage = Stage()
    commit = asks(stage.command("commit_audio"))[0].event_id

    assert len(events(stage.play(refused("server_error", commit)))) == 1


def test_clearing_waits_for_the_frame_it_names() -> None:
    (clear,) = asks(Stage().command("clear_audio", after_n=3, token="other"))

    assert (clear.request, clear.after_n, clear.token) == (fx.ClearInput(), 3, "other")


MANY = {str(number): "x" for number in range(commands.METADATA_LIMIT)}


@pytest.mark.parametrize("metadata", ["x", 5, ["a"], {"voicebus": "1"}, {**MANY, "one": "more"}])
def test_metadata_that_cannot_be_sent_beside_our_tag_is_refused(metadata: object) -> None:
    effects = Stage().command("create_response", overrides={"metadata": metadata})

    assert replies(effects) == {"create_response-1": "bad_request"}
    assert requests(effects) == []


@pytest.mark.parametrize("overrides", [{"instructions": "Sing."}, {"metadata": MANY}])
def test_a_response_is_created_with_overrides(overrides: dict[str, object]) -> None:
    effects = Stage().command("create_response", overrides=overrides)

    assert requests(effects) == [fx.CreateResponse("1", overrides)]


def test_closing_answers_and_ends() -> None:
    stage = Stage()

    effects = stage.command("close", after_n=9)

    assert of(effects, fx.HangUp) == [fx.HangUp(9, "token-1")]
    assert replies(effects) == {"close-1": "ok"}
    assert stage.state.phase == "closed"


def test_of_the_items_that_no_transcript_can_tell_only_the_newest_are_kept() -> None:
    stage = Stage()
    for number in range(commands.GIVEN_LIMIT + 3):
        item = {"id": f"i{number}", "type": "message", "content": [{"type": "input_image"}]}
        stage.command("add_item", item=item)

    assert list(stage.state.given) == [f"i{n + 3}" for n in range(commands.GIVEN_LIMIT)]


def test_of_large_ones_only_so_many_are_kept_as_a_new_connection_takes_at_once() -> None:
    stage = Stage()
    picture = "x" * (commands.GIVEN_LENGTH // 2 - 100)
    for number, url in enumerate([picture, picture, picture, 3 * picture]):
        content = [{"type": "input_image", "image_url": url}]
        item = {"id": f"i{number}", "type": "message", "content": content}
        stage.command("add_item", item=item)
        if number == 2:
            assert list(stage.state.given) == ["i1", "i2"]

    assert list(stage.state.given) == ["i3"]


def test_an_interrupt_silences_and_answers() -> None:
    stage = Stage()
    stage.play(created())

    effects = stage.command("interrupt")

    assert of(effects, fx.Flush) == [fx.Flush(("r1",), "manual")]
    assert replies(effects) == {"interrupt-1": "ok"}


def test_a_players_report_is_kept_and_answered() -> None:
    stage = Stage()
    stage.play(created(), *message(), sound(ms=1000))

    effects = stage.command("report_playback", item_id="m1", played_ms=300, state="playing")

    assert replies(effects) == {"report_playback-1": "ok"}
    assert [playback.played_ms for playback in stage.state.playback.values()] == [300]


def test_a_clients_tool_output_is_taken_once() -> None:
    stage = Stage(tools=[tool("mine")], client_tools=["mine"])
    stage.play(created(), *call("r1", "c1", "mine"), done())

    first = stage.command("submit_tool_output", call_id="c1", result=42)
    second = stage.command("submit_tool_output", call_id="c1", result=43)

    assert of(first, fx.AddOutput) == [fx.AddOutput("c1", "42")]
    assert replies(first) == {"submit_tool_output-1": "ok"}
    assert replies(second) == {"submit_tool_output-2": "conflict"}


def test_an_approval_is_taken_once() -> None:
    stage = Stage(tools=[tool("pay", approval=True)])
    stage.play(created(), *call("r1", "c1", "pay"), done())

    first = stage.command("approve", call_id="c1", approve=True)
    second = stage.command("approve", call_id="c1", approve=True)

    assert [submit.call_id for submit in of(first, fx.Submit)] == ["c1"]
    assert replies(first) == {"approve-1": "ok"}
    assert replies(second) == {"approve-2": "conflict"}


# --- joining ----------------------------------------------------------------------------------


def attach(stage: Stage, *, talk: bool) -> list[fx.Effect]:
    return stage.play(
        i.Attached(command_id="attach-1", token="token-2", talk=talk, opened={"token": "token-2"})
    )


def test_a_new_talker_is_the_one_whose_frames_are_counted() -> None:
    stage = Stage()

    effects = attach(stage, talk=True)

    assert of(effects, fx.Grant) == [fx.Grant("token-2", True)]
    assert asks(stage.command("commit_audio", after_n=1))[0].token == "token-2"


def test_a_listener_changes_nothing_for_the_talker() -> None:
    stage = Stage()

    assert of(attach(stage, talk=False), fx.Grant) == [fx.Grant("token-2", False)]
    assert stage.state.talker == "token-1"


def test_who_may_not_command_is_remembered() -> None:
    stage = Stage()
    stage.play(
        i.Attached(command_id="attach-1", token="token-2", talk=True, command=False, opened={})
    )

    assert stage.state.no_commands == ("token-2",)


# --- what cannot be done ----------------------------------------------------------------------


def test_after_the_end_every_command_is_gone() -> None:
    stage = Stage()
    stage.command("close")

    update = i.UpdateRequested(
        command_id="update-1", config=SessionConfig(), fields=["voice"], tools=[]
    )
    effects = [*stage.command("send_text", text="x"), *attach(stage, talk=True)]
    effects += stage.play(update)

    assert replies(effects) == {"send_text-2": "gone", "attach-1": "gone", "update-1": "gone"}


def test_a_malformed_command_is_refused_with_its_field() -> None:
    (refusal,) = of(Stage().command("report_playback", item_id=3), fx.Refuse)

    assert refusal.error.code == "bad_request"
    assert "item_id" in refusal.error.message or "played_ms" in refusal.error.message


def test_an_unknown_command_is_unsupported() -> None:
    assert replies(Stage().command("dance")) == {"dance-1": "unsupported"}


@pytest.mark.parametrize(
    ("cannot", "command", "data"),
    [
        (Capabilities(manual_commit=False), "commit_audio", {}),
        (Capabilities(text=False), "send_text", {"text": "x"}),
        (
            Capabilities(out_of_band=False),
            "create_response",
            {"overrides": {"conversation": "none"}},
        ),
    ],
)
def test_what_a_provider_cannot_do_is_unsupported(
    cannot: Capabilities, command: str, data: dict[str, object]
) -> None:
    stage = Stage(capabilities=cannot)

    effects = stage.command(command, **data)

    assert replies(effects) == {f"{command}-1": "unsupported"}
    assert requests(effects) == []


@pytest.mark.parametrize(
    ("command", "data"), [("send_text", {"text": "x"}), ("create_response", {})]
)
def test_a_transcription_session_answers_nothing(command: str, data: dict[str, object]) -> None:
    stage = Stage(SessionConfig(session_type="transcription", turn_detection="none"))

    assert replies(stage.command(command, **data)) == {f"{command}-1": "unsupported"}


def test_a_transcription_session_commits_without_wanting_an_answer() -> None:
    stage = Stage(SessionConfig(session_type="transcription", turn_detection="none"))

    assert requests(stage.command("commit_audio")) == [fx.CommitInput()]


@pytest.mark.parametrize("lost", [False, True])
def test_what_a_call_waits_for_does_not_wait_for_the_provider(lost: bool) -> None:
    tools = [tool("mine"), tool("asks", approval=True)]
    stage = Stage(tools=tools, client_tools=["mine"])
    stage.play(created(), *call("r1", "c1", "mine"), *call("r1", "c2", "asks", 1), done())
    if lost:
        stage.play(i.ProviderDisconnected(generation=1, code=1006))

    submitted = stage.command("submit_tool_output", call_id="c1", result=1)
    approved = stage.command("approve", call_id="c2", approve=True)

    assert replies([*submitted, *approved]) == {"submit_tool_output-1": "ok", "approve-2": "ok"}
    assert kinds([*submitted, *approved]) == ["tool_call_completed", "tool_call_dispatched"]
