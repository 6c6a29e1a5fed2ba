"""Items stand in the order of `previous_item_id`; transcripts come whenever they come."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core import items
from voicebus.services.session.testing import (
    Stage,
    created,
    events,
    kinds,
    message,
    of,
    refused,
    sound,
    speech_started,
    spoken,
)


def added(
    item: str, previous: str | None = None, *, done: bool = False, **more: object
) -> i.AnyInput:
    made = i.Item(item_id=item, type="message", **more)  # type: ignore[arg-type]
    return i.ItemAdded(item=made, previous_item_id=previous, done=done)


def words(item: str, text: str, *, final: bool = True) -> i.AnyInput:
    return i.UserWords(item_id=item, text=text, final=final)


def test_items_are_ordered_by_what_they_follow() -> None:
    stage = Stage()

    stage.play(added("a"), added("b", "a"), added("between", "a"), added("first", "root"))

    assert stage.state.order == ("first", "a", "between", "b")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_announcements_may_come_in_any_order(order: tuple[int, ...]) -> None:
    chain = [added("a", "root"), added("b", "a"), added("c", "b")]
    stage = Stage()

    stage.play(*(chain[index] for index in order))
    stage.play(*(chain[index] for index in order))

    assert sorted(stage.state.order) == ["a", "b", "c"]


def test_an_item_after_one_nobody_has_seen_is_the_last() -> None:
    stage = Stage()

    stage.play(added("a"), added("b", "never announced"), added("c"))

    assert stage.state.order == ("a", "b", "c")


def test_an_item_known_by_its_words_takes_its_place_when_it_is_announced() -> None:
    stage = Stage()
    stage.play(added("a"), words("u", "Hello"), added("b", "a"))

    stage.play(added("u", "a", role="user"))

    assert stage.state.order == ("a", "u", "b")
    assert stage.state.items["u"].text == "Hello"


def test_a_repetition_only_completes_what_is_known() -> None:
    stage = Stage()
    stage.play(added("a", done=True, text="words", role="assistant", status="completed"))

    stage.play(added("a", "elsewhere"))

    record = stage.state.items["a"]
    assert (record.text, record.done, record.item.role) == ("words", True, "assistant")
    assert stage.state.order == ("a",)


def test_a_committed_turn_is_the_callers() -> None:
    stage = Stage()

    stage.play(i.InputCommitted(item_id="u1", previous_item_id=None))

    assert stage.state.items["u1"].item.role == "user"


def test_a_late_transcript_does_not_change_the_order() -> None:
    stage = Stage()
    stage.play(i.InputCommitted(item_id="u1"), added("m1", "u1"), added("u2", "m1"))

    stage.play(words("u2", "second"), words("u1", "first"))

    assert stage.state.order == ("u1", "m1", "u2")


def test_a_deleted_item_is_gone_and_may_be_deleted_again() -> None:
    stage = Stage()
    stage.play(added("a"), added("b"))

    stage.play(i.ItemDeleted(item_id="a"), i.ItemDeleted(item_id="a"), i.ItemDeleted(item_id=""))

    assert stage.state.order == ("b",)
    assert list(stage.state.items) == ["b"]


def test_an_item_without_an_id_is_nobodys() -> None:
    stage = Stage()

    stage.play(added(""), words("", "Hello"), spoken("Hello", item="", final=True))

    assert stage.state.items == {}


def test_the_pieces_of_an_answer_are_put_together_in_their_order() -> None:
    stage = Stage()
    stage.play(created(), *message())

    stage.play(spoken("second.", index=1, final=True), spoken("First", index=0, final=True))

    assert stage.state.items["m1"].text == "First second."


def test_the_oldest_items_are_forgotten() -> None:
    stage = Stage()

    stage.play(*(added(f"i{number}") for number in range(items.LIMIT + 10)))

    stood = [item_id for item_id, _ in items.in_order(stage.state)]
    assert tuple(stood) == stage.state.order
    assert len(stage.state.items) + len(stage.state.former) == len(stood) == items.LIMIT
    assert stage.state.order[0] == "i10"


def test_of_two_equal_texts_the_one_written_long_ago_is_announced_first() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")
    stage.play(*(added(f"i{number}") for number in range(2 * items.LATEST)))
    stage.command("send_text", text="Hello")
    *_, second = stage.state.order

    stage.play(added("theirs", role="user", text="Hello"))

    assert (stage.state.order[0], stage.state.order[-1]) == ("theirs", second)
    assert not dict(items.in_order(stage.state))["theirs"].ours


def test_in_a_long_conversation_only_the_latest_items_are_copied_with_each_change() -> None:
    stage = Stage()
    sizes = []
    for number in range(500):
        stage.play(added(f"i{number}"))
        sizes.append(len(stage.state.items))
    before = stage.state.former

    stage.play(added("i499", role="user"), words("i499", "Hello"), i.ItemDeleted(item_id="i498"))

    assert max(sizes) == items.LATEST
    assert stage.state.former is before
    assert [item_id for item_id, _ in items.in_order(stage.state)][-2:] == ["i497", "i499"]


_changes = st.tuples(
    st.sampled_from(["added", "whole", "user", "assistant", "deleted", "text", "announced"]),
    st.integers(0, 12),
)


@given(st.lists(_changes, max_size=40))
@example([("added", 0), ("added", 1), ("added", 2), ("whole", 0)])  # every line is run each time
def test_an_item_long_past_is_found_changed_and_deleted_like_the_latest(
    changes: list[tuple[str, int]],
) -> None:
    def played(latest: int) -> tuple[Stage, list[fx.Effect]]:
        stage, told = Stage(), []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(items, "LATEST", latest)
            for what, number in changes:
                name = f"i{number}"
                match what:
                    case "added":
                        told += stage.play(added(name))
                    case "whole":
                        told += stage.play(added(name, f"i{number - 1}", done=True, text="Yes"))
                    case "user":
                        told += stage.play(words(name, f"Hello {number}"))
                    case "assistant":
                        told += stage.play(spoken("Good day.", item=name, final=True))
                    case "deleted":
                        told += stage.play(i.ItemDeleted(item_id=name))
                    case "text":
                        told += stage.command("send_text", text=f"Written {number}")
                    case _:
                        text = f"Written {number}"
                        told += stage.play(added(f"theirs{number}", role="user", text=text))
        return stage, told

    (few, told_few), (all_, told_all) = played(2), played(10_000)

    assert all_.state.former == {}
    assert len(few.state.items) <= 2
    assert not few.state.items.keys() & few.state.former.keys()
    assert list(items.in_order(few.state)) == list(items.in_order(all_.state))
    assert told_few == told_all


def test_what_the_caller_wrote_counts_before_it_is_announced() -> None:
    stage = Stage()
    stage.play(added("a"))

    stage.command("send_text", text="Hello")

    (_, asked) = stage.state.order
    assert stage.state.items[asked].text == "Hello"
    assert stage.state.items[asked].ours


def test_what_the_caller_wrote_may_be_announced_under_another_name() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")
    stage.command("send_text", text="Goodbye")
    first, second = stage.state.order

    stage.play(added("theirs", first, role="user", text="Goodbye"))

    assert stage.state.order == (first, "theirs")
    assert second not in stage.state.items
    assert stage.state.items["theirs"].text == "Goodbye"
    assert not stage.state.items["theirs"].ours


def test_another_message_with_the_same_words_stays_another() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")
    (asked,) = stage.state.order

    stage.play(added("answer", role="assistant", text="Hello"))

    assert stage.state.order == (asked, "answer")


def test_the_whole_of_an_answer_is_news_once() -> None:
    stage = Stage()
    stage.play(created(), *message(), spoken("Hello", final=True))

    assert events(stage.play(spoken("Hello", final=True))) == []
    assert len(events(stage.play(spoken("Hello!", final=True)))) == 1


def test_pieces_of_what_is_transcribed_already_say_nothing_new() -> None:
    stage = Stage()

    assert len(events(stage.play(words("u", "Hel", final=False)))) == 1
    stage.play(words("u", "Hello"))

    assert events(stage.play(words("u", "Hel", final=False))) == []
    assert stage.state.items["u"].text == "Hello"


def test_what_a_client_adds_without_an_announcement_is_limited_too() -> None:
    stage = Stage()
    for number in range(items.LIMIT + 10):
        stage.command("add_item", item={"id": f"i{number}", "type": "message"})

    stood = [item_id for item_id, _ in items.in_order(stage.state)]
    assert tuple(stood) == stage.state.order
    assert len(stage.state.items) + len(stage.state.former) == len(stood) == items.LIMIT


def test_an_item_that_was_refused_is_forgotten_with_what_was_given() -> None:
    stage = Stage()
    image = {"type": "message", "content": [{"type": "input_image"}]}
    stage.command("add_item", item=image)
    (item_id,) = stage.state.order
    assert list(stage.state.given) == [item_id]

    stage.play(refused("invalid_value", stage.last_event_id))

    assert (stage.state.order, stage.state.given) == ((), {})


def test_what_nobody_heard_is_told_to_no_later_connection_whatever_still_comes_of_it() -> None:
    stage = Stage()
    stage.play(created(), *message(), spoken("One two "), sound(ms=1000), speech_started())
    stage.command("report_playback", item_id="m1", played_ms=0, state="stopped")
    assert of(stage.effects, fx.DeleteItem) == [fx.DeleteItem("m1")]

    told = stage.play(spoken("One two three", final=True), added("m1", role="assistant"))

    assert kinds(told) == ["assistant_transcript"]
    assert (stage.state.order, stage.state.items) == ((), {})


def test_only_the_last_deleted_items_are_remembered() -> None:
    stage = Stage()
    for number in range(items.GONE + 5):
        stage.play(added(f"i{number}"), i.ItemDeleted(item_id=f"i{number}"))

    assert len(stage.state.gone) == items.GONE
    assert stage.state.order == ()


def test_a_client_may_add_again_what_was_deleted() -> None:
    stage = Stage()
    stage.play(i.ItemDeleted(item_id="m1"))

    stage.command("add_item", item={"id": "m1", "type": "message"})
    stage.play(added("m1", text="Hi"))

    assert stage.state.items["m1"].text == "Hi"
