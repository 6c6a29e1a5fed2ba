"""A thousand samples a frame of speech would do; here a sample is a number that tells its place."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from voicebus.client.sound import Sound, SoundEnd, SoundFlush
from voicebus.services.recorder.timeline import Gap, Timeline

RATE = 24_000
MS = RATE // 1000


def tone(value: int, ms: int) -> bytes:
    """So many milliseconds of one value."""
    return value.to_bytes(2, "little", signed=True) * (ms * MS)


class Tape:
    """What a timeline has settled, as channels in milliseconds: the value in each one's middle."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.left, self.right = array("h"), array("h")
        self.gaps: list[Gap] = []

    def until(self, now_s: float) -> "Tape":
        """Look ten times a second, as the recorder does."""
        at_s = 0.0
        while at_s < now_s:
            at_s = min(at_s + 0.1, now_s)
            self.take(at_s)
        return self

    def take(self, now_s: float, *, all_of_it: bool = False) -> "Tape":
        chunk = self.timeline.settled(now_s, all_of_it=all_of_it)
        if chunk is not None:
            both = array("h", chunk.stereo)
            self.left.extend([0] * (chunk.first - len(self.left)))
            self.right.extend([0] * (chunk.first - len(self.right)))
            self.left += both[0::2]
            self.right += both[1::2]
        for mute in self.timeline.mutes:
            for at in range(mute.first, mute.end):
                self.right[at] = 0
        self.timeline.mutes.clear()
        self.gaps += self.timeline.gaps
        self.timeline.gaps.clear()
        return self

    def stretches(self, channel: "array[int]") -> list[tuple[int, int, int]]:
        """(from ms, to ms, value) of what is not silent."""
        found: list[tuple[int, int, int]] = []
        begin, value = 0, 0
        for at, one in enumerate([*channel, 0]):
            if one != value:
                if value:
                    found.append((round(begin / MS), round(at / MS), value))
                begin, value = at, one
        return found


def speak(timeline: Timeline, value: int, from_s: float, ms: int, *, first: int = 1) -> int:
    """In pieces of 20 ms at their time. Returns the next seq."""
    for at in range(ms // 20):
        now_s = from_s + 0.02 * (at + 1)
        timeline.spoken(tone(value, 20), "pcm16", "t", first + at, now_s)
    return first + ms // 20


def piece(value: int, ms: int, *, offset_ms: int = 0, item: str = "i1", turn: str = "r1") -> Sound:
    return Sound(turn, item, 0, "pcm16", offset_ms * MS, tone(value, ms))


# --- the caller -----------------------------------------------------------------------------------


def test_speech_lies_where_it_was_spoken() -> None:
    tape = Tape(Timeline())
    speak(tape.timeline, 5, 1.0, 400)

    tape.take(3.0, all_of_it=True)
    assert tape.stretches(tape.left) == [(1000, 1400, 5)]
    assert tape.stretches(tape.right) == []
    assert len(tape.left) == 3 * RATE


@given(st.lists(st.floats(0, 0.19), min_size=5, max_size=30))
def test_pieces_that_come_unevenly_make_no_holes(late: list[float]) -> None:
    tape = Tape(Timeline())
    for at, by_s in enumerate(late):
        tape.timeline.spoken(tone(5, 20), "pcm16", "t", at + 1, 1.0 + 0.02 * at + by_s)

    tape.take(5.0, all_of_it=True)
    assert len(tape.stretches(tape.left)) == 1
    assert sum(one != 0 for one in tape.left) == len(late) * 20 * MS


def test_a_pause_of_the_caller_is_a_pause() -> None:
    tape = Tape(Timeline())
    following = speak(tape.timeline, 5, 1.0, 200)
    speak(tape.timeline, 6, 2.0, 200, first=following)

    tape.take(3.0, all_of_it=True)
    assert tape.stretches(tape.left) == [(1000, 1200, 5), (2000, 2200, 6)]
    assert tape.gaps == []


def test_a_file_sent_at_once_is_laid_at_the_speed_of_speech() -> None:
    tape = Tape(Timeline())
    for at in range(50):
        tape.timeline.spoken(tone(5, 20), "pcm16", "t", at + 1, 1.0)

    tape.until(4.0)
    assert tape.stretches(tape.left) == [(980, 1980, 5)]


def test_lost_pieces_are_silence_and_named() -> None:
    tape = Tape(Timeline())
    speak(tape.timeline, 5, 1.0, 200)
    speak(tape.timeline, 6, 1.3, 200, first=16)
    assert tape.timeline.rate_hz == RATE

    tape.take(3.0, all_of_it=True)
    assert tape.stretches(tape.left) == [(1000, 1200, 5), (1300, 1500, 6)]
    assert tape.gaps == [Gap("caller", 1200, 1300, "lost on the way")]


def test_a_repeated_piece_changes_nothing() -> None:
    tape = Tape(Timeline())
    speak(tape.timeline, 5, 1.0, 200)
    tape.timeline.spoken(tone(9, 20), "pcm16", "t", 3, 1.25)

    tape.take(3.0, all_of_it=True)
    assert tape.stretches(tape.left) == [(1000, 1200, 5)]


def test_speech_that_waited_while_the_recorder_stood_still_is_not_moved() -> None:
    tape = Tape(Timeline())
    following = speak(tape.timeline, 5, 0.0, 1000)
    tape.take(1.0)
    tape.timeline.late(1.0, 4.0)
    for at in range(150):
        tape.timeline.spoken(tone(6, 20), "pcm16", "t", following + at, 4.0)
    speak(tape.timeline, 7, 4.0, 400, first=following + 150)

    tape.take(6.0, all_of_it=True)
    assert tape.stretches(tape.left) == [(0, 1000, 5), (1000, 4000, 6), (4000, 4400, 7)]
    assert tape.gaps == []


def test_more_than_a_minute_ahead_is_dropped_and_named() -> None:
    tape = Tape(Timeline())
    for at in range(70):
        tape.timeline.spoken(tone(5, 1000), "pcm16", "t", at + 1, 1.0)

    tape.take(80.0, all_of_it=True)
    assert tape.stretches(tape.left) == [(0, 61_000, 5)]
    assert tape.gaps
    assert {gap.channel for gap in tape.gaps} == {"caller"}


def test_telephone_sound_alone_is_kept_at_its_own_rate() -> None:
    timeline = Timeline()
    timeline.spoken(b"\xff" * 160, "g711_ulaw", "t", 1, 1.0)

    assert timeline.rate_hz == 8000


# --- the assistant --------------------------------------------------------------------------------


def test_an_answer_that_came_at_once_is_laid_as_it_was_heard() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 1000), 1.0)
    tape.timeline.came(SoundEnd("r1", "i1", 0, 1000 * MS), 1.0)

    tape.until(4.0)
    assert tape.stretches(tape.right) == [(1000, 2000, 3)]
    assert tape.gaps == []


