"""Watching from outside: the events, and if wanted the sound, of one session or of all."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from voicebus.bus import gaps, ids, topics
from voicebus.bus.messages.base import BadMessage, decode_object
from voicebus.bus.sockets import Sockets
from voicebus.client.client import RealtimeClient
from voicebus.client.errors import ClientError, NobodyAnswers
from voicebus.client.events import Event
from voicebus.client.feed import Feed
from voicebus.client.logs import log
from voicebus.client.ring import Reader, Ring

KEPT = 10_000


@dataclass(frozen=True)
class Healed:
    """Events that were lost on the way and fetched again."""

    session_id: str
    stretch: gaps.Missing


@dataclass(frozen=True)
class SoundSeen:
    """The header of a message on the audio lane."""

    header: dict[str, Any]
    size_bytes: int


@dataclass(frozen=True)
class SessionVanished:
    """A session's last events cannot be had."""

    session_id: str
    why: str


Seen: TypeAlias = Event | Healed | SoundSeen | SessionVanished


class Watch:
    """Subscribes, heals gaps, never attaches: nobody's lease or rights depend on it.

    One session is seen from its first event on, and watching ends with it. Of all sessions, those
    that run are seen from now on, and new ones from their first event.
    """

    def __init__(
        self,
        client: RealtimeClient,
        session_id: str | None = None,
        *,
        audio_out: Sequence[str] = (),
    ) -> None:
        """`audio_out`: the endpoints to hear sound headers from. Raises ClientError for a
        malformed session id."""
        self._client = client
        self._session_id = session_id
        self._seen: Ring[Seen] = Ring("events", KEPT)
        self._feeds: dict[str, Feed] = {}
        self._ended: dict[str, None] = {}
        self._welcomed = asyncio.Event()
        if session_id is None:
            events = [client.endpoints.events(shard) for shard in client.shards]
            prefix, sound = b"event/", b"audio/"
        else:
            if ids.shard_of(session_id) is None:
                raise ClientError(f"{session_id!r} is no session id (s<shard>-<26 characters>)")
            events = [client.endpoints.of_session(session_id)[1]]
            prefix, sound = topics.event(session_id, ""), topics.audio(session_id, "out")
            self._follow(session_id, from_seq=1)
        sockets: Sockets = client.sockets()
        self._where = ", ".join(events)
        self._lane = prefix
        self._welcomes: set[str] = set()
        """Of the publishers that have confirmed: each time that somebody subscribes to the same,
        all who have are welcomed again."""
        self._expected = len(events)
        self._sockets = [sockets.subscriber(events, [prefix], self._event_frames)]
        if audio_out:
            self._sockets.append(sockets.subscriber(audio_out, [sound], self._sound_frames))

    async def joined(self, timeout_s: float = 3.0) -> None:
        """Wait until every publisher has confirmed. Raises NobodyAnswers; CommandRefused for a
        session that does not exist."""
        if self._session_id is not None:
            await self._catch_up(self._session_id)
            if self._session_id in self._ended:
                return
        try:
            async with asyncio.timeout(timeout_s):
                await self._welcomed.wait()
        except TimeoutError:
            raise NobodyAnswers(
                f"no welcome on {self._where} within {timeout_s:g} s: is Voicebus running there? "
                "(voicebus status)"
            ) from None

    def seen(self) -> Reader[Seen]:
        """What is seen, in each session's order."""
        return self._seen.reader()

    def close(self) -> None:
        """Stop watching."""
        for feed in self._feeds.values():
            feed.close()
        for socket in self._sockets:
            socket.close()
        self._seen.close()

    async def _catch_up(self, session_id: str) -> None:
        """From the first event on; an ended session has no head that would bring them."""
        feed, first = self._feeds[session_id], 1
        while True:
            page = await self._client.commander.replay(session_id, first)
            for raw in page.events:
                feed.receive(bytes(raw))
            if page.next is None:
                return
            first = page.next

    def _follow(self, session_id: str, from_seq: int | None) -> Feed:
        def ended(why: Exception | None) -> None:
            if why is not None:
                self._seen.put(SessionVanished(session_id, str(why)))
            self._feeds.pop(session_id, None)
            self._ended[session_id] = None
            if len(self._ended) > KEPT:
                del self._ended[next(iter(self._ended))]
            if session_id == self._session_id:
                self._seen.close()

        feed = Feed(
            session_id,
            partial(self._client.commander.replay, session_id),
            deliver=self._seen.put,
            ended=ended,
            healed=lambda stretch: self._seen.put(Healed(session_id, stretch)),
            from_seq=from_seq,
        )
        self._feeds[session_id] = feed
        return feed

    def _event_frames(self, frames: list[bytes]) -> None:
        topic = topics.parse(frames[0])
        if len(frames) < 2:
            return
        if frames[0] == self._lane:
            self._welcome(frames[1])
        elif topic is not None and topic.owner not in self._ended:
            feed = self._feeds.get(topic.owner)
            if feed is None:
                # Unknown to the welcome, so it began after it: from its first event.
                feed = self._follow(topic.owner, 1 if self._welcomed.is_set() else None)
            feed.receive(frames[1])

    def _welcome(self, raw: bytes) -> None:
        try:
            welcome = decode_object(raw, what="welcome")
            inc, heads = str(welcome.get("inc", "")), welcome.get("data", {}).get("heads", {})
        except (BadMessage, AttributeError) as error:
            log.warning("welcome.dropped", why=str(error))
            return
        for session_id, head in heads.items():
            if session_id in self._ended:
                continue
            feed = self._feeds.get(session_id)
            if feed is None:
                feed = self._follow(session_id, from_seq=None)
            feed.hear(int(head), inc)
        self._welcomes.add(inc)
        if len(self._welcomes) >= self._expected:
            self._welcomed.set()

    def _sound_frames(self, frames: list[bytes]) -> None:
        try:
            header = decode_object(frames[1], what="sound") if len(frames) > 1 else {}
        except BadMessage as error:
            log.warning("sound.dropped", why=str(error))
            return
        if header and header.get("kind") != "welcome":
            self._seen.put(SoundSeen(header, sum(map(len, frames[2:]))))
