"""The whole service on real sockets."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from voicebus.bus.messages import link as words
from voicebus.bus.messages.base import encode
from voicebus.bus.messages.sound import SoundIn

Start = Callable[..., Any]
Delta = Callable[..., str]


async def test_frames_go_up_and_down_unchanged(start: Start) -> None:
    cell = await start()
    session, provider = await cell.on_the_phone(model="gpt realtime/2")
    session.send(cell.sid, {"type": "session.update", "x": "ä"})
    await provider.send('{"type":"session.updated", "odd":  1}')

    heard = await cell.provider.heard.next()
    told = (await session.told.until(lambda t: isinstance(t.message, words.ProviderFrame)))[-1]

    assert heard == {"type": "session.update", "x": "ä"}
    assert told.payload == b'{"type":"session.updated", "odd":  1}'
    assert (told.message.n, told.message.generation) == (2, 1)
    assert cell.provider.paths == ["/v1/realtime?model=gpt%20realtime%2F2"]


async def test_sound_is_published_and_told_without_its_payload(
    start: Start, sound_delta: Delta
) -> None:
    cell = await start()
    session, provider = await cell.on_the_phone()
    heard = cell.listen(f"audio/{cell.sid}/")
    await provider.send(sound_delta(b"ab" * 480))
    await provider.send(sound_delta(b"cd" * 480, kind="response.audio.delta"))
    await provider.send(
        '{"type":"response.output_audio.done","response_id":"r1","item_id":"i1","content_index":0}'
    )

    first, second, end = [await heard.next() for _ in range(3)]
    passed = [await session.told.next() for _ in range(2)]
    await session.frame("response.output_audio.done")

    assert (first.payload, second.payload) == (b"ab" * 480, b"cd" * 480)
    assert [one.header["seq"] for one in (first, second, end)] == [1, 2, 3]
    assert [one.header["offset_samples"] for one in (first, second)] == [0, 480]
    assert (end.header["kind"], end.header["samples"]) == ("end", 960)
    assert [told.payload for told in passed] == [None, None]
    assert [(told.message.samples, told.message.turn_id) for told in passed] == [
        (480, "r1"),
        (480, "r1"),
    ]


async def test_the_callers_sound_waits_for_the_release_and_then_goes_out_in_order(
    start: Start,
) -> None:
    cell = await start()
    session, _ = await cell.on_the_phone()
    caller = cell.caller()
    caller.speak(1, b"\1\0" * 480)
    caller.speak(2, b"\2\0" * 480)
    await session.event(words.TalkerAlive)
    session.send(cell.sid, {"type": "session.update"})

    before = await cell.provider.heard.next()
    session.release(cell.sid)
    after = [await cell.provider.heard.next() for _ in range(2)]
    caller.speak(3, b"\3\0" * 480)
    after.append(await cell.provider.heard.next())

    assert before["type"] == "session.update"
    assert {one["type"] for one in after} == {"input_audio_buffer.append"}
    assert [one["audio"][:4] for one in after] == ["AQAB", "AgAC", "AwAD"]


async def test_a_frame_after_n_waits_for_that_sound_and_says_so(start: Start) -> None:
    cell = await start()
    session, _ = await cell.on_the_phone()
    session.release(cell.sid)
    commit = {"type": "input_audio_buffer.commit"}
    session.send(cell.sid, commit, after_n=2, token="tok", tell=True)
    session.send(cell.sid, {"type": "response.create"})
    caller = cell.caller()
    for n in (1, 2, 3):
        caller.speak(n, b"\1\0" * 480)

    heard = [(await cell.provider.heard.next())["type"].split(".")[-1] for _ in range(5)]
    sent = await session.event(words.FrameSent)

    assert heard == ["append", "append", "commit", "create", "append"]
    assert (sent.down_n, sent.reached) == (4, True)


async def test_a_frame_after_n_goes_out_after_500_ms_and_says_so(start: Start) -> None:
    cell = await start()
    session, _ = await cell.on_the_phone()
    session.send(cell.sid, {"type": "c"}, after_n=7, token="tok", tell=True)

    assert (await cell.provider.heard.next())["type"] == "c"
    assert (await session.event(words.FrameSent)).reached is False


async def test_no_sound_is_published_after_its_flush(start: Start, sound_delta: Delta) -> None:
    cell = await start()
    session, provider = await cell.on_the_phone()
    heard = cell.listen(f"audio/{cell.sid}/")
    await provider.send(sound_delta(b"ab" * 480, response="r1"))
    await heard.next()
    session.say(words.Flush(session_id=cell.sid, responses=["r1"], why="interrupt"))
    flush = await heard.next()
    await provider.send(sound_delta(b"ab" * 480, response="r1"))
    await provider.send(sound_delta(b"cd" * 480, response="r2", item="i2"))

    after = await heard.next()
    passed = [await session.event(words.SoundPassed) for _ in range(3)]

    assert (flush.header["kind"], flush.header["responses"]) == ("flush", ["r1"])
    assert after.header["turn_id"] == "r2"
    assert [(one.turn_id, one.published) for one in passed] == [
        ("r1", True),
        ("r1", False),
        ("r2", True),
    ]


async def test_it_flushes_by_itself_when_the_provider_hears_speech(
    start: Start, sound_delta: Delta
) -> None:
    cell = await start()
    session, provider = await cell.on_the_phone(flush_on_speech=True)
    heard = cell.listen(f"audio/{cell.sid}/")
    await provider.send(sound_delta(b"ab" * 24_000))
    await heard.next()
    speech = '{"type":"input_audio_buffer.speech_started","item_id":"u"}'
    await provider.send(speech)
    await provider.send(speech)

    flushed = await session.event(words.Flushed)
    await session.frame("input_audio_buffer.speech_started")
    await session.frame("input_audio_buffer.speech_started")
    published = await heard.next()

    assert flushed.responses == ["r1"]
    assert (published.header["kind"], published.header["responses"]) == ("flush", ["r1"])
    assert heard.empty()


@pytest.mark.parametrize("topic", ["audio", "audio/", "audio/{sid}/", "audio/{sid}/out"])
async def test_a_subscription_is_confirmed_on_the_very_string(start: Start, topic: str) -> None:
    cell = await start()
    heard = cell.listen(topic.format(sid=cell.sid), welcomes=True)

    welcome = (await heard.next()).header

    assert welcome == {
        "v": 1,
        "kind": "welcome",
        "session_id": cell.sid if "sid" in topic else "",
        "inc": cell.runtime.inc,
        "protocol": [1],
    }


async def test_a_recorder_listens_and_the_sound_is_held_for_a_player_all_the_same(
    start: Start, sound_delta: Delta
) -> None:
    cell = await start(hold_s=1.0)
    session, provider = await cell.on_the_phone()
    recorded = cell.listen("audio")
    for number in range(3):
        await provider.send(sound_delta(bytes([number, 0]) * 12_000))
    await session.event(words.SoundHeldDropped)
    assert recorded.empty()

    heard = cell.listen(f"audio/{cell.sid}/out")
    played = [await heard.next() for _ in range(2)]
    kept = [await recorded.next() for _ in range(2)]

    assert [one.header["offset_samples"] for one in played] == [12_000, 24_000]
    assert [one.header for one in kept] == [one.header for one in played]


async def test_sound_is_held_until_somebody_listens_and_no_longer_than_hold_s(
    start: Start, sound_delta: Delta
) -> None:
    cell = await start(hold_s=1.0)
    session, provider = await cell.on_the_phone()
    for number in range(3):
        await provider.send(sound_delta(bytes([number, 0]) * 12_000))
    dropped = await session.event(words.SoundHeldDropped)

    heard = cell.listen(f"audio/{cell.sid}/")
    held = [await heard.next() for _ in range(2)]

    assert (dropped.direction, dropped.dropped_ms) == ("out", 500)
    assert [one.header["offset_samples"] for one in held] == [12_000, 24_000]
    assert [one.header["seq"] for one in held] == [1, 2]


async def test_after_a_new_hello_what_was_not_acknowledged_comes_again(start: Start) -> None:
    cell = await start()
    session, provider = await cell.on_the_phone()
    for number in range(3):
        await provider.send(json.dumps({"type": "x", "number": number}))
    for _ in range(3):
        await session.frame("x")
    session.say(words.Ack(sessions={cell.sid: 2}))

    successor = cell.session_process()
    welcome = await successor.hello({cell.sid: 3})
    again = await successor.told.next()
    await provider.send('{"type":"x","number":3}')
    new = await successor.told.next()

    assert welcome.sessions == {cell.sid: 2}
    assert (again.message.n, json.loads(again.payload)["number"]) == (4, 2)
    assert (new.message.n, json.loads(new.payload)["number"]) == (5, 3)


async def test_events_wait_for_a_session_process_that_is_away(start: Start) -> None:
    cell = await start()
    session, provider = await cell.on_the_phone()
    session.say(words.Ack(sessions={cell.sid: 1}))
    session.close()
    for number in range(50):
        await provider.send(json.dumps({"type": "x", "number": number}))
    await provider.ping()

    successor = cell.session_process()
    await successor.hello({cell.sid: 1})
    numbers = [json.loads((await successor.told.next()).payload)["number"] for _ in range(50)]

    assert numbers == list(range(50))


async def test_an_order_is_carried_out_once_and_a_gap_is_asked_for(start: Start) -> None:
    cell = await start()
    session, _ = await cell.on_the_phone()

    def send(n: int) -> None:
        session.say(words.SendFrame(session_id=cell.sid, n=n, generation=1), b'{"n":%d}' % n)

    send(3)
    send(3)
    send(5)
    await session.told.until(
        lambda told: (
            isinstance(told.message, words.DownAck)
            and told.message.missing == [cell.sid]
            and told.message.sessions == {cell.sid: 3}
        )
    )
    send(4)
    send(5)

    assert [(await cell.provider.heard.next())["n"] for _ in range(3)] == [3, 4, 5]


async def test_a_frame_for_another_generation_is_refused_and_acknowledged(start: Start) -> None:
    cell = await start()
    session, _ = await cell.on_the_phone()
    session.send(cell.sid, {"type": "old"}, generation=9)
    session.send(cell.sid, {"type": "new"}, generation=1)

    assert (await cell.provider.heard.next())["type"] == "new"
    await session.told.until(
        lambda told: (
            isinstance(told.message, words.DownAck) and told.message.sessions == {cell.sid: 4}
        )
    )
    assert cell.runtime.counters["refused_other_generation"] == 1


async def test_a_stranger_is_told_to_say_hello(start: Start) -> None:
    cell = await start()
    session = cell.session_process()
    session.say(words.Ack(sessions={}))

    assert isinstance((await session.told.next()).message, words.LinkReset)


async def test_a_broken_message_on_the_link_is_counted_and_hurts_nobody(start: Start) -> None:
    cell = await start()
    session, _ = await cell.on_the_phone()
    session.say_raw([b"{"])
    session.say_raw([b'{"kind":"send"}'])
    session.send(cell.sid, {"type": "x"})

    assert (await cell.provider.heard.next())["type"] == "x"
    assert cell.runtime.counters["link_malformed"] == 2


async def test_a_newer_dial_closes_the_older_connection_first(start: Start) -> None:
    cell = await start()
    session, first = await cell.on_the_phone()
    session.dial(cell.sid, generation=2)

    closed = await session.event(words.ProviderClosed)
    opened = await session.event(words.ProviderOpened)
    second = await cell.provider.connections.next()
    await first.wait_closed()
    await second.send('{"type":"x"}')
    frame, _ = await session.frame("x")

    assert (closed.generation, closed.by_us) == (1, True)
    assert (opened.generation, frame.generation) == (2, 2)
    assert (closed.n, opened.n, frame.n) == (2, 3, 4)
    assert first.close_code == 1000


async def test_a_hang_up_closes_the_socket_and_revokes_the_tokens(start: Start) -> None:
    cell = await start()
    session, provider = await cell.on_the_phone()
    session.hang_up(cell.sid)

    closed = await session.event(words.ProviderClosed)
    refused = cell.listen("system/transport/0/refused", cell.endpoints.state("transport", 0))
    await_subscription = cell.listen("system/", cell.endpoints.state("transport", 0))
    await await_subscription.next()
    cell.caller().speak(1, b"\0\0")
    told = await refused.next()

    assert (closed.code, closed.by_us) == (1000, True)
    assert provider.close_code == 1000
    assert told.header["reason"] == "unknown_token"


async def test_an_ended_session_keeps_its_numbers_and_can_be_dialled_again(start: Start) -> None:
    cell = await start(orphan_s=2.0)  # looks after ended sessions each half second
    session, _ = await cell.on_the_phone()
    session.hang_up(cell.sid)
    closed = await session.event(words.ProviderClosed)
    session.say(words.Ack(sessions={cell.sid: closed.n}))
    successor = cell.session_process()
    assert (await successor.hello({cell.sid: closed.n})).sessions == {cell.sid: 3}
    await asyncio.wait_for(_forgotten(cell), 5)
    welcome = await successor.hello({cell.sid: closed.n})
    successor.say(words.HangUp(session_id=cell.sid, n=3, generation=1))
    acknowledged = await successor.event(words.DownAck)
    successor.say(words.Dial(session_id=cell.sid, n=4, generation=2, vendor="openai"))
    opened = await successor.event(words.ProviderOpened)

    assert welcome.sessions == {cell.sid: 3}
    assert (acknowledged.sessions, acknowledged.missing) == ({cell.sid: 3}, [])
    assert opened.n == closed.n + 1


async def _forgotten(cell: Any) -> None:
    """Until sound for the session is refused because no conversation is there any more."""
    refused = cell.listen("system/transport/0/refused", cell.endpoints.state("transport", 0))
    caller = cell.caller()
    reason = ""
    while reason != "unknown_session":
        caller.speak(1, b"\0\0")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                reason = (await refused.get()).header["reason"]


async def test_close_codes_and_reasons_are_told_exactly(start: Start) -> None:
    cell = await start()
    session, provider = await cell.on_the_phone()
    await provider.close(4000, "invalid_request_error.beta_api_shape_disabled")
    told = [await session.event(words.ProviderClosed)]
    session.dial(cell.sid, generation=2)
    await (await cell.provider.connections.next()).close(1001, "expired")
    told.append(await session.event(words.ProviderClosed))
    session.dial(cell.sid, generation=3)
    (await cell.provider.connections.next()).transport.abort()
    told.append(await session.event(words.ProviderClosed))

    assert [(one.code, one.reason, one.by_us) for one in told] == [
        (4000, "invalid_request_error.beta_api_shape_disabled", False),
        (1001, "expired", False),
        (1006, "the connection broke without a closing frame", False),
    ]


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("sk-1", "refused the key from OPENAI_API_KEY"),
        ("r", "refused the key from OPENAI_API_KEY"),  # whatever it is, no letters are taken out
        ("", "wants a key"),
    ],
)
async def test_a_refused_handshake_is_told_with_status_and_reason(
    start: Start, monkeypatch: pytest.MonkeyPatch, key: str, says: str
) -> None:
    cell = await start()
    monkeypatch.setenv("OPENAI_API_KEY", key)
    cell.provider.refuse_with = (401, '{"error":{"message":"Incorrect API key provided."}}')
    session = cell.session_process()
    await session.hello()
    session.dial(cell.sid)

    closed = await session.event(words.ProviderClosed)

    assert (closed.code, closed.http_status) == (None, 401)
    assert says in closed.reason
    assert "Incorrect API key provided." in closed.reason


async def test_the_key_goes_into_the_header_and_nowhere_else(start: Start) -> None:
    cell = await start()
    key_file = cell.run / "key"
    key_file.write_text("sk-secret-1\n")
    cell.provider.refuse_with = (401, "sk-secret-1 is wrong")
    other = await start(instance=1, provider_key_file=str(key_file))
    session = other.session_process()
    await session.hello()
    session.dial(other.sid)

    closed = await session.event(words.ProviderClosed)

    assert cell.provider.authorizations == ["Bearer sk-secret-1"]
    assert "sk-secret-1" not in closed.reason
    assert "secret" not in "".join(cell.provider.paths)


async def test_a_provider_that_is_not_there_is_named(start: Start) -> None:
    cell = await start(provider_url="ws://127.0.0.1:9/realtime")
    session = cell.session_process()
    await session.hello()
    session.dial(cell.sid)

    closed = await session.event(words.ProviderClosed)

    assert closed.http_status is None
    assert "127.0.0.1:9" in closed.reason
    assert "is it running there?" in closed.reason


async def test_without_a_key_nobody_but_this_machine_is_dialled(start: Start) -> None:
    cell = await start(provider_url="wss://provider.invalid/v1/realtime")
    session = cell.session_process()
    await session.hello()
    session.dial(cell.sid)

    closed = await session.event(words.ProviderClosed)

    assert "OPENAI_API_KEY" in closed.reason
    assert "provider_key_file" in closed.reason
    assert closed.error == "no_key"


async def test_a_dial_stopped_at_once_is_told_as_closed(start: Start) -> None:
    cell = await start()
    session = cell.session_process()
    await session.hello()
    session.dial(cell.sid)
    session.hang_up(cell.sid)

    closed = await session.event(words.ProviderClosed)

    assert (closed.n, closed.by_us) == (1, True)


async def test_a_frame_of_16_mib_comes_through(start: Start) -> None:
    cell = await start()
    session, provider = await cell.on_the_phone()
    frame = '{"type":"big","x":"' + "y" * (16 * 1024 * 1024 - 21) + '"}'
    await provider.send(frame)

    told = (await session.told.until(lambda t: isinstance(t.message, words.ProviderFrame)))[-1]

    assert told.payload == frame.encode()


async def test_what_is_no_json_is_passed_and_what_is_no_text_is_counted(start: Start) -> None:
    cell = await start()
    session, provider = await cell.on_the_phone()
    broken = '{"type":"response.output_audio.delta","response_id":"r","item_id":"i","delta":"?"}'
    for frame in (b"\0\1", "", "hello", broken):
        await provider.send(frame)

    payloads = [(await session.told.next()).payload for _ in range(3)]

    assert payloads == [b"", b"hello", broken.encode()]
    assert cell.runtime.counters == {
        "provider_binary_frames": 1,
        "provider_frames_not_json": 2,
        "provider_sound_malformed": 1,
    }


async def test_the_callers_sound_is_published_for_recorders_that_ask(start: Start) -> None:
    cell = await start()
    await cell.on_the_phone()
    caller = cell.caller()
    recorded = cell.listen(f"audio/{cell.sid}/in")
    n = 0
    while recorded.empty():  # until the subscription is there
        n += 1
        caller.speak(n, b"\1\0" * 480)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                first = await recorded.get()
                break
    caller.speak(n + 1, b"\2\0" * 480)
    last = (await recorded.until(lambda heard: heard.header["n"] == n + 1))[-1]

    assert first.header["kind"] == "caller_audio"
    assert "tok" not in first.header.values()
    assert last.payload == b"\2\0" * 480
    assert last.header["seq"] - first.header["seq"] == last.header["n"] - first.header["n"]


async def test_a_frame_beyond_the_limit_ends_the_connection_and_says_so(start: Start) -> None:
    cell = await start(max_frame_bytes=1000)
    session, provider = await cell.on_the_phone()
    await provider.send("x" * 1001)

    closed = await session.event(words.ProviderClosed)

    assert (closed.code, closed.by_us) == (1009, False)
    assert "1000" in closed.reason


async def test_a_redirect_is_not_followed_with_the_key(start: Start) -> None:
    cell = await start()
    cell.provider.refuse_with = (302, "elsewhere")
    session = cell.session_process()
    await session.hello()
    session.dial(cell.sid)

    closed = await session.event(words.ProviderClosed)

    assert len(cell.provider.paths) == 1
    assert closed.http_status == 302
    assert "provider_url" in closed.reason


async def test_refused_sound_is_told_on_the_system_lane_and_reaches_nobody(start: Start) -> None:
    cell = await start(max_sound_frame_bytes=1000)
    session, _ = await cell.on_the_phone()
    session.release(cell.sid)
    session.grant(cell.sid, "listener", talk=False)
    state = cell.endpoints.state("transport", 0)
    refused = cell.listen("system/transport/0/refused", state)
    await cell.listen("system/transport/0/state", state).next()

    cell.caller(token="forged").speak(1, b"\0\0")
    cell.caller(token="listener").speak(1, b"\0\0")
    cell.caller(session_id="s0-nobody").speak(1, b"\0\0")
    good = cell.caller()
    good.speak(1, b"\0" * 7)
    good.speak(2, b"\0" * 1002)
    good.send([b"{"])
    good.send([encode(SoundIn(session_id=cell.sid, token="tok", n=9))])
    good.speak(3, b"\1\0")
    told = {(await refused.next()).header["reason"] for _ in range(7)}

    assert (await cell.provider.heard.next())["audio"] == "AQA="
    assert told == {
        "unknown_token",
        "no_right",
        "unknown_session",
        "odd_length",
        "too_large",
        "bad_header",
        "bad_frames",
    }
    session.hang_up(cell.sid)
    events = [
        type(told.message).__name__
        for told in await session.told.until(
            lambda told: isinstance(told.message, words.ProviderClosed)
        )
        if isinstance(told.message, words.Event)
    ]
    assert events == ["TalkerAlive", "ProviderClosed"]


async def test_a_session_that_nobody_owns_is_hung_up(start: Start) -> None:
    cell = await start(orphan_s=0.3)
    session, provider = await cell.on_the_phone()
    session.close()

    async with asyncio.timeout(5):
        await provider.wait_closed()

    assert provider.close_code == 1000
    welcome = await cell.session_process().hello({cell.sid: 0})
    assert welcome.sessions == {}


async def test_a_session_its_process_no_longer_names_is_hung_up(start: Start) -> None:
    cell = await start(orphan_s=0.3)
    session, provider = await cell.on_the_phone()
    await session.hello({})
    closed = asyncio.create_task(provider.wait_closed())
    while not closed.done():
        session.say(words.Ack(sessions={}))  # alive, but it names no session
        await asyncio.wait({closed}, timeout=0.05)

    assert cell.runtime.counters["orphans"] == 1


async def test_a_ring_that_nobody_empties_ends_the_connection(start: Start) -> None:
    cell = await start(ring_bytes=10_000)
    session, provider = await cell.on_the_phone()
    for _ in range(12):
        await provider.send('{"type":"x","y":"' + "z" * 1000 + '"}')

    closed = await session.event(words.ProviderClosed)

    assert closed.events_lost
    assert closed.n < 12
    assert "unacknowledged" in closed.reason


async def test_stopping_closes_the_connections_and_tells(start: Start) -> None:
    cell = await start()
    session, provider = await cell.on_the_phone()
    cell.runtime.stopping.set()
    closed = await session.event(words.ProviderClosed)
    session.say(words.Ack(sessions={cell.sid: closed.n}))
    async with asyncio.timeout(1.5):
        await cell.serving

    assert (closed.code, closed.by_us) == (1000, True)
    assert provider.close_code == 1000
