import pytest

from voicebus.services.tools import pipe


def test_messages_come_out_as_they_went_in_however_they_are_cut() -> None:
    sent = [pipe.Ready(), pipe.Begun(session_id="s", call_id="c")]
    data = b"".join(pipe.pack(one) for one in sent)
    splitter = pipe.Splitter()

    found = [body for number in range(len(data)) for body in splitter.feed(data[number:][:1])]

    assert [pipe.UP.decode(one) for one in found] == sent


def test_an_impossible_length_is_no_message() -> None:
    with pytest.raises(pipe.BadPipe, match="limit"):
        list(pipe.Splitter().feed(b"\xff\xff\xff\xff"))


def test_what_came_before_the_nonsense_is_heard() -> None:
    begun = pipe.Begun(session_id="s", call_id="c")
    bodies = pipe.Splitter().feed(pipe.pack(begun) + b"nonsense")

    assert pipe.UP.decode(next(bodies)) == begun
    with pytest.raises(pipe.BadPipe):
        next(bodies)
