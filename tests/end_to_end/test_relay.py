"""Programs elsewhere: with the right key they hold conversations, with another nothing."""

import asyncio
import contextlib
import json
import random
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from tests.ports import free_ports
from voicebus.bus import curve
from voicebus.bus.sockets import Keys
from voicebus.cli import keys as cli_keys
from voicebus.cli.restart import Restart
from voicebus.cli.testing import Stack
from voicebus.client import CommandRefused, RealtimeClient, RealtimeSession, Sound
from voicebus.client.remote import Elsewhere, read_keys

HOST = "127.0.0.1"
SCENARIO = Path(__file__).parents[1] / "examples" / "weather.toml"
QUIET_MS = 300
WITHIN_MS = 10_000


class Door:
    """A cell with a relay, and the key files of its clients."""

    def __init__(self, cell: Stack, port: int, keys: Path) -> None:
        self.cell, self.port, self.keys = cell, port, keys

    def client(self, name: str) -> RealtimeClient:
        return RealtimeClient(
            Elsewhere(HOST, self.port), keys=read_keys(self.keys / "issued" / f"{name}.toml")
        )

    def key(self, name: str) -> Keys:
        return read_keys(self.keys / "issued" / f"{name}.toml")

    @contextmanager
    def socket(self, kind: int, keys: Keys | None) -> Iterator[Any]:
        """A plain ZeroMQ socket, as any language has it; not connected yet."""
        with zmq.Context() as context, context.socket(kind) as raw:
            raw.setsockopt(zmq.LINGER, 0)
            raw.setsockopt(zmq.RCVTIMEO, WITHIN_MS)
            if keys is not None:
                raw.curve_serverkey = keys.server.encode()
                raw.curve_publickey = keys.public.encode()
                raw.curve_secretkey = keys.secret.encode()
            yield raw


@pytest.fixture(scope="module")
def door(start_shared_stack: Callable[..., Stack], tmp_path_factory: Any) -> Door:
    keys = tmp_path_factory.mktemp("keys")
    cli_keys.keys("server", folder=keys)
    cli_keys.keys("add", "alice", folder=keys)
    cli_keys.keys("add", "bob", folder=keys)
    cli_keys.keys(
        "add", "board", folder=keys, lanes="event", sessions="*", commands="list,replay", talk=False
    )
    port = free_ports(3)
    settings = {
        "VOICEBUS_RELAY_BIND": HOST,
        "VOICEBUS_RELAY_PORT": str(port),
        "VOICEBUS_RELAY_KEYS": str(keys),
        "VOICEBUS_RELAY_MAX_MESSAGE_BYTES": "100000",
        "VOICEBUS_RELAY_SUBSCRIPTIONS": "50",
    }
    return Door(start_shared_stack(scenario=SCENARIO, settings=settings), port, keys)


async def _answer(session: RealtimeSession) -> list[str]:
    kinds = []
    events = session.events()
    await session.send_text("weather")
    async for event in events:
        kinds.append(event.kind)
        if event.kind == "assistant_turn_completed":
            break
    return kinds


async def test_a_whole_conversation_by_tcp(door: Door) -> None:
    async with door.client("alice") as client, client.connect() as session:
        sound = session.audio_output()
        kinds = await _answer(session)
        async for piece in sound:
            assert isinstance(piece, Sound)
            break
        await session.send_audio(bytes(960))
        shown = [one["session_id"] for one in await client.sessions()]

        assert "assistant_transcript" in kinds
        assert shown == [session.id]


async def test_the_sound_of_a_caller_elsewhere_is_heard(door: Door) -> None:
    async with door.client("alice") as client:
        session = await client.connect(turn_detection="none")
        events = session.events()
        await session.send_audio(bytes(48_000))
        await session.commit_audio()
        async for event in events:
            if event.kind == "user_transcript":
                break
        await session.close()


