from voicebus.services.session.views import PAGE_BYTES, page

THIRD = b"a" * (PAGE_BYTES // 3)


def test_a_page_holds_what_was_asked_for_or_fewer_large_events_and_always_one() -> None:
    assert page([b"a", b"b", b"c"], 2) == [b"a", b"b"]
    assert page([THIRD] * 5, 5) == [THIRD] * 3
    assert page([THIRD * 4, b"b"], 5) == [THIRD * 4]
    assert page([], 5) == []
