"""The shard's end, a journal that fails it, and a transport that is slow to answer."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.end_to_end.support import Line, until
from voicebus.bus import testing
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.frames import Codec
from voicebus.bus.messages import link
from voicebus.bus.messages.base import encode
from voicebus.bus.messages.commands import Command, SessionConfig
from voicebus.bus.messages.work import OutcomeAck
from voicebus.bus.sockets import Frames, Route, Sockets
from voicebus.config.settings import CellSettings, SessionSettings
from voicebus.services.runtime import Runtime
from voicebus.services.session import shard as shards
from voicebus.services.session import uplink
from voicebus.services.session.archive import Archive
from voicebus.services.session.conversation import Conversation, Work
from voicebus.services.session.core import inputs
from voicebus.services.session.journal import Commit, Journal
from voicebus.services.session.providers.openai import OpenAI
from voicebus.services.session.shard import Shard


@asynccontextmanager
async def running(*earlier: Commit, decided: str = "") -> AsyncIterator[tuple[Shard, Line]]:
    """`decided`: the conversation that the last process was deciding when it died."""
    with testing.run_folder() as run, Sockets() as sockets:
        (run / "data").mkdir()
        journal = Journal(run / "data" / "session-0.db")
        journal.write(list(earlier))
        journal.close()
        (run / "data" / "session-0.attempt").write_text(decided)
        cell = CellSettings(run=str(run), data=str(run / "data"))
        runtime = Runtime("session", 0, cell, SessionSettings(), Endpoints(run))
        with runtime.sockets:
            shard = Shard(runtime)
            shard.begin()
            yield shard, Line(runtime.endpoints, sockets)


async def test_what_comes_after_the_last_snapshot_is_not_decided() -> None:
    async with running() as (shard, line):
        await line.ask("open", {"config": {"tools": []}})
        (conversation,) = shard.conversations.values()
        await shard.stop()
        before = conversation.state

        shard.feed(conversation, inputs.TimePassed(now_us=shard.now_us() + 3_600_000_000))

        assert conversation.state == before


async def test_a_shard_to_which_something_comes_all_the_time_stops_all_the_same() -> None:
    async with running() as (shard, line):
        await line.ask("open", {"config": {"tools": []}})
        (conversation,) = shard.conversations.values()
        commits = 0
        send = shard._send

        def send_and_get_more(done: Work, safe: bool) -> None:
            nonlocal commits
            send(done, safe)
            commits += 1
            if commits < 1000:
                shard.feed(conversation, inputs.TalkerSeen(now_us=shard.now_us()))

        shard._send = send_and_get_more  # type: ignore[method-assign]
        shard.feed(conversation, inputs.TalkerSeen(now_us=shard.now_us()))
        await shard.stop()

        assert commits < 10


async def test_what_comes_before_the_last_commit_of_a_stop_is_left_to_the_next_process() -> None:
    async with running() as (shard, line):
        opened = await line.ask("open", {"config": {"tools": []}})
        session_id = opened["data"]["session_id"]
        alive = link.TalkerAlive(session_id=session_id, n=1, generation=1, at_us=1)

        stopping = asyncio.create_task(shard.stop())
        asyncio.get_running_loop().call_soon(shard._from_transport, 0, alive, [])
        await stopping

        journal = Journal(shard.journal.path)
        (stored,) = journal.live()
        journal.close()
        assert stored.snapshot is not None
        assert stored.ledger["up_n"] == 0, "else it is acknowledged, and lost"


async def test_a_journal_that_cannot_be_read_refuses_who_asks_and_ends_nothing() -> None:
    async with running() as (shard, line):
        shard.journal._reader.close()

        session_id = "s0-01m83sy634vxkaw98aw21c62v1"
        code, message = await line.refused("replay", {"from": 1}, session_id=session_id)

        assert code == "internal"
        assert f"the journal {shard.journal.path} cannot be read" in message
        assert (await line.ask("list"))["data"] == {"sessions": []}
        await shard.stop()


async def test_after_a_bug_behind_the_commit_nothing_more_is_written() -> None:
    async with running() as (shard, line):
        await line.ask("open", {"config": {"tools": []}})
        (conversation,) = shard.conversations.values()
        written = shard.journal.last_seq(conversation.session_id)
        shard._send = None  # type: ignore[assignment, method-assign]

        shard.feed(conversation, inputs.TimePassed(now_us=shard.now_us()))
        await shard._runtime.stopping.wait()
        conversation.tell_journal_lost(shard.now_us())
        shard._dirtied(conversation)
        await shard.stop()

        archive = Archive(shard.journal.path)
        (kept,) = archive.sessions()
        archive.close()
        assert kept.seq == written


async def test_an_outcome_that_the_journal_could_not_take_is_not_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as (shard, line):
        await line.ask("open", {"config": {"tools": []}})
        (conversation,) = shard.conversations.values()
        sent: list[object] = []
        monkeypatch.setattr(shard.pool, "send", sent.append)

        async def told() -> list[object]:
            now_us = shard.now_us()
            shard.feed(conversation, inputs.ToolEnded(now_us=now_us, call_id="c1", status="ok"))
            await shard._writer.idle()
            return [one for one in sent if isinstance(one, OutcomeAck)]

        with monkeypatch.context() as disk:
            disk.setattr(shard.journal, "write", full)
            assert await told() == []

        assert len(await told()) == 1, "told again, it is"
        await shard.stop()


def full(commits: list[Commit]) -> None:
    raise sqlite3.OperationalError("database or disk is full")


async def test_a_disk_that_heals_while_the_process_is_being_stopped_makes_it_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as (shard, line):
        await line.ask("open", {"config": {"tools": []}})
        (conversation,) = shard.conversations.values()
        with monkeypatch.context() as disk:
            disk.setattr(shard.journal, "write", full)
            shard.feed(conversation, inputs.TalkerSeen(now_us=shard.now_us()))
            await shard._writer.idle()
        was_lost = shard.journal_lost
        told: list[str] = []
        monkeypatch.setattr(shard._runtime, "ready", lambda: told.append("ready"))

        await shard.stop()

        assert (was_lost, shard.journal_lost) == (True, False), "else this shows nothing"
        assert told == []


async def test_a_catalogue_that_keeps_changing_makes_no_open_wait_longer() -> None:
    async with running() as (shard, _):
        shard.pool.known = True
        reception = shard._reception
        wanted = {"config": {"tools": ["a_tool_that_never_comes"]}}
        reception._perform(Command(id="open-123", command="open", data=wanted))
        (first,) = reception._opening.values()

        reception.catalogue_changed()

        (again,) = reception._opening.values()
        assert again.until_s == first.until_s
        assert first.timer.cancelled()
        await shard.stop()


async def test_a_conversation_that_only_todays_code_ends_is_set_aside() -> None:
    session_id = "s0-01m83sy634vxkaw98aw21c62v1"
    one = Conversation(session_id, OpenAI(), "inc-1", 100, created_us=1)
    asked = inputs.Commanded(now_us=2, command_id="close-1", command="close", data={})
    for event in (requested(session_id), asked):
        one.feed(event, event.now_us)
    work = one.take_work()
    work.commit.ended_us = None  # so would a code have written that went on

    async with running(work.commit) as (shard, _):
        (conversation,) = shard.conversations.values()

        assert conversation.ended_us is not None
        assert b"set aside" in conversation.ring[-1][1]
        await shard.stop()


def frame_of(conversation: Conversation, n: int) -> link.ProviderFrame:
    session_id = conversation.session_id
    return link.ProviderFrame(session_id=session_id, n=n, generation=1, at_us=1)


async def test_who_is_being_read_or_asked_for_its_deadline_is_known_after_a_death(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as (shard, line):
        await line.ask("open", {"config": {"tools": []}})
        (conversation,) = shard.conversations.values()
        file = shard.journal.path.with_suffix(".attempt")
        marked: dict[str, str] = {}

        def mark(what: str) -> None:
            marked[what] = file.read_bytes().strip(b"\0").decode()

        def read(*_: object) -> list[inputs.AnyInput]:
            mark("read")
            return []

        monkeypatch.setattr(uplink, "from_provider", read)
        monkeypatch.setattr(conversation, "deadline", lambda: mark("deadline"))
        shard._from_transport(0, frame_of(conversation, 1), [b"{}"])
        await shard._writer.idle()
        mark("at last")

        session_id = conversation.session_id
        assert marked == {"read": session_id, "deadline": session_id, "at last": ""}
        await shard.stop()


async def test_what_comes_after_the_end_is_acknowledged_and_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as (shard, line):
        opened = await line.ask("open", {"config": {"tools": []}})
        await line.ask("close", session_id=opened["data"]["session_id"])
        (conversation,) = shard.conversations.values()
        frames: list[object] = []

        def read(*given: object) -> list[inputs.AnyInput]:
            frames.append(given)
            return []

        monkeypatch.setattr(uplink, "from_provider", read)
        shard._from_transport(0, frame_of(conversation, 1), [b"{}"])
        await shard._writer.idle()

        assert conversation.journaled_up == 1
        assert frames == []
        await shard.stop()


async def test_after_a_death_while_deciding_no_deadline_is_looked_at_before_the_process_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "KNOWN_AFTER_S", 3600.0)
    session_id = "s0-01m83sy634vxkaw98aw21c62v1"
    one = Conversation(session_id, OpenAI(), "inc-1", 100, created_us=1)
    one.feed(requested(session_id), 1)

    async with running(one.take_work().commit, decided=session_id) as (shard, _):
        await shard._writer.idle()
        assert shard._timers == {}

        shard._known()
        assert set(shard._timers) == {session_id}
        await shard.stop()


def requested(session_id: str) -> inputs.SessionRequested:
    return inputs.SessionRequested(
        now_us=1,
        command_id="open-1",
        session_id=session_id,
        config=SessionConfig(),
        tools=[],
        transport=0,
        token="t",
        vendor="openai",
        model="m",
        opened={},
    )


# --- tokens -----------------------------------------------------------------------------------


class Transport:
    """The transport's end of the link: says welcome, and acknowledges when it is told to."""

    def __init__(self, shard: Shard, done: dict[str, int] | None = None) -> None:
        self._done = done or {}
        endpoints, sockets = shard._runtime.endpoints, shard._runtime.sockets
        self._downs: Codec[link.ANY_DOWN] = Codec(link.ANY_DOWN, what="link")
        self._socket = sockets.router(endpoints.link(0), self._received)
        self._route: Route | None = None
        self.orders: dict[int, link.Numbered] = {}
        self.changed = asyncio.Event()

    def _received(self, route: Route, frames: Frames) -> None:
        self._route = route
        message, _ = self._downs.decode(frames)
        if isinstance(message, link.Hello):
            welcome = link.LinkWelcome(
                transport=0,
                inc="t",
                protocol=(1,),
                sessions=self._done,
                audio_in="",
                audio_out="",
            )
            self._socket.send(route, [encode(welcome)])
        elif isinstance(message, link.Numbered):
            self.orders[message.n] = message
            self.changed.set()

    def acknowledge(self, n: int) -> None:
        assert self._route is not None
        ack = link.DownAck(sessions={self.orders[n].session_id: n})
        self._socket.send(self._route, [encode(ack)])

    async def ordered(self, n: int) -> None:
        await until(lambda: n in self.orders, self.changed, lambda: f"order {n}", 30.0)