async def test_another_s_session_is_closed_to_it_and_it_is_told(door: Door) -> None:
    async with door.client("alice") as alice, door.client("bob") as bob:
        session = await alice.connect()

        with pytest.raises(CommandRefused, match="is not one of client 'bob'") as refused:
            await bob.attach(session.id)
        assert refused.value.code == "not_allowed"
        assert await bob.sessions() == []

        heard: asyncio.Queue[list[bytes]] = asyncio.Queue()
        topic = f"event/{session.id}/".encode()
        bob.sockets().subscriber([f"tcp://{HOST}:{door.port}"], [topic], heard.put_nowait)
        async with asyncio.timeout(10):
            frames = await heard.get()
        told = json.loads(frames[1])
        assert frames[0] == topic + b"refused/bob"
        assert (told["kind"], told["client"], told["code"]) == (
            "subscription_refused",
            "bob",
            "not_allowed",
        )
        await _answer(session)
        await session.close()
        assert heard.empty(), "bob has heard what alice's session says"


async def test_no_id_that_is_used_twice_shows_another_s_sessions(door: Door) -> None:
    async with (
        door.client("alice") as alice,
        door.client("bob") as bob,
        alice.connect() as mine,
        bob.connect() as another,
    ):
        # The reply to the first waits for the journal, the second's does not.
        frames = [
            _command("send_text", id="one-id-for-both", session_id=mine.id, data={"text": "Hi"}),
            _command("list", id="one-id-for-both"),
        ]
        replies: asyncio.Queue[Any] = asyncio.Queue()
        dealer = alice.sockets().dealer(
            f"tcp://{HOST}:{door.port + 1}", replies.put_nowait, name="twice"
        )
        for frame in frames:
            dealer.send([frame])
        async with asyncio.timeout(10):
            told = [json.loads((await replies.get())[-1]) for _ in frames]

    assert another.id not in json.dumps(told)
    # Usually a conflict; where the first was answered before the second came, its own alone.
    assert {one["error"]["code"] for one in told if one["error"]} <= {"conflict"}


async def test_permissions_name_what_is_allowed(door: Door) -> None:
    async with door.client("board") as board, door.client("alice") as alice:
        session = await alice.connect()
        await anext(session.events())  # there is something to replay
        with pytest.raises(CommandRefused, match="may not open \\(it may: list, replay\\)"):
            await board.connect()
        with pytest.raises(CommandRefused, match="may not close"):
            await board.commander.ask(0, "close", session_id=session.id)

        assert session.id in [one["session_id"] for one in await board.sessions()]
        reply = await board.commander.ask(0, "replay", {"from": 1}, session_id=session.id)
        assert reply.data["events"][0]["kind"] == "session_opened"
        await session.close()


async def test_sessions_are_allowed_by_their_beginnings(door: Door) -> None:
    for name, sessions in (("near", "s0-"), ("far", "s1-,s00-")):
        cli_keys.keys("add", name, folder=door.keys, lanes="event", sessions=sessions, talk=False)
    async with (
        door.client("alice") as alice,
        door.client("near") as near,
        door.client("far") as far,
    ):
        session = await alice.connect()
        told = {}
        for name, client in (("near", near), ("far", far)):
            heard: asyncio.Queue[list[bytes]] = asyncio.Queue()
            topics = [f"event/{session.id}/".encode()]
            client.sockets().subscriber([f"tcp://{HOST}:{door.port}"], topics, heard.put_nowait)
            async with asyncio.timeout(10):
                while name not in told:  # what happens may come before the welcome
                    kind = json.loads((await heard.get())[1])["kind"]
                    if kind in ("welcome", "subscription_refused"):
                        told[name] = kind
        seen = await near.commander.ask(0, "snapshot", session_id=session.id)
        with pytest.raises(CommandRefused, match="is not one of client 'far'") as refused:
            await far.commander.ask(0, "snapshot", session_id=session.id)
        await session.close()

    assert told == {"near": "welcome", "far": "subscription_refused"}
    assert seen.data["session_id"] == session.id
    assert refused.value.code == "not_allowed"