def test_a_flush_ends_it_where_it_was_heard() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 5000), 1.0)
    tape.until(2.0)
    tape.timeline.came(SoundFlush(("r1",), "manual"), 2.2)

    tape.until(4.0)
    assert tape.stretches(tape.right) == [(1000, 2200, 3)]


def test_what_the_caller_s_own_player_had_not_played_is_silenced_again() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 5000), 1.0)
    tape.until(2.0)
    tape.timeline.came(SoundFlush(("r1",), "manual"), 2.2)
    tape.timeline.heard("i1", 0, 1100, complete=False)

    tape.until(4.0)
    assert tape.stretches(tape.right) == [(1000, 2100, 3)]


def test_sound_that_is_read_after_all_was_told_of_it_is_no_gap() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 2000), 1.0)
    tape.timeline.stopped(["r1"], 2.0)
    tape.timeline.heard("i1", 0, 1000, complete=False)
    tape.timeline.came(piece(3, 2000, offset_ms=2000), 2.0)
    tape.timeline.came(SoundFlush(("r1",), "manual"), 2.0)

    tape.until(4.0)
    assert tape.stretches(tape.right) == [(1000, 2000, 3)]
    assert tape.gaps == []


def test_what_the_caller_s_own_player_had_played_besides_is_laid() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 5000), 1.0)
    tape.until(2.0)
    tape.timeline.stopped(["r1"], 2.2)
    tape.timeline.came(SoundFlush(("r1",), "manual"), 2.2)
    tape.timeline.heard("i1", 0, 1900, complete=False)

    tape.until(5.0)
    assert tape.stretches(tape.right) == [(1000, 2900, 3)]
    assert tape.gaps == []


def test_it_is_laid_where_the_file_ends_if_that_is_told_late() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 5000), 1.0)
    tape.timeline.came(SoundFlush(("r1",), "manual"), 2.0)
    tape.take(4.0)
    tape.timeline.heard("i1", 0, 1900, complete=False)

    tape.until(6.0)
    assert tape.stretches(tape.right) == [(1000, 2000, 3), (3500, 4400, 3)]
    assert tape.gaps == []


def test_it_is_named_where_the_next_answer_stands_by_now() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 5000), 1.0)
    tape.timeline.came(SoundFlush(("r1",), "manual"), 2.0)
    tape.timeline.came(piece(4, 500, item="i2", turn="r2"), 2.5)
    tape.take(4.0)
    tape.timeline.heard("i1", 0, 1900, complete=False)

    tape.take(6.0)
    assert tape.stretches(tape.right) == [(1000, 2000, 3), (2500, 3000, 4)]
    assert [gap.why for gap in tape.gaps] == ["never came"]


