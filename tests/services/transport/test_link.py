from collections.abc import Callable, Sequence

from voicebus.bus.sockets import Route, Sent
from voicebus.services.transport.link import Link
from voicebus.services.transport.ring import Budget, Ring

A: Route = (b"a",)
B: Route = (b"b",)


class Session:
    """What the link needs of a conversation."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.ring = Ring(100_000, Budget(1_000_000))

    def tell(self, *numbers: int) -> None:
        for number in numbers:
            self.ring.append([b"%d" % number])


class Wire:
    """A router that a test makes full or empty, and a clock that it winds."""

    def __init__(self) -> None:
        self.sent: list[tuple[Route, bytes]] = []
        self.answers: dict[Route, Sent] = {}
        self.room = 1_000_000
        self.later: list[Callable[[], None]] = []

    def send(self, route: Route, frames: Sequence[bytes]) -> Sent:
        answer = self.answers.get(route, Sent.OK)
        if answer is Sent.OK and not self.room:
            return Sent.FULL
        if answer is Sent.OK:
            self.room -= 1
            self.sent.append((route, frames[0]))
        return answer

    def wait(self, seconds: float, call: Callable[[], None]) -> None:
        self.later.append(call)

    def wind(self) -> None:
        due, self.later = self.later, []
        for call in due:
            call()

    def taken(self) -> list[bytes]:
        found, self.sent = [frame for _, frame in self.sent], []
        return found


def linked() -> tuple[Link[Session], Wire, Session]:
    wire = Wire()
    link: Link[Session] = Link(wire.send, wire.wait)
    session = Session("s0-x")
    link.hello(A, 0, "inc", 0.0)
    link.add(session, 0)
    return link, wire, session


def test_events_go_up_at_once_and_once() -> None:
    link, wire, session = linked()
    session.tell(1, 2)
    link.pump(session)
    session.tell(3)
    link.pump(session)

    assert wire.taken() == [b"1", b"2", b"3"]


def test_a_full_queue_is_retried_from_where_it_stopped() -> None:
    link, wire, session = linked()
    wire.room = 2
    session.tell(1, 2, 3)
    link.pump(session)
    session.tell(4)
    link.pump(session)
    wire.room = 100
    wire.wind()

    assert wire.taken() == [b"1", b"2", b"3", b"4"]


def test_a_process_that_was_gone_gets_again_what_it_has_not_acknowledged() -> None:
    link, wire, session = linked()
    session.tell(1, 2)
    link.pump(session)
    session.ring.acknowledge(1)
    wire.answers[A] = Sent.GONE
    session.tell(3)
    link.pump(session)
    del wire.answers[A]
    wire.taken()

    assert link.heard(A, 1.0) == 0
    assert wire.taken() == [b"2", b"3"]


def test_a_newer_hello_takes_the_place_of_an_older_one() -> None:
    link, wire, session = linked()
    session.tell(1, 2)
    link.pump(session)
    wire.taken()
    link.hello(B, 0, "inc2", 1.0)
    link.owns({"s0-x": 1}, 0, 1.0)

    assert wire.sent == [(B, b"2")]
    assert link.heard(A, 2.0) is None
    assert link.heard(B, 2.0) == 0


def test_a_storm_of_hellos_is_answered_by_one_repetition() -> None:
    link, wire, session = linked()
    session.tell(1, 2)
    link.pump(session)
    wire.taken()
    for _ in range(100):
        link.hello(A, 0, "inc", 1.0)
        link.owns({"s0-x": 0}, 0, 1.0)
    assert wire.taken() == [b"1", b"2"]

    link.owns({"s0-x": 0}, 0, 1.2)
    assert wire.taken() == [b"1", b"2"]


def test_what_a_process_does_not_name_is_not_sent_to_it() -> None:
    link, wire, session = linked()
    session.tell(1)
    link.owns({}, 0, 0.0)
    link.pump(session)
    assert wire.taken() == []

    link.claim("s0-x")
    link.pump(session)
    assert wire.taken() == [b"1"]


def test_orphans_are_those_whose_process_is_silent_or_does_not_name_them() -> None:
    link, _, session = linked()
    assert link.orphans(60.0, 60.0) == []
    assert link.orphans(60.1, 60.0) == [session]

    link.heard(A, 60.0)
    assert link.orphans(60.1, 60.0) == []
    link.owns({}, 0, 61.0)
    link.heard(A, 120.0)
    assert link.orphans(121.0, 60.0) == []
    assert link.orphans(121.1, 60.0) == [session]


def test_what_stays_unacknowledged_is_sent_again_at_ever_longer_waits() -> None:
    link, wire, session = linked()
    session.tell(1)
    link.pump(session)
    wire.taken()

    resent = [second for second in range(20) if link.resend_lost(float(second))]

    assert resent == [2, 6, 14]
    assert wire.taken() == [b"1"] * 3


def test_progress_is_no_loss() -> None:
    link, wire, session = linked()
    for second in range(10):
        session.tell(second)
        link.pump(session)
        assert link.resend_lost(float(second)) == 0
        session.ring.acknowledge(second)
    assert len(wire.taken()) == 10


def test_one_session_with_much_to_tell_lets_the_others_in() -> None:
    link, wire, session = linked()
    session.tell(*range(1000))
    link.pump(session)
    assert len(wire.taken()) == 256

    other = Session("s0-y")
    link.add(other, 0)
    other.tell(7)
    link.pump(other)
    assert wire.taken() == [b"7"]
    for _ in range(3):
        wire.wind()
    assert len(wire.taken()) == 744


def test_it_is_settled_when_nothing_waits_for_a_process_that_is_there() -> None:
    link, wire, session = linked()
    assert link.is_settled()
    session.tell(1)
    link.pump(session)
    assert not link.is_settled()
    wire.answers[A] = Sent.GONE
    link.probe([b"anybody?"])
    assert link.is_settled()