STRANGER = curve.new_keys()


def _handshake(door: Door, keys: Keys | None) -> int:
    """How a connection ends, as the socket monitor tells it."""
    with door.socket(zmq.DEALER, keys) as raw:
        monitor = raw.get_monitor_socket()
        try:
            # Nothing is sent: of a refused connection libzmq makes no other, and a send would wait.
            raw.connect(f"tcp://{HOST}:{door.port + 1}")
            ends = {
                zmq.EVENT_HANDSHAKE_SUCCEEDED,
                zmq.EVENT_HANDSHAKE_FAILED_AUTH,
                zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
                zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
            }
            while monitor.poll(WITHIN_MS):
                event = int(recv_monitor_message(monitor)["event"])
                if event in ends:
                    return event
            raise TimeoutError("the handshake did not end")
        finally:
            raw.disable_monitor()
            monitor.close(0)


def _command(name: str, **more: Any) -> bytes:
    header = {"v": 1, "id": str(uuid.uuid4()), "command": name, "data": {}}
    return json.dumps({**header, **more}).encode()


def test_a_key_that_nobody_knows_is_told_so(door: Door) -> None:
    keys = door.key("alice")._replace(public=STRANGER[0], secret=STRANGER[1])

    assert _handshake(door, keys) == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    assert _handshake(door, door.key("alice")) == zmq.EVENT_HANDSHAKE_SUCCEEDED


def test_without_a_key_nobody_gets_in(door: Door) -> None:
    assert _handshake(door, None) in (
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
        zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    )


@pytest.mark.parametrize("stranger", ["wrong key", "no key", "another server's key"])
def test_a_stranger_hears_nothing_and_is_not_answered(door: Door, stranger: str) -> None:
    keys: Keys | None = door.key("alice")
    assert keys is not None
    match stranger:
        case "wrong key":
            keys = keys._replace(public=STRANGER[0], secret=STRANGER[1])
        case "another server's key":
            keys = keys._replace(server=STRANGER[0])
        case _:
            keys = None
    for kind, at in ((zmq.SUB, 0), (zmq.REQ, 1)):
        with door.socket(kind, keys) as raw:
            if kind == zmq.SUB:
                raw.setsockopt(zmq.SUBSCRIBE, b"")
            raw.connect(f"tcp://{HOST}:{door.port + at}")
            if kind == zmq.REQ:
                with contextlib.suppress(zmq.Again):  # it has been refused already
                    raw.send(_command("list"), zmq.NOBLOCK)

            assert not raw.poll(QUIET_MS)


def test_a_plain_req_client_with_its_key_is_answered(door: Door) -> None:
    with door.socket(zmq.REQ, door.key("bob")) as raw:
        raw.connect(f"tcp://{HOST}:{door.port + 1}")
        raw.send(_command("ping"))

        assert json.loads(raw.recv())["ok"]


def test_a_flood_of_commands_is_told_to_wait_and_others_are_served(door: Door) -> None:
    with (
        door.socket(zmq.DEALER, door.key("bob")) as flood,
        door.socket(zmq.REQ, door.key("alice")) as other,
    ):
        for raw in (flood, other):
            raw.connect(f"tcp://{HOST}:{door.port + 1}")
        for _ in range(500):
            flood.send(_command("ping"))
        other.send(_command("ping"))

        assert json.loads(other.recv())["ok"]
        replies = [json.loads(flood.recv()) for _ in range(500)]
    refused = [one["error"] for one in replies if not one["ok"]]
    assert len(refused) > 200
    assert {one["code"] for one in refused} == {"busy"}
    assert all(one["retry"] and one["after_ms"] > 0 and one["who"] == "relay" for one in refused)