def test_telephone_sound_goes_on_in_a_file_of_another_rate() -> None:
    tape = Tape(Timeline())
    speak(tape.timeline, 5, 0.0, 200)
    loud = b"\x80"  # 32124
    tape.timeline.came(Sound("r1", "i1", 0, "g711_ulaw", 0, loud * 8 * 2000), 1.0)
    tape.timeline.came(SoundFlush(("r1",), "manual"), 1.5)
    tape.timeline.heard("i1", 0, 1200, complete=False)

    tape.take(6.0, all_of_it=True)
    assert [(begin, end) for begin, end, _ in tape.stretches(tape.right)] == [(1000, 2200)]


def test_an_answer_that_was_heard_to_its_end_is_there_to_its_end() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 500), 1.0)
    tape.timeline.came(piece(4, 500, offset_ms=500), 1.1)
    tape.until(1.2)
    tape.timeline.heard("i1", 0, 1000, complete=True)

    tape.take(1.3, all_of_it=True)
    assert tape.stretches(tape.right) == [(1000, 1500, 3), (1500, 2000, 4)]


def test_one_that_had_not_even_begun_here_is_there_and_the_next_follows_it() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 300), 1.0)
    tape.timeline.came(SoundEnd("r1", "i1", 0, 300 * MS), 1.0)
    tape.timeline.heard("i1", 0, 300, complete=True)
    tape.timeline.came(piece(4, 300, item="i2", turn="r2"), 1.1)

    tape.take(3.0, all_of_it=True)
    assert tape.stretches(tape.right) == [(1000, 1300, 3), (1300, 1600, 4)]


def test_players_that_hear_faster_than_time_make_it_hold_no_more_than_seconds() -> None:
    tape = Tape(Timeline())
    for at in range(20):
        tape.timeline.came(piece(3, 1000, item=f"i{at}", turn=f"r{at}"), 1.0)
        tape.timeline.came(SoundEnd(f"r{at}", f"i{at}", 0, 1000 * MS), 1.0)
        tape.timeline.heard(f"i{at}", 0, 1000, complete=True)

    assert tape.timeline.held_s < 8
    tape.until(30.0)
    assert tape.stretches(tape.right) == [(1000, 21_000, 3)]


def test_it_is_silenced_also_where_the_file_already_has_it() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 5000), 1.0)
    tape.until(2.0)
    tape.timeline.came(SoundFlush(("r1",), "manual"), 2.2)
    tape.until(4.0)
    tape.timeline.heard("i1", 0, 500, complete=False)

    tape.take(4.1)
    assert tape.stretches(tape.right) == [(1000, 1500, 3)]


def test_an_interruption_tells_it_also_where_the_flush_was_lost() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 5000), 1.0)
    tape.timeline.stopped(["r1"], 1.5)
    tape.timeline.came(piece(3, 100, offset_ms=5000), 1.6)

    tape.until(4.0)
    assert tape.stretches(tape.right) == [(1000, 1500, 3)]


def test_an_answer_that_came_slowly_has_the_pauses_that_were_heard() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 500), 1.0)
    tape.until(2.0)
    tape.timeline.came(piece(4, 500, offset_ms=500), 2.0)

    tape.take(4.0, all_of_it=True)
    assert tape.stretches(tape.right) == [(1000, 1500, 3), (2000, 2500, 4)]


def test_the_next_answer_waits_for_the_end_of_the_one_before_it() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 1000), 1.0)
    tape.timeline.came(SoundEnd("r1", "i1", 0, 1000 * MS), 1.0)
    tape.timeline.came(piece(4, 500, item="i2", turn="r2"), 1.2)

    tape.until(5.0)
    assert tape.stretches(tape.right) == [(1000, 2000, 3), (2000, 2500, 4)]


def test_an_end_that_was_lost_holds_nothing_up_for_long() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 500), 1.0)
    tape.timeline.turn_done("r1", 1.1)
    tape.timeline.came(piece(4, 500, item="i2", turn="r2"), 1.2)

    tape.until(5.0)
    assert [value for _, _, value in tape.stretches(tape.right)] == [3, 4]


def test_lost_pieces_of_an_answer_are_silence_and_named() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 500), 1.0)
    tape.timeline.came(piece(4, 500, offset_ms=700), 1.1)

    tape.until(5.0)
    assert tape.stretches(tape.right) == [(1000, 1500, 3), (1700, 2200, 4)]
    assert tape.gaps == [Gap("assistant", 1500, 1700, "lost on the way")]


