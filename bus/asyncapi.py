"""An AsyncAPI 3 document of the bus, generated from the planes and their types.

AsyncAPI has no binding for ZeroMQ; what a ZeroMQ program must know stands in `x-zmq` of each
channel: our socket, yours, who binds, the endpoint's name, the frames. Payloads refer to the JSON
Schema files beside it.
"""

from typing import Any

from voicebus.bus import reference
from voicebus.bus.messages import commands, events
from voicebus.bus.messages.base import PROTOCOL_VERSION
from voicebus.bus.planes import PLANES, Plane, key_of

PARAMETERS = {
    "session_id": "s<shard>-<26 lower-case characters>: its sockets follow from it",
    "kind": "the kind of event, such as user_transcript",
    "what": "interrupt, call or close; on the system lane: state, refused, process, …",
    "provider_type": "the provider's own name of the frame",
    "role": "session, transport, dispatcher, toolhost, relay, health, …",
    "instance": "which one of several, from 0",
    "subscription": "the very string subscribed",
    "client": "the name of your key at the relay",
}


def document() -> dict[str, Any]:
    """The whole document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "The Voicebus bus",
            "version": f"{PROTOCOL_VERSION}",
            "description": "Realtime voice conversations over ZeroMQ. docs/protocol.md is the "
            "authority; this document is generated from the same types. Every message is "
            "[topic (publishers only), header: one JSON object, payload frames].",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "cell": {
                "host": "localhost",
                "pathname": "/{run}",
                "protocol": "zmq",
                "protocolVersion": "ZMTP 3.x",
                "description": "Unix sockets in the run folder: ipc://<run>/<endpoint>",
                "variables": {"run": {"description": "VOICEBUS_RUN, by default var/run"}},
            },
        },
        "channels": {plane.name: _channel(plane) for plane in PLANES},
        "operations": _operations(),
        "components": {
            "messages": {
                key_of(plane, name): _message(plane, name, index)
                for plane in PLANES
                for index, name in enumerate(plane.messages)
            },
        },
    }


def _channel(plane: Plane) -> dict[str, Any]:
    channel: dict[str, Any] = {
        "address": plane.address,
        "description": plane.why,
        "messages": {
            name: {"$ref": f"#/components/messages/{key_of(plane, name)}"}
            for name in plane.messages
        },
        "x-zmq": {
            "socket": plane.socket,
            "peer": plane.peer,
            "bind": plane.binds,
            "connect": plane.connects,
            "endpoint": plane.endpoint,
            "frames": list(plane.frames),
        },
    }
    names = [name for name in PARAMETERS if f"{{{name}}}" in (plane.address or "")]
    if names:
        channel["parameters"] = {name: {"description": PARAMETERS[name]} for name in names}
    return channel


def _operations() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for plane in PLANES:
        operation: dict[str, Any] = {
            "action": plane.does,
            "channel": {"$ref": f"#/channels/{plane.name}"},
        }
        if plane.name == "commands":
            operation["reply"] = {"channel": {"$ref": "#/channels/replies"}}
        if plane.name != "replies":
            found[plane.name] = operation
    return found


def _message(plane: Plane, name: str, index: int) -> dict[str, Any]:
    of = plane.messages[name]
    lines = reference.says(of).split("\n\n")
    return {
        "name": name,
        "title": of.__name__,
        "summary": " ".join(lines[0].split()),
        "contentType": "application/json",
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": {"$ref": _place(plane, of, index)},
        },
    }


def _place(plane: Plane, of: type, index: int) -> str:
    """Where its schema is: of events and commands, with the header around it."""
    if plane.messages is events.EVENTS or plane.messages is commands.COMMANDS:
        return f"{plane.file}#/oneOf/{index}"
    return f"{plane.file}#/$defs/{of.__name__}"