def test_a_message_beyond_the_limit_ends_the_connection_and_not_the_relay(door: Door) -> None:
    with door.socket(zmq.DEALER, door.key("bob")) as raw:
        raw.connect(f"tcp://{HOST}:{door.port + 1}")
        raw.send(_command("send_text", data={"text": "x" * 200_000}))
        assert not raw.poll(QUIET_MS)
    test_a_plain_req_client_with_its_key_is_answered(door)


def test_a_subscription_longer_than_any_topic_costs_the_cell_no_memory(door: Door) -> None:
    """ZeroMQ keeps fifty bytes for each of its bytes, here and in the process that publishes."""
    pids = door.cell.pids()
    before = {name: _memory_mb(pid) for name, pid in pids.items()}
    with door.socket(zmq.SUB, door.key("board")) as raw:
        raw.setsockopt(zmq.SNDHWM, 0)
        for number in range(40):
            raw.subscribe(b"event/%d" % number + b"x" * 20_000)
        raw.connect(f"tcp://{HOST}:{door.port}")
        assert not raw.poll(QUIET_MS)  # nor a welcome: the connection has been ended
    test_a_plain_req_client_with_its_key_is_answered(door)

    assert door.cell.pids() == pids
    for name, pid in pids.items():
        assert _memory_mb(pid) - before[name] < 8, name


def test_too_many_subscriptions_are_refused_and_gone_with_their_client(door: Door) -> None:
    for _ in range(2):  # the second time there is room again
        with door.socket(zmq.SUB, door.key("board")) as raw:
            raw.setsockopt(zmq.SNDHWM, 0)
            for number in range(60):
                raw.subscribe(f"event/s0-{number:026}/")
            raw.connect(f"tcp://{HOST}:{door.port}")
            told = [json.loads(raw.recv_multipart()[1]) for _ in range(60)]
        kinds = [one["kind"] for one in told]
        assert kinds.count("welcome") == 50
        assert [one["code"] for one in told if one["kind"] != "welcome"] == ["busy"] * 10


def test_a_flood_of_subscriptions_is_cut_off(door: Door) -> None:
    """Within its limit at any time: each is taken back at once."""
    cli_keys.keys("add", "hasty", folder=door.keys, lanes="event", sessions="*")
    with door.socket(zmq.SUB, door.key("hasty")) as flood:
        flood.setsockopt(zmq.SNDHWM, 0)
        monitor = flood.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        try:
            flood.connect(f"tcp://{HOST}:{door.port}")
            for number in range(20_000):
                flood.subscribe(b"event/%d/" % number)
                flood.unsubscribe(b"event/%d/" % number)

            assert monitor.poll(WITHIN_MS), "it may go on"
        finally:
            flood.disable_monitor()
            monitor.close(0)
    test_a_plain_req_client_with_its_key_is_answered(door)
    told = [line for line in door.cell.log("relay-0", 1000) if "subscriber.cut_off" in line]
    assert len(told) == 1
    assert "hasty" in told[0]
    assert "subscriptions_per_s=1000" in told[0]
    with door.socket(zmq.REQ, door.key("hasty")) as back:  # tries until it may
        back.connect(f"tcp://{HOST}:{door.port + 1}")
        back.send(_command("ping"))
        assert json.loads(back.recv())["ok"]


