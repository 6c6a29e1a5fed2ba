"""Who may connect: the path, the key in header or subprotocol, the model of the query."""

import http
import json
import secrets
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.typing import Subprotocol

from voicebus.services.simulator.shapes import Refused

PATH = "/v1/realtime"
KEY_SUBPROTOCOL = "openai-insecure-api-key."
"""How a browser, which cannot set headers, hands over its key."""
TRANSCRIPTION = "transcription"


def refusal(path: str, headers: Headers, key: str | None) -> Response | None:
    """The HTTP answer for those who may not connect; None for those who may.

    Without a key of ours any key is good, but not the lack of one.
    """
    if path.rstrip("/") != PATH:
        return refused(404, "invalid_url", f"Invalid URL (GET {path})")
    given = _key(headers)
    if given is None:
        return refused(
            401, None, "Missing bearer authentication in header: 'Authorization: Bearer KEY'."
        )
    if key is not None and not secrets.compare_digest(given.encode(), key.encode()):
        return refused(401, "invalid_api_key", "Incorrect API key provided.")
    if "OpenAI-Beta" in headers and "realtime=v1" in headers["OpenAI-Beta"]:
        return refused(
            400,
            "beta_api_shape_disabled",
            "The Realtime Beta API is no longer supported. Remove the OpenAI-Beta header.",
        )
    return None


def refused(status: int, code: str | None, message: str) -> Response:
    """An HTTP answer with the error in a JSON body."""
    error = {"type": "invalid_request_error", "code": code, "message": message, "param": None}
    body = json.dumps({"error": error}).encode()
    headers = Headers(
        {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
    )
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Refused"
    return Response(status, phrase, headers, body)


def subprotocol(offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """`realtime` or nothing: never the one that holds the key."""
    return Subprotocol("realtime") if "realtime" in offered else None


def bad_query(query: Mapping[str, Sequence[str]], models: Sequence[str]) -> Refused | None:
    """What is wrong with the URL's query; the client is told in an `error`, then hung up."""
    model = query.get("model", [None])[0]
    if query.get("intent") == [TRANSCRIPTION]:
        if model is not None:
            return Refused(
                "invalid_model",
                "You must not provide a model parameter for transcription sessions.",
            )
        return None
    if model is None:
        return Refused("missing_model", "You must provide a model parameter.")
    if not any(fnmatchcase(model, pattern) for pattern in models):
        return Refused(
            "model_not_found",
            f"The model `{model}` does not exist or you do not have access to it.",
        )
    return None


def _key(headers: Headers) -> str | None:
    for value in headers.get_all("Authorization"):
        scheme, _, key = value.partition(" ")
        if scheme.lower() == "bearer" and key.strip():
            return key.strip()
    for value in headers.get_all("Sec-WebSocket-Protocol"):
        for offered in value.split(","):
            if offered.strip().startswith(KEY_SUBPROTOCOL):
                return offered.strip()[len(KEY_SUBPROTOCOL) :]
    return None
