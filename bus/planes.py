"""The sockets of the bus and what travels on each: page and AsyncAPI are made from this list."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from voicebus.bus.messages import commands, events, link, raw, remote, sound, system, work
from voicebus.bus.messages.base import Message


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One direction of traffic on one kind of socket."""

    name: str
    does: str
    """`send` or `receive`, seen from Voicebus."""
    socket: str
    """The ZeroMQ type on our side, which binds."""
    peer: str
    """The type that connects."""
    binds: str
    connects: str
    endpoint: str
    """Name of the socket's file in the run folder."""
    address: str | None = None
    """The topic; None where there is none."""
    frames: tuple[str, ...]
    file: str
    """The JSON Schema file of the headers."""
    messages: Mapping[str, type[Message]]
    why: str
    """Why this socket and not another."""


def _tags(union: Any) -> dict[str, type[Message]]:
    return {str(one.__struct_config__.tag): one for one in get_args(union)}


PLANES: tuple[Plane, ...] = (
    Plane(
        name="event",
        does="send",
        socket="XPUB",
        peer="SUB",
        binds="session",
        connects="anybody",
        endpoint="session-<n>.events",
        address="event/{session_id}/{kind}",
        frames=("topic", "header"),
        file="events.json",
        messages=events.EVENTS,
        why="one writer, any number of readers who cost it nothing to lose; XPUB rather than PUB "
        "because it sees subscriptions and can answer them",
    ),
    Plane(
        name="cancel",
        does="send",
        socket="XPUB",
        peer="SUB",
        binds="session",
        connects="tool hosts, workers, anybody",
        endpoint="session-<n>.events",
        address="cancel/{session_id}/{what}",
        frames=("topic", "header"),
        file="cancel.json",
        messages={"cancel": events.Cancel},
        why="an interrupt must reach everything at once, also what is busy: it is polled from the "
        "tool's own thread",
    ),
    Plane(
        name="raw",
        does="send",
        socket="XPUB",
        peer="SUB",
        binds="session",
        connects="debuggers, recorders",
        endpoint="session-<n>.events",
        address="raw/{session_id}/{provider_type}",
        frames=("topic", "header", "provider_frame"),
        file="raw.json",
        messages={"raw": raw.RawFrame},
        why="the provider's own words, only while somebody subscribes",
    ),
    Plane(
        name="audio-out",
        does="send",
        socket="XPUB",
        peer="SUB",
        binds="transport",
        connects="players, recorders",
        endpoint="transport-<n>.audio-out",
        address="audio/{session_id}/out",
        frames=("topic", "header", "samples (assistant_audio_delta only)"),
        file="sound.json",
        messages={
            "assistant_audio_delta": sound.AssistantAudioDelta,
            "end": sound.AudioEnd,
            "flush": sound.AudioFlush,
            "welcome": sound.SoundWelcome,
        },
        why="sound comes from the process that has it and passes no other, so that a session "
        "process that restarts does not stop it",
    ),
    Plane(
        name="caller-audio",
        does="send",
        socket="XPUB",
        peer="SUB",
        binds="transport",
        connects="recorders",
        endpoint="transport-<n>.audio-out",
        address="audio/{session_id}/in",
        frames=("topic", "header", "samples"),
        file="sound.json",
        messages={"caller_audio": sound.CallerAudio},
        why="what the caller said, as it came, while somebody subscribes; on the socket of the "
        "assistant's sound, so that a recorder needs one",
    ),
    Plane(
        name="audio-in",
        does="receive",
        socket="ROUTER",
        peer="DEALER",
        binds="transport",
        connects="the caller",
        endpoint="transport-<n>.audio-in",
        frames=("header", "samples"),
        file="sound.json",
        messages={"sound_in": sound.SoundIn},
        why="one way, never answered: a lost frame of speech is not worth waiting for",
    ),
    Plane(
        name="commands",
        does="receive",
        socket="ROUTER",
        peer="DEALER or REQ",
        binds="session",
        connects="clients",
        endpoint="session-<n>.commands",
        frames=("envelope",),
        file="commands.json",
        messages=commands.COMMANDS,
        why="one request, one reply, many clients; a socket of its own, so that no flood of events "
        "delays an interrupt",
    ),
    Plane(
        name="replies",
        does="send",
        socket="ROUTER",
        peer="DEALER or REQ",
        binds="session",
        connects="clients",
        endpoint="session-<n>.commands",
        frames=("reply",),
        file="replies.json",
        messages={"reply": commands.Reply},
        why="the way back of the same socket",
    ),
    Plane(
        name="system",
        does="send",
        socket="XPUB",
        peer="SUB",
        binds="every role",
        connects="anybody",
        endpoint="<role>-<n>.state",
        address="system/{role}/{instance}/{what}",
        frames=("topic", "header"),
        file="system.json",
        messages={
            "state": system.State,
            "refused": sound.SoundRefused,
            "process": system.ProcessReport,
            "pool": system.PoolReport,
        },
        why="each process says how it is by itself: nobody has to be asked, and who is silent is "
        "known to hang",
    ),
    Plane(
        name="refusals",
        does="send",
        socket="XPUB",
        peer="SUB",
        binds="relay",
        connects="programs elsewhere",
        endpoint="tcp://<host>:<port>",
        address="{subscription}refused/{client}",
        frames=("topic", "header"),
        file="remote.json",
        messages={"subscription_refused": remote.SubscriptionRefused},
        why="a subscription that is not allowed is told, and not silent for ever",
    ),
    Plane(
        name="link-down",
        does="receive",
        socket="ROUTER",
        peer="DEALER",
        binds="transport",
        connects="session",
        endpoint="transport-<n>.link",
        frames=("header", "provider frame (send only)"),
        file="link-down.json",
        messages=_tags(link.ANY_DOWN),
        why="lossless in both directions by numbers and acknowledgements; the transport binds "
        "because it lives longer",
    ),
    Plane(
        name="link-up",
        does="send",
        socket="ROUTER",
        peer="DEALER",
        binds="transport",
        connects="session",
        endpoint="transport-<n>.link",
        frames=("header", "provider frame (frame only)"),
        file="link-up.json",
        messages=_tags(link.ANY_UP),
        why="the way back of the same socket",
    ),
    Plane(
        name="calls-down",
        does="receive",
        socket="ROUTER",
        peer="DEALER",
        binds="dispatcher",
        connects="session",
        endpoint="tools.calls",
        frames=("header",),
        file="calls-down.json",
        messages=_tags(work.ANY_TO_DISPATCHER),
        why="calls are submitted again by id after a loss, so that a queue on disk is not needed",
    ),
    Plane(
        name="calls-up",
        does="send",
        socket="ROUTER",
        peer="DEALER",
        binds="dispatcher",
        connects="session",
        endpoint="tools.calls",
        frames=("header",),
        file="calls-up.json",
        messages=_tags(work.ANY_FROM_DISPATCHER),
        why="the way back of the same socket",
    ),
    Plane(
        name="worker-up",
        does="receive",
        socket="ROUTER",
        peer="DEALER",
        binds="dispatcher",
        connects="tool hosts, workers in any language",
        endpoint="tools.workers",
        frames=("header",),
        file="worker-up.json",
        messages=_tags(work.ANY_TO_POOL),
        why="the dispatcher knows each worker's credit and sends a call to one that is free; no "
        "queue grows at a busy one",
    ),
    Plane(
        name="worker-down",
        does="send",
        socket="ROUTER",
        peer="DEALER",
        binds="dispatcher",
        connects="tool hosts, workers in any language",
        endpoint="tools.workers",
        frames=("header",),
        file="worker-down.json",
        messages=_tags(work.ANY_FROM_POOL),
        why="the way back of the same socket",
    ),
)

BY_NAME: dict[str, Plane] = {plane.name: plane for plane in PLANES}


def key_of(plane: Plane, name: str) -> str:
    """A message's name that is unique over all planes."""
    return f"{plane.name}.{name}"