def test_nobody_loses_what_another_client_was_refused(door: Door) -> None:
    """The relay is told that one who asked for a topic is gone, and not who it was."""
    address = f"tcp://{HOST}:{door.port}"
    cli_keys.keys("add", "other", folder=door.keys, lanes="event", sessions="*")
    with door.socket(zmq.SUB, door.key("board")) as listener:
        listener.subscribe(b"event/")
        listener.connect(address)
        assert _kind(listener) == "welcome"
        with door.socket(zmq.XSUB, door.key("other")) as leaving:
            leaving.setsockopt(zmq.SNDHWM, 0)
            leaving.connect(address)
            for number in range(50):
                leaving.send(b"\x01event/%026d/" % number)
            leaving.send(b"\x01event/")  # one too many
            while _kind(leaving) != "subscription_refused":
                pass
        with door.socket(zmq.XSUB, door.key("other")) as after:
            after.connect(address)
            after.send(b"\x01event/after/")
            while _kind(after) != "welcome":  # there is room again: the end of that one was read
                after.send(b"\x01event/after%d/" % uuid.uuid4().int)
        with door.socket(zmq.REQ, door.key("alice")) as asking:
            asking.connect(f"tcp://{HOST}:{door.port + 1}")
            asking.send(_command("open", data={"config": {"headless": True}}))
            session_id = json.loads(asking.recv())["data"]["session_id"]
            opened = f"event/{session_id}/session_opened".encode()
            while listener.recv_multipart()[0] != opened:
                pass
            asking.send(_command("close", session_id=session_id))
            assert json.loads(asking.recv())["ok"]


def _kind(raw: Any) -> str:
    return str(json.loads(raw.recv_multipart()[1])["kind"])


def _memory_mb(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss) // 1024**2


async def test_a_removed_client_is_refused_at_once(door: Door) -> None:
    cli_keys.keys("add", "guest", folder=door.keys)
    async with door.client("guest") as guest:
        await guest.ping()
        cli_keys.keys("remove", "guest", folder=door.keys)
        with pytest.raises(CommandRefused, match="not known any more"):
            await _ping_until_refused(guest)


async def _ping_until_refused(guest: RealtimeClient) -> None:
    """The relay looks at its files once a second."""
    async with asyncio.timeout(10):
        while True:
            await guest.ping()
            await asyncio.sleep(0.1)


async def _killed(cell: Stack) -> None:
    pid = cell.kill("relay-0")
    await cell.ready("relay-0", after=pid)


async def _restarted(cell: Stack) -> None:
    await asyncio.to_thread(Restart(cell.run_dir, tell=lambda text: None).role, "relay")


@pytest.mark.parametrize("how", [_killed, _restarted])
async def test_the_relay_may_die_and_nobody_inside_notices(
    door: Door, how: Callable[[Stack], Coroutine[Any, Any, None]]
) -> None:
    async with door.client("alice") as client, RealtimeClient(door.cell.run_dir) as inside:
        session = await client.connect()
        from_the_first = session.events()
        beside = await inside.connect()
        falling = asyncio.create_task(how(door.cell))
        kinds = await _answer(beside)
        assert beside.healed == () or beside.healed[-1].last == 1
        await falling

        assert "assistant_transcript" in kinds
        assert "assistant_transcript" in await _answer(session)  # still its own
        seqs = []
        async for event in from_the_first:
            seqs.append(event.seq)
            if event.kind == "assistant_turn_completed":
                break
        assert seqs == list(range(1, len(seqs) + 1))  # its own lost connection cost nothing
        await beside.close()
        await session.close()


ELSEWHERE = "127.0.0.2"
"""Another address of this machine, on Linux; elsewhere the flood comes from our own."""
HALF_OPEN = 3000
LET_IN = 400
"""More than the limit of an address leaves open."""
CUT_OFF_WITHIN_S = 20.0
"""Before libzmq gives up on a handshake by itself."""
WRONG_KEYS = 300
GROWTH_MB = 48