def test_a_jump_out_of_all_reason_costs_no_memory() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 500), 1.0)
    tape.timeline.came(Sound("r1", "i1", 0, "pcm16", 10**12, tone(4, 20)), 1.1)

    tape.until(3.0)
    assert tape.stretches(tape.right) == [(1000, 1500, 3)]
    assert [gap.why for gap in tape.gaps] == ["a piece made no sense"]


def test_what_waits_to_be_heard_is_bounded() -> None:
    tape = Tape(Timeline())
    for at in range(400):
        tape.timeline.came(piece(3, 1000, offset_ms=1000 * at), 1.0)

    tape.take(2.0)
    assert [gap.why for gap in tape.gaps] == ["more than fits waited to be heard"]


def test_an_answer_that_the_caller_heard_and_that_never_came_is_named() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 500), 1.0)
    tape.until(2.0)
    tape.timeline.heard("i1", 0, 2000, complete=True)

    tape.take(2.1)
    assert tape.gaps == [Gap("assistant", 1500, 3000, "never came")]


def test_an_answer_goes_on_without_a_seam_where_the_recorder_stood_still() -> None:
    tape = Tape(Timeline())
    for at in range(10):
        tape.timeline.came(piece(3, 100, offset_ms=100 * at), 1.0 + at / 10)
    tape.take(2.0)
    tape.timeline.late(2.0, 5.0)
    for at in range(10, 40):
        tape.timeline.came(piece(3, 100, offset_ms=100 * at), 5.0)
    tape.take(5.1)

    tape.take(6.0)
    assert tape.stretches(tape.right) == [(1000, 5000, 3)]


def test_an_answer_that_began_where_the_recorder_stood_still_has_no_seam_either() -> None:
    tape = Tape(Timeline())
    tape.timeline.late(2.0, 5.0)
    for at in range(21):
        tape.timeline.came(piece(3, 100, offset_ms=100 * at), 5.0)
    for at in range(21, 30):
        tape.take(5.1 + (at - 21) / 10)
        tape.timeline.came(piece(3, 100, offset_ms=100 * at), 5.1 + (at - 21) / 10)

    tape.take(8.0)
    ((begin, end, _),) = tape.stretches(tape.right)
    assert end - begin == 3000
    assert 2900 <= begin <= 3000


def test_an_interruption_while_the_recorder_stood_still_is_cut_where_it_was_heard() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 9000), 1.0)
    tape.take(2.0)
    tape.timeline.late(2.0, 5.0)
    tape.timeline.came(SoundFlush(("r1",), "manual"), 5.0)
    tape.timeline.heard("i1", 0, 2500, complete=False)

    tape.take(6.0)
    assert tape.stretches(tape.right) == [(1000, 3500, 3)]


def test_what_was_heard_of_an_answer_may_be_told_after_the_next_was_stopped() -> None:
    tape = Tape(Timeline())
    tape.timeline.came(piece(3, 9000), 1.0)
    tape.take(2.0)
    tape.timeline.stopped(["r1"], 2.0)
    tape.timeline.came(piece(4, 9000, item="i2", turn="r2"), 2.0)
    tape.timeline.stopped(["r2"], 2.0)
    tape.timeline.heard("i1", 0, 2500, complete=False)

    tape.take(6.0)
    assert tape.stretches(tape.right) == [(1000, 3500, 3)]
    assert tape.gaps == []


# --- going on -------------------------------------------------------------------------------------


def test_a_recording_is_continued_with_silence_for_the_time_between() -> None:
    tape = Tape(Timeline(rate_hz=RATE, first=1000 * MS, known={"i1 0": 800}))
    tape.timeline.skip_to(3.0, "away")
    speak(tape.timeline, 5, 3.0, 200)
    tape.timeline.heard("i1", 0, 6000, complete=True)

    tape.take(4.0, all_of_it=True)
    assert tape.stretches(tape.left) == [(3000, 3200, 5)]
    assert tape.gaps == [
        Gap("both", 1000, 3000, "away"),
        # 0.8 s were laid; half a second of it and two of the pause are in the gap above.
        Gap("assistant", 3000, 6700, "it came while the recorder was away"),
    ]


def test_an_answer_that_began_before_is_heard_on_from_where_it_is() -> None:
    tape = Tape(Timeline(rate_hz=RATE, first=1000 * MS))
    tape.timeline.skip_to(3.0, "away")
    tape.timeline.came(piece(3, 500, offset_ms=4000), 3.2)

    tape.take(5.0, all_of_it=True)
    assert tape.stretches(tape.right) == [(3200, 3700, 3)]


def test_a_long_silence_before_the_first_sound_takes_no_memory() -> None:
    timeline = Timeline()
    timeline.spoken(tone(5, 20), "pcm16", "t", 1, 36_000.0)
    chunk = timeline.settled(36_001.0)

    assert chunk is not None
    assert chunk.first == 35_998 * RATE
