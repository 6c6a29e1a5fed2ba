from voicebus.services.recorder import account as accounts
from voicebus.services.recorder.account import Account, GapTold
from voicebus.services.recorder.timeline import Gap


def _account() -> Account:
    return Account(session_id="s0-x", began_at_us=1_000_000)


def test_what_was_written_is_read_again() -> None:
    account = _account()
    accounts.note(account, Gap("both", 10, 30, "away"))
    accounts.stalled(account, 5, 9)
    accounts.end(account, 2_000_000, "client")

    assert accounts.read(accounts.written(account)) == account
    assert accounts.read(b"{") is None


def test_nothing_missing_is_complete() -> None:
    account = _account()
    accounts.stalled(account, 5, 9)
    accounts.end(account, 2_000_000, "client")

    assert account.is_complete
    assert (account.ended_at_us, account.ended_by) == (2_000_000, "client")


def test_what_is_missing_counts_in_each_channel_and_is_not_complete() -> None:
    account = _account()
    accounts.note(account, Gap("both", 0, 100, "away"))
    accounts.note(account, Gap("caller", 300, 350, "lost"))
    accounts.end(account, 2_000_000, "client")

    assert account.missing_ms == {"caller": 150, "assistant": 100}
    assert not account.is_complete


def test_gaps_that_touch_are_one() -> None:
    account = _account()
    for at in range(0, 100, 20):
        accounts.note(account, Gap("caller", at, at + 20, "lost"))
    accounts.note(account, Gap("caller", 200, 220, "lost"))

    assert account.gaps == [GapTold("caller", 0, 100, "lost"), GapTold("caller", 200, 220, "lost")]


def test_the_gaps_told_are_bounded_and_the_sum_is_not() -> None:
    account = _account()
    for at in range(accounts.GAPS_KEPT + 7):
        accounts.note(account, Gap("caller", 1000 * at, 1000 * at + 1, "lost"))

    assert len(account.gaps) == accounts.GAPS_KEPT
    assert account.gaps_left_out == 7
    assert account.missing_ms["caller"] == accounts.GAPS_KEPT + 7


def test_last_events_that_cannot_be_had_leave_it_incomplete() -> None:
    account = _account()
    accounts.end(account, 2_000_000, "vanished")

    assert not account.is_complete
