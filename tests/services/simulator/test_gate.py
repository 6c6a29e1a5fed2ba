"""Where speech begins and ends, from likenesses as plain numbers."""

from voicebus.services.simulator.gate import Began, Ended, Gate


def marks(gate: Gate, *runs: tuple[int, float]) -> list[Began | Ended]:
    """The marks of runs of so many frames of such a likeness."""
    found = [gate.watch(likeness) for count, likeness in runs for _ in range(count)]
    return [mark for mark in found if mark is not None]


def test_speech_begins_with_its_first_frame_and_ends_after_the_silence() -> None:
    assert marks(Gate(0), (10, 0.0), (20, 0.9), (40, 0.0)) == [Began(320), Ended(960 + 512)]


def test_the_stream_clock_may_have_started_before() -> None:
    assert marks(Gate(1000), (10, 0.0), (5, 0.9)) == [Began(1320)]


def test_a_click_is_no_speech() -> None:
    assert marks(Gate(0), (10, 0.0), (2, 1.0), (10, 0.0), (2, 1.0), (30, 0.0)) == []


def test_a_pause_shorter_than_the_silence_does_not_end_speech() -> None:
    assert marks(Gate(0), (5, 0.9), (14, 0.0), (5, 0.9), (14, 0.0)) == [Began(0)]


def test_doubtful_frames_keep_speech_going_but_do_not_begin_it() -> None:
    assert marks(Gate(0), (10, 0.4)) == []
    assert marks(Gate(0), (5, 0.9), (60, 0.4)) == [Began(0)]


def test_threshold_and_silence_are_honoured() -> None:
    assert marks(Gate(0, threshold=0.95), (10, 0.9)) == []
    assert marks(Gate(0, silence_ms=200), (5, 0.9), (10, 0.0)) == [Began(0), Ended(160 + 224)]
