"""Growth: what an event costs, what a long conversation does, and what many tools do."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voicebus.benchmarks.figures import Result, Table, ages
from voicebus.benchmarks.harness import Cost, Provider, Scale, bare, cell, cpu_s, ours
from voicebus.bus.messages.commands import SessionConfig
from voicebus.client import RealtimeClient
from voicebus.services.session.conversation import Conversation
from voicebus.services.session.core import inputs as i
from voicebus.services.session.journal import Journal
from voicebus.services.session.providers.openai import OpenAI

TURNS_PER_MINUTE = 8
SOUND_PER_TURN = 20
WORDS_PER_TURN = 20
EVERY_S = (0.005, 0.001)
"""How often an event comes."""
ONE_TOOL = '''
def tool_{n}(place: str = "", days: int = 3, detailed: bool = False) -> str:
    """Look something up, number {n}.

    Args:
        place: where
        days: for how many days
        detailed: whether to say more
    """
    return "done"

'''


def _minute(number: int, now_us: int) -> Iterator[i.AnyInput]:
    """Eight turns: the caller speaks, the assistant answers with sound and words, and is heard."""
    for turn in range(TURNS_PER_MINUTE):
        name = f"{number}_{turn}"
        now_us += 7_000_000
        user, reply, item = f"user_{name}", f"resp_{name}", f"item_{name}"
        yield i.SpeechStarted(now_us=now_us, at_ms=0, item_id=user)
        yield i.SpeechStopped(now_us=now_us, at_ms=1000, item_id=user)
        yield i.InputCommitted(now_us=now_us, item_id=user)
        spoken = i.Item(item_id=user, type="message", role="user", status="completed")
        yield i.ItemAdded(now_us=now_us, item=spoken)
        yield i.UserWords(now_us=now_us, item_id=user, text="What is the time?", final=True)
        yield i.ResponseStarted(now_us=now_us, response_id=reply)
        said = i.Item(item_id=item, type="message", role="assistant", status="in_progress")
        where: dict[str, Any] = {"response_id": reply, "item_id": item, "content_index": 0}
        yield i.OutputItemAdded(now_us=now_us, response_id=reply, output_index=0, item=said)
        yield i.ItemAdded(now_us=now_us, item=said)
        for piece in range(max(SOUND_PER_TURN, WORDS_PER_TURN)):
            if piece < WORDS_PER_TURN:
                yield i.AssistantWords(
                    now_us=now_us, **where, text="word ", final=False, spoken=True
                )
            if piece < SOUND_PER_TURN:
                yield i.SoundPublished(now_us=now_us, **where, samples=2400)
        yield i.SoundDone(now_us=now_us, **where)
        yield i.AssistantWords(
            now_us=now_us, **where, text="word " * WORDS_PER_TURN, final=True, spoken=True
        )
        yield i.OutputItemDone(now_us=now_us, response_id=reply, output_index=0, item=said)
        done = i.Item(item_id=item, type="message", role="assistant", status="completed")
        yield i.ItemAdded(now_us=now_us, item=done, done=True)
        yield i.ResponseDone(now_us=now_us, response_id=reply, status="completed", output=[done])
        heard = {"item_id": item, "content_index": 0, "played_ms": 2000, "state": "done"}
        yield i.Commanded(
            now_us=now_us, command_id=f"heard_{name}", command="report_playback", data=heard
        )


def _begun(conversation: Conversation) -> None:
    """Through the handshake."""
    conversation.feed(
        i.SessionRequested(
            now_us=1,
            command_id="open",
            session_id=conversation.session_id,
            config=SessionConfig(lease_s=1e6),
            tools=[],
            transport=0,
            token="t",
            vendor="openai",
            model="gpt-realtime",
            opened={},
        ),
        1,
    )
    conversation.feed(i.ProviderConnected(now_us=2, generation=conversation.state.generation), 2)
    conversation.feed(i.ProviderSessionCreated(now_us=3), 3)
    conversation.feed(i.ProviderSessionUpdated(now_us=4, session={}), 4)


def conversation_costs(minutes: int) -> tuple[list[tuple[float, float]], int]:
    """Per minute of conversation: CPU milliseconds of core and journal; bytes of the journal."""
    costs = []
    with tempfile.TemporaryDirectory(prefix="vb") as folder:
        journal = Journal(Path(folder) / "session-0.db")
        conversation = Conversation("s0-" + "0" * 26, OpenAI(), "bench", 2000, 1)
        _begun(conversation)
        for minute in range(minutes):
            core = write = 0.0
            for count, event in enumerate(_minute(minute, minute * 60_000_000 + 10)):
                began = time.process_time()
                conversation.feed(event, event.now_us)
                core += time.process_time() - began
                if count % 4 == 3:
                    began = time.process_time()
                    work = conversation.take_work()
                    journal.write([work.commit])
                    conversation.acknowledged(conversation.ledger.down_n)
                    write += time.process_time() - began
            costs.append((core * 1000, write * 1000))
            journal.checkpoint()
        size = journal.path.stat().st_size
        journal.close()
    return costs, size


def _long(result: Result, scale: Scale) -> Table:
    table = Table(
        f"A conversation of {scale.minutes} minutes: cost of a minute",
        ("part", "run", "first tenth ms", "last tenth ms", "ratio"),
        note="CPU of a minute (eight turns of 54 inputs each) fed through core and journal as fast "
        "as it goes, a commit for every four inputs; of each minute the least of three such "
        "conversations, since what else runs on the machine makes all of it dearer for a while.",
    )
    for run_number in range(scale.repeats):
        costs = [
            tuple(map(min, zip(*same, strict=True)))
            for same in zip(*(conversation_costs(scale.minutes)[0] for _ in range(3)), strict=True)
        ]
        tenth = max(1, scale.minutes // 10)
        for column, name in enumerate(("core", "journal")):
            # The first minute also warms caches up.
            first = sorted(one[column] for one in costs[1 : 1 + tenth])[tenth // 2]
            last = sorted(one[column] for one in costs[-tenth:])[tenth // 2]
            table.add(name, run_number + 1, first, last, last / first)
            result.note(f"growth.{name}.ratio", last / first)
    return table


def _events(result: Result, scale: Scale) -> Table:
    table = Table(
        "An event through the session process",
        (
            "subscribers",
            "run",
            "deliveries per s",
            "CPU us per delivery",
            "transport us per delivery",
        ),
        note="Transcripts through one session at 200 to 1000 a second: provider frame, link, "
        "decision, journal, publication, acknowledgement; CPU of all threads, ZeroMQ's included. "
        "bare: the bare client, which parses the frame, looks at its stamp and does nothing else.",
    )
    seconds = min(3.0, scale.seconds)
    with Provider() as provider:
        app = bare(provider)
        for run_number in range(scale.repeats):
            for every_s in EVERY_S:
                count = int(seconds / 2 / every_s)
                before_s = cpu_s(app.pid)
                provider.do("words", every_s=every_s, count=count, line=0)
                time.sleep(seconds / 2 + 0.3)
                each = (cpu_s(app.pid) - before_s) / count * 1e6
                table.add("bare", run_number + 1, 1 / every_s, each, "")
                result.note(f"growth.event.bare.{1 / every_s:g}", each)
        app.stop()
    for subscribers in (1, 10) if scale.repeats > 1 else (1,):
        with Provider() as provider, cell(provider) as stack:
            apps = [ours(stack, style="light")]
            apps += [ours(stack, sessions=1, style="light") for _ in range(subscribers - 1)]
            for run_number in range(scale.repeats):
                for every_s in EVERY_S:
                    count = int(seconds / every_s)
                    pids = stack.pids()
                    time.sleep(1.0)  # the stretch before has to be worked off
                    idle = min(_cores(pids["session-0"]) for _ in range(2))
                    before = {name: cpu_s(pids[name]) for name in ("session-0", "transport-0")}
                    began = time.monotonic()
                    provider.do("words", every_s=every_s, count=count, line=0)
                    time.sleep(seconds + 0.3)
                    took = time.monotonic() - began
                    used = {name: cpu_s(pids[name]) - before[name] for name in before}
                    events = count * subscribers
                    each = (used["session-0"] - idle * took) / events * 1e6
                    other = used["transport-0"] / events * 1e6
                    table.add(subscribers, run_number + 1, 1 / every_s * subscribers, each, other)
                    result.note(f"growth.event.{subscribers}.{1 / every_s:g}", each)
            for app in apps:
                app.stop()
    return table


def _cores(pid: int) -> float:
    quiet = Cost({"process": pid})
    time.sleep(0.5)
    return quiet.cores()["process"]


def _tools(result: Result, scale: Scale) -> Table:
    table = Table(
        "Many tools: what each session is offered",
        ("tools", "run", "open ms p50", "CPU ms per open", "empty call ms p50"),
        note="An open ends with the provider's confirmation of all tools. CPU: session and "
        "transport processes. An empty call as in the table of tools.",
    )
    rounds = scale.rounds
    for count in (1, 10, 100) if scale.repeats > 1 else (10,):
        with tempfile.TemporaryDirectory(prefix="vb") as folder, Provider() as provider:
            module = Path(folder) / "many.py"
            module.write_text("".join(ONE_TOOL.format(n=n) for n in range(count)), "utf-8")
            with cell(provider, module) as stack:
                pids = stack.pids()
                for run_number in range(scale.repeats):
                    before_s = sum(cpu_s(pids[name]) for name in ("session-0", "transport-0"))
                    opened_ms = asyncio.run(_opened_ms(stack.run_dir, rounds))
                    after_s = sum(cpu_s(pids[name]) for name in ("session-0", "transport-0"))
                    app = ours(stack)
                    provider.do("call", names=["tool_0"], rounds=rounds)
                    took = ages(ns / 1e6 for _, ns, _ in provider.outputs(rounds))
                    app.stop()
                    each_ms = (after_s - before_s) / rounds * 1000
                    table.add(count, run_number + 1, ages(opened_ms).p50, each_ms, took.p50)
                    result.note(f"growth.tools.{count}.open", ages(opened_ms).p50)
                    result.note(f"growth.tools.{count}.call", took.p50)
    return table


async def _opened_ms(run_dir: Path, rounds: int) -> list[float]:
    found = []
    async with RealtimeClient(run_dir) as client:
        for _ in range(rounds):
            began = time.monotonic()
            session = await client.connect({"tools": "*"})
            async for event in session.events():
                if event.kind == "session_opened":
                    break
            found.append((time.monotonic() - began) * 1000)
            await session.close()
    return found


def run(scale: Scale) -> Result:
    """Of a conversation, of events, and with the number of tools."""
    result = Result()
    result.tables += [_long(result, scale), _events(result, scale), _tools(result, scale)]
    return result