async def test_who_gets_a_token_may_use_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "GRANT_S", 3600.0)
    async with running() as (shard, line):
        transport = Transport(shard)
        opening = line.command("open", {"config": {"tools": []}})
        await transport.ordered(2)  # the token, and to dial
        await line.ask("ping")
        assert len(line.replies) == 1, "the token is not known yet"

        transport.acknowledge(2)
        session_id = (await line.reply(opening))["data"]["session_id"]
        attaching = line.command("attach", session_id=session_id)
        await transport.ordered(3)
        await line.ask("ping")
        assert len(line.replies) == 3, "the second is not known yet"

        transport.acknowledge(3)
        assert (await line.reply(attaching))["ok"]
        await shard.stop()


async def test_a_transport_that_says_nothing_holds_up_no_reply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "GRANT_S", 0.0)
    async with running() as (shard, line):
        assert (await line.ask("open", {"config": {"tools": []}}))["ok"]
        await shard.stop()


async def test_a_reply_that_waits_for_the_transport_is_sent_before_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "GRANT_S", 3600.0)
    async with running() as (shard, line):
        transport = Transport(shard)
        command = line.command("open", {"config": {"tools": []}})
        await transport.ordered(2)

        await shard.stop()

        assert (await line.reply(command))["ok"]


async def test_orders_that_are_lost_on_the_way_are_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "GRANT_S", 0.0)
    downs: Codec[link.ANY_DOWN] = Codec(link.ANY_DOWN, what="link")
    numbers: list[int] = []

    def lose(header: bytes, _: bytes | None) -> None:
        message, _payload = downs.decode([header])
        if isinstance(message, link.Numbered):
            numbers.append(message.n)

    async with running() as (shard, line):
        monkeypatch.setattr(shard.links[0], "send_raw", lose)
        monkeypatch.setattr(shard._homes, "is_heard", lambda *_: True)
        await line.ask("open", {"config": {"tools": []}})
        shard._send_lost_again(0.0)
        shard._send_lost_again(1.0)
        assert numbers == [1, 2], "it may only be slow"

        shard._send_lost_again(2.0)

        assert numbers == [1, 2, 1, 2]
        await shard.stop()


async def test_a_connection_of_which_a_dead_process_has_ordered_unknown_things_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "REDECIDED_S", 0.0)
    session_id = "s0-01m83sy634vxkaw98aw21c62v1"
    one = Conversation(session_id, OpenAI(), "inc-1", 100, created_us=1)
    for event in (
        requested(session_id),
        inputs.ProviderConnected(now_us=2, generation=1),
        inputs.ProviderSessionCreated(now_us=3),
        inputs.ProviderSessionUpdated(now_us=4, session={}),
    ):
        one.feed(event, event.now_us)
    work = one.take_work()
    known = work.down[-1][0]

    async with running(work.commit) as (shard, _):
        transport = Transport(shard, done={session_id: known + 5})
        await transport.ordered(known + 7)

        token, dial = (transport.orders[known + n] for n in (6, 7))
        assert isinstance(token, link.GrantToken)
        assert isinstance(dial, link.Dial)
        assert dial.generation == 1 + 5 + 1
        await shard.stop()
