"""The settings of every role: `voicebus.toml` < `VOICEBUS_…` environment < flags.

Each class is one section of the file. A field `provider_url` of section `transport` is also
`VOICEBUS_TRANSPORT_PROVIDER_URL` and `--provider-url`.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Several = Annotated[int, Meta(ge=1, le=32)]
"""Processes of one role: each session process is connected with each transport."""
Seconds = Annotated[float, Meta(ge=0)]
Port = Annotated[int, Meta(ge=0, le=65_535)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A section."""


class CellSettings(Settings, frozen=True, kw_only=True):
    """What all processes of one run folder share: section `cell`, environment `VOICEBUS_…`."""

    run: str = "var/run"
    """The run folder: sockets, locks, the provider's key. Mode 0700."""
    data: str = "var/data"
    """The journal. Mode 0700: it holds what people said."""
    shards: Several = 1
    """How many session processes there are."""
    transports: Several = 1
    """How many processes carry the sound; each can use one core."""
    toolhosts: Count = 1
    """`voicebus up` starts one: it has as many runners as you like."""
    log_level: str = "info"


class SessionSettings(Settings, frozen=True, kw_only=True):
    """Section `session`."""

    model: str = "gpt-realtime"
    """Asked for when a session's own configuration names none."""
    max_sessions: Count = 200
    """Per shard; one more is refused with `busy`."""
    in_flight: Count = 64
    """Commands of one client that may wait for their replies."""
    ring_events: Count = 2000
    """Events per session that are replayed from memory; older ones come from the journal."""
    retention_days: Annotated[float, Meta(ge=0)] = 7.0
    """Ended conversations are removed from the journal after that."""
    reply_memory_s: Seconds = 600.0
    """How long the reply to a command id is remembered."""
    failpoint: str | None = None
    """For tests: PLACE:TIMES or sent/FRAME_TYPE:TIMES of the write path at which the process kills
    itself."""


class TransportSettings(Settings, frozen=True, kw_only=True):
    """Section `transport`."""

    provider_url: str = "wss://api.openai.com/v1/realtime"
    """Where providers of the GA dialect are dialled; the model is added as a query."""
    provider_key_file: str | None = None
    """A file with the provider's key, mode 0600; else the environment's OPENAI_API_KEY."""
    connect_timeout_s: Seconds = 10.0
    max_frame_bytes: Count = 16 * 1024 * 1024
    """The largest frame taken from the provider."""
    ring_bytes: Count = 8 * 1024 * 1024
    """Unacknowledged provider events kept per session."""
    ring_total_bytes: Count = 256 * 1024 * 1024
    hold_s: Seconds = 2.0
    """How much sound is held: the caller's until the configuration is confirmed, the assistant's
    until somebody listens."""
    orphan_s: Seconds = 60.0
    """A session that no session process has owned for so long is hung up."""
    max_sound_frame_bytes: Count = 1024 * 1024


class DispatcherSettings(Settings, frozen=True, kw_only=True):
    """Section `dispatcher`."""

    queue: Count = 500
    """Calls that may wait in all; one more is refused with `busy`."""
    per_session_running: Count = 4
    per_session_queued: Count = 8
    settle_s: Seconds = 1.5
    """After its start the dispatcher only matches calls with workers that already hold them."""
    refuse_late: bool = True
    """`busy` at once for a call whose turn would come after its deadline, as far as is known."""
    breaker_failures: Annotated[int, Meta(ge=0)] = 5
    """So many crashes, losses and timeouts in a row, and a tool is left alone; 0 for never."""
    breaker_cooling_s: Seconds = 30.0
    """How long; then one call tries it."""


class ToolhostSettings(Settings, frozen=True, kw_only=True):
    """Section `toolhost`."""

    tools: str = ""
    """MODULE_OR_FILE[:NAME] …, separated by spaces; added to those of tools.toml."""
    tools_file: str | None = None
    """Another tools.toml."""
    runners: Count = 4
    memory_mb: Annotated[int, Meta(ge=0)] = 1024
    """Address space of one runner; 0 for no limit."""
    drain_s: Seconds = 10.0
    """How long running calls may take to end when the host is stopped."""


class SimulatorSettings(Settings, frozen=True, kw_only=True):
    """Section `simulator`."""

    host: str = "127.0.0.1"
    port: Port = 8765
    scenario: str | None = None
    """A scenario file; without one the simulator listens, thinks by rules and speaks."""
    key: str | None = None
    """The only key it accepts; without one any is good."""
    speech: str = "auto"
    """auto, on or off."""


class HealthSettings(Settings, frozen=True, kw_only=True):
    """Section `health`."""

    silent_s: Seconds = 3.0
    """A process that has said nothing for so long is frozen; 0 turns the watch off."""
    starved_s: Seconds = 10.0
    """The same for one that wants to run and gets no processor, or waits for the disk."""
    start_s: Seconds = 60.0
    """How long a process may take until it says its first word."""
    grace_s: Seconds = 1.0
    """Between being told to say where it hangs, and being killed."""
    transport_grace_s: Seconds = 10.0
    """The same for a transport: its death costs a turn of each of its conversations."""
    revive_s: Seconds = 30.0
    """After that a program that supervisord has given up is started again."""


