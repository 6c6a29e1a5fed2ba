import asyncio
import select
import shutil
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
import zmq

from voicebus.bus import testing, topics
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.sockets import FRAMES_LIMIT, CancelWatch, Route, Sent, Sockets

Mail = asyncio.Queue[Sequence[bytes]]
T = TypeVar("T")
PATIENCE_S = 10


@pytest.fixture
async def endpoints() -> AsyncIterator[Endpoints]:
    with testing.run_folder() as folder:
        yield Endpoints(folder)


@pytest.fixture
async def sockets(endpoints: Endpoints) -> AsyncIterator[Sockets]:
    with Sockets() as opened:
        yield opened


async def next_of(mail: asyncio.Queue[T]) -> T:
    async with asyncio.timeout(PATIENCE_S):
        return await mail.get()


async def test_a_dealer_and_a_router_talk_both_ways(sockets: Sockets, endpoints: Endpoints) -> None:
    replies: Mail = asyncio.Queue()

    def echo(route: Route, frames: Sequence[bytes]) -> None:
        assert router.send(route, [b"again", *frames]) is Sent.OK

    router = sockets.router(endpoints.commands(0), echo)
    dealer = sockets.dealer(endpoints.commands(0), replies.put_nowait, name="me")

    assert dealer.send([b"one", b"two"]) is Sent.OK

    assert await next_of(replies) == [b"again", b"one", b"two"]


