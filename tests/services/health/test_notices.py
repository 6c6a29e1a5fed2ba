import pytest

from voicebus.services.health.notices import End, Inbox, Notice, end_of

BODY = b"processname:session-0 groupname:session-0 from_state:RUNNING expected:0 pid:12"
LINE = (
    b"ver:3.0 server:voicebus serial:21 pool:health-0 poolserial:10 "
    b"eventname:PROCESS_STATE_EXITED len:%d\n" % len(BODY)
)
EXITED = Notice("PROCESS_STATE_EXITED", "session-0", 12)


def test_a_notice_is_taken_apart() -> None:
    assert Inbox().take(LINE + BODY) == [EXITED]


@pytest.mark.parametrize("cut", [1, len(LINE) - 1, len(LINE), len(LINE) + 5])
def test_a_notice_in_pieces_is_whole_when_its_last_byte_is_there(cut: int) -> None:
    inbox, both = Inbox(), LINE + BODY

    assert inbox.take(both[:cut]) == []
    assert inbox.take(both[cut:]) == [EXITED]


def test_two_notices_in_one_piece_are_two() -> None:
    stopping = b"ver:3.0 eventname:SUPERVISOR_STATE_CHANGE_STOPPING len:0\n"

    assert Inbox().take(LINE + BODY + stopping) == [
        EXITED,
        Notice("SUPERVISOR_STATE_CHANGE_STOPPING"),
    ]


@pytest.mark.parametrize(
    ("how", "end"),
    [
        ("terminated by SIGKILL; not expected", End(None, "SIGKILL")),
        ("terminated by SIGSEGV (core dumped); not expected", End(None, "SIGSEGV")),
        ("exit status 3; not expected", End(3, None)),
        ("exit status 0; expected", End(0, None)),
    ],
)
def test_the_log_tells_how_a_process_ended(how: str, end: End) -> None:
    log = [
        "2026-11-23 08:40:40,543 WARN exited: session-0 (exit status 9; not expected)",
        f"2026-11-23 08:40:41,543 WARN exited: session-0 ({how})",
        "2026-11-23 08:40:42,543 WARN exited: session-01 (exit status 8; not expected)",
    ]

    assert end_of("session-0", log) == end


def test_an_end_that_no_line_tells_of_has_no_code() -> None:
    assert end_of("session-0", []) == End(None, None)