class RelaySettings(Settings, frozen=True, kw_only=True):
    """Section `relay`: the door for programs elsewhere. Off unless `bind` is set."""

    bind: str = ""
    """The address to listen on: of an interface, `127.0.0.1` for this machine only."""
    port: Annotated[int, Meta(ge=1, le=65_533)] = 5570
    """Events; commands are at the next port, sound at the one after."""
    public_host: str = ""
    """What clients call this machine, in the addresses they are told; else `bind`."""
    keys: str = "var/keys"
    """The folder that `voicebus keys` writes. Mode 0700."""
    curve: bool = True
    """Off only on a loopback address: then everybody on this machine may do everything."""
    max_message_bytes: Count = 1024 * 1024
    in_flight: Count = 64
    """Commands of one client that may wait for their replies."""
    commands_per_s: Count = 100
    sound_bytes_per_s: Count = 2_000_000
    """Of one client: forty voices of pcm16."""
    subscriptions: Count = 1000
    """Of one client."""
    subscriptions_per_s: Count = 1000
    """Of one client, and at once after a pause; more ends its connection."""
    handshakes_per_s: Count = 50
    """New connections from one address."""
    connections_per_address: Count = 300
    """At once. A client has three."""
    connections: Count = 1000
    """At once, over all three doors."""


class GatewaySettings(Settings, frozen=True, kw_only=True):
    """Section `gateway`: the door for browsers and phones. Off unless `bind` is set."""

    bind: str = ""
    """The address to listen on: `127.0.0.1` for this machine only; beyond it, `key_file` is due."""
    port: Annotated[int, Meta(ge=1, le=65_535)] = 8080
    key_file: str | None = None
    """A file of mode 0600 with the key that callers must know; without one, only a loopback
    address may be listened on."""
    origins: str = ""
    """Pages elsewhere whose scripts may call: `https://voice.example.org …`, separated by spaces.
    Pages that the gateway itself serves always may."""
    tls_cert: str | None = None
    """A certificate chain in PEM: then it speaks HTTPS. Browsers give pages of other machines a
    microphone only so."""
    tls_key: str | None = None
    session_file: str | None = None
    """A TOML file with fields of a session's configuration that hold for every call."""
    config_fields: str = "*"
    """The fields of a session's configuration that callers may set, separated by spaces."""
    commands: str = "*"
    """The commands that callers may give, separated by spaces."""
    max_connections: Count = 200
    """One more is told to come back later."""
    connections_per_s: Count = 20
    """From one address."""
    open_timeout_s: Seconds = 10.0
    """For each HTTP request as a whole, and again for the first frame of a WebSocket."""
    max_message_bytes: Count = 256 * 1024
    """One frame of a caller's; of twice that the connection is closed at once."""
    commands_per_s: Count = 50
    """Of one connection."""
    in_flight: Count = 32
    """Commands of one connection that may wait for their replies."""
    sound_bytes_per_s: Count = 240_000
    """Of one connection: five times the speed of speech as pcm16."""
    queue_sound_bytes: Count = 4 * 1024 * 1024
    """Sound that waits for a slow caller; then the oldest is dropped, and the caller told."""
    queue_events: Count = 2000
    """Events that wait for a slow caller; then it has to come back and have them replayed."""

    @property
    def page(self) -> str | None:
        """Where browsers on this machine find it; None if it is off."""
        if not self.bind:
            return None
        host = self.bind.strip("[]")
        if host in ("0.0.0.0", "::"):
            host = "localhost"
        scheme = "http" if self.tls_cert is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/"


class RecorderSettings(Settings, frozen=True, kw_only=True):
    """Section `recorder`: writes every conversation down. Off unless `folder` is set."""

    folder: str = ""
    """Where each session gets a folder of its own. Mode 0700: it holds what people said."""
    max_hours: Annotated[float, Meta(gt=0, le=12)] = 6.0
    """The sound of one session that is kept at most; a WAV file ends at 12."""
    keep_days: Annotated[float, Meta(ge=0)] = 7.0
    """Recordings that ended so long ago are deleted; 0 keeps them."""
    keep_free_mb: Annotated[int, Meta(ge=0)] = 500
    """Room left to others on that disk: the journal's may be the same."""


SECTIONS: dict[str, type[Settings]] = {
    "cell": CellSettings,
    "session": SessionSettings,
    "transport": TransportSettings,
    "dispatcher": DispatcherSettings,
    "toolhost": ToolhostSettings,
    "simulator": SimulatorSettings,
    "health": HealthSettings,
    "relay": RelaySettings,
    "recorder": RecorderSettings,
    "gateway": GatewaySettings,
}