async def test_a_req_socket_of_any_language_is_answered_through_its_empty_frame(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    def echo(route: Route, frames: Sequence[bytes]) -> None:
        router.send(route, frames)

    router = sockets.router(endpoints.commands(0), echo)

    def ask() -> list[bytes]:
        with zmq.Context() as context, context.socket(zmq.REQ) as req:
            req.setsockopt(zmq.LINGER, 0)
            req.setsockopt(zmq.RCVTIMEO, PATIENCE_S * 1000)
            req.connect(endpoints.commands(0))
            req.send_multipart([b"hello"])
            return req.recv_multipart()

    assert await asyncio.to_thread(ask) == [b"hello"]


async def test_messages_to_a_peer_that_comes_later_wait_for_it(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    arrived: Mail = asyncio.Queue()
    dealer = sockets.dealer(endpoints.commands(0), lambda frames: None, name="me")
    for n in range(3):
        assert dealer.send([b"%d" % n]) is Sent.OK

    sockets.router(endpoints.commands(0), lambda route, frames: arrived.put_nowait(frames))

    assert [await next_of(arrived) for _ in range(3)] == [[b"0"], [b"1"], [b"2"]]


async def test_a_peer_that_is_gone_is_an_answer_and_not_a_silence(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    routes: asyncio.Queue[Route] = asyncio.Queue()
    gone = asyncio.Event()
    router = sockets.router(endpoints.commands(0), lambda route, frames: routes.put_nowait(route))
    dealer = sockets.dealer(endpoints.commands(0), lambda frames: None, name="me")
    dealer.send([b"hello"])
    route = await next_of(routes)

    dealer.close()

    def look() -> None:
        if router.send(route, [b"still there?"]) is Sent.GONE:
            gone.set()
        else:
            asyncio.get_running_loop().call_later(0.01, look)

    look()
    async with asyncio.timeout(PATIENCE_S):
        await gone.wait()


async def test_a_peer_that_connects_again_is_heard_before_its_old_connection_has_ended(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    heard: Mail = asyncio.Queue()

    def echo(route: Route, frames: Sequence[bytes]) -> None:
        heard.put_nowait(frames)
        router.send(route, [b"again", *frames])

    router = sockets.router(endpoints.commands(0), echo)
    with zmq.Context() as context, context.socket(zmq.DEALER) as old:
        old.setsockopt(zmq.LINGER, 0)
        old.setsockopt(zmq.ROUTING_ID, b"me")
        old.connect(endpoints.commands(0))
        old.send(b"before")
        assert await next_of(heard) == [b"before"]
        with context.socket(zmq.DEALER) as new:
            new.setsockopt(zmq.LINGER, 0)
            new.setsockopt(zmq.RCVTIMEO, PATIENCE_S * 1000)
            new.setsockopt(zmq.ROUTING_ID, b"me")
            new.connect(endpoints.commands(0))
            new.send(b"after")

            assert await next_of(heard) == [b"after"]
            assert await asyncio.to_thread(new.recv_multipart) == [b"again", b"after"]


async def test_a_full_queue_is_an_answer_and_nothing_blocks(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    dealer = sockets.dealer(endpoints.commands(0), lambda frames: None, name="me", queue=5)

    answers = [dealer.send([b"x"]) for _ in range(10)]

    assert answers == [Sent.OK] * 5 + [Sent.FULL] * 5


async def test_what_is_sent_on_a_closed_socket_goes_nowhere(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    dealer = sockets.dealer(endpoints.commands(0), lambda frames: None, name="me")
    dealer.close()
    dealer.close()

    assert dealer.send([b"x"]) is Sent.GONE


async def test_a_publisher_sees_each_subscription_and_answers_it(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    heard: Mail = asyncio.Queue()
    publisher = sockets.publisher(
        endpoints.events(0), lambda topic: publisher.publish(topic, [b"welcome"])
    )

    sockets.subscriber([endpoints.events(0)], [b"event/s0/"], heard.put_nowait)
    assert await next_of(heard) == [b"event/s0/", b"welcome"]
    sockets.subscriber([endpoints.events(0)], [b"event/s0/"], heard.put_nowait)

    # To the second as well, though the topic is not new; the first hears it again.
    assert [await next_of(heard) for _ in range(2)] == [[b"event/s0/", b"welcome"]] * 2


async def test_a_subscription_whose_signal_a_send_takes_along_is_seen_all_the_same(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    changed: asyncio.Queue[bytes] = asyncio.Queue()
    publisher = sockets.publisher(endpoints.events(0), changed.put_nowait)
    subscriber = sockets.subscriber([endpoints.events(0)], [b"event/0/"], lambda frames: None)
    await next_of(changed)

    for number in range(1, 20):
        subscriber.subscribe(f"event/{number}/".encode())
        # It has come, and before the loop can look, a send takes it in and its signal along.
        assert select.select([publisher._raw.FD], [], [], PATIENCE_S)[0]
        publisher.publish(b"event/0/a", [b"{}"])

        assert await next_of(changed) == f"event/{number}/".encode()


async def test_a_message_whose_signal_a_refused_send_takes_along_is_read_all_the_same(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    """Else the successor of a killed process is not heard until somebody else says something."""
    heard: Mail = asyncio.Queue()
    router = sockets.router(endpoints.commands(0), lambda route, frames: heard.put_nowait(frames))
    dealer = sockets.dealer(endpoints.commands(0), lambda frames: None, name="successor")
    dealer.send([b"0"])
    await next_of(heard)

    for number in range(1, 20):
        dealer.send([b"%d" % number])
        assert select.select([router._raw.FD], [], [], PATIENCE_S)[0]
        refused = router.send((b"killed",), [b"are you there?"])

        assert refused is Sent.GONE
        assert await next_of(heard) == [b"%d" % number]


async def test_a_message_of_countless_frames_stops_nobody(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    got: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
    sockets.router(
        endpoints.commands(0), lambda route, frames: got.put_nowait((len(frames), turns))
    )
    dealer = sockets.dealer(endpoints.commands(0), print, name="countless")
    for frames in ([b"x"] * 100_000, [b"as", b"usual"]):
        dealer.send(frames)
    turn()
    (first, before), (second, after) = [await next_of(got) for _ in range(2)]

    assert (first, second) == (FRAMES_LIMIT - 1, 2)  # one is the sender's name
    assert after - before > 10


async def test_a_frame_beyond_the_limit_costs_its_sender_the_connection_and_nobody_else(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    heard: asyncio.Queue[list[bytes]] = asyncio.Queue()
    sockets.router(
        endpoints.commands(0),
        lambda route, frames: heard.put_nowait(list(frames)),
        max_frame_bytes=1000,
    )
    one, other = (
        sockets.dealer(endpoints.commands(0), lambda frames: None, name=name)
        for name in ("one", "other")
    )

    one.send([b"x" * 1001])
    other.send([b"x" * 1000])
    assert await next_of(heard) == [b"x" * 1000]

    async with asyncio.timeout(PATIENCE_S):
        while heard.empty():  # what is said before the connection has ended is lost with it
            one.send([b"again"])
            await asyncio.sleep(0.01)
    assert heard.get_nowait() == [b"again"]


async def test_many_who_subscribe_to_the_same_at_once_are_told_together(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    told: list[bytes] = []

    def welcome(topic: bytes) -> None:
        told.append(topic)
        publisher.publish(topic, [b"welcome"])

    publisher = sockets.publisher(endpoints.events(0), welcome)
    heard: list[Mail] = [asyncio.Queue() for _ in range(200)]

    for mail in heard:
        sockets.subscriber([endpoints.events(0)], [b"event/"], mail.put_nowait)

    for mail in heard:
        assert await next_of(mail) == [b"event/", b"welcome"]
    assert 1 <= len(told) < len(heard)


async def test_a_subscription_longer_than_any_topic_is_not_taken_and_others_are(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    heard: Mail = asyncio.Queue()
    taken: asyncio.Queue[bytes] = asyncio.Queue()
    publisher = sockets.publisher(endpoints.events(0), taken.put_nowait)
    longest = b"event/" + b"x" * (topics.LIMIT_BYTES - 6)

    sockets.subscriber([endpoints.events(0)], [b"y" * 100_000], heard.put_nowait)
    sockets.subscriber([endpoints.events(0)], [longest], heard.put_nowait)

    assert await next_of(taken) == longest
    publisher.publish(longest, [b"{}"])
    assert await next_of(heard) == [longest, b"{}"]
    assert publisher.topics == {longest}


async def test_only_what_was_subscribed_arrives(sockets: Sockets, endpoints: Endpoints) -> None:
    heard: Mail = asyncio.Queue()
    publisher = sockets.publisher(
        endpoints.events(0), lambda topic: publisher.publish(topic, [b"welcome"])
    )
    sockets.subscriber([endpoints.events(0)], [b"event/s1/"], heard.put_nowait)
    await next_of(heard)

    for topic in (b"event/s11/a", b"event/s1/a", b"cancel/s1/a", b"event/s1/b"):
        publisher.publish(topic, [b"{}"])

    assert [(await next_of(heard))[0] for _ in range(2)] == [b"event/s1/a", b"event/s1/b"]


async def test_a_publisher_knows_whether_somebody_wants_a_topic(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    changed: asyncio.Queue[bytes] = asyncio.Queue()
    publisher = sockets.publisher(endpoints.events(0), changed.put_nowait)
    assert not publisher.wanted(b"raw/s1/response.done")

    subscriber = sockets.subscriber([endpoints.events(0)], [b"raw/s1/"], lambda frames: None)
    assert await next_of(changed) == b"raw/s1/"

    assert publisher.wanted(b"raw/s1/response.done")
    assert not publisher.wanted(b"raw/s2/response.done")
    subscriber.unsubscribe(b"raw/s1/")
    subscriber.subscribe(b"raw/s3/")
    assert await next_of(changed) == b"raw/s3/"
    assert not publisher.wanted(b"raw/s1/response.done")


async def test_a_topic_stays_wanted_until_its_last_subscriber_leaves(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    changed: asyncio.Queue[bytes] = asyncio.Queue()
    publisher = sockets.publisher(endpoints.events(0), changed.put_nowait)
    first = sockets.subscriber([endpoints.events(0)], [b"raw/"], lambda frames: None)
    second = sockets.subscriber([endpoints.events(0)], [b"raw/"], lambda frames: None)
    assert [await next_of(changed) for _ in range(2)] == [b"raw/", b"raw/"]

    first.unsubscribe(b"raw/")
    first.subscribe(b"mark/1")
    assert await next_of(changed) == b"mark/1"
    assert publisher.wanted(b"raw/x")

    second.unsubscribe(b"raw/")
    second.subscribe(b"mark/2")
    assert await next_of(changed) == b"mark/2"
    assert not publisher.wanted(b"raw/x")


async def test_a_flood_on_one_socket_does_not_starve_the_others(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    flood, quiet, floods_before = 3000, asyncio.Event(), 0
    done = asyncio.Event()
    seen = 0

    def flooded(route: Route, frames: Sequence[bytes]) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            # From here on both have something to do; a drain without bound would never let go.
            asyncio.get_running_loop().call_soon(note)
        if seen == flood:
            done.set()

    def note() -> None:
        nonlocal floods_before
        floods_before = seen
        quiet.set()

    dealer = sockets.dealer(endpoints.commands(0), lambda frames: None, name="me", queue=flood)
    for _ in range(flood):
        assert dealer.send([b"x"]) is Sent.OK
    sockets.router(endpoints.commands(0), flooded, queue=flood)
    # A late pass of the loop: the socket's own signal and our first look both come in it.
    time.sleep(0.2)  # noqa: ASYNC251

    async with asyncio.timeout(PATIENCE_S):
        await quiet.wait()
        await done.wait()
    assert floods_before <= 64
    assert seen == flood


ASLEEP = """
import asyncio, sys, threading, time
from voicebus.bus import sockets

sockets.HEARTBEAT_MS, sockets.HEARTBEAT_TIMEOUT_MS = 50, 150


async def flood(address, over):
    with sockets.Sockets() as own:
        publisher = own.publisher(address)
        while not over.is_set():
            for _ in range(200):
                publisher.publish(b"", [bytes(300)])
            await asyncio.sleep(0.002)


async def main(address):
    over, heard = threading.Event(), asyncio.Event()
    flooding = threading.Thread(target=lambda: asyncio.run(flood(address, over)))
    flooding.start()
    with sockets.Sockets() as own:
        own.subscriber([address], [b""], lambda frames: heard.set(), queue=10)
        for _ in range(5):
            await heard.wait()
            time.sleep(0.4)  # longer than any heartbeat may take
            heard.clear()
        await heard.wait()
    over.set()
    flooding.join()


asyncio.run(main(sys.argv[1]))
"""


async def test_who_listens_to_a_flood_and_sleeps_longer_than_a_heartbeat_lives_on(
    endpoints: Endpoints,
) -> None:
    """In a process of its own: libzmq used to abort it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", ASLEEP, endpoints.events(0), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()

    assert process.returncode == 0, said.decode()


async def test_an_exception_in_a_handler_is_told_to_the_owner(endpoints: Endpoints) -> None:
    told: asyncio.Queue[Exception] = asyncio.Queue()

    def bug(route: Route, frames: Sequence[bytes]) -> None:
        raise RuntimeError("a bug")

    with Sockets(failed=told.put_nowait) as sockets:
        sockets.router(endpoints.commands(0), bug)
        sockets.dealer(endpoints.commands(0), lambda frames: None, name="me").send([b"x"])
        error = await next_of(told)

    assert str(error) == "a bug"


async def test_a_handler_may_close_its_own_socket(sockets: Sockets, endpoints: Endpoints) -> None:
    closed = asyncio.Event()

    def close(frames: Sequence[bytes]) -> None:
        dealer.close()
        closed.set()

    def answer(route: Route, frames: Sequence[bytes]) -> None:
        for _ in range(3):
            router.send(route, [b"x"])

    router = sockets.router(endpoints.commands(0), answer)
    dealer = sockets.dealer(endpoints.commands(0), close, name="me")
    dealer.send([b"hello"])

    async with asyncio.timeout(PATIENCE_S):
        await closed.wait()


async def test_after_closing_no_socket_file_is_left(endpoints: Endpoints) -> None:
    with Sockets() as sockets:
        sockets.router(endpoints.commands(0), lambda route, frames: None)
        sockets.publisher(endpoints.events(0))
        assert len(list(endpoints.run_dir.iterdir())) == 2

    assert list(endpoints.run_dir.iterdir()) == []


async def test_a_socket_whose_file_was_deleted_is_found_again_and_keeps_who_is_connected(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    mail: asyncio.Queue[tuple[Route, bytes]] = asyncio.Queue()
    router = sockets.router(endpoints.commands(0), lambda r, f: mail.put_nowait((r, f[0])))
    answers: Mail = asyncio.Queue()
    old = sockets.dealer(endpoints.commands(0), answers.put_nowait, name="old")
    old.send([b"before"])
    there, _ = await next_of(mail)
    path = Path(endpoints.commands(0).removeprefix("ipc://"))
    whole = sockets.bind_again()
    await asyncio.to_thread(path.unlink)

    again = sockets.bind_again()
    sockets.dealer(endpoints.commands(0), answers.put_nowait, name="new").send([b"after"])
    _, said = await next_of(mail)
    router.send(there, [b"still here"])

    assert whole == []
    assert again == [path]
    assert said == b"after"
    assert await next_of(answers) == [b"still here"]


async def test_who_has_no_folder_any_more_binds_nothing_again(endpoints: Endpoints) -> None:
    folder = endpoints.run_dir / "more"
    folder.mkdir(mode=0o700)
    with Sockets() as sockets:
        sockets.publisher(Endpoints(folder).events(0))
        shutil.rmtree(folder)

        assert sockets.bind_again() == []


async def test_a_folder_that_is_not_there_is_named(sockets: Sockets, endpoints: Endpoints) -> None:
    nowhere = Endpoints(endpoints.run_dir / "nowhere")

    with pytest.raises(OSError, match=r"cannot bind ipc://.*/nowhere/.*is the run folder there"):
        sockets.router(nowhere.commands(0), lambda route, frames: None)


async def test_a_cancel_is_seen_by_polling_without_a_loop(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    subscribed = asyncio.Event()
    publisher = sockets.publisher(endpoints.events(0), lambda topic: subscribed.set())
    watch = CancelWatch([endpoints.events(0)])
    try:
        assert watch.poll() == []
        async with asyncio.timeout(PATIENCE_S):
            await subscribed.wait()
        publisher.publish(b"event/s1/x", [b"not for it"])
        publisher.publish(b"cancel/s1/interrupt", [b"{}"])

        assert await asyncio.to_thread(_poll_until_something, watch) == [
            [b"cancel/s1/interrupt", b"{}"]
        ]
        assert watch.poll() == []
    finally:
        watch.close()


def _poll_until_something(watch: CancelWatch) -> list[list[bytes]]:
    poller = zmq.Poller()
    poller.register(watch.fd, zmq.POLLIN)
    while not (found := watch.poll()):
        assert poller.poll(PATIENCE_S * 1000)
    return found


async def test_a_dealers_name_is_another_at_each_start(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    routes: asyncio.Queue[Route] = asyncio.Queue()
    sockets.router(endpoints.commands(0), lambda route, frames: routes.put_nowait(route))
    for _ in range(2):
        sockets.dealer(endpoints.commands(0), lambda frames: None, name="host-0").send([b"x"])

    first, second = await next_of(routes), await next_of(routes)

    assert first != second
    assert first[0].startswith(b"host-0.")
    assert second[0].startswith(b"host-0.")


def test_the_helpers_of_tests_find_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "session-0.lock").touch()
    (tmp_path / "provider.key").touch()
    (tmp_path / "session-0.log").touch()

    assert testing.left_behind(tmp_path) == [
        f"file {tmp_path / 'provider.key'}",
        f"lock {tmp_path / 'session-0.lock'}",
    ]


async def test_a_publisher_knows_whether_a_lane_is_wanted_at_all(
    sockets: Sockets, endpoints: Endpoints
) -> None:
    changed: asyncio.Queue[bytes] = asyncio.Queue()
    publisher = sockets.publisher(endpoints.events(0), changed.put_nowait)
    assert not publisher.wants_lane("raw")
    subscriber = sockets.subscriber(
        [endpoints.events(0)], [b"event/", b"rawish", b"ra"], lambda frames: None
    )

    assert sorted([await next_of(changed) for _ in range(3)]) == [b"event/", b"ra", b"rawish"]
    assert publisher.wants_lane("event")
    assert publisher.wants_lane("raw")  # "ra" covers it
    assert not publisher.wants_lane("audio")

    subscriber.unsubscribe(b"ra")
    subscriber.subscribe(b"last/")
    assert await next_of(changed) == b"last/"
    assert not publisher.wants_lane("raw")