class Flood(threading.Thread):
    """Connections that say nothing, and connections with a key that nobody knows."""

    def __init__(self, door: Door) -> None:
        super().__init__(daemon=True)
        self._ports = [door.port + at for at in range(3)]
        self._keys = door.key("alice")
        self._end = threading.Event()
        self.source = (ELSEWHERE if sys.platform == "linux" else HOST, 0)
        self.cut_off = 0
        """Of the silent ones."""
        self.done = threading.Event()

    def run(self) -> None:
        """Open all, look who was cut off, and hold the rest until told to stop."""
        with contextlib.ExitStack() as opened:
            silent = [
                opened.enter_context(
                    socket.create_connection(
                        (HOST, self._ports[n % 3]), timeout=5, source_address=self.source
                    )
                )
                for n in range(HALF_OPEN)
            ]
            context = opened.enter_context(zmq.Context())
            context.max_sockets = 2 * WRONG_KEYS
            for n in range(WRONG_KEYS):
                raw = opened.enter_context(context.socket(zmq.DEALER))
                raw.setsockopt(zmq.LINGER, 0)
                raw.curve_serverkey = self._keys.server.encode()
                raw.curve_publickey, raw.curve_secretkey = (one.encode() for one in STRANGER)
                raw.connect(f"tcp://{self.source[0]}:0;{HOST}:{self._ports[n % 3]}")
            until_s = time.monotonic() + CUT_OFF_WITHIN_S
            while self.cut_off <= HALF_OPEN - LET_IN and time.monotonic() < until_s:
                self.cut_off = sum(map(_is_cut_off, silent))
                self._end.wait(0.05)
            self.done.set()
            self._end.wait()

    def stop(self) -> None:
        """Close them all."""
        self._end.set()
        self.join()


def _is_cut_off(one: socket.socket) -> bool:
    """Whether the other side has closed it: a greeting of ZMTP is all that may have come."""
    one.setblocking(False)
    try:
        while one.recv(1000):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


async def test_a_flood_of_connections_is_cut_off_and_others_notice_nothing(door: Door) -> None:
    relay = psutil.Process(door.cell.pids()["relay-0"])
    memory, descriptors = relay.memory_info().rss >> 20, relay.num_fds()
    flood = Flood(door)
    async with door.client("alice") as alice, door.client("bob") as bob:
        session = await alice.connect()
        flood.start()
        try:
            while not flood.done.is_set():
                assert "assistant_transcript" in await _answer(session)
            if flood.source[0] != HOST:  # who shares the flood's address shares its limits
                beside = await bob.connect()
                assert "assistant_transcript" in await _answer(beside)
                await beside.close()
            grown = (relay.memory_info().rss >> 20) - memory
            held = relay.num_fds() - descriptors
        finally:
            flood.stop()
        assert "assistant_transcript" in await _answer(session)
        healed = session.healed
        await session.close()

    assert healed in ((), healed[:1])
    assert all(stretch.last == 1 for stretch in healed)  # before our subscription
    assert flood.cut_off > HALF_OPEN - LET_IN
    assert held < LET_IN
    assert grown < GROWTH_MB
    assert door.cell.pids()["relay-0"] == relay.pid
    told = [line for line in door.cell.log("relay-0") if "connection.refused" in line]
    assert 1 <= len(told) <= 3
    assert "handshakes_per_s=50" in told[0] or "connections_per_address=300" in told[0]


def test_garbage_at_every_door_disturbs_nobody(door: Door) -> None:
    pid = door.cell.pids()["relay-0"]
    chance = random.Random(7)
    for at in range(3):
        for opening in (chance.randbytes(4096), b"GET / HTTP/1.1\r\n\r\n", b"\xff" + bytes(9)):
            with socket.create_connection((HOST, door.port + at), timeout=5) as raw:
                raw.sendall(opening)
        with door.socket(zmq.DEALER if at else zmq.XSUB, door.key("bob")) as peer:
            peer.setsockopt(zmq.LINGER, 1000)
            peer.connect(f"tcp://{HOST}:{door.port + at}")
            for size in (0, 1, 50, 5000):
                peer.send_multipart([chance.randbytes(size)])
                peer.send_multipart([b"\x01" + chance.randbytes(size)])
                peer.send_multipart([b"{}", chance.randbytes(size), b"[" * 5000])
                peer.send_multipart([b'{"id": 5}'])

    test_a_plain_req_client_with_its_key_is_answered(door)
    assert door.cell.pids()["relay-0"] == pid
